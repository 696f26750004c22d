"""A machine that does to the engine whatever the world may do, in any order, and checks it each time."""

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tasks import engine, journal
from tasks import sweep as sweeping
from tasks.models import Approval, Sop, SopVersion, Task
from tasks.outcome import Ask, Child, DataError, Option, Outcome, Start, StepRun, Transient, Wait
from tests.tasks.runs import HandDrain, check_invariants, probe_handlers, published

SIGNALS = ["pause", "resume", "cancel", "retry"]
SHAPES: dict[str, list[Any]] = {
    "pure": ["probe.pure"] * 3,
    "calls": ["probe.read", "probe.keyed", "probe.pure"],
    "mail": ["probe.pure", "probe.once", "probe.pure"],
    "checked": ["probe.checked", "probe.pure"],
    "wait": ["probe.pure", {"handler": "probe.pure", "key": "wait"}, "probe.pure"],
    "ask": [{"handler": "probe.pure", "key": "ask"}, "probe.once"],
    "loses": [{"handler": "probe.once", "key": "lost"}, "probe.pure"],
    "fails": [{"handler": "probe.read", "key": "odd", "on_failure": "fail"}],
    "flaky": [{"handler": "probe.read", "key": "flaky", "max_retries": 1}],
    "crm": [{"handler": "probe.crm", "key": "flaky", "max_retries": 0}],
    "parent": [{"handler": "probe.pure", "key": "start"}, "probe.pure"],
}


ONCE = {("mail", "s2"), ("ask", "s2"), ("loses", "lost")}


def wait(_: StepRun) -> Outcome:
    return Wait(event="paid", delay=timedelta(days=1))


def ask(_: StepRun) -> Outcome:
    options = (Option("yes", "Yes", "approve"), Option("no", "No", "decline"))
    return Ask("Shall we?", options, draft={"text": "x"}, remind_after=(60,), expire_after=3600)


def lost(_: StepRun) -> Outcome:
    raise Transient("broke", sent="maybe")


def odd(_: StepRun) -> Outcome:
    raise DataError("odd")


def flaky(_: StepRun) -> Outcome:
    raise Transient("away", sent="no")


def start(run: StepRun) -> Outcome:
    return Start([Child("pure", {}, key=f"{run.task_id}:{n}") for n in range(2)])


class World(RuleBasedStateMachine):
    """Workers that claim, work, settle and die; staff that signal and answer; clocks that run out."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        self.probes = probe_handlers()
        self.probe = next(self.probes)
        self.probe.told = {"wait": wait, "ask": ask, "lost": lost, "odd": odd, "flaky": flaky, "start": start}
        self.versions = {name: published(*steps, slug=name) for name, steps in SHAPES.items()}
        self.again: Counter[UUID] = Counter()
        self.pinned: dict[UUID, int] = {}

    def teardown(self) -> None:
        next(self.probes, None)
        transaction.set_rollback(True)
        self.block.__exit__(None, None, None)

    def tasks(self) -> list[Task]:
        return list(Task.objects.order_by("created_at", "id"))

    # -- what may happen

    @rule(shape=st.sampled_from(sorted(SHAPES)))
    def begin(self, shape: str) -> None:
        task = engine.start(self.versions[shape], {})
        assert task is not None
        self.pinned[task.id] = task.version_id

    @rule(target=workers, limit=st.integers(1, 5))
    def claim(self, limit: int) -> Any:
        drain = HandDrain()
        drain.claimed()
        return drain if drain.held else multiple()

    @rule(drain=workers)
    def work(self, drain: HandDrain) -> None:
        drain.work()

    @rule(drain=workers)
    def settle(self, drain: HandDrain) -> None:
        drain.settle()

    @rule()
    def leases_run_out(self) -> None:
        """Every worker that has not settled counts as dead, or is a zombie that settles later."""
        Task.objects.filter(status="running").update(wake_at=journal.database_now())

    @rule()
    def hours_come(self) -> None:
        moment = journal.database_now()
        for task in Task.objects.filter(wake_at__isnull=False).exclude(status="running"):
            pending = task.progress.get("wait", {})
            if pending.get("until"):
                pending["until"] = moment.isoformat()
            if pending.get("plan"):
                pending["plan"][0][0] = moment.isoformat()
            Task.objects.filter(pk=task.pk).update(wake_at=moment, progress=task.progress)

    @rule()
    def sweep(self) -> None:
        sweeping.heal_families()

    @rule()
    def drain_everything(self) -> None:
        engine.drain()

    @rule(kind=st.sampled_from(SIGNALS), which=st.integers(0, 50))
    def signal(self, kind: str, which: int) -> None:
        tasks = self.tasks()
        if tasks:
            engine.signal([tasks[which % len(tasks)].id], kind)

    @rule(which=st.integers(0, 50))
    def event(self, which: int) -> None:
        tasks = self.tasks()
        if tasks:
            engine.signal([tasks[which % len(tasks)].id], "event", name="paid")

    @rule(which=st.integers(0, 50), choice=st.integers(0, 2))
    def answer(self, which: int, choice: int) -> None:
        questions = list(Approval.objects.filter(state="open").order_by("created_at", "id"))
        if not questions:
            return
        question = questions[which % len(questions)]
        chosen = question.options[choice % len(question.options)]["key"]
        Approval.objects.filter(pk=question.pk, state="open").update(state="answered", choice=chosen)
        if chosen == "send_again":
            self.again[question.task_id] += 1
        engine.signal([question.task_id], "answer", approval=str(question.pk))

    @rule(shape=st.sampled_from(sorted(SHAPES)))
    def edit(self, shape: str) -> None:
        """A new version is published; runs under way keep theirs."""
        old = self.versions[shape]
        new = SopVersion.objects.create(
            sop_id=old.sop_id,
            number=SopVersion.objects.filter(sop_id=old.sop_id).count() + 1,
            published_at=journal.database_now(),
            definition={
                **old.definition,
                "steps": [*old.definition["steps"], {"key": "more", "handler": "probe.pure"}],
            },
        )
        Sop.objects.filter(pk=old.sop_id).update(published=new)
        self.versions[shape] = new

    # -- what must hold

    @invariant()
    def every_run_has_a_future_or_an_end_and_its_events_tell_its_story(self) -> None:
        check_invariants()

    @invariant()
    def nothing_is_sent_twice_without_a_person_saying_so(self) -> None:
        slugs = dict(Task.objects.values_list("id", "version__sop__slug"))
        sent = Counter(task for task, step, _ in self.probe.calls if (slugs[task], step) in ONCE)
        for task, times in sent.items():
            assert times <= 1 + self.again[task]

    @invariant()
    def a_run_keeps_its_version(self) -> None:
        for task in self.tasks():
            assert self.pinned.get(task.id, task.version_id) == task.version_id


@pytest.mark.django_db
def test_whatever_happens_in_whatever_order_nothing_is_lost_and_nothing_happens_twice() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        World,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
