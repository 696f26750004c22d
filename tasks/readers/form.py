"""A web form: somebody wrote to the firm from its site. It means what a mail with the same words means.

Known fields become those of a mail, by the names that forms usually give them; the others follow the
text, a line each, and come along as `form_<name>`.
"""

import re
from collections.abc import Mapping, Sequence
from email.utils import parseaddr
from typing import Any
from urllib.parse import parse_qsl

from sopengine import inbox
from sopengine.errors import DataError
from tasks import mail_in
from tasks.events import Event
from tasks.readers import Reader, Received, media_type, readers

MOST_FIELDS = 100
DEEPEST = 3  # the form, its fields, and the files of a field
_URLENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_JSON = "application/json"
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "email": ("email", "e_mail", "mail", "email_address", "your_email"),
    "name": ("name", "full_name", "your_name", "customer_name"),
    "first": ("first_name", "firstname"),
    "last": ("last_name", "lastname", "surname"),
    "phone": ("phone", "tel", "telephone", "phone_number", "mobile"),
    "subject": ("subject", "topic", "your_subject"),
    "text": ("message", "text", "comments", "comment", "body", "details", "your_message"),
}
_ALL_KNOWN = frozenset(name for names in _KNOWN.values() for name in names)


@readers.register("form")
class Form(Reader):
    """The fields of one form, as a browser or a site's server sends them."""

    takes = frozenset({_URLENCODED, _MULTIPART, _JSON})

    def look(self, raw: bytes, kind: str) -> str:
        """Refuse what has no fields; a form has no id, so that what is sent twice comes once."""
        fields_of(raw, kind)
        return ""

    def read(self, received: Received) -> Sequence[Event]:
        """Return what the form means."""
        try:
            fields = fields_of(received.body, received.kind)
        except ValueError as error:
            raise DataError(f"the form cannot be read: {error}", code="bad_form") from None
        with mail_in.within_depth():
            mail = _mail(fields)
        return mail_in.events_of(mail, received.source, received.external_id)


def _mail(fields: Mapping[str, str]) -> mail_in.Incoming:
    told = {
        known: next((fields[name] for name in names if fields.get(name)), "")
        for known, names in _KNOWN.items()
    }
    sender = parseaddr(told["email"])[1]
    if "@" not in sender and not told["phone"]:
        raise DataError("the form has neither a mail address nor a phone number", code="no_sender")
    others = {name: value for name, value in fields.items() if name not in _ALL_KNOWN and value}
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in others.items()]
    return mail_in.Incoming(
        sender=mail_in.line(sender) if "@" in sender else "",
        name=mail_in.line(told["name"] or f"{told['first']} {told['last']}"),
        subject=mail_in.line(told["subject"]),
        body=mail_in.text_of("\n".join([told["text"], *lines])),
        phone=mail_in.line(told["phone"]),
        more={f"form_{name}": mail_in.line(value) for name, value in others.items()},
    )


def fields_of(raw: bytes, kind: str) -> dict[str, str]:
    """Return the fields by their names in lower case, the values of one name joined; ValueError if none."""
    media = media_type(kind)
    pairs = {_URLENCODED: _urlencoded, _MULTIPART: _multipart, _JSON: _json}[media](raw, kind)
    fields: dict[str, str] = {}
    for name, value in pairs:
        key = re.sub(r"[^a-z0-9]+", "_", name.strip().removesuffix("[]").lower()).strip("_")[:60]
        if key:
            fields[key] = f"{fields[key]}, {value}" if key in fields else value
    if not fields:
        raise ValueError("it has no fields")
    return fields


def _urlencoded(raw: bytes, kind: str) -> list[tuple[str, str]]:
    return parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)


def _json(raw: bytes, kind: str) -> list[tuple[str, str]]:
    value: Any = inbox.read_json(raw)
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    if len(value) > MOST_FIELDS:
        raise ValueError("it has too many fields")
    return [(name, str(one)) for name, one in value.items() if isinstance(one, str | int | float)]


def _multipart(raw: bytes, kind: str) -> list[tuple[str, str]]:
    """Return the texts; files are left out."""
    head = b"Content-Type: " + kind.encode("latin-1", "replace") + b"\r\n\r\n"
    try:
        message = mail_in.message_of(head + raw, DEEPEST)
    except DataError:
        raise ValueError("it is nested too deeply") from None
    parts = message.get_payload() if message.is_multipart() else []
    found = []
    for part in list(parts)[:MOST_FIELDS]:
        if not hasattr(part, "get_param") or part.get_filename():
            continue
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            found.append((name, payload.decode("utf-8", "replace")))
    return found
