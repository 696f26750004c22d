"""Small clocks and upkeep: rate limits, pulses, the brake, values kept long enough, pruning."""

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction

from tasks.journal.settle import locked
from tasks.journal.sides import scrub_sides, write_events
from tasks.journal.sql import (
    Row,
    as_json,
    as_time,
    as_uuid,
    execute,
    fetch,
    id_document,
    ids_in,
    key,
    moment,
    now_sql,
    postgres,
    quoted,
)
from tasks.transition import Event

# What a worker that lives writes of a step, whatever came of it.
LIVED = "('step_done', 'step_failed', 'retry_later', 'unknown', 'asked', 'waiting', 'held')"


def reserve(name: str, spacing: float, *, ahead: float = 0.0) -> float:
    """Take the next free slot of a rate limit, the first one `ahead` seconds from now; return its distance."""
    first = now_sql(str(float(ahead) + float(spacing)))
    later = "greatest" if postgres() else "max"
    plus = (
        f"tasks_pace.next_at + {float(spacing)} * interval '1 second'"
        if postgres()
        else f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', tasks_pace.next_at, '{float(spacing)} seconds')"
    )
    row = fetch(
        f"INSERT INTO tasks_pace (name, next_at) VALUES (%s, {first}) "
        f"ON CONFLICT (name) DO UPDATE SET next_at = {later}({first}, {plus}) RETURNING next_at, {now_sql()} AS now",
        name,
    )[0]
    return (moment(row["next_at"]) - moment(row["now"])).total_seconds() - spacing


def take(name: str, spacing: float, burst: int) -> float:
    """Take one of `burst` turns, which come back one every `spacing` seconds.

    Returns 0 when it was taken, else the seconds until one is free; asking in vain costs nothing.
    """
    after = (
        f"greatest({now_sql()}, tasks_pace.next_at) + {float(spacing)} * interval '1 second'"
        if postgres()
        else "strftime('%%Y-%%m-%%d %%H:%%M:%%f', "
        f"max({now_sql()}, tasks_pace.next_at), '{float(spacing)} seconds')"
    )
    ahead = float(spacing) * (burst - 1)
    taken = fetch(
        f"INSERT INTO tasks_pace (name, next_at) VALUES (%s, {now_sql(str(float(spacing)))}) "
        f"ON CONFLICT (name) DO UPDATE SET next_at = {after} "
        f"WHERE tasks_pace.next_at <= {now_sql(str(ahead))} RETURNING name",
        name,
    )
    if taken:
        return 0.0
    row = fetch(f"SELECT next_at, {now_sql()} AS now FROM tasks_pace WHERE name = %s", name)[0]
    return max(0.001, (moment(row["next_at"]) - moment(row["now"])).total_seconds() - ahead)


def beat_once(name: str, period: float) -> bool:
    """Return True for one caller per period, over all processes."""
    due = f"tasks_pulse.at <= {now_sql(str(-float(period)))}"
    rows = fetch(
        f"INSERT INTO tasks_pulse (name, at, data) VALUES (%s, {now_sql()}, {as_json(quoted('{}'))}) "
        f"ON CONFLICT (name) DO UPDATE SET at = {now_sql()} WHERE {due} RETURNING name",
        name,
    )
    return bool(rows)


def braked() -> bool:
    """Return whether claiming is stopped because workers died without any step being done."""
    return bool(fetch(f"SELECT 1 FROM tasks_pulse WHERE name = 'brake' AND at > {now_sql()}"))


def note_death(most: int, pause: float) -> bool:
    """Count a worker's death; after `most` with nothing settled in between, stop claiming for `pause` seconds.

    Many runs may have died with one worker: as long as any of them comes to something, whoever took it
    lives. Returns True when this death was the one too many.
    """
    with transaction.atomic():
        last = int(fetch("SELECT coalesce(max(id), 0) AS n FROM tasks_taskevent")[0]["n"])
        rows = fetch("SELECT data FROM tasks_pulse WHERE name = 'deaths'")
        known = rows[0]["data"] if rows else {}
        known = json.loads(known) if isinstance(known, str) else known
        since = known.get("since", last)
        done = fetch(f"SELECT 1 FROM tasks_taskevent WHERE id > %s AND kind IN {LIVED} LIMIT 1", since)
        count = 1 if done else known.get("count", 0) + 1
        tripped = count >= most
        _put_pulse(
            "deaths", {"count": 0 if tripped else count, "since": last if done or tripped else since}, 0.0
        )
        if tripped:
            _put_pulse("brake", {}, pause)
    return tripped


def _put_pulse(name: str, data: Row, ahead: float) -> None:
    at = now_sql(str(float(ahead)))
    execute(
        f"INSERT INTO tasks_pulse (name, at, data) VALUES (%s, {at}, {as_json('%s')}) "
        f"ON CONFLICT (name) DO UPDATE SET at = excluded.at, data = excluded.data",
        name,
        json.dumps(data),
    )


def due_count(limit: int = 1000) -> int:
    """Return how many tasks are due, counted up to `limit`."""
    rows = fetch(
        f"SELECT count(*) AS n FROM (SELECT 1 FROM tasks_task WHERE wake_at <= {now_sql()} LIMIT {int(limit)}) AS d"
    )
    return int(rows[0]["n"])


def expired_values(limit: int = 100) -> list[Row]:
    """Return runs whose values were kept as long as they may be."""
    return fetch(
        f"SELECT id, status FROM tasks_task WHERE scrub_at <= {now_sql()} ORDER BY scrub_at LIMIT {int(limit)}"
    )


def scrub_failed(ids: Sequence[UUID]) -> int:
    """Take the values of failed runs whose time is over; the event says so."""
    with transaction.atomic():
        rows = locked(ids)
        failed = [row for row in rows.values() if row["status"] == "failed"]
        for row in failed:
            progress = (
                "jsonb_set(progress, '{scrubbed}', 'true')"
                if postgres()
                else "json_set(progress, '$.scrubbed', json('true'))"
            )
            execute(
                f"UPDATE tasks_task SET sealed = NULL, request = NULL, scrub_at = NULL, seq = seq + 1, "
                f"progress = {progress} WHERE id = %s",
                key(row["id"]),
            )
        write_events((row["id"], Event(row["seq"] + 1, "scrubbed", "", "failed", {})) for row in failed)
        done = [row["id"] for row in failed]
        scrub_sides(done, "approval")
        scrub_sides(done, "notification")
    return len(failed)


def prune_acknowledgements(before: datetime) -> None:
    """Forget who had an acknowledgement so long ago."""
    execute("DELETE FROM tasks_contactmark WHERE kind = 'acknowledgement' AND at < %s", as_time(before))


def prune(before: datetime, limit: int = 500) -> int:
    """Remove old finished tasks with their events; their keys stay spent. Nothing else removes a run."""
    with transaction.atomic():
        ids = [
            as_uuid(row["id"])
            for row in fetch(
                "SELECT id FROM tasks_task t WHERE status IN ('completed', 'cancelled', 'failed') "
                "AND finished_at < %s AND NOT EXISTS (SELECT 1 FROM tasks_task c WHERE c.parent_id = t.id) "
                f"ORDER BY id LIMIT {int(limit)} {'FOR UPDATE' if postgres() else ''}",
                as_time(before),
            )
        ]
        if not ids:
            return 0
        document = id_document(ids)
        if postgres():
            execute("SET LOCAL sopengine.prune = 'on'")
        execute(
            "INSERT INTO tasks_spentkey (key, spent_at) SELECT idempotency_key, created_at FROM tasks_task "
            f"WHERE idempotency_key IS NOT NULL AND status <> 'cancelled' AND {ids_in('id')} ON CONFLICT DO NOTHING",
            document,
        )
        execute(f"UPDATE tasks_scheduledrun SET task_id = NULL WHERE {ids_in('task_id')}", document)
        for table in ("notification", "approval", "taskevent"):
            execute(f"DELETE FROM tasks_{table} WHERE {ids_in('task_id')}", document)
        execute(f"DELETE FROM tasks_task WHERE {ids_in('id')}", document)
        return len(ids)
