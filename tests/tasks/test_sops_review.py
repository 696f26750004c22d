"""Story 4: a customer is asked for a review two days after a job, and at most once a year."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pytest_django import Settings

from sopengine import clock
from tasks import definition
from tasks.models import ContactMark
from tests.length import AT_FULL_LENGTH
from tests.tasks.desk import Desk, set_out
from tests.tasks.runs import check_invariants
from tests.tasks.shop import CRMS

# The threads of a drain have connections of their own. On real processes tests/stories tells the same.
pytestmark = [pytest.mark.django_db(transaction=True), AT_FULL_LENGTH]


@pytest.fixture(params=CRMS)
def desk(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Desk]:
    with set_out(request.param, settings, tmp_path) as desk:
        desk.at("2027-04-01T12:00")
        desk.publish("review-request")
        yield desk


def job_done(desk: Desk, number: int, customer: str = "cus_0001", **more: Any) -> None:
    """Tell that a job is done."""
    data = {"job_id": f"job_{number}", "crm_customer_id": customer, "service_type": "weed_control", **more}
    data["completed_at"] = clock.now().replace(second=0, microsecond=0).isoformat()
    desk.firm.hears("job.completed", f"evt-{uuid4()}", **data)


def test_a_job_that_is_told_twice_is_one_draft_two_days_later_and_one_mail(desk: Desk) -> None:
    desk.customer(1)
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    job_done(desk, 1)
    desk.at("2027-04-08T14:59")
    assert desk.drafts() == []
    desk.at("2027-04-08T15:00")
    (draft,) = desk.drafts()
    assert draft["to"] == "ada1@example.com"
    assert "https://reviews.example.com/us?place=1" in draft["text"]
    assert "weed control" in draft["text"]
    assert "/unsubscribe/" in draft["text"]
    assert "/unsubscribe/" in draft["html"]
    assert desk.letters() == []
    desk.answer()
    (letter,) = desk.letters()
    assert letter["Subject"] == "How did we do, Ada 1?"
    assert letter["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert desk.results("review-request") == ["sent"]
    assert [note.split(" [ref")[0] for note in desk.notes("cus_0001")] == [
        "review_request: asked by mail for a review."
    ]
    assert desk.told("#marketing")[-1] == "Asked customer cus_0001 for a review."
    check_invariants()


def test_a_second_job_within_a_year_asks_nothing(desk: Desk) -> None:
    desk.customer(1)
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    desk.at("2027-04-08T15:00")
    desk.answer()
    for mark in ContactMark.objects.filter(kind="review"):
        assert "cus_0001" not in mark.person
        assert "ada" not in mark.person
    desk.at("2027-04-20T15:00")
    job_done(desk, 2)
    desk.at("2027-04-22T15:00")
    assert desk.drafts() == []
    assert desk.results("review-request") == ["sent", "skipped"]
    assert "was asked not long ago" in desk.story(desk.runs("review-request")[-1])
    desk.at("2028-04-06T15:00")
    job_done(desk, 3)
    desk.at("2028-04-08T15:00")
    assert len(desk.drafts()) == 1


def test_two_jobs_at_a_time_are_asked_about_once(desk: Desk) -> None:
    desk.customer(1)
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    job_done(desk, 2)
    desk.at("2027-04-08T15:00")
    for question in desk.questions():
        desk.approve(question)
    assert len(desk.letters()) == 1
    assert desk.results("review-request") == ["sent", "skipped"]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("complaint", "complain"),
        ("overdue invoice", "overdue"),
        ("do not contact", "wants no mail"),
        ("no address", "no mail address"),
    ],
)
def test_who_is_not_glad_is_not_asked_and_the_reason_is_told(desk: Desk, trouble: str, reason: str) -> None:
    ada = desk.customer(
        1, do_not_contact=trouble == "do not contact", **({"email": None} if trouble == "no address" else {})
    )
    if trouble == "complaint":
        desk.state.create("notes", {"customer_id": ada, "text": "complaint: the edges were missed"}, "k")
    if trouble == "overdue invoice":
        desk.invoice(1, ada, "2027-04-01")
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    desk.at("2027-04-08T15:00")
    assert desk.drafts() == []
    assert desk.results("review-request") == ["skipped"]
    assert reason in desk.story(desk.runs("review-request")[0])


def test_other_notes_and_invoices_that_are_not_due_speak_against_nothing(desk: Desk) -> None:
    ada = desk.customer(1)
    desk.state.create("notes", {"customer_id": ada, "text": "No complaint: all is well."}, "k")
    desk.invoice(1, ada, "2027-04-08")
    desk.invoice(2, ada, "2027-03-01", 0.0, status="paid")
    desk.invoice(3, desk.customer(2), "2027-03-01")
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    desk.at("2027-04-08T15:00")
    assert len(desk.drafts()) == 1


def test_a_customer_who_is_gone_ends_the_run(desk: Desk) -> None:
    desk.at("2027-04-06T15:00")
    job_done(desk, 1, "cus_0099")
    desk.at("2027-04-08T15:00")
    assert desk.results("review-request") == ["customer_gone"]


def test_a_stop_that_stands_about_the_customer_is_an_open_escalation(desk: Desk) -> None:
    desk.customer(1)
    text = "{{ crm_customer_id | remove: 'cus_0001' }}"  # nothing is left, and there is nothing to post
    step = {"key": "one", "handler": "chat.post", "with": {"text": text}}
    inputs = {"crm_customer_id": {"type": "string"}}
    stuck = definition.save_rows(
        definition.from_json({"sop": "stuck", "name": "Stuck", "inputs": inputs, "steps": [step]})
    )
    definition.publish(stuck)
    desk.start("stuck", crm_customer_id="cus_0001")
    assert [run.status for run in desk.runs("stuck")] == ["paused"]
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    desk.at("2027-04-08T15:00")
    assert desk.results("review-request") == ["skipped"]
    assert "complain" in desk.story(desk.runs("review-request")[0])


def test_who_complains_between_the_draft_and_the_answer_is_not_asked(desk: Desk) -> None:
    ada = desk.customer(1)
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    desk.at("2027-04-08T15:00")
    desk.state.create("notes", {"customer_id": ada, "text": "complaint: the edges were missed"}, "k")
    desk.answer()
    assert desk.letters() == []
    assert desk.results("review-request") == ["skipped"]
    assert "complain" in desk.story(desk.runs("review-request")[0])
    assert not ContactMark.objects.exists()


@pytest.mark.parametrize(("answer", "result"), [("decline", "declined"), ("", "expired")])
def test_without_a_yes_nothing_is_sent_and_nothing_counted(desk: Desk, answer: str, result: str) -> None:
    desk.customer(1)
    desk.at("2027-04-06T15:00")
    job_done(desk, 1)
    desk.at("2027-04-08T15:00")
    if answer:
        desk.answer(answer)
    desk.at("2027-04-12T14:59")
    assert ("waiting" in desk.results("review-request")) == (not answer), "two working days, not a weekend"
    desk.at("2027-04-12T15:01")
    assert desk.letters() == []
    assert desk.results("review-request") == [result]
    assert not ContactMark.objects.exists()


def test_without_a_review_link_the_sop_cannot_be_published(desk: Desk) -> None:
    desk.settings.REVIEW_LINK = ""
    with pytest.raises(definition.DefinitionError, match="REVIEW_LINK"):
        desk.publish("review-request")
