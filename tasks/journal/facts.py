"""What a turn must know of other rows: people's answers, children by result."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from uuid import UUID

from credentials import vault
from tasks.journal.sql import as_uuid, fetch, id_document, ids_in, key, quoted
from tasks.transition import Answer

RESULTS = ("sent", "declined", "skipped", "expired", "customer_gone", "failed", "cancelled", "done")


def answers(ids: Sequence[UUID]) -> dict[str, Answer]:
    """Return what people decided in these approvals."""
    rows = fetch(
        "SELECT id, choice, options, answered_by_id, sealed FROM tasks_approval "
        f"WHERE state = 'answered' AND {ids_in('id')}",
        id_document(ids),
    )
    found = {}
    for row in rows:
        approval = str(as_uuid(row["id"]))
        options = json.loads(row["options"]) if isinstance(row["options"], str) else row["options"]
        outcome = next((o["outcome"] for o in options if o["key"] == row["choice"]), "decline")
        approved = partial(_approved, approval, row["sealed"])
        found[approval] = Answer(approval, row["choice"], outcome, row["answered_by_id"], approved)
    return found


def _approved(approval: str, sealed: str | None) -> Mapping[str, str]:
    """Return the text that was approved, edited or as it stood; opened by the one turn that wants it."""
    if not sealed:
        return {}
    content = vault.unseal(sealed, table="tasks_approval", row=approval, field="sealed")
    return dict(content.get("final") or content.get("draft") or {})


def children_of(parents: Sequence[UUID]) -> dict[UUID, tuple[dict[str, int], int]]:
    """Return for each parent its children counted by result, and how many are open."""
    rows = fetch(
        "SELECT parent_id, status, result, count(*) AS n FROM tasks_task "
        f"WHERE {ids_in('parent_id')} GROUP BY parent_id, status, result",
        id_document(parents),
    )
    counted: dict[UUID, tuple[dict[str, int], int]] = {
        parent: ({"total": 0, **dict.fromkeys(RESULTS, 0)}, 0) for parent in parents
    }
    for row in rows:
        parent = as_uuid(row["parent_id"])
        counts, still = counted[parent]
        counts["total"] += row["n"]
        if row["status"] in ("completed", "failed", "cancelled"):
            result = row["status"] if row["status"] in ("failed", "cancelled") else row["result"]
            counts[result] = counts.get(result, 0) + row["n"]
        else:
            still += row["n"]
        counted[parent] = counts, still
    return counted


def asker_of(task: UUID) -> int | None:
    """Return the id of the user who started this run, or the run it belongs to; None when nobody did."""
    by = f"data ->> {quoted('by')}"
    rows = fetch(
        "WITH RECURSIVE line AS (SELECT id, parent_id FROM tasks_task WHERE id = %s UNION ALL "
        "SELECT t.id, t.parent_id FROM tasks_task t JOIN line l ON t.id = l.parent_id) "
        f"SELECT {by} AS by FROM tasks_taskevent e JOIN line l ON e.task_id = l.id "
        "WHERE e.seq = 1 AND l.parent_id IS NULL",
        key(task),
    )
    who = str(rows[0]["by"] or "") if rows else ""
    number = who.removeprefix("user:")
    return int(number) if number.isdigit() else None


def gathered(steps: Mapping[UUID, str]) -> dict[UUID, list[dict[str, object]]]:
    """Return for each parent what its children's open values say under a step's key, oldest child first.

    `steps` has the key of that step by parent; a child that did not come through it says nothing.
    """
    rows = fetch(
        f"SELECT parent_id, context FROM tasks_task WHERE {ids_in('parent_id')} ORDER BY created_at, id",
        id_document(list(steps)),
    )
    found: dict[UUID, list[dict[str, object]]] = {parent: [] for parent in steps}
    for row in rows:
        parent = as_uuid(row["parent_id"])
        values = json.loads(row["context"]) if isinstance(row["context"], str) else row["context"]
        if steps[parent] in values:
            customer = {"crm_customer_id": values.get("crm_customer_id")}
            found[parent].append({**customer, **values[steps[parent]]})
    return found
