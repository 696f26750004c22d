"""The only way to customer data.

    crm = open_service(deadline)
    for customer in crm.query(status="past", services=["fertilizer"]):
        crm.note(customer.id, "Called, no answer", key=step.key("note"))

One service serves one run of one step: its read cache and its list of calls live no longer.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from django.conf import settings

from credentials.store import secret_for
from crm.filters import matches
from crm.provider import Connection, Page, Provider, providers
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
)
from sopengine.errors import Permanent, StepError
from sopengine.http import Deadline
from sopengine.registry import UnknownName

log = logging.getLogger("crm")

R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CrmCall:
    """One call, as its event tells it. `status`: ok, not_found, or the code of the error."""

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
        cursor = ""
        while True:
            page = self.pages(cursor, **filters)
            yield from page.records
            cursor = page.next_cursor
            if not cursor:
                return

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
        """Return the records that fit a name, a mail address or a phone number."""
        return self._service.timed("search", self.name, "", lambda: self._found(text))

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

    def _found(self, text: str) -> list[R]:
        return self._provider.search(self.name, text)

    def _created(self, attributes: Mapping[str, Any], key: str) -> R:
        record: R = self._provider.create(self.name, attributes, key)
        return record

    def _updated(self, record_id: str, attributes: Mapping[str, Any], key: str) -> R:
        record: R = self._provider.update(self.name, record_id, attributes, key)
        return record


class CrmService:
    """The CRM as handlers see it: the verbs for customers, and the same ones by entity."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
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
        """Run one call and keep what happened for the step's events: names, codes and time only."""
        started = time.perf_counter()
        status = "ok"
        try:
            found = call()
            if found is None:
                status = "not_found"
                log.warning("%s has no %s %s", self.provider_name, entity, record_id)
            elif isinstance(found, Record):
                record_id = found.id
            return found
        except StepError as error:
            status = error.reason
            raise
        finally:
            ms = round((time.perf_counter() - started) * 1000)
            self.calls.append(CrmCall(operation, entity, record_id, status, ms))


CUSTOMER_FIELDS = (
    "customer_name",
    "customer_email",
    "customer_phone",
    "customer_city",
    "customer_services",
    "customer_last_service",
)


def open_service(deadline: Deadline | None = None) -> CrmService:
    """Return a service for settings.CRM_PROVIDER; nothing is called and no secret read before need.

    Raises Permanent, with the names there are, when no provider has that name.
    """
    try:
        provider = providers.get(settings.CRM_PROVIDER)
    except UnknownName as error:
        raise Permanent(f"CRM_PROVIDER: {error}", code="not_configured") from None
    return CrmService(provider(Connection(settings.CRM_BASE_URL, partial(secret_for, "crm"), deadline)))
