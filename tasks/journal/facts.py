"""What a turn must know of other rows: people's answers, children by result."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from uuid import UUID

from credentials import vault
from tasks.journal.sql import as_uuid, fetch, id_document, ids_in
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
