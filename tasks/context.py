"""The values of a run: one dict to its reader, an open and a sealed part in its row.

Open: ids, counts, flags, times, codes. Sealed: everything else, and always what begins with
`customer_`. The sealed part is gone with the end of the run.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from credentials import vault
from sopengine.errors import DataError

TABLE = "tasks_task"
CUSTOMER_ID = "crm_customer_id"
LARGEST = 256 * 1024  # bytes of JSON that the values of one run may take

Values = dict[str, Any]

_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}")
_BARE_PHONE = re.compile(r"\d{10,11}")
_AMOUNT = re.compile(r"-?\d{1,12}\.\d{1,2}")
_PHONE = re.compile(r"\+?[\d\s().-]{7,20}")


def seal(task_id: str, values: Values) -> str | None:
    """Return the sealed text of `values`, or None where there are none."""
    return vault.seal(values, table=TABLE, row=task_id, field="sealed") if values else None


def unseal(task_id: str, text: str | None) -> Values:
    """Return the values in the sealed text of this task."""
    if not text:
        return {}
    values: Values = vault.unseal(text, table=TABLE, row=task_id, field="sealed")
    return values


def merge(plain: Mapping[str, Any], sealed: Mapping[str, Any]) -> Values:
    """Return both parts as one dict; a step's result may have fields in each."""
    values = dict(plain)
    for name, value in sealed.items():
        present = values.get(name)
        if isinstance(value, dict) and isinstance(present, dict):
            values[name] = {**present, **value}
        else:
            values[name] = value
    return values


def put_result(
    plain: Values, sealed: Values, step: str, values: Mapping[str, Any], open_fields: frozenset[str]
) -> None:
    """Put a step's result into the two parts: `customer_` values on top, the rest under its key."""
    for part in (plain, sealed):
        part.pop(step, None)
    for name, value in values.items():
        if name.startswith("customer_"):
            sealed[name] = value
        elif name == CUSTOMER_ID:
            plain[name] = checked_open(name, value)
        elif name in open_fields:
            plain.setdefault(step, {})[name] = checked_open(f"{step}.{name}", value)
        else:
            sealed.setdefault(step, {})[name] = value


def split_inputs(inputs: Mapping[str, Any]) -> tuple[Values, Values]:
    """Return a run's inputs as (open, sealed): numbers, flags, moments and ids are open."""
    plain: Values = {}
    sealed: Values = {}
    for name, value in inputs.items():
        readable = name == CUSTOMER_ID or value is None or isinstance(value, bool | int | float)
        readable = readable or (isinstance(value, str) and bool(_MOMENT.fullmatch(value)))
        if (readable and not name.startswith("customer_")) or is_open_id(name, value):
            plain[name] = checked_open(name, value)
        else:
            sealed[name] = value
    return plain, sealed


def is_open_id(name: str, value: Any) -> bool:
    """Whether this is an id by its name (`quote_id`) and by its looks: one word of digits, letters, . _ : -.

    What might be a mail address or a phone number, ten or eleven bare digits included, is none.
    """
    if not name.endswith("_id") or name.startswith("customer_") or isinstance(value, bool):
        return False
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or not _ID.fullmatch(value) or _is_phone(value):
        return False
    return name == CUSTOMER_ID or not _BARE_PHONE.fullmatch(value)


def checked_open(name: str, value: Any) -> Any:
    """Return `value`, or raise DataError when it looks like a mail address or a phone number."""
    if isinstance(value, str) and (_MAIL.search(value) or _is_phone(value)):
        raise DataError(f"{name} would be kept readable, but looks like a mail address or phone number")
    return value


def _is_phone(text: str) -> bool:
    """A phone number has separators or a plus; bare digits are an id, a date is a date, an amount one."""
    if text.isdigit() or _DATE.match(text) or _AMOUNT.fullmatch(text):
        return False
    return bool(_PHONE.fullmatch(text)) and sum(c.isdigit() for c in text) >= 7


def check(values: Any, what: str) -> None:
    """Raise DataError unless `values` can be stored: JSON, not too large, no character a database refuses."""
    try:
        text = json.dumps(values, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{what} cannot be stored as JSON: {type(error).__name__}") from None
    if len(text) > LARGEST:
        raise DataError(f"{what} takes {len(text):,} bytes; at most {LARGEST:,} are kept")
    if "\\u0000" in text or "\\ud8" in text or "\\udc" in text:
        _check_characters(values, what)


def _check_characters(value: Any, what: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_characters(name, what)
            _check_characters(inner, what)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_characters(inner, what)
    elif isinstance(value, str) and ("\x00" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        raise DataError(f"{what} has a character that cannot be stored (NUL or half a surrogate pair)")
