"""The engine's face: start a run, signal it, drain what is due. Nobody else changes a task."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from credentials import vault
from tasks import children, journal, wakeups
from tasks.drain import Drain, DrainReport, never
from tasks.inputs import InputError
from tasks.models import SopVersion, Task
from tasks.transition import SIGNALS

__all__ = ["DrainReport", "InputError", "drain", "signal", "start", "started"]

FOR_THE_FAMILY = frozenset({"pause", "resume", "cancel"})


def start(
    version: SopVersion,
    inputs: Mapping[str, Any],
    *,
    key: str | None = None,
    priority: int | None = None,
    slot: datetime | None = None,
    by: str = "",
    origin: Mapping[str, Any] | None = None,
) -> Task | None:
    """Start one run, in the caller's transaction if there is one; wake-ups follow its commit.

    `key` makes it unique for ever within its SOP (a cancelled run gives it back): None is returned
    when it is spent. `by` is an open code of who or what started it; `origin` are more codes that its
    first event keeps. Raises InputError.
    """
    now = journal.database_now()
    row = children.task_row(
        version.pk,
        inputs,
        slot=slot or now,
        now=now,
        key=_start_key(version.sop_id, key) if key else None,
        priority=priority,
        origin={**({"by": by} if by else {}), **(origin or {})},
    )
    made = journal.insert_tasks([row])
    if not made:
        return None
    wakeups.wake()
    return Task.objects.get(pk=row["id"])


def started(sop_id: int, key: str) -> Task | None:
    """Return the run that was started with this key; None before, and once it is cancelled or pruned."""
    spent = vault.fingerprint(_start_key(sop_id, key))
    return Task.objects.filter(idempotency_key=spent).exclude(status=Task.Status.CANCELLED).first()


def _start_key(sop_id: int, key: str) -> str:
    return f"start:{sop_id}:{key}"


def signal(tasks: Iterable[UUID | str], kind: str, **codes: Any) -> int:
    """Tell these runs something; return how many took it.

    `kind`: pause, resume, cancel, retry; answer (approval=id); event (name=...); `codes` are ids
    and codes only. Pause, resume and cancel reach the open children too; of those, what stopped by
    itself is not resumed.
    """
    if kind not in SIGNALS:
        raise ValueError(f"unknown signal {kind!r}; known: {', '.join(sorted(SIGNALS))}")
    entry = {"kind": kind, **{name: value for name, value in codes.items() if value is not None}}
    ids = [task if isinstance(task, UUID) else UUID(str(task)) for task in tasks]
    taken = journal.signal(ids, entry)
    if kind in FOR_THE_FAMILY:
        for brood in journal.families(ids):
            journal.signal(brood if kind != "resume" else _not_parked(brood), entry)
    if taken:
        wakeups.wake()
    return taken


def _not_parked(ids: Sequence[UUID]) -> list[UUID]:
    """Leave out what waits for a person, of which nobody has said that it shall be tried again."""
    parked = set(Task.objects.filter(pk__in=ids, progress__rest="parked").values_list("pk", flat=True))
    return [task for task in ids if task not in parked]


def drain(
    stop: Callable[[], bool] = never, seconds: float | None = None, steps: int | None = None
) -> DrainReport:
    """Run what is due in this process until nothing is, the slice is over, or `stop()` says so."""
    return Drain(stop, seconds, steps).run()
