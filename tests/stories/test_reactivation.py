"""Past customers are written to again: the campaign of 2027, on real processes."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC

import pytest

from tests.stories.firm import COLLEAGUE, Firm, end_of, opened, reply_to
from tests.stories.people import address, drafts, person
from tests.stories.stage import Row, both_texts

CAMPAIGN, ONE, SECOND = "past-customer-reactivation", "reactivate-customer", "reactivation-follow-up"
MARKETING, CALLS = "#marketing", "#escalations"
SILENT, UNREACHABLE = "cus_0006", "cus_0008"
WRITTEN_TO = {"cus_0001", "cus_0002", "cus_0005", "cus_0009", "cus_0012"}
REPLIED = "cus_0001"
# Who comes into the CRM in March and May, by what becomes of the invitation.
LATER = {
    "declined": "Dina Dahl",
    "edited": "Edda Egge",
    "expired": "Xenia Fjeld",
    "gone": "Greta Gran",
    "signed": "Signe Moen",
    "moved": "Mona Rud",
    "refused": "Rolf Bakke",
    "crm_down": "Dag Nes",
    "chat_down": "Kari Lund",
    "holiday": "May Vik",
}


@pytest.fixture(scope="module", autouse=True)
def _opened(firm: Firm) -> None:
    firm.opens("2027-02-14", "12:00", SECOND, ONE, CAMPAIGN)


def arrive(firm: Firm, *ways: str) -> None:
    """Let past customers stand in the CRM whom no campaign has found yet."""
    rows = [person(way, name=LATER[way], status="past", services=["fertilizer"]) for way in ways]
    firm.state.load("customers", rows)


def about(firm: Firm, slug: str, customer: str) -> Row:
    return firm.run(slug, crm_customer_id=customer)


def address_of(firm: Firm, customer: str) -> str:
    return str(firm.customer(customer)["email"])


def recipients(firm: Firm) -> Counter[str]:
    return Counter(str(mail["To"]) for mail in firm.mails())


def slots(firm: Firm) -> dict[str, str]:
    """Return what became of each slot of the campaign, by its hour in UTC."""
    rows = firm.desk.sql(
        "SELECT r.slot, r.outcome FROM tasks_scheduledrun r JOIN tasks_sop s ON s.id = r.sop_id"
        f" WHERE s.slug = '{CAMPAIGN}' ORDER BY r.slot"
    )
    return {f"{row['slot'].astimezone(UTC):%d %b %H:%M}": row["outcome"] for row in rows}


# -- the story ---------------------------------------------------------------------------------------


def test_on_monday_at_nine_seven_are_found_five_drafts_wait_and_two_are_skipped(firm: Firm) -> None:
    firm.at("2027-02-15", "09:00")
    assert firm.results(ONE) == {"waiting": 5, "skipped": 2}
    asked = {
        opened(row["context"])["crm_customer_id"] for row in firm.runs(ONE) if row["status"] == "waiting"
    }
    assert asked == WRITTEN_TO
    assert "the customer wants no mail" in firm.story(about(firm, ONE, SILENT))
    assert "the customer has no mail address" in firm.story(about(firm, ONE, UNREACHABLE))
    assert len(firm.questions()) == 5
    (listed,) = firm.said_in(MARKETING)
    assert "5 questions wait for an answer." in listed.text
    assert "Ada Anderson" in listed.words
    assert not firm.mails()


def test_what_is_approved_at_ten_leaves_at_ten_as_it_was_read_and_is_noted_once(firm: Firm) -> None:
    read = {row["draft"]["to"]: row["draft"] for row in firm.questions()}
    firm.at("2027-02-15", "10:00")
    firm.presses("Approve the rest", MARKETING)
    assert recipients(firm) == Counter(address_of(firm, one) for one in WRITTEN_TO)
    for mail in firm.mails():
        draft = read[str(mail["To"])]
        assert mail["Subject"] == draft["subject"]
        assert both_texts(mail) == (draft["text"], draft["html"])
    assert firm.results(ONE) == {"sent": 5, "skipped": 2}
    assert firm.results(CAMPAIGN) == {"done": 1}
    assert all(len(firm.notes(one)) == 1 for one in WRITTEN_TO)
    assert "owner chose “Send as is” on 15 February 2027 at 10:0" in firm.said_in(MARKETING)[0].words
    assert firm.said_in(MARKETING, "Reactivation: 5 sent, 0 declined, 2 skipped")
    assert {firm.wakes(run) for run in firm.runs(SECOND)} == {"Mon 22 Feb 09:00 CST"}


def test_who_answered_on_the_18th_gets_no_second_note(firm: Firm) -> None:
    firm.at("2027-02-18", "11:00")
    (invitation,) = firm.mails(address_of(firm, REPLIED))
    firm.mail_comes(reply_to(invitation, "Yes, please!"), times=2)
    assert end_of(about(firm, SECOND, REPLIED)) == ("completed", "replied")


def test_the_second_note_is_due_on_saturday_and_asked_about_on_monday_and_the_slot_of_that_day_starts_nobody(
    firm: Firm,
) -> None:
    firm.at("2027-02-20", "10:01")
    assert not firm.questions()
    firm.beat("beat2")
    firm.at("2027-02-22", "09:00")
    assert firm.results(SECOND) == {"replied": 1, "waiting": 4}
    (listed,) = [said for said in firm.said_in(MARKETING) if "Open" in said.buttons]
    assert len([block for block in listed.blocks if "accessory" in block]) == 4
    firm.edits(MARKETING, COLLEAGUE, "Open", on=listed, choice="approve")
    assert firm.answer("approve") == 3
    assert firm.results(SECOND) == {"replied": 1, "sent": 4}
    assert recipients(firm) == {address_of(firm, one): 1 if one == REPLIED else 2 for one in WRITTEN_TO}
    assert {one: len(firm.notes(one)) for one in WRITTEN_TO} == {
        one: 1 if one == REPLIED else 2 for one in WRITTEN_TO
    }
    assert len(firm.runs(CAMPAIGN)) == 2
    assert len(firm.runs(ONE)) == 7, "two beats and a second slot start nobody twice"


# -- the unhappy ends, in March ------------------------------------------------------------------------


def test_who_came_since_is_found_on_the_first_of_march(firm: Firm) -> None:
    march = ("declined", "edited", "expired", "gone", "signed", "moved", "refused", "crm_down")
    arrive(firm, *march)
    firm.at("2027-03-01", "09:00")
    assert len(firm.questions()) == len(march)
    assert len(firm.runs(ONE)) == 7 + len(march)


def test_a_declined_invitation_is_not_sent_and_has_no_second_note(firm: Firm) -> None:
    firm.decides(LATER["declined"], MARKETING, choice="decline")
    assert end_of(about(firm, ONE, "cus_declined")) == ("completed", "declined")
    assert firm.said_in(MARKETING, "owner chose “Don't send” on 1 March 2027 at 09:0")
    assert (firm.mails(address("declined")), firm.notes("cus_declined")) == ([], [])


def test_an_edited_invitation_leaves_as_it_was_edited_in_text_and_in_html(firm: Firm) -> None:
    unsubscribe = drafts(firm)["Edited"]["text"].splitlines()[-1]
    typed = f"Hello Edda,\n\nlawn & moss?\nYours\n\n{unsubscribe}"
    firm.decides(LATER["edited"], MARKETING, choice="edit", subject="Spring is near", text=typed)
    (mail,) = firm.mails(address("edited"))
    assert mail["Subject"] == "Spring is near"
    text, html = both_texts(mail)
    assert text.rstrip("\n") == typed
    assert html.rstrip("\n") == (
        f"<p>Hello Edda,</p>\n<p>lawn &amp; moss?<br>\nYours</p>\n<p>{unsubscribe}</p>"
    )
    assert firm.said_in(MARKETING, "owner chose “Edit first” on 1 March 2027 at 09:0")
    assert len(firm.notes("cus_edited")) == 1


def test_a_customer_who_was_removed_before_the_answer_gets_no_mail(firm: Firm) -> None:
    firm.state.remove("customers", "cus_gone")
    firm.decides(LATER["gone"], MARKETING, choice="approve")
    assert end_of(about(firm, ONE, "cus_gone")) == ("completed", "customer_gone")
    assert (firm.mails(address("gone")), firm.notes("cus_gone")) == ([], [])


def test_who_signed_meanwhile_gets_no_mail_and_a_new_address_is_asked_about_anew(firm: Firm) -> None:
    firm.state.update("customers", "cus_signed", {"signed_seasons": [2027]})
    firm.state.update("customers", "cus_moved", {"email": "mona@example.com"})
    firm.decides(LATER["signed"], MARKETING, choice="approve")
    firm.decides(LATER["moved"], MARKETING, choice="approve")
    assert end_of(about(firm, ONE, "cus_signed")) == ("completed", "skipped")
    assert "Mona" in drafts(firm)
    assert (firm.mails(address("signed")), firm.mails(address("moved"))) == ([], [])
    firm.presses("Send as is", on=firm.card(MARKETING, "Mona Rud"))
    assert len(firm.mails("mona@example.com")) == 1
    assert firm.mails(address("moved")) == []


def test_a_refused_address_stops_the_run_for_a_person_and_goes_on_with_another_one(firm: Firm) -> None:
    firm.post.refuses.add("refused@example.com")
    firm.decides(LATER["refused"], MARKETING, choice="approve")
    run = about(firm, ONE, "cus_refused")
    assert (run["status"], run["reason"]) == ("paused", "mail_recipient")
    (call,) = firm.said_in(CALLS, "refuses the customer's address (550)")
    assert "refused@" not in f"{call.text}{call.words}", "chat is told no address"
    firm.state.update("customers", "cus_refused", {"email": "rolf@example.com"})
    firm.desk.signal([str(run["id"])], "retry")
    firm.rests()
    firm.presses("Send as is", on=firm.card(MARKETING, "Rolf Bakke"))
    assert end_of(about(firm, ONE, "cus_refused")) == ("completed", "sent")
    assert len(firm.mails("rolf@example.com")) == len(firm.notes("cus_refused")) == 1
    assert firm.post.refused == {"refused@example.com": 1}


def test_while_the_crm_is_away_an_approved_mail_waits_and_then_leaves_once(firm: Firm) -> None:
    firm.at("2027-03-01", "11:01")
    assert firm.said_in(MARKETING, "2 questions wait for an answer, the oldest for 2 h.")
    firm.crm_ends()
    firm.decides(LATER["crm_down"], MARKETING, choice="approve")
    run = about(firm, ONE, "cus_crm_down")
    assert (run["status"], run["waiting_for"]) == ("waiting", "provider:crm")
    assert len(firm.said_in(CALLS, "The CRM does not answer; runs that need it wait.")) == 1
    assert firm.mails(address("crm_down")) == []
    firm.crm_begins()
    firm.at("2027-03-01", "11:10")
    assert firm.said_in(CALLS, "The CRM answers again.")
    assert end_of(about(firm, ONE, "cus_crm_down")) == ("completed", "sent")
    assert len(firm.mails(address("crm_down"))) == len(firm.notes("cus_crm_down")) == 1


def test_a_question_that_nobody_answers_is_reminded_of_twice_escalated_and_closed_after_two_days(
    firm: Firm,
) -> None:
    firm.at("2027-03-02", "05:01")
    assert firm.said_in(MARKETING, "1 question waits for an answer, the oldest for 20 h.")
    firm.at("2027-03-02", "09:01")
    assert len(firm.said_in(CALLS, "nobody has answered in #marketing as long as the procedure allows")) == 1
    assert about(firm, ONE, "cus_expired")["status"] == "waiting"
    firm.at("2027-03-03", "09:01")
    assert end_of(about(firm, ONE, "cus_expired")) == ("completed", "expired")
    assert firm.said_in(MARKETING, "Nobody answered in time; the question ended on 3 March 2027 at 09:00.")
    assert (firm.mails(address("expired")), firm.notes("cus_expired")) == ([], [])


def test_while_chat_is_away_drafts_are_answered_elsewhere_and_chat_hears_of_it_afterwards(firm: Firm) -> None:
    arrive(firm, "chat_down")
    firm.slack.fail(status=503)
    firm.at("2027-03-08", "09:00")
    seconds = [row["result"] for row in firm.runs(SECOND)].count("")
    assert firm.answer("approve", of=ONE) == 1
    assert firm.answer("decline", of=SECOND) == seconds == 4
    assert end_of(about(firm, ONE, "cus_chat_down")) == ("completed", "sent")
    assert len(firm.mails(address("chat_down"))) == len(firm.notes("cus_chat_down")) == 1
    assert not firm.said_in(MARKETING, "Kari Lund")
    firm.slack.recover()
    firm.at("2027-03-08", "09:30")
    assert firm.said_in(MARKETING, "Reactivation: 1 sent, 0 declined, 0 skipped")


# -- the hours of the year ---------------------------------------------------------------------------


def test_the_slots_keep_their_hour_on_the_wall_clock_when_the_clocks_change(firm: Firm) -> None:
    firm.at("2027-03-15", "09:00")
    assert slots(firm) == dict.fromkeys(
        ["15 Feb 15:00", "22 Feb 15:00", "01 Mar 15:00", "08 Mar 15:00", "15 Mar 14:00"], "started"
    )


def test_on_the_holiday_of_31_may_nothing_is_sent_before_1_june(firm: Firm) -> None:
    firm.answer("decline")
    arrive(firm, "holiday")
    firm.at("2027-05-31", "09:00")
    assert [row["sop"] for row in firm.questions()] == [ONE]
    firm.presses("Send as is", on=firm.card(MARKETING, "May Vik"))
    assert firm.wakes(about(firm, ONE, "cus_holiday")) == "Tue 1 Jun 09:00 CDT"
    firm.at("2027-06-01", "08:59")
    assert firm.mails(address("holiday")) == []
    firm.at("2027-06-01", "09:00")
    assert len(firm.mails(address("holiday"))) == len(firm.notes("cus_holiday")) == 1


def test_nobody_has_got_a_mail_twice(firm: Firm) -> None:
    assert set(firm.post.ids.values()) == {1}


CELLS: dict[str, Callable[..., None] | str] = {
    "declined": test_a_declined_invitation_is_not_sent_and_has_no_second_note,
    "edited": test_an_edited_invitation_leaves_as_it_was_edited_in_text_and_in_html,
    "expired": test_a_question_that_nobody_answers_is_reminded_of_twice_escalated_and_closed_after_two_days,
    "customer gone": test_a_customer_who_was_removed_before_the_answer_gets_no_mail,
    "changed meanwhile": test_who_signed_meanwhile_gets_no_mail_and_a_new_address_is_asked_about_anew,
    "CRM down": test_while_the_crm_is_away_an_approved_mail_waits_and_then_leaves_once,
    "chat down": test_while_chat_is_away_drafts_are_answered_elsewhere_and_chat_hears_of_it_afterwards,
    "mail refused": test_a_refused_address_stops_the_run_for_a_person_and_goes_on_with_another_one,
}
