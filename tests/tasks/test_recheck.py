"""Just before a mail leaves, the CRM is asked once more; what a person approved may be out of date."""

from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from crm import health
from crm.providers.mock import forget_state, shared_state
from tasks import approvals, engine, timeline
from tasks.models import Approval, SopVersion, Task
from tests.tasks.runs import begun, check_invariants, fresh, kinds, published

pytestmark = pytest.mark.django_db

BERTA = "cus_0002"
DRAFT = {"subject": "Spring?", "text": "Dear {{ customer_name }}, shall we come by?"}


def offer(purpose: str = "marketing") -> SopVersion:
    return published(
        {"handler": "crm.find", "with": {"customer_id": "{{ crm_customer_id }}"}},
        {"key": "draft", "handler": "message.draft", "with": DRAFT},
        {"key": "ask", "handler": "human.ask", "with": {"question": "Send it?", "draft": "{{ draft }}"}},
        {"key": "send", "handler": "email.send", "with": {"message": "{{ ask }}", "purpose": purpose}},
        {"key": "note", "handler": "crm.note", "with": {"text": "Offered."}},
        inputs={"crm_customer_id": {"type": "string"}},
    )


@pytest.fixture(autouse=True)
def _firm(settings: Settings, tmp_path: Path) -> None:
    forget_state()
    settings.EMAIL_FOLDER = str(tmp_path)


@pytest.fixture
def sent(tmp_path: Path) -> Callable[[], list[str]]:
    """Return a function that tells to whom mail has gone out."""
    return lambda: [str(message_from_bytes(path.read_bytes())["To"]) for path in tmp_path.glob("*.eml")]


def asked(version: SopVersion) -> Task:
    task = begun(version, {"crm_customer_id": BERTA})
    engine.drain()
    assert fresh(task).waiting_for.startswith("approval:")
    return task


def approve(task: Task) -> Task:
    approvals.answer(Approval.objects.get(task=task, state="open").pk, "approve", by=None)
    engine.drain()
    return fresh(task)


def change(**fields: Any) -> None:
    shared_state().update("customers", BERTA, fields, f"change-{fields}")


def find(task: Task) -> Any:
    return shared_state().find("customers", task.context["crm_customer_id"])


def story(task: Task) -> str:
    return "\n".join(line.text for line in timeline.sentences(task))


def test_a_customer_who_is_as_approved_gets_the_mail(sent: Callable[[], list[str]]) -> None:
    task = approve(asked(offer()))
    assert (task.status, task.result) == ("completed", "sent")
    assert sent() == ["berta.bergstrom.2@example.com"]


def test_a_customer_who_wants_no_contact_any_more_gets_none(sent: Callable[[], list[str]]) -> None:
    task = asked(offer())
    change(do_not_contact=True)
    task = approve(task)
    assert (task.status, task.result) == ("completed", "skipped")
    assert "the customer wants no mail" in story(task)
    assert sent() == []
    check_invariants()


def test_a_transactional_mail_goes_out_whatever_the_crm_says_now(sent: Callable[[], list[str]]) -> None:
    task = asked(offer("transactional"))
    change(do_not_contact=True)
    health.hold("crm", "ana")
    approve(task)
    assert sent() == ["berta.bergstrom.2@example.com"]
    health.release("crm", "ana")


def test_a_changed_address_voids_the_approval_and_a_person_sees_the_new_one(
    sent: Callable[[], list[str]],
) -> None:
    task = asked(offer())
    change(email="berta@new.example.com")
    task = approve(task)
    assert task.status == "waiting"
    assert sent() == []
    assert "the customer's address has changed since a person approved" in story(task)
    assert Approval.objects.filter(task=task).count() == 2
    task = approve(task)
    assert (task.status, task.result) == ("completed", "sent")
    assert sent() == ["berta@new.example.com"]
    check_invariants()


def test_a_customer_outside_the_filter_of_the_campaign_gets_none(sent: Callable[[], list[str]]) -> None:
    child = offer()
    listing = {"status": "past", "city": "Saint Paul", "sop": child.sop.slug, "wait": False}
    begun(published({"handler": "crm.for_each", "with": listing}))
    engine.drain()
    engine.drain()
    children = list(Task.objects.filter(version=child))
    moved, other, *_ = [one for one in children if find(one)["email"] and not find(one)["do_not_contact"]]
    shared_state().update("customers", moved.context["crm_customer_id"], {"city": "Edina"}, "moved")
    assert (approve(moved).status, fresh(moved).result) == ("completed", "skipped")
    assert "no longer among those whom this is for" in story(moved)
    assert approve(other).result == "sent"
    assert len(sent()) == 1


@pytest.mark.django_db(transaction=True)  # a handler's thread looks how the line stands
def test_while_the_crm_is_held_the_approved_mail_waits_and_is_not_in_doubt(
    sent: Callable[[], list[str]],
) -> None:
    task = asked(offer())
    health.hold("crm", "ana")
    task = approve(task)
    assert (task.status, task.waiting_for, task.started_at) == ("waiting", "provider:crm", None)
    assert "unknown" not in kinds(task)
    assert sent() == []
    health.release("crm", "ana")
    engine.signal([task.id], "retry")
    engine.drain()
    assert sent() == ["berta.bergstrom.2@example.com"]
