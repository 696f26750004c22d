"""What is written beside the row: events, children, questions to people, messages to staff."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID, uuid5

from django.conf import settings
from django.db import transaction

from credentials import vault
from tasks.journal.contacts import free_contacts
from tasks.journal.facts import asker_of
from tasks.journal.sql import (
    Row,
    as_json,
    as_time,
    as_uuid,
    document,
    execute,
    fetch,
    id_document,
    ids_in,
    key,
    now_sql,
    postgres,
    quoted,
    source,
)
from tasks.transition import Event, Turn

_EVENT = {"task": "uuid", "seq": "bigint", "kind": "text", "step": "text", "status": "text", "data": "text"}
_CHILD = {
    "id": "uuid", "version": "bigint", "parent": "uuid", "step": "text", "waiting_for": "text", "due": "int",
    "priority": "int", "key": "text", "context": "text", "sealed": "text", "progress": "text",
}  # fmt: skip
_QUESTION = {
    "id": "uuid", "task": "uuid", "step": "text", "visit": "int", "options": "text", "sealed": "text",
    "channel": "text", "expires_at": "text", "allowed": "text",
}  # fmt: skip
_POST = {
    "id": "uuid", "task": "uuid", "approval": "uuid", "kind": "text", "severity": "text", "channel": "text",
    "dedupe": "text", "sealed": "text", "fold": "text", "medium": "text", "recipient": "bigint",
}  # fmt: skip
_AGAIN = {"id": "uuid", "message": "uuid", "sealed": "text"}


def write_sides(turns: Sequence[Turn]) -> None:
    """Write events, children, questions and messages of the turns whose row was written."""
    write_events((turn.id, event) for turn in turns for event in turn.events)
    closing = [turn for turn in turns if turn.closes]
    for state in {turn.closes for turn in closing}:
        _close_questions([turn.id for turn in closing if turn.closes == state], state)
    insert_children([child for turn in turns for child in turn.child_rows])
    moving = [turn for turn in turns if turn.expiry]
    for expiry in {turn.expiry for turn in moving if turn.expiry}:
        _move_expiry([turn.id for turn in moving if turn.expiry == expiry], *expiry)
    for turn in turns:
        if turn.frees:
            free_contacts(*turn.frees)
    _insert_questions(turns)
    _insert_posts(turns)
    scrub_sides([turn.id for turn in turns if turn.over and turn.progress.get("asked")], "approval")
    scrub_sides([turn.id for turn in turns if turn.over and _was_told_of(turn)], "notification")


def _was_told_of(turn: Turn) -> bool:
    """Whether staff may have had a message about this run: of its own, or one that lists its questions."""
    return any(turn.progress.get(name) for name in ("posted", "asked", "listed"))


def write_events(events: Iterable[tuple[UUID, Event]]) -> None:
    """Append events; `at` is the database's clock."""
    rows = [
        {
            "task": key(task),
            "seq": event.seq,
            "kind": event.kind,
            "step": event.step,
            "status": event.status,
            "data": json.dumps(event.data),
        }
        for task, event in events
    ]
    if rows:
        execute(
            "INSERT INTO tasks_taskevent (task_id, seq, kind, step, status, at, data) "
            f"SELECT c.task, c.seq, c.kind, c.step, c.status, {now_sql()}, {as_json('c.data')} FROM {source(_EVENT)}",
            document(rows),
        )


def _close_questions(tasks: Sequence[UUID], state: str) -> None:
    closed = fetch(
        "UPDATE tasks_approval SET state = %s, sealed = NULL "
        f"WHERE state = 'open' AND {ids_in('task_id')} RETURNING message_id",
        state,
        id_document(tasks),
    )
    tell_again(as_uuid(row["message_id"]) for row in closed if row["message_id"])


def tell_again(messages: Iterable[UUID]) -> None:
    """Let these chat messages be replaced by what is so now: one update each, however often it changed.

    The update of a message has one id for ever, so that a change while it is being posted makes it due
    once more.
    """
    rows = []
    for message in sorted(set(messages)):
        update = uuid5(message, "update")
        sealed = vault.seal({"text": ""}, table="tasks_notification", row=str(update), field="sealed")
        rows.append({"id": key(update), "message": key(message), "sealed": sealed})
    if rows:
        execute(
            "INSERT INTO tasks_notification (id, task_id, approval_id, kind, severity, channel, sealed, state, "
            "attempts, wake_at, created_at, reference, reason, medium, recipient_id, fold, count, replaces_id) "
            f"SELECT c.id, m.task_id, m.approval_id, 'update', 'info', m.channel, c.sealed, 'pending', 0, "
            f"{now_sql()}, {now_sql()}, '', '', 'chat', m.recipient_id, '', 1, m.id FROM {source(_AGAIN)} "
            "JOIN tasks_notification m ON m.id = c.message WHERE m.medium = 'chat' ORDER BY m.id "
            "ON CONFLICT (id) DO UPDATE SET state = 'pending', attempts = 0, wake_at = excluded.wake_at, "
            "created_at = excluded.created_at, sealed = excluded.sealed, reason = '', sent_at = NULL",
            document(rows),
        )


def insert_children(rows: Sequence[Row]) -> list[Row]:
    """Insert tasks; one whose key is spent is left out. Returns the rows that were inserted."""
    if not rows:
        return []
    documents = [
        {**row, "id": key(row["id"]), "parent": row["parent"] and key(row["parent"])} for row in rows
    ]
    made = fetch(
        "INSERT INTO tasks_task (id, version_id, parent_id, status, step, visit, retries, crashes, seq, wake_at, "
        "waiting_for, mailbox, result, reason, priority, idempotency_key, context, sealed, progress, created_at) "
        "SELECT c.id, c.version, c.parent, CASE WHEN c.waiting_for = '' THEN 'ready' ELSE 'waiting' END, c.step, "
        f"1, 0, 0, 1, CASE WHEN c.due = 1 THEN {now_sql()} END, c.waiting_for, {as_json(quoted('[]'))}, '', '', "
        f"c.priority, c.key, {as_json('c.context')}, c.sealed, {as_json('c.progress')}, {now_sql()} "
        f"FROM {source(_CHILD)} WHERE NOT EXISTS (SELECT 1 FROM tasks_spentkey s WHERE s.key = c.key) "
        "ON CONFLICT DO NOTHING RETURNING id",
        document(documents),
    )
    kept = {as_uuid(row["id"]) for row in made}
    inserted = [row for row in rows if row["id"] in kept]
    write_events(
        (
            row["id"],
            Event(1, "created", row["step"], "waiting" if row["waiting_for"] else "ready", row["origin"]),
        )
        for row in inserted
    )
    return inserted


def insert_tasks(rows: Sequence[Row]) -> list[Row]:
    """Insert new tasks with their first event; those whose key is spent are left out."""
    with transaction.atomic():
        return insert_children(rows)


def _move_expiry(tasks: Sequence[UUID], at: datetime | None) -> None:
    """Let the open questions of these runs end at another hour; None: not by themselves."""
    execute(
        f"UPDATE tasks_approval SET expires_at = %s WHERE state = 'open' AND {ids_in('task_id')}",
        as_time(at),
        id_document(tasks),
    )


def _insert_questions(turns: Sequence[Turn]) -> None:
    rows = [
        {
            "id": key(q.id),
            "task": key(turn.id),
            "step": q.step,
            "visit": q.visit,
            "options": json.dumps(q.options),
            "sealed": vault.seal(q.content, table="tasks_approval", row=str(q.id), field="sealed"),
            "channel": q.channel or settings.ESCALATIONS_CHANNEL,
            "expires_at": as_time(q.expires_at),
            "allowed": json.dumps({**q.allowed, "not": asker_of(turn.id)} if q.not_asker else q.allowed),
        }
        for turn in turns
        for q in turn.questions
    ]
    if rows:
        execute(
            "INSERT INTO tasks_approval (id, task_id, step, visit, state, options, sealed, channel, created_at, "
            "expires_at, choice, edited, allowed) SELECT c.id, c.task, c.step, c.visit, 'open', "
            f"{as_json('c.options')}, c.sealed, c.channel, {now_sql()}, "
            f"{'c.expires_at::timestamptz' if postgres() else 'c.expires_at'}, '', "
            f"{'false' if postgres() else '0'}, {as_json('c.allowed')} FROM {source(_QUESTION)}",
            document(rows),
        )


def _insert_posts(turns: Sequence[Turn]) -> None:
    rows = [row for turn in turns for row in turn.post_rows]
    if rows:
        execute(
            "INSERT INTO tasks_notification (id, task_id, approval_id, kind, severity, channel, dedupe, sealed, "
            "state, attempts, wake_at, created_at, reference, reason, medium, recipient_id, fold, count) "
            "SELECT c.id, c.task, c.approval, c.kind, "
            f"c.severity, c.channel, c.dedupe, c.sealed, 'pending', 0, {now_sql()}, {now_sql()}, '', '', "
            f"c.medium, c.recipient, c.fold, 1 FROM {source(_POST)} WHERE true ON CONFLICT DO NOTHING",
            document(
                {
                    **row,
                    "id": key(row["id"]),
                    "task": key(row["task"]),
                    "approval": row["approval"] and key(row["approval"]),
                }
                for row in rows
            ),
        )


def scrub_sides(tasks: Sequence[UUID], table: str) -> None:
    """A run that is over leaves no text behind; a message still to be posted is nulled when it is."""
    if tasks:
        sent = " AND state = 'sent'" if table == "notification" else ""
        execute(
            f"UPDATE tasks_{table} SET sealed = NULL WHERE sealed IS NOT NULL{sent} AND {ids_in('task_id')}",
            id_document(tasks),
        )
