"""What a CRM holds, in our words: frozen records, the same for every provider."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing in the CRM. `id` is the one we use, `crm_ref` the provider's own.

    `source_ts` is when the provider last changed it, if it says so. `diagnostics` are short remarks
    of the mapping, field names only: "absent: phone".
    """

    word: ClassVar[str] = "record"

    id: str
    crm_ref: str
    source_provider: str
    source_ts: datetime | None = None
    diagnostics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer(Record):
    """A person or household we serve. `status`: past, active, lead or cold."""

    word: ClassVar[str] = "customer"

    name: str
    status: str
    email: str | None = None
    phone: str | None = None
    address: str | None = None
    city: str | None = None
    state: str | None = None
    zip: str | None = None
    services: tuple[str, ...] = ()
    last_service_date: date | None = None
    notes: str | None = None
    source: str | None = None
    created_at: datetime | None = None
    signed_seasons: tuple[int, ...] = ()
    do_not_contact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice(Record):
    """Money a customer owes or has paid."""

    word: ClassVar[str] = "invoice"

    number: str
    customer_id: str
    amount_due: Decimal
    currency: str
    due_date: date
    status: str
    paid_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote(Record):
    """An offer to a customer, in one of its versions."""

    word: ClassVar[str] = "quote"

    number: str
    customer_id: str
    version: int
    status: str
    total: Decimal
    currency: str
    sent_at: datetime | None = None
    responded_at: datetime | None = None
    valid_until: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal(Record):
    """A sale that may come about."""

    word: ClassVar[str] = "deal"

    name: str
    stage: str
    account_id: str | None = None
    customer_id: str | None = None
    amount: Decimal | None = None
    currency: str | None = None
    close_date: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account(Record):
    """A firm that we deal with."""

    word: ClassVar[str] = "account"

    name: str
    domain: str | None = None
    segment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact(Record):
    """A person at an account."""

    word: ClassVar[str] = "contact"

    name: str
    email: str | None = None
    phone: str | None = None
    account_id: str | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Record):
    """A remark on a customer."""

    word: ClassVar[str] = "note"

    customer_id: str
    text: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity(Record):
    """Something that was done with or for a customer: a call, a visit, a mail."""

    word: ClassVar[str] = "activity"

    customer_id: str
    kind: str
    text: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Appointment(Record):
    """A time agreed with a customer."""

    word: ClassVar[str] = "appointment"

    customer_id: str
    start: datetime
    end: datetime
    type: str
    status: str


ENTITIES: Mapping[str, type[Record]] = {
    "customers": Customer,
    "invoices": Invoice,
    "quotes": Quote,
    "deals": Deal,
    "accounts": Account,
    "contacts": Contact,
    "notes": Note,
    "activities": Activity,
    "appointments": Appointment,
}
ENTITY_OF: Mapping[type[Record], str] = {record: entity for entity, record in ENTITIES.items()}


def plain(record: Record) -> dict[str, Any]:
    """Return the record as JSON-safe values: dates as ISO text, money as decimal text."""
    return {item.name: plain_value(getattr(record, item.name)) for item in fields(record)}


def plain_value(value: Any) -> Any:
    """Return one value of a record as it stands in JSON."""
    if isinstance(value, date):  # a datetime is a date too
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
