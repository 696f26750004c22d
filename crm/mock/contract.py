"""The REST contract over the state of a mock: requests in, replies out, no sockets."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from crm.filters import FILTERS, read_filters
from crm.mock.state import MockState, Refused, Written
from crm.records import ENTITIES
from sopengine.errors import StepError

ROOT = "/api/v1/"
PER_PAGE = 25
MAX_PER_PAGE = 100
LISTED = ("customers", "invoices", "quotes", "appointments")
FOUND = ("customers", "invoices", "quotes")
WRITTEN = ("customers", "appointments")
MANY = ("status", "services")  # filters that take several words


@dataclass(frozen=True, slots=True)
class Request:
    """One request, unpacked; the header names are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `outcome`: read, applied, replayed, not_found or refused."""

    status: int
    value: Any
    outcome: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Contract:
    """Answers requests from the state of one mock."""

    def __init__(self, state: MockState, api_key: str = "", ignore_keys: bool = False) -> None:
        self.state = state
        self.api_key = api_key
        self.ignore_keys = ignore_keys
        self.tokens: Callable[[str], bool] | None = None  # which access tokens are in force; None: no OAuth

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request; whatever is wrong with it is a reply too."""
        try:
            self._demand_key(request)
            return self._routed(request)
        except Refused as refusal:
            outcome = "not_found" if refusal.status == 404 else "refused"
            return Reply(refusal.status, {"error": refusal.message}, outcome)

    def _demand_key(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Refused(401, "a bearer key is needed")
        if self.api_key and given.strip() != self.api_key:
            raise Refused(401, "this key is not accepted")
        if self.tokens and not self.tokens(given.strip()):
            raise Refused(401, "this token is not in force")

    def _routed(self, request: Request) -> Reply:
        if not request.path.startswith(ROOT):
            raise Refused(404, "there is nothing at this address")
        parts = [unquote(part) for part in request.path.removeprefix(ROOT).split("/")]
        match request.method, parts:
            case "GET", ["customers", "search"]:
                return self._search(request)
            case "GET", [entity] if entity in LISTED:
                return self._list(entity, request, {})
            case "GET", [entity, record_id] if entity in FOUND:
                return self._find(entity, record_id)
            case "POST", [entity] if entity in WRITTEN:
                return self._created(entity, request, {})
            case "GET", ["customers", record_id, "notes"]:
                return self._list("notes", request, {"customer_id": record_id})
            case "POST", ["customers", record_id, "notes"]:
                return self._created("notes", request, {"customer_id": record_id})
            case "PATCH", [entity, record_id] if entity in WRITTEN:
                row = _row(entity, request)
                written = self.state.update(entity, record_id, row, self._key(request))
                return _written(200, entity, written)
        if parts[0] in LISTED:
            raise Refused(405, "this cannot be done here")
        raise Refused(404, "there is nothing at this address")

    def _list(self, entity: str, request: Request, given: Mapping[str, Any]) -> Reply:
        """Return one page; `given` are filters that stand in the address and not among the parameters."""
        params = _params(request)
        page, per_page = _paging(params)
        if twice := sorted(given.keys() & params):
            raise Refused(422, f"not a parameter here: {', '.join(twice)}")
        try:
            filters = read_filters(entity, {**_filters(entity, params), **given})
        except StepError as error:
            raise Refused(422, error.message) from None
        rows, total = self.state.query(entity, filters, page, per_page)
        return _listed(entity, rows, total, page, per_page)

    def _search(self, request: Request) -> Reply:
        params = _params(request)
        page, per_page = _paging(params)
        texts = params.pop("q", [])
        if len(texts) != 1 or not texts[0].strip() or params:
            raise Refused(422, "a search takes q, page and per_page")
        rows, total = self.state.search(texts[0].strip(), page, per_page)
        return _listed("customers", rows, total, page, per_page)

    def _find(self, entity: str, record_id: str) -> Reply:
        word = ENTITIES[entity].word
        row = self.state.find(entity, record_id)
        if row is None:
            raise Refused(404, f"there is no {word} with this id")
        return Reply(200, {word: row}, "read")

    def _created(self, entity: str, request: Request, given: Mapping[str, Any]) -> Reply:
        row = {**_row(entity, request), **given}
        return _written(201, entity, self.state.create(entity, row, self._key(request)))

    def _key(self, request: Request) -> str:
        key = request.headers.get("idempotency-key", "").strip('"')
        if len(key) > 255:
            raise Refused(400, "an Idempotency-Key has at most 255 characters")
        return "" if self.ignore_keys else key


def _params(request: Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        found.setdefault(name, []).append(value)
    return found


def _paging(params: dict[str, list[str]]) -> tuple[int, int]:
    """Take page and per_page out of the parameters; strange ones are refused, not bent."""
    numbers = []
    for name, default, limit in (("page", 1, 1_000_000), ("per_page", PER_PAGE, MAX_PER_PAGE)):
        (text, *more) = params.pop(name, [str(default)])
        if more or not text.isdecimal() or not 1 <= int(text) <= limit:
            raise Refused(422, f"{name} must be a number from 1 to {limit}")
        numbers.append(int(text))
    return numbers[0], numbers[1]


def _filters(entity: str, params: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the other parameters as raw filters: lists repeated or comma-separated, the rest single."""
    raw: dict[str, Any] = {}
    for name, values in params.items():
        if name in FILTERS[entity] and name not in MANY and len(values) > 1:
            raise Refused(422, f"{name} can be given once")
        raw[name] = values if len(values) > 1 else values[0]
    return raw


def _row(entity: str, request: Request) -> dict[str, Any]:
    """Return the row in a request's body, which must be {"<word>": {...}}."""
    word = ENTITIES[entity].word
    try:
        content = json.loads(request.body)
    except ValueError:
        raise Refused(400, "the body is not JSON") from None
    row = content.get(word) if isinstance(content, dict) else None
    if not isinstance(row, dict):
        raise Refused(422, f'the body must be {{"{word}": {{...}}}}')
    return row


def _listed(entity: str, rows: list[Any], total: int, page: int, per_page: int) -> Reply:
    return Reply(200, {entity: rows, "meta": {"total": total, "page": page, "per_page": per_page}}, "read")


def _written(status: int, entity: str, written: Written) -> Reply:
    value = {ENTITIES[entity].word: written.row}
    if written.replayed:
        return Reply(status, value, "replayed", {"Idempotency-Replayed": "true"})
    return Reply(status, value, "applied")
