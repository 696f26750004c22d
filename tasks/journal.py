"""The only raw SQL: claim, renew, settle, signal. Every write of a task and its events is here.

Both databases get the same statements: a batch travels as one JSON document, which PostgreSQL
opens with jsonb_to_recordset and SQLite with json_each. What decides who may act is the
database's clock, moved by `clock.offset()`.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)
from django.db.utils import DataError as DatabaseDataError

from credentials import vault
from sopengine import clock
from sopengine.crashpoint import crashpoint
from tasks import context as values
from tasks.transition import ENDED, FAILED_KEEPS, OPEN_KEEPS, Answer, Event, Turn

T = TypeVar("T")
Row = dict[str, Any]
Refused = (IntegrityError, DatabaseDataError)

_ROW = ["id", "version_id", "parent_id", "step", "visit", "retries", "crashes", "seq", "waiting_for", "started_at", "mailbox", "result", "reason", "priority", "context", "sealed", "request", "progress"]


def _postgres() -> bool:
    return connection.vendor == "postgresql"


def _now(plus: str = "") -> str:
    """Return the SQL of the moved database clock; `plus` is an SQL expression in seconds."""
    moved = f"{clock.offset():.6f}"
    if _postgres():
        return f"(statement_timestamp() + ({moved}{' + ' + plus if plus else ''}) * interval '1 second')"
    shift = f"({moved}{' + ' + plus if plus else ''}) || ' seconds'"
    return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', {shift})"


def _source(columns: Mapping[str, str]) -> str:
    """Return the SQL that opens the document parameter as a table `c` with these columns."""
    if _postgres():
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"jsonb_to_recordset(%s::jsonb) AS c({typed})"
    picked = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
    return f"(SELECT {picked} FROM json_each(%s)) AS c"


def _json(column: str) -> str:
    return f"{column}::jsonb" if _postgres() else column


def _id(value: UUID) -> str:
    return str(value) if _postgres() else value.hex


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _time(value: datetime | None) -> str | None:
    if value is None:
        return None
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") + ("+00" if _postgres() else "")


def _when(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _document(rows: Iterable[Row]) -> str:
    return json.dumps(list(rows), separators=(",", ":"))


def _fetch(sql: str, *params: Any) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        if cursor.description is None:
            return []
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _execute(sql: str, *params: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


def _ids_in(column: str) -> str:
    """Return an SQL condition on `column` that takes one document of ids."""
    if _postgres():
        return f"{column} = ANY(ARRAY(SELECT jsonb_array_elements_text(%s::jsonb)::uuid))"
    return f"{column} IN (SELECT value FROM json_each(%s))"


def _id_document(ids: Iterable[UUID]) -> str:
    return json.dumps([_id(i) for i in ids])


def database_now() -> datetime:
    """Return the moved clock of the database."""
    return _when(_fetch(f"SELECT {_now()} AS now")[0]["now"])


def patiently(work: Callable[[], T], patience: float = 3.0) -> T:
    """Do `work`, a whole transaction, again while the database is busy, dead-locked or away."""
    ends = clock.monotonic() + patience
    pause = 0.02
    while True:
        try:
            return work()
        except (OperationalError, InterfaceError):
            if connection.in_atomic_block or clock.monotonic() + pause > ends:
                raise
            connection.close_if_unusable_or_obsolete()
            time.sleep(pause * (1 + random.random()))  # noqa: S311
            pause = min(2 * pause, 0.5)


# -- claim ---------------------------------------------------------------------------------------


def claim(owner: UUID, limit: int, lease: float, *, fair: bool = False) -> list[Row]:
    """Take up to `limit` due and healthy tasks; `fair` goes by age alone, whatever the priority."""
    order = "priority, wake_at"
    if fair and _postgres():
        # Three short index scans instead of a second index on every row.
        tiers = " UNION ALL ".join(
            f"(SELECT id, wake_at FROM tasks_task WHERE crashes = 0 AND priority = {p} "  # noqa: S608
            f"AND wake_at <= {_now()} ORDER BY wake_at LIMIT {int(limit)})"
            for p in (0, 1, 2)
        )
        oldest = f"SELECT id FROM ({tiers}) AS t ORDER BY wake_at LIMIT {int(limit)}"  # noqa: S608
        due = f"id = ANY(ARRAY({oldest})) AND crashes = 0 AND wake_at <= {_now()}"
    else:
        due = f"crashes = 0 AND wake_at <= {_now()}"
        order = "wake_at" if fair else order
    return patiently(lambda: _claim(owner, due, order, limit, lease))


def claim_suspect(owner: UUID, lease: float) -> list[Row]:
    """Take one task that a worker died with; it runs alone."""
    return patiently(lambda: _claim(owner, f"crashes > 0 AND wake_at <= {_now()}", "wake_at", 1, lease))


def _claim(owner: UUID, due: str, order: str, limit: int, lease: float) -> list[Row]:
    columns = ", ".join(_ROW)  # bare names: SQLite knows no alias in RETURNING
    lock = "FOR UPDATE SKIP LOCKED" if _postgres() else ""
    chosen = f"SELECT id FROM tasks_task WHERE {due} ORDER BY {order} LIMIT {int(limit)} {lock}"  # noqa: S608
    update = (
        "UPDATE tasks_task AS t SET status = 'running', seq = t.seq + 1, crashes = t.crashes + 1, "  # noqa: S608
        f"lease_owner = %s, wake_at = {_now(str(float(lease)))} "
        f"WHERE t.id {'= ANY(ARRAY(' if _postgres() else 'IN ('}{chosen}{'))' if _postgres() else ')'} "
        f"RETURNING {columns}, {_now()} AS now"
    )
    with transaction.atomic():
        if _postgres():
            rows = _fetch(
                f"WITH t AS ({update}), noted AS (INSERT INTO tasks_taskevent "  # noqa: S608
                "(task_id, seq, kind, step, status, at, data) SELECT id, seq, 'claimed', step, 'running', now, "
                "CASE WHEN crashes > 1 THEN jsonb_build_object('crashes', crashes - 1) ELSE '{}'::jsonb END "
                "FROM t) SELECT * FROM t",
                _id(owner),
            )
        else:
            rows = _fetch(update, _id(owner))
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO tasks_taskevent (task_id, seq, kind, step, status, at, data) "
                    "VALUES (%s, %s, 'claimed', %s, 'running', %s, %s)",
                    [
                        (
                            row["id"],
                            row["seq"],
                            row["step"],
                            row["now"],
                            json.dumps({"crashes": row["crashes"] - 1} if row["crashes"] > 1 else {}),
                        )
                        for row in rows
                    ],
                )
        crashpoint("m4")
    return [_opened(row) for row in rows]


def _opened(row: Row) -> Row:
    """Turn a fetched row into Python values."""
    for name in ("mailbox", "context", "progress"):
        row[name] = json.loads(row[name]) if isinstance(row[name], str) else row[name]
    for name in ("id", "parent_id"):
        if row[name] is not None and not isinstance(row[name], UUID):
            row[name] = UUID(row[name])
    row["now"] = _when(row["now"])
    return row


def renew(owner: UUID, ids: Iterable[UUID], lease: float) -> set[UUID]:
    """Prolong the leases of these tasks; return those that are still ours."""
    rows = patiently(
        lambda: _fetch(
            f"UPDATE tasks_task SET wake_at = {_now(str(float(lease)))} "  # noqa: S608
            f"WHERE {_ids_in('id')} AND status = 'running' AND lease_owner = %s RETURNING id",
            _id_document(ids),
            _id(owner),
        )
    )
    return {_uuid(row["id"]) for row in rows}


# -- settle --------------------------------------------------------------------------------------

_CHANGE = {
    "id": "uuid", "was": "bigint", "status": "text", "step": "text", "visit": "int", "retries": "int",
    "crashes": "int", "seq": "bigint", "wake_in": "float8", "wake_until": "text", "waiting_for": "text",
    "started": "text", "mailbox": "text", "result": "text", "reason": "text", "context": "text",
    "sealed": "text", "request": "text", "progress": "text", "scrub_in": "float8", "over": "int",
}  # fmt: skip
_EVENT = {"task": "uuid", "seq": "bigint", "kind": "text", "step": "text", "status": "text", "data": "text"}
_CHILD = {
    "id": "uuid", "version": "bigint", "parent": "uuid", "step": "text", "waiting_for": "text", "due": "int",
    "priority": "int", "key": "text", "context": "text", "sealed": "text", "progress": "text",
}  # fmt: skip
_QUESTION = {
    "id": "uuid", "task": "uuid", "step": "text", "visit": "int", "options": "text", "sealed": "text",
    "channel": "text", "expires_in": "float8",
}  # fmt: skip
_POST = {
    "id": "uuid", "task": "uuid", "approval": "uuid", "kind": "text", "severity": "text", "channel": "text",
    "dedupe": "text", "sealed": "text",
}  # fmt: skip


def settle(
    turns: Sequence[Turn], owner: UUID, lease: float, *, starting: frozenset[UUID] = frozenset()
) -> set[UUID]:
    """Write what the turns have come to, in one transaction; return the ids that were still ours.

    A turn that is still running keeps its lease; those in `starting` get the start mark with it,
    unless mail has come, which makes the row ready and due. Afterwards each written turn is fresh:
    its events and side rows are gone from memory, its `status` is the row's.
    Raises IntegrityError or DataError of the database when a row cannot be stored: nothing is written.
    """
    sealed = {turn.id: _sealed_of(turn) for turn in turns}

    def work() -> dict[UUID, str]:
        with transaction.atomic():
            return _write(turns, sealed, owner, lease, starting)

    written = patiently(work, patience=lease)
    for turn in turns:
        if turn.id in written:
            _refresh(turn, written[turn.id], sealed[turn.id])
    return set(written)


def _sealed_of(turn: Turn) -> str | None:
    if turn.status in ENDED or turn.progress.get("scrubbed"):
        return None
    return values.seal(str(turn.id), turn.sealed) if turn.resealed else turn.sealed_text


def _write(
    turns: Sequence[Turn],
    sealed: Mapping[UUID, str | None],
    owner: UUID,
    lease: float,
    starting: frozenset[UUID],
) -> dict[UUID, str]:
    rows = _locked([turn.id for turn in turns])
    fenced = []
    written: dict[UUID, str] = {}
    changes = []
    for turn in turns:
        row = rows.get(turn.id)
        if row is not None and row["seq"] == turn.seq != turn.base_seq and row["lease_owner"] == owner:
            written[turn.id] = row["status"]  # our commit, whose acknowledgement was lost
        elif row is None or row["seq"] != turn.base_seq:
            fenced.append(turn.id)
        else:
            mail = row["mailbox"][turn.taken :]
            status = "ready" if turn.running and mail else turn.status
            if status != turn.status:
                _hand_back(turn, turn.id in starting)
            changes.append((turn, _change(turn, status, mail, sealed[turn.id], lease, turn.id in starting)))
            written[turn.id] = status
    if changes:
        crashpoint("m3")
        _update(changes)
        crashpoint("m4")
        _write_sides([turn for turn, _ in changes])
    return written


def _hand_back(turn: Turn, starting: bool) -> None:
    """Mail has come: the row is left ready and due, and a start that was about to be marked is not."""
    if not turn.events or turn.events[-1].kind != "handed_back":
        if starting:
            turn.events.pop()
            turn.seq -= 1
        turn.note("handed_back", why="mail")
        turn.events[-1].status = "ready"


def _locked(ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Lock the rows in the order of their ids, which every writer keeps."""
    lock = "FOR UPDATE" if _postgres() else ""
    rows = _fetch(
        f"SELECT id, seq, status, mailbox, lease_owner FROM tasks_task "  # noqa: S608
        f"WHERE {_ids_in('id')} ORDER BY id {lock}",
        _id_document(ids),
    )
    for row in rows:
        row["mailbox"] = json.loads(row["mailbox"]) if isinstance(row["mailbox"], str) else row["mailbox"]
        for name in ("id", "lease_owner"):
            if isinstance(row[name], str):
                row[name] = UUID(row[name])
    return {row["id"]: row for row in rows}


def _change(turn: Turn, status: str, mail: list[Row], sealed: str | None, lease: float, starts: bool) -> Row:
    """Return the row's new values."""
    over = status in ENDED
    running = status == "running"
    wake_in, wake_until = turn.wake_in, turn.wake_until
    if running:
        wake_in, wake_until = lease, None
    elif not over and (mail or (status == "ready" and wake_in is None and wake_until is None)):
        wake_in, wake_until = 0.0, None
    scrub_in = None
    if not over and not running and sealed is not None:
        scrub_in = FAILED_KEEPS if status == "failed" else OPEN_KEEPS
    started = "keep" if turn.started else ""
    return {
        "id": _id(turn.id),
        "was": turn.base_seq,
        "status": status,
        "step": turn.step,
        "visit": turn.visit,
        "retries": turn.retries,
        "crashes": turn.crashes if running else max(0, turn.crashes - 1),
        "seq": turn.seq,
        "wake_in": wake_in,
        "wake_until": _time(wake_until),
        "waiting_for": turn.waiting_for,
        "started": "mark" if running and starts else started,
        "mailbox": json.dumps([] if over else mail),
        "result": turn.result,
        "reason": turn.reason[:200],
        "context": json.dumps(turn.context),
        "sealed": sealed,
        "request": None if over or (starts and not running) else turn.request,
        "progress": json.dumps(turn.progress),
        "scrub_in": scrub_in,
        "over": int(over or status == "failed"),
    }


def _update(changes: Sequence[tuple[Turn, Row]]) -> None:
    _execute(
        "UPDATE tasks_task AS t SET status = c.status, step = c.step, visit = c.visit, retries = c.retries, "  # noqa: S608
        "crashes = c.crashes, seq = c.seq, waiting_for = c.waiting_for, result = c.result, reason = c.reason, "
        f"wake_at = CASE WHEN c.wake_in IS NOT NULL THEN {_now('c.wake_in')} "
        f"ELSE {'c.wake_until::timestamptz' if _postgres() else 'c.wake_until'} END, "
        f"started_at = CASE c.started WHEN 'mark' THEN {_now()} WHEN 'keep' THEN t.started_at END, "
        f"mailbox = {_json('c.mailbox')}, context = {_json('c.context')}, progress = {_json('c.progress')}, "
        "sealed = c.sealed, request = c.request, "
        f"finished_at = CASE WHEN c.over = 1 THEN {_now()} END, "
        f"scrub_at = CASE WHEN c.scrub_in IS NOT NULL THEN {_now('c.scrub_in')} END "
        f"FROM {_source(_CHANGE)} WHERE t.id = c.id AND t.seq = c.was",
        _document(row for _, row in changes),
    )


def _write_sides(turns: Sequence[Turn]) -> None:
    """Write events, children, questions and messages of the turns whose row was written."""
    write_events((turn.id, event) for turn in turns for event in turn.events)
    closing = [turn for turn in turns if turn.closes]
    for state in {turn.closes for turn in closing}:
        _close_questions([turn.id for turn in closing if turn.closes == state], state)
    _insert_children([child for turn in turns for child in turn.child_rows])
    _insert_questions(turns)
    _insert_posts(turns)
    _scrub_sides([turn.id for turn in turns if turn.over and turn.progress.get("asked")], "approval")
    _scrub_sides([turn.id for turn in turns if turn.over and turn.progress.get("posted")], "notification")


def write_events(events: Iterable[tuple[UUID, Event]]) -> None:
    """Append events; `at` is the database's clock."""
    rows = [
        {
            "task": _id(task),
            "seq": event.seq,
            "kind": event.kind,
            "step": event.step,
            "status": event.status,
            "data": json.dumps(event.data),
        }
        for task, event in events
    ]
    if rows:
        _execute(
            "INSERT INTO tasks_taskevent (task_id, seq, kind, step, status, at, data) "  # noqa: S608
            f"SELECT c.task, c.seq, c.kind, c.step, c.status, {_now()}, {_json('c.data')} FROM {_source(_EVENT)}",
            _document(rows),
        )


def _close_questions(tasks: Sequence[UUID], state: str) -> None:
    _execute(
        f"UPDATE tasks_approval SET state = %s, sealed = NULL WHERE state = 'open' AND {_ids_in('task_id')}",  # noqa: S608
        state,
        _id_document(tasks),
    )


def _insert_children(rows: Sequence[Row]) -> list[Row]:
    """Insert tasks; one whose key is spent is left out. Returns the rows that were inserted."""
    if not rows:
        return []
    documents = [
        {**row, "id": _id(row["id"]), "parent": row["parent"] and _id(row["parent"])} for row in rows
    ]
    made = _fetch(
        "INSERT INTO tasks_task (id, version_id, parent_id, status, step, visit, retries, crashes, seq, wake_at, "  # noqa: S608
        "waiting_for, mailbox, result, reason, priority, idempotency_key, context, sealed, progress, created_at) "
        "SELECT c.id, c.version, c.parent, CASE WHEN c.waiting_for = '' THEN 'ready' ELSE 'waiting' END, c.step, "
        f"1, 0, 0, 1, CASE WHEN c.due = 1 THEN {_now()} END, c.waiting_for, {_json(_quoted('[]'))}, '', '', "
        f"c.priority, c.key, {_json('c.context')}, c.sealed, {_json('c.progress')}, {_now()} "
        f"FROM {_source(_CHILD)} WHERE NOT EXISTS (SELECT 1 FROM tasks_spentkey s WHERE s.key = c.key) "
        "ON CONFLICT DO NOTHING RETURNING id",
        _document(documents),
    )
    kept = {_uuid(row["id"]) for row in made}
    inserted = [row for row in rows if row["id"] in kept]
    write_events(
        (
            row["id"],
            Event(1, "created", row["step"], "waiting" if row["waiting_for"] else "ready", row["origin"]),
        )
        for row in inserted
    )
    return inserted


def _quoted(text: str) -> str:
    return f"'{text}'"


def insert_tasks(rows: Sequence[Row]) -> list[Row]:
    """Insert new tasks with their first event; those whose key is spent are left out."""
    with transaction.atomic():
        return _insert_children(rows)


def _insert_questions(turns: Sequence[Turn]) -> None:
    rows = [
        {
            "id": _id(q.id),
            "task": _id(turn.id),
            "step": q.step,
            "visit": q.visit,
            "options": json.dumps(q.options),
            "sealed": vault.seal(q.content, table="tasks_approval", row=str(q.id), field="sealed"),
            "channel": q.channel,
            "expires_in": q.expires_in,
        }
        for turn in turns
        for q in turn.questions
    ]
    if rows:
        _execute(
            "INSERT INTO tasks_approval (id, task_id, step, visit, state, options, sealed, channel, created_at, "  # noqa: S608
            "expires_at, choice, edited) SELECT c.id, c.task, c.step, c.visit, 'open', "
            f"{_json('c.options')}, c.sealed, c.channel, {_now()}, "
            f"CASE WHEN c.expires_in IS NOT NULL THEN {_now('c.expires_in')} END, '', "
            f"{'false' if _postgres() else '0'} FROM {_source(_QUESTION)}",
            _document(rows),
        )


def _insert_posts(turns: Sequence[Turn]) -> None:
    rows = [row for turn in turns for row in turn.post_rows]
    if rows:
        _execute(
            "INSERT INTO tasks_notification (id, task_id, approval_id, kind, severity, channel, dedupe, sealed, "  # noqa: S608
            "state, attempts, wake_at, created_at, reference, reason) SELECT c.id, c.task, c.approval, c.kind, "
            f"c.severity, c.channel, c.dedupe, c.sealed, 'pending', 0, {_now()}, {_now()}, '', '' "
            f"FROM {_source(_POST)} WHERE true ON CONFLICT DO NOTHING",
            _document(
                {
                    **row,
                    "id": _id(row["id"]),
                    "task": _id(row["task"]),
                    "approval": row["approval"] and _id(row["approval"]),
                }
                for row in rows
            ),
        )


def _scrub_sides(tasks: Sequence[UUID], table: str) -> None:
    """A run that is over leaves no text behind; a message still to be posted is nulled when it is."""
    if tasks:
        sent = " AND state = 'sent'" if table == "notification" else ""
        _execute(
            f"UPDATE tasks_{table} SET sealed = NULL WHERE sealed IS NOT NULL{sent} AND {_ids_in('task_id')}",  # noqa: S608
            _id_document(tasks),
        )


def _refresh(turn: Turn, status: str, sealed: str | None) -> None:
    """After the commit the turn stands for what the row now holds."""
    turn.status, turn.base_seq, turn.sealed_text = status, turn.seq, sealed
    turn.mailbox, turn.taken, turn.wake_in, turn.wake_until = [], 0, None, None
    turn.events, turn.children, turn.questions, turn.posts = [], [], [], []
    turn.child_rows, turn.post_rows = [], []
    turn.closes, turn.resealed = "", False


def reread(ids: Sequence[UUID], owner: UUID) -> list[Row]:
    """Return the rows of these tasks as they stand, as far as they are still ours."""
    columns = ", ".join(f"t.{name}" for name in _ROW)
    rows = _fetch(
        f"SELECT {columns}, {_now()} AS now FROM tasks_task t WHERE {_ids_in('t.id')} "  # noqa: S608
        "AND t.status = 'running' AND t.lease_owner = %s",
        _id_document(ids),
        _id(owner),
    )
    return [_opened(row) for row in rows]


# -- signals -------------------------------------------------------------------------------------


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
    return patiently(lambda: _signal(f"{_ids_in('id')} AND {takes}", wakes, entry, _id_document(ids)))


def _signal(where: str, wakes: str, entry: Row, *params: Any) -> int:
    if _postgres():
        mailbox = "mailbox || jsonb_build_array(%s::jsonb)"
        # Rows are locked in the order of their ids, as in a settle.
        chosen = f"id IN (SELECT id FROM tasks_task WHERE {where} ORDER BY id FOR UPDATE)"  # noqa: S608
    else:
        mailbox = "json_insert(mailbox, '$[#]', json(%s))"
        chosen = where
    return _execute(
        f"UPDATE tasks_task SET mailbox = {mailbox}, "  # noqa: S608
        f"wake_at = CASE WHEN {wakes} THEN {_now()} ELSE wake_at END WHERE {chosen}",
        json.dumps(entry),
        *params,
    )


def release_children(parent: UUID) -> int:
    """Make the children of a finished listing due, in batches."""
    released = 0
    while ids := [
        _uuid(row["id"])
        for row in _fetch(
            "SELECT id FROM tasks_task WHERE parent_id = %s AND status = 'waiting' "
            "AND waiting_for = 'listing' AND wake_at IS NULL ORDER BY id LIMIT 500",
            _id(parent),
        )
    ]:
        taken = patiently(
            lambda ids=ids: _signal(  # type: ignore[misc]
                f"{_ids_in('id')} AND waiting_for = 'listing' AND wake_at IS NULL AND status = 'waiting'",
                "true",
                {"kind": "release"},
                _id_document(ids),
            )
        )
        released += taken
        if not taken:
            break
    return released


def wake_parents(parents: Iterable[UUID] | None = None) -> int:
    """Wake parents that wait for children and have none open: these, or (None) all there are."""
    mine = "" if parents is None else f" AND {_ids_in('p.id')}"
    params = () if parents is None else (_id_document(parents),)
    rows = _fetch(
        "SELECT p.id FROM tasks_task p WHERE p.waiting_for = 'children' AND p.status = 'waiting' "  # noqa: S608
        "AND p.wake_at IS NULL AND NOT EXISTS (SELECT 1 FROM tasks_task c WHERE c.parent_id = p.id "
        f"AND c.status IN ('ready', 'running', 'waiting', 'paused')){mine} ORDER BY p.id LIMIT 1000",
        *params,
    )
    ids = [_uuid(row["id"]) for row in rows]
    return signal(ids, {"kind": "children"})


def parents_to_release() -> list[UUID]:
    """Return parents whose listing is complete and whose children still wait for it."""
    rows = _fetch(
        "SELECT p.id FROM tasks_task p WHERE p.waiting_for = 'children' AND EXISTS (SELECT 1 FROM tasks_task c "
        "WHERE c.parent_id = p.id AND c.status = 'waiting' AND c.waiting_for = 'listing' AND c.wake_at IS NULL)"
    )
    return [_uuid(row["id"]) for row in rows]


def families(ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    """Yield the open descendants of these tasks, generation by generation, in batches."""
    todo = list(ids)
    while todo:
        brood = open_children(todo[:200])
        seen: set[UUID] = set()
        while brood:
            yield brood
            seen.update(brood)
            brood = open_children(todo[:200], after=brood[-1])
        todo = todo[200:] + sorted(seen)


def orphans() -> list[UUID]:
    """Return cancelled parents that still have open children."""
    rows = _fetch(
        "SELECT p.id FROM tasks_task p WHERE p.status = 'cancelled' AND p.id IN (SELECT c.parent_id "
        "FROM tasks_task c WHERE c.parent_id IS NOT NULL AND c.status IN ('ready', 'running', 'waiting', 'paused'))"
    )
    return [_uuid(row["id"]) for row in rows]


def open_children(parents: Sequence[UUID], *, after: UUID | None = None, limit: int = 500) -> list[UUID]:
    """Return children of these tasks that are not over yet, in the order of their ids."""
    beyond = " AND id > %s" if after else ""
    rows = _fetch(
        "SELECT id FROM tasks_task WHERE status IN ('ready', 'running', 'waiting', 'paused') "  # noqa: S608
        f"AND {_ids_in('parent_id')}{beyond} ORDER BY id LIMIT {int(limit)}",
        _id_document(parents),
        *([_id(after)] if after else []),
    )
    return [_uuid(row["id"]) for row in rows]


# -- facts ---------------------------------------------------------------------------------------

RESULTS = ("sent", "declined", "skipped", "expired", "customer_gone", "failed", "cancelled", "done")


def answers(ids: Sequence[UUID]) -> dict[str, Answer]:
    """Return what people decided in these approvals."""
    rows = _fetch(
        "SELECT id, choice, options, answered_by_id, sealed FROM tasks_approval "  # noqa: S608
        f"WHERE state = 'answered' AND {_ids_in('id')}",
        _id_document(ids),
    )
    found = {}
    for row in rows:
        approval = str(_uuid(row["id"]))
        options = json.loads(row["options"]) if isinstance(row["options"], str) else row["options"]
        outcome = next((o["outcome"] for o in options if o["key"] == row["choice"]), "decline")
        final: Mapping[str, str] = {}
        if row["sealed"]:
            content = vault.unseal(row["sealed"], table="tasks_approval", row=approval, field="sealed")
            final = content.get("final") or content.get("draft") or {}
        found[approval] = Answer(approval, row["choice"], outcome, row["answered_by_id"], final)
    return found


def children_of(parents: Sequence[UUID]) -> dict[UUID, tuple[dict[str, int], int]]:
    """Return for each parent its children counted by result, and how many are open."""
    rows = _fetch(
        "SELECT parent_id, status, result, count(*) AS n FROM tasks_task "  # noqa: S608
        f"WHERE {_ids_in('parent_id')} GROUP BY parent_id, status, result",
        _id_document(parents),
    )
    counted: dict[UUID, tuple[dict[str, int], int]] = {
        parent: ({"total": 0, **dict.fromkeys(RESULTS, 0)}, 0) for parent in parents
    }
    for row in rows:
        parent = _uuid(row["parent_id"])
        counts, still = counted[parent]
        counts["total"] += row["n"]
        if row["status"] in ("completed", "failed", "cancelled"):
            result = row["status"] if row["status"] in ("failed", "cancelled") else row["result"]
            counts[result] = counts.get(result, 0) + row["n"]
        else:
            still += row["n"]
        counted[parent] = counts, still
    return counted


# -- small clocks --------------------------------------------------------------------------------


def reserve(name: str, spacing: float) -> float:
    """Take the next free slot of a rate limit; return in how many seconds it is."""
    ahead = _now(str(float(spacing)))
    later = "greatest" if _postgres() else "max"
    plus = (
        f"tasks_pace.next_at + {float(spacing)} * interval '1 second'"
        if _postgres()
        else f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', tasks_pace.next_at, '{float(spacing)} seconds')"
    )
    row = _fetch(
        f"INSERT INTO tasks_pace (name, next_at) VALUES (%s, {ahead}) "  # noqa: S608
        f"ON CONFLICT (name) DO UPDATE SET next_at = {later}({ahead}, {plus}) RETURNING next_at, {_now()} AS now",
        name,
    )[0]
    return (_when(row["next_at"]) - _when(row["now"])).total_seconds() - spacing


def beat_once(name: str, period: float) -> bool:
    """Return True for one caller per period, over all processes."""
    due = f"tasks_pulse.at <= {_now(str(-float(period)))}"
    rows = _fetch(
        f"INSERT INTO tasks_pulse (name, at, data) VALUES (%s, {_now()}, {_json(_quoted('{}'))}) "  # noqa: S608
        f"ON CONFLICT (name) DO UPDATE SET at = {_now()} WHERE {due} RETURNING name",
        name,
    )
    return bool(rows)


def braked() -> bool:
    """Return whether claiming is stopped because workers died without any step being done."""
    return bool(_fetch(f"SELECT 1 FROM tasks_pulse WHERE name = 'brake' AND at > {_now()}"))  # noqa: S608


def note_death(most: int, pause: float) -> bool:
    """Count a worker's death; after `most` without a step done in between, stop claiming for `pause` seconds.

    Returns True when this death was the one too many.
    """
    with transaction.atomic():
        last = int(_fetch("SELECT coalesce(max(id), 0) AS n FROM tasks_taskevent")[0]["n"])
        rows = _fetch("SELECT data FROM tasks_pulse WHERE name = 'deaths'")
        known = rows[0]["data"] if rows else {}
        known = json.loads(known) if isinstance(known, str) else known
        since = known.get("since", last)
        done = _fetch("SELECT 1 FROM tasks_taskevent WHERE id > %s AND kind = 'step_done' LIMIT 1", since)
        count = 1 if done else known.get("count", 0) + 1
        tripped = count >= most
        _put_pulse(
            "deaths", {"count": 0 if tripped else count, "since": last if done or tripped else since}, 0.0
        )
        if tripped:
            _put_pulse("brake", {}, pause)
    return tripped


def _put_pulse(name: str, data: Row, ahead: float) -> None:
    at = _now(str(float(ahead)))
    _execute(
        f"INSERT INTO tasks_pulse (name, at, data) VALUES (%s, {at}, {_json('%s')}) "  # noqa: S608
        f"ON CONFLICT (name) DO UPDATE SET at = excluded.at, data = excluded.data",
        name,
        json.dumps(data),
    )


def due_count(limit: int = 1000) -> int:
    """Return how many tasks are due, counted up to `limit`."""
    rows = _fetch(
        f"SELECT count(*) AS n FROM (SELECT 1 FROM tasks_task WHERE wake_at <= {_now()} LIMIT {int(limit)}) AS d"  # noqa: S608
    )
    return int(rows[0]["n"])


def expired_values(limit: int = 100) -> list[Row]:
    """Return runs whose values were kept as long as they may be."""
    return _fetch(
        f"SELECT id, status FROM tasks_task WHERE scrub_at <= {_now()} ORDER BY scrub_at LIMIT {int(limit)}"  # noqa: S608
    )


def scrub_failed(ids: Sequence[UUID]) -> int:
    """Take the values of failed runs whose time is over; the event says so."""
    with transaction.atomic():
        rows = _locked(ids)
        failed = [row for row in rows.values() if row["status"] == "failed"]
        for row in failed:
            progress = (
                "jsonb_set(progress, '{scrubbed}', 'true')"
                if _postgres()
                else "json_set(progress, '$.scrubbed', json('true'))"
            )
            _execute(
                f"UPDATE tasks_task SET sealed = NULL, request = NULL, scrub_at = NULL, seq = seq + 1, "  # noqa: S608
                f"progress = {progress} WHERE id = %s",
                _id(row["id"]),
            )
        write_events((row["id"], Event(row["seq"] + 1, "scrubbed", "", "failed", {})) for row in failed)
        done = [row["id"] for row in failed]
        _scrub_sides(done, "approval")
        _scrub_sides(done, "notification")
    return len(failed)


def prune(before: datetime, limit: int = 500) -> int:
    """Remove old finished tasks with their events; their keys stay spent. The only delete there is."""
    with transaction.atomic():
        ids = [
            _uuid(row["id"])
            for row in _fetch(
                "SELECT id FROM tasks_task t WHERE status IN ('completed', 'cancelled', 'failed') "
                "AND finished_at < %s AND NOT EXISTS (SELECT 1 FROM tasks_task c WHERE c.parent_id = t.id) "
                f"ORDER BY id LIMIT {int(limit)} {'FOR UPDATE' if _postgres() else ''}",
                _time(before),
            )
        ]
        if not ids:
            return 0
        document = _id_document(ids)
        if _postgres():
            _execute("SET LOCAL sopengine.prune = 'on'")
        _execute(
            "INSERT INTO tasks_spentkey (key, spent_at) SELECT idempotency_key, created_at FROM tasks_task "  # noqa: S608
            f"WHERE idempotency_key IS NOT NULL AND status <> 'cancelled' AND {_ids_in('id')} ON CONFLICT DO NOTHING",
            document,
        )
        _execute(f"UPDATE tasks_scheduledrun SET task_id = NULL WHERE {_ids_in('task_id')}", document)  # noqa: S608
        for table in ("notification", "approval", "taskevent"):
            _execute(f"DELETE FROM tasks_{table} WHERE {_ids_in('task_id')}", document)  # noqa: S608
        _execute(f"DELETE FROM tasks_task WHERE {_ids_in('id')}", document)  # noqa: S608
        return len(ids)


def sqlstate(error: DatabaseError) -> str:
    """Return what may be logged of a database error: its state and constraint, never its values."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or type(cause or error).__name__
    constraint = ""
    with suppress(AttributeError):
        constraint = cause.diag.constraint_name or ""  # type: ignore[union-attr]
    return f"{state} {constraint}".strip()
