"""Runs for the engine's tests: SOPs of a few test steps, started and drained in this process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from sopengine import clock
from tasks import engine, journal, plan
from tasks.drain import Drain
from tasks.models import Sop, SopVersion, Task, TaskEvent
from tasks.outcome import Done, Outcome, StepRun, handler, handlers

Told = Callable[[StepRun], Outcome]
_counter = iter(range(1, 1_000_000))


class Probe:
    """A handler whose every call is told what to do, and which remembers its calls."""

    def __init__(self) -> None:
        self.told: dict[str, Told] = {}
        self.calls: list[tuple[UUID, str, str]] = []
        self.looks: list[str] = []
        self.found_by: Callable[[], Outcome | None] = lambda: None

    def run(self, step: StepRun) -> Outcome:
        self.calls.append((step.task_id, step.step, step.key()))
        return self.told.get(step.step, lambda _: Done())(step)

    def look(self, step: StepRun) -> Outcome | None:
        self.looks.append(step.key())
        return self.found_by()

    def keys(self) -> list[str]:
        return [key for _, _, key in self.calls]


def probe_handlers() -> Iterator[Probe]:
    """Register one probe as a handler of each effect class; take it out again afterwards."""
    probe = Probe()
    plan.forget()

    def run(step: StepRun) -> Outcome:
        return probe.run(step)

    def look(step: StepRun) -> Outcome | None:
        return probe.look(step)

    kinds: dict[str, dict[str, Any]] = {
        "probe.pure": {},
        "probe.read": {"calls": True},
        "probe.keyed": {"effect": "idempotent"},
        "probe.checked": {"effect": "verify_first", "look": look},
        "probe.once": {"effect": "at_most_once"},
        "probe.crm": {"crm": True},
    }
    for name, options in kinds.items():
        handler(name, **options)(run)
    yield probe
    for name in kinds:
        handlers.remove(name)


def published(*steps: str | dict[str, Any], **sop: Any) -> SopVersion:
    """Publish a SOP of these steps: a handler's name, or the step's whole line."""
    number = next(_counter)
    lines = [
        {"key": f"s{place}", "handler": step} if isinstance(step, str) else {"key": f"s{place}", **step}
        for place, step in enumerate(steps, 1)
    ]
    slug = sop.pop("slug", f"sop-{number}")
    row = Sop.objects.create(slug=slug, name=slug.title(), state=Sop.State.ACTIVE)
    version = SopVersion.objects.create(
        sop=row,
        number=1,
        published_at=clock.now(),
        definition={"sop": slug, "name": slug.title(), "channel": "#office", "steps": lines, **sop},
    )
    row.published = version
    row.save()
    return version


def begun(version: SopVersion, inputs: dict[str, Any] | None = None, **options: Any) -> Task:
    """Start one run."""
    task = engine.start(version, inputs or {}, **options)
    assert task is not None
    return task


def several(version: SopVersion, count: int) -> list[Task]:
    """Start some runs of the same SOP."""
    return [begun(version) for _ in range(count)]


def fresh(task: Task) -> Task:
    """Return the task as its row is now."""
    return Task.objects.get(pk=task.pk)


def kinds(task: Task) -> list[str]:
    """Return the kinds of the task's events, in order."""
    return list(TaskEvent.objects.filter(task=task).order_by("seq").values_list("kind", flat=True))


def make_due(*tasks: Task) -> None:
    """Let the hour of these tasks come now."""
    moment = journal.database_now()
    for task in tasks:
        row = fresh(task)
        progress = row.progress
        wait = progress.get("wait", {})
        if wait.get("until"):
            wait["until"] = moment.isoformat()
        for entry in wait.get("plan", []):
            entry[0] = moment.isoformat()
            break
        Task.objects.filter(pk=task.pk, wake_at__isnull=False).update(wake_at=moment, progress=progress)


class HandDrain(Drain):
    """A drain that a test steps by hand, to stand between its claim and its settle."""

    def claimed(self) -> list[Task]:
        """Claim what is due and run it up to its settle."""
        self._claim()
        return list(Task.objects.filter(pk__in=list(self.held)))

    def settle(self) -> None:
        """Write what has come to rest."""
        self._settle()

    def work(self) -> None:
        """Run the calls that were claimed, to their end, without settling them."""
        self._hand_over()
        while self.crew.working:
            self._collect()


# Events that say nothing of what a step came to: the count of deaths goes on over them.
UNRECORDED = {
    *("created", "claimed", "started", "handed_back", "rested", "released", "freed", "paced", "crm_called"),
    *("paused", "resumed", "retried", "ignored", "reminded", "escalated", "scrubbed", "late", "reread"),
    *("found", "moved", "opened", "looks_again"),
}


def replayed(events: Sequence[TaskEvent]) -> dict[str, Any]:
    """Return what the events alone say of the row."""
    row = {
        "status": "",
        "step": events[0].step,
        "visit": 1,
        "retries": 0,
        "crashes": 0,
        "seq": events[-1].seq,
    }
    visits = {events[0].step: 1}
    for event in events:
        if event.kind == "claimed":
            row["crashes"] += 1
        elif event.kind not in UNRECORDED:
            row["crashes"] = int(row["status"] == "running")
        if event.status != "running":
            row["crashes"] = (
                max(0, row["crashes"] - 1) if row["status"] in ("running", "") else row["crashes"]
            )
        row["status"] = event.status
        if "retry" in event.data:
            row["retries"] = event.data["retry"]
        if event.kind in ("retried", "continued") or event.data.get("choice") == "send_again":
            row["retries"] = 0
        if event.data.get("to", "complete") != "complete":
            there = event.data["to"]
            visits[there] = visits.get(there, 0) + 1
            row.update(step=there, visit=visits[there], retries=0)
    return row


def check_invariants(tasks: Sequence[Task] | None = None) -> None:
    """Hold the standing invariants: every run has a future or an end, and its events tell its story."""
    for task in Task.objects.all() if tasks is None else [fresh(task) for task in tasks]:
        over = task.status in ("completed", "failed", "cancelled")
        held = task.status == "paused" or task.waiting_for
        assert over or held or task.wake_at is not None, f"{task.status} with no hour"
        events = list(task.events.order_by("seq"))
        story = [(event.seq, event.kind, event.status, event.data) for event in events]
        assert [event.seq for event in events] == list(range(1, task.seq + 1)), story
        said = replayed(events)
        assert said == {name: getattr(task, name) for name in said}, story
        if task.status in ("completed", "cancelled"):
            assert task.sealed is None
            assert task.request is None
