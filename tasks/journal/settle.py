"""The settle: what turns have come to, written in one transaction and fenced by `seq`."""

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from django.db import transaction

from sopengine.crashpoint import crashpoint
from tasks import context as values
from tasks.journal.sides import write_sides
from tasks.journal.sql import (
    Row,
    as_json,
    as_time,
    document,
    execute,
    fetch,
    id_document,
    ids_in,
    key,
    now_sql,
    patiently,
    postgres,
    source,
)
from tasks.transition import ENDED, FAILED_KEEPS, OPEN_KEEPS, Turn

_CHANGE = {
    "id": "uuid", "was": "bigint", "status": "text", "step": "text", "visit": "int", "retries": "int",
    "crashes": "int", "seq": "bigint", "wake_in": "float8", "wake_until": "text", "waiting_for": "text",
    "started": "text", "mailbox": "text", "result": "text", "reason": "text", "context": "text",
    "sealed": "text", "request": "text", "progress": "text", "scrub_in": "float8", "over": "int",
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
    rows = locked([turn.id for turn in turns])
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
        write_sides([turn for turn, _ in changes])
    return written


def _hand_back(turn: Turn, starting: bool) -> None:
    """Mail has come: the row is left ready and due, and a start that was about to be marked is not."""
    if not turn.events or turn.events[-1].kind != "handed_back":
        if starting:
            turn.events.pop()
            turn.seq -= 1
        turn.note("handed_back", why="mail")
        turn.events[-1].status = "ready"


def locked(ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Lock the rows in the order of their ids, which every writer keeps."""
    lock = "FOR UPDATE" if postgres() else ""
    rows = fetch(
        f"SELECT id, seq, status, mailbox, lease_owner FROM tasks_task "
        f"WHERE {ids_in('id')} ORDER BY id {lock}",
        id_document(ids),
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
        "id": key(turn.id),
        "was": turn.base_seq,
        "status": status,
        "step": turn.step,
        "visit": turn.visit,
        "retries": turn.retries,
        "crashes": turn.crashes if running else max(0, turn.crashes - 1),
        "seq": turn.seq,
        "wake_in": wake_in,
        "wake_until": as_time(wake_until),
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
    execute(
        "UPDATE tasks_task AS t SET status = c.status, step = c.step, visit = c.visit, retries = c.retries, "
        "crashes = c.crashes, seq = c.seq, waiting_for = c.waiting_for, result = c.result, reason = c.reason, "
        f"wake_at = CASE WHEN c.wake_in IS NOT NULL THEN {now_sql('c.wake_in')} "
        f"ELSE {'c.wake_until::timestamptz' if postgres() else 'c.wake_until'} END, "
        f"started_at = CASE c.started WHEN 'mark' THEN {now_sql()} WHEN 'keep' THEN t.started_at END, "
        f"mailbox = {as_json('c.mailbox')}, context = {as_json('c.context')}, progress = {as_json('c.progress')}, "
        "sealed = c.sealed, request = c.request, "
        f"finished_at = CASE WHEN c.over = 1 THEN {now_sql()} END, "
        f"scrub_at = CASE WHEN c.scrub_in IS NOT NULL THEN {now_sql('c.scrub_in')} END "
        f"FROM {source(_CHANGE)} WHERE t.id = c.id AND t.seq = c.was",
        document(row for _, row in changes),
    )


def _refresh(turn: Turn, status: str, sealed: str | None) -> None:
    """After the commit the turn stands for what the row now holds."""
    turn.status, turn.base_seq, turn.sealed_text = status, turn.seq, sealed
    turn.mailbox, turn.taken, turn.wake_in, turn.wake_until = [], 0, None, None
    turn.events, turn.children, turn.questions, turn.posts = [], [], [], []
    turn.child_rows, turn.post_rows = [], []
    turn.closes, turn.resealed, turn.frees, turn.expiry = "", False, None, None
