"""What may stand in a header of a request."""

import re

MAX_HEADER = 8_000  # characters of one value
_SPARE = 100  # for what stands before a secret in its header, such as "Bearer"
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")


def is_header_value(text: str) -> bool:
    """Say whether the text can be a header's value: printable ASCII, not blank, and not too long."""
    return len(text) <= MAX_HEADER and _VALUE.fullmatch(text) is not None


def fits_header(secret: str) -> bool:
    """Say whether a secret can go into a header, behind the word that names it."""
    return len(secret) <= MAX_HEADER - _SPARE and is_header_value(secret)
