"""Steps that read and write the CRM."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

from pydantic import BaseModel

from crm import phones
from crm.provider import MAX_PAGES
from crm.records import Customer, Record, plain
from tasks import templating
from tasks.outcome import (
    Branch,
    Child,
    Continue,
    DataError,
    Done,
    Effect,
    Open,
    Outcome,
    RowTemplate,
    Start,
    StepRun,
    Target,
    Unclear,
    Unsupported,
    handler,
)

CHILDREN_PER_COMMIT = 100
WHOLE_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
CUSTOMER_NAMES = (
    "crm_customer_id",
    "customer_name",
    "customer_email",
    "customer_phone",
    "customer_city",
    "customer_services",
    "customer_last_service",
)
# What anybody can write into a mail: a customer whom the CRM knows keeps it as it is there.
CLAIMED = ("name", "email", "phone")
# What a row tells a template: ids, codes, dates and amounts, nothing that says who a person is.
ROW_FIELDS = {
    "customers": ("id", "status", "services", "signed_seasons", "last_service_date"),
    "invoices": ("id", "number", "customer_id", "amount_due", "currency", "due_date", "status"),
    "quotes": (
        "id",
        "number",
        "customer_id",
        "version",
        "status",
        "total",
        "currency",
        "sent_at",
        "valid_until",
    ),
}
ROW_INPUT = {"invoices": "invoice_id", "quotes": "quote_id"}

Entity = Literal[
    "customers",
    "invoices",
    "quotes",
    "deals",
    "accounts",
    "contacts",
    "notes",
    "activities",
    "appointments",
]


# -- one child per record ----------------------------------------------------------------------


@handler("crm.for_each", crm=True, sets=("children",))
def for_each(
    step: StepRun,
    *,
    sop: str,
    over: Literal["customers", "invoices", "quotes"] = "customers",
    group_by: str = "",
    once_per: RowTemplate = "",
    inputs: dict[str, RowTemplate | int | float | bool | None] | None = None,
    wait: bool = True,
    status: str | list[str] | None = None,
    services: list[str] | None = None,
    city: str | None = None,
    not_signed_for_season: int | None = None,
    last_service_before: date | None = None,
    customer_id: str | None = None,
    due_before: date | None = None,
) -> Outcome:
    """Start one run of another procedure for each record that passes the filters.

    `once_per` names what must never be started twice; without it, once per record in this run.
    Each child gets `crm_customer_id` (and `invoice_id` or `quote_id`) and `inputs`, rendered per row.
    """
    filters = _filters(
        status=status,
        services=services,
        city=city,
        not_signed_for_season=not_signed_for_season,
        last_service_before=last_service_before,
        customer_id=customer_id,
        due_before=due_before,
    )
    place = _Place.read(step.cursor)
    page = getattr(step.crm, over).pages(place.page, **filters)
    _recheck(step, over, page.records, filters)
    rows = page.records[place.skip : place.skip + CHILDREN_PER_COMMIT]
    kept = _plain_filters(filters) if over == "customers" else {}
    listing = _Listing(step, sop, over, group_by, once_per, inputs or {}, dict(step.context), kept)
    children = list({child.key: child for child in map(listing.child, rows)}.values())
    following = place.after(len(page.records), page.next_cursor)
    if following:
        return Continue(following.write(), children)
    return Start(children, wait=wait)


def _filters(**asked: Any) -> dict[str, Any]:
    """Return the filters that were given; an empty one is refused, as it would let everybody pass."""
    for name, value in asked.items():
        if value in ("", []):
            raise DataError(f"The filter {name} is empty. Give it a value or leave it out.")
    return {name: value for name, value in asked.items() if value is not None}


def _plain_filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters as each child keeps them, to be asked again before something is sent."""
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in filters.items()}


def _recheck(step: StepRun, over: str, records: Iterable[Any], filters: Mapping[str, Any]) -> None:
    """Raise DataError when a row does not pass the filters that were asked for."""
    for record in records:
        if not step.crm.matches(record, filters):
            raise DataError(
                f"The CRM listed {over} {record.id}, which does not pass the filters"
                f" {', '.join(sorted(filters))}. Nobody was started.",
                code="filter_ignored",
            )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the listing stands: the provider's cursor of its `number`th page, and how many rows are done."""

    page: str = ""
    skip: int = 0
    number: int = 1

    @classmethod
    def read(cls, cursor: str) -> "_Place":
        return cls(**json.loads(cursor)) if cursor else cls()

    def write(self) -> str:
        return json.dumps(asdict(self))

    def after(self, length: int, next_page: str | None) -> "_Place | None":
        """Return the place after the next hundred rows of a page of `length`, None at the end."""
        if self.skip + CHILDREN_PER_COMMIT < length:
            return _Place(self.page, self.skip + CHILDREN_PER_COMMIT, self.number)
        if next_page and (next_page == self.page or self.number >= MAX_PAGES):
            raise DataError("The pages of the CRM lead in a circle; the listing would never end.")
        return _Place(next_page, number=self.number + 1) if next_page else None


@dataclass(frozen=True, slots=True)
class _Listing:
    """How a row becomes a child."""

    step: StepRun
    sop: str
    over: str
    group_by: str
    once_per: str
    inputs: Mapping[str, Any]
    context: Mapping[str, Any]
    filters: Mapping[str, Any]

    def child(self, record: Any) -> Child:
        """Return the child of a row; the rows of one group have the same child."""
        given = self._given(record)
        names = {**self.context, **given, "row": self._row(record)}
        rendered = templating.render(dict(self.inputs), names)
        return Child(
            sop=self.sop, inputs={**given, **rendered}, key=self._key(record, names), filters=self.filters
        )

    def _given(self, record: Any) -> dict[str, str]:
        customer = record.id if self.over == "customers" else record.customer_id
        if self.group_by:
            return {"crm_customer_id": customer} if self.group_by == "customer_id" else {}
        if self.over == "customers":
            return {"crm_customer_id": customer}
        return {"crm_customer_id": customer, ROW_INPUT[self.over]: record.id}

    def _row(self, record: Record) -> dict[str, Any]:
        """Return what the row tells a template: of a group, only the value that its rows share."""
        known = ROW_FIELDS[self.over]
        if self.group_by and self.group_by not in known:
            raise DataError(f"group_by is no field of {self.over}; it may be one of {', '.join(known)}.")
        values = plain(record)
        return {name: values[name] for name in ((self.group_by,) if self.group_by else known)}

    def _key(self, record: Any, names: Mapping[str, Any]) -> str:
        """Return what makes the child unique: `once_per`, else this run with the group or the record."""
        if not self.once_per:
            unit = names["row"][self.group_by] if self.group_by else record.id
            return f"{self.sop}:{self.step.task_id}:{self.step.step}:{unit}"
        rendered = str(templating.render(self.once_per, names)).strip()
        if not rendered:
            raise DataError("once_per came out empty, so that one run would stand for all.")
        return f"{self.sop}:{rendered}"


# -- reading -----------------------------------------------------------------------------------


class Found(BaseModel):
    """What a run remembers of a customer in clear: nothing that says who it is."""

    found: Open[bool]
    status: Open[str]
    do_not_contact: Open[bool]
    signed_seasons: Open[list[int]]


@handler("crm.find", crm=True, results=Found, sets=CUSTOMER_NAMES)
def find(step: StepRun, *, customer_id: str = "") -> Outcome:
    """Read the customer again from the CRM; without `customer_id`, the one this run is about.

    A customer that the CRM does not have sets the `customer_` names to null, `found` to false
    and, as nobody may be written to, `do_not_contact` to true.
    """
    crm_id = _customer_id(step, customer_id)
    customer = step.crm.find(crm_id)
    return Done(values={**step.crm.customer_fields(customer), "crm_customer_id": crm_id, **_found(customer)})


def _found(customer: Customer | None) -> dict[str, Any]:
    return {
        "found": customer is not None,
        "status": customer.status if customer else "",
        "do_not_contact": customer.do_not_contact if customer else True,
        "signed_seasons": list(customer.signed_seasons) if customer else [],
    }


class Matches(BaseModel):
    """The customers that a search brought: their ids, and `id` when there is exactly one."""

    count: Open[int]
    id: Open[str | None]
    ids: Open[list[str]]


@handler("crm.search", crm=True, results=Matches)
def search(step: StepRun, *, text: str) -> Outcome:
    """Search customers by name, mail, phone or address.

    A whole mail address or phone number finds who has it, not who has one that contains it: what a
    stranger writes must not go into the file of somebody whose address is a little longer.
    """
    if not text.strip():
        raise DataError("There is nothing to search for: text is empty.")
    ids = [customer.id for customer in step.crm.search(text) if _is_meant(customer, text.strip())]
    return Done(values={"count": len(ids), "id": ids[0] if len(ids) == 1 else None, "ids": ids[:25]})


def _is_meant(customer: Customer, text: str) -> bool:
    if WHOLE_ADDRESS.fullmatch(text):
        return (customer.email or "").strip().casefold() == text.casefold()
    number = phones.e164(text)
    return not number or phones.e164(customer.phone) == number


# -- writing -----------------------------------------------------------------------------------


class Written(BaseModel):
    """The record that was written."""

    id: Open[str]


def look_for_created(
    step: StepRun, *, attributes: dict[str, Any], entity: Entity = "customers"
) -> Outcome | None:
    """Return the customer that an earlier try created, known by mail or phone and by name.

    What cannot be told goes to a person: two of them, one of another name, nothing to look by.
    """
    wanted = {name: attributes[name] for name in ("email", "phone") if attributes.get(name)}
    if entity != "customers" or not wanted:
        raise Unsupported(f"Without mail or phone nobody can look up whether this was created in {entity}.")
    found = [
        customer
        for customer in step.crm.search(next(iter(wanted.values())))
        if all(_same(name, getattr(customer, name), value) for name, value in wanted.items())
    ]
    if len(found) > 1:
        raise Unclear("The CRM has more than one customer with this mail or phone.", code="two_found")
    if found and attributes.get("name") and not _same("name", found[0].name, attributes["name"]):
        raise Unclear("The CRM has a customer of another name with this mail or phone.", code="another_name")
    return Done(values={"id": found[0].id}) if found else None


def _same(name: str, stored: str | None, wanted: str) -> bool:
    """Return whether both are the same mail, phone or name, however they are written."""
    if name == "phone":
        return (phones.e164(stored) or stored) == (phones.e164(wanted) or wanted)
    return " ".join((stored or "").lower().split()) == " ".join(wanted.lower().split())


@handler("crm.create", crm=True, effect=Effect.IDEMPOTENT, look=look_for_created, results=Written)
def create(step: StepRun, *, attributes: dict[str, Any], entity: Entity = "customers") -> Outcome:
    """Create a record in the CRM."""
    record = getattr(step.crm, entity).create(attributes, key=step.key("create"))
    return Done(values={"id": record.id})


class Entered(BaseModel):
    """What became of somebody who was to be in the CRM: `was` is new, known or several."""

    was: Open[Literal["new", "known", "several"]]


def look_for_entered(
    step: StepRun,
    *,
    attributes: dict[str, Any],
    new: Target = "next",
    known: Target = "next",
    several: Target = "next",
) -> Outcome | None:
    """Return None: the step looks for the customer itself before it writes, at every try."""
    return None


@handler(
    "crm.upsert",
    crm=True,
    effect=Effect.IDEMPOTENT,
    look=look_for_entered,
    results=Entered,
    sets=CUSTOMER_NAMES,
)
def upsert(
    step: StepRun,
    *,
    attributes: dict[str, Any],
    new: Target = "next",
    known: Target = "next",
    several: Target = "next",
) -> Outcome:
    """Find the customer with this mail or phone, or create one; go on at `new`, `known` or `several`.

    A known customer gets what is new and keeps status and source, and the name, mail and phone that
    the CRM has. When several fit, nothing is written and no customer is set: that is for a person.
    """
    wanted = {name: value for name, value in attributes.items() if value not in (None, "", [])}
    try:
        customer, created = step.crm.get_or_create(
            wanted, key=step.key("upsert"), keep=CLAIMED, since=step.now
        )
    except Unclear:
        return Branch(to=several, values={"was": "several"})
    values = {**step.crm.customer_fields(customer), "was": "new" if created else "known"}
    return Branch(to=new if created else known, values=values)


def look_for_update(
    step: StepRun, *, attributes: dict[str, Any], entity: Entity = "customers", record_id: str = ""
) -> Outcome | None:
    """Return Done when the record already says what the update would write."""
    crm_id = _record_id(step, entity, record_id)
    record = getattr(step.crm, entity).find(crm_id)
    if record is None:
        return None
    now = plain(record)
    same = all(name in now and now[name] == value for name, value in attributes.items())
    return Done(values={"id": crm_id}) if same else None


@handler("crm.update", crm=True, effect=Effect.IDEMPOTENT, look=look_for_update, results=Written)
def update(
    step: StepRun, *, attributes: dict[str, Any], entity: Entity = "customers", record_id: str = ""
) -> Outcome:
    """Change fields of a record in the CRM; without `record_id`, of the customer this run is about."""
    crm_id = _record_id(step, entity, record_id)
    getattr(step.crm, entity).update(crm_id, attributes, key=step.key("update"))
    return Done(values={"id": crm_id})


def look_for_note(step: StepRun, *, text: str, customer_id: str = "") -> Outcome | None:
    """Return the note that an earlier try wrote, known by its reference."""
    reference = _reference(step)
    for note in step.crm.notes.query(customer_id=_customer_id(step, customer_id)):
        if reference in note.text:
            return Done(values={"id": note.id})
    return None


@handler("crm.note", crm=True, effect=Effect.IDEMPOTENT, look=look_for_note, results=Written)
def note(step: StepRun, *, text: str, customer_id: str = "") -> Outcome:
    """Write a note to the customer's file; it ends with a reference by which a repeat would find it."""
    crm_id = _customer_id(step, customer_id)
    written = step.crm.note(crm_id, f"{text} {_reference(step)}", key=step.key("note"))
    return Done(values={"id": written.id})


def _reference(step: StepRun) -> str:
    """Return the mark of this step's note: short, the same at every repeat, and without a secret."""
    return f"[ref {hashlib.sha256(step.key('note').encode()).hexdigest()[:12]}]"


def _customer_id(step: StepRun, given: str) -> str:
    crm_id = given or step.context.get("crm_customer_id")
    if not crm_id:
        raise DataError("No customer: give customer_id, or start the run with crm_customer_id.")
    return str(crm_id)


def _record_id(step: StepRun, entity: str, given: str) -> str:
    if given or entity == "customers":
        return _customer_id(step, given)
    raise DataError(f"Which of the {entity} is meant? Give its record_id.")
