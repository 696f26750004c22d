"""A step had its effect, but what it answered cannot be kept: nobody may repeat it without being asked."""

import pytest

from tasks import engine
from tasks.models import Approval
from tasks.outcome import Done, Notice, Outcome, StepRun
from tests.tasks.runs import HandDrain, Probe, begun, check_invariants, fresh, kinds, published

pytestmark = pytest.mark.django_db(transaction=True)


def bug(_: StepRun) -> Outcome:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "told",
    [
        bug,
        lambda _: None,
        lambda _: Done(values={"no": float("nan")}),
        lambda _: Done(result="two words"),
        lambda _: Done(result="x" * 41),
    ],
    ids=["a bug", "no outcome", "no JSON", "no code", "too long"],
)
def test_a_bug_after_what_must_happen_once_is_put_before_a_person(probe: Probe, told: object) -> None:
    probe.told["s1"] = told  # type: ignore[assignment]
    task = begun(published("probe.once", "probe.pure"))
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == ("paused", "outcome_unknown")
    assert Approval.objects.get(task=task).state == "open"
    engine.signal([task.pk], "retry")
    engine.drain()
    assert len(probe.calls) == 1
    check_invariants()


def test_a_step_without_an_effect_is_parked_and_may_be_tried_again(probe: Probe) -> None:
    probe.told["s1"] = bug
    task = begun(published("probe.read"))
    engine.drain()
    assert (fresh(task).status, fresh(task).reason) == ("paused", "bug")
    del probe.told["s1"]
    engine.signal([task.pk], "retry")
    engine.drain()
    assert fresh(task).status == "completed"


def test_a_result_that_the_database_refuses_after_what_must_happen_once_is_put_before_a_person(
    probe: Probe,
) -> None:
    task = begun(published("probe.once", "probe.pure"))
    drain = HandDrain()
    drain.claimed()
    drain.settle()  # the start mark
    drain.work()
    drain.held[task.pk].events[-1].seq = 1  # what a bug would do: an event number that is taken
    drain.settle()
    assert (fresh(task).status, fresh(task).reason, fresh(task).step) == ("paused", "outcome_unknown", "s1")
    assert kinds(task)[-1] == "parked"
    check_invariants()


def test_a_result_is_a_code_because_it_is_kept_readable(probe: Probe) -> None:
    probe.told["s1"] = lambda _: Done(result="Ann Miller", notify=(Notice("done"),))
    task = begun(published("probe.pure"))
    engine.drain()
    assert (fresh(task).status, fresh(task).result, fresh(task).reason) == ("paused", "", "data")


def test_a_drain_that_must_stop_begins_no_further_step_of_what_it_holds(probe: Probe) -> None:
    task = begun(published(*["probe.read"] * 5))
    engine.drain(stop=lambda: len(probe.calls) >= 2)
    assert (len(probe.calls), fresh(task).status, fresh(task).step) == (2, "ready", "s3")
    assert kinds(task)[-1] == "handed_back"
    engine.drain()
    assert (len(probe.calls), fresh(task).status) == (5, "completed")
    check_invariants()
