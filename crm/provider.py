"""The face of every CRM product: what it can do, and the way each call takes.

A provider is one file in `crm/providers/` (or a package in settings.PLUGINS) with one class:

    @providers.register("acme")
    class Acme(Provider):
        name = "acme"
        can = {"customers": Can({"query", "find"}, filters={"status", "city"})}

        def list_rows(self, entity, filters, cursor): ...
        def find_row(self, entity, id): ...

It returns the product's own rows; the field map turns them into records: `acme.yaml` beside that file,
or in `crm/mappings/`. The base class refuses what the provider cannot do, so a provider never meets a
verb, a filter or a field that it did not declare. A product that is called over HTTP extends
`HttpProvider` and makes each call with `self.call`; `crm/providers/rest.py` shows how.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from django.conf import settings

from crm.filters import read_filters
from crm.mapping import FieldMaps, MappingError, maps_for
from crm.records import Record
from sopengine.errors import AuthError, DataError, Permanent, Unsupported
from sopengine.http import Answer, Client, Deadline
from sopengine.looks import is_mail, is_phone
from sopengine.registry import Registry

Row = Mapping[str, Any]
R = TypeVar("R", bound=Record)
T = TypeVar("T")

SEARCH_LIMIT = 1_000
MAX_PAGES = 10_000


@dataclass(frozen=True, slots=True)
class Can:
    """What a provider can do with one entity: verbs of query, find, search, create, update.

    `needs` are the filters without which it cannot list, as where notes are listed per customer only.
    """

    verbs: Iterable[str]
    filters: Iterable[str] = ()
    needs: Iterable[str] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page of a listing; an empty `next_cursor` says that it was the last."""

    records: tuple[R, ...]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """One page as the provider gives it."""

    rows: list[Any]
    next_cursor: str = ""


class SignIn(Protocol):
    """How a call says who calls. No secret is read before `headers` is asked for."""

    def headers(self, method: str, target: str, body: bytes) -> Mapping[str, str]:
        """Return the headers that sign this request in; AuthError says what is missing."""

    def renew(self) -> bool:
        """Say, after a 401, whether there is another secret now, so that one more try makes sense."""

    def fingerprint(self) -> str:
        """Return a keyed hash of the secret in force, "" when there is none."""


class _Nobody:
    """The sign-in of a CRM that asks for none."""

    def headers(self, _method: str, _target: str, _body: bytes) -> Mapping[str, str]:
        return {}

    def renew(self) -> bool:
        return False

    def fingerprint(self) -> str:
        return ""


NOBODY: SignIn = _Nobody()


@dataclass(frozen=True, slots=True)
class Connection:
    """What a provider needs to call: where, signed in by what, until when, and as which service."""

    base_url: str = ""
    access: SignIn = NOBODY
    deadline: Deadline | None = None
    service: str = "crm"


class Provider:
    """One CRM product. Subclasses declare `can` and fill the holes at the end of the class.

    `rate` is how many calls a second it takes when all is well. `replayed` says of its last write that the
    product answered a repeat with its first answer; `rate_left` how many calls it said are left.
    """

    name: ClassVar[str] = ""
    is_mock: ClassVar[bool] = False
    can: ClassVar[Mapping[str, Can]] = {}
    rate: ClassVar[float] = 20.0
    map_folders: ClassVar[tuple[Path, ...]] = ()

    def __init_subclass__(cls, **given: Any) -> None:
        """Note where the class stands, since its field map may stand beside it."""
        super().__init_subclass__(**given)
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if file:
            cls.map_folders = (Path(file).parent, *cls.map_folders)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.replayed = False
        self.rate_left: int | None = None

    @property
    def idempotency(self) -> float | None:
        """For how many hours the product keeps an Idempotency-Key; None: it ignores keys."""
        return None

    @property
    def maps(self) -> FieldMaps:
        """Return the field maps of this provider; DataError says what is wrong with a bad one."""
        try:
            return maps_for(self.name, self.map_folders)
        except MappingError as error:
            raise DataError(f"The field map cannot be used: {error}", code="field_map") from None

    def authorised(self, call: Callable[[], T]) -> T:
        """Make a call; when our credential is not known (401) and there is another one now, once more."""
        try:
            return call()
        except AuthError as error:
            if error.reason != "auth" or not self.connection.access.renew():
                raise
        return call()

    # -- what CrmService calls -------------------------------------------------------------------

    def page(self, entity: str, filters: Mapping[str, Any], cursor: str = "") -> Page[Any]:
        """Return the page at `cursor` ("" is the first) of the records that match the filters."""
        values = self.checked_filters(entity, filters)
        found = self.list_rows(entity, values, cursor)
        return Page(self._records(entity, found.rows), found.next_cursor)

    def find(self, entity: str, record_id: str) -> Any:
        """Return the record with this id, or None when the CRM has none."""
        self._demand(entity, "find")
        row = self.find_row(entity, checked_id(record_id))
        if row is None:
            return None
        record = self.maps.record(entity, row)
        if record.id != record_id:
            raise DataError(f"{self.name} answered with another {record.word} than the one asked for")
        return record

    def search(self, entity: str, text: str, cursor: str = "") -> Page[Any]:
        """Return the page at `cursor` ("" is the first) of the records that fit the text."""
        self._demand(entity, "search")
        if not text.strip():
            raise DataError(f"a search in {entity} needs a text")
        found = self.search_rows(entity, text.strip(), cursor)
        return Page(self._records(entity, found.rows), found.next_cursor)

    def create(self, entity: str, attributes: Mapping[str, Any], key: str) -> Any:
        """Create a record once per key and return it."""
        self._demand(entity, "create")
        self.replayed = False
        row = self.create_row(entity, self.maps.row(entity, attributes, creating=True), key)
        return self._written(entity, row)

    def update(self, entity: str, record_id: str, attributes: Mapping[str, Any], key: str) -> Any:
        """Change the named fields once per key and return the whole record."""
        self._demand(entity, "update")
        if not attributes:
            raise DataError(f"an update of {entity} names no field")
        self.replayed = False
        row = self.update_row(entity, checked_id(record_id), self.maps.row(entity, attributes), key)
        record = self._written(entity, row)
        if record.id != record_id:
            raise DataError(f"{self.name} answered with another {record.word}", sent="maybe")
        return record

    def checked_filters(self, entity: str, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Return typed filters, or raise Unsupported for one that this provider cannot serve."""
        self._demand(entity, "query")
        known = set(self.can[entity].filters)
        if unknown := sorted(set(filters) - known):
            raise Unsupported(
                f"{self.name} cannot filter {entity} by {', '.join(unknown)}; "
                f"it can by: {', '.join(sorted(known)) or 'nothing'}"
            )
        if missing := sorted(set(self.can[entity].needs) - set(filters)):
            raise Unsupported(f"{self.name} can query {entity} only by {', '.join(missing)}")
        return read_filters(entity, filters)

    def _demand(self, entity: str, verb: str) -> None:
        """Refuse aloud what this provider cannot do."""
        able = self.can.get(entity)
        if able is None or verb not in able.verbs:
            raise Unsupported(f"{self.name} cannot {verb} {entity}")

    def _records(self, entity: str, rows: list[Any]) -> tuple[Any, ...]:
        record = self.maps.record
        return tuple(record(entity, row) for row in rows)

    def _written(self, entity: str, row: Any) -> Any:
        """Return the record of a write's answer; one that cannot be read may still have been applied."""
        if row is None:
            raise Permanent(f"{self.name} has not what this write in {entity} is about", code="not_found")
        try:
            return self.maps.record(entity, row)
        except DataError as error:
            raise DataError(error.message, code=error.reason, sent="maybe") from None

    # -- the holes -------------------------------------------------------------------------------

    def list_rows(self, entity: str, filters: Mapping[str, Any], cursor: str) -> Rows:
        """Return one page of rows."""
        raise Unsupported(f"{self.name} cannot query {entity}")

    def find_row(self, entity: str, record_id: str) -> Row | None:
        """Return one row, or None when there is none."""
        raise Unsupported(f"{self.name} cannot find {entity}")

    def search_rows(self, entity: str, text: str, cursor: str) -> Rows:
        """Return one page of the rows that fit the text."""
        raise Unsupported(f"{self.name} cannot search {entity}")

    def create_row(self, entity: str, row: Row, key: str) -> Row | None:
        """Create a row once per key; return it whole, or None when what it belongs to is not there."""
        raise Unsupported(f"{self.name} cannot create {entity}")

    def update_row(self, entity: str, record_id: str, row: Row, key: str) -> Row | None:
        """Change the given fields once per key; return the whole row, or None when there is none."""
        raise Unsupported(f"{self.name} cannot update {entity}")

    def ping(self) -> bool:
        """Make one cheap call that needs the credential: True, or what the call raises."""
        self.list_rows("customers", {}, "")
        return True


class HttpProvider(Provider):
    """A product that is called over HTTP. `root` is the path that its paths begin with.

    The configured address may have the root at its end or not.
    """

    root: ClassVar[str] = ""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        address = connection.base_url.rstrip("/").removesuffix(self.root)
        self._client = Client(connection.service, address)

    def call(
        self,
        method: str,
        path: str,
        label: str,
        params: Sequence[tuple[str, str]] = (),
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make one call, signed in, within the step's deadline; `label` names it in the log."""
        answer = self.authorised(
            lambda: self._client.call(
                method,
                self.root + path,
                label=label,
                params=params,
                body=body,
                headers=headers,
                deadline=self.connection.deadline,
                sign=self.connection.access.headers,
            )
        )
        self.replayed, self.rate_left = answer.replayed, answer.rate_left
        return answer


def checked_id(record_id: str) -> str:
    """Return an id that can stand in an address, or raise DataError.

    A mail address, or a number that can only be a phone's, is a customer's and no id: it would stand in
    logs, over there too.
    """
    if not isinstance(record_id, str) or not 1 <= len(record_id) <= 200 or not record_id.isprintable():
        raise DataError("an id must be a printable text of 1 to 200 characters")
    if record_id.isspace() or record_id in {".", ".."}:
        raise DataError("an id must not be blank or a path")
    if is_mail(record_id) or (is_phone(record_id) and any(mark in record_id for mark in "+ ()")):
        raise DataError("an id must not be a mail address or a phone number")
    return record_id


def page_number(cursor: str) -> int:
    """Return the page that a cursor of numbered pages means ("" is page 1), or raise DataError."""
    number = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < 8 else 0
    if cursor and not 1 <= number <= MAX_PAGES:
        raise DataError(f"this is no cursor of the listing, or it went past {MAX_PAGES} pages")
    return number or 1


providers: Registry[type[Provider]] = Registry("CRM provider")
_loading = threading.Lock()


def load_providers() -> None:
    """Import the shipped providers and the plugins; a second call does nothing new."""
    with _loading:
        providers.load("crm.providers")
        for package in settings.PLUGINS:
            providers.load(package)
