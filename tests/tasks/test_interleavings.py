"""Two things at once, in the order that hurts most."""

from datetime import timedelta

import pytest

from credentials import vault
from tasks import engine, journal
from tasks import sweep as sweeping
from tasks.models import Approval, Task, TaskEvent
from tasks.outcome import Ask, Child, Continue, Done, Option, Outcome, Start, StepRun, Wait
from tasks.turns import facts_for, turn_of
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


def test_an_event_that_comes_before_the_wait_settles_is_matched(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Wait(event="paid", delay=timedelta(days=1))
    task = begun(published("probe.pure", "probe.pure"))
    drain = HandDrain()
    drain.claimed()
    engine.signal([task.id], "event", name="paid")
    drain.settle()
    row = fresh(task)
    assert row.status == "waiting"
    assert row.wake_at is not None
    assert row.wake_at <= journal.database_now()
    engine.drain()
    assert fresh(task).status == "completed"
    check_invariants()


def test_an_event_that_comes_before_its_wait_is_kept_for_it(probe: Probe) -> None:
    probe.told["s2"] = lambda _: Wait(event="paid", delay=timedelta(days=1))
    task = begun(published("probe.pure", "probe.pure", "probe.pure"))
    engine.signal([task.id], "event", name="paid")
    engine.drain()
    assert fresh(task).status == "completed"
    assert kinds(task).count("woke") == 1


def test_a_wait_whose_deadline_has_passed_looks_into_its_mail_first(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Wait(event="paid", delay=timedelta(days=1))
    seen: list[object] = []
    probe.told["s2"] = lambda run: (seen.append(run.context["s1"]), Done())[1]
    task = begun(published("probe.pure", "probe.pure"))
    engine.drain()
    engine.signal([task.id], "event", name="paid")
    make_due(task)
    engine.drain()
    assert seen == [{"event": "paid", "timed_out": False}]


def test_an_answer_before_the_question_settles_is_applied_right_after(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Ask("Shall we?", (Option("yes", "Yes", "approve"),))
    task = begun(published("probe.pure", "probe.pure"))
    drain = HandDrain()
    drain.claimed()
    question = drain.to_settle[0].questions[0].id
    engine.signal([task.id], "answer", approval=str(question))
    drain.settle()
    Approval.objects.filter(pk=question).update(state="answered", choice="yes")
    engine.drain()
    assert fresh(task).status == "completed"
    assert kinds(task).count("answered") == 1


def test_two_last_children_at_once_wake_their_parent_once(probe: Probe) -> None:
    published("probe.pure", slug="child")
    probe.told["s1"] = lambda run: (
        Start([Child("child", {}, key=str(n)) for n in range(2)])
        if run.sop == "parent"
        else Done(result="sent")
    )
    parent = begun(published("probe.pure", slug="parent"))
    first, second = HandDrain(), HandDrain()
    first.claimed()
    first.settle()
    journal.release_children(parent.id)
    drains = [first, second]
    for drain in drains:
        row = journal.claim(drain.owner, 1, drain.lease)[0]
        _take(drain, row)
    for drain in drains:
        drain._settle()
    for drain in drains:
        drain._tell_families()
    engine.drain()
    assert fresh(parent).status == "completed"
    assert kinds(parent).count("children_done") == 1
    assert TaskEvent.objects.get(task=parent, kind="children_done").data["sent"] == 2
    check_invariants()


def _take(drain: HandDrain, row: journal.Row) -> None:
    turn = turn_of(row)
    drain.held[turn.id] = turn
    drain._wake(turn, facts_for([turn]))


def test_a_parent_whose_wake_up_was_lost_is_woken_by_the_sweep(probe: Probe) -> None:
    published("probe.pure", slug="child")
    probe.told["s1"] = lambda run: Start([Child("child", {}, key="1")]) if run.sop == "parent" else Done()
    parent = begun(published("probe.pure", slug="parent"))
    drain = HandDrain()
    drain.claimed()
    drain.settle()  # and dies before it releases its child
    sweeping.heal_families()
    drain = HandDrain()
    drain.claimed()
    drain.settle()  # and dies before it wakes the parent
    assert fresh(parent).status == "waiting"
    sweeping.heal_families()
    engine.drain()
    assert fresh(parent).status == "completed"


def test_a_cancel_while_sending_lets_the_send_be_recorded_and_then_ends_the_run(probe: Probe) -> None:
    task = begun(published("probe.once", "probe.once"))
    drain = HandDrain()
    drain.claimed()
    drain.settle()  # the start mark
    engine.signal([task.id], "cancel")
    drain.work()
    drain.settle()
    engine.drain()
    assert fresh(task).status == "cancelled"
    assert [step for _, step, _ in probe.calls] == ["s1"]
    assert "step_done" in kinds(task)
    check_invariants()


def test_a_cancel_before_the_start_mark_keeps_the_mail_from_leaving(probe: Probe) -> None:
    task = begun(published("probe.once"))
    drain = HandDrain()
    drain.claimed()
    engine.signal([task.id], "cancel")
    drain.settle()
    assert not drain.waiting
    assert fresh(task).started_at is None
    engine.drain()
    assert (fresh(task).status, probe.calls) == ("cancelled", [])
    assert "started" not in kinds(task)
    check_invariants()


def test_page_two_of_a_listing_goes_on_while_nothing_of_page_one_has_begun(probe: Probe) -> None:
    published("probe.pure", slug="child")

    def listing(run: StepRun) -> Outcome:
        if run.sop == "child":
            return Done()
        if not run.cursor:
            return Continue("2", [Child("child", {}, key="1")])
        engine_children = Task.objects.filter(parent=run.task_id)
        assert [child.status for child in engine_children] == ["waiting"]
        return Start([Child("child", {}, key="2")])

    probe.told["s1"] = listing
    parent = begun(published("probe.pure", slug="parent"))
    drain = HandDrain()
    drain.claimed()
    drain.settle()
    assert engine.drain().tasks == 0  # another worker finds nothing of page one
    drain.settle()
    engine.drain()
    sweeping.heal_families()
    engine.drain()
    assert fresh(parent).status == "completed"
    check_invariants()


def test_a_listing_that_died_between_pages_resumes_at_its_cursor(probe: Probe) -> None:
    published("probe.pure", slug="child")
    asked: list[str] = []

    def listing(run: StepRun) -> Outcome:
        if run.sop == "child":
            return Done()
        asked.append(run.cursor)
        page = int(run.cursor or 1)
        children = [Child("child", {}, key=f"{page}")]
        return Start(children) if page == 3 else Continue(str(page + 1), children)

    probe.told["s1"] = listing
    parent = begun(published("probe.read", slug="parent"))
    drain = HandDrain()
    drain.claimed()
    drain.work()
    drain.settle()  # page one is written; its worker dies with page two in its hands
    make_due(parent)
    engine.drain()
    assert fresh(parent).status == "completed"
    assert asked == ["", "2", "3"]
    assert Task.objects.filter(parent=parent, status="completed").count() == 3


def test_one_bad_row_among_fifty_is_one_data_error_and_forty_nine_settles(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = several(published("probe.pure"), 50)
    drain = HandDrain()
    drain.claimed()
    bad = drain.held[tasks[17].id]
    bad.events[-1].seq = 1  # what a bug would do: an event number that is taken
    drain.settle()
    states = [fresh(task).status for task in tasks]
    assert states.count("completed") == 49
    assert (fresh(tasks[17]).status, fresh(tasks[17]).reason) == ("paused", "refused")
    check_invariants()


def test_two_settles_over_the_same_rows_in_different_order_leave_one_winner(probe: Probe) -> None:
    tasks = several(published("probe.pure"), 5)
    zombie, heir = HandDrain(), HandDrain()
    zombie.claimed()
    make_due(*tasks)
    for _ in tasks:
        row = journal.claim_suspect(heir.owner, heir.lease)[0]
        _take(heir, row)
    heir.to_settle.reverse()
    heir.settle()
    zombie.settle()
    for task in tasks:
        assert fresh(task).status == "completed"
        assert kinds(task).count("completed") == 1
    check_invariants()


def test_fifty_wake_ups_for_one_task_run_it_once(probe: Probe) -> None:
    begun(published("probe.pure"))
    for _ in range(50):
        engine.drain()
    assert len(probe.calls) == 1


def test_a_settle_whose_acknowledgement_was_lost_is_recognised_as_our_own(probe: Probe) -> None:
    task = begun(published("probe.pure"))
    drain = HandDrain()
    drain.claimed()
    turn = drain.to_settle[0]
    kept = (turn.base_seq, list(turn.events))
    drain.settle()
    turn.base_seq, turn.events, turn.status = kept[0], kept[1], "completed"
    assert journal.settle([turn], drain.owner, drain.lease) == {task.id}
    check_invariants()


def test_a_sealed_text_cannot_be_moved_to_another_run(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Done(values={"text": "Dear Ann"})
    probe.told["s2"] = lambda _: Wait(delay=timedelta(days=1))
    version = published("probe.pure", "probe.pure", {"handler": "probe.pure", "params": {}})
    ann, bob = several(version, 2)
    engine.drain()
    Task.objects.filter(pk=bob.pk).update(sealed=fresh(ann).sealed)
    with pytest.raises(vault.VaultError):
        vault.unseal(str(fresh(bob).sealed), table="tasks_task", row=str(bob.id), field="sealed")
