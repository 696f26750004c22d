"""Any CRM that speaks our REST contract: /api/v1/customers and its neighbours, in JSON."""

from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar
from urllib.parse import quote

from django.conf import settings

from crm.provider import Can, HttpProvider, Row, Rows, checked_id, page_number, providers
from crm.records import ENTITIES
from sopengine.errors import DataError, Permanent, Transient
from sopengine.http import Answer

PER_PAGE = 100


@providers.register("rest")
class Rest(HttpProvider):
    """The contract over HTTP."""

    name = "rest"
    root = "/api/v1"
    can: ClassVar[Mapping[str, Can]] = {
        "customers": Can(
            {"query", "find", "search", "create", "update"},
            {"status", "services", "not_signed_for_season", "last_service_before", "city"},
        ),
        "invoices": Can({"query", "find"}, {"status", "customer_id", "due_before"}),
        "quotes": Can({"query", "find"}, {"status", "customer_id"}),
        "appointments": Can({"query", "create", "update"}, {"from", "to"}),
        "notes": Can({"query", "create"}, {"customer_id"}, needs={"customer_id"}),
    }

    @property
    def idempotency(self) -> float | None:
        """The contract says 24 hours; settings.CRM_IDEMPOTENCY_HOURS knows this CRM better."""
        return settings.CRM_IDEMPOTENCY_HOURS or None

    def list_rows(self, entity: str, filters: Mapping[str, Any], cursor: str) -> Rows:
        """Return one page; the cursor is its number. Notes are listed at the customer they belong to."""
        if entity == "notes":
            return self._page(entity, _notes_of(filters["customer_id"]), [], cursor)
        params = [pair for name, value in filters.items() for pair in _pairs(name, value)]
        return self._page(entity, f"/{entity}", params, cursor)

    def find_row(self, entity: str, record_id: str) -> Row | None:
        """Return one row, or None for a 404."""
        answer = self.call("GET", _path(entity, record_id), f"{entity}.find")
        return self._one(entity, answer) if answer.found else None

    def search_rows(self, entity: str, text: str, cursor: str) -> Rows:
        """Return one page of the rows that fit the text."""
        return self._page(entity, f"/{entity}/search", [("q", text)], cursor, verb="search")

    def create_row(self, entity: str, row: Row, key: str) -> Row | None:
        """Create a row; a note goes to the customer it belongs to."""
        path = f"/{entity}"
        if entity == "notes":
            row = dict(row)
            path = _notes_of(row.pop("customer_id"))
        return self._write("POST", entity, path, row, key, f"{entity}.create")

    def update_row(self, entity: str, record_id: str, row: Row, key: str) -> Row | None:
        """Change the given fields of a row."""
        return self._write("PATCH", entity, _path(entity, record_id), row, key, f"{entity}.update")

    def ping(self) -> bool:
        """Ask for one customer."""
        self._page("customers", "/customers", [], "", per_page=1)
        return True

    def _page(
        self,
        entity: str,
        path: str,
        params: list[tuple[str, str]],
        cursor: str,
        per_page: int = PER_PAGE,
        verb: str = "list",
    ) -> Rows:
        number = page_number(cursor)
        asked = [*params, ("page", str(number)), ("per_page", str(per_page))]
        answer = self.call("GET", path, f"{entity}.{verb}", asked)
        if not answer.found:
            raise Permanent(f"the CRM has no list of {entity}", code="http_404")
        return _rows(entity, answer.value, number)

    def _write(self, method: str, entity: str, path: str, row: Row, key: str, label: str) -> Row | None:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = self.call(method, path, label, body={ENTITIES[entity].word: row}, headers=headers)
        except Permanent as error:
            if key and error.reason == "http_409":  # the first request with this key is still at work
                raise Transient("crm is still at work on this request", code="http_409") from None
            raise
        return self._one(entity, answer) if answer.found else None

    def _one(self, entity: str, answer: Answer) -> Row:
        word = ENTITIES[entity].word
        row = answer.value.get(word) if isinstance(answer.value, dict) else None
        if not isinstance(row, dict):
            raise DataError(f"crm: the answer has no {word!r} with an object", code="shape", sent="maybe")
        return row


def _rows(entity: str, value: Any, number: int) -> Rows:
    """Return the rows of a list's answer, or raise DataError when it is not the page asked for."""
    rows = value.get(entity) if isinstance(value, dict) else None
    meta = value.get("meta") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"crm: the answer has no {entity!r} with a list", code="shape")
    counts = [meta.get(name) if isinstance(meta, dict) else None for name in ("total", "page", "per_page")]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise DataError("crm: the answer's 'meta' lacks total, page or per_page", code="shape")
    total, page, per_page = (int(count or 0) for count in counts)
    if page != number:
        raise DataError(f"crm: page {number} of {entity} was asked for, another came", code="shape")
    if not _is_whole(len(rows), number, total, per_page):
        raise DataError(f"crm: page {number} of {entity} has not the rows it promises", code="shape")
    return Rows(rows, str(number + 1) if number * per_page < total else "")


def _is_whole(count: int, number: int, total: int, per_page: int) -> bool:
    """Say whether a page has as many rows as it says of itself.

    A CRM that holds rows back would leave customers out in silence. Only of the last page of several may
    some be missing: rows may vanish while pages are read.
    """
    promised = min(max(total - (number - 1) * per_page, 0), per_page)
    is_last_of_several = number > 1 and number * per_page >= total
    return count == promised or (is_last_of_several and 0 < count < promised)


def _path(entity: str, record_id: str) -> str:
    return f"/{entity}/{quote(record_id, safe='')}"


def _notes_of(customer_id: str) -> str:
    return f"{_path('customers', checked_id(customer_id))}/notes"


def _pairs(name: str, value: Any) -> list[tuple[str, str]]:
    """Return a filter as parameters: comma-separated, or repeated where a comma is part of a value."""
    if not isinstance(value, tuple):
        return [(name, _text(value))]
    if any("," in part for part in value):
        return [(name, part) for part in value]
    return [(name, ",".join(value))]


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)
