"""Quotes that nobody answers, of Thursday the 11th of March 2027: two mails, and then a cold lead."""

from typing import Any

import pytest

from tests.stories.firm import COLLEAGUE, Firm, moment, opened, reply_to
from tests.stories.people import address, answer, customer, drafts, noted, person, subjects
from tests.stories.stage import Row, letter_text

FIRST, SECOND, CLOSE = "quote-follow-up", "quote-second-follow-up", "quote-close"
LEADS, ALERTS = "#leads-incoming", "#escalations"
QUESTIONS, PLACE = "Your quote Q-{}: any questions?", "Shall we keep a place for you? Your quote Q-{}"
# Who got a quote on Thursday at four, and its number.
NAMES = ("Maja", "Rita", "Dean", "Edith", "Expo", "Gone", "Yes", "New", "Nomail", "Cora", "Tell")
THURSDAY = {name: number for number, name in enumerate(NAMES, 2001)}
FRIDAY = {"Quick": 2012, "Late": 2013}  # on the 16th, so three days later is Friday the 19th


@pytest.fixture(scope="module", autouse=True)
def _opened(firm: Firm) -> None:
    firm.opens("2027-03-11", "16:00", "mail-reply", CLOSE, SECOND, FIRST, customers=0)
    quoted(firm, THURSDAY, "2027-03-11", "16:00")


def quoted(firm: Firm, people: dict[str, int], day: str, hour: str) -> None:
    """Let leads get quotes, and let the system that sends them say so."""
    enter(firm, "customers", *(person(name, status="lead") for name in people))
    enter(firm, "quotes", *(quote(name, sent_at=moment(day, hour).isoformat()) for name in people))
    for name in people:
        about, whom = quote_id(name), customer(name)
        told = firm.hears("quote.sent", f"to-{name}", rests=False, quote_id=about, crm_customer_id=whom)
        assert told == [202]
    firm.rests()


def enter(firm: Firm, entity: str, *rows: Row) -> None:
    firm.state.load(entity, rows)


def quote(name: str, **fields: Any) -> Row:
    row = {"id": quote_id(name), "number": f"Q-{(THURSDAY | FRIDAY)[name]}", "customer_id": customer(name)}
    usual = {"version": 1, "status": "sent", "total": 380.0, "currency": "USD", "responded_at": None}
    sent = {"sent_at": moment("2027-03-11", "16:00").isoformat(), "valid_until": "2027-04-10"}
    return {**row, **usual, **sent, **fields}


def quote_id(name: str) -> str:
    return f"quo_{(THURSDAY | FRIDAY)[name]}"


def ends(firm: Firm, name: str) -> list[str]:
    """Return what the runs about somebody's quote have come to, first, second and the end."""
    found = [run for slug in (FIRST, SECOND, CLOSE) for run in firm.runs(slug)]
    mine = [run for run in found if opened(run["context"])["quote_id"] == quote_id(name)]
    return [run["result"] or run["status"] for run in mine]


# -- the first mail ----------------------------------------------------------------------------------------


def test_day_three_is_a_sunday_and_a_clock_change_so_nothing_is_drafted_before_monday(firm: Firm) -> None:
    assert firm.wakes(firm.run(FIRST, quote_id=quote_id("Maja"))) == "Mon 15 Mar 09:00 CDT"
    firm.at("2027-03-14", "16:01")
    assert firm.questions() == []
    firm.at("2027-03-15", "09:00")
    assert set(drafts(firm)) == set(THURSDAY)


def test_the_mail_says_which_quote_and_when_as_it_was_approved(firm: Firm) -> None:
    draft = drafts(firm)["Maja"]
    firm.at("2027-03-15", "10:30")
    firm.presses("Send as is", on=firm.card(LEADS, "Maja Berg"))
    (mail,) = firm.mails(address("Maja"))
    assert mail["Subject"] == draft["subject"] == QUESTIONS.format(2001)
    for kind, part in (("text/plain", "text"), ("text/html", "html")):
        assert letter_text(mail, kind) == draft[part]
        assert "Thursday, March 11" in draft[part]
    assert ends(firm, "Maja") == ["sent", "waiting"]
    assert noted(firm, "Maja") == ["quote_follow_up: asked by mail about quote Q-2001."]


def test_what_is_edited_in_slack_is_sent_as_it_was_edited(firm: Firm) -> None:
    said = firm.card(LEADS, "Edith Berg")
    firm.edits(on=said, by=COLLEAGUE, choice="edit", subject="Q-2004", text="Dear Edith,\n\nis 3 < 4?\nBye")
    (mail,) = firm.mails(address("Edith"))
    assert mail["Subject"] == "Q-2004"
    assert letter_text(mail, "text/plain") == "Dear Edith,\n\nis 3 < 4?\nBye"
    assert letter_text(mail, "text/html") == "<p>Dear Edith,</p>\n<p>is 3 &lt; 4?<br>\nBye</p>"


def test_what_is_declined_in_slack_is_not_sent_and_nobody_is_marked_cold(firm: Firm) -> None:
    said = firm.card(LEADS, "Dean Berg")
    firm.presses("Don't send", on=said)
    assert (ends(firm, "Dean"), subjects(firm, "Dean"), noted(firm, "Dean")) == (["declined"], [], [])
    assert "Send as is" not in said.buttons
    assert "owner chose “Don't send” on 15 March 2027 at 10:3" in said.text


def test_what_changed_before_the_answer_stops_the_mail_or_is_asked_about_anew(firm: Firm) -> None:
    firm.hears("quote.answered", "told", quote_id=quote_id("Tell"))
    assert (ends(firm, "Tell"), "Tell" in drafts(firm)) == (["replied"], False)
    enter(firm, "quotes", quote("Yes", status="accepted", responded_at="2027-03-15T10:00:00-05:00"))
    enter(firm, "quotes", quote("New", version=2, number="Q-2008/2"))
    firm.state.remove("customers", customer("Gone"))
    firm.post.refuses.add(address("Nomail"))
    answer(firm, "approve", "Yes", "New", "Gone", "Nomail", "Rita")
    assert (ends(firm, "Yes"), subjects(firm, "Yes")) == (["settled"], [])
    assert subjects(firm, "New") == []
    assert drafts(firm)["New"]["subject"] == "Your quote Q-2008/2: any questions?"
    answer(firm, "approve", "New")
    assert subjects(firm, "New") == ["Your quote Q-2008/2: any questions?"]


def test_who_is_gone_from_the_crm_gets_no_mail(firm: Firm) -> None:
    assert (ends(firm, "Gone"), subjects(firm, "Gone")) == (["customer_gone"], [])


def test_a_refused_address_stops_the_run_and_tells_a_person_once(firm: Firm) -> None:
    run = firm.run(FIRST, quote_id=quote_id("Nomail"))
    assert (run["status"], run["reason"], subjects(firm, "Nomail")) == ("paused", "mail_recipient", [])
    assert (ends(firm, "Nomail"), noted(firm, "Nomail")) == (["paused"], [])
    (told,) = firm.said_in(ALERTS, "stopped at")
    assert "refuses the customer's address (550)" in told.text


def test_with_the_crm_away_an_approved_mail_waits_and_leaves_once(firm: Firm) -> None:
    firm.crm_ends()
    answer(firm, "approve", "Cora")
    assert (ends(firm, "Cora"), subjects(firm, "Cora")) == (["waiting"], [])
    firm.crm_begins()
    firm.at("2027-03-15", "11:00")
    assert (ends(firm, "Cora"), subjects(firm, "Cora")) == (["sent", "waiting"], [QUESTIONS.format(2010)])
    assert noted(firm, "Cora") == ["quote_follow_up: asked by mail about quote Q-2010."]


def test_what_nobody_answers_is_called_out_after_a_day_and_closed_after_two(firm: Firm) -> None:
    quoted(firm, FRIDAY, "2027-03-16", "10:00")
    firm.at("2027-03-16", "09:05")
    assert firm.said_in(ALERTS, "for an answer, the oldest for")
    firm.at("2027-03-17", "09:05")
    assert (ends(firm, "Expo"), subjects(firm, "Expo"), noted(firm, "Expo")) == (["expired"], [], [])
    assert firm.said_in(ALERTS, "a question was closed unanswered")


def test_with_the_chat_away_everything_else_goes_on_and_its_messages_come_afterwards(firm: Firm) -> None:
    firm.slack.fail(status=503)
    firm.at("2027-03-19", "10:00")
    answer(firm, "approve", "Quick")
    assert (subjects(firm, "Quick"), len(noted(firm, "Quick"))) == ([QUESTIONS.format(2012)], 1)
    assert firm.said_in(LEADS, "Late Berg") == []
    firm.slack.recover()
    firm.at("2027-03-19", "10:30")
    firm.presses("Send as is", on=firm.card(LEADS, "Late Berg"))
    assert (subjects(firm, "Late"), len(noted(firm, "Late"))) == ([QUESTIONS.format(2013)], 1)


# -- the second mail, and the end --------------------------------------------------------------------------


def test_the_second_comes_five_days_after_the_first_was_really_sent_in_the_window(firm: Firm) -> None:
    assert firm.wakes(firm.run(SECOND, quote_id=quote_id("Maja"))) == "Mon 22 Mar 09:00 CDT"
    for name in ("Edith", "New"):
        enter(firm, "quotes", quote(name, status="accepted", version=2))
    firm.at("2027-03-22", "09:00")
    assert {name: draft["subject"] for name, draft in drafts(firm).items()} == {
        name: PLACE.format(THURSDAY[name]) for name in ("Maja", "Rita", "Cora")
    }
    assert (ends(firm, "Edith"), ends(firm, "New")) == (["sent", "settled"], ["sent", "settled"])


def test_a_reply_while_an_approval_is_open_voids_it(firm: Firm) -> None:
    assert firm.mail_comes(reply_to(firm.mails(address("Rita"))[0], "Yes, please!"), times=3) == [202] * 3
    assert (ends(firm, "Rita"), "Rita" in drafts(firm)) == (["sent", "replied"], False)
    assert firm.said_in(LEADS, "second mail: The question was withdrawn")
    assert firm.said_in(LEADS, "Rita has answered")
    assert [note for note in noted(firm, "Rita") if note.endswith("Yes, please!")] == noted(firm, "Rita")[1:]
    assert len(noted(firm, "Rita")) == 2


def test_seven_days_after_the_second_the_lead_is_cold(firm: Firm) -> None:
    answer(firm, "decline", "Cora")
    firm.at("2027-03-22", "11:00")
    firm.presses("Send as is", on=firm.card(LEADS, "Maja Berg"))
    assert subjects(firm, "Maja") == [QUESTIONS.format(2001), PLACE.format(2001)]
    assert firm.wakes(firm.run(CLOSE, quote_id=quote_id("Maja"))) == "Mon 29 Mar 11:00 CDT"
    enter(firm, "quotes", *(quote(name, status="accepted") for name in FRIDAY))
    firm.at("2027-03-29", "11:01")
    assert ends(firm, "Maja") == ["sent", "sent", "cold"]
    cold = [row["id"] for row in firm.state.rows("customers") if row["status"] == "cold"]
    assert cold == [customer("Maja")]
    (told,) = firm.said_in(LEADS, "is cold now")
    assert told.text == "Maja Berg has not answered quote Q-2001 in two mails and is cold now."
    assert (ends(firm, "Cora"), ends(firm, "Rita")) == (["sent", "declined"], ["sent", "replied"])


def test_nobody_got_a_mail_twice(firm: Firm) -> None:
    assert set(firm.post.ids.values()) == {1}
    assert all(len(set(subjects(firm, name))) == len(subjects(firm, name)) for name in THURSDAY | FRIDAY)


CELLS = {
    "declined": test_what_is_declined_in_slack_is_not_sent_and_nobody_is_marked_cold,
    "edited": test_what_is_edited_in_slack_is_sent_as_it_was_edited,
    "expired": test_what_nobody_answers_is_called_out_after_a_day_and_closed_after_two,
    "customer gone": test_who_is_gone_from_the_crm_gets_no_mail,
    "changed meanwhile": test_what_changed_before_the_answer_stops_the_mail_or_is_asked_about_anew,
    "CRM down": test_with_the_crm_away_an_approved_mail_waits_and_leaves_once,
    "chat down": test_with_the_chat_away_everything_else_goes_on_and_its_messages_come_afterwards,
    "mail refused": test_a_refused_address_stops_the_run_and_tells_a_person_once,
}
