"""The other side of the second shape: requests in, replies out, over the rows of a mock CRM.

It knows nothing of the provider and its field map: what they have in common is written down twice.
For the server that misbehaves: `Rogue(playing(Shape(state)))`.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from crm.filters import read_filters
from crm.mock.contract import Reply, Request
from crm.mock.state import PREFIXES, MockState, Refused, Written
from sopengine.errors import StepError

KEY_HEADER = "X-Api-Key"
RATE_LEFT = "990"
KINDS = {
    "people": "customers",
    "bills": "invoices",
    "offers": "quotes",
    "visits": "appointments",
    "remarks": "notes",
}
STAGES = {"client": "active", "former": "past", "prospect": "lead", "dormant": "cold"}
# What the mock calls it, and where it stands among the properties.
PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "customers": {
        "name": ("full_name",),
        "status": ("stage",),
        "email": ("contact", "email"),
        "phone": ("contact", "phone"),
        "address": ("home", "street"),
        "city": ("home", "town"),
        "state": ("home", "region"),
        "zip": ("home", "post_code"),
        "services": ("services",),
        "last_service_date": ("last_visit",),
        "notes": ("remarks",),
        "source": ("origin",),
        "signed_seasons": ("seasons",),
        "do_not_contact": ("opted_out",),
    },
    "invoices": {
        "number": ("number",),
        "customer_id": ("person",),
        "amount_due": ("amount", "due"),
        "currency": ("amount", "currency"),
        "due_date": ("due",),
        "status": ("state",),
        "paid_at": ("paid",),
    },
    "quotes": {
        "number": ("number",),
        "customer_id": ("person",),
        "version": ("revision",),
        "status": ("state",),
        "total": ("amount", "total"),
        "currency": ("amount", "currency"),
        "sent_at": ("sent",),
        "responded_at": ("answered",),
        "valid_until": ("good_until",),
    },
    "appointments": {
        "customer_id": ("person",),
        "start": ("begins",),
        "end": ("ends",),
        "type": ("kind",),
        "status": ("state",),
    },
    "notes": {"customer_id": ("person",), "text": ("text",)},
}
PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "customers": {
        "stage": "status",
        "services": "services",
        "not_in_season": "not_signed_for_season",
        "visited_before": "last_service_before",
        "town": "city",
    },
    "invoices": {"state": "status", "person": "customer_id", "due_before": "due_before"},
    "quotes": {"state": "status", "person": "customer_id"},
    "appointments": {"begins_from": "from", "begins_before": "to"},
    "notes": {"person": "customer_id"},
}


class Shape:
    """Answers requests in the second shape from the state of one mock."""

    def __init__(self, state: MockState, api_key: str = "", ignore_keys: bool = False) -> None:
        self.state = state
        self.api_key = api_key
        self.ignore_keys = ignore_keys

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request; whatever is wrong with it is a reply too."""
        try:
            self._demand_key(request)
            reply = self._routed(request)
        except Refused as refusal:
            outcome = "not_found" if refusal.status == 404 else "refused"
            reply = Reply(refusal.status, {"message": refusal.message}, outcome)
        return Reply(
            reply.status, reply.value, reply.outcome, {**reply.headers, "X-RateLimit-Remaining": RATE_LEFT}
        )

    def _demand_key(self, request: Request) -> None:
        given = request.headers.get(KEY_HEADER.lower(), "")
        if not given:
            raise Refused(401, "a key is needed")
        if self.api_key and given != self.api_key:
            raise Refused(401, "this key is not accepted")

    def _routed(self, request: Request) -> Reply:
        parts = [unquote(part) for part in request.path.strip("/").split("/")]
        match request.method, parts:
            case "GET", ["v3", "objects", kind] if kind in KINDS:
                return self._list(KINDS[kind], request)
            case "GET", ["v3", "search", "people"]:
                return self._search(request)
            case "GET", ["v3", "objects", kind, number] if kind in KINDS:
                return self._find(KINDS[kind], number)
            case "POST", ["v3", "objects", "people" | "visits" | "remarks" as kind]:
                row = _row(KINDS[kind], request)
                return _written(201, KINDS[kind], self.state.create(KINDS[kind], row, self._key(request)))
            case "PATCH", ["v3", "objects", "people" | "visits" as kind, number]:
                entity = KINDS[kind]
                row = _row(entity, request)
                written = self.state.update(entity, _id(entity, number), row, self._key(request))
                return _written(200, entity, written)
        raise Refused(404, "there is nothing at this address")

    def _list(self, entity: str, request: Request) -> Reply:
        params = _params(request)
        page, limit = _paging(params)
        raw: dict[str, Any] = {}
        for name, values in params.items():
            if name not in PARAMETERS[entity]:
                raise Refused(422, f"{name} is no parameter")
            raw[PARAMETERS[entity][name]] = [_asked(name, value) for value in values]
        many = {name: values if name in ("status", "services") else values[0] for name, values in raw.items()}
        try:
            filters = read_filters(entity, many)
        except StepError as error:
            raise Refused(422, error.message) from None
        return _listed(entity, *self.state.query(entity, filters, page, limit), page, limit)

    def _search(self, request: Request) -> Reply:
        params = _params(request)
        page, limit = _paging(params)
        (text, *_) = params.pop("text", [""])
        if not text.strip() or params:
            raise Refused(422, "a search takes text, limit and cursor")
        return _listed("customers", *self.state.search(text, page, limit), page, limit)

    def _find(self, entity: str, number: str) -> Reply:
        row = self.state.find(entity, _id(entity, number))
        if row is None:
            raise Refused(404, "there is no such object")
        return Reply(200, shaped(entity, row), "read")

    def _key(self, request: Request) -> str:
        return "" if self.ignore_keys else request.headers.get("idempotency-key", "")


def shaped(entity: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the mock as an object of this shape."""
    properties: dict[str, Any] = {}
    for field, (*way, last) in PLACES[entity].items():
        if field not in row:
            continue
        inner = properties
        for name in way:
            inner = inner.setdefault(name, {})
        inner[last] = _given(field, row[field])
    times = {"createdAt": row.get("created_at"), "updatedAt": row.get("updated_at")}
    return {
        "id": number_of(row["id"]),
        **{name: time for name, time in times.items() if time},
        "properties": properties,
    }


def number_of(record_id: str) -> int:
    """Return the number by which this shape knows a row of the mock: cus_0002 is 2."""
    return int(record_id.rpartition("_")[2])


def _given(field: str, value: Any) -> Any:
    if field == "customer_id":
        return number_of(value)
    words = {ours: theirs for theirs, ours in STAGES.items()}
    return words.get(value, value) if field == "status" else value


def _id(entity: str, number: str) -> str:
    """Return the mock's id of a number; 404 for what is none."""
    if not re.fullmatch(r"\d{1,9}", number, re.ASCII):
        raise Refused(404, "there is no such object")
    return f"{PREFIXES[entity]}_{int(number):04}"


def _row(entity: str, request: Request) -> dict[str, Any]:
    """Return the mock's row of a body, which must be {"properties": {...}}; unknown names are refused."""
    try:
        content = json.loads(request.body)
    except ValueError:
        raise Refused(400, "the body is not JSON") from None
    properties = content.get("properties") if isinstance(content, dict) else None
    if not isinstance(properties, dict):
        raise Refused(422, "the body must have properties")
    fields = {place: field for field, place in PLACES[entity].items()}
    row: dict[str, Any] = {}
    for place, value in _leaves(properties, set(fields)):
        if place not in fields:
            raise Refused(422, f"{'.'.join(place)} is no property")
        row[fields[place]] = _taken(fields[place], value)
    return row


def _leaves(
    properties: Mapping[str, Any], ends: set[tuple[str, ...]], way: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in properties.items():
        place = (*way, name)
        if isinstance(value, dict) and place not in ends:
            yield from _leaves(value, ends, place)
        else:
            yield place, value


def _taken(field: str, value: Any) -> Any:
    if field == "customer_id":
        return _id("customers", str(value))
    if field == "status" and value in STAGES:
        return STAGES[value]
    return value


def _asked(name: str, value: str) -> str:
    if name == "person":
        return _id("customers", value)
    return STAGES.get(value, value) if name == "stage" else value


def _params(request: Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        found.setdefault(name, []).append(value)
    return found


def _paging(params: dict[str, list[str]]) -> tuple[int, int]:
    """Take cursor and limit out of the parameters, as page and its size."""
    limit, cursor = params.pop("limit", ["25"])[0], params.pop("cursor", [""])[0]
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise Refused(422, "limit must be a number from 1 to 100")
    try:
        known = re.fullmatch(r"page:(\d{1,6})", base64.urlsafe_b64decode(cursor).decode()) if cursor else None
    except (binascii.Error, ValueError):
        known = None
    if cursor and known is None:
        raise Refused(422, "this is no cursor")
    return int(known[1]) if known else 1, int(limit)


def _listed(entity: str, rows: list[Any], total: int, page: int, limit: int) -> Reply:
    following = base64.urlsafe_b64encode(f"page:{page + 1}".encode()).decode()
    value = {
        "results": [shaped(entity, row) for row in rows],
        "next_cursor": following if page * limit < total else None,
    }
    return Reply(200, value, "read")


def _written(status: int, entity: str, written: Written) -> Reply:
    outcome = "replayed" if written.replayed else "applied"
    headers = {"Idempotency-Replayed": "true"} if written.replayed else {}
    return Reply(status, shaped(entity, written.row), outcome, headers)
