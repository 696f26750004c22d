"""The story of a mail that comes in, sentence by sentence: answered, entered, told, and watched."""

from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from crm import health
from sopengine.errors import Permanent
from tasks import approvals, events
from tests.length import AT_FULL_LENGTH
from tests.tasks.runs import check_invariants, kinds
from tests.tasks.shop import CRMS, Shop, shop, story, wakes

# The threads of a drain have connections of their own. On real processes tests/stories tells the same.
pytestmark = [pytest.mark.django_db(transaction=True), AT_FULL_LENGTH]

LEAD, DUE = "new-lead-response", "quote-due"
INCOMING, ESCALATIONS = "#leads-incoming", "#escalations"
MAIL: dict[str, Any] = {
    "email_from": "maja.berg@example.test",
    "email_name": "Maja Berg",
    "email_subject": "Quote for mowing & weeds",
    "email_body": "Hi,\n\nhow much is mowing, and can you do something about dandelions?\n\n(612) 555-0188\n",
    "email_message_id": "m1@example.test",
    "is_auto_reply": False,
}


@pytest.fixture(params=CRMS)
def firm(request: Any, settings: Settings, tmp_path: Path) -> Iterator[Shop]:
    """The firm on Wednesday evening, after its hours."""
    with shop(request.param, settings, tmp_path) as firm:
        firm.at("2027-03-10", "18:42")
        firm.publish(DUE, LEAD)
        yield firm


@pytest.fixture
def near(settings: Settings, tmp_path: Path) -> Iterator[Shop]:
    """The same with the CRM in this process, for what does not depend on it."""
    with shop("mock", settings, tmp_path) as firm:
        firm.at("2027-03-10", "18:42")
        firm.publish(DUE, LEAD)
        yield firm


def arrives(firm: Shop, **fields: Any) -> None:
    mail = {**MAIL, **fields}
    firm.hears("mail.received", id_=mail["email_message_id"], **mail)


def leads(firm: Shop) -> list[dict[str, Any]]:
    return [row for row in firm.state.rows("customers") if row["email"] == MAIL["email_from"]]


def text(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


# -- one lead, one post, one acknowledgement ---------------------------------------------------------


def test_a_mail_delivered_three_times_is_one_lead_one_post_and_one_acknowledgement(firm: Shop) -> None:
    for _ in range(3):
        arrives(firm)
    firm.at("2027-03-10", "18:47")

    (lead,) = leads(firm)
    assert (lead["name"], lead["status"], lead["source"]) == ("Maja Berg", "lead", "email")
    assert (lead["phone"], lead["services"]) == ("+16125550188", ["weed_control", "mowing"])
    assert firm.posts(INCOMING) == [
        "New lead: Maja Berg — “Quote for mowing & weeds”. The quote is due by Thu 11 Mar 18:42."
    ]
    (mail,) = firm.mails()
    assert mail["To"] == "maja.berg@example.test"
    assert "Hi Maja Berg," in text(mail)
    assert "Thursday, March 11, 6:42 PM" in text(mail)
    assert "Thursday, March 11, 6:42 PM" in text(mail, "html")
    assert len(firm.runs(LEAD)) == 1
    assert firm.questions() == []
    check_invariants()


def test_the_lead_wants_what_the_note_in_its_file_says(firm: Shop) -> None:
    arrives(firm)
    (note,) = firm.notes(leads(firm)[0]["id"])
    assert "lead_mail: Quote for mowing & weeds" in note
    assert "dandelions" in note


def test_the_run_forgets_the_mail_and_the_watch_never_knew_it(firm: Shop) -> None:
    arrives(firm)
    assert (firm.run(LEAD).result, firm.run(LEAD).sealed) == ("sent", None)
    watch = firm.run(DUE)
    assert (set(watch.context), watch.sealed) == ({"crm_customer_id", "since", "due"}, None)
    assert wakes(watch) == "Thu 11 Mar 18:42 CST"


def test_the_acknowledgement_is_transactional_no_wish_and_no_hour_stops_it(near: Shop) -> None:
    near.state.create("customers", {"name": "Maja", "email": MAIL["email_from"], "do_not_contact": True})
    arrives(near)
    assert len(near.mails()) == 1


def test_while_the_crm_is_down_the_lead_is_answered_and_told_and_entered_once_later(near: Shop) -> None:
    health.hold("crm", "ana")
    arrives(near)
    assert (len(near.mails()), len(near.posts(INCOMING)), leads(near)) == (1, 1, [])
    health.release("crm", "ana")
    near.at("2027-03-10", "19:50")
    near.at("2027-03-10", "19:55")
    assert len(leads(near)) == 1
    assert wakes(near.run(DUE)) == "Thu 11 Mar 18:42 CST", "the promise counts from the mail"
    assert len(near.mails()) == 1


# -- a person first ------------------------------------------------------------------------------------


def ask_first(firm: Shop) -> None:
    arrives(firm, ask_first=True)
    assert firm.mails() == []


def test_if_the_procedure_wants_a_person_first_staff_are_reminded_at_3_and_called_at_5_minutes(
    near: Shop,
) -> None:
    ask_first(near)
    asked = near.question(LEAD)
    near.at("2027-03-10", "18:44")
    assert kinds(near.run(LEAD)).count("reminded") == 0
    near.at("2027-03-10", "18:45:30")
    assert kinds(near.run(LEAD)).count("reminded") == 1
    assert near.posts(ESCALATIONS, "escalation") == []
    near.at("2027-03-10", "18:47:30")
    assert kinds(near.run(LEAD)).count("escalated") == 1
    assert len([post for post in near.chat if post.kind == "escalation"]) == 1

    approvals.answer(asked.pk, "approve", by=None)
    near.work()
    assert (len(near.mails()), len(leads(near))) == (1, 1)


def test_a_declined_acknowledgement_leaves_the_lead_in_the_crm(near: Shop) -> None:
    ask_first(near)
    near.answer("decline")
    assert (near.mails(), len(leads(near)), len(near.runs(DUE))) == ([], 1, 1)


def test_an_acknowledgement_that_nobody_approved_in_two_days_is_not_sent_and_the_lead_is_entered(
    near: Shop,
) -> None:
    ask_first(near)
    near.at("2027-03-12", "18:43")
    assert near.run(LEAD).result == "done"
    assert (near.mails(), len(leads(near)), len(near.runs(DUE))) == ([], 1, 1)


# -- what kind of mail it is ---------------------------------------------------------------------------


def test_spam_makes_no_crm_call_no_post_and_no_mail(firm: Shop) -> None:
    before = firm.crm_calls()
    arrives(firm, email_subject="Page one!", email_body="We rank your website on Google, backlinks included")
    assert firm.run(LEAD).result == "spam"
    assert (firm.crm_calls() - before, firm.mails(), firm.chat) == (0, [], [])


def test_an_automatic_mail_is_nobody(near: Shop) -> None:
    arrives(near, is_auto_reply=True)
    assert (near.run(LEAD).result, near.chat, leads(near)) == ("auto_reply", [], [])


def test_a_complaint_reaches_the_escalations_and_the_file_and_answers_nobody(firm: Shop) -> None:
    arrives(
        firm,
        email_from="ada.anderson.1@example.com",
        email_name="Ada Anderson",
        email_subject="Dead grass",
        email_body="Your crew ruined my lawn. I am very disappointed.",
    )
    (told,) = firm.posts(ESCALATIONS)
    assert told.startswith("A complaint has come by mail: Ada Anderson — “Dead grass”.")
    assert "ruined" not in told
    assert firm.chat[0].severity == "error"
    (note,) = firm.notes("cus_0001")
    assert note.startswith("complaint: by mail, Dead grass")
    assert (firm.mails(), firm.run(LEAD).result) == ([], "complaint")


def test_a_complaint_of_a_stranger_is_told_all_the_same(near: Shop) -> None:
    arrives(near, email_subject="Refund", email_body="I want my money back")
    assert len(near.posts(ESCALATIONS)) == 1
    assert leads(near) == []


def test_a_doubtful_mail_goes_to_a_person_whose_word_decides(near: Shop) -> None:
    arrives(near, email_subject="Hello", email_body="Are you there?")
    assert (near.mails(), leads(near), near.posts(INCOMING, "info")) == ([], [], [])
    near.answer("lead", LEAD)
    assert (len(near.mails()), len(leads(near)), len(near.posts(INCOMING, "info"))) == (1, 1, 1)


@pytest.mark.parametrize(
    ("choice", "result", "channel"),
    [("spam", "spam", ""), ("complaint", "complaint", ESCALATIONS), ("customer", "by_hand", INCOMING)],
)
def test_a_doubtful_mail_may_be_anything(near: Shop, choice: str, result: str, channel: str) -> None:
    arrives(near, email_body="Are you there?", email_subject="Hello")
    near.answer(choice, LEAD)
    assert (near.run(LEAD).result, near.mails()) == (result, [])
    assert [post.channel for post in near.chat if post.kind not in ("approval", "update")] == [
        channel
    ] * bool(channel)


def test_a_customers_question_is_handed_to_the_team_and_noted(firm: Shop) -> None:
    arrives(firm, email_from="ada.anderson.1@example.com", email_body="I do not understand my invoice.")
    (told,) = firm.posts(INCOMING)
    assert told.startswith("A customer has written: Maja Berg — “Quote for mowing & weeds”.")
    assert "invoice" not in told
    assert "invoice" in firm.notes("cus_0001")[0]
    assert (firm.mails(), firm.run(LEAD).result) == ([], "by_hand")


# -- who it is -------------------------------------------------------------------------------------------


def test_a_known_past_customer_keeps_the_status_and_gets_a_note(firm: Shop) -> None:
    before = firm.customer("cus_0001")
    arrives(firm, email_from=before["email"].upper(), email_name="Ada Anderson")
    after = firm.customer("cus_0001")
    assert (after["status"], after["source"]) == ("past", before["source"])
    assert set(after["services"]) == {*before["services"], "mowing", "weed_control"}
    assert len(firm.notes("cus_0001")) == 1
    assert len([row for row in firm.state.rows("customers") if row["status"] == "lead"]) == 1
    assert len(firm.mails()) == 1
    assert firm.run(DUE).context["crm_customer_id"] == "cus_0001"


def test_two_who_fit_go_to_a_person_and_nothing_is_written(firm: Shop) -> None:
    twin = {**firm.customer("cus_0001"), "id": "cus_0099"}
    firm.state.load("customers", [twin])
    count = len(firm.state.rows("customers"))
    arrives(firm, email_from=twin["email"], email_body="A quote for mowing, please")
    assert "Two or more customers in the CRM" in firm.asked(firm.question(LEAD))
    assert (len(firm.state.rows("customers")), firm.state.rows("notes")) == (count, [])
    assert len(firm.mails()) == 1, "who it is does not matter for saying thank you"

    firm.state.remove("customers", "cus_0099")
    firm.answer("again", LEAD)
    assert len(firm.notes("cus_0001")) == 1
    assert firm.run(LEAD).result == "sent"


def test_two_who_fit_may_be_left_to_a_person(near: Shop) -> None:
    near.state.load("customers", [{**near.customer("cus_0001"), "id": "cus_0099"}])
    arrives(near, email_from=near.customer("cus_0001")["email"], email_body="A quote for mowing, please")
    near.answer("leave", LEAD)
    assert (near.run(LEAD).result, near.state.rows("notes"), near.runs(DUE)) == ("by_hand", [], [])


# -- the quote that was promised ---------------------------------------------------------------------------


def test_no_quote_by_the_same_hour_of_the_next_day_is_exactly_one_escalation(firm: Shop) -> None:
    arrives(firm)
    firm.at("2027-03-11", "18:41")
    assert firm.posts(ESCALATIONS) == []
    firm.at("2027-03-11", "18:43")
    firm.at("2027-03-12", "18:43")
    (told,) = firm.posts(ESCALATIONS)
    assert told.startswith("Maja Berg was promised a quote by Thu 11 Mar 18:42 and has none.")
    assert firm.run(DUE).result == "no_quote"
    check_invariants()


def test_a_quote_of_which_the_crm_tells_at_18_41_is_none(firm: Shop) -> None:
    arrives(firm)
    firm.at("2027-03-11", "18:41")
    firm.hears("quote.sent", quote_id="quo_0100", crm_customer_id=leads(firm)[0]["id"])
    assert firm.run(DUE).result == "quoted"
    firm.at("2027-03-11", "18:43")
    assert firm.posts(ESCALATIONS) == []


def test_a_quote_that_only_stands_in_the_crm_is_seen_too(firm: Shop) -> None:
    arrives(firm)
    firm.at("2027-03-11", "18:41")
    quote = {
        **next(row for row in firm.state.rows("quotes") if row["status"] == "sent"),
        "id": "quo_0100",
        "customer_id": leads(firm)[0]["id"],
        "sent_at": "2027-03-11T18:41:00-06:00",
    }
    firm.state.load("quotes", [quote])
    firm.at("2027-03-11", "18:43")
    assert (firm.run(DUE).result, firm.posts(ESCALATIONS)) == ("quoted", [])


def test_a_quote_of_another_or_an_older_one_keeps_nobody_from_calling(near: Shop) -> None:
    arrives(near)
    near.hears("quote.sent", quote_id="quo_0100", crm_customer_id="cus_0001")
    quote = next(row for row in near.state.rows("quotes") if row["status"] == "sent")
    old = {
        **quote,
        "id": "quo_0101",
        "customer_id": leads(near)[0]["id"],
        "sent_at": "2027-03-10T18:41:00-06:00",
    }
    near.state.load("quotes", [old])
    near.at("2027-03-11", "18:43")
    assert len(near.posts(ESCALATIONS)) == 1


# -- unhappy ends --------------------------------------------------------------------------------------


def test_a_refused_acknowledgement_is_told_and_the_lead_is_entered(near: Shop, settings: Settings) -> None:
    settings.EMAIL_FOLDER, settings.EMAIL_BACKEND = "", "tests.tasks.test_sops_leads.Refuses"
    arrives(near)
    assert "could not be sent" in near.posts(ESCALATIONS)[0]
    assert (len(leads(near)), len(near.runs(DUE))) == (1, 1)


class Refuses:
    """A mail server that takes no mail for this address."""

    def __init__(self, **_options: Any) -> None:
        pass

    def send_messages(self, _messages: Any) -> int:
        """Refuse."""
        raise Permanent("The mail server refuses the customer's address (550).", code="mail_recipient")


def test_a_lead_that_is_gone_from_the_crm_is_called_for_without_a_name(near: Shop) -> None:
    arrives(near)
    near.state.remove("customers", leads(near)[0]["id"])
    near.at("2027-03-11", "18:43")
    assert near.posts(ESCALATIONS)[0].startswith("A lead was promised a quote")


def test_what_was_written_stands_in_no_event(near: Shop) -> None:
    arrives(near)
    told = story(near.run(LEAD)) + str([event.data for event in near.run(LEAD).events.all()])
    for word in ("Maja", "Berg", "dandelion", "example.test", "555"):
        assert word not in told


# -- answers to our mails ----------------------------------------------------------------------------


def test_an_answer_to_a_mail_is_told_and_kept_in_the_file_and_is_no_lead(firm: Shop) -> None:
    firm.publish("mail-reply")
    count = len(firm.state.rows("customers"))
    firm.hears("mail.reply", **{**MAIL, "email_from": "ada.anderson.1@example.com", "email_name": "Ada"})
    (told,) = firm.posts(INCOMING)
    assert told.startswith("Ada has answered: “Quote for mowing & weeds”.")
    assert "dandelions" in firm.notes("cus_0001")[0]
    assert (len(firm.state.rows("customers")), firm.mails(), firm.runs(LEAD)) == (count, [], [])


def test_an_answer_from_an_unknown_address_is_shown_to_a_person(near: Shop) -> None:
    near.publish("mail-reply")
    near.hears("mail.reply", **MAIL)
    shown = approvals.draft_of(near.question("mail-reply"))
    assert shown is not None
    assert "dandelions" in shown["text"]
    near.answer("read", "mail-reply")
    assert (near.run("mail-reply").result, near.run("mail-reply").sealed) == ("by_hand", None)


# -- two at once -------------------------------------------------------------------------------------


def test_two_mails_of_one_new_person_at_the_same_moment_are_one_lead(firm: Shop) -> None:
    for number in (1, 2):
        mail = {**MAIL, "email_message_id": f"m{number}@example.test"}
        events.receive(events.Event("mail.received", mail["email_message_id"], mail, "mail"))
    firm.work()

    assert len(leads(firm)) == 1
    assert len(firm.runs(LEAD)) == 2
    check_invariants()
