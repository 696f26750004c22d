"""New tasks: the row of a start, and the rows of the children that an outcome asks for."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from credentials import vault
from sopengine.errors import DataError
from tasks import context as values
from tasks.inputs import InputError, bind
from tasks.models import Sop
from tasks.outcome import Child, Continue, Start
from tasks.plan import definition_of, surroundings
from tasks.transition import Turn


def task_row(
    version: int,
    given: Mapping[str, Any],
    *,
    slot: datetime,
    now: datetime,
    key: str | None,
    parent: UUID | None = None,
    priority: int | None = None,
    waiting_for: str = "",
    origin: Mapping[str, Any] | None = None,
    filters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the row of a new task; InputError when its SOP does not take these inputs."""
    sop = definition_of(version)
    task = uuid4()
    plain, sealed = values.split_inputs(bind(sop, given, surroundings(slot, now)))
    values.check({**plain, **sealed}, f"the inputs of {sop.slug}")
    return {
        "id": task,
        "version": version,
        "parent": parent,
        "step": sop.first,
        "waiting_for": waiting_for,
        "due": 0 if waiting_for else 1,
        "priority": sop.priority if priority is None else priority,
        "key": vault.fingerprint(key) if key else None,
        "context": json.dumps(plain),
        "sealed": values.seal(str(task), sealed),
        "progress": json.dumps(
            {
                "visits": {sop.first: 1},
                "slot": slot.isoformat(),
                **({"filters": dict(filters)} if filters else {}),
            }
        ),
        "origin": dict(origin or {}),
    }


def asked_for(turn: Turn, outcome: object) -> list[dict[str, Any]]:
    """Return the rows of the children in this outcome; DataError when one cannot start.

    The version of a child's SOP is fixed when the step starts its first. Children of a listing
    wait for its end; those that nobody waits for are due at once.
    """
    if not isinstance(outcome, Start | Continue):
        return []
    waits = "" if isinstance(outcome, Start) and not outcome.wait else "listing"
    versions = turn.progress.setdefault("versions", {})
    slot = datetime.fromisoformat(turn.progress.get("slot") or turn.now.isoformat())
    rows = []
    for child in outcome.children:
        if child.sop not in versions:
            versions[child.sop] = published(child.sop)
        rows.append(_row_of(turn, child, versions[child.sop], slot, waits))
    return rows


def _row_of(turn: Turn, child: Child, version: int, slot: datetime, waits: str) -> dict[str, Any]:
    own = child.inputs.get(values.CUSTOMER_ID) or json.dumps(child.inputs, sort_keys=True, default=str)
    key = f"child:{child.sop}:{child.key}" if child.key else f"{turn.id}:{turn.step}:{turn.visit}:{own}"
    try:
        return task_row(
            version,
            child.inputs,
            slot=slot,
            now=turn.now,
            key=key,
            parent=turn.id,
            waiting_for=waits,
            origin={"parent": str(turn.id)},
            filters=child.filters,
        )
    except InputError as error:
        raise DataError(f"cannot start {child.sop}: {error}", code="inputs") from None


def published(slug: str) -> int:
    """Return the id of the version of this SOP that runs now; DataError when none may."""
    found = Sop.objects.filter(slug=slug).values_list("published_id", "state").first()
    if found is None:
        known: Sequence[str] = list(Sop.objects.order_by("slug").values_list("slug", flat=True)[:20])
        raise DataError(f"there is no SOP of that name; known: {', '.join(known) or 'none'}", code="no_sop")
    version, state = found
    if version is None or state != Sop.State.ACTIVE:
        raise DataError("the SOP to start is not published and active", code="sop_not_active")
    return int(version)
