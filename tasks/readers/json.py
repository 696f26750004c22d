"""Webhooks in JSON: one event each.

    {"event": "job.completed", "id": "evt_7", "timestamp": "2027-04-06T15:00:00-05:00",
     "data": {"job_id": "j-7", "customer_id": "c-1"}}

The name stands in `event`, `event_type` or `type`. Where there is no `data`, all other fields are it.
An object inside becomes fields with its name before theirs, so `job.id` is `job_id`. One that is named
as the event begins (`call` in `call_ended`) is what the event is about: its fields stand without it, too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sopengine import inbox
from sopengine.errors import DataError
from tasks.events import Event
from tasks.readers import Reader, Received, readers

NAMES = ("event", "event_type", "type")
IDS = ("event_id", "delivery_id")  # that say which delivery it is; a bare `id` may be a record's
TIMES = ("timestamp", "occurred_at", "happened_at", "created_at")
DEEPEST = 4
MOST_FIELDS = 500
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")
_BETWEEN = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@readers.register("json")
class Json(Reader):
    """One event in one object."""

    takes = frozenset({"", "application/json", "text/plain"})

    def look(self, raw: bytes, kind: str) -> str:
        """Return the id of the event where the body names it."""
        value = inbox.read_json(raw)
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        return next((str(value[name]) for name in IDS if isinstance(value.get(name), str | int)), "")

    def read(self, received: Received) -> Sequence[Event]:
        """Return the one event."""
        try:
            body = inbox.read_json(received.body)
        except ValueError as error:
            raise DataError(f"the body is no JSON: {error}", code="bad_json") from None
        if not isinstance(body, dict):
            raise DataError("the body is no JSON object", code="bad_json")
        at = next((moment for name in TIMES if (moment := _moment(body.get(name)))), None)
        own_id = next((str(body[name]) for name in (*IDS, "id") if isinstance(body.get(name), str | int)), "")
        name = _name(body)
        return [
            Event(
                name=name,
                id=own_id or received.external_id,
                data=_data(body, name),
                source=received.source,
                at=at,
            )
        ]


def _name(body: Mapping[str, Any]) -> str:
    told = next((body[name] for name in NAMES if isinstance(body.get(name), str)), "")
    name = _BETWEEN.sub("_", told.strip()).lower().replace(" ", "_")
    if not _NAME.fullmatch(name) or len(name) > 60:
        raise DataError("the body names no event", code="no_event")
    return name


def _data(body: Mapping[str, Any], event: str) -> dict[str, Any]:
    inner = body.get("data")
    if not isinstance(inner, dict):
        inner = {name: value for name, value in body.items() if name not in (*NAMES, *IDS)}
    fields = dict(_flat(inner, "", DEEPEST))
    subject = inner.get(re.split(r"[._-]", event)[0])
    if isinstance(subject, dict):
        fields = {**dict(_flat(subject, "", DEEPEST)), **fields}
    if len(fields) > MOST_FIELDS:
        raise DataError("the body has too many fields", code="too_many")
    if fields.get("customer_id") is not None:
        fields.setdefault("crm_customer_id", str(fields["customer_id"]))
    return fields


def _flat(value: Mapping[str, Any], before: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = before + _BETWEEN.sub("_", key).lower().replace("-", "_")
        if isinstance(inner, dict) and depth:
            yield from _flat(inner, f"{name}_", depth - 1)
        elif not isinstance(inner, dict):
            yield name, inner


def _moment(value: Any) -> datetime | None:
    """Return the moment in a text of ISO 8601 or in seconds (or milliseconds) since 1970, None otherwise."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError, OSError):
        return None
    return None
