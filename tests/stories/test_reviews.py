"""A customer is asked for a review two days after a job, and at most once a year, on real processes."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.stories.firm import COLLEAGUE, Firm, end_of
from tests.stories.people import address, drafts, person
from tests.stories.stage import Row, both_texts

SOP, LINK = "review-request", "https://reviews.example.com/story-lawns"
MARKETING, CALLS = "#marketing", "#escalations"
# Whose job is done on 6 April, and what becomes of asking them.
ASKED = {
    "glad": "Ada Glad",
    "declined": "Dina Dahl",
    "edited": "Edda Egge",
    "expired": "Xenia Fjeld",
    "gone": "Greta Gran",
    "cross": "Cora Moen",
    "moved": "Mona Rud",
    "refused": "Rolf Bakke",
    "crm_down": "Dag Nes",
}
UNASKED = {"complained": "Olga Berg", "owes": "Owe Lie", "silent": "Siri Nord", "no_mail": "Nils Haug"}
WHY = {
    "complained": "complain",
    "owes": "overdue",
    "silent": "wants no mail",
    "no_mail": "no mail address",
}


@pytest.fixture(scope="module", autouse=True)
def _opened(firm: Firm) -> None:
    firm.opens("2027-04-06", "15:00", SOP)
    firm.state.load("customers", [active(way, name) for way, name in {**ASKED, **UNASKED}.items()])
    firm.state.update("customers", "cus_silent", {"do_not_contact": True})
    firm.state.update("customers", "cus_no_mail", {"email": None})
    firm.state.load("invoices", [overdue_invoice("cus_owes")])
    firm.state.load("notes", [complaint("cus_complained", "2027-04-05")])


def active(way: str, name: str) -> Row:
    return person(way, name=name, status="active")


def overdue_invoice(owes: str) -> Row:
    money = {"amount_due": 420.0, "currency": "USD", "status": "open", "paid_at": None}
    return {"id": "inv_9001", "number": "INV-9001", "customer_id": owes, "due_date": "2027-04-01", **money}


def complaint(about: str, day: str) -> Row:
    text = "complaint: the edges were missed"
    return {"id": f"not_{about}", "customer_id": about, "text": text, "created_at": f"{day}T12:00:00+00:00"}


def done(
    firm: Firm, way: str, job: str = "", at: str = "2027-04-06T15:00:00-05:00", **more: Any
) -> list[int]:
    """Let the planning software tell that a job is done."""
    job = job or f"job_{way}"
    data: Row = {
        "job_id": job,
        "crm_customer_id": f"cus_{way}",
        "service_type": "weed_control",
        "completed_at": at,
    }
    return firm.hears("job.completed", f"evt_{job}", **more, **data)


def about(firm: Firm, way: str, job: str = "") -> Row:
    return firm.run(SOP, job_id=job or f"job_{way}")


def requests_counted(firm: Firm) -> list[str]:
    """Return for whom a request is counted, as it stands in the table."""
    rows = firm.desk.sql("SELECT person FROM tasks_contactmark WHERE kind = 'review'")
    return [str(row["person"]) for row in rows]


# -- the story ---------------------------------------------------------------------------------------


def test_a_job_that_is_told_twice_is_one_draft_two_days_after_it(firm: Firm) -> None:
    assert {status // 100 for status in done(firm, "glad", times=2)} == {2}
    for way in [*ASKED, *UNASKED]:
        done(firm, way, rests=way == "no_mail")
    assert firm.results(SOP) == {"waiting": len(ASKED) + len(UNASKED)}
    assert {firm.wakes(run) for run in firm.runs(SOP)} == {"Thu 8 Apr 15:00 CDT"}
    firm.at("2027-04-08", "14:59")
    assert not firm.questions()
    firm.at("2027-04-08", "15:00")
    assert len(firm.questions()) == len(ASKED)
    draft = drafts(firm)["Glad"]
    assert draft["to"] == "glad@example.com"
    assert "for your weed control" in draft["text"]
    assert all(LINK in draft[part] and "/unsubscribe/" in draft[part] for part in ("text", "html"))
    assert not firm.mails()


def test_one_mail_leaves_after_the_approval_and_is_noted_and_counted_without_a_name(firm: Firm) -> None:
    draft = drafts(firm)["Glad"]
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["glad"]))
    (mail,) = firm.mails(address("glad"))
    assert mail["Subject"] == draft["subject"] == "How did we do, Ada Glad?"
    assert both_texts(mail) == (draft["text"], draft["html"])
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert end_of(about(firm, "glad")) == ("completed", "sent")
    (note,) = firm.notes("cus_glad")
    assert note.startswith("review_request: asked by mail for a review.")
    assert firm.said_in(MARKETING, "Asked customer cus_glad for a review.")
    assert firm.said_in(MARKETING, "owner chose “Send as is” on 8 April 2027 at 15:0")
    counted = requests_counted(firm)
    assert len(counted) == 2, "as an address and as a customer"
    assert not any("glad" in one for one in counted)


def test_who_is_not_glad_is_not_asked_and_the_reason_is_told(firm: Firm) -> None:
    for way, why in WHY.items():
        run = about(firm, way)
        assert end_of(run) == ("completed", "skipped"), way
        assert why in firm.story(run)
        assert (firm.mails(address(way)), len(firm.notes(f"cus_{way}"))) == ([], way == "complained")


def test_without_a_review_link_the_procedure_cannot_be_published(firm: Firm) -> None:
    with pytest.raises(AssertionError, match="REVIEW_LINK"):
        firm.manage("sop", "import", "--publish", "tasks/sops/review-request.yaml", REVIEW_LINK="")


# -- the unhappy ends --------------------------------------------------------------------------------


def test_a_declined_request_is_not_sent_and_not_counted(firm: Firm) -> None:
    firm.presses("Don't send", by=COLLEAGUE, on=firm.card(MARKETING, ASKED["declined"]))
    assert end_of(about(firm, "declined")) == ("completed", "declined")
    assert firm.said_in(MARKETING, "colleague chose “Don't send” on 8 April 2027 at 15:0")
    assert (firm.mails(address("declined")), firm.notes("cus_declined")) == ([], [])
    assert len(requests_counted(firm)) == 2


def test_an_edited_request_leaves_as_it_was_edited_in_text_and_in_html(firm: Firm) -> None:
    unsubscribe = drafts(firm)["Edited"]["text"].splitlines()[-1]
    typed = f"Hello Edda,\n\nlawn & moss gone?\n{LINK}\n\n{unsubscribe}"
    firm.edits(on=firm.card(MARKETING, ASKED["edited"]), subject="One word from you?", text=typed)
    (mail,) = firm.mails(address("edited"))
    assert mail["Subject"] == "One word from you?"
    text, html = both_texts(mail)
    assert text.rstrip("\n") == typed
    assert html.rstrip("\n") == (
        f"<p>Hello Edda,</p>\n<p>lawn &amp; moss gone?<br>\n{LINK}</p>\n<p>{unsubscribe}</p>"
    )
    assert firm.said_in(MARKETING, "owner chose “Edit first” on 8 April 2027 at 15:0")
    assert end_of(about(firm, "edited")) == ("completed", "sent")


def test_a_customer_who_was_removed_before_the_answer_gets_no_mail(firm: Firm) -> None:
    firm.state.remove("customers", "cus_gone")
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["gone"]))
    assert end_of(about(firm, "gone")) == ("completed", "customer_gone")
    assert firm.mails(address("gone")) == []


def test_who_has_complained_since_the_draft_is_not_asked_and_a_new_address_is_asked_about_anew(
    firm: Firm,
) -> None:
    firm.state.load("notes", [complaint("cus_cross", "2027-04-08")])
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["cross"]))
    assert end_of(about(firm, "cross")) == ("completed", "skipped")
    assert "complain" in firm.story(about(firm, "cross"))
    assert firm.mails(address("cross")) == []
    firm.state.update("customers", "cus_moved", {"email": "mona@example.com"})
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["moved"]))
    assert "Mona" in drafts(firm)
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["moved"]))
    assert len(firm.mails("mona@example.com")) == len(firm.notes("cus_moved")) == 1
    assert firm.mails(address("moved")) == []


def test_a_refused_address_stops_the_run_for_a_person_and_goes_on_with_another_one(firm: Firm) -> None:
    firm.post.refuses.add("refused@example.com")
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["refused"]))
    run = about(firm, "refused")
    assert (run["status"], run["reason"]) == ("paused", "mail_recipient")
    (call,) = firm.said_in(CALLS, "refuses the customer's address (550)")
    assert "refused@" not in f"{call.text}{call.words}", "chat is told no address"
    firm.state.update("customers", "cus_refused", {"email": "rolf@example.com"})
    firm.desk.signal([str(run["id"])], "retry")
    firm.rests()
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["refused"]))
    assert end_of(about(firm, "refused")) == ("completed", "sent")
    assert len(firm.mails("rolf@example.com")) == len(firm.notes("cus_refused")) == 1
    assert firm.post.refused == {"refused@example.com": 1}


def test_while_the_crm_is_away_an_approved_mail_waits_and_then_leaves_once(firm: Firm) -> None:
    firm.crm_ends()
    firm.presses("Send as is", on=firm.card(MARKETING, ASKED["crm_down"]))
    run = about(firm, "crm_down")
    assert (run["status"], run["waiting_for"]) == ("waiting", "provider:crm")
    assert len(firm.said_in(CALLS, "The CRM does not answer; runs that need it wait.")) == 1
    assert firm.mails(address("crm_down")) == []
    firm.crm_begins()
    firm.at("2027-04-08", "17:01")
    assert firm.said_in(CALLS, "The CRM answers again.")
    assert end_of(about(firm, "crm_down")) == ("completed", "sent")
    assert len(firm.mails(address("crm_down"))) == len(firm.notes("cus_crm_down")) == 1


def test_a_question_that_nobody_answers_is_reminded_of_escalated_and_closed_after_two_working_days(
    firm: Firm,
) -> None:
    assert firm.said_in(MARKETING, "1 question waits for an answer, the oldest for 2 h.")
    firm.at("2027-04-09", "11:01")
    assert firm.said_in(MARKETING, "1 question waits for an answer, the oldest for 20 h.")
    firm.at("2027-04-09", "15:01")
    assert len(firm.said_in(CALLS, "nobody has answered in #marketing as long as the procedure allows")) == 1
    # A call for a person that nobody has answered is a reason not to ask the same customer once more.
    done(firm, "expired", "job_second", at="2027-04-07T15:00:00-05:00")
    assert end_of(about(firm, "expired", "job_second")) == ("completed", "skipped")
    assert "complain" in firm.story(about(firm, "expired", "job_second"))
    counted = len(requests_counted(firm))
    firm.at("2027-04-12", "15:01")
    assert end_of(about(firm, "expired")) == ("completed", "expired")
    assert firm.said_in(MARKETING, "Nobody answered in time; the question ended on 12 April 2027 at 15:00.")
    assert (firm.mails(address("expired")), firm.notes("cus_expired")) == ([], [])
    assert len(requests_counted(firm)) == counted


# -- later in the year -------------------------------------------------------------------------------


def test_while_chat_is_away_a_draft_is_answered_elsewhere_and_chat_hears_of_it_afterwards(
    firm: Firm,
) -> None:
    firm.state.load("customers", [active("chat_down", "Kari Lund")])
    firm.at("2027-04-20", "15:00")
    for way in ("glad", "chat_down"):
        done(firm, way, f"job_{way}_of_the_20th", at="2027-04-20T15:00:00-05:00", rests=way != "glad")
    firm.slack.fail(status=503)
    firm.at("2027-04-22", "15:00")
    assert firm.answer("approve") == 1
    assert len(firm.mails(address("chat_down"))) == len(firm.notes("cus_chat_down")) == 1
    assert not firm.said_in(MARKETING, "cus_chat_down")
    firm.slack.recover()
    firm.at("2027-04-22", "15:30")
    assert firm.said_in(MARKETING, "Asked customer cus_chat_down for a review.")


def test_a_second_job_within_a_year_asks_nothing_and_one_after_365_days_does(firm: Firm) -> None:
    second = about(firm, "glad", "job_glad_of_the_20th")
    assert end_of(second) == ("completed", "skipped")
    assert "was asked not long ago" in firm.story(second)
    firm.at("2028-04-07", "15:00")
    done(firm, "glad", "job_of_2028", at="2028-04-05T15:00:00-05:00")
    assert [row["draft"]["to"] for row in firm.questions()] == ["glad@example.com"]
    assert len(firm.mails(address("glad"))) == 1


def test_nobody_has_got_a_mail_twice(firm: Firm) -> None:
    assert set(firm.post.ids.values()) == {1}
    assert set(firm.post.recipients.values()) == {1}


CELLS: dict[str, Callable[..., None] | str] = {
    "declined": test_a_declined_request_is_not_sent_and_not_counted,
    "edited": test_an_edited_request_leaves_as_it_was_edited_in_text_and_in_html,
    "expired": test_a_question_that_nobody_answers_is_reminded_of_escalated_and_closed_after_two_working_days,
    "customer gone": test_a_customer_who_was_removed_before_the_answer_gets_no_mail,
    "changed meanwhile": (
        test_who_has_complained_since_the_draft_is_not_asked_and_a_new_address_is_asked_about_anew
    ),
    "CRM down": test_while_the_crm_is_away_an_approved_mail_waits_and_then_leaves_once,
    "chat down": test_while_chat_is_away_a_draft_is_answered_elsewhere_and_chat_hears_of_it_afterwards,
    "mail refused": test_a_refused_address_stops_the_run_for_a_person_and_goes_on_with_another_one,
}
