"""What a mail is about is asked once more before it leaves."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pytest_django import Settings

from crm.providers.mock import shared_state
from crm.records import Record
from sopengine.errors import DataError, Outdated
from tasks import approvals, context, engine, timeline
from tasks.models import Approval, Task
from tasks.outcome import Branch, Done, Outcome, StepRun, handlers
from tests.tasks.runs import Probe, begun, check_invariants, fresh, published
from tests.tasks.steps import customer, invoice, run, step_run

LETTER = {"to": "c1@example.test", "subject": "Invoice", "text": "You owe us something."}


@pytest.fixture(autouse=True)
def _folder(settings: Settings, tmp_path: Path) -> None:
    settings.EMAIL_FOLDER = str(tmp_path)


def send(records: list[Record], **still: Any) -> Outcome:
    step = step_run([customer(1), *records], context={"crm_customer_id": "cus_1"})
    return run("email.send", step, message=LETTER, purpose="service", still={"entity": "invoices", **still})


def unpaid(number: int, amount: str = "420.00", **fields: Any) -> Record:
    return invoice(number, "cus_1", amount_due=Decimal(amount), **fields)


def test_what_is_as_approved_is_sent(tmp_path: Path) -> None:
    outcome = send(
        [unpaid(1, "420.0"), unpaid(2, "90.50")],
        ids=["inv_1", "inv_2"],
        same={"amount_due": ["420.00", 90.5], "status": "open", "due_date": "2027-01-15"},
        unless={"status": ["paid", "void"]},
    )
    assert isinstance(outcome, Done)
    assert len(list(tmp_path.glob("*.eml"))) == 1


@pytest.mark.parametrize(
    ("still", "branch"),
    [
        ({"unless": {"status": "paid"}}, Branch("complete", result="paid", why="settled")),
        (
            {"unless": {"status": ["void", "paid"]}, "result": "done_with"},
            Branch("complete", result="done_with", why="settled"),
        ),
        ({"unless": {"paid_at": True}}, None),
        ({"unless": {"number": True}}, Branch("complete", result="number", why="settled")),
        (
            {"unless": {"status": "paid"}, "same": {"amount_due": "420.00"}, "collects": True},
            Branch("complete", result="paid", why="settled", values={"collected": {"USD": "420.00"}}),
        ),
    ],
)
def test_when_all_is_settled_the_run_ends(
    still: dict[str, Any], branch: Branch | None, tmp_path: Path
) -> None:
    outcome = send([unpaid(1, "420.00", status="paid")], ids=["inv_1"], **still)
    if branch is None:
        assert isinstance(outcome, Done)
    else:
        assert outcome == branch
        assert not list(tmp_path.glob("*.eml"))


def test_a_record_that_is_gone_is_settled_and_collects_nothing() -> None:
    outcome = send(
        [unpaid(1, "420.00", status="paid")],
        ids=["inv_1", "inv_9"],
        same={"amount_due": ["420.00", "77.00"]},
        unless={"status": "paid"},
        collects=True,
    )
    assert outcome == Branch(
        "complete", result="paid", why="settled", values={"collected": {"USD": "420.00"}}
    )
    assert send([], ids=["inv_9"]) == Branch("complete", result="settled", why="settled")


def test_what_is_collected_is_summed_by_currency() -> None:
    outcome = send(
        [unpaid(number, status="paid", currency=code) for number, code in enumerate(("USD", "EUR", "USD"))],
        ids=["inv_0", "inv_1", "inv_2"],
        same={"amount_due": ["420.00", "77.00", "0.50"]},
        unless={"status": "paid"},
        collects=True,
    )
    assert isinstance(outcome, Branch)
    assert outcome.values == {"collected": {"USD": "420.50", "EUR": "77.00"}}


@pytest.mark.parametrize(
    "changed",
    [[unpaid(1), unpaid(2, "220.00")], [unpaid(1), unpaid(2, status="paid")], [unpaid(1)]],
    ids=["another amount", "one is paid", "one is gone"],
)
def test_what_has_changed_since_is_drafted_again(changed: list[Record], tmp_path: Path) -> None:
    with pytest.raises(Outdated) as outdated:
        send(
            changed,
            ids=["inv_1", "inv_2"],
            same={"amount_due": "420.00"},
            unless={"status": "paid"},
            back_to="read",
        )
    assert (outdated.value.reason, outdated.value.back_to) == ("subject_changed", "read")
    assert not list(tmp_path.glob("*.eml"))


def test_a_field_that_records_do_not_have_is_no_yes() -> None:
    for asked in ({"same": {"amount": 1}}, {"unless": {"state": "paid"}}):
        with pytest.raises(DataError, match="no field"):
            send([unpaid(1)], ids=["inv_1"], **asked)
    with pytest.raises(DataError, match="another number"):
        send([unpaid(1)], ids=["inv_1"], same={"amount_due": ["1", "2"]})


def test_about_nothing_is_refused_before_any_run() -> None:
    with pytest.raises(ValidationError):
        send([], ids=[])


# -- in a run ---------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_changed_amount_voids_the_approval_and_the_run_reads_drafts_and_asks_again(
    probe: Probe, tmp_path: Path, crm_customer: str
) -> None:
    owed = next(row for row in shared_state().rows("invoices") if row["status"] == "open")

    def read(step: StepRun) -> Outcome:
        now = shared_state().find("invoices", owed["id"])
        return Done(values={"amount": str(now["amount_due"]), "crm_customer_id": crm_customer})

    probe.told["read"] = read
    still = {
        "entity": "invoices",
        "ids": [owed["id"]],
        "same": {"amount_due": "{{ read.amount }}"},
        "unless": {"status": ["paid"]},
        "back_to": "read",
    }
    version = published(
        {"key": "read", "handler": "probe.pure"},
        {
            "key": "draft",
            "handler": "message.draft",
            "with": {"to": "x@example.com", "subject": "Owed", "text": "You owe ${{ read.amount }}."},
        },
        {"key": "ask", "handler": "human.ask", "with": {"question": "Send?", "draft": "{{ draft }}"}},
        {
            "key": "send",
            "handler": "email.send",
            "with": {"message": "{{ ask }}", "purpose": "transactional", "still": still},
        },
    )
    task = begun(version)
    engine.drain()
    change(owed["id"], amount_due="220.00")
    task = approved(task)
    assert task.waiting_for.startswith("approval:")
    assert "what it is about has changed since a person approved" in story(task)
    assert "220.00" in str(approvals.draft_of(Approval.objects.get(task=task, state="open")))
    assert not list(tmp_path.glob("*.eml"))

    change(owed["id"], status="paid", amount_due="0.00")
    task = approved(task)
    assert (task.status, task.result) == ("completed", "paid")
    assert "what it is about is settled" in story(task)
    assert not list(tmp_path.glob("*.eml"))
    check_invariants()


@pytest.mark.parametrize("amount", ["0.50", "420.00", "12345.67", "123456789.00"])
def test_what_was_collected_is_kept_readable_whatever_the_amount(amount: str) -> None:
    kept: dict[str, Any] = {}
    sealed: dict[str, Any] = {}
    values = {"collected": {"USD": amount}, "message_id": "<a@b.co>"}
    context.put_result(kept, sealed, "send", values, handlers.get("email.send").open_fields)
    assert kept == {"send": {"collected": {"USD": amount}}}
    assert sealed == {"send": {"message_id": "<a@b.co>"}}


def change(record: str, **fields: Any) -> None:
    now = shared_state().find("invoices", record)
    assert now is not None
    shared_state().load("invoices", [{**now, **fields}])


def approved(task: Task) -> Task:
    approvals.answer(Approval.objects.get(task=task, state="open").pk, "approve", by=None)
    engine.drain()
    return fresh(task)


def story(task: Task) -> str:
    return "\n".join(line.text for line in timeline.sentences(task))
