"""What the engine makes of steps: retries, failures, unknown outcomes, crashes, families, order."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection, transaction
from django.db.utils import DatabaseError, IntegrityError

from tasks import engine, journal, plan
from tasks import sweep as sweeping
from tasks.models import Approval, Notification, Pulse, SpentKey, Task, TaskEvent
from tasks.outcome import (
    Ask,
    AuthError,
    Branch,
    Child,
    Continue,
    DataError,
    Done,
    Effect,
    Notice,
    Option,
    Outcome,
    RateLimited,
    Start,
    StepRun,
    Transient,
    Wait,
    handlers,
)
from tests.tasks.runs import (
    HandDrain,
    Probe,
    begun,
    check_invariants,
    fresh,
    kinds,
    make_due,
    published,
    several,
)

pytestmark = pytest.mark.django_db


def answer(task: Task, choice: str) -> None:
    """Let a person decide the run's open question."""
    approval = Approval.objects.get(task=task, state="open")
    Approval.objects.filter(pk=approval.pk).update(state="answered", choice=choice)
    engine.signal([task.id], "answer", approval=str(approval.pk))
    engine.drain()


# -- the happy path ------------------------------------------------------------------------------


def test_a_run_goes_through_its_steps_once_and_in_order(probe: Probe) -> None:
    task = begun(published("probe.pure", "probe.read", "probe.keyed", "probe.checked", "probe.once"))
    report = engine.drain()
    assert (report.steps, report.tasks, report.more) == (5, 1, False)
    assert fresh(task).status == "completed"
    assert [step for _, step, _ in probe.calls] == ["s1", "s2", "s3", "s4", "s5"]
    check_invariants()


def test_pure_steps_settle_together_in_one_commit(probe: Probe) -> None:
    task = begun(published(*["probe.pure"] * 5))
    drain = HandDrain()
    drain.claimed()
    assert kinds(task) == ["created", "claimed"]
    drain.settle()
    assert kinds(task) == ["created", "claimed"] + ["step_done"] * 5 + ["completed"]


def test_a_result_is_sealed_unless_its_field_is_open(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Done(
        values={"text": "Dear Ann", "customer_name": "Ann", "crm_customer_id": "c1"}
    )
    probe.told["s2"] = lambda _: Wait(delay=timedelta(days=1))
    task = begun(published("probe.pure", "probe.pure"))
    engine.drain()
    row = fresh(task)
    assert row.context == {"crm_customer_id": "c1"}
    assert row.sealed is not None
    assert "Ann" not in row.sealed


def test_the_same_key_starts_one_run_for_ever_but_a_cancelled_run_gives_it_back(probe: Probe) -> None:
    version = published("probe.pure")
    first = begun(version, key="once")
    assert engine.start(version, {}, key="once") is None
    engine.signal([first.id], "cancel")
    engine.drain()
    second = begun(version, key="once")
    engine.drain()
    journal.prune(journal.database_now() + timedelta(seconds=1))
    assert not Task.objects.filter(pk=second.pk).exists()
    assert SpentKey.objects.count() == 1
    assert engine.start(version, {}, key="once") is None


def test_inputs_are_checked_before_anything_is_written(probe: Probe) -> None:
    version = published("probe.pure", inputs={"season": {"type": "integer"}})
    for odd in ("soon", "9" * 20, True):
        with pytest.raises(engine.InputError, match=r"input 'season' must be of type integer$"):
            engine.start(version, {"season": odd})
    with pytest.raises(engine.InputError, match="has no input 'seson'; its inputs: season"):
        engine.start(version, {"seson": 1})
    assert not Task.objects.exists()


# -- errors --------------------------------------------------------------------------------------


def raising(error: Exception) -> Outcome:
    raise error


def test_a_transient_error_is_retried_three_times_on_the_row_and_then_put_before_a_person(
    probe: Probe, settings: LazySettings
) -> None:
    settings.ENGINE_RETRY_WAITS = [100.0, 200.0, 400.0]
    probe.told["s1"] = lambda _: raising(Transient("no answer"))
    task = begun(published("probe.read"))
    waits = []
    for _ in range(4):
        engine.drain()
        row = fresh(task)
        waits.append(row.wake_at and (row.wake_at - journal.database_now()).total_seconds())
        make_due(task)
    assert len(probe.calls) == 4
    assert len(set(probe.keys())) == 1
    for wait, wanted in zip(waits[:3], (100, 200, 400), strict=True):
        assert wait is not None
        assert wanted - 30 < wait < wanted * 1.3
    assert (fresh(task).status, fresh(task).reason) == ("paused", "transient")
    assert Notification.objects.filter(task=task, kind="escalation").count() == 1
    check_invariants()


@pytest.mark.parametrize("error", [DataError("odd"), AuthError("no"), ValueError("a bug with Ann in it")])
def test_what_a_repeat_cannot_mend_is_not_repeated(probe: Probe, error: Exception) -> None:
    probe.told["s1"] = lambda _: raising(error)
    task = begun(published("probe.read"))
    engine.drain()
    assert len(probe.calls) == 1
    assert fresh(task).status == "paused"
    assert "Ann" not in str(list(TaskEvent.objects.values_list("data", flat=True)))


@pytest.mark.parametrize(
    ("on_failure", "status", "reason"),
    [("escalate", "paused", "data"), ("fail", "failed", "data"), ("s3", "completed", "")],
)
def test_on_failure_is_followed(probe: Probe, on_failure: str, status: str, reason: str) -> None:
    probe.told["s1"] = lambda _: raising(DataError("odd"))
    task = begun(published({"handler": "probe.read", "on_failure": on_failure}, "probe.pure", "probe.pure"))
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == (status, reason)
    check_invariants()


def test_a_step_that_needs_the_crm_is_held_when_the_crm_stays_away(probe: Probe) -> None:
    probe.told["s1"] = lambda _: raising(Transient("no answer", sent="no"))
    tasks = several(published({"handler": "probe.crm", "max_retries": 0}), 3)
    engine.drain()
    for task in tasks:
        row = fresh(task)
        assert (row.status, row.waiting_for, row.retries, row.crashes) == ("waiting", "provider:crm", 0, 0)
        assert row.wake_at is None
    probe.told.clear()
    sweeping.sweep(force=True)
    make_due(*tasks)
    engine.drain()
    assert {fresh(task).status for task in tasks} == {"completed"}
    check_invariants()


def test_a_429_costs_no_retry_and_obeys_its_time(probe: Probe) -> None:
    probe.told["s1"] = lambda _: raising(RateLimited("slow down", retry_after=500))
    task = begun(published("probe.crm"))
    engine.drain()
    row = fresh(task)
    assert (row.status, row.retries) == ("waiting", 0)
    assert row.wake_at is not None
    assert 450 < (row.wake_at - journal.database_now()).total_seconds() < 510


def test_a_removed_handler_parks_its_runs_until_it_is_back(probe: Probe) -> None:
    task = begun(published("probe.pure", "probe.read"))
    gone = handlers.remove("probe.read")
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == ("paused", "handler_missing")
    handlers.register("probe.read")(gone)
    engine.signal([task.id], "retry")
    engine.drain()
    assert fresh(task).status == "completed"


def test_a_branch_to_nowhere_is_a_data_error_of_its_run_alone(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Branch(to="nowhere")
    task = begun(published("probe.pure"))
    other = begun(published({"handler": "probe.read", "key": "elsewhere"}))
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == ("paused", "no_step")
    assert fresh(other).status == "completed"


def test_a_retry_of_a_failed_run_begins_at_the_failed_step(probe: Probe) -> None:
    probe.told["s2"] = lambda _: raising(DataError("odd"))
    task = begun(published("probe.pure", {"handler": "probe.read", "on_failure": "fail"}, "probe.pure"))
    engine.drain()
    assert fresh(task).status == "failed"
    assert fresh(task).scrub_at is None  # it holds nothing of a customer
    probe.told.clear()
    engine.signal([task.id], "retry")
    engine.drain()
    assert [step for _, step, _ in probe.calls] == ["s1", "s2", "s2", "s3"]


def test_a_retry_reads_the_customer_again_first(probe: Probe, crm_customer: str) -> None:
    probe.told["s1"] = lambda _: Done(values={"customer_name": "Old Name", "crm_customer_id": crm_customer})
    probe.told["s2"] = lambda _: raising(DataError("odd"))
    task = begun(published("probe.pure", {"handler": "probe.pure", "on_failure": "fail"}))
    engine.drain()
    seen: list[object] = []
    probe.told["s2"] = lambda run: (seen.append(run.context["customer_name"]), Done())[1]
    engine.signal([task.id], "retry")
    engine.drain()
    assert fresh(task).status == "completed"
    assert seen != ["Old Name"]
    assert isinstance(seen[0], str)
    assert "reread" in kinds(task)
    check_invariants()


# -- unknown outcomes ----------------------------------------------------------------------------


def test_a_mail_whose_answer_was_lost_is_put_before_a_person(probe: Probe) -> None:
    probe.told["s1"] = lambda _: raising(Transient("broke after the first byte", sent="maybe"))
    task = begun(published("probe.once", "probe.pure"))
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == ("paused", "outcome_unknown")
    assert engine.signal([task.id], "resume") == 1  # taken, and ignored: only the answer counts
    engine.drain()
    assert len(probe.calls) == 1
    check_invariants()


@pytest.mark.parametrize(
    ("choice", "calls", "result"), [("was_sent", 1, "sent"), ("skip", 1, "done"), ("send_again", 2, "done")]
)
def test_a_person_settles_an_unknown_outcome(probe: Probe, choice: str, calls: int, result: str) -> None:
    probe.told["s1"] = lambda _: raising(Transient("broke", sent="maybe"))
    task = begun(published("probe.once"))
    engine.drain()
    probe.told.clear()
    answer(task, choice)
    assert (fresh(task).status, fresh(task).result, len(probe.calls)) == ("completed", result, calls)
    check_invariants()


def test_a_second_unknown_outcome_asks_again(probe: Probe) -> None:
    probe.told["s1"] = lambda _: raising(Transient("broke", sent="maybe"))
    task = begun(published("probe.once"))
    engine.drain()
    answer(task, "send_again")
    assert (fresh(task).status, Approval.objects.filter(task=task).count()) == ("paused", 2)
    answer(task, "was_sent")
    assert fresh(task).result == "sent"


def test_what_was_never_sent_is_repeated_freely_even_for_a_mail(probe: Probe) -> None:
    probe.told["s1"] = lambda _: raising(Transient("refused", sent="no"))
    task = begun(published("probe.once"))
    engine.drain()
    assert (fresh(task).status, fresh(task).retries) == ("ready", 1)
    assert fresh(task).started_at is None


def test_a_verify_first_step_looks_before_every_repeat(probe: Probe) -> None:
    probe.told["s1"] = lambda _: raising(Transient("broke", sent="maybe"))
    task = begun(published("probe.checked"))
    engine.drain()
    assert probe.looks == []
    probe.told.clear()
    probe.found_by = lambda: Done(result="found")
    make_due(task)
    engine.drain()
    assert (len(probe.looks), len(probe.calls), fresh(task).result) == (1, 1, "found")


@pytest.mark.parametrize("error", [Transient("away", sent="no"), AuthError("401")])
def test_a_look_that_fails_does_not_forget_the_write_before_it(probe: Probe, error: Exception) -> None:
    probe.told["s1"] = lambda _: raising(Transient("lost", sent="maybe"))
    task = begun(published("probe.checked"))
    engine.drain()
    probe.told.clear()
    probe.found_by = lambda: raising(error)
    make_due(task)
    engine.drain()
    probe.found_by = lambda: Done(result="found")
    if fresh(task).status == "paused":
        engine.signal([task.id], "retry")
    make_due(task)
    engine.drain()
    assert (fresh(task).result, len(probe.calls), len(probe.looks)) == ("found", 1, 2)


def test_a_step_sees_the_same_now_at_every_repeat(probe: Probe) -> None:
    seen: list[object] = []
    probe.told["s1"] = lambda run: (seen.append(run.now), Done())[1]
    task = begun(published("probe.keyed"))
    drain = HandDrain()
    drain.claimed()
    drain.settle()
    drain.work()
    make_due(task)
    engine.drain()
    assert len(seen) == 2
    assert seen[0] == seen[1]


def die_after(task: Task, *, marked: bool) -> None:
    """Leave the task as a worker does that died before, or after, its start mark."""
    drain = HandDrain()
    drain.claimed()
    if marked:
        drain.settle()
    make_due(task)


@pytest.mark.parametrize(
    "handler", ["probe.pure", "probe.read", "probe.keyed", "probe.checked", "probe.once"]
)
def test_a_worker_that_died_before_the_start_mark_costs_nothing(probe: Probe, handler: str) -> None:
    task = begun(published(handler))
    die_after(task, marked=False)
    engine.drain()
    assert fresh(task).status == "completed"
    assert probe.looks == []
    assert TaskEvent.objects.get(task=task, seq=3).data == {"crashes": 1}
    check_invariants()


def test_a_worker_that_died_after_the_start_mark_leaves_a_mail_to_a_person(probe: Probe) -> None:
    task = begun(published("probe.once"))
    die_after(task, marked=True)
    engine.drain()
    assert (fresh(task).reason, len(probe.calls)) == ("outcome_unknown", 0)


def test_a_worker_that_died_after_the_start_mark_makes_a_checked_step_look(probe: Probe) -> None:
    task = begun(published("probe.checked"))
    die_after(task, marked=True)
    engine.drain()
    assert (len(probe.looks), len(probe.calls), fresh(task).status) == (1, 1, "completed")


def test_a_keyed_write_is_repeated_with_the_same_key(probe: Probe) -> None:
    task = begun(published("probe.keyed"))
    drain = HandDrain()
    drain.claimed()
    drain.settle()  # what the first try saw is kept
    drain.work()  # the write was made, and its worker died before the settle
    make_due(task)
    engine.drain()
    assert fresh(task).status == "completed"
    assert len(probe.calls) == 2
    assert len(set(probe.keys())) == 1


def test_three_deaths_set_a_run_aside_with_one_alert(probe: Probe) -> None:
    task = begun(published("probe.pure"))
    for _ in range(3):
        HandDrain().claimed()
        make_due(task)
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == ("failed", "quarantined")
    assert Notification.objects.filter(task=task, severity="critical").count() == 1
    engine.signal([task.id], "retry")
    engine.drain()
    assert fresh(task).status == "completed"
    check_invariants()


def test_a_run_that_a_worker_died_with_is_claimed_alone(probe: Probe) -> None:
    suspect = begun(published("probe.pure"))
    HandDrain().claimed()
    make_due(suspect)
    several(published("probe.pure"), 3)
    drain = HandDrain()
    assert drain.claimed() == [suspect]


def test_workers_that_die_without_progress_stop_claiming_for_a_while(probe: Probe) -> None:
    task = begun(published("probe.pure"))
    assert not any(journal.note_death(3, 60.0) for _ in range(2))
    assert journal.note_death(3, 60.0)
    assert engine.drain().steps == 0
    Pulse.objects.filter(name="brake").update(at=journal.database_now() - timedelta(seconds=1))
    engine.drain()
    assert fresh(task).status == "completed"
    assert not journal.note_death(3, 60.0)
    assert not journal.note_death(3, 60.0)


@pytest.mark.django_db(transaction=True)
def test_a_step_past_its_deadline_is_given_up_and_its_late_answer_still_counts(
    probe: Probe, settings: LazySettings
) -> None:
    go = threading.Event()
    task = begun(published({"handler": "probe.once", "timeout": 0.5}))
    other = begun(published({"handler": "probe.read"}, "probe.pure"))
    slow = threading.Event()
    probe.told["s2"] = lambda _: Done()

    def watch(step: StepRun) -> Outcome:
        if step.task_id == other.id:
            while fresh_status(task) != "paused":
                slow.wait(0.01)
            go.set()
            while fresh_status(task) == "paused":
                slow.wait(0.01)
            return Done()
        go.wait(10)
        return Done(result="sent")

    def fresh_status(of: Task) -> str:
        try:
            return fresh(of).status
        finally:
            connection.close()

    probe.told["s1"] = watch
    report = engine.drain()
    assert (fresh(task).status, fresh(task).result) == ("completed", "sent")
    assert "late" in kinds(task)
    assert Approval.objects.get(task=task).state == "void"
    assert report.abandoned == 0
    check_invariants()


# -- order ---------------------------------------------------------------------------------------


def test_the_more_urgent_goes_first(probe: Probe, settings: LazySettings) -> None:
    settings.ENGINE_BATCH = 1
    version = published("probe.pure")
    last, first = begun(version, priority=2), begun(version, priority=0)
    engine.drain()
    assert [task for task, _, _ in probe.calls] == [first.id, last.id]


def test_every_fourth_claim_goes_by_age_so_that_nothing_starves(probe: Probe, settings: LazySettings) -> None:
    settings.ENGINE_BATCH = 1
    version = published("probe.pure")
    old = begun(version, priority=2)
    for _ in range(8):
        begun(version, priority=0)
    engine.drain()
    assert [task for task, _, _ in probe.calls].index(old.id) == 3


def test_one_sop_takes_at_most_half_of_the_threads_while_others_wait(
    probe: Probe, settings: LazySettings
) -> None:
    settings.ENGINE_THREADS = 4
    go = threading.Event()
    probe.told["s1"] = lambda _: (go.wait(5), Done())[1]
    many, few = published("probe.read"), published("probe.read")
    for task in several(many, 6) + several(few, 2):
        assert task.status == "ready"
    drain = HandDrain()
    drain.claimed()
    drain._hand_over()
    working = [job.subject.turn.version for job in drain.crew.working]
    go.set()
    assert sorted(working) == sorted([many.pk, many.pk, few.pk, few.pk])
    drain.work()
    drain.settle()


def test_a_rate_limit_gives_each_run_its_slot(probe: Probe) -> None:
    tasks = several(published({"handler": "probe.pure", "rate": "1/minute"}), 3)
    engine.drain()
    assert [fresh(task).status for task in tasks].count("completed") == 1
    waits = sorted(
        (row.wake_at - journal.database_now()).total_seconds() for row in map(fresh, tasks) if row.wake_at
    )
    assert [round(wait / 60) for wait in waits] == [1, 2]
    make_due(*(task for task in tasks if fresh(task).wake_at))
    engine.drain()
    assert {fresh(task).status for task in tasks} == {"completed"}


def test_a_drain_that_must_stop_gives_back_what_it_has_not_begun(
    probe: Probe, settings: LazySettings
) -> None:
    settings.ENGINE_THREADS = 2
    begun_now = threading.Event()
    stopping: list[bool] = []

    def work(step: StepRun) -> Outcome:
        begun_now.set()
        stopping.append(True)
        return Done(result="sent")

    probe.told["s1"] = work
    tasks = several(published("probe.once"), 10)
    engine.drain(stop=lambda: bool(stopping))
    rows = [fresh(task) for task in tasks]
    left = [row for row in rows if row.status == "ready"]
    assert left
    assert all(row.crashes == 0 and row.started_at is None for row in left)
    assert {row.status for row in rows} == {"ready", "completed"}
    engine.drain()
    assert {fresh(task).status for task in tasks} == {"completed"}
    assert len(probe.calls) == 10
    check_invariants()


# -- families ------------------------------------------------------------------------------------


def test_open_descendants_are_found_through_elders_that_are_over(probe: Probe) -> None:
    def starts(sop: str) -> Callable[[StepRun], Outcome]:
        return lambda step: Start([Child(sop, {})], wait=False)

    waits = {"handler": "flow.wait", "with": {"duration": "5 days"}}
    published(waits, slug="third")
    published({"key": "two", "handler": "probe.pure"}, slug="second")
    probe.told["one"], probe.told["two"] = starts("second"), starts("third")
    first = begun(published({"key": "one", "handler": "probe.pure"}))
    other = begun(published(waits))
    engine.drain()
    waiting = Task.objects.get(version__sop__slug="third")
    middle = Task.objects.get(version__sop__slug="second")
    assert (fresh(first).status, middle.status, waiting.status) == ("completed", "completed", "waiting")
    assert journal.descendants([first.pk]) == [waiting.pk]
    assert journal.descendants([middle.pk]) == [waiting.pk]
    assert journal.descendants([waiting.pk, other.pk]) == []


def test_a_parent_waits_for_its_children_and_gets_their_counts(probe: Probe) -> None:
    published("probe.pure", slug="child")
    probe.told["s1"] = lambda run: (
        Start([Child("child", {}, key=str(n)) for n in range(5)])
        if run.sop == "parent"
        else Done(result="sent")
    )
    seen: list[object] = []
    probe.told["s2"] = lambda run: (seen.append(run.context["children"]), Done())[1]
    parent = begun(published("probe.pure", "probe.pure", slug="parent"))
    engine.drain()
    assert fresh(parent).status == "completed"
    counts = seen[0]
    assert isinstance(counts, dict)
    assert (counts["total"], counts["sent"], counts["declined"]) == (5, 5, 0)
    check_invariants()


def test_children_of_a_listing_become_due_when_it_is_complete(probe: Probe) -> None:
    published("probe.pure", slug="child")
    pages = iter(["2", "3", ""])

    def listing(run: StepRun) -> Outcome:
        page = next(pages)
        children = [Child("child", {}, key=f"{page}:{n}") for n in range(2)]
        if page:
            assert not Task.objects.filter(parent=run.task_id, wake_at__isnull=False).exists()
            return Continue(page, children)
        return Start(children)

    probe.told["s1"] = lambda run: listing(run) if run.sop == "parent" else Done()
    parent = begun(published("probe.pure", slug="parent"))
    engine.drain()
    assert fresh(parent).status == "completed"
    assert Task.objects.filter(parent=parent, status="completed").count() == 6
    assert kinds(parent).count("continued") == 2
    check_invariants()


def test_cancel_and_pause_of_a_parent_reach_its_open_children(probe: Probe) -> None:
    published("probe.pure", slug="child")
    probe.told["s1"] = lambda run: (
        Start([Child("child", {}, key=str(n)) for n in range(3)])
        if run.sop == "parent"
        else Wait(delay=timedelta(days=1))
    )
    parent = begun(published("probe.pure", slug="parent"))
    engine.drain()
    engine.drain()
    engine.signal([parent.id], "pause")
    engine.drain()
    assert set(Task.objects.values_list("status", flat=True)) == {"paused"}
    engine.signal([parent.id], "resume")
    engine.drain()
    assert set(Task.objects.values_list("status", flat=True)) == {"waiting"}
    engine.signal([parent.id], "cancel")
    engine.drain()
    assert set(Task.objects.values_list("status", flat=True)) == {"cancelled"}
    check_invariants()


def test_a_child_that_stopped_by_itself_is_not_tried_again_because_its_parent_goes_on(probe: Probe) -> None:
    def one_fails(run: StepRun) -> Outcome:
        if run.sop == "parent":
            return Start([Child("child", {"number": n}, key=str(n)) for n in range(2)])
        if run.context["number"]:
            return Wait(delay=timedelta(days=1))
        raise DataError("broken")

    published("probe.pure", slug="child", inputs={"number": {"type": "integer"}})
    probe.told["s1"] = one_fails
    parent = begun(published("probe.pure", slug="parent"))
    engine.drain()
    engine.signal([parent.id], "pause")
    engine.drain()
    engine.signal([parent.id], "resume")
    engine.drain()
    broken, waits = Task.objects.filter(parent=parent).order_by("status")
    assert (broken.status, broken.reason, waits.status) == ("paused", "data", "waiting")
    assert "retried" not in kinds(broken)
    assert "resumed" in kinds(waits)
    check_invariants()


def test_a_child_that_cannot_start_is_a_data_error_of_the_parent(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Start([Child("no-such-sop", {})])
    task = begun(published("probe.pure"))
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == ("paused", "no_sop")


# -- the journal ---------------------------------------------------------------------------------


def test_postgres_refuses_to_change_or_delete_an_event(probe: Probe, on_postgres: None) -> None:
    task = begun(published("probe.pure"))
    for act in (
        lambda: TaskEvent.objects.filter(task=task).update(kind="other"),
        lambda: TaskEvent.objects.filter(task=task).delete(),
    ):
        with pytest.raises((IntegrityError, DatabaseError), match="append-only"), transaction.atomic():
            act()
    assert TaskEvent.objects.filter(task=task).count() == 1


def test_the_database_refuses_a_finished_run_that_still_holds_values(probe: Probe) -> None:
    task = begun(published("probe.pure"))
    engine.drain()
    with pytest.raises(IntegrityError), transaction.atomic():
        Task.objects.filter(pk=task.pk).update(sealed="v1|x|y")


def test_a_failed_run_loses_its_values_after_a_week_and_a_retry_is_then_refused(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Done(values={"text": "Dear Ann"})
    probe.told["s2"] = lambda _: raising(DataError("odd"))
    task = begun(published("probe.pure", {"handler": "probe.pure", "on_failure": "fail"}))
    engine.drain()
    row = fresh(task)
    assert row.sealed is not None
    assert row.scrub_at is not None
    assert 6.9 < (row.scrub_at - journal.database_now()) / timedelta(days=1) < 7.1
    Task.objects.filter(pk=task.pk).update(scrub_at=journal.database_now())
    assert journal.scrub_failed([task.id]) == 1
    assert fresh(task).sealed is None
    engine.signal([task.id], "retry")
    engine.drain()
    assert fresh(task).status == "failed"
    check_invariants()


def test_only_a_weaker_promise_is_kept_when_the_key_window_is_over(probe: Probe) -> None:

    task = begun(published("probe.keyed"))
    drain = HandDrain()
    drain._claim()
    turn = drain.held[task.id]
    made = plan.plan_of(turn).handler
    crm = type(made)(**{**{f: getattr(made, f) for f in made.__slots__}, "crm": True})
    assert plan.weaker(turn, crm, lambda: 24.0) is Effect.IDEMPOTENT
    assert plan.weaker(turn, crm, lambda: None) is Effect.AT_MOST_ONCE
    turn.progress["since"] = (turn.now - timedelta(hours=25)).isoformat()
    assert plan.weaker(turn, crm, lambda: 24.0) is Effect.AT_MOST_ONCE


def test_parameters_that_no_longer_fit_their_handler_stop_one_run_and_not_the_drain(probe: Probe) -> None:
    bad = begun(published({"handler": "chat.post", "with": {}}))
    good = begun(published("probe.pure"))
    engine.drain()
    assert (fresh(bad).status, fresh(bad).reason) == ("paused", "data")
    assert fresh(good).status == "completed"


# -- what a stranger's handler may do wrong ---------------------------------------------------------

ODD_OUTCOMES = {
    "no outcome": None,
    "one notice, no list": Done(notify=Notice("x")),  # type: ignore[arg-type]
    "notices are None": Done(notify=None),  # type: ignore[arg-type]
    "values are a text": Done(values="abc"),  # type: ignore[arg-type]
    "a key is a number": Done(values={1: 2}),  # type: ignore[dict-item]
    "the result is a number": Done(result=5),  # type: ignore[arg-type]
    "a wait of 5": Wait(delay=5),  # type: ignore[arg-type]
    "an option is a text": Ask("Shall we?", options=["yes"]),  # type: ignore[list-item]
    "a time is a text": Ask("Shall we?", (Option("yes", "Yes", "approve"),), expire_after="48h"),  # type: ignore[arg-type]
    "no children at all": Start(None),  # type: ignore[arg-type]
    "an option leads nowhere": Ask("Shall we?", (Option("yes", "Yes", "nowhere"),)),
    "a wait of a century": Wait(delay=timedelta(days=40_000)),
}


@pytest.mark.parametrize("odd", ODD_OUTCOMES)
def test_an_odd_outcome_parks_its_own_run_and_no_mail_of_another(probe: Probe, odd: str) -> None:
    probe.told["odd"] = lambda _: ODD_OUTCOMES[odd]  # type: ignore[return-value]
    mails = several(published("probe.once"), 3)
    culprit = begun(published({"handler": "probe.pure", "key": "odd"}))
    engine.drain()
    assert [fresh(task).status for task in mails] == ["completed"] * 3
    assert fresh(culprit).status in ("paused", "waiting")
    check_invariants()


@pytest.mark.parametrize("pause", ["5", float("nan"), float("inf"), -3.0, 1e18, None])
def test_an_odd_retry_after_is_a_pause_that_can_be_waited(probe: Probe, pause: Any) -> None:
    probe.told["s1"] = lambda _: raising(RateLimited("slow down", retry_after=pause))
    task = begun(published("probe.crm"))
    engine.drain()
    row = fresh(task)
    assert row.status == "waiting"
    assert row.wake_at is not None
    check_invariants()


def test_children_of_a_listing_that_gave_up_are_not_written_to(probe: Probe) -> None:
    published("probe.pure", slug="child")

    def listing(run: StepRun) -> Outcome:
        if run.cursor:
            raise AuthError("401")
        return Continue("2", [Child("child", {}, key="1")])

    probe.told["s1"] = lambda run: listing(run) if run.sop == "parent" else Done(result="sent")
    parent = begun(published({"handler": "probe.read", "on_failure": "s2"}, "probe.pure", slug="parent"))
    engine.drain()
    assert fresh(parent).status == "completed"
    sweeping.heal_families()
    engine.drain()
    assert [child.status for child in Task.objects.filter(parent=parent)] == ["cancelled"]


def test_every_unknown_outcome_of_a_family_is_told(probe: Probe) -> None:
    published("probe.once", slug="child")
    probe.told["s1"] = lambda run: (
        Start([Child("child", {}, key=str(n)) for n in range(3)])
        if run.sop == "parent"
        else raising(Transient("lost", sent="maybe"))
    )
    begun(published("probe.pure", slug="parent"))
    engine.drain()
    told = Notification.objects.filter(kind="escalation")
    assert told.count() == 3
    assert {row.channel for row in told} == {"#escalations"}


def test_a_question_ends_at_the_hour_that_is_shown(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Ask("Shall we?", (Option("yes", "Yes", "approve"),), expire_after=3600)
    task = begun(published("probe.pure"))
    engine.drain()
    assert Approval.objects.get(task=task).expires_at == fresh(task).wake_at
