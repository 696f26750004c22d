"""The sweep: what heals everything. Beat runs it, and so does each worker in passing.

It fires due schedules, wakes parents and children whose message was lost, posts what waits in the
outbox, takes values that were kept long enough, asks for as many drains as there is work, sees
whether a CRM that was away is back, posts the daily summary, and looks whether beat is still there.
"""

from dataclasses import dataclass
from uuid import UUID

from celery import shared_task
from django.conf import settings

from sopengine import inbox
from tasks import crm_line, deliveries, engine, journal, outbox, shutdown, summary, triggers, wakeups, watch

MOST_WAKEUPS = 4


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one sweep found; `ran` is False when another process had just swept."""

    ran: bool
    fired: int = 0
    due: int = 0
    posted: int = 0


def sweep(*, force: bool = False) -> SweepReport:
    """Sweep, at most once per ENGINE_SWEEP over all processes unless forced."""
    if not journal.beat_once("sweep", 0.0 if force else settings.ENGINE_SWEEP * 0.9):
        return SweepReport(ran=False)
    watch.is_back(watch.SWEEP)
    fired = triggers.fire_due()
    deliveries.process()
    heal_families()
    take_old_values()
    posted = outbox.pump()
    outbox.scrub_old()
    inbox.scrub()
    due = journal.due_count()
    if due:
        wakeups.wake(min(MOST_WAKEUPS, 1 + due // settings.ENGINE_BATCH))
    watch.look_for_beat()
    summary.post_due()
    return SweepReport(True, fired, due, posted + mind_connections())


def mind_connections() -> int:
    """See to the CRM and to what opens it, last because a probe may take seconds; post what came of it."""
    crm_line.warn_of_expiry()
    if crm_line.mind():
        wakeups.wake()
    return outbox.pump()


def heal_families() -> None:
    """Finish what a drain that died could not: release listed children, wake parents, cancel orphans."""
    for parent in journal.parents_to_release():
        journal.release_children(parent)
    journal.wake_parents()
    orphans = journal.orphans()
    if orphans:
        engine.signal(orphans, "cancel")
    # Half a list is no list: who was found before a listing gave up is not written to.
    engine.signal(journal.stranded(), "cancel")


def take_old_values() -> None:
    """Failed runs lose their values after a week, open ones after a month, by failing."""
    rows = journal.expired_values()
    failed = [_uuid(row["id"]) for row in rows if row["status"] == "failed"]
    still_open = [_uuid(row["id"]) for row in rows if row["status"] in ("waiting", "paused", "ready")]
    if failed:
        journal.scrub_failed(failed)
    if still_open:
        engine.signal(still_open, "expire")


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


@shared_task(name=wakeups.DRAIN, ignore_result=True)
def run_drain() -> None:
    """A wake-up came: drain, and let a process with stuck threads be replaced."""
    with shutdown.postponed():
        deliveries.process()
        report = engine.drain(stop=shutdown.asked)
        sweep()
    if report.abandoned:
        raise SystemExit(0)


@shared_task(name=wakeups.SWEEP, ignore_result=True)
def run_sweep() -> None:
    """Beat or a worker's timer says that a sweep may be due."""
    sweep()
