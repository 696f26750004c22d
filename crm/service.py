"""The only way to customer data.

    crm = open_service(deadline)
    for customer in crm.query(status="past", services=["fertilizer"]):
        crm.note(customer.id, "Called, no answer", key=step.key("note"))

One service serves one run of one step: its read cache and its list of calls live no longer. Before each
call it asks `crm.health` whether one may be made (Held, if not), and afterwards tells it what came of it.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from django.conf import settings

from crm import health, newcomers, phones
from crm.access import access_for
from crm.filters import matches
from crm.provider import MAX_PAGES, SEARCH_LIMIT, Connection, Page, Provider, providers
from crm.records import (
    Account,
    Activity,
    Appointment,
    Contact,
    Customer,
    Deal,
    Invoice,
    Note,
    Quote,
    Record,
    plain,
    plain_value,
)
from sopengine.errors import (
    AuthError,
    DataError,
    Outdated,
    Permanent,
    StepError,
    Unclear,
    Unsupported,
)
from sopengine.http import Deadline
from sopengine.looks import readable
from sopengine.registry import UnknownName

log = logging.getLogger("crm")

R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CrmCall:
    """One call, as its event tells it.

    `id` is "…" where it would show a customer. `status`: ok, not_found, replayed (a write that the CRM
    had taken before), or the code of the error.
    """

    operation: str
    entity: str
    id: str
    status: str
    ms: int


class Entity(Generic[R]):
    """The verbs for one kind of record; what the provider cannot do raises Unsupported."""

    def __init__(self, service: "CrmService", name: str) -> None:
        self._service = service
        self._provider = service.provider
        self.name = name

    def query(self, **filters: Any) -> Iterator[R]:
        """Yield the records that match all filters, page by page as they are asked for."""
        for page in self._all(lambda cursor: self.pages(cursor, **filters)):
            yield from page.records

    def pages(self, cursor: str = "", /, **filters: Any) -> Page[R]:
        """Return the page at `cursor` ("" is the first), with the cursor of the next one."""
        return self._service.timed("query", self.name, "", lambda: self._page(cursor, filters))

    def find(self, record_id: str, *, fresh: bool = False) -> R | None:
        """Return the record, or None when the CRM has none; `fresh` goes past the cache."""
        known = (self.name, record_id)
        cache = self._service.cache
        if fresh or known not in cache:
            cache[known] = self._service.timed(
                "find", self.name, record_id, lambda: self._provider.find(self.name, record_id)
            )
        found: R | None = cache[known]
        return found

    def search(self, text: str) -> list[R]:
        """Return the records that fit a name, a mail address or a phone number.

        A phone number is asked for in each way in which it may be stored, one call each: what those
        bring must have this number, in whatever way it is written.
        """
        number = phones.e164(text)
        typed, *others = phones.spellings(text)
        found = {record.id: record for record in self._searched(typed)}
        for other in others:
            for record in self._searched(other):
                if phones.e164(getattr(record, "phone", None)) == number:
                    found.setdefault(record.id, record)
        return list(found.values())

    def create(self, attributes: Mapping[str, Any], *, key: str) -> R:
        """Create a record once per key and return it."""
        return self._service.timed("create", self.name, "", lambda: self._created(attributes, key))

    def update(self, record_id: str, attributes: Mapping[str, Any], *, key: str) -> R:
        """Change the named fields once per key and return the record."""
        self._service.cache.pop((self.name, record_id), None)
        return self._service.timed(
            "update", self.name, record_id, lambda: self._updated(record_id, attributes, key)
        )

    def can(self, verb: str, filters: Mapping[str, Any] | None = None) -> bool:
        """Say whether the provider has this verb (and these filters) for this entity."""
        able = self._provider.can.get(self.name)
        if able is None or verb not in able.verbs:
            return False
        given = set(filters or ())
        return given <= set(able.filters) and (verb != "query" or given >= set(able.needs))

    def _page(self, cursor: str, filters: Mapping[str, Any]) -> Page[R]:
        return self._provider.page(self.name, filters, cursor)

    def _searched(self, text: str) -> list[R]:
        """Return what fits one spelling; more than 1,000 are refused."""
        found: list[R] = []
        for page in self._all(lambda cursor: self._found(text, cursor)):
            found.extend(page.records)
            if len(found) > SEARCH_LIMIT:
                raise self._bad(f"a search in {self.name} found more than {SEARCH_LIMIT}: make it narrower")
        return found

    def _found(self, text: str, cursor: str) -> Page[R]:
        return self._service.timed(
            "search", self.name, "", lambda: self._provider.search(self.name, text, cursor)
        )

    def _all(self, read: Callable[[str], Page[R]]) -> Iterator[Page[R]]:
        """Yield every page; DataError "pages" when they go in a circle, or there are more than 10,000."""
        cursor, seen = "", set[int]()  # hashes: a cursor may be long
        while True:
            page = read(cursor)
            yield page
            seen.add(hash(cursor))
            cursor = page.next_cursor
            if not cursor:
                return
            if hash(cursor) in seen or len(seen) >= MAX_PAGES:
                raise self._bad(f"the pages of {self.name} have no end", code="pages")

    def _bad(self, message: str, code: str | None = None) -> DataError:
        """Return the error of a listing as a whole, which no single call is to blame for."""
        error = DataError(message, code=code)
        error.origin = self._service.service
        return error

    def _created(self, attributes: Mapping[str, Any], key: str) -> R:
        record: R = self._provider.create(self.name, attributes, key)
        return record

    def _updated(self, record_id: str, attributes: Mapping[str, Any], key: str) -> R:
        record: R = self._provider.update(self.name, record_id, attributes, key)
        return record


class CrmService:
    """The CRM as handlers see it: the verbs for customers, and the same ones by entity.

    `guarded` is False for calls that staff make by hand: they go out while the line is held, and
    `crm.health` neither stops them nor hears of them. `notes` gather what calls meant for the line, where
    another thread than the caller's owns the database; without them it is noted at once.
    """

    def __init__(
        self, provider: Provider, *, guarded: bool = True, notes: health.Notes | None = None
    ) -> None:
        self.provider = provider
        self._line = notes or health
        self.service = provider.connection.service
        self.guarded = guarded
        self.provider_name = provider.name
        self.is_mock = provider.is_mock
        self.idempotency = provider.idempotency
        self.calls: list[CrmCall] = []
        self.cache: dict[tuple[str, str], Any] = {}
        self.customers: Entity[Customer] = Entity(self, "customers")
        self.invoices: Entity[Invoice] = Entity(self, "invoices")
        self.quotes: Entity[Quote] = Entity(self, "quotes")
        self.deals: Entity[Deal] = Entity(self, "deals")
        self.accounts: Entity[Account] = Entity(self, "accounts")
        self.contacts: Entity[Contact] = Entity(self, "contacts")
        self.notes: Entity[Note] = Entity(self, "notes")
        self.activities: Entity[Activity] = Entity(self, "activities")
        self.appointments: Entity[Appointment] = Entity(self, "appointments")

    def query(self, **filters: Any) -> Iterator[Customer]:
        """Yield the customers that match all filters, page by page as they are asked for."""
        return self.customers.query(**filters)

    def pages(self, cursor: str = "", /, **filters: Any) -> Page[Customer]:
        """Return one page of customers with the cursor of the next."""
        return self.customers.pages(cursor, **filters)

    def find(self, record_id: str, *, fresh: bool = False) -> Customer | None:
        """Return the customer, or None when the CRM has none; `fresh` goes past the cache."""
        return self.customers.find(record_id, fresh=fresh)

    def search(self, text: str) -> list[Customer]:
        """Return the customers that fit a name, a mail address or a phone number."""
        return self.customers.search(text)

    def create(self, attributes: Mapping[str, Any], *, key: str) -> Customer:
        """Create a customer once per key and return it."""
        return self.customers.create(attributes, key=key)

    def update(self, record_id: str, attributes: Mapping[str, Any], *, key: str) -> Customer:
        """Change the named fields of a customer once per key and return it."""
        return self.customers.update(record_id, attributes, key=key)

    def get_or_create(
        self,
        attributes: Mapping[str, Any],
        *,
        key: str,
        keep: Collection[str] = (),
        since: datetime | None = None,
    ) -> tuple[Customer, bool]:
        """Return the customer with this mail address or phone number, and whether it was created now.

        A customer whom an earlier try under this key has created was created now, too; where nobody knows
        who created it, one who is there only `since` the first try. Of several runs that hear of one
        person at the same moment, one creates the customer and the others find it.

        One who exists gets what is new: nothing that is filled becomes empty, lists and notes grow, a wish
        not to be contacted stays, and so do status and source, which tell how a customer began, and what
        of `keep` is filled: the attributes are what somebody claims. Raises Unclear when two or more fit,
        and DataError when neither mail nor phone is given.
        """
        wanted = _with_one_phone(attributes)
        if not self.guarded:
            known = self._known(wanted)
            return self._entered(known, wanted, key, keep), known is None or _is_since(known, since)
        health.demand(self.service)  # before a turn is taken that a line which is held could not use
        with newcomers.turn(_people(wanted), key, self.provider.connection.deadline) as turn:
            known = self._known(wanted)
            customer = self._entered(known, wanted, key, keep)
            if known is None:
                turn.entered()
                return customer, True
            made_by_us = turn.is_ours()
        return customer, _is_since(known, since) if made_by_us is None else made_by_us

    def _entered(
        self, known: Customer | None, wanted: Mapping[str, Any], key: str, keep: Collection[str]
    ) -> Customer:
        """Create who is not known, and give one who is what is new."""
        if known is None:
            return self.create(wanted, key=key)
        news = self._news(known, wanted, keep)
        return self.update(known.id, news, key=_key_of(key, news)) if news else known

    def recheck(
        self, customer_id: str, *, filters: Mapping[str, Any] | None = None, address: str = ""
    ) -> Customer:
        """Return the customer as the CRM has it now, just before something is sent to it.

        Raises Permanent "customer_gone", "do_not_contact" or "outside_filter" when nothing may be sent,
        and Outdated "address_changed" when the mail address is another than the approved `address`.
        """
        customer, name = self.find(customer_id, fresh=True), readable(customer_id)
        if customer is None:
            raise Permanent(f"The CRM no longer has the customer {name}.", code="customer_gone")
        if customer.do_not_contact:
            raise Permanent(f"{name} is not to be contacted any more.", code="do_not_contact")
        if filters and not matches(customer, filters):
            raise Permanent(
                f"{name} no longer passes the filters {', '.join(sorted(filters))}.",
                code="outside_filter",
            )
        if address and _folded(customer.email) != _folded(address):
            raise Outdated(
                f"The mail address of {name} is not the one that was approved any more.",
                code="address_changed",
                values=self.customer_fields(customer),
            )
        return customer

    def note(self, customer_id: str, text: str, *, key: str) -> Note:
        """Put a note on a customer once per key and return it."""
        return self.notes.create({"customer_id": customer_id, "text": text}, key=key)

    def matches(self, record: Record, filters: Mapping[str, Any]) -> bool:
        """Say whether the record satisfies every filter: the check after a listing, before a send."""
        return matches(record, filters)

    def customer_fields(self, customer: Customer | None) -> dict[str, Any]:
        """Return the values that a task keeps of its customer.

        Without a customer the six `customer_` values are None and `crm_customer_id` is left out: the
        reference that the task already has stays.
        """
        if customer is None:
            return dict.fromkeys(CUSTOMER_FIELDS)
        last = customer.last_service_date
        return {
            "customer_name": customer.name,
            "customer_email": customer.email,
            "customer_phone": customer.phone,
            "customer_city": customer.city,
            "customer_services": list(customer.services),
            "customer_last_service": last.isoformat() if last else None,
            "crm_customer_id": customer.id,
        }

    def ping(self) -> None:
        """Make one cheap call that needs the credential; raises what the call raises."""
        self.timed("ping", "", "", self.provider.ping)

    def timed(self, operation: str, entity: str, record_id: str, call: Callable[[], T]) -> T:
        """Run one call and keep what happened for the step's events: names, codes and time only.

        A call that may not be made is none: Held is raised and nothing kept.
        """
        try:
            if self.guarded:
                health.demand(self.service)
            return self._timed(operation, entity, record_id, call)
        except StepError as error:
            error.origin = self.service
            raise

    def _timed(self, operation: str, entity: str, record_id: str, call: Callable[[], T]) -> T:
        started = time.perf_counter()
        status = "bug"
        try:
            found = call()
            status = self._status(operation, found)
            if found is None:
                log.warning("%s has no %s %s", self.provider_name, entity, readable(record_id))
            elif isinstance(found, Record):
                record_id = found.id
        except StepError as error:
            status = error.reason
            self._tell_failed(error)
            raise
        finally:
            ms = round((time.perf_counter() - started) * 1000)
            self.calls.append(CrmCall(operation, entity, readable(str(record_id)), status, ms))
        if self.guarded:
            self._line.worked(self.service, rate_left=self.provider.rate_left)
        return found

    def _status(self, operation: str, found: object) -> str:
        if found is None:
            return "not_found"
        return "replayed" if operation in WRITES and self.provider.replayed else "ok"

    def _tell_failed(self, error: StepError) -> None:
        """Tell how a call failed; what the provider cannot do and what is ill-formed says nothing of it."""
        if not self.guarded or isinstance(error, Unsupported | DataError):
            return
        login = self.provider.connection.access.fingerprint() if isinstance(error, AuthError) else ""
        self._line.failed(self.service, error, fingerprint=login)

    def _known(self, wanted: Mapping[str, Any]) -> Customer | None:
        """Return the only customer with this mail address or phone number."""
        typed, phone = str(wanted.get("email") or "").strip(), phones.e164(wanted.get("phone"))
        mail = _folded(typed)
        if not mail and not phone:
            raise DataError("A customer is looked up by mail or phone: neither of them can be used here.")
        found = {
            customer.id: customer
            for text in dict.fromkeys((typed, typed.lower(), phone))
            if text
            for customer in self.search(text)
            if (mail and _folded(customer.email) == mail) or (phone and phones.e164(customer.phone) == phone)
        }
        if len(found) > 1:
            names = ", ".join(readable(record_id) for record_id in sorted(found))
            raise Unclear(f"Several customers have this mail address or phone number: {names}.", sent="no")
        return next(iter(found.values()), None)

    def _news(self, known: Customer, wanted: Mapping[str, Any], keep: Collection[str]) -> dict[str, Any]:
        """Return the attributes that an update has to write."""
        stored = plain(known)
        kept = {*BEGINNING, *(name for name in keep if not _is_empty(stored.get(name)))}
        merged = {
            name: self._merged(name, stored.get(name), plain_value(value))
            for name, value in wanted.items()
            if name not in kept and not _is_empty(value)
        }
        return {name: value for name, value in merged.items() if not _same(name, stored.get(name), value)}

    def _merged(self, name: str, stored: Any, value: Any) -> Any:
        """Return what a field becomes when it has one value and gets another, as its owner policy says."""
        owner = self.provider.maps.owner("customers", name)
        if owner == "immutable_after_bind":
            return stored
        if _is_empty(stored) or _same(name, stored, value):
            return value
        if name == "phone" and not phones.e164(value):
            return stored  # "unknown" is no news of somebody who can be called
        if isinstance(stored, list) and isinstance(value, list):
            return [*stored, *(item for item in value if item not in stored)]
        if owner == "merge_with_audit" and isinstance(stored, str):
            news = value.strip()
            return stored if _has_lines(stored, news) else f"{stored.rstrip()}\n{news}"
        return value


WRITES = ("create", "update")
BEGINNING = ("status", "source")
EMPTY: tuple[Any, ...] = (None, "", [], (), False)

CUSTOMER_FIELDS = (
    "customer_name",
    "customer_email",
    "customer_phone",
    "customer_city",
    "customer_services",
    "customer_last_service",
)


def open_service(
    deadline: Deadline | None = None,
    *,
    service: str = "crm",
    guarded: bool = True,
    notes: health.Notes | None = None,
) -> CrmService:
    """Return a service for settings.CRM_PROVIDER; nothing is called and no secret read before need.

    `service` is whose login and whose health are used. Raises Permanent, with the names there are, when
    no provider has that name.
    """
    try:
        provider = providers.get(settings.CRM_PROVIDER)
    except UnknownName as error:
        raise Permanent(f"CRM_PROVIDER: {error}", code="not_configured") from None
    connection = Connection(settings.CRM_BASE_URL, access_for(service, deadline), deadline, service)
    return CrmService(provider(connection), guarded=guarded, notes=notes)


def _with_one_phone(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes with the phone number in E.164, where it is one."""
    wanted = dict(attributes)
    if number := phones.e164(wanted.get("phone")):
        wanted["phone"] = number
    return wanted


def _people(wanted: Mapping[str, Any]) -> list[str]:
    """Return by what somebody is known: the mail address and the phone number, as far as they can be used."""
    return [one for one in (_folded(wanted.get("email")), phones.e164(wanted.get("phone"))) if one]


def _is_since(customer: Customer, since: datetime | None) -> bool:
    """Say whether the CRM has the customer only since then."""
    return since is not None and customer.created_at is not None and customer.created_at >= since


def _folded(mail: Any) -> str:
    """Return a mail address as addresses are compared: their case says nothing."""
    return str(mail or "").strip().lower()  # casefold would make one of two: straße@ and strasse@


def _is_empty(value: Any) -> bool:
    """Say whether a field has nothing in it; blanks are nothing."""
    return value in EMPTY or (isinstance(value, str) and not value.strip())


def _has_lines(text: str, part: str) -> bool:
    """Say whether the lines of `part` stand in the text, one after the other."""
    lines, wanted = text.splitlines(), part.splitlines()
    return any(lines[start : start + len(wanted)] == wanted for start in range(len(lines)))


def _same(name: str, stored: Any, value: Any) -> bool:
    """Say whether a field says the same already."""
    if name == "email":
        return _folded(stored) == _folded(value)
    if name == "phone" and (number := phones.e164(value)):
        return phones.e164(stored) == number
    return bool(stored == value)


def _key_of(key: str, news: Mapping[str, Any]) -> str:
    """Return the key of an update: another one when there is something else to write."""
    text = json.dumps(news, sort_keys=True, default=str)
    return f"{key}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
