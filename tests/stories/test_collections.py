"""Collections: the invoices of March 2027, from the seventh day overdue on, with two beats all the time."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Postgres, Redis
from tests.stories.firm import Firm, moment, opened
from tests.stories.people import address, answer, customer, drafts, noted, person, subjects
from tests.stories.stage import Row, letter_text

DAILY, STAGE, LETTER, WATCH = "collections", "invoice-stage", "invoice-letter", "invoice-watch"
SOPS = (WATCH, LETTER, STAGE, DAILY)
BILLING, ALERTS = "#billing", "#escalations"
FRIENDLY, SECOND = "A friendly reminder: ${} still open", "Second reminder: ${} overdue"
FINAL = "Final notice: ${} overdue"
# Whose only invoice comes to seven days on Monday the 8th, and its number.
NAMES = ("Ada", "Pia", "Part", "Edith", "Dean", "Expo", "Gone", "Nomail")
MONDAY = {name: number for number, name in enumerate(NAMES, 1001)}


@pytest.fixture(scope="module", autouse=True)
def _opened(firm: Firm) -> None:
    firm.opens("2027-03-04", "12:00", *SOPS, customers=0)
    firm.beat("beat2")


@pytest.fixture(scope="module")
def _monday(firm: Firm) -> None:
    """It is Monday the 8th, eight o'clock: eight customers owe one invoice for seven days, one owes three."""
    for name, number in MONDAY.items():
        enter(firm, name, {number: "2027-03-01"}, amount=420.0)
    enter(firm, "Trio", {1101: "2027-03-01", 1102: "2027-02-22", 1103: "2027-02-28"})
    firm.at("2027-03-08", "08:00")


# -- what stands in the CRM, and what is seen of the letters -------------------------------------------


def enter(firm: Firm, name: str, due: dict[int, str], amount: float = 100.0, **fields: Any) -> None:
    """Put somebody into the CRM who owes these invoices."""
    firm.state.load("customers", [person(name, status="active", **fields)])
    usual = {"customer_id": customer(name), "amount_due": amount, "currency": "USD", "status": "open"}
    rows = [
        {**usual, "id": f"inv_{number}", "number": f"INV-{number}", "due_date": day, "paid_at": None}
        for number, day in due.items()
    ]
    firm.state.load("invoices", rows)


def change(firm: Firm, *numbers: int, **fields: Any) -> None:
    """Change these invoices in the CRM."""
    ids = {f"inv_{number}" for number in numbers}
    firm.state.load("invoices", [{**r, **fields} for r in firm.state.rows("invoices") if r["id"] in ids])


def pay(firm: Firm, *numbers: int) -> None:
    change(firm, *numbers, amount_due=0.0, status="paid", paid_at=firm.now().isoformat())


def ends(firm: Firm, name: str) -> list[str]:
    """Return what the letters to somebody have come to, oldest first; one that goes on, as its status."""
    return [run["result"] or run["status"] for run in of(firm, LETTER, name)]


def of(firm: Firm, slug: str, name: str) -> list[Row]:
    return [run for run in firm.runs(slug) if opened(run["context"])["crm_customer_id"] == customer(name)]


# -- the story -------------------------------------------------------------------------------------------


def test_a_first_run_with_forty_at_thirty_days_or_more_is_one_list(firm: Firm) -> None:
    numbers = range(2000, 2040)
    for number in numbers:
        enter(firm, f"Old{number}", {number: "2027-01-15"}, amount=10.0)
    firm.at("2027-03-05", "08:00")
    assert (firm.questions(), firm.mails()) == ([], [])
    assert firm.results(STAGE) == {"missed": 120, "due": 40}
    (told,) = firm.said_in(ALERTS)
    assert told.text.startswith("40 invoices are 30 days overdue or more, $400.00. No mail is sent any more")
    assert len(told.text.splitlines()) == 41
    pay(firm, *numbers)


def test_a_minute_before_eight_nothing_is_drafted(firm: Firm) -> None:
    enter(firm, "Ada", {1001: "2027-03-01"}, amount=420.0)
    firm.at("2027-03-08", "07:59")
    assert firm.questions() == []


@pytest.mark.usefixtures("_monday")
def test_at_eight_there_is_one_draft_for_each_customer_and_one_list_in_the_chat(firm: Firm) -> None:
    found = drafts(firm)
    assert set(found) == {*MONDAY, "Trio"}
    assert found["Ada"]["subject"] == FRIENDLY.format("420.00")
    assert "INV-1001: $420.00" in found["Ada"]["text"]
    (listed,) = firm.said_in(BILLING, "Ada Berg")
    assert listed.text == "Letter about invoices: 9 questions wait for an answer."
    (report,) = firm.said_in(BILLING, "9 letters to approve")
    assert report.text == "Collections: 9 letters to approve, 1 stages missed"


def test_what_was_approved_is_what_is_sent_at_nine_when_mail_may_leave(firm: Firm) -> None:
    draft = drafts(firm)["Ada"]
    answer(firm, "approve", "Ada")
    assert (ends(firm, "Ada"), subjects(firm, "Ada")) == (["waiting"], [])
    firm.at("2027-03-08", "09:00")
    (mail,) = firm.mails(address("Ada"))
    assert mail["Subject"] == draft["subject"]
    assert letter_text(mail, "text/plain") == draft["text"]
    assert letter_text(mail, "text/html") == draft["html"]
    assert ends(firm, "Ada") == ["sent"]
    assert noted(firm, "Ada") == ["invoice_letter: stage 7, INV-1001 $420.00."]


def test_three_invoices_of_one_customer_are_one_mail(firm: Firm) -> None:
    answer(firm, "approve", "Trio")
    (mail,) = firm.mails(address("Trio"))
    assert mail["Subject"] == SECOND.format("300.00")
    for kind in ("text/plain", "text/html"):
        assert [n for n in (1101, 1102, 1103) if f"INV-{n}" in letter_text(mail, kind)] == [1101, 1102, 1103]
    assert len(of(firm, WATCH, "Trio")) == 3


def test_what_is_edited_in_slack_is_sent_as_it_was_edited(firm: Firm) -> None:
    typed = "Dear Edith,\n\n$420.00 < $500.\nBye"
    firm.decides("Edith Berg", BILLING, choice="edit", subject="Your invoice", text=typed)
    (mail,) = firm.mails(address("Edith"))
    assert mail["Subject"] == "Your invoice"
    assert letter_text(mail, "text/plain") == typed
    assert letter_text(mail, "text/html") == "<p>Dear Edith,</p>\n<p>$420.00 &lt; $500.<br>\nBye</p>"
    assert ends(firm, "Edith") == ["sent"]


def test_what_is_declined_in_slack_is_not_sent(firm: Firm) -> None:
    firm.decides("Dean Berg", BILLING, choice="decline")
    assert (ends(firm, "Dean"), subjects(firm, "Dean"), noted(firm, "Dean")) == (["declined"], [], [])
    assert firm.said_in(BILLING, "owner chose “Don't send” on 8 March 2027 at 09:0")


def test_paid_at_half_past_nine_and_approved_at_ten_is_not_sent(firm: Firm) -> None:
    firm.stand_at(moment("2027-03-08", "09:30"))
    pay(firm, 1002)
    change(firm, 1003, amount_due=220.0)
    firm.state.remove("customers", customer("Gone"))
    firm.post.refuses.add(address("Nomail"))
    firm.at("2027-03-08", "10:00")
    answer(firm, "approve", "Pia", "Part", "Gone", "Nomail")
    assert (ends(firm, "Pia"), subjects(firm, "Pia"), noted(firm, "Pia")) == (["paid"], [], [])


def test_a_part_that_is_paid_voids_the_letter_and_a_new_draft_asks_for_the_rest(firm: Firm) -> None:
    assert subjects(firm, "Part") == []
    assert drafts(firm)["Part"]["subject"] == FRIENDLY.format("220.00")


def test_who_is_gone_from_the_crm_gets_no_letter(firm: Firm) -> None:
    assert (ends(firm, "Gone"), subjects(firm, "Gone")) == (["customer_gone"], [])


def test_a_refused_address_stops_the_run_and_tells_a_person_once(firm: Firm) -> None:
    (run,) = of(firm, LETTER, "Nomail")
    assert (run["status"], run["reason"], subjects(firm, "Nomail")) == ("paused", "mail_recipient", [])
    assert noted(firm, "Nomail") == []
    (told,) = firm.said_in(ALERTS, "stopped at")
    assert "refuses the customer's address (550)" in told.text
    firm.post.refuses.clear()
    firm.state.update("customers", customer("Nomail"), {"email": address("Better")})
    firm.desk.manage("task", "retry", run["id"])
    firm.rests()
    assert "Better" in drafts(firm)


def test_with_the_crm_away_nothing_is_lost_and_nothing_is_sent_unasked(firm: Firm) -> None:
    firm.at("2027-03-08", "22:00")
    answer(firm, "approve", "Part", "Better")
    assert subjects(firm, "Part") == [], "not at night"
    enter(firm, "Tuna", {1201: "2027-03-02"})
    firm.crm_ends()
    firm.at("2027-03-09", "08:00")
    assert set(drafts(firm)) == {"Expo"}
    firm.at("2027-03-09", "09:00")
    assert subjects(firm, "Part") == subjects(firm, "Better") == []
    assert [run["waiting_for"] for run in of(firm, LETTER, "Part")] == ["provider:crm"]
    firm.crm_begins()
    firm.at("2027-03-09", "09:30")
    firm.at("2027-03-09", "09:35")  # it begins slowly
    assert subjects(firm, "Part") == [FRIENDLY.format("220.00")]
    assert subjects(firm, "Better") == [FRIENDLY.format("420.00")]
    assert noted(firm, "Part") == ["invoice_letter: stage 7, INV-1003 $220.00."]
    assert set(drafts(firm)) == {"Expo", "Tuna"}
    answer(firm, "approve", "Tuna")
    assert (ends(firm, "Tuna"), len(subjects(firm, "Tuna"))) == (["sent"], 1)


def test_what_nobody_answers_is_called_out_after_a_day_and_closed_after_two(firm: Firm) -> None:
    assert firm.said_in(BILLING, "wait for an answer, the oldest for")
    assert firm.said_in(ALERTS, "for an answer, the oldest for")
    firm.at("2027-03-10", "08:05")
    assert (ends(firm, "Expo"), subjects(firm, "Expo"), noted(firm, "Expo")) == (["expired"], [], [])
    assert firm.said_in(ALERTS, "a question was closed unanswered")


def test_with_the_chat_away_everything_else_goes_on_and_its_messages_come_afterwards(firm: Firm) -> None:
    enter(firm, "Quick", {1301: "2027-03-05"})
    enter(firm, "Late", {1302: "2027-03-05"})
    firm.slack.fail(status=503)
    firm.at("2027-03-12", "08:00")
    firm.at("2027-03-12", "09:00")
    answer(firm, "approve", "Quick")
    assert (ends(firm, "Quick"), len(subjects(firm, "Quick")), len(noted(firm, "Quick"))) == (["sent"], 1, 1)
    assert firm.said_in(BILLING, "Late Berg") == []
    firm.slack.recover()
    firm.at("2027-03-12", "09:30")
    firm.decides("Late Berg", BILLING, choice="approve")
    assert (ends(firm, "Late"), len(subjects(firm, "Late"))) == (["sent"], 1)


def test_on_the_fifteenth_at_eight_of_the_new_time_comes_the_second(firm: Firm) -> None:
    pay(firm, *(number for name, number in MONDAY.items() if name != "Ada"))
    pay(firm, 1101, 1102, 1103, 1201, 1301, 1302)
    firm.at("2027-03-15", "07:59")
    assert firm.questions() == []
    firm.at("2027-03-15", "08:00")
    assert [(n, d["subject"]) for n, d in drafts(firm).items()] == [("Ada", SECOND.format("420.00"))]
    firm.presses("Send as is", BILLING)
    firm.at("2027-03-15", "09:00")


def test_on_the_22nd_the_last(firm: Firm) -> None:
    firm.at("2027-03-22", "08:00")
    assert [(n, d["subject"]) for n, d in drafts(firm).items()] == [("Ada", FINAL.format("420.00"))]
    firm.presses("Send as is", BILLING)
    firm.at("2027-03-22", "09:00")
    assert subjects(firm, "Ada") == [text.format("420.00") for text in (FRIENDLY, SECOND, FINAL)]


def test_on_the_31st_a_person_gets_one_line_and_the_customer_no_mail(firm: Firm) -> None:
    firm.at("2027-03-31", "08:00")
    assert firm.questions() == []
    told = firm.said_in(ALERTS)[-1]
    assert told.text == (
        "1 invoice is 30 days overdue or more, $420.00. No mail is sent any more; please call.\n"
        "INV-1001: $420.00, 30 days overdue (customer cus_ada)"
    )
    assert len(subjects(firm, "Ada")) == 3


def test_two_beats_changed_no_count(firm: Firm) -> None:
    assert [process.alive for process in firm.processes if process.name.startswith("beat")] == [True, True]
    slots = firm.desk.sql("SELECT slot FROM tasks_scheduledrun WHERE outcome = 'started'")
    assert len(slots) == len({row["slot"] for row in slots}) == len(firm.runs(DAILY))
    stages = [opened(run["context"]) for run in firm.runs(STAGE)]
    assert len(stages) == len({(stage["invoice_id"], stage["stage"]) for stage in stages})
    assert set(firm.post.ids.values()) == {1}
    assert firm.post.recipients == Counter(
        {address("Ada"): 3}
        | dict.fromkeys(map(address, ("Trio", "Edith", "Part", "Better", "Tuna", "Quick", "Late")), 1)
    )
    assert len(firm.runs(LETTER)) == 14  # nine on Monday, three later, and two more to Ada
    assert len(firm.said_in(ALERTS, "overdue or more")) == 2


def test_down_from_the_8th_to_the_16th_only_stage_14_is_drafted_on_the_17th(
    tmp_path: Path, postgres: Postgres, redis_server: Redis
) -> None:
    database = postgres.migrated_database("firm_down")
    with Firm(tmp_path, database, redis_server.url.replace("db=0", "db=1")) as firm:
        firm.prepares("2027-03-01", "12:00", *SOPS, customers=0)
        enter(firm, "Ada", {1001: "2027-03-01"}, amount=420.0)
        firm.stand_at(moment("2027-03-17", "08:00"))
        firm.machine(workers=1)
        firm.rests()
        assert [d["subject"] for d in drafts(firm).values()] == [SECOND.format("420.00")]
        stages = {opened(run["context"])["stage"]: run["result"] for run in firm.runs(STAGE)}
        assert stages == {7: "missed", 14: "due"}
        assert firm.said_in(BILLING, "Collections: 1 letters to approve, 1 stages missed")
    postgres.drop_database("firm_down")


CELLS = {
    "declined": test_what_is_declined_in_slack_is_not_sent,
    "edited": test_what_is_edited_in_slack_is_sent_as_it_was_edited,
    "expired": test_what_nobody_answers_is_called_out_after_a_day_and_closed_after_two,
    "customer gone": test_who_is_gone_from_the_crm_gets_no_letter,
    "changed meanwhile": test_a_part_that_is_paid_voids_the_letter_and_a_new_draft_asks_for_the_rest,
    "CRM down": test_with_the_crm_away_nothing_is_lost_and_nothing_is_sent_unasked,
    "chat down": test_with_the_chat_away_everything_else_goes_on_and_its_messages_come_afterwards,
    "mail refused": test_a_refused_address_stops_the_run_and_tells_a_person_once,
}
