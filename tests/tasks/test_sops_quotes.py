"""The story of a quote that nobody answers, sentence by sentence: two mails, and then a cold lead."""

from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from tasks import replies
from tests.length import AT_FULL_LENGTH
from tests.tasks.runs import check_invariants
from tests.tasks.shop import CRMS, Shop, shop, story, wakes

# The threads of a drain have connections of their own. On real processes tests/stories tells the same.
pytestmark = [pytest.mark.django_db(transaction=True), AT_FULL_LENGTH]

FIRST, SECOND, CLOSE = "quote-follow-up", "quote-second-follow-up", "quote-close"
QUOTE, LEAD, EMAIL = "quo_0100", "cus_0100", "maja.berg@example.test"
THURSDAY = "2027-03-11T16:00:00-06:00"


def prepared(firm: Shop) -> Shop:
    firm.at("2027-03-11", "16:00")
    firm.publish(CLOSE, SECOND, FIRST)
    firm.state.load("customers", [{"id": LEAD, "name": "Maja Berg", "email": EMAIL, "status": "lead"}])
    firm.state.load("quotes", [quote(firm)])
    firm.hears("quote.sent", quote_id=QUOTE, crm_customer_id=LEAD)
    return firm


@pytest.fixture(params=CRMS)
def firm(request: Any, settings: Settings, tmp_path: Path) -> Iterator[Shop]:
    """The firm on Thursday at four: a quote has just been sent to a lead."""
    with shop(request.param, settings, tmp_path) as firm:
        yield prepared(firm)


@pytest.fixture
def near(settings: Settings, tmp_path: Path) -> Iterator[Shop]:
    """The same with the CRM in this process, for what does not depend on it."""
    with shop("mock", settings, tmp_path) as firm:
        yield prepared(firm)


def quote(firm: Shop, **fields: Any) -> dict[str, Any]:
    row = next(row for row in firm.state.rows("quotes") if row["status"] in ("sent", "accepted"))
    usual = {"id": QUOTE, "number": "Q-2100", "customer_id": LEAD, "sent_at": THURSDAY, "status": "sent"}
    return {**row, **usual, "responded_at": None, "valid_until": "2027-04-10", **fields}


def change(firm: Shop, **fields: Any) -> None:
    firm.state.load("quotes", [quote(firm, **fields)])


def first_sent(firm: Shop) -> Shop:
    firm.at("2027-03-15", "10:30")
    firm.answer("approve", FIRST)
    return firm


def second_sent(firm: Shop) -> Shop:
    first_sent(firm).at("2027-03-22", "09:00")
    firm.at("2027-03-22", "11:00")
    firm.answer("approve", SECOND)
    return firm


def text(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


# -- the story -------------------------------------------------------------------------------------------


def test_day_three_is_a_sunday_and_a_clock_change_so_the_draft_comes_on_monday(firm: Shop) -> None:
    assert wakes(firm.run(FIRST)) == "Mon 15 Mar 09:00 CDT"
    firm.at("2027-03-14", "16:01")
    firm.at("2027-03-15", "08:59")
    assert firm.questions() == []
    firm.at("2027-03-15", "09:00")
    assert "has not answered elsewhere: send this mail?" in firm.asked(firm.question(FIRST))


def test_three_days_after_a_monday_are_the_same_wall_clock_on_thursday(near: Shop) -> None:
    change(near, id="quo_0101", sent_at="2027-03-08T10:15:00-06:00")
    near.hears("quote.sent", id_="other", quote_id="quo_0101")
    assert {task.context["quote_id"]: task.status for task in near.runs(FIRST)}["quo_0101"] == "waiting"
    assert near.question(FIRST).task.context["quote_id"] == "quo_0101", "it was due this morning already"


def test_the_first_mail_says_which_quote_and_when(firm: Shop) -> None:
    first_sent(firm)
    (mail,) = firm.mails()
    assert (mail["To"], mail["Subject"]) == (EMAIL, "Your quote Q-2100: any questions?")
    for kind in ("plain", "html"):
        assert "Thursday, March 11" in text(mail, kind)
        assert "Hi Maja Berg," in text(mail, kind)
    assert replies.task_of([str(mail["Reply-To"])]) == firm.run(FIRST).pk
    assert firm.run(FIRST).result == "sent"
    assert firm.notes(LEAD)[0].startswith("quote_follow_up: asked by mail about quote Q-2100.")


def test_the_second_comes_five_days_after_the_first_was_really_sent_in_the_window(firm: Shop) -> None:
    first_sent(firm)  # on Monday at 10:30, an hour and a half after its draft
    assert wakes(firm.run(SECOND)) == "Mon 22 Mar 09:00 CDT", "Saturday at 10:30 is no hour to write"
    firm.at("2027-03-22", "08:59")
    assert firm.questions() == []
    firm.at("2027-03-22", "09:00")
    assert "this second one" in firm.asked(firm.question(SECOND))


def test_five_days_count_from_the_mail_and_not_from_the_draft(near: Shop) -> None:
    near.at("2027-03-15", "09:00")
    near.at("2027-03-16", "15:20")  # a day and more to approve it
    near.answer("approve", FIRST)
    assert wakes(near.run(SECOND)) == "Mon 22 Mar 09:00 CDT"
    change(near, id="quo_0102", sent_at="2027-03-12T08:00:00-06:00")
    near.hears("quote.sent", id_="another", quote_id="quo_0102")
    near.at("2027-03-17", "10:10")
    near.answer("approve", FIRST)
    other = [task for task in near.runs(SECOND) if task.context["quote_id"] == "quo_0102"]
    assert [wakes(task) for task in other] == ["Mon 22 Mar 10:10 CDT"]


def test_seven_days_after_the_second_the_lead_is_cold(firm: Shop) -> None:
    second_sent(firm)
    assert [mail["Subject"] for mail in firm.mails()][1] == "Shall we keep a place for you? Your quote Q-2100"
    assert "Saturday, April 10" in text(firm.mails()[1])
    assert wakes(firm.run(CLOSE)) == "Mon 29 Mar 11:00 CDT"
    firm.at("2027-03-29", "10:59")
    assert firm.customer(LEAD)["status"] == "lead"
    firm.at("2027-03-29", "11:01")
    assert firm.customer(LEAD)["status"] == "cold"
    assert firm.run(CLOSE).result == "cold"
    assert firm.posts("#leads-incoming", "info") == [
        "Maja Berg has not answered quote Q-2100 in two mails and is cold now."
    ]
    assert len(firm.mails()) == 2
    check_invariants()


@pytest.mark.parametrize("where", [FIRST, SECOND])
def test_a_reply_while_an_approval_is_open_voids_it(firm: Shop, where: str) -> None:
    sent = firm.run(FIRST)
    if where == FIRST:
        firm.at("2027-03-15", "09:00")
    else:
        first_sent(firm).at("2027-03-22", "09:00")
    assert len(firm.questions(where)) == 1
    firm.hears("replied", task=sent)
    assert firm.questions() == []
    assert firm.run(where).result == "replied"
    assert "the question of “Ask before sending” was withdrawn" in story(firm.run(where))
    firm.at("2027-04-12", "12:00")
    assert len(firm.mails()) == (0 if where == FIRST else 1)
    assert firm.customer(LEAD)["status"] == "lead"
    check_invariants()


@pytest.mark.parametrize("where", [FIRST, SECOND])
def test_a_decline_ends_the_run_without_marking_cold(firm: Shop, where: str) -> None:
    if where == FIRST:
        firm.at("2027-03-15", "09:00")
    else:
        first_sent(firm).at("2027-03-22", "09:00")
    firm.answer("decline", where)
    assert firm.run(where).result == "declined"
    firm.at("2027-04-12", "12:00")
    assert firm.customer(LEAD)["status"] == "lead"
    assert firm.runs(CLOSE) == []
    assert len(firm.mails()) == (0 if where == FIRST else 1)


# -- who hears what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", ["2027-03-18", "2027-03-24"], ids=["before the second", "after the second"])
def test_a_reply_to_the_first_mail_is_heard_by_whatever_follows_it(near: Shop, days: str) -> None:
    sent = near.run(FIRST)
    if days == "2027-03-18":
        first_sent(near)
    else:
        second_sent(near)
    near.at(days, "12:00")
    near.hears("replied", task=sent)
    follows = near.run(SECOND if days == "2027-03-18" else CLOSE)
    assert (follows.status, follows.result) == ("completed", "replied")
    near.at("2027-04-12", "12:00")
    assert near.customer(LEAD)["status"] == "lead"


def test_the_event_of_a_quote_starts_one_run_however_often_it_comes(near: Shop) -> None:
    near.hears("quote.sent", quote_id=QUOTE, crm_customer_id=LEAD)
    near.hears("quote.sent", id_="told again", quote_id=QUOTE, crm_customer_id=LEAD)
    assert len(near.runs(FIRST)) == 1


@pytest.mark.parametrize("moment", ["waits", "asks"])
def test_an_answer_that_the_crm_tells_ends_it(near: Shop, moment: str) -> None:
    if moment == "asks":
        near.at("2027-03-15", "09:00")
    change(near, status="accepted", responded_at="2027-03-13T10:00:00-06:00")
    near.hears("quote.answered", quote_id=QUOTE)
    assert near.questions() == []
    assert near.run(FIRST).result == "replied"


def test_the_answer_about_another_quote_ends_nothing(near: Shop) -> None:
    near.at("2027-03-15", "09:00")
    near.hears("quote.answered", quote_id="quo_0001", crm_customer_id=LEAD)
    assert len(near.questions(FIRST)) == 1


# -- what the CRM says when it comes to it -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"status": "accepted"}, "settled"),
        ({"responded_at": "2027-03-12T10:00:00-06:00"}, "settled"),
        (None, "quote_gone"),
    ],
    ids=str,
)
def test_a_quote_that_is_answered_or_gone_asks_nobody(
    firm: Shop, fields: dict[str, Any] | None, result: str
) -> None:
    if fields is None:
        firm.state.remove("quotes", QUOTE)
    else:
        change(firm, **fields)
    firm.at("2027-03-15", "09:00")
    assert (firm.run(FIRST).result, firm.questions()) == (result, [])


def test_a_quote_that_was_accepted_before_the_approved_mail_left_stops_it(firm: Shop) -> None:
    firm.at("2027-03-15", "09:00")
    change(firm, status="accepted", responded_at="2027-03-15T09:30:00-05:00")
    firm.answer("approve", FIRST)
    assert (firm.run(FIRST).result, firm.mails(), firm.runs(SECOND)) == ("settled", [], [])


def test_a_new_version_of_the_quote_is_drafted_and_asked_about_again(near: Shop) -> None:
    near.at("2027-03-15", "09:00")
    change(near, version=2, number="Q-2100/2")
    near.answer("approve", FIRST)
    assert near.mails() == []
    near.answer("approve", FIRST)
    (mail,) = near.mails()
    assert "Q-2100/2" in str(mail["Subject"])


@pytest.mark.parametrize(
    ("fields", "result"),
    [({"do_not_contact": True}, "skipped"), ({"email": None}, "skipped"), (None, "customer_gone")],
    ids=str,
)
def test_a_lead_who_may_not_or_cannot_be_written_to_is_not(
    near: Shop, fields: dict[str, Any] | None, result: str
) -> None:
    if fields is None:
        near.state.remove("customers", LEAD)
    else:
        near.state.update("customers", LEAD, fields)
    near.at("2027-03-15", "09:00")
    assert (near.run(FIRST).result, near.questions()) == (result, [])


def test_a_customer_of_ours_does_not_become_cold(near: Shop) -> None:
    near.state.update("customers", LEAD, {"status": "active"})
    second_sent(near).at("2027-03-29", "11:01")
    assert (near.run(CLOSE).result, near.customer(LEAD)["status"]) == ("no_answer", "active")


def test_where_no_mail_comes_in_a_person_is_asked_whether_she_has_answered(near: Shop) -> None:
    near.settings.MAIL_IN = False
    near.at("2027-03-15", "09:00")
    assert "Has Maja Berg answered the quote?" in near.asked(near.question(FIRST))
    near.answer("answered", FIRST)
    assert (near.run(FIRST).result, near.mails(), near.runs(SECOND)) == ("replied", [], [])


@pytest.mark.parametrize(("choice", "status"), [("cold", "cold"), ("answered", "lead"), ("decline", "lead")])
def test_and_before_a_lead_is_marked_as_cold(near: Shop, choice: str, status: str) -> None:
    second_sent(near)
    near.settings.MAIL_IN = False
    near.at("2027-03-29", "11:01")
    assert "Has Maja Berg answered quote Q-2100" in near.asked(near.question(CLOSE))
    near.answer(choice, CLOSE)
    assert near.customer(LEAD)["status"] == status


def test_what_waits_for_days_keeps_no_customer(near: Shop) -> None:
    waiting = near.run(FIRST)
    assert set(waiting.context) == {"quote_id", "version", "crm_customer_id", "sent"}
    second_sent(near)
    assert near.run(CLOSE).sealed is None
    assert near.run(SECOND).sealed is None
