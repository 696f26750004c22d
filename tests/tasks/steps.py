"""Steps for the tests of handlers: no database, a CRM of records in a list, a clock that stands."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from crm.filters import matches
from crm.provider import Connection, Page, Provider
from crm.records import Customer, Invoice, Note, Quote, Record
from crm.service import CrmService
from sopengine.errors import Permanent
from tasks.outcome import Handler, Outcome, StepRun, handlers

TASK = UUID("11111111-2222-3333-4444-555555555555")
NOW = datetime(2027, 2, 15, 15, 0, tzinfo=UTC)


@dataclass
class Patience:
    """A deadline that a test decides."""

    seconds: float = 30.0
    error: Exception | None = None

    def remaining(self) -> float:
        """Return what the test said."""
        return self.seconds

    def check(self) -> None:
        """Raise what the test said."""
        if self.error:
            raise self.error


@dataclass
class ListedCrm(Provider):
    """A CRM of records in a list, in pages of `per_page`; `ignores` are filters that it drops in silence."""

    records: list[Record] = field(default_factory=list)
    per_page: int = 100
    ignores: frozenset[str] = frozenset()
    listed: list[tuple[str, Mapping[str, Any], str]] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    written: list[tuple[str, str, Mapping[str, Any], str]] = field(default_factory=list)
    name = "listed"
    idempotency = 24.0

    def __post_init__(self) -> None:
        super().__init__(Connection())

    def page(self, entity: str, filters: Mapping[str, Any], cursor: str = "") -> Page[Any]:
        """Return one page; the cursor is where it begins."""
        self.listed.append((entity, dict(filters), cursor))
        kind = {"customers": Customer, "invoices": Invoice, "quotes": Quote, "notes": Note}[entity]
        asked = {name: value for name, value in filters.items() if name not in self.ignores}
        rows = [record for record in self.records if type(record) is kind and matches(record, asked)]
        start = int(cursor or 0)
        end = start + self.per_page
        return Page(tuple(rows[start:end]), str(end) if end < len(rows) else "")

    def find(self, entity: str, record_id: str) -> Any:
        """Return the record, or None."""
        return next((record for record in self.records if record.id == record_id), None)

    def search(self, entity: str, text: str, cursor: str = "") -> Page[Any]:
        """Return the customers of whom a field contains this text, all on one page."""
        people = [record for record in self.records if isinstance(record, Customer)]
        return Page(tuple(one for one in people if _is_in(text, one.name, one.email, one.phone)))

    def create(self, entity: str, attributes: Mapping[str, Any], key: str) -> Any:
        """Create once per key."""
        if key not in self.keys:
            self.written.append(("create", entity, dict(attributes), key))
            self.keys[key] = record_of(entity, f"{entity}-{len(self.records)}", attributes)
            self.records.append(self.keys[key])
        return self.keys[key]

    def update(self, entity: str, record_id: str, attributes: Mapping[str, Any], key: str) -> Any:
        """Note the update; an unknown record is refused."""
        record = self.find(entity, record_id)
        if record is None:
            raise Permanent("no such record", code="not_found")
        self.written.append(("update", entity, {"id": record_id, **attributes}, key))
        return record


def record_of(entity: str, record_id: str, attributes: Mapping[str, Any]) -> Record:
    """Return a record that was just created."""
    source = {"id": record_id, "crm_ref": record_id, "source_provider": "listed"}
    if entity == "notes":
        return Note(**source, **attributes)
    return Customer(**source, **{"status": "lead", **attributes})


def customer(number: int, **fields: Any) -> Customer:
    """Return a customer who was here last year."""
    usual: dict[str, Any] = {
        "name": f"Customer {number}",
        "email": f"c{number}@example.test",
        "city": "Minneapolis",
        "services": ("fertilizer",),
        "status": "past",
        "last_service_date": date(2026, 9, 1),
        "signed_seasons": (2026,),
    }
    id_ = f"cus_{number}"
    return Customer(**{"id": id_, "crm_ref": id_, "source_provider": "listed", **usual, **fields})


def invoice(number: int, customer_id: str, **fields: Any) -> Invoice:
    """Return an open invoice."""
    usual: dict[str, Any] = {
        "number": f"2027-{number}",
        "amount_due": Decimal("90.50"),
        "currency": "USD",
        "due_date": date(2027, 1, 15),
        "status": "open",
    }
    id_ = f"inv_{number}"
    return Invoice(
        **{
            "id": id_,
            "crm_ref": id_,
            "source_provider": "listed",
            "customer_id": customer_id,
            **usual,
            **fields,
        }
    )


def step_run(
    records: Iterable[Record] = (),
    *,
    crm: ListedCrm | None = None,
    context: Mapping[str, Any] | None = None,
    **fields: Any,
) -> StepRun:
    """Return a step whose CRM has these records."""
    provider = crm or ListedCrm(list(records))
    usual: dict[str, Any] = {"sop": "try", "step": "this", "visit": 1, "channel": "#office", "now": NOW}
    return StepRun(
        **{
            "task_id": TASK,
            "context": dict(context or {}),
            "crm": CrmService(provider, guarded=False),
            "deadline": Patience(),
            **usual,
            **fields,
        }
    )


def run(name: str, step: StepRun, /, **params: Any) -> Outcome:
    """Run a handler as the engine does: its parameters checked by its own schema."""
    known = handlers.get(name)
    return known.run(step, **checked(known, params))


def look(name: str, step: StepRun, **params: Any) -> Outcome | None:
    """Ask a handler whether it was done before."""
    known = handlers.get(name)
    assert known.look is not None
    return known.look(step, **checked(known, params))


def checked(known: Handler, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as the handler gets them."""
    model = known.params.model_validate(dict(params))
    return {field_name: getattr(model, field_name) for field_name in known.params.model_fields}


def _is_in(text: str, *fields: str | None) -> bool:
    return any(text.casefold() in (field or "").casefold() for field in fields)
