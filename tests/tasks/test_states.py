"""Status and signal → result, spelled out: what each signal makes of a run in each state."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from tasks import engine
from tasks.models import Approval, Task
from tasks.outcome import Ask, DataError, Done, Option, StepRun, Wait
from tests.tasks.runs import Probe, begun, check_invariants, fresh, kinds, make_due, published

pytestmark = pytest.mark.django_db

YES_NO = (Option("yes", "Yes", "approve"), Option("no", "No", "decline"))


def _waiting_for_event(step: StepRun) -> Wait:
    return Wait(event="paid", delay=timedelta(days=1))


def _asking(step: StepRun) -> Ask:
    return Ask("Shall we?", YES_NO, expire_after=3600)


def _refused(step: StepRun) -> Done:
    raise DataError("no such thing")


def _ready(probe: Probe) -> Task:
    return begun(published("probe.pure", "probe.pure"))


def _waiting(probe: Probe) -> Task:
    probe.told["s1"] = _waiting_for_event
    return _drained(begun(published("probe.pure", "probe.pure")))


def _asked(probe: Probe) -> Task:
    probe.told["s1"] = _asking
    return _drained(begun(published("probe.pure", "probe.pure")))


def _paused(probe: Probe) -> Task:
    task = _ready(probe)
    engine.signal([task.id], "pause")
    return _drained(task)


def _paused_waiting(probe: Probe) -> Task:
    task = _waiting(probe)
    engine.signal([task.id], "pause")
    return _drained(task)


def _paused_asked(probe: Probe) -> Task:
    task = _asked(probe)
    engine.signal([task.id], "pause")
    return _drained(task)


def _parked(probe: Probe) -> Task:
    probe.told["s1"] = _refused
    task = _drained(begun(published("probe.pure", "probe.pure")))
    probe.told.pop("s1")
    return task


def _failed(probe: Probe) -> Task:
    probe.told["s1"] = _refused
    task = _drained(begun(published({"handler": "probe.pure", "on_failure": "fail"}, "probe.pure")))
    probe.told.pop("s1")
    return task


def _completed(probe: Probe) -> Task:
    return _drained(begun(published("probe.pure", "probe.pure")))


def _cancelled(probe: Probe) -> Task:
    task = _ready(probe)
    engine.signal([task.id], "cancel")
    return _drained(task)


def _drained(task: Task) -> Task:
    engine.drain()
    return fresh(task)


STATES: dict[str, Callable[[Probe], Task]] = {
    "ready": _ready,
    "waiting": _waiting,
    "asked": _asked,
    "paused": _paused,
    "paused while waiting": _paused_waiting,
    "paused while asked": _paused_asked,
    "parked": _parked,
    "failed": _failed,
    "completed": _completed,
    "cancelled": _cancelled,
}

# "=" is no change, "refused" is not even taken; a run that ends well is "completed".
SPELLED_OUT = """
state                | pause   | resume    | cancel    | retry     | answer    | event     | expire
ready                | paused  | completed | cancelled | completed | completed | completed | completed
waiting              | paused  | =         | cancelled | =         | =         | completed | completed
asked                | paused  | =         | cancelled | =         | completed | =         | completed
paused               | =       | completed | cancelled | =         | =         | =         | =
paused while waiting | =       | waiting   | cancelled | =         | =         | =         | =
paused while asked   | =       | waiting   | cancelled | =         | =         | =         | =
parked               | =       | completed | cancelled | completed | =         | =         | =
failed               | refused | refused   | cancelled | completed | refused   | refused   | =
completed            | refused | refused   | refused   | refused   | refused   | refused   | =
cancelled            | refused | refused   | refused   | refused   | refused   | refused   | =
"""


def _table() -> dict[str, dict[str, str]]:
    head, *lines = ([cell.strip() for cell in line.split("|")] for line in SPELLED_OUT.strip().splitlines())
    return {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}


TABLE = _table()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("signal", ["pause", "resume", "cancel", "retry", "answer", "event", "expire"])
def test_each_signal_makes_of_each_state_what_the_table_says(state: str, signal: str, probe: Probe) -> None:
    task = STATES[state](probe)
    before = task.status
    taken = _send(task, signal)
    engine.drain()

    wanted = TABLE[state][signal]
    assert (taken == 0) == (wanted == "refused")
    after = fresh(task)
    assert after.status == (before if wanted in ("=", "refused") else wanted)
    check_invariants()


def _send(task: Task, signal: str) -> int:
    if signal == "expire":
        make_due(task)
        return 1
    if signal == "answer":
        approval = Approval.objects.filter(task=task).first()
        if approval:
            Approval.objects.filter(pk=approval.pk).update(state="answered", choice="yes")
        return engine.signal([task.id], "answer", approval=str(approval.pk if approval else UUID(int=0)))
    if signal == "event":
        return engine.signal([task.id], "event", name="paid")
    return engine.signal([task.id], signal)


def test_an_answer_given_during_a_pause_counts_when_the_run_goes_on(probe: Probe) -> None:
    task = _paused_asked(probe)
    _send(task, "answer")
    engine.drain()
    assert fresh(task).status == "paused"
    engine.signal([task.id], "resume")
    engine.drain()
    assert fresh(task).status == "completed"
    assert fresh(task).result == "done"


def test_an_event_that_came_during_a_pause_counts_when_the_run_goes_on(probe: Probe) -> None:
    task = _paused_waiting(probe)
    _send(task, "event")
    engine.drain()
    engine.signal([task.id], "resume")
    engine.drain()
    assert fresh(task).status == "completed"
    assert kinds(task).count("woke") == 1


def test_a_wait_that_is_over_ends_with_timed_out(probe: Probe) -> None:
    task = _waiting(probe)
    make_due(task)
    engine.drain()
    assert fresh(task).status == "completed"
    assert "woke" in kinds(task)


def test_a_decline_ends_the_run_with_result_declined(probe: Probe) -> None:
    task = _asked(probe)
    approval = Approval.objects.get(task=task)
    Approval.objects.filter(pk=approval.pk).update(state="answered", choice="no")
    engine.signal([task.id], "answer", approval=str(approval.pk))
    engine.drain()
    assert (fresh(task).status, fresh(task).result) == ("completed", "declined")
    assert len(probe.calls) == 1


def test_nobody_answering_is_never_a_yes(probe: Probe) -> None:
    task = _asked(probe)
    make_due(task)
    engine.drain()
    assert (fresh(task).status, fresh(task).result) == ("completed", "expired")
    assert Approval.objects.get(task=task).state == "expired"
    assert len(probe.calls) == 1


def test_a_cancelled_run_voids_its_question(probe: Probe) -> None:
    task = _asked(probe)
    engine.signal([task.id], "cancel")
    engine.drain()
    approval = Approval.objects.get(task=task)
    assert (approval.state, approval.sealed) == ("void", None)
