"""The story of the campaign, sentence by sentence: who is written to, who is not, and when."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from sopengine import clock
from tasks import contacts, definition, engine, replies, triggers
from tasks.models import ContactMark, ScheduledRun, Task
from tests.length import AT_FULL_LENGTH
from tests.tasks.runs import check_invariants, fresh
from tests.tasks.shop import CRMS, Shop, shop, story, wakes

# The threads of a drain have connections of their own. On real processes tests/stories tells the same.
pytestmark = [pytest.mark.django_db(transaction=True), AT_FULL_LENGTH]

CAMPAIGN, ONE, SECOND = "past-customer-reactivation", "reactivate-customer", "reactivation-follow-up"
FILTERED = {"status": "past", "services": ["fertilizer", "weed_control"], "not_signed_for_season": 2027}
SILENT, UNREACHABLE = "cus_0006", "cus_0008"
FOUND = {"cus_0001", "cus_0002", "cus_0005", SILENT, UNREACHABLE, "cus_0009", "cus_0012"}
WRITTEN_TO = FOUND - {SILENT, UNREACHABLE}


@pytest.fixture(params=CRMS)
def firm(request: Any, settings: Settings, tmp_path: Path) -> Iterator[Shop]:
    """The firm on the Sunday before: 12 past customers, its procedures published."""
    with shop(request.param, settings, tmp_path) as firm:
        firm.at("2027-02-14", "12:00")
        firm.publish(SECOND, ONE, CAMPAIGN)
        yield firm


@pytest.fixture
def begun(firm: Shop) -> Shop:
    """The same at ten on Monday: the drafts have been approved."""
    firm.at("2027-02-15")
    firm.at("2027-02-15", "10:00")
    firm.answer("approve", ONE)
    return firm


def address(firm: Shop, customer: str) -> str:
    return str(firm.customer(customer)["email"])


def test_on_monday_seven_are_found_five_drafts_are_asked_about_and_two_are_skipped_with_reasons(
    firm: Shop,
) -> None:
    past = [row for row in firm.state.rows("customers") if row["status"] == "past"]
    lawn = [row for row in past if {"fertilizer", "weed_control"} & set(row["services"])]
    assert (len(past), len(lawn), sum(2027 in row["signed_seasons"] for row in lawn)) == (12, 9, 2)

    firm.at("2027-02-15", "08:59")
    assert firm.runs(CAMPAIGN) == []
    firm.at("2027-02-15", "09:00")
    assert {str(task.context["crm_customer_id"]) for task in firm.runs(ONE)} == FOUND
    assert {str(row.task.context["crm_customer_id"]) for row in firm.questions()} == WRITTEN_TO
    assert firm.results(ONE) == {"waiting": 5, "skipped": 2}
    assert "the customer wants no mail" in story(firm.about(ONE, SILENT))
    assert "the customer has no mail address" in story(firm.about(ONE, UNREACHABLE))
    assert firm.mails() == []


def test_what_was_approved_at_ten_has_left_at_ten_and_the_second_note_is_planned(begun: Shop) -> None:
    assert begun.recipients() == Counter(address(begun, one) for one in WRITTEN_TO)
    assert begun.run(CAMPAIGN).status == "completed"
    assert begun.posts("#marketing", "info") == ["Reactivation: 5 sent, 0 declined, 2 skipped"]
    assert all(len(begun.notes(one)) == 1 for one in WRITTEN_TO)
    seconds = begun.runs(SECOND)
    assert {str(task.context["crm_customer_id"]) for task in seconds} == WRITTEN_TO
    assert {wakes(task) for task in seconds} == {"Mon 22 Feb 09:00 CST"}, "Saturday is due, Monday is open"
    check_invariants()


def test_a_second_note_that_waits_knows_the_customer_by_id_only(begun: Shop) -> None:
    for task in begun.runs(SECOND):
        assert task.sealed is None
        assert set(task.context) == {"crm_customer_id", "season"}
    assert all(task.sealed is None for task in begun.runs(ONE)), "the runs that are over keep nothing"


def test_who_replied_on_the_18th_gets_no_second_note(begun: Shop) -> None:
    begun.at("2027-02-18", "11:00")
    first = begun.about(ONE, "cus_0001")
    assert replies.task_of([reply_to(begun, "cus_0001")]) == first.pk
    begun.hears("replied", task=first)
    second = begun.about(SECOND, "cus_0001")
    assert (second.status, second.result) == ("completed", "replied")

    begun.at("2027-02-22")
    asked = {str(row.task.context["crm_customer_id"]) for row in begun.questions(SECOND)}
    assert asked == WRITTEN_TO - {"cus_0001"}
    begun.answer("approve", SECOND)
    assert begun.recipients()[address(begun, "cus_0001")] == 1
    assert begun.recipients() == Counter(
        {address(begun, one): 1 if one == "cus_0001" else 2 for one in WRITTEN_TO}
    )
    assert begun.results(SECOND) == {"replied": 1, "sent": 4}
    assert len(begun.notes("cus_0002")) == 2
    check_invariants()


def reply_to(firm: Shop, customer: str) -> str:
    (mail,) = [mail for mail in firm.mails() if mail["To"] == address(firm, customer)]
    return str(mail["Reply-To"])


def test_a_reply_while_the_second_note_waits_for_a_person_voids_the_question(begun: Shop) -> None:
    begun.at("2027-02-22")
    begun.hears("replied", task=begun.about(ONE, "cus_0002"))
    second = begun.about(SECOND, "cus_0002")
    assert (second.status, second.result) == ("completed", "replied")
    assert "cus_0002" not in {str(row.task.context["crm_customer_id"]) for row in begun.questions()}


def test_the_slot_of_22_february_starts_nobody_twice(begun: Shop) -> None:
    begun.at("2027-02-22")
    begun.work()
    slots = ScheduledRun.objects.filter(sop__slug=CAMPAIGN).order_by("slot")
    assert [row.outcome for row in slots] == ["started", "started"]
    assert len(begun.runs(CAMPAIGN)) == 2
    assert len(begun.runs(ONE)) == 7
    assert sum(begun.recipients().values()) == 5


def test_the_hour_is_that_of_the_wall_clock_on_both_sides_of_the_change() -> None:
    (file,) = [path for path in definition.shipped() if path.stem == CAMPAIGN]
    trigger = definition.read_file(file).trigger
    after = datetime(2027, 3, 2, tzinfo=UTC)
    before = triggers.next_slot(trigger, after)
    assert before == datetime(2027, 3, 8, 15, 0, tzinfo=UTC)
    assert triggers.next_slot(trigger, before) == datetime(2027, 3, 15, 14, 0, tzinfo=UTC)


def test_on_the_holiday_of_31_may_nothing_is_sent_before_1_june(settings: Settings, tmp_path: Path) -> None:
    with shop("mock", settings, tmp_path) as firm:
        firm.at("2027-05-30", "12:00")
        firm.publish(SECOND, ONE, CAMPAIGN)
        firm.at("2027-05-31")
        assert len(firm.questions(ONE)) == 5
        firm.answer("approve", ONE)
        assert {wakes(task) for task in firm.runs(ONE) if task.status == "waiting"} == {"Tue 1 Jun 09:00 CDT"}
        firm.at("2027-06-01", "08:59")
        assert firm.mails() == []
        firm.at("2027-06-01", "09:00")
        assert sum(firm.recipients().values()) == 5
        assert "Tue 1 Jun 09:00 CDT" in story(firm.about(ONE, "cus_0001")), "the window is told"


# -- what else may become of it ---------------------------------------------------------------------


def test_who_was_written_to_lately_or_has_unsubscribed_is_not_asked_about(firm: Shop) -> None:
    now = clock.now()
    left = contacts.person_of_address(address(firm, "cus_0001"))
    ContactMark.objects.create(person=left, kind="unsubscribed", at=now)
    for customer, days in (("cus_0002", 6), ("cus_0005", 7)):  # the campaign begins a day later
        person = contacts.person_of_customer(customer)
        ContactMark.objects.create(person=person, kind="marketing", at=now - timedelta(days=days - 1))
    firm.at("2027-02-15")
    assert firm.results(ONE) == {"waiting": 3, "skipped": 4}
    assert "the customer has unsubscribed" in story(firm.about(ONE, "cus_0001"))
    assert "the customer had a marketing mail not long ago" in story(firm.about(ONE, "cus_0002"))
    asked = {str(row.task.context["crm_customer_id"]) for row in firm.questions()}
    assert asked == WRITTEN_TO - {"cus_0001", "cus_0002"}
    firm.answer("approve", ONE)
    assert firm.recipients() == Counter(address(firm, one) for one in asked)


def test_who_has_unsubscribed_since_the_invitation_is_not_asked_about_again(begun: Shop) -> None:
    left = contacts.person_of_address(address(begun, "cus_0001"))
    ContactMark.objects.create(person=left, kind="unsubscribed", at=clock.now())
    begun.at("2027-02-22")
    assert begun.about(SECOND, "cus_0001").result == "skipped"
    assert "the customer has unsubscribed" in story(begun.about(SECOND, "cus_0001"))
    assert len(begun.questions(SECOND)) == 4


def test_a_declined_invitation_has_no_second_note(firm: Shop) -> None:
    firm.at("2027-02-15")
    firm.answer("decline", ONE)
    assert firm.results(ONE) == {"declined": 5, "skipped": 2}
    assert (firm.mails(), firm.runs(SECOND)) == ([], [])


def test_an_invitation_that_nobody_answered_is_not_sent_and_has_no_second_note(firm: Shop) -> None:
    firm.at("2027-02-15")
    firm.at("2027-02-17", "09:01")
    assert firm.results(ONE) == {"expired": 5, "skipped": 2}
    assert (firm.mails(), firm.runs(SECOND)) == ([], [])


def test_an_edited_invitation_leaves_as_it_was_edited_and_still_says_how_to_get_no_more(firm: Shop) -> None:
    firm.at("2027-02-15")
    firm.answer("edit", ONE, edited={"subject": "Spring is near", "text": "Hello again"})
    mails = firm.mails()
    assert len(mails) == 5
    for mail in mails:
        body = mail.get_body(("plain",))
        assert body is not None
        link = str(mail["List-Unsubscribe"]).replace(" ", "").strip("<>")
        said = f"Hello again\n\nNo more offers by mail, please: {link}"
        assert (mail["Subject"], body.get_content().strip()) == ("Spring is near", said)


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({"do_not_contact": True}, "skipped"),
        ({"signed_seasons": [2026, 2027]}, "signed"),
        ({"status": "active"}, "skipped"),
        ({"email": None}, "skipped"),
        (None, "customer_gone"),
    ],
    ids=str,
)
def test_before_the_second_note_the_customer_is_read_again(
    begun: Shop, change: dict[str, Any] | None, result: str
) -> None:
    if change is None:
        begun.state.remove("customers", "cus_0001")
    else:
        begun.state.update("customers", "cus_0001", change)
    begun.at("2027-02-22")
    assert begun.about(SECOND, "cus_0001").result == result
    assert len(begun.questions(SECOND)) == 4


def test_the_campaigns_filters_hold_for_the_second_note_until_it_leaves(begun: Shop) -> None:
    begun.at("2027-02-22")
    begun.state.update("customers", "cus_0001", {"signed_seasons": [2026, 2027]})
    begun.answer("approve", SECOND)
    assert begun.about(SECOND, "cus_0001").result == "signed"
    assert begun.recipients()[address(begun, "cus_0001")] == 1
    assert begun.results(SECOND) == {"sent": 4, "signed": 1}


def test_where_no_mail_comes_in_a_person_says_whether_the_customer_has_answered(begun: Shop) -> None:
    begun.settings.MAIL_IN = False
    begun.at("2027-02-22")
    question = begun.questions(SECOND)[0]
    assert "Has Ada Anderson answered the invitation?" in begun.asked(question)
    begun.answer("answered", SECOND)
    assert begun.results(SECOND) == {"replied": 5}
    assert sum(begun.recipients().values()) == 5


def test_without_the_second_procedure_the_invitation_is_sent_and_noted_all_the_same(
    settings: Settings, tmp_path: Path
) -> None:
    with shop("mock", settings, tmp_path) as firm:
        firm.at("2027-02-14", "12:00")
        firm.publish(ONE, CAMPAIGN)
        firm.at("2027-02-15")
        firm.answer("approve", ONE)
        assert firm.results(ONE) == {"sent": 5, "skipped": 2}
        assert len(firm.notes("cus_0001")) == 1


def test_a_cancelled_campaign_cancels_what_waits_for_a_person_and_nothing_that_is_over(firm: Shop) -> None:
    firm.at("2027-02-15")
    (campaign,) = firm.runs(CAMPAIGN)
    engine.signal([campaign.pk], "cancel")
    firm.work()
    assert firm.results(ONE) == {"cancelled": 5, "skipped": 2}
    assert fresh(campaign).status == Task.Status.CANCELLED
