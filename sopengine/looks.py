"""What shows a customer on sight: a mail address, a phone number. Neither stands in a log or an event."""

import re

_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_PHONE = re.compile(r"\+?[\d\s().-]{7,20}")
_FEWEST_DIGITS = 7
_WORD = re.compile(r"[A-Za-z0-9._:=/-]+")
_PHONE_INSIDE = re.compile(r"(?<!\d)(?:1[.-]?)?[2-9]\d{2}[.-]?\d{3}[.-]?\d{4}(?!\d)")


def is_mail(text: str) -> bool:
    """Say whether a mail address stands in the text."""
    return _MAIL.search(text) is not None


def is_phone(text: str) -> bool:
    """Say whether the text is a phone number: it has separators or a plus.

    Bare digits are an id, and a date is a date.
    """
    if text.isdigit() or _DATE.match(text):
        return False
    return bool(_PHONE.fullmatch(text)) and sum(c.isdigit() for c in text) >= _FEWEST_DIGITS


def readable(record_id: str) -> str:
    """Return an id as it may be written down: "…" where it would show a customer."""
    return "…" if is_mail(record_id) or is_phone(record_id) else record_id


def is_open_id(text: str) -> bool:
    """Say whether a text is a code: one word in which no mail address and no phone number stands.

    Ten or eleven bare digits might be a number that somebody is called by.
    """
    return bool(_WORD.fullmatch(text)) and not is_phone(text) and not _PHONE_INSIDE.search(text)
