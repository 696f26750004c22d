"""Somebody writes to the firm on Wednesday evening, 10 March 2027: the story on real processes."""

from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.mock.slack import Said
from tests.stories.firm import COLLEAGUE, Firm, reply_to
from tests.stories.stage import Row, letter_text

LEAD, DUE, REPLY = "new-lead-response", "quote-due", "mail-reply"
INCOMING, ESCALATIONS = "#leads-incoming", "#escalations"
WEDNESDAY, THURSDAY, FRIDAY = "2027-03-10", "2027-03-11", "2027-03-12"
MOWING = "Hi,\n\nhow much is mowing, and can you do something about dandelions?\n"
PHONE = "\n(612) 555-0188\n"
THANKS = "We have your message; our answer comes within 24 hours"
PAST, TWIN, OTHER_TWIN, CROSS, GONE = (f"cus_90{number:02}" for number in range(1, 6))
KNOWN: dict[str, Row] = {
    PAST: {"name": "Paula Past", "status": "past", "source": "referral", "services": ["fertilizer"]},
    TWIN: {"name": "Toni Twin", "status": "past"},
    OTHER_TWIN: {"name": "Toni Twin", "status": "active"},
    CROSS: {"name": "Karl Cross", "status": "active"},
    GONE: {"name": "Gina Gone", "status": "past"},
}
IN_THE_EVENING = {  # who writes at 18:42, and what
    "Paula Past": ("A quote for this year", "How much is mowing this year?"),
    "Toni Twin": ("A quote", "A quote for mowing, please."),
    "Karl Cross": ("Dead grass", "Your crew ruined my lawn. I am very disappointed."),
    "Rank Star": ("Page one!", "We rank your website on Google, backlinks included."),
    "Ida Invoice": ("A question", "I do not understand my invoice."),
}


@pytest.fixture(scope="module", autouse=True)
def _opened(firm: Firm) -> None:
    firm.opens(WEDNESDAY, "18:42", DUE, REPLY, LEAD)
    firm.state.load(
        "customers", [{"id": id_, "email": address(row["name"]), **row} for id_, row in KNOWN.items()]
    )


# -- what is written, and what becomes of it -----------------------------------------------------


def address(name: object) -> str:
    return f"{str(name).lower().replace(' ', '.')}@example.test"


def letter(name: str, subject: str = "Quote for mowing", text: str = MOWING) -> EmailMessage:
    """Return a mail of this person to the firm."""
    mail = EmailMessage()
    mail["From"], mail["To"] = f"{name} <{address(name)}>", "office@story.example.com"
    mail["Subject"], mail["Message-ID"] = subject, f"<{name.replace(' ', '-')}@mail.example.test>"
    mail.set_content(text)
    return mail


def one(firm: Firm, name: str) -> Row:
    """Return this person's row in the CRM, of which there is one."""
    (row,) = rows(firm, name)
    return row


def rows(firm: Firm, name: str) -> list[Row]:
    return [row for row in firm.state.rows("customers") if row["email"] == address(name)]


def announced(firm: Firm, name: str) -> list[Said]:
    return firm.said_in(INCOMING, f"New lead: {name} ")


def question(firm: Firm, name: str) -> Said:
    """Return the message about this person's acknowledgement: in one thread with what told of the mail."""
    (told,) = announced(firm, name)
    thread = told.thread or told.ts
    found = [said for said in firm.said_in(INCOMING, THANKS) if said.thread == thread]
    assert len(found) == 1, firm.said_in(INCOMING)
    return found[0]


def about(firm: Firm, name: str) -> Row:
    """Return the run that a mail of this person began."""
    (told,) = announced(firm, name)
    sent = firm.desk.sql(f"SELECT task_id FROM tasks_notification WHERE reference LIKE '%{told.ts}%'")
    (row,) = [row for row in firm.runs(LEAD) if row["id"] in {one["task_id"] for one in sent}]
    return row


def decided(asks: Said) -> tuple[str, list[str]]:
    """Return what a message about a question says by now, and which buttons it still has."""
    return asks.text.partition(": ")[2], [label for label in asks.buttons if label != "Open the page"]


def sent_quote(firm: Firm) -> Row:
    return next(row for row in firm.state.rows("quotes") if row["status"] == "sent")


def watch(firm: Firm, name: str) -> Row:
    """Return the run that watches over this person's quote."""
    return firm.run(DUE, crm_customer_id=one(firm, name)["id"])


def calls(firm: Firm, run: Row) -> list[Any]:
    return [event["data"] for event in firm.events(run) if event["kind"] == "crm_called"]


# -- the story -----------------------------------------------------------------------------------


def test_a_mail_delivered_three_times_is_by_18_47_one_lead_one_post_and_one_acknowledgement(
    firm: Firm,
) -> None:
    once, again = (letter("Maja Berg", text=MOWING + PHONE) for _ in range(2))
    again["Received"] = "by another way"  # another body, the same message
    assert firm.mail_comes(once, once, again) == [202, 202, 202]
    firm.mail_comes(*(letter(name, *words) for name, words in IN_THE_EVENING.items()))
    firm.at(WEDNESDAY, "18:47")

    lead = one(firm, "Maja Berg")
    assert (lead["name"], lead["status"], lead["source"]) == ("Maja Berg", "lead", "email")
    assert (lead["phone"], lead["services"]) == ("+16125550188", ["weed_control", "mowing"])
    (told,) = announced(firm, "Maja Berg")
    assert told.text == "New lead: Maja Berg — “Quote for mowing”. The quote is due by Thu 11 Mar 18:42."
    (mail,) = firm.mails(address("Maja Berg"))
    assert mail["Subject"] == THANKS
    for kind in ("text/plain", "text/html"):
        assert "Hi Maja Berg," in letter_text(mail, kind)
        assert "Thursday, March 11, 6:42 PM" in letter_text(mail, kind)
    (note,) = firm.notes(lead["id"])
    assert "dandelions" in note


def test_a_known_past_customer_keeps_the_status_and_gets_a_note(firm: Firm) -> None:
    paula = one(firm, "Paula Past")
    assert (paula["status"], paula["source"]) == ("past", "referral")
    assert set(paula["services"]) == {"fertilizer", "mowing"}
    assert "How much is mowing this year?" in firm.notes(PAST)[0]
    assert len(firm.mails(address("Paula Past"))) == 1


def test_two_who_fit_go_to_a_person_and_are_merged_in_the_crm(firm: Firm) -> None:
    assert (firm.notes(TWIN), firm.notes(OTHER_TWIN)) == ([], [])
    assert len(firm.mails(address("Toni Twin"))) == 1  # who it is does not matter for a thank-you
    firm.state.remove("customers", OTHER_TWIN)
    firm.presses("Merged in the CRM; look again", INCOMING)
    assert len(firm.notes(TWIN)) == 1
    assert one(firm, "Toni Twin")["status"] == "past"


def test_spam_makes_no_call_to_the_crm_no_post_and_no_mail(firm: Firm) -> None:
    (run,) = [run for run in firm.runs(LEAD) if run["result"] == "spam"]
    assert calls(firm, run) == []
    assert (rows(firm, "Rank Star"), firm.mails(address("Rank Star"))) == ([], [])
    assert firm.said_in(words="Rank Star") == []


def test_a_complaint_reaches_the_escalations_and_the_file_and_is_not_answered(firm: Firm) -> None:
    (told,) = firm.said_in(ESCALATIONS, "complaint")
    assert told.text.startswith("A complaint has come by mail: Karl Cross — “Dead grass”.")
    assert "ruined" not in told.text
    (note,) = firm.notes(CROSS)
    assert note.startswith("complaint: by mail, Dead grass")
    assert firm.mails(address("Karl Cross")) == []


def test_a_customers_question_is_handed_to_the_team(firm: Firm) -> None:
    (told,) = firm.said_in(INCOMING, "A customer has written")
    assert "Ida Invoice" in told.text
    assert (rows(firm, "Ida Invoice"), firm.mails(address("Ida Invoice"))) == ([], [])


def test_an_answer_to_the_acknowledgement_is_told_and_kept_and_is_no_second_lead(firm: Firm) -> None:
    (mail,) = firm.mails(address("Maja Berg"))
    assert firm.mail_comes(reply_to(mail, "The lot is half an acre."), times=2) == [202] * 2
    (told,) = firm.said_in(INCOMING, "has answered")
    assert "Maja Berg" in told.text
    assert [note for note in firm.notes(one(firm, "Maja Berg")["id"]) if "half an acre" in note]
    assert len(announced(firm, "Maja Berg")) == 1


# -- a person first --------------------------------------------------------------------------------

FIRST = ("Dean Decline", "Edda Edit", "Ezra Expire", "Gina Gone", "Hanna Hand")
NEW_WORDS = "Hi Edda,\n\nwe come by on Friday & measure.\n\nStory Lawns"


@pytest.fixture(scope="module")
def _a_person_first(firm: Firm) -> None:
    """From 18:48 on the procedure wants a person first; five write, and one in words that fit no rule."""
    sop = yaml.safe_load(Path(f"tasks/sops/{LEAD}.yaml").read_text())
    sop["inputs"]["ask_first"]["default"] = True
    changed = firm.folder / f"{LEAD}.yaml"
    changed.write_text(yaml.safe_dump(sop, sort_keys=False))
    firm.desk.manage("sop", "import", "--publish", str(changed))
    firm.at(WEDNESDAY, "18:48")
    firm.mail_comes(*map(letter, FIRST), letter("Dora Doubt", "Hello", "Are you there?"))


@pytest.mark.usefixtures("_a_person_first")
def test_staff_are_reminded_at_three_minutes_and_called_at_five(firm: Firm) -> None:
    assert firm.at(WEDNESDAY, "18:50:30").said_in(words="6 questions wait") == []
    (reminder,) = firm.at(WEDNESDAY, "18:51:50").said_in(words="6 questions wait")
    assert reminder.name == INCOMING
    assert firm.at(WEDNESDAY, "18:52:10").said_in(ESCALATIONS, "6 questions wait") == []
    (call,) = firm.at(WEDNESDAY, "18:53:50").said_in(ESCALATIONS, "6 questions wait")
    assert call.text.startswith("6 questions wait for an answer, the oldest for ")
    assert [firm.mails(address(name)) for name in FIRST] == [[]] * len(FIRST)


@pytest.mark.usefixtures("_a_person_first")
def test_a_doubtful_mail_becomes_what_a_person_says(firm: Firm) -> None:
    assert rows(firm, "Dora Doubt") == []
    firm.presses("A new lead", INCOMING)
    firm.presses("Send as is", on=question(firm, "Dora Doubt"))
    assert len(firm.mails(address("Dora Doubt"))) == 1
    assert one(firm, "Dora Doubt")["status"] == "lead"


def test_declined_no_mail_leaves_and_the_lead_is_entered_and_its_quote_watched(firm: Firm) -> None:
    asks = question(firm, "Dean Decline")
    before = replace(asks)  # the message as it stands on another phone
    firm.presses("Don't send", on=asks)
    firm.presses("Send as is", by=COLLEAGUE, on=before)
    assert firm.mails(address("Dean Decline")) == []
    assert one(firm, "Dean Decline")["status"] == "lead"
    assert firm.wakes(watch(firm, "Dean Decline")) == "Thu 11 Mar 18:48 CST"
    said, buttons = decided(asks)
    assert (said[:-3], buttons) == ("owner chose “Don't send” on 10 March 2027 at 18:", [])


def test_edited_what_was_approved_is_what_is_sent(firm: Firm) -> None:
    firm.edits(on=question(firm, "Edda Edit"), subject="Friday, 9 o'clock", text=NEW_WORDS)
    (mail,) = firm.mails(address("Edda Edit"))
    assert mail["Subject"] == "Friday, 9 o'clock"
    assert letter_text(mail, "text/plain").rstrip("\n") == NEW_WORDS
    assert letter_text(mail, "text/html").rstrip("\n") == (
        "<p>Hi Edda,</p>\n<p>we come by on Friday &amp; measure.</p>\n<p>Story Lawns</p>"
    )
    assert one(firm, "Edda Edit")["status"] == "lead"


def test_customer_gone_the_mail_is_answered_and_its_writer_is_a_lead_anew(firm: Firm) -> None:
    (draft,) = [row["draft"] for row in firm.questions() if row["draft"]["to"] == address("Gina Gone")]
    firm.state.remove("customers", GONE)
    firm.presses("Send as is", on=question(firm, "Gina Gone"))
    (mail,) = firm.mails(address("Gina Gone"))
    assert letter_text(mail, "text/plain").rstrip("\n") == draft["text"].rstrip("\n")
    assert letter_text(mail, "text/html").rstrip("\n") == draft["html"].rstrip("\n")
    gina = one(firm, "Gina Gone")
    assert (gina["status"], len(firm.notes(gina["id"])), len(firm.notes(GONE))) == ("lead", 1, 0)
    assert gina["id"] != GONE


def test_changed_meanwhile_a_lead_that_a_colleague_entered_is_no_second_one(firm: Firm) -> None:
    by_hand = {"id": "cus_9010", "name": "Hanna H.", "email": address("Hanna Hand"), "status": "active"}
    firm.state.load("customers", [by_hand])
    firm.presses("Send as is", on=question(firm, "Hanna Hand"))
    hanna = one(firm, "Hanna Hand")
    assert (hanna["id"], hanna["name"], hanna["status"]) == ("cus_9010", "Hanna H.", "active")
    (note,) = firm.notes("cus_9010")
    assert f"From: {address('Hanna Hand')}" in note
    assert len(firm.mails(address("Hanna Hand"))) == 1


# -- the firm's other side is away -------------------------------------------------------------------


def test_mail_refused_is_told_once_and_the_lead_is_entered(firm: Firm) -> None:
    firm.at(THURSDAY, "09:00")
    firm.desk.manage("sop", "import", "--publish", f"tasks/sops/{LEAD}.yaml")
    firm.post.refuses.add(address("Rita Refused"))
    firm.mail_comes(letter("Rita Refused"))
    (told,) = firm.said_in(ESCALATIONS, "could not be sent")
    assert "Rita Refused" in told.text
    assert (firm.mails(address("Rita Refused")), firm.post.refused[address("Rita Refused")]) == ([], 1)
    assert len(firm.notes(one(firm, "Rita Refused")["id"])) == 1
    assert firm.wakes(watch(firm, "Rita Refused")) == "Fri 12 Mar 09:00 CST"


def test_chat_down_the_lead_is_answered_and_entered_and_told_once_afterwards(firm: Firm) -> None:
    firm.slack.fail(status=503)
    firm.mail_comes(letter("Chad Chat"))
    assert len(firm.mails(address("Chad Chat"))) == 1
    assert one(firm, "Chad Chat")["status"] == "lead"
    assert announced(firm, "Chad Chat") == []
    firm.slack.recover()
    firm.at(THURSDAY, "09:20")
    assert len(announced(firm, "Chad Chat")) == 1


def test_crm_down_the_lead_is_answered_at_once_and_entered_once_afterwards(firm: Firm) -> None:
    firm.at(THURSDAY, "10:00").crm_ends()
    firm.mail_comes(letter("Cora Crm"), times=3)
    firm.at(THURSDAY, "10:40")
    assert (len(firm.mails(address("Cora Crm"))), len(announced(firm, "Cora Crm"))) == (1, 1)
    assert rows(firm, "Cora Crm") == []
    assert len(firm.said_in(ESCALATIONS, "The CRM does not answer")) == 1
    firm.crm_begins()
    firm.at(THURSDAY, "11:00").at(THURSDAY, "11:03")  # it goes on slowly
    cora = one(firm, "Cora Crm")
    assert (len(firm.notes(cora["id"])), len(firm.mails(address("Cora Crm")))) == (1, 1)
    assert firm.wakes(watch(firm, "Cora Crm")) == "Fri 12 Mar 10:00 CST"  # it counts from the mail


# -- the quote that was promised -----------------------------------------------------------------


def test_quoted_at_18_41_is_no_escalation_and_no_quote_by_18_42_is_exactly_one(firm: Firm) -> None:
    firm.beat("beat2")
    quoted, told, gone = (one(firm, name)["id"] for name in ("Paula Past", "Toni Twin", "Edda Edit"))
    firm.at(THURSDAY, "18:41")
    firm.state.load(
        "quotes",
        [
            {
                **sent_quote(firm),
                "id": "quo_9001",
                "customer_id": quoted,
                "sent_at": f"{THURSDAY}T18:41:00-06:00",
            }
        ],
    )
    firm.hears("quote.sent", "evt-quo-9002", quote_id="quo_9002", crm_customer_id=told)
    firm.state.remove("customers", gone)
    assert firm.said_in(ESCALATIONS, "was promised a quote") == []
    firm.at(THURSDAY, "18:43")
    (call,) = firm.said_in(ESCALATIONS, "was promised a quote")
    assert call.text.startswith("Maja Berg was promised a quote by Thu 11 Mar 18:42 and has none.")
    assert [firm.run(DUE, crm_customer_id=id_)["result"] for id_ in (quoted, told)] == ["quoted", "quoted"]
    firm.at(THURSDAY, "18:49")
    assert len(firm.said_in(ESCALATIONS, "A lead was promised a quote")) == 1  # its row in the CRM is gone


def test_expired_an_acknowledgement_that_nobody_approved_is_not_sent_and_the_lead_is_watched(
    firm: Firm,
) -> None:
    run = about(firm, "Ezra Expire")
    kinds = [event["kind"] for event in firm.events(run)]
    assert (kinds.count("reminded"), kinds.count("escalated")) == (1, 1)
    asks = question(firm, "Ezra Expire")
    firm.at(FRIDAY, "18:49")
    run = about(firm, "Ezra Expire")
    assert (run["status"], run["result"]) == ("completed", "done")
    assert firm.mails(address("Ezra Expire")) == []
    assert decided(asks) == ("Nobody answered in time; the question ended on 12 March 2027 at 18:48.", [])
    (call,) = firm.said_in(ESCALATIONS, "nobody answered it in time")
    assert call.text.startswith("New lead response: a question was closed unanswered.")
    assert len(firm.said_in(ESCALATIONS, "Maja Berg was promised a quote")) == 1
    assert len(firm.said_in(ESCALATIONS, "Ezra Expire was promised a quote")) == 1


def test_nobody_was_written_to_twice(firm: Firm) -> None:
    assert set(firm.post.recipients.values()) == {1}
    assert set(firm.post.ids.values()) == {1}


CELLS = {
    "declined": test_declined_no_mail_leaves_and_the_lead_is_entered_and_its_quote_watched,
    "edited": test_edited_what_was_approved_is_what_is_sent,
    "expired": test_expired_an_acknowledgement_that_nobody_approved_is_not_sent_and_the_lead_is_watched,
    "customer gone": test_customer_gone_the_mail_is_answered_and_its_writer_is_a_lead_anew,
    "changed meanwhile": test_changed_meanwhile_a_lead_that_a_colleague_entered_is_no_second_one,
    "CRM down": test_crm_down_the_lead_is_answered_at_once_and_entered_once_afterwards,
    "chat down": test_chat_down_the_lead_is_answered_and_entered_and_told_once_afterwards,
    "mail refused": test_mail_refused_is_told_once_and_the_lead_is_entered,
}
