"""Phone numbers in one form, E.164, so that "(612) 555-0002" and "+16125550002" are the same number."""

import re
from typing import Any

import phonenumbers
from django.conf import settings
from phonenumbers import PhoneNumber, PhoneNumberFormat, ValidationResult

# What may follow a number: an extension, as people and as we write it.
_EXTENSION = re.compile(r"\s*(?:;ext=|,?\s*(?:x|ext\.?|extension|#))\s*\d{1,7}\s*$", re.IGNORECASE)


LONGEST = 40  # characters of a number with its extension


def e164(text: Any) -> str:
    """Return the number as "+16125550002", or "" when the text is no whole phone number.

    A number without its country is one of settings.PHONE_REGION. An extension stays, as ";ext=5": behind
    one number there may be many people.
    """
    number = _read(text)
    if number is None:
        return ""
    whole = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    return f"{whole};ext={number.extension}" if number.extension else whole


def spellings(text: str) -> list[str]:
    """Return the text and, when it is a phone number, the other ways in which a CRM may have stored it.

    These are E.164, the digits without the country, the form that is usual in the country, and its groups of
    digits with hyphens between them, as in 612-555-0002.
    """
    text = text.strip()
    number = _read(text)
    if number is None:
        return [text]
    usual = _EXTENSION.sub("", phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL))
    forms = [
        text,
        phonenumbers.format_number(number, PhoneNumberFormat.E164),
        phonenumbers.national_significant_number(number),
        usual,
        "-".join(re.findall(r"\d+", usual)),
    ]
    return list(dict.fromkeys(forms))


def _read(text: Any) -> PhoneNumber | None:
    """Return the number that the whole text is; letters, which some dial as digits, make it none."""
    if not isinstance(text, str) or len(text) > LONGEST:
        return None
    if any(letter.isalpha() for letter in _EXTENSION.sub("", text)):
        return None
    try:
        number = phonenumbers.parse(text, settings.PHONE_REGION)
    except phonenumbers.NumberParseException:
        return None
    whole = phonenumbers.is_possible_number_with_reason(number) == ValidationResult.IS_POSSIBLE
    return number if whole else None
