"""Runs while the CRM must not be called: who waits, who goes on, and how they begin again."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from credentials import vault
from crm import breaker, health
from crm.models import Health
from sopengine.errors import RateLimited, StepError, Transient
from tasks import crm_line, engine, journal, notices, timeline
from tasks.models import Notification, Task
from tasks.outcome import Done, Outcome, StepRun
from tasks.sweep import sweep
from tests.tasks.runs import Probe, begun, check_invariants, fresh, kinds, published, several

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _line() -> Iterator[None]:
    health.forget()
    yield
    health.forget()


@pytest.fixture
def later(settings: Settings) -> Callable[[float], None]:
    """Return a function that moves every clock."""

    def move(seconds: float) -> None:
        settings.CLOCK_OFFSET = settings.CLOCK_OFFSET + seconds
        health.forget()

    return move


def of_crm(error: StepError) -> StepError:
    """Return the error as the service marks it: a call to the CRM went wrong."""
    error.origin = "crm"
    return error


def fails(probe: Probe, error: Callable[[], StepError], step: str = "s1") -> None:
    def told(_: StepRun) -> Outcome:
        raise of_crm(error())

    probe.told[step] = told


def unreachable() -> StepError:
    return Transient("crm cannot be reached", code="unreachable", sent="no")


def escalations() -> list[str]:
    return list(Notification.objects.filter(kind="escalation").values_list("dedupe", flat=True))


# -- held ------------------------------------------------------------------------------------------


def test_while_staff_hold_the_crm_no_step_calls_it_and_nothing_is_used_up(probe: Probe) -> None:
    health.hold("crm", "ana", "moving house")
    tasks = several(published("probe.crm"), 3)
    engine.drain()
    for task in tasks:
        row = fresh(task)
        assert (row.status, row.waiting_for, row.wake_at) == ("waiting", "provider:crm", None)
        assert (row.retries, row.crashes) == (0, 0)
    assert probe.calls == []
    health.release("crm", "ana")
    sweep(force=True)
    assert all(fresh(task).wake_at for task in tasks)
    check_invariants()


def test_a_held_run_says_when_the_crm_is_tried_next(probe: Probe) -> None:
    health.used_up("crm", "timeout")
    task = begun(published("probe.crm"))
    engine.drain()
    until = health.standing(fresh=True).until
    assert until is not None
    now = journal.database_now()
    assert f"Waiting for the CRM, next try {timezone.localtime(until):%H:%M}" in timeline.headline(
        fresh(task), now, now
    )


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"handler": "chat.post", "with": {"text": "hello"}}, "completed"),
        ({"handler": "human.ask", "with": {"question": "Well?"}}, "waiting"),
        ({"handler": "flow.wait", "with": {"duration": "1 hour"}}, "waiting"),
        ({"handler": "probe.once"}, "completed"),
    ],
    ids=["chat.post", "human.ask", "flow.wait", "another system"],
)
def test_a_run_whose_step_does_not_need_the_crm_goes_on(
    probe: Probe, line: dict[str, object], status: str
) -> None:
    health.used_up("crm", "timeout")
    task = begun(published(line))
    engine.drain()
    row = fresh(task)
    assert row.status == status
    assert not row.waiting_for.startswith("provider:")


def test_a_wait_ends_in_its_hour_though_the_crm_is_away_and_only_then_is_the_run_held(
    probe: Probe, later: Callable[[float], None]
) -> None:
    health.hold("crm", "ana")
    task = begun(published({"handler": "flow.wait", "with": {"duration": "1 hour"}}, "probe.crm"))
    engine.drain()
    later(3601)
    engine.drain()
    assert (fresh(task).step, fresh(task).waiting_for) == ("s2", "provider:crm")
    assert kinds(task).count("woke") == 1


def test_a_run_that_waits_for_a_retry_is_held_with_the_retries_it_has(
    probe: Probe, later: Callable[[float], None]
) -> None:
    fails(probe, unreachable)
    task = begun(published("probe.crm"))
    engine.drain()
    later(4)
    engine.drain()
    assert fresh(task).retries == 2
    health.hold("crm", "ana")
    later(20)
    engine.drain()
    assert (fresh(task).waiting_for, fresh(task).retries, len(probe.calls)) == ("provider:crm", 2, 2)


def test_what_was_begun_before_the_crm_went_away_is_still_looked_up_when_it_is_back(probe: Probe) -> None:
    task = begun(published("probe.checked"))
    Task.objects.filter(pk=task.pk).update(started_at=journal.database_now())
    probe.found_by = lambda: raising(of_crm(unreachable()))
    engine.drain()
    assert fresh(task).started_at is not None
    assert probe.calls == []


def raising(error: StepError) -> Outcome:
    raise error


# -- one step has used up its retries --------------------------------------------------------------


def test_a_step_without_retries_left_closes_the_line_and_tells_staff_once(
    probe: Probe, later: Callable[[float], None]
) -> None:
    fails(probe, unreachable)
    tasks = several(published("probe.crm"), 5)
    for seconds in (3, 5.5, 11, 0):  # a little more than 2, 4 and 8
        engine.drain()
        later(seconds)
    assert health.standing(fresh=True).state == breaker.SILENT
    assert {fresh(task).waiting_for for task in tasks} == {"provider:crm"}
    for _ in range(3):
        crm_line.mind()
    assert [name.split(":")[-1] for name in escalations()] == ["silent"]
    check_invariants()


def test_an_explicit_on_failure_wins_over_the_hold(probe: Probe) -> None:
    fails(probe, unreachable)
    line = {"handler": "probe.crm", "max_retries": 0, "on_failure": "s2"}
    task = begun(published(line, "probe.pure"))
    engine.drain()
    assert fresh(task).status == "completed"
    assert health.standing(fresh=True).state == breaker.SILENT


def test_a_lone_run_of_a_quiet_firm_goes_on_by_itself(probe: Probe, later: Callable[[float], None]) -> None:
    """Nobody else finds out that the CRM is back: a probe does, and only when its time has come."""
    fails(probe, unreachable)
    task = begun(published({"handler": "probe.crm", "max_retries": 0}))
    engine.drain()
    sweep(force=True)
    assert fresh(task).wake_at is None
    probe.told.clear()
    later(31)
    sweep(force=True)
    engine.drain()
    assert fresh(task).status == "completed"
    assert fresh(task).retries == 0
    assert [name.split(":")[-1] for name in escalations()] == ["silent", "answers"]


def test_a_step_that_alone_finds_no_answer_is_put_before_a_person_in_the_end(
    probe: Probe, later: Callable[[float], None]
) -> None:
    """The line answers every probe; so it is this step, and it must not hold the others for ever."""
    fails(probe, unreachable)
    task = begun(published({"handler": "probe.crm", "max_retries": 0}))
    for _ in range(6):
        engine.drain()
        later(1000)
        sweep(force=True)
    assert (fresh(task).status, fresh(task).reason) == ("paused", "unreachable")
    assert len(probe.calls) == 4


# -- pauses that the CRM asks for ------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_429_holds_everybody_until_then_and_costs_no_retry(
    probe: Probe, later: Callable[[float], None]
) -> None:
    def limited(_: StepRun) -> Outcome:
        error = of_crm(RateLimited("slow down", retry_after=120))
        health.failed("crm", error)
        raise error

    probe.told["s1"] = limited
    first = begun(published("probe.crm"))
    engine.drain()
    others = several(published("probe.crm"), 10)
    engine.drain()
    assert len(probe.calls) == 1
    hours = sorted(fresh(task).wake_at for task in [first, *others])  # type: ignore[type-var]
    assert all(hour is not None for hour in hours)
    begin, end = (hour - journal.database_now() for hour in (hours[0], hours[-1]))
    assert timedelta(seconds=115) < begin <= timedelta(seconds=121)
    assert timedelta(seconds=0.4) < end - begin < timedelta(seconds=2)
    assert {fresh(task).retries for task in others} == {0}
    probe.told["s1"] = lambda _: Done()
    later(125)
    engine.drain()
    assert {fresh(task).status for task in others} == {"completed"}
    crm_line.mind()
    assert escalations() == []


def test_who_releases_the_line_ends_the_pause_for_the_runs_too(
    probe: Probe, later: Callable[[float], None]
) -> None:
    fails(probe, lambda: RateLimited("slow down", retry_after=3600))
    health.failed("crm", of_crm(RateLimited("slow down", retry_after=3600)))
    task = begun(published("probe.crm"))
    engine.drain()
    assert fresh(task).waiting_for == crm_line.LINE
    probe.told.clear()
    health.release("crm", "ana")
    sweep(force=True)
    later(5)
    engine.drain()
    assert fresh(task).status == "completed"
    assert journal.reserve(crm_line.LINE, 0.05, ahead=5) < 6


def test_pauses_without_an_end_are_told_after_an_hour(probe: Probe, later: Callable[[float], None]) -> None:
    for _ in range(14):
        health.failed("crm", of_crm(RateLimited("slow down", retry_after=300)))
        crm_line.mind()
        later(301)
    assert [name.split(":")[0] for name in escalations()] == ["pauses"]
    health.worked("crm")
    health.failed("crm", of_crm(RateLimited("slow down", retry_after=300)))
    crm_line.mind()
    assert len(escalations()) == 1


def test_a_line_that_comes_and_goes_is_told_once_with_a_count_when_it_stays_away(
    later: Callable[[float], None],
) -> None:
    for _ in range(4):
        health.used_up("crm", "timeout")
        crm_line.mind()
        later(31)
        crm_line.mind()  # the mock answers the probe
        later(31)
    assert [name.split(":")[-1] for name in escalations()] == ["silent", "answers"]
    health.hold("crm", "ana")  # nobody asks it any more: the next silence lasts
    health.release("crm", "ana")
    health.used_up("crm", "timeout")
    Health.objects.update(until=journal.database_now() + timedelta(hours=1))
    later(301)
    crm_line.mind()
    last = Notification.objects.order_by("-created_at").first()
    assert last is not None
    text = vault.unseal(last.sealed or "", table=notices.TABLE, row=str(last.pk), field="sealed")["text"]
    assert "came and went" in text


# -- ten thousand ----------------------------------------------------------------------------------


def held_rows(count: int) -> None:
    """Hold so many runs, as a drain would have done."""
    version = published("probe.crm")
    now = journal.database_now()
    Task.objects.bulk_create(
        [
            Task(
                version=version,
                status="waiting",
                step="s1",
                waiting_for=crm_line.LINE,
                reason="held",
                created_at=now - timedelta(seconds=count - place),
                progress={"visits": {"s1": 1}, "wait": {}},
            )
            for place in range(count)
        ],
        batch_size=1000,
    )


def test_ten_thousand_begin_again_slowly_and_the_oldest_first(probe: Probe) -> None:
    held_rows(10_000)
    health.hold("crm", "ana")
    sweep(force=True)
    assert not Task.objects.filter(wake_at__isnull=False).exists()
    health.release("crm", "ana")
    began = journal.database_now()
    assert crm_line.mind() == 10_000
    hours = list(Task.objects.order_by("created_at").values_list("wake_at", flat=True))
    assert hours == sorted(hours)
    within = [sum(hour - began <= timedelta(seconds=limit) for hour in hours) for limit in (2, 30, 121)]
    assert within[0] <= 4  # about one a second at first
    assert within[1] <= 30**2 * 20 / 240 + 10
    assert 1100 <= within[2] <= 1300
    steady = sum(timedelta(seconds=200) < hour - began <= timedelta(seconds=210) for hour in hours)
    assert 190 <= steady <= 210  # and then as many as the provider takes
    assert crm_line.mind() == 0


def test_a_line_that_closes_again_holds_those_whose_turn_has_not_come(
    probe: Probe, later: Callable[[float], None]
) -> None:
    held_rows(500)
    crm_line.mind()
    later(20)
    health.hold("crm", "ana")
    engine.drain()
    assert probe.calls == []
    assert Task.objects.filter(wake_at__isnull=True).count() in range(10, 60)
    later(1000)
    engine.drain()
    assert Task.objects.filter(wake_at__isnull=True, waiting_for=crm_line.LINE).count() == 500
    assert Health.objects.get(service="crm").state == breaker.HELD
    assert probe.calls == []
