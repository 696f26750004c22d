"""The filters of a listing: their names, their types, and what each one means.

A filter is never dropped in silence: a listing without its filter would reach every customer.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from crm.records import ENTITY_OF, Record
from sopengine.errors import DataError, Unsupported

CUSTOMER_STATUSES = ("past", "active", "lead", "cold")


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: `read` makes its typed value or raises ValueError, `holds` asks a record."""

    read: Callable[[Any], Any]
    holds: Callable[[Any, Any], bool]
    expects: str


def read_filters(entity: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters of `entity` with typed values; reading its own result changes nothing.

    Raises Unsupported for a name that is no filter of this entity and DataError for a value that is
    empty or ill-typed.
    """
    known = FILTERS.get(entity, {})
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise Unsupported(f"{entity} have no filter {name!r}; there are: {names}")
        try:
            values[name] = known[name].read(value)
        except (TypeError, ValueError):
            raise DataError(f"filter {name!r} of {entity} must be {known[name].expects}") from None
    return values


def matches(record: Record, filters: Mapping[str, Any]) -> bool:
    """Say whether the record satisfies every filter; Unsupported where the CRM does not say enough of it."""
    entity = ENTITY_OF[type(record)]
    known = FILTERS.get(entity, {})
    return all(known[name].holds(record, value) for name, value in read_filters(entity, filters).items())


# -- values --------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value.strip()


def _texts(value: Any) -> tuple[str, ...]:
    parts: Iterable[Any] = value.split(",") if isinstance(value, str) else value
    words = tuple(_text(part) for part in parts)
    if not words:
        raise ValueError
    return words


def _statuses(value: Any) -> tuple[str, ...]:
    words = _texts(value)
    if not set(words) <= set(CUSTOMER_STATUSES):
        raise ValueError
    return words


def _year(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    year = int(value)
    if not 1900 <= year <= 2999:
        raise ValueError
    return year


def _day(value: Any) -> date:
    if isinstance(value, datetime):
        return value.date()
    return value if isinstance(value, date) else date.fromisoformat(_text(value)[:10])


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str):
        moment = datetime.fromisoformat(_text(value))
    else:
        moment = datetime.combine(_day(value), time())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _not_signed(customer: Any, year: int) -> bool:
    """A CRM that says nothing of seasons would let everybody pass, those who have signed too."""
    if "absent: signed_seasons" in customer.diagnostics:
        raise Unsupported(f"{customer.source_provider} does not say who has signed for which season")
    return year not in customer.signed_seasons


# -- the filters ---------------------------------------------------------------------------------

_SOME_STATUS = Filter(_texts, lambda record, words: record.status in words, "one or more status words")
_CUSTOMER_ID = Filter(_text, lambda record, id_: record.customer_id == id_, "a customer's id")

_ACCOUNT_ID = Filter(_text, lambda record, id_: record.account_id == id_, "an account's id")

FILTERS: Mapping[str, Mapping[str, Filter]] = {
    "customers": {
        "status": Filter(
            _statuses,
            lambda customer, words: customer.status in words,
            f"one or more of {', '.join(CUSTOMER_STATUSES)}",
        ),
        "services": Filter(
            _texts,
            lambda customer, words: any(word in customer.services for word in words),
            "one or more services; a customer with any of them matches",
        ),
        "not_signed_for_season": Filter(_year, _not_signed, "a year"),
        "last_service_before": Filter(
            _day,
            lambda customer, day: bool(customer.last_service_date and customer.last_service_date < day),
            "a date such as 2026-02-15",
        ),
        "city": Filter(
            _text,
            lambda customer, city: (customer.city or "").casefold() == city.casefold(),
            "the name of a city",
        ),
    },
    "invoices": {
        "status": _SOME_STATUS,
        "customer_id": _CUSTOMER_ID,
        "due_before": Filter(_day, lambda invoice, day: invoice.due_date < day, "a date such as 2026-02-15"),
    },
    "quotes": {"status": _SOME_STATUS, "customer_id": _CUSTOMER_ID},
    "deals": {
        "stage": Filter(_texts, lambda deal, words: deal.stage in words, "one or more stages"),
        "customer_id": _CUSTOMER_ID,
        "account_id": _ACCOUNT_ID,
    },
    "accounts": {
        "segment": Filter(_texts, lambda account, words: account.segment in words, "one or more segments")
    },
    "contacts": {"account_id": _ACCOUNT_ID},
    "notes": {"customer_id": _CUSTOMER_ID},
    "activities": {
        "customer_id": _CUSTOMER_ID,
        "kind": Filter(_texts, lambda activity, words: activity.kind in words, "one or more kinds"),
    },
    "appointments": {
        "from": Filter(_moment, lambda item, moment: item.start >= moment, "a time such as 2026-02-15T09:00"),
        "to": Filter(_moment, lambda item, moment: item.start < moment, "a time such as 2026-02-15T09:00"),
    },
}
