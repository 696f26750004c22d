"""What staff must know at a glance: what needs a person, what fails, what is late, is the machine alive.

Each number stands for a filter of the list of runs, so that the list behind a number has as many rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from crm import breaker, health
from sopengine import clock, inbox
from tasks.models import Approval, Notification, Pulse, Sop, Task
from tasks.notices import away_pulse
from tasks.schedules import next_slots
from tasks.timeline import span

OPEN = ("ready", "running", "waiting", "paused")
LATE_AFTER = timedelta(minutes=5)
SLOW_AFTER = timedelta(minutes=2)
DEAD_AFTER = timedelta(minutes=10)

STOPPED = Q(status="paused") & ~Q(reason__in=("", "paused"))
ASKED = Q(waiting_for__startswith="approval:", status__in=("waiting", "paused"))


@dataclass(frozen=True, slots=True)
class State:
    """How one state looks everywhere: a sign, a word and a tone (good, busy, wait, alert, bad, calm)."""

    word: str
    sign: str
    tone: str


STATES: Mapping[str, State] = {
    "ready": State("Ready", "○", "busy"),
    "running": State("Running", "▶", "busy"),
    "waiting": State("Waiting", "…", "wait"),
    "needs": State("Needs an answer", "?", "alert"),
    "stopped": State("Stopped", "!", "bad"),
    "paused": State("Paused", "‖", "wait"),
    "completed": State("Done", "✓", "good"),
    "failed": State("Failed", "✕", "bad"),
    "cancelled": State("Cancelled", "⊘", "calm"),
    "draft": State("Draft", "✎", "calm"),
    "active": State("Active", "✓", "good"),
    "disabled": State("Disabled", "‖", "wait"),
    "open": State("Waiting for an answer", "?", "alert"),
    "answered": State("Answered", "✓", "good"),
    "expired": State("Closed unanswered", "⊘", "calm"),
    "void": State("Void", "⊘", "calm"),
    "pending": State("Waiting to be posted", "…", "wait"),
    "sent": State("Posted", "✓", "good"),
    "dead": State("Not delivered", "✕", "bad"),
    "received": State("Waiting to be processed", "…", "wait"),
    "processed": State("Processed", "✓", "good"),
}


def state_of(task: Task) -> State:
    """Return the state of a run in staff words."""
    if task.status in ("waiting", "paused") and task.waiting_for.startswith("approval:"):
        return STATES["needs"]
    if task.status == "paused" and task.reason not in ("", "paused"):
        return STATES["stopped"]
    return STATES[task.status]


def needs(name: str, now: datetime) -> Q:
    """Return the filter of runs behind one of the overview's numbers."""
    return {
        "person": ASKED | STOPPED,
        "stopped": STOPPED & ~ASKED,
        "failed": Q(status="failed", finished_at__gte=now - timedelta(days=1)),
        "late": Q(status__in=("ready", "running", "waiting"), wake_at__lt=now - LATE_AFTER),
    }[name]


NEEDS: Mapping[str, str] = {
    "person": "Needs a person",
    "stopped": "Stopped",
    "failed": "Failed, ended in the last 24 h",
    "late": "Late by more than 5 minutes",
}
WAITS: Mapping[str, tuple[str, Q]] = {
    "person": ("a person", Q(waiting_for__startswith="approval:")),
    "time": ("a time", Q(waiting_for="time")),
    "event": ("something to happen", Q(waiting_for="event")),
    "children": ("the runs it started", Q(waiting_for="children")),
    "provider": ("another system", Q(waiting_for__startswith="provider:")),
    "listing": ("its list to be complete", Q(waiting_for="listing")),
}


@dataclass(frozen=True, slots=True)
class Alive:
    """Whether the machine works: a tone and a sentence."""

    tone: str
    text: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The four answers, with the moment they were counted."""

    at: datetime
    to_answer: int
    stopped: int
    undelivered: int
    unprocessed: int
    failed: int
    late: int
    alive: Alive
    crm: Alive
    chat: Alive

    @property
    def calm(self) -> bool:
        """Return whether nobody need do anything."""
        to_do = self.to_answer or self.stopped or self.undelivered or self.unprocessed
        return not (to_do or self.failed or self.late) and self.crm.tone == self.chat.tone == "good"


def overview() -> Overview:
    """Count what staff must know now."""
    now = clock.now()
    return Overview(
        at=now,
        to_answer=open_approvals(),
        stopped=stopped_runs(),
        undelivered=Notification.objects.filter(state=Notification.State.DEAD).count(),
        unprocessed=inbox.failures(),
        failed=Task.objects.filter(needs("failed", now)).count(),
        late=Task.objects.filter(needs("late", now)).count(),
        alive=alive(now),
        crm=crm(now),
        chat=chat(),
    )


def open_approvals() -> int:
    """Count the questions that wait for an answer."""
    return Approval.objects.filter(state=Approval.State.OPEN).count()


def stopped_runs() -> int:
    """Count the runs that stopped for a person and ask no question."""
    return Task.objects.filter(STOPPED & ~ASKED).count()


def alive(now: datetime) -> Alive:
    """Say when the machine last looked for work."""
    pulse = Pulse.objects.filter(name="sweep").first()
    if pulse is None:
        return Alive("bad", "The machine has not been seen yet. Start a worker.")
    age = now - pulse.at
    seen = f"The machine last looked for work {span(age.total_seconds())} ago"
    if age > DEAD_AFTER:
        return Alive("bad", f"{seen}. It seems to stand still: nothing is lost, but nothing goes on.")
    if age > max(SLOW_AFTER, timedelta(seconds=3 * settings.ENGINE_SWEEP)):
        return Alive("wait", f"{seen}; that is slow.")
    return Alive("good", f"{seen}.")


def crm(now: datetime) -> Alive:
    """Say how the connection to the CRM stands, and how many runs wait for it."""
    standing = health.standing("crm")
    if standing.may_call:
        return Alive("good", "The CRM answers." if standing.last_ok_at else "The CRM was not needed yet.")
    count = Task.objects.filter(waiting_for="provider:crm", status="waiting").count()
    waiting = (
        f" {count} run{'' if count == 1 else 's'} wait{'s' if count == 1 else ''} for it." if count else ""
    )
    tone = "bad" if standing.state in (breaker.SILENT, breaker.REFUSED) else "wait"
    return Alive(tone, f"The CRM {breaker.in_words(standing, now)}.{waiting}")


def chat() -> Alive:
    """Say whether what is said to staff reaches them."""
    away = {
        medium: pulse.data.get("code", "")
        for medium in Notification.Medium.values
        for pulse in Pulse.objects.filter(name=away_pulse(medium))
    }
    if not away:
        return Alive("good", "Messages to staff are delivered.")
    names = {Notification.Medium.CHAT: "chat", Notification.Medium.MAIL: "mail"}
    told = " and ".join(f"{names[Notification.Medium(medium)]} ({code})" for medium, code in away.items())
    count = Notification.objects.filter(state=Notification.State.PENDING, medium__in=away).count()
    waiting = f"{count} message{' waits' if count == 1 else 's wait'}"
    return Alive("bad", f"Messages to staff do not leave by {told}; {waiting} and nothing is lost.")


@dataclass(frozen=True, slots=True)
class Coming:
    """One scheduled start: which SOP, and when."""

    sop: Sop
    at: datetime


def next_starts(now: datetime) -> list[Coming]:
    """Return the next start of each active SOP that has a schedule, the nearest first."""
    active = Sop.objects.filter(state=Sop.State.ACTIVE, published__isnull=False).select_related("published")
    coming = [
        Coming(sop, slot)
        for sop in active
        if sop.published is not None
        for slot in next_slots(sop.published.definition.get("trigger", {}), now, 1)
    ]
    return sorted(coming, key=lambda start: start.at)[:8]
