"""Laws of the daily summary: one a day, of the day between two summaries, in figures that can be counted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel
from pytest_django import Settings

from credentials import vault
from tasks import approvals, engine, events, journal, replies, summary
from tasks.mail_in import Incoming, events_of
from tasks.models import Notification, SopVersion, Task
from tasks.outcome import Branch, DataError, Done, Open, Outcome, StepRun, Transient, Wait, handler, handlers
from tasks.sweep import sweep
from tests.tasks.office import ASKS
from tests.tasks.runs import Probe, begun, published

pytestmark = pytest.mark.django_db
CHICAGO = ZoneInfo("America/Chicago")


class Clock:
    """Every clock, moved to an hour of the office."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def stand_at(self, *moment: int) -> None:
        there = datetime(*moment, tzinfo=CHICAGO)  # type: ignore[misc,arg-type]
        self._settings.CLOCK_OFFSET = (there - datetime.now(UTC)).total_seconds()


@pytest.fixture
def clock(settings: Settings) -> Clock:
    settings.TIME_ZONE = "America/Chicago"
    return Clock(settings)


def posted() -> list[str]:
    """Return the texts of the summaries, oldest first."""
    rows = Notification.objects.filter(kind="summary").order_by("created_at")
    return [
        vault.unseal(row.sealed, table="tasks_notification", row=str(row.pk), field="sealed")["text"]
        for row in rows
        if row.sealed
    ]


def named(version: SopVersion, name: str) -> SopVersion:
    version.sop.name = name
    version.sop.save()
    return version


def fails(step: StepRun) -> Outcome:
    raise DataError("broken")


# -- when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "begins", "ends"),
    [
        ((2027, 2, 16, 18, 59, 59), (2027, 2, 14, 19), (2027, 2, 15, 19)),
        ((2027, 2, 16, 19, 0, 0), (2027, 2, 15, 19), (2027, 2, 16, 19)),
        ((2027, 2, 16, 23, 59, 0), (2027, 2, 15, 19), (2027, 2, 16, 19)),
        ((2027, 3, 14, 20, 0, 0), (2027, 3, 13, 19), (2027, 3, 14, 19)),  # 23 hours: the clock went on
        ((2027, 11, 7, 20, 0, 0), (2027, 11, 6, 19), (2027, 11, 7, 19)),  # 25 hours
    ],
)
def test_a_day_goes_from_seven_to_seven_on_the_wall_clock(
    clock: Clock, now: tuple[int, ...], begins: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    day = summary.day_before(datetime(*now, tzinfo=CHICAGO))  # type: ignore[misc,arg-type]
    assert day.begins == datetime(*begins, tzinfo=CHICAGO)  # type: ignore[misc,arg-type]
    assert day.ends == datetime(*ends, tzinfo=CHICAGO)  # type: ignore[misc,arg-type]


def test_the_days_of_a_year_leave_no_gap(clock: Clock) -> None:
    day = summary.day_before(datetime(2027, 1, 2, 12, tzinfo=UTC))
    for number in range(1, 366):
        following = summary.day_before(datetime(2027, 1, 2, 12, tzinfo=UTC) + timedelta(days=number))
        assert following.begins == day.ends
        day = following


def test_it_is_posted_once_a_day_in_its_channel_at_seven(
    clock: Clock, settings: Settings, probe: Probe
) -> None:
    settings.OPS_CHANNEL = "#ops"
    clock.stand_at(2027, 2, 16, 12)
    begun(published("probe.pure"))
    clock.stand_at(2027, 2, 16, 18, 59)
    sweep(force=True)
    assert posted() == []
    clock.stand_at(2027, 2, 16, 19, 0, 5)
    for _ in range(3):
        sweep(force=True)
    clock.stand_at(2027, 2, 17, 18, 59)
    sweep(force=True)
    notice = Notification.objects.get(kind="summary")
    assert (notice.channel, notice.severity, notice.state) == ("#ops", "info", "sent")
    clock.stand_at(2027, 2, 17, 19, 1)
    sweep(force=True)
    assert Notification.objects.filter(kind="summary").count() == 2


def test_after_a_long_silence_only_the_newest_is_posted(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 12)
    begun(published("probe.pure"))
    clock.stand_at(2027, 2, 20, 9)
    assert summary.post_due()
    (text,) = posted()
    assert text.startswith("Friday 19 February\n")


def test_before_anything_was_started_there_is_nothing_to_sum_up(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 20)
    assert not summary.post_due()
    begun(published("probe.pure"))
    assert not summary.post_due()
    assert posted() == []


# -- what ------------------------------------------------------------------------------------------


def test_each_procedure_has_a_line_with_what_happened_to_it(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 12)
    sends = named(published({"handler": "probe.read"}, {"handler": "probe.pure"}, slug="sends"), "Win back")
    fine = named(published({"handler": "probe.pure"}, slug="calm"), "Calm one")
    waits = named(published(ASKS, slug="asks"), "Ask first")
    broken = named(published({"handler": "probe.checked", "on_failure": "fail"}, slug="bad"), "Broken")

    def reply(step: StepRun) -> Outcome:
        return {
            "sends": {"s1": Done(result="sent"), "s2": Wait(delay=timedelta(days=5), event="replied")},
            "calm": {"s1": Branch(to="complete", result="declined")},
        }[step.sop][step.step]

    probe.told.update(s1=reply, s2=reply)
    runs = [begun(sends) for _ in range(3)]
    begun(fine), begun(fine)
    begun(waits)
    engine.drain()
    probe.told["s1"] = fails
    begun(broken)
    engine.drain()
    engine.signal([runs[0].pk], "event", name="replied")
    engine.drain()
    clock.stand_at(2027, 2, 16, 19, 1)
    summary.post_due()
    (text,) = posted()
    assert text.splitlines() == [
        "Tuesday 16 February",
        "Ask first: 1 started, 1 waiting",
        "Broken: 1 started, 1 failed",
        "Calm one: 2 started, 2 declined",
        "Win back: 3 started, 3 sent, 1 replied, 2 waiting",
    ]


def test_what_happened_on_another_day_is_told_on_that_day(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 15, 18, 59)
    version = named(published("probe.pure", slug="one"), "One")
    probe.told["s1"] = lambda _: Done(result="sent")
    begun(version)
    engine.drain()
    clock.stand_at(2027, 2, 15, 19, 0, 30)
    begun(version), begun(version)
    engine.drain()
    clock.stand_at(2027, 2, 15, 19, 5)
    summary.post_due()
    clock.stand_at(2027, 2, 16, 19, 5)
    summary.post_due()
    clock.stand_at(2027, 2, 17, 19, 5)
    summary.post_due()
    assert [text.splitlines()[1] for text in posted()] == [
        "One: 1 started, 1 sent",
        "One: 2 started, 2 sent",
        "No procedure had anything to do.",
    ]


def test_two_mails_of_one_run_are_two_and_two_replies_to_it_are_one(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 12)
    version = named(published("probe.pure", "probe.pure", "probe.pure", "probe.pure", slug="one"), "One")
    probe.told.update(
        s1=lambda _: Done(result="sent"),
        s2=lambda _: Wait(delay=timedelta(days=5), event="replied"),
        s3=lambda _: Done(result="sent"),
        s4=lambda _: Wait(delay=timedelta(days=5), event="replied"),
    )
    task = begun(version)
    for _ in range(2):
        engine.drain()
        engine.signal([task.pk], "event", name="replied")
        engine.drain()
    clock.stand_at(2027, 2, 16, 19, 1)
    summary.post_due()
    assert "One: 1 started, 2 sent, 1 replied" in posted()[0].splitlines()


def test_a_run_that_ended_because_of_a_reply_has_one(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 12)
    probe.told["s1"] = lambda _: Branch(to="complete", result="replied")
    begun(named(published("probe.pure", slug="one"), "One"))
    engine.drain()
    clock.stand_at(2027, 2, 16, 19, 1)
    summary.post_due()
    assert "One: 1 started, 1 replied" in posted()[0].splitlines()


# -- replies that no run hears ---------------------------------------------------------------------


REST: dict[str, Any] = {"handler": "flow.wait", "with": {"duration": "9 days"}}
HEARS: dict[str, Any] = {"handler": "flow.wait", "with": {"event": "replied", "duration": "9 days"}}


def answered(*tasks: Task) -> None:
    """Let the customer answer the mail of these runs."""
    for task in tasks:
        mail = Incoming("ann@example.test", message_id=f"{uuid4()}@x", recipients=(replies.address(task.pk),))
        for event in events_of(mail, "mail", "body"):
            events.receive(event)
    engine.drain()


def replied_on(clock: Clock, day: int) -> dict[str, int]:
    clock.stand_at(2027, 2, day, 19, 1)
    counts = summary.counts_of(summary.day_before(journal.database_now()))
    return {name: words["replied"] for name, words in counts.items() if "replied" in words}


@pytest.fixture
def answers(clock: Clock, probe: Probe) -> None:
    """A SOP that takes every answer to our mails."""
    clock.stand_at(2027, 2, 16, 12)
    named(published("probe.pure", slug="answers", trigger={"event": "mail.reply"}), "Answers")


@pytest.mark.usefixtures("answers")
def test_a_reply_to_a_mail_whose_run_is_over_counts_for_its_procedure_once(clock: Clock) -> None:
    letter = named(published("probe.pure", slug="letter"), "Letter")
    first, second = begun(letter), begun(letter)
    engine.drain()
    answered(first, first, second)
    assert replied_on(clock, 16) == {"Letter": 2}
    clock.stand_at(2027, 2, 17, 9)
    answered(first)
    assert replied_on(clock, 17) == {}


@pytest.mark.usefixtures("answers")
def test_a_reply_to_the_mail_of_a_run_that_goes_on_and_does_not_listen_counts(clock: Clock) -> None:
    task = begun(named(published(REST, slug="ack"), "Acknowledgement"))
    engine.drain()
    answered(task)
    assert replied_on(clock, 16) == {"Acknowledgement": 1}


@pytest.mark.usefixtures("answers")
def test_a_reply_that_a_run_hears_itself_counts_once(clock: Clock) -> None:
    task = begun(named(published(HEARS, slug="asks"), "Asks"))
    engine.drain()
    answered(task)
    answered(task)
    assert replied_on(clock, 16) == {"Asks": 1}
    clock.stand_at(2027, 2, 17, 9)
    answered(task)
    assert replied_on(clock, 17) == {}


@pytest.mark.usefixtures("answers")
def test_a_reply_that_the_follow_up_hears_or_will_hear_counts_there(clock: Clock) -> None:
    first, follow_up = begun(published("probe.pure", slug="one")), begun(published(HEARS, slug="two"))
    Task.objects.filter(pk=follow_up.pk).update(parent=first)
    engine.drain()
    engine.signal([follow_up.pk], "pause")
    engine.drain()
    answered(first)
    assert replied_on(clock, 16) == {}
    clock.stand_at(2027, 2, 17, 9)
    engine.signal([follow_up.pk], "resume")
    engine.drain()
    assert replied_on(clock, 17) == {"Two": 1}


def test_a_run_that_hears_of_a_reply_on_two_days_is_counted_on_the_first(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 12)
    task = begun(published(HEARS, HEARS, slug="one"))
    engine.drain()
    engine.signal([task.pk], "event", name="replied")
    engine.drain()
    assert replied_on(clock, 16) == {"One": 1}
    clock.stand_at(2027, 2, 17, 9)
    engine.signal([task.pk], "event", name="replied")
    engine.drain()
    assert replied_on(clock, 17) == {}


# -- mails whose answer was lost -------------------------------------------------------------------


@pytest.fixture
def lost() -> Iterator[None]:
    """Steps whose answer is lost: one that a customer sees, and one that only the other side does."""

    def loses(step: StepRun) -> Outcome:
        raise Transient("lost", sent="maybe")

    handler("probe.letter", effect="at_most_once", sends=True)(loses)
    handler("probe.entry", effect="at_most_once")(loses)
    yield
    handlers.remove("probe.letter")
    handlers.remove("probe.entry")


@pytest.mark.parametrize(
    ("step", "choice", "sent"),
    [("probe.letter", "was_sent", 3), ("probe.letter", "skip", None), ("probe.entry", "was_sent", None)],
)
@pytest.mark.usefixtures("lost")
def test_a_mail_of_which_a_person_says_that_it_was_sent_is_counted(
    clock: Clock, step: str, choice: str, sent: int | None
) -> None:
    clock.stand_at(2027, 2, 16, 12)
    version = published(step, slug="one")
    for task in [begun(version) for _ in range(3)]:
        engine.drain()
        approvals.answer(task.approvals.get().pk, choice, by=None)
        engine.drain()
    clock.stand_at(2027, 2, 16, 19, 1)
    counts = summary.counts_of(summary.day_before(journal.database_now()))
    assert counts["One"].get("sent") == sent


def test_a_parent_that_only_waits_for_its_children_does_not_wait(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 12)
    parent, child = begun(published("probe.pure", slug="p")), begun(published("probe.pure", slug="c"))
    Task.objects.filter(pk=parent.pk).update(status="waiting", waiting_for="children", wake_at=None)
    Task.objects.filter(pk=child.pk).update(status="waiting", waiting_for="time")
    waiting = summary.counts_of(summary.day_before(journal.database_now() + timedelta(days=1)))
    assert {name: counts.get("waiting") for name, counts in waiting.items()} == {"P": None, "C": 1}


# -- money -----------------------------------------------------------------------------------------


class Collected(BaseModel):
    """What was found paid."""

    collected: Open[str]
    currency: Open[str]


@pytest.fixture
def found_paid() -> Iterator[Any]:
    """A step that finds an invoice paid as its run's inputs say."""
    amounts: list[tuple[str, str, str]] = []

    def run(step: StepRun) -> Outcome:
        collected, currency, result = amounts.pop()
        values = {"collected": collected, "currency": currency}
        return Branch(to="complete", result=result, values=values)

    handler("probe.paid", results=Collected)(run)
    yield amounts
    handlers.remove("probe.paid")


def test_money_is_what_runs_that_ended_paid_have_collected(
    clock: Clock, found_paid: list[tuple[str, str, str]]
) -> None:
    clock.stand_at(2027, 2, 16, 12)
    version = published("probe.paid", slug="collect")
    found_paid += [
        ("420.00", "USD", "paid"),
        ("1220.5", "USD", "paid"),
        ("99.00", "USD", "declined"),
        ("10.00", "CAD", "paid"),
        ("no number", "USD", "paid"),
        ("NaN", "USD", "paid"),
    ]
    for _ in range(6):
        begun(version)
    engine.drain()
    clock.stand_at(2027, 2, 16, 19, 1)
    summary.post_due()
    clock.stand_at(2027, 2, 17, 19, 1)
    summary.post_due()
    first, second = posted()
    assert [line for line in first.splitlines() if "Money" in line] == [
        "Money collected after our notices: 10.00 CAD",
        "Money collected after our notices: 1,640.50 USD",
    ]
    assert "Money" not in second


def test_what_one_run_has_collected_in_two_currencies_is_not_added(clock: Clock, probe: Probe) -> None:
    clock.stand_at(2027, 2, 16, 12)
    task = begun(published("probe.pure", slug="collect"))
    probe.told["s1"] = lambda _: Branch(to="complete", result="paid")
    engine.drain()
    collected = {"USD": "420.00", "EUR": "77.00", "": "1.00"}
    Task.objects.filter(pk=task.pk).update(
        context={"look": {"collected": collected}, "send": {"collected": {}}}
    )
    found = summary.money_of(summary.day_before(journal.database_now() + timedelta(days=1)))
    assert found == ["1.00", "77.00 EUR", "420.00 USD"]


def test_sums_are_exact(clock: Clock, found_paid: list[tuple[str, str, str]]) -> None:
    clock.stand_at(2027, 2, 16, 12)
    found_paid += [("0.10", "", "paid")] * 3
    version = published("probe.paid", slug="collect")
    for _ in range(3):
        begun(version)
    engine.drain()
    assert summary.money_of(summary.day_before(journal.database_now() + timedelta(days=1))) == [
        f"{Decimal('0.30'):,.2f}"
    ]
