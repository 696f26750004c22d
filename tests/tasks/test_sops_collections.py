"""Story 5: the invoices of a firm, from the seventh day overdue on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from tasks import triggers
from tasks.models import ScheduledRun, Task
from tests.length import AT_FULL_LENGTH
from tests.tasks.desk import Desk, set_out
from tests.tasks.runs import check_invariants
from tests.tasks.shop import CRMS

# The threads of a drain have connections of their own. On real processes tests/stories tells the same.
pytestmark = [pytest.mark.django_db(transaction=True), AT_FULL_LENGTH]

SOPS = ("collections", "invoice-stage", "invoice-letter", "invoice-watch")


@pytest.fixture(params=CRMS)
def desk(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Desk]:
    with set_out(request.param, settings, tmp_path) as desk:
        desk.at("2027-03-01T12:00")
        desk.publish(*SOPS)
        yield desk


def test_one_invoice_gets_three_letters_and_then_goes_to_a_person(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    for day, subject in (
        (8, "A friendly reminder: $420.00 still open"),
        (15, "Second reminder: $420.00 overdue"),
        (22, "Final notice: $420.00 overdue"),
    ):
        desk.at(f"2027-03-{day - 1:02}T08:00")
        desk.at(f"2027-03-{day:02}T07:59")
        assert desk.drafts() == []
        desk.at(f"2027-03-{day:02}T08:00")
        (draft,) = desk.drafts()
        assert (draft["to"], draft["subject"]) == ("ada1@example.com", subject)
        assert "INV-1001" in draft["text"]
        assert "$420.00" in draft["html"]
        desk.at(f"2027-03-{day:02}T09:00")
        desk.answer()
        assert [str(letter["Subject"]) for letter in desk.letters()][-1] == subject
    desk.at("2027-03-30T08:00")
    assert desk.told("#escalations") == []
    desk.at("2027-03-31T08:00")
    assert desk.drafts() == []
    assert len(desk.letters()) == 3
    assert desk.told("#escalations") == [
        "1 invoice is 30 days overdue or more, $420.00. No mail is sent any more; please call.\n"
        "INV-1001: $420.00, 30 days overdue (customer cus_0001)"
    ]
    desk.at("2027-04-01T08:00")
    assert len(desk.told("#escalations")) == 1
    assert desk.results("collections")[0] == "done"
    assert desk.results("collections").count("nothing_due") == len(desk.runs("collections")) - 4
    assert desk.results("invoice-stage") == ["due"] * 4
    assert [note.split(" [ref")[0] for note in desk.notes("cus_0001")] == [
        f"invoice_letter: stage {stage}, INV-1001 $420.00." for stage in (7, 14, 21)
    ]
    check_invariants()


def test_a_stage_that_passed_while_the_machine_was_down_is_noted_as_missed(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-07T08:00")
    desk.at("2027-03-17T08:00")
    (draft,) = desk.drafts()
    assert draft["subject"] == "Second reminder: $420.00 overdue"
    found = {run.context["stage"]: run.result for run in desk.runs("invoice-stage")}
    assert found == {7: "missed", 14: "due"}
    assert "Collections: 1 letters to approve, 1 stages missed" in desk.told("#billing")
    desk.at("2027-03-18T08:00")
    assert len(desk.drafts()) == 1


def test_an_invoice_that_is_paid_before_the_answer_is_not_asked_for(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-08T08:00")
    desk.at("2027-03-08T09:30")
    desk.invoice(1001, "cus_0001", "2027-03-01", 0.0, status="paid", paid_at="2027-03-08T15:30:00+00:00")
    desk.at("2027-03-08T10:00")
    desk.answer()
    assert desk.letters() == []
    assert desk.results("invoice-letter") == ["paid"]
    assert desk.notes("cus_0001") == []
    check_invariants()


def test_a_part_that_is_paid_voids_the_letter_and_a_new_one_asks_for_the_rest(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-08T08:00")
    desk.invoice(1001, "cus_0001", "2027-03-01", 220.0)
    desk.at("2027-03-08T10:00")
    desk.answer()
    assert desk.letters() == []
    (draft,) = desk.drafts()
    assert draft["subject"] == "A friendly reminder: $220.00 still open"
    assert "$420" not in draft["text"] + draft["html"]
    desk.answer()
    assert [str(letter["Subject"]) for letter in desk.letters()] == [
        "A friendly reminder: $220.00 still open"
    ]


def test_three_invoices_of_one_customer_are_one_mail(desk: Desk) -> None:
    ada = desk.customer(1)
    for number, due in ((1001, "2027-03-01"), (1002, "2027-02-22"), (1003, "2027-02-28")):
        desk.invoice(number, ada, due, 100.0)
    desk.invoice(1004, desk.customer(2), "2027-03-01", 50.0)
    desk.at("2027-03-08T08:00")
    mine, other = sorted(desk.drafts(), key=lambda draft: draft["to"])
    assert mine["subject"] == "Second reminder: $300.00 overdue"
    assert [number for number in ("INV-1001", "INV-1002", "INV-1003") if number in mine["text"]] == [
        *("INV-1001", "INV-1002", "INV-1003")
    ]
    assert "INV-1004" in other["text"]
    desk.at("2027-03-09T08:00")
    assert len(desk.drafts()) == 2


def test_of_three_invoices_the_one_that_is_paid_meanwhile_is_left_out(desk: Desk) -> None:
    ada = desk.customer(1)
    for number in (1001, 1002, 1003):
        desk.invoice(number, ada, "2027-03-01", 100.0)
    desk.at("2027-03-08T08:00")
    desk.invoice(1002, ada, "2027-03-01", 0.0, status="paid")
    desk.at("2027-03-08T10:00")
    desk.answer()
    assert desk.letters() == []
    (draft,) = desk.drafts()
    assert draft["subject"] == "A friendly reminder: $200.00 still open"
    assert "INV-1002" not in draft["text"]


def test_an_invoice_that_comes_to_a_stage_later_is_written_about_alone(desk: Desk) -> None:
    ada = desk.customer(1)
    desk.invoice(1001, ada, "2027-03-01", 100.0)
    desk.invoice(1002, ada, "2027-03-03", 60.0)
    desk.at("2027-03-08T08:00")
    desk.answer("decline")
    desk.at("2027-03-10T08:00")
    (draft,) = desk.drafts()
    assert "INV-1002" in draft["text"]
    assert "INV-1001" not in draft["text"]


def test_a_first_run_with_forty_old_invoices_is_one_list(desk: Desk) -> None:
    for number in range(40):
        desk.invoice(2000 + number, desk.customer(100 + number), "2027-01-15", 10.0)
    desk.at("2027-03-02T08:00")
    assert desk.drafts() == []
    (told,) = desk.told("#escalations")
    assert told.startswith("40 invoices are 30 days overdue or more, $400.00.")
    assert len(told.splitlines()) == 41
    desk.at("2027-03-03T08:00")
    assert len(desk.told("#escalations")) == 1


def test_two_beats_change_no_count(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-08T08:00")
    before = Task.objects.count(), ScheduledRun.objects.count()
    for _ in range(2):
        triggers.fire_due()
        desk.firm.work()
    assert (Task.objects.count(), ScheduledRun.objects.count()) == before
    assert len(desk.drafts()) == 1


def test_money_that_comes_after_a_letter_is_counted_once(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-08T08:00")
    desk.at("2027-03-08T10:00")
    desk.answer()
    desk.at("2027-03-09T10:01")
    assert desk.results("invoice-watch") == ["waiting"]
    desk.at("2027-03-15T08:00")
    desk.invoice(1001, "cus_0001", "2027-03-01", 0.0, status="paid")
    desk.at("2027-03-15T10:30")
    desk.answer()
    desk.at("2027-03-16T11:00")
    (watch,) = desk.runs("invoice-watch")
    assert (watch.result, watch.context["look"]["collected"]) == ("paid", {"USD": "420.0"})
    collected = [
        step for run in Task.objects.all() for step in run.context.values() if isinstance(step, dict)
    ]
    assert [step["collected"] for step in collected if step.get("collected")] == [{"USD": "420.0"}]
    assert desk.results("invoice-letter") == ["paid", "sent"]
    assert len(desk.letters()) == 1


@pytest.mark.parametrize("fields", [{"email": None}, {"do_not_contact": True}])
def test_who_cannot_be_written_to_is_for_a_person(desk: Desk, fields: dict[str, object]) -> None:
    desk.invoice(1001, desk.customer(1, **fields), "2027-03-01")
    desk.at("2027-03-08T08:00")
    assert desk.drafts() == []
    assert desk.results("invoice-letter") == ["skipped"]
    assert any("cus_0001 owes money and gets no mail" in text for text in desk.told("#billing"))


def test_a_letter_that_is_declined_is_not_drafted_again_until_the_next_stage(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-08T08:00")
    desk.answer("decline")
    desk.at("2027-03-09T08:00")
    assert desk.drafts() == []
    desk.at("2027-03-15T08:00")
    assert [draft["subject"] for draft in desk.drafts()] == ["Second reminder: $420.00 overdue"]


def test_a_letter_that_nobody_answers_is_not_sent(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-08T08:00")
    for hour in ("08T10:00", "09T04:00", "09T08:00", "10T08:01"):
        desk.at(f"2027-03-{hour}")
    assert desk.letters() == []
    assert desk.results("invoice-letter") == ["expired"]


def test_a_letter_that_is_approved_at_night_leaves_when_mail_may_leave_again(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.at("2027-03-08T08:00")
    desk.at("2027-03-08T22:00")
    desk.answer()
    assert desk.letters() == []
    desk.at("2027-03-09T08:59")
    assert desk.letters() == []
    desk.at("2027-03-09T09:00")
    assert len(desk.letters()) == 1


def test_a_stage_that_is_reached_on_a_weekend_is_drafted_on_monday_and_not_missed(desk: Desk) -> None:
    desk.invoice(1001, desk.customer(1), "2027-02-27")
    desk.at("2027-03-05T08:00")
    desk.at("2027-03-06T08:00")
    desk.at("2027-03-07T08:00")
    assert desk.drafts() == []
    desk.at("2027-03-08T08:00")
    assert [draft["subject"] for draft in desk.drafts()] == ["A friendly reminder: $420.00 still open"]
    assert desk.results("invoice-stage") == ["due"]
