"""What a mail is about, asked of the CRM once more just before the mail leaves."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from crm.records import Record, plain
from tasks.outcome import Aside, Branch, DataError, Outdated, StepRun

_CODE = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_CURRENCY = re.compile(r"[A-Z]{3}")
AMOUNT = "amount_due"


class Still(BaseModel):
    """The records that a mail is about, and what must still be so when it leaves.

    `same` has what was approved: one value for all records, or a list in the order of `ids`. A record
    is settled when one of the fields in `unless` has one of its values (true: is set), when one of those
    in `only` has another than its values, or when it is gone. When all are settled the run ends with
    `result`; when some are, or something is not the same, the draft is out of date and the run begins
    again at `back_to`. `collects` counts what settled records owed as collected.
    """

    model_config = ConfigDict(extra="forbid")

    entity: Literal["invoices", "quotes", "appointments", "customers", "deals"]
    ids: list[str] = Field(min_length=1)
    same: dict[str, Any] = {}
    unless: dict[str, Any] = {}
    only: dict[str, list[str]] = {}
    result: str = ""
    collects: bool = False
    back_to: Aside | None = None


def ended(step: StepRun, still: Still) -> Branch | None:
    """Return how the run ends when all it writes about is settled, or None when all is as approved.

    Raises Outdated when something has changed since.
    """
    records = [getattr(step.crm, still.entity).find(id_, fresh=True) for id_ in still.ids]
    settled = [_settled(record, still) for record in records]
    if all(word is not None for word in settled):
        word = still.result or next(filter(None, settled), "")
        values = {"collected": _collected(still, records, settled)} if still.collects else {}
        return Branch(
            "complete", result=word if _CODE.fullmatch(word) else "settled", why="settled", values=values
        )
    if any(word is not None for word in settled) or not _is_same(records, still):
        raise Outdated(
            "What the mail is about is no longer as it was approved.",
            code="subject_changed",
            back_to=still.back_to or "",
        )
    return None


def _settled(record: Record | None, still: Still) -> str | None:
    """Return the value by which a record is settled, "" for one that is gone, None for an open one."""
    if record is None:
        return ""
    values = plain(record)
    for name, wanted in still.unless.items():
        value = _value(values, name)
        if wanted is True:
            if value not in (None, "", [], False):
                return name
        elif any(_equal(value, one) for one in (wanted if isinstance(wanted, list) else [wanted])):
            return str(value)
    told = {name: _value(values, name) for name in still.only}
    return next((str(value) for name, value in told.items() if value not in still.only[name]), None)


def _is_same(records: Sequence[Record | None], still: Still) -> bool:
    return all(
        record is not None and _equal(_value(plain(record), name), approved[place])
        for name, given in still.same.items()
        for approved in [_each(name, given, still)]
        for place, record in enumerate(records)
    )


def _each(name: str, given: Any, still: Still) -> Sequence[Any]:
    """Return the approved value of each record."""
    if not isinstance(given, list):
        return [given] * len(still.ids)
    if len(given) != len(still.ids):
        raise DataError(f"still.same.{name} has another number of values than still.ids.")
    return given


def _value(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise DataError(f"The records have no field {name!r}.")
    return values[name]


def _equal(stored: Any, wanted: Any) -> bool:
    """Return whether both say the same: amounts as numbers, everything else as text."""
    first, second = _number(stored), _number(wanted)
    if first is not None and second is not None:
        return first == second
    return ("" if stored is None else str(stored)) == ("" if wanted is None else str(wanted))


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _collected(
    still: Still, records: Sequence[Record | None], settled: Sequence[str | None]
) -> dict[str, str]:
    """Return what the records that are settled and not gone owed when the mail was approved, by currency."""
    owed = _each(AMOUNT, still.same.get(AMOUNT, 0), still)
    sums: dict[str, Decimal] = {}
    for amount, record, word in zip(owed, records, settled, strict=True):
        if record is not None and word:
            currency = currency_of(record)
            sums[currency] = sums.get(currency, Decimal()) + (_number(amount) or Decimal())
    return {currency: str(amount) for currency, amount in sums.items()}


def currency_of(record: Record) -> str:
    """Return the ISO code of the record's currency; "" where it has none, as what is kept must be a code."""
    code = str(getattr(record, "currency", "")).upper()
    return code if _CURRENCY.fullmatch(code) else ""
