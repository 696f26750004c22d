"""What starts runs by itself: the schedules of published SOPs. Also the start by hand.

Any process may fire, and all of them do, as part of their sweep. Who moves a SOP's cursor writes
its slots and starts its run, in one transaction; the others find the cursor moved. The clock of
the database says which slots have come.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q

from sopengine.errors import DataError
from tasks import calendars, engine, journal
from tasks.models import ScheduledRun, Sop, SopVersion, Task

ON_TIME = timedelta(minutes=10)  # what `catch_up: skip` still calls in time
MOST_SLOTS = 1_000  # that one firing writes; after a long silence older ones leave no row

STARTED = "started"
MISSED = "missed"  # the catch-up rule let it go
OVERLAP = "overlap"  # the run of an earlier slot had not ended
REFUSED = "refused"  # the SOP's own inputs do not let it start
SPENT = "spent"  # this slot has a run already

log = logging.getLogger(__name__)


class NotRunnable(ValueError):
    """A SOP that may not be started now; the sentence says why and what to do."""


def fire_due() -> int:
    """Start what the schedules of the published SOPs ask for; return how many runs that were."""
    now = journal.database_now()
    started = 0
    for sop in Sop.objects.filter(_scheduled(), cursor__lt=now).select_related("published").order_by("pk"):
        try:
            started += _fire(sop, now)
        except DatabaseError as error:
            log.error("schedule of %s not fired: SQLSTATE %s", sop.slug, journal.sqlstate(error))
        except Exception as error:  # one broken SOP must not keep the others from their hour
            log.error("schedule of %s not fired: %s", sop.slug, type(error).__name__)
    return started


def _scheduled() -> Q:
    return Q(state=Sop.State.ACTIVE, published__isnull=False, cursor__isnull=False) & Q(
        published__definition__trigger__has_key="schedule"
    )


def _fire(sop: Sop, now: datetime) -> int:
    """Deal with the slots of one SOP up to `now`, unless another process does; return the runs started."""
    assert sop.published is not None
    assert sop.cursor is not None
    trigger = sop.published.definition["trigger"]
    slots = due_slots(trigger, sop.cursor, now)
    if not slots:
        return 0  # the cursor stays: it is what the next firing counts from
    with transaction.atomic():
        mine = Sop.objects.filter(
            pk=sop.pk, cursor=sop.cursor, state=Sop.State.ACTIVE, published=sop.published
        ).update(cursor=now)
        if not mine:
            return 0
        to_start = slot_to_start(trigger, slots, now)
        rows = [ScheduledRun(sop=sop, slot=slot, outcome=MISSED) for slot in slots if slot != to_start]
        if to_start:
            rows.append(_start(sop, sop.published, trigger, to_start))
        ScheduledRun.objects.bulk_create(rows, ignore_conflicts=True)
    return sum(row.outcome == STARTED for row in rows)


def due_slots(trigger: Mapping[str, Any], after: datetime, until: datetime) -> list[datetime]:
    """Return the slots of a trigger in (after, until], in UTC, oldest first."""
    return calendars.slots(
        trigger["schedule"],
        trigger.get("timezone") or settings.TIME_ZONE,
        after,
        until,
        trigger.get("from", ""),
        trigger.get("until", ""),
        limit=MOST_SLOTS,
    )


def next_slot(trigger: Mapping[str, Any], after: datetime) -> datetime | None:
    """Return the first slot of a trigger after a moment, in UTC; None without a schedule."""
    if not trigger.get("schedule"):
        return None
    return calendars.next_slot(
        trigger["schedule"],
        trigger.get("timezone") or settings.TIME_ZONE,
        after,
        trigger.get("from", ""),
        trigger.get("until", ""),
    )


def slot_to_start(trigger: Mapping[str, Any], slots: Sequence[datetime], now: datetime) -> datetime | None:
    """Return which of the due slots is started: the newest, or with `catch_up: skip` only one in time."""
    newest = slots[-1]
    late = now - newest > ON_TIME
    return None if late and trigger.get("catch_up", "once") == "skip" else newest


def _start(sop: Sop, version: SopVersion, trigger: Mapping[str, Any], slot: datetime) -> ScheduledRun:
    """Start the run of a slot, and return the row that says what came of it."""
    if trigger.get("overlap", "skip") == "skip" and is_running(sop):
        return ScheduledRun(sop=sop, slot=slot, outcome=OVERLAP)
    try:
        task = engine.start(version, {}, key=f"slot:{slot.isoformat()}", slot=slot, by="schedule")
    except (engine.InputError, DataError) as error:
        log.error("schedule of %s cannot start: %s", sop.slug, error)
        return ScheduledRun(sop=sop, slot=slot, outcome=REFUSED)
    return ScheduledRun(sop=sop, slot=slot, outcome=STARTED if task else SPENT, task=task)


def is_running(sop: Sop) -> bool:
    """Whether a run of the SOP is under way; one that only waits for its children does not count."""
    is_open = Q(status__in=[Task.Status.READY, Task.Status.RUNNING, Task.Status.WAITING, Task.Status.PAUSED])
    only_waits = Q(status=Task.Status.WAITING, waiting_for="children")
    return Task.objects.filter(is_open & ~only_waits, version__sop=sop).exists()


def start_now(sop: Sop, inputs: Mapping[str, Any], by: str) -> Task:
    """Start one run by hand; its slot is its start. Raises NotRunnable or InputError."""
    version = runnable(sop)
    task = engine.start(version, inputs, slot=journal.database_now(), by=by)
    assert task is not None, "a run without a key is always new"
    return task


def runnable(sop: Sop) -> SopVersion:
    """Return the version that a new run follows, or raise NotRunnable."""
    if sop.state == Sop.State.DISABLED:
        raise NotRunnable(f"SOP {sop.slug} is disabled; publish it again to let it run.")
    if sop.state != Sop.State.ACTIVE or sop.published is None:
        raise NotRunnable(f"SOP {sop.slug} is a draft; publish it before it can run.")
    return sop.published
