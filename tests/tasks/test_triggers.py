"""Laws of schedules that start runs, whoever fires them and however often."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from tasks import definition, engine, journal, triggers
from tasks.definition import SopDef, StepDef
from tasks.models import ScheduledRun, Sop, Task
from tasks.outcome import Done, Outcome, StepRun, handler, handlers

MONDAY = datetime(2027, 3, 8, 15, 0, tzinfo=UTC)  # 9:00 in Chicago
WEEK = timedelta(days=7)
MINUTE = timedelta(minutes=1)
SCHEDULE = {"schedule": "0 9 * * MON", "timezone": "America/Chicago", "from": "02-15", "until": "05-31"}
SEASON = {"season": {"type": "integer", "default": "{{ slot.year }}"}}

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def idle_handler() -> Iterator[None]:
    """Register a step that does nothing."""

    def idle(step: StepRun) -> Outcome:
        """Do nothing."""
        return Done()

    handler("t.idle")(idle)
    yield
    handlers.remove("t.idle")


@pytest.fixture
def at(settings: Settings) -> Callable[[datetime], None]:
    """Move every clock to a moment, and a bit: the clock of a database may count in milliseconds."""

    def move(moment: datetime) -> None:
        settings.CLOCK_OFFSET = (moment - datetime.now(UTC)).total_seconds() + 0.05

    return move


def publish(slug: str = "try-it", inputs: dict[str, Any] | None = None, **trigger: Any) -> Sop:
    """Publish a SOP with a schedule; its cursor stands at the present moment."""
    step = StepDef("only", "", "t.idle")
    sop = SopDef(
        slug,
        slug,
        trigger={**SCHEDULE, **trigger},
        inputs=SEASON if inputs is None else inputs,
        steps=(step,),
    )
    row = definition.save_rows(sop)
    definition.publish(row)
    return row


def told(sop: Sop) -> list[tuple[datetime, str]]:
    """Return the slots that were dealt with, oldest first."""
    return list(ScheduledRun.objects.filter(sop=sop).order_by("slot").values_list("slot", "outcome"))


def test_nothing_starts_before_the_hour_and_one_run_starts_at_it(at: Callable[[datetime], None]) -> None:
    at(MONDAY - WEEK / 2)
    sop = publish()
    at(MONDAY - MINUTE)
    assert triggers.fire_due() == 0
    assert told(sop) == []
    at(MONDAY)
    assert triggers.fire_due() == 1
    assert told(sop) == [(MONDAY, "started")]
    run = ScheduledRun.objects.get()
    assert run.task is not None
    assert (run.task.version, run.task.status) == (sop.published, Task.Status.READY)
    assert run.task.context["season"] == 2027, "the slot gives the season its year"


def test_a_second_firing_of_the_same_slot_starts_nobody(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    sop = publish()
    at(MONDAY + MINUTE)
    assert [triggers.fire_due() for _ in range(3)] == [1, 0, 0]
    Sop.objects.update(cursor=MONDAY - MINUTE)
    engine.drain()
    assert triggers.fire_due() == 0, "even when the cursor is moved back, the slot has its run"
    assert Task.objects.count() == 1
    assert told(sop) == [(MONDAY, "started")]


def test_the_next_week_is_another_run(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    sop = publish()
    for week in range(3):
        at(MONDAY + week * WEEK + MINUTE)
        assert triggers.fire_due() == 1
        engine.drain()
    assert [outcome for _, outcome in told(sop)] == ["started"] * 3
    assert told(sop)[1][0] == MONDAY + WEEK - timedelta(hours=1), "summer time began in between"


def test_publishing_does_not_catch_up_what_was_before(at: Callable[[datetime], None]) -> None:
    at(MONDAY + MINUTE)
    publish()
    assert triggers.fire_due() == 0
    assert ScheduledRun.objects.count() == 0


def test_out_of_season_nothing_starts(at: Callable[[datetime], None]) -> None:
    at(datetime(2027, 6, 2, tzinfo=UTC))
    publish()
    at(datetime(2028, 2, 14, 12, tzinfo=UTC))
    assert triggers.fire_due() == 0
    assert ScheduledRun.objects.count() == 0
    at(datetime(2028, 2, 21, 15, 0, 5, tzinfo=UTC))
    assert triggers.fire_due() == 1


@pytest.mark.parametrize("state", [Sop.State.DISABLED, Sop.State.DRAFT])
def test_only_an_active_sop_starts(state: str, at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    publish()
    Sop.objects.update(state=state)
    at(MONDAY + MINUTE)
    assert triggers.fire_due() == 0
    assert Task.objects.count() == 0


def test_the_published_schedule_counts_and_not_the_draft(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    sop = publish()
    Sop.objects.filter(pk=sop.pk).update(trigger={})
    at(MONDAY + MINUTE)
    assert triggers.fire_due() == 1


def test_a_sop_without_a_schedule_never_starts_by_itself(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    sop = SopDef("by-hand", "By hand", steps=(StepDef("only", "", "t.idle"),))
    definition.publish(definition.save_rows(sop))
    at(MONDAY + 52 * WEEK)
    assert triggers.fire_due() == 0


# -- what was missed ---------------------------------------------------------------------------------


def test_after_a_long_silence_only_the_newest_slot_starts_and_the_others_are_marked(
    at: Callable[[datetime], None],
) -> None:
    at(MONDAY - MINUTE)
    sop = publish(catch_up="once")
    at(MONDAY + 3 * WEEK)
    assert triggers.fire_due() == 1
    assert [outcome for _, outcome in told(sop)] == ["missed", "missed", "missed", "started"]
    assert ScheduledRun.objects.filter(task__isnull=False).count() == 1


def test_with_skip_a_slot_that_is_too_late_is_only_marked(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    sop = publish(catch_up="skip")
    at(MONDAY + triggers.ON_TIME + MINUTE)
    assert triggers.fire_due() == 0
    assert told(sop) == [(MONDAY, "missed")]
    at(MONDAY + WEEK - timedelta(hours=1) + triggers.ON_TIME - MINUTE)
    assert triggers.fire_due() == 1
    assert [outcome for _, outcome in told(sop)] == ["missed", "started"]


def test_a_very_long_silence_of_a_busy_schedule_leaves_a_bounded_number_of_marks(
    at: Callable[[datetime], None],
) -> None:
    at(MONDAY)
    publish(schedule="* * * * *")
    at(MONDAY + 10 * timedelta(days=1))
    assert triggers.fire_due() == 1
    assert ScheduledRun.objects.count() == triggers.MOST_SLOTS


# -- overlap -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "waiting_for", "starts"),
    [
        (Task.Status.READY, "", False),
        (Task.Status.WAITING, "time", False),
        (Task.Status.WAITING, "approval:1", False),
        (Task.Status.PAUSED, "", False),
        (Task.Status.WAITING, "children", True),
        (Task.Status.COMPLETED, "", True),
        (Task.Status.FAILED, "", True),
        (Task.Status.CANCELLED, "", True),
    ],
)
def test_a_slot_is_passed_over_while_the_run_before_is_under_way(
    status: str, waiting_for: str, starts: bool, at: Callable[[datetime], None]
) -> None:
    """A run that only waits for its children is not under way."""
    at(MONDAY - MINUTE)
    sop = publish(overlap="skip")
    at(MONDAY)
    triggers.fire_due()
    Task.objects.update(status=status, waiting_for=waiting_for, wake_at=None)
    at(MONDAY + WEEK)
    assert triggers.fire_due() == int(starts)
    assert told(sop)[1][1] == ("started" if starts else "overlap")


def test_with_allow_runs_may_overlap(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    publish(overlap="allow")
    for week in range(2):
        at(MONDAY + week * WEEK)
        assert triggers.fire_due() == 1
    assert Task.objects.filter(status=Task.Status.READY).count() == 2


def test_the_run_of_another_sop_is_no_overlap(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    publish("one")
    publish("two")
    at(MONDAY)
    assert triggers.fire_due() == 2


# -- trouble -----------------------------------------------------------------------------------------


def test_a_sop_that_cannot_start_does_not_keep_the_others_from_their_hour(
    at: Callable[[datetime], None], caplog: pytest.LogCaptureFixture
) -> None:
    at(MONDAY - MINUTE)
    needy, broken, good = publish("needy"), publish("broken"), publish("good")
    for sop, change in (
        (needy, {"inputs": {"who": {"type": "string"}}}),
        (broken, {"trigger": {**SCHEDULE, "timezone": "Nowhere"}}),
    ):
        version = sop.published
        assert version is not None
        type(version).objects.filter(pk=version.pk).update(definition={**version.definition, **change})
    at(MONDAY + MINUTE)
    with caplog.at_level(logging.ERROR):
        assert triggers.fire_due() == 1
    assert told(needy) == [(MONDAY, "refused")]
    assert told(broken) == []
    assert told(good) == [(MONDAY, "started")]
    assert "needs the input 'who'" in caplog.text
    assert "broken not fired: ValueError" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_two_that_fire_at_once_start_one_run(at: Callable[[datetime], None]) -> None:
    at(MONDAY - MINUTE)
    sops = [publish(f"sop-{number}") for number in range(4)]
    at(MONDAY + MINUTE)
    gate = threading.Barrier(4)
    started: list[int] = []
    errors: list[BaseException] = []

    def fire() -> None:
        try:
            gate.wait(10)
            started.append(triggers.fire_due())
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=fire) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert sum(started) == len(sops) == Task.objects.count()
    assert [told(sop) for sop in sops] == [[(MONDAY, "started")]] * len(sops)


@pytest.mark.django_db(transaction=True)
def test_a_firing_that_dies_before_its_commit_leaves_the_slot_to_the_next(
    at: Callable[[datetime], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The cursor, the slot's row and the run are one transaction."""
    at(MONDAY - MINUTE)
    sop = publish()
    cursor = Sop.objects.get(pk=sop.pk).cursor
    at(MONDAY + MINUTE)
    with connection.execute_wrapper(_dies_at("tasks_scheduledrun")), caplog.at_level(logging.ERROR):
        assert triggers.fire_due() == 0
    assert "not fired: Death" in caplog.text
    assert (Task.objects.count(), Sop.objects.get(pk=sop.pk).cursor) == (0, cursor)
    assert triggers.fire_due() == 1


def test_a_firing_that_comes_second_leaves_everything_to_the_first(at: Callable[[datetime], None]) -> None:
    """Between its reading of the SOP and its UPDATE, another process moves the cursor."""
    at(MONDAY - MINUTE)
    publish()
    at(MONDAY + MINUTE)

    def another(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "tasks_sop" in sql and not moved:
            moved.append(True)
            Sop.objects.update(cursor=MONDAY + MINUTE)
        return execute(sql, params, many, context)

    moved: list[bool] = []
    with connection.execute_wrapper(another):
        assert triggers.fire_due() == 0
    assert moved
    assert (Task.objects.count(), ScheduledRun.objects.count()) == (0, 0)


class Death(Exception):
    """What a test kills a statement with."""


def _dies_at(table: str) -> Callable[..., Any]:
    def wrapper(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("INSERT") and table in sql:
            raise Death
        return execute(sql, params, many, context)

    return wrapper


# -- by hand -----------------------------------------------------------------------------------------


def test_a_run_by_hand_has_its_own_start_as_its_slot(at: Callable[[datetime], None]) -> None:
    at(datetime(2031, 1, 1, 12, tzinfo=UTC))
    sop = publish()
    task = triggers.start_now(sop, {}, by="command")
    assert task.context["season"] == 2031
    assert abs((datetime.fromisoformat(task.progress["slot"]) - journal.database_now()).total_seconds()) < 5
    assert task.events.get().data["by"] == "command"
    assert triggers.start_now(sop, {"season": "2020"}, by="command").context["season"] == 2020


def test_a_run_by_hand_is_refused_with_a_sentence_when_the_sop_may_not_run() -> None:
    sop = definition.save_rows(SopDef("try-it", "Try it", steps=(StepDef("only", "", "t.idle"),)))
    with pytest.raises(triggers.NotRunnable, match="SOP try-it is a draft; publish it before it can run"):
        triggers.start_now(sop, {}, by="command")
    definition.publish(sop)
    definition.disable(sop)
    with pytest.raises(triggers.NotRunnable, match="SOP try-it is disabled; publish it again"):
        triggers.start_now(sop, {}, by="command")
    assert Task.objects.count() == 0


def test_a_run_by_hand_is_refused_when_its_inputs_are_wrong() -> None:
    sop = publish(inputs=SEASON)
    with pytest.raises(engine.InputError, match="must be of type integer"):
        triggers.start_now(sop, {"season": "soon"}, by="command")
    with pytest.raises(engine.InputError, match="has no input 'sesaon'; its inputs: season"):
        triggers.start_now(sop, {"sesaon": 1}, by="command")
    assert Task.objects.count() == 0
