"""Signals: entries in a row's mailbox, and the passes that keep families going."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction

from tasks.journal.sql import (
    Row,
    as_uuid,
    execute,
    fetch,
    id_document,
    ids_in,
    key,
    now_sql,
    patiently,
    postgres,
)


def signal(ids: Sequence[UUID], entry: Row) -> int:
    """Put `entry` into the mailboxes of these tasks and make them due; a running one reads it later.

    Returns how many took it. A run that is over takes nothing; a failed one only retry and cancel.
    """
    if not ids:
        return 0
    kind = entry["kind"]
    wakes = "status <> 'running'"
    if kind == "event":
        wakes += " AND status <> 'paused'"
    takes = "status NOT IN ('completed', 'cancelled')"
    if kind not in ("retry", "cancel"):
        takes += " AND status <> 'failed'"
    return patiently(lambda: _signal(f"{ids_in('id')} AND {takes}", wakes, entry, id_document(ids)))


def _signal(where: str, wakes: str, entry: Row, *params: Any) -> int:
    if postgres():
        mailbox = "mailbox || jsonb_build_array(%s::jsonb)"
        # Rows are locked in the order of their ids, as in a settle.
        chosen = f"id IN (SELECT id FROM tasks_task WHERE {where} ORDER BY id FOR UPDATE)"
    else:
        mailbox = "json_insert(mailbox, '$[#]', json(%s))"
        chosen = where
    return execute(
        f"UPDATE tasks_task SET mailbox = {mailbox}, "
        f"wake_at = CASE WHEN {wakes} THEN {now_sql()} ELSE wake_at END WHERE {chosen}",
        json.dumps(entry),
        *params,
    )


def release_children(parent: UUID) -> int:
    """Make the children of a finished listing due, in batches."""
    released = 0
    while ids := [
        as_uuid(row["id"])
        for row in fetch(
            "SELECT id FROM tasks_task WHERE parent_id = %s AND status = 'waiting' "
            "AND waiting_for = 'listing' AND wake_at IS NULL ORDER BY id LIMIT 500",
            key(parent),
        )
    ]:
        taken = patiently(
            lambda ids=ids: _signal(  # type: ignore[misc]
                f"{ids_in('id')} AND waiting_for = 'listing' AND wake_at IS NULL AND status = 'waiting'",
                "true",
                {"kind": "release"},
                id_document(ids),
            )
        )
        released += taken
        if not taken:
            break
    return released


def release_held(line: str, rate: float, ramp: float) -> int:
    """Make runs that are held for `line` due one after the other, oldest first; return how many.

    The rate grows evenly from one a second to `rate` a second within `ramp` seconds and then stays.
    """
    place = "row_number() OVER (ORDER BY created_at, id) - 1"
    slow = rate * ramp / 2  # so many are due by the end of the ramp
    after = f"{ramp} + (h.place - {slow}) / {rate}"
    grown = f"sqrt({2 * ramp / rate} * h.place)"
    in_ramp = f"CASE WHEN h.place < {grown} THEN h.place ELSE {grown} END"
    delay = f"CASE WHEN h.place > {slow} THEN {after} ELSE {in_ramp} END"
    when = (
        f"{now_sql()} + ({delay}) * interval '1 second'"
        if postgres()
        else f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', {now_sql()}, ({delay}) || ' seconds')"
    )
    locked = " FOR UPDATE" if postgres() else ""
    return patiently(
        lambda: execute(
            f"UPDATE tasks_task SET wake_at = {when} FROM (SELECT id AS held, {place} AS place FROM (SELECT id, "
            f"created_at FROM tasks_task WHERE {HELD} AND waiting_for = %s ORDER BY id{locked}) AS l) AS h "
            "WHERE id = h.held",
            line,
        )
    )


def end_pause(line: str) -> int:
    """Let runs that wait for the end of a pause of `line` wait for the line alone; return how many.

    The pause is forgotten: the next one begins anew.
    """
    if postgres():
        without, paused = "progress #- '{wait,until}'", "progress #> '{wait,until}' IS NOT NULL"
    else:
        without = "json_remove(progress, '$.wait.until')"
        paused = "json_extract(progress, '$.wait.until') IS NOT NULL"

    @transaction.atomic
    def end() -> int:
        execute("DELETE FROM tasks_pace WHERE name = %s", line)
        return execute(
            f"UPDATE tasks_task SET progress = {without}, wake_at = NULL "
            f"WHERE status = 'waiting' AND waiting_for = %s AND {paused}",
            line,
        )

    return patiently(end)


HELD = (
    "waiting_for LIKE 'provider:%%' AND wake_at IS NULL AND status = 'waiting'"  # as in the index task_held
)


def held_count(line: str) -> int:
    """Return how many runs are held for `line`."""
    return int(fetch(f"SELECT count(*) AS n FROM tasks_task WHERE {HELD} AND waiting_for = %s", line)[0]["n"])


def wake_parents(parents: Iterable[UUID] | None = None) -> int:
    """Wake parents that wait for children and have none open: these, or (None) all there are."""
    mine = "" if parents is None else f" AND {ids_in('p.id')}"
    params = () if parents is None else (id_document(parents),)
    rows = fetch(
        "SELECT p.id FROM tasks_task p WHERE p.waiting_for = 'children' AND p.status = 'waiting' "
        "AND p.wake_at IS NULL AND NOT EXISTS (SELECT 1 FROM tasks_task c WHERE c.parent_id = p.id "
        f"AND c.status IN ('ready', 'running', 'waiting', 'paused')){mine} ORDER BY p.id LIMIT 1000",
        *params,
    )
    ids = [as_uuid(row["id"]) for row in rows]
    return signal(ids, {"kind": "children"})


def parents_to_release() -> list[UUID]:
    """Return parents whose listing is complete and whose children still wait for it."""
    rows = fetch(
        "SELECT p.id FROM tasks_task p WHERE p.waiting_for = 'children' AND EXISTS (SELECT 1 FROM tasks_task c "
        "WHERE c.parent_id = p.id AND c.status = 'waiting' AND c.waiting_for = 'listing' AND c.wake_at IS NULL)"
    )
    return [as_uuid(row["id"]) for row in rows]


def families(ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    """Yield the open descendants of these tasks, generation by generation, in batches."""
    parents = list(ids)
    while parents:
        brood = open_children(parents[:200])
        seen: set[UUID] = set()
        while brood:
            yield brood
            seen.update(brood)
            brood = open_children(parents[:200], after=brood[-1])
        parents = parents[200:] + sorted(seen)


def descendants(ids: Sequence[UUID]) -> list[UUID]:
    """Return the open runs that these have started, and those that these have, over elders that are over."""
    rows = fetch(
        f"WITH RECURSIVE line AS (SELECT id, status FROM tasks_task WHERE {ids_in('parent_id')} UNION ALL "
        "SELECT t.id, t.status FROM tasks_task t JOIN line l ON t.parent_id = l.id) "
        "SELECT id FROM line WHERE status IN ('ready', 'running', 'waiting', 'paused') ORDER BY id LIMIT 1000",
        id_document(ids),
    )
    return [as_uuid(row["id"]) for row in rows]


def orphans() -> list[UUID]:
    """Return cancelled parents that still have open children."""
    rows = fetch(
        "SELECT p.id FROM tasks_task p WHERE p.status = 'cancelled' AND p.id IN (SELECT c.parent_id "
        "FROM tasks_task c WHERE c.parent_id IS NOT NULL AND c.status IN ('ready', 'running', 'waiting', 'paused'))"
    )
    return [as_uuid(row["id"]) for row in rows]


def stranded() -> list[UUID]:
    """Return children that wait for the end of a listing whose parent is over: it will never come."""
    rows = fetch(
        "SELECT c.id FROM tasks_task c JOIN tasks_task p ON p.id = c.parent_id WHERE c.status = 'waiting' "
        "AND c.waiting_for = 'listing' AND c.wake_at IS NULL AND p.status IN ('completed', 'cancelled') LIMIT 1000"
    )
    return [as_uuid(row["id"]) for row in rows]


def open_children(parents: Sequence[UUID], *, after: UUID | None = None, limit: int = 500) -> list[UUID]:
    """Return children of these tasks that are not over yet, in the order of their ids."""
    beyond = " AND id > %s" if after else ""
    rows = fetch(
        "SELECT id FROM tasks_task WHERE status IN ('ready', 'running', 'waiting', 'paused') "
        f"AND {ids_in('parent_id')}{beyond} ORDER BY id LIMIT {int(limit)}",
        id_document(parents),
        *([key(after)] if after else []),
    )
    return [as_uuid(row["id"]) for row in rows]
