"""When a mail leaves: in its window, in its turn, to those who want it, about what is still so."""

import threading
from collections.abc import Callable
from datetime import date, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from crm.providers.mock import forget_state, shared_state
from sopengine import clock
from tasks import approvals, contacts, engine, journal, timeline, unsubscribe
from tasks.models import Approval, ContactMark, Holiday, SopVersion, Task
from tasks.outcome import Done
from tests.tasks.clocks import chicago, keep_office_hours, mover, wall
from tests.tasks.runs import Probe, begun, check_invariants, fresh, kinds, make_due, published

pytestmark = pytest.mark.django_db

BERTA, EMIL = "cus_0002", "cus_0005"
TEXT = {
    "subject": "Spring?",
    "text": "Dear {{ customer_name }}, shall we come? No more: {{ unsubscribe_url }}",
}
MONDAY = chicago(2027, 2, 15, 10, 0)


def offer(purpose: str = "marketing", *before: Any, **params: Any) -> SopVersion:
    """Publish a SOP that writes to its customer, without a person's yes."""
    return published(
        {"handler": "crm.find", "with": {"customer_id": "{{ crm_customer_id }}"}},
        *before,
        {"key": "draft", "handler": "message.draft", "with": TEXT},
        {
            "key": "send",
            "name": "Send the mail",
            "handler": "email.send",
            "with": {"message": "{{ draft }}", "purpose": purpose, **params},
        },
        autonomous=True,
        inputs={"crm_customer_id": {"type": "string"}},
    )


@pytest.fixture(autouse=True)
def _firm(settings: Settings, tmp_path: Path) -> None:
    forget_state()
    settings.EMAIL_FOLDER = str(tmp_path)
    keep_office_hours(settings)


@pytest.fixture
def stand_at(settings: Settings) -> Callable[[datetime], None]:
    move = mover(settings)
    move(MONDAY)
    return move


@pytest.fixture
def mails(tmp_path: Path) -> Callable[[], list[Message]]:
    """Return a function that reads the mails that have left."""
    return lambda: [message_from_bytes(path.read_bytes()) for path in sorted(tmp_path.glob("*.eml"))]


def ran(version: SopVersion, customer: str = BERTA) -> Task:
    task = begun(version, {"crm_customer_id": customer})
    engine.drain()
    return fresh(task)


def drained(task: Task) -> Task:
    engine.drain()
    return fresh(task)


def story(task: Task) -> str:
    return "\n".join(line.text for line in timeline.sentences(task))


# -- the window -----------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["marketing", "service"])
def test_outside_the_window_the_mail_waits_for_its_opening_and_is_not_begun(
    purpose: str, stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    stand_at(chicago(2027, 2, 20, 9, 0))  # a Saturday
    task = ran(offer(purpose))

    assert (task.status, task.waiting_for, wall(task.wake_at)) == (
        "waiting",
        "window",
        "Mon 2027-02-22 09:00",
    )
    assert task.started_at is None
    assert "started" not in kinds(task)
    assert "next sending window Mon 22 Feb 09:00 CST" in story(task)
    assert timeline.next_action(task, clock.now()).startswith(
        "Its mail leaves in the next sending window: Mon 22 Feb 09:00"
    )
    assert not ContactMark.objects.exists()

    stand_at(chicago(2027, 2, 21, 12, 0))
    assert drained(task).status == "waiting"
    assert mails() == []
    stand_at(chicago(2027, 2, 22, 9, 0) + timedelta(seconds=1))
    assert drained(task).result == "sent"
    assert len(mails()) == 1
    assert kinds(task).count("moved") == 1
    check_invariants()


def test_inside_the_window_it_leaves_at_once(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    assert ran(offer("service")).result == "sent"
    assert len(mails()) == 1


def test_a_confirmation_leaves_at_any_hour(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    stand_at(chicago(2027, 12, 25, 3, 0))
    assert ran(offer("transactional")).result == "sent"
    assert [mail["List-Unsubscribe"] for mail in mails()] == [None]


@pytest.mark.parametrize(
    ("day", "opening"),
    [
        (chicago(2027, 5, 31, 10, 0), "Tue 2027-06-01 09:00"),
        (chicago(2027, 3, 9, 19, 0), "Thu 2027-03-11 09:00"),
    ],
)
def test_holidays_shipped_and_own_send_nothing(
    day: datetime, opening: str, stand_at: Callable[[datetime], None]
) -> None:
    Holiday.objects.create(day=date(2027, 3, 10), name="Spring clean")
    stand_at(day)
    assert wall(ran(offer()).wake_at) == opening


def test_service_mail_may_be_sent_on_a_weekend_by_day_and_marketing_not(
    stand_at: Callable[[datetime], None],
) -> None:
    stand_at(chicago(2027, 2, 20, 9, 0))
    assert ran(offer("service", window="waking")).result == "sent"
    stand_at(chicago(2027, 2, 20, 21, 0))
    assert wall(ran(offer("service", window="waking")).wake_at) == "Sun 2027-02-21 08:00"
    stand_at(chicago(2027, 2, 20, 9, 0))
    assert wall(ran(offer("marketing", window="waking")).wake_at) == "Mon 2027-02-22 09:00"


def test_a_try_that_failed_before_the_close_is_not_repeated_after_it(
    probe: Probe, stand_at: Callable[[datetime], None], settings: Settings, tmp_path: Path
) -> None:
    stand_at(chicago(2027, 2, 15, 17, 59))
    (tmp_path / "file").write_text("")
    settings.EMAIL_FOLDER = str(tmp_path / "file")  # no folder: nothing was sent
    task = ran(offer())
    assert (task.status, task.retries) == ("ready", 1)
    assert not ContactMark.objects.exists()  # the turn that it did not use

    settings.EMAIL_FOLDER = str(tmp_path)
    stand_at(chicago(2027, 2, 15, 18, 0) + timedelta(minutes=1))
    make_due(task)
    assert wall(drained(task).wake_at) == "Tue 2027-02-16 09:00"


# -- the frequency cap ------------------------------------------------------------------------------


def test_a_customer_gets_one_marketing_mail_in_seven_days_over_all_procedures(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    assert ran(offer()).result == "sent"
    stand_at(MONDAY + timedelta(days=2))
    second, other, service = ran(offer()), ran(offer(), EMIL), ran(offer("service"))

    assert (second.waiting_for, wall(second.wake_at)) == ("window", "Mon 2027-02-22 09:00")
    assert "had a marketing mail not long ago; the next may leave Mon 22 Feb 09:00 CST" in story(second)
    assert (other.result, service.result) == ("sent", "sent")

    stand_at(chicago(2027, 2, 22, 9, 0) + timedelta(seconds=1))
    assert drained(second).result == "sent"
    assert len(mails()) == 4
    check_invariants()


def test_who_may_not_wait_is_skipped(stand_at: Callable[[datetime], None]) -> None:
    ran(offer())
    task = ran(offer(when_capped="skip"))
    assert (task.status, task.result) == ("completed", "skipped")
    assert "the customer had a marketing mail not long ago" in story(task)


def test_nobody_waits_longer_than_a_runs_values_are_kept(
    stand_at: Callable[[datetime], None], settings: Settings
) -> None:
    settings.MARKETING_EVERY_DAYS = 60
    ran(offer())
    assert ran(offer()).result == "skipped"


def test_without_a_limit_there_is_none(
    stand_at: Callable[[datetime], None], settings: Settings, mails: Callable[[], list[Message]]
) -> None:
    settings.MARKETING_EVERY_DAYS = 0
    assert [ran(offer()).result, ran(offer()).result] == ["sent", "sent"]
    assert len(mails()) == 2


def test_the_turn_of_a_mail_that_did_not_leave_is_given_back(stand_at: Callable[[datetime], None]) -> None:
    version = offer()
    shared_state().update("customers", BERTA, {"do_not_contact": True}, "no")
    assert ran(version).result == "skipped"
    assert not ContactMark.objects.exists()

    shared_state().update("customers", BERTA, {"do_not_contact": False}, "yes")
    assert ran(version).result == "sent"


def test_a_mail_that_may_have_left_keeps_its_turn_and_may_be_sent_again_by_a_person(
    stand_at: Callable[[datetime], None], settings: Settings, tmp_path: Path
) -> None:
    settings.EMAIL_FOLDER, settings.EMAIL_BACKEND = "", "tests.no_such_backend"
    task = ran(offer())
    assert task.reason == "outcome_unknown"
    marks = ContactMark.objects.values_list("mark", flat=True)
    assert list(marks) == [f"{task.pk}:send:1"] * 2, "as an address and as a customer"

    settings.EMAIL_FOLDER = str(tmp_path)
    approvals.answer(Approval.objects.get(task=task, state="open").pk, "send_again", by=None)
    assert drained(task).result == "sent"


@pytest.mark.django_db(transaction=True)
def test_of_two_that_take_a_turn_at_once_one_gets_it() -> None:
    before = clock.now() - timedelta(days=7)
    answers: list[object] = []
    barrier = threading.Barrier(4)

    def take(number: int) -> None:
        barrier.wait()
        try:
            answers.append(
                journal.patiently(lambda: journal.reserve_contact("pq", "marketing", f"m{number}", before))
            )
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(None) == 1
    assert len(set(ContactMark.objects.values_list("mark"))) == 1, "one has both, the others nothing"
    assert ContactMark.objects.count() == 2


def test_a_turn_that_was_taken_before_the_worker_died_is_this_mails_own(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    task = begun(offer(), {"crm_customer_id": BERTA})
    ContactMark.objects.create(
        person=contacts.person_of_customer(BERTA),
        kind="marketing",
        at=clock.now(),
        mark=f"{task.pk}:send:1",
    )
    assert drained(task).result == "sent"
    assert len(mails()) == 1


def test_a_draft_that_is_outdated_does_not_stand_in_its_own_way(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]], probe: Probe
) -> None:
    def moves(_: Any) -> Done:
        """The customer moves once, after the draft was written."""
        if len(probe.calls) == 1:
            shared_state().update("customers", BERTA, {"email": "berta@new.example.com"}, "moved")
        return Done()

    probe.told["think"] = moves
    version = offer()
    steps = version.definition["steps"]
    steps.insert(2, {"key": "think", "handler": "probe.pure"})
    SopVersion.objects.filter(pk=version.pk).update(definition=version.definition)

    assert ran(version).result == "sent"
    assert [mail["To"] for mail in mails()] == ["berta@new.example.com"]
    assert len(probe.calls) == 2


def test_under_one_mark_a_turn_may_be_taken_again() -> None:
    before = clock.now() - timedelta(days=7)
    assert journal.reserve_contact("p", "marketing", "mine", before) is None
    assert journal.reserve_contact("p", "marketing", "mine", before) is None
    assert journal.reserve_contact("op", "marketing", "theirs", before) is not None
    assert ContactMark.objects.get().mark == "mine", "what was taken before the refusal is given back"
    journal.free_contacts("p", "theirs")
    assert ContactMark.objects.get().mark == "mine"


def test_who_is_two_customers_under_one_address_is_one_reader(stand_at: Callable[[datetime], None]) -> None:
    mine = shared_state().find("customers", BERTA)["email"]
    shared_state().update("customers", EMIL, {"email": mine.upper()}, "shared")
    assert ran(offer()).result == "sent"
    assert ran(offer(), EMIL).waiting_for == "window"


def test_who_has_another_address_is_still_the_customer_who_was_written_to(
    stand_at: Callable[[datetime], None],
) -> None:
    assert ran(offer()).result == "sent"
    shared_state().update("customers", BERTA, {"email": "berta@new.example.com"}, "moved")
    assert ran(offer()).waiting_for == "window"


def test_who_has_left_gets_none_under_another_address_either(stand_at: Callable[[datetime], None]) -> None:
    token = contacts.unsubscribe_url("berta@old.example.com", BERTA).rpartition("/")[2]
    leaving = contacts.read_token(token)
    assert leaving is not None
    unsubscribe.leave(leaving)
    task = ran(offer())
    assert (task.result, "unsubscribed" in story(task)) == ("skipped", True)


# -- other limits -----------------------------------------------------------------------------------


def test_a_review_is_asked_for_once_in_a_year(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    limit = {"at_most": {"kind": "review", "days": 365}}
    assert ran(offer("service", **limit)).result == "sent"
    stand_at(chicago(2028, 2, 14, 10, 0))  # day 364
    early = ran(offer("service", **limit))
    assert early.result == "skipped"
    assert "the customer was asked not long ago" in story(early)
    stand_at(chicago(2028, 2, 15, 10, 0))
    assert ran(offer("service", **limit)).result == "sent"
    assert len(mails()) == 2


def test_a_review_that_is_marketing_takes_both_turns_or_none(stand_at: Callable[[datetime], None]) -> None:
    limit = {"at_most": {"kind": "review", "days": 365}}
    ran(offer())
    assert ran(offer(**limit)).waiting_for == "window"
    assert not ContactMark.objects.filter(kind="review").exists()


def test_before_a_person_is_asked_a_run_can_see_whether_it_is_too_early(
    stand_at: Callable[[datetime], None], probe: Probe
) -> None:
    seen: list[Any] = []
    probe.told["look"] = lambda step: seen.append(dict(step.context["recent"])) or Done()
    recent = {"key": "recent", "handler": "contact.recent", "with": {"days": 7}}
    version = offer("marketing", recent, {"key": "look", "handler": "probe.pure"})
    ran(version)
    ContactMark.objects.create(
        person=contacts.person_of_address("Berta.Bergstrom.2@example.com"),
        kind="unsubscribed",
        at=clock.now(),
    )
    stand_at(chicago(2027, 2, 21, 23, 0))
    ran(version)
    stand_at(chicago(2027, 2, 22, 0, 30))
    ran(version)
    assert seen == [
        {"recent": False, "last": None, "unsubscribed": False},
        {"recent": True, "last": "2027-02-15", "unsubscribed": True},
        {"recent": False, "last": "2027-02-15", "unsubscribed": True},
    ]


def test_without_days_it_is_too_early_as_long_as_the_sending_rules_say(
    stand_at: Callable[[datetime], None], probe: Probe, settings: Settings
) -> None:
    seen: list[Any] = []
    probe.told["look"] = lambda step: seen.append(step.context["recent"]["recent"]) or Done()
    version = offer(
        "marketing", {"key": "recent", "handler": "contact.recent"}, {"key": "look", "handler": "probe.pure"}
    )
    for days in (7, 7, 0, 2):
        settings.MARKETING_EVERY_DAYS = days
        ran(version)
    assert seen == [False, True, False, True]


def test_without_days_a_review_has_no_time_of_its_own() -> None:
    task = ran(offer("marketing", {"key": "recent", "handler": "contact.recent", "with": {"kind": "review"}}))
    assert (task.status, task.reason) == ("paused", "data")


# -- who has left -----------------------------------------------------------------------------------


def test_who_has_unsubscribed_gets_no_marketing_mail_but_all_other(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    ContactMark.objects.create(
        person=contacts.person_of_address(" BERTA.Bergstrom.2@example.com"),
        kind="unsubscribed",
        at=clock.now(),
    )
    task = ran(offer())
    assert (task.status, task.result) == ("completed", "skipped")
    assert "the customer has unsubscribed" in story(task)
    assert "started" not in kinds(task)
    assert mails() == []
    assert ran(offer("service")).result == "sent"


def test_marketing_mail_says_how_to_get_no_more_of_it(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    ran(offer())
    (mail,) = mails()
    link = contacts.unsubscribe_url("berta.bergstrom.2@example.com", BERTA)
    assert "".join(mail["List-Unsubscribe"].split()) == f"<{link}>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert link in mail.get_payload(decode=True).decode()  # type: ignore[union-attr]


# -- what happened meanwhile ------------------------------------------------------------------------


def test_an_event_while_the_mail_waits_for_its_window_ends_the_run(
    stand_at: Callable[[datetime], None], mails: Callable[[], list[Message]]
) -> None:
    stand_at(chicago(2027, 2, 20, 9, 0))
    task = ran(offer(void_on=["replied"]))
    engine.signal([task.pk], "event", name="replied")
    engine.drain()
    stand_at(chicago(2027, 2, 22, 9, 1))
    task = drained(task)
    assert (task.status, task.result) == ("completed", "replied")
    assert mails() == []
    check_invariants()


def test_other_events_do_not_hold_a_mail_back(stand_at: Callable[[datetime], None]) -> None:
    stand_at(chicago(2027, 2, 20, 9, 0))
    task = ran(offer(void_on=["replied"]))
    engine.signal([task.pk], "event", name="job.completed")
    assert drained(task).waiting_for == "window"
    assert (kinds(task).count("moved"), kinds(task).count("opened")) == (1, 0)
    stand_at(chicago(2027, 2, 22, 9, 1))
    assert drained(task).result == "sent"


def test_a_run_that_waits_for_its_window_can_be_paused_and_cancelled(
    stand_at: Callable[[datetime], None],
) -> None:
    stand_at(chicago(2027, 2, 20, 9, 0))
    task, other = ran(offer()), ran(offer(), EMIL)
    engine.signal([task.pk, other.pk], "pause")
    engine.drain()
    stand_at(chicago(2027, 2, 20, 10, 0))
    engine.signal([task.pk], "resume")
    engine.signal([other.pk], "cancel")
    assert drained(task).waiting_for == "window"
    assert fresh(other).status == "cancelled"
    stand_at(chicago(2027, 2, 22, 9, 1))
    assert drained(task).result == "sent"
    check_invariants()


def test_a_run_that_waits_is_no_slot_of_a_rate(stand_at: Callable[[datetime], None]) -> None:
    stand_at(chicago(2027, 2, 20, 9, 0))
    version = offer()
    version.definition["steps"][-1]["rate"] = "1/minute"
    SopVersion.objects.filter(pk=version.pk).update(definition=version.definition)
    tasks = [begun(version, {"crm_customer_id": who}) for who in (BERTA, EMIL)]
    engine.drain()
    assert {fresh(task).waiting_for for task in tasks} == {"window"}
    stand_at(chicago(2027, 2, 22, 9, 0) + timedelta(seconds=1))
    engine.drain()
    assert sorted(fresh(task).result for task in tasks) == ["", "sent"]


def test_whose_slot_of_a_rate_comes_after_the_close_has_none_in_the_morning(
    stand_at: Callable[[datetime], None],
) -> None:
    stand_at(chicago(2027, 2, 15, 17, 59))
    version = offer("service")
    version.definition["steps"][-1]["rate"] = "1/minute"
    SopVersion.objects.filter(pk=version.pk).update(definition=version.definition)
    tasks = [begun(version, {"crm_customer_id": who}) for who in (BERTA, EMIL, "cus_0009")]
    engine.drain()
    stand_at(chicago(2027, 2, 15, 18, 5))
    engine.drain()
    assert sorted(fresh(task).waiting_for for task in tasks) == ["", "window", "window"]
    stand_at(chicago(2027, 2, 16, 9, 0) + timedelta(seconds=1))
    engine.drain()
    assert sorted(fresh(task).result for task in tasks) == ["", "sent", "sent"]


def test_a_plain_wait_may_end_in_the_window(stand_at: Callable[[datetime], None]) -> None:
    task = begun(published({"handler": "flow.wait", "with": {"duration": "5 days", "window": "sending"}}))
    Holiday.objects.create(day=date(2027, 2, 22), name="Own day")
    engine.drain()
    assert wall(fresh(task).wake_at) == "Tue 2027-02-23 09:00"  # from Saturday the 20th


def test_an_error_of_the_limits_stops_this_run_only(
    stand_at: Callable[[datetime], None], settings: Settings
) -> None:
    settings.SENDING_DAYS = ()
    task = ran(offer())
    assert (task.status, task.reason) == ("paused", "data")
