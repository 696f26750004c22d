"""Between a person's yes and the mail days may lie: what must still be so is looked at when it leaves."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from sopengine import clock
from sopengine.errors import Transient
from tasks import engine, journal
from tasks.models import ContactMark, Task
from tasks.outcome import AfterRest, Outcome, StepRun, handler, handlers
from tests.tasks.desk import Desk, set_out
from tests.tasks.runs import begun, kinds, published
from tests.tasks.shop import story, wakes

pytestmark = pytest.mark.django_db(transaction=True)  # the threads of a drain have connections of their own

LEADS, ONE, SECOND, REVIEW = (
    "new-lead-response",
    "reactivate-customer",
    "reactivation-follow-up",
    "review-request",
)
REMINDER, QUOTE = "appointment-reminder", "quote-follow-up"
ADA = "cus_0001"


@pytest.fixture
def desk(settings: Settings, tmp_path: Path) -> Iterator[Desk]:
    with set_out("mock", settings, tmp_path) as desk:
        yield desk


# -- a review -----------------------------------------------------------------------------------------


@pytest.fixture
def asked(asked_in_time: Desk) -> Desk:
    """A draft of a review request that a person approves on Friday at 19:00: it leaves on Monday at 9:00."""
    asked_in_time.at("2027-04-09T19:00")
    asked_in_time.answer()
    assert (asked_in_time.letters(), wakes(asked_in_time.runs(REVIEW)[0])) == ([], "Mon 12 Apr 09:00 CDT")
    return asked_in_time


def test_who_complains_on_saturday_is_not_asked_for_a_review_on_monday(asked: Desk) -> None:
    asked.at("2027-04-10T10:00")
    asked.state.create("notes", {"customer_id": ADA, "text": "complaint: the edges were missed"}, "k")
    asked.at("2027-04-12T09:00")
    assert (asked.results(REVIEW), asked.letters()) == (["skipped"], [])
    assert "Time has passed before “Send the mail”" in story(asked.runs(REVIEW)[0])


def test_who_does_not_complain_is_asked_on_monday_once(asked: Desk) -> None:
    asked.at("2027-04-12T09:00")
    assert (asked.results(REVIEW), len(asked.letters())) == (["sent"], 1)
    assert kinds(asked.runs(REVIEW)[0]).count("looks_again") == 1


@pytest.mark.parametrize("hour", ["17:30", "18:30"])
def test_what_a_person_orders_to_be_sent_again_is_sent_though_its_turn_was_taken(
    hour: str, asked_in_time: Desk, settings: Settings
) -> None:
    folder, backend = settings.EMAIL_FOLDER, settings.EMAIL_BACKEND
    settings.EMAIL_FOLDER, settings.EMAIL_BACKEND = "", "tests.no_such_backend"
    asked_in_time.answer()
    assert asked_in_time.runs(REVIEW)[0].reason == "outcome_unknown"
    settings.EMAIL_FOLDER, settings.EMAIL_BACKEND = folder, backend
    asked_in_time.at(f"2027-04-09T{hour}")
    asked_in_time.answer("send_again")
    asked_in_time.at("2027-04-12T09:00")
    assert (asked_in_time.results(REVIEW), len(asked_in_time.letters())) == (["sent"], 1)


@pytest.fixture
def asked_in_time(desk: Desk) -> Desk:
    """A draft of a review request that waits for a yes on Friday at 17:00."""
    desk.at("2027-04-01T12:00")
    desk.publish(REVIEW)
    desk.customer(1)
    desk.at("2027-04-07T15:00")
    desk.firm.hears("job.completed", "e1", job_id="job_1", crm_customer_id=ADA, service_type="mowing")
    desk.at("2027-04-09T17:00")
    return desk


@pytest.fixture
def broken() -> Iterator[None]:
    """A mail whose look at the CRM fails each time, while the CRM answers everybody else."""

    def post(step: StepRun, *, to: str, purpose: str, look_again: AfterRest) -> Outcome:
        error = Transient("broken", code="server_error", sent="no")
        error.origin = "crm"
        raise error

    handler("t.post", sends=True, calls=True)(post)
    yield
    handlers.remove("t.post")


def test_a_mail_that_looks_again_and_again_comes_before_a_person(desk: Desk, broken: None) -> None:
    desk.at("2027-02-15T10:00")
    version = published(
        {"handler": "flow.branch", "with": {"rules": []}},
        {
            "handler": "t.post",
            "max_retries": 0,
            "with": {"to": "a@example.test", "purpose": "service", "look_again": "s1"},
        },
        autonomous=True,
    )
    run = begun(version)
    for minute in range(12):
        desk.at(f"2027-02-15T1{minute // 6}:{minute % 6}0")
    run.refresh_from_db()
    assert (run.status, kinds(run).count("parked")) == ("paused", 1)
    assert kinds(run).count("looks_again") >= 3


# -- a reactivation -----------------------------------------------------------------------------------


def past(desk: Desk) -> None:
    desk.at("2027-02-15T10:00")
    desk.publish(SECOND, ONE)
    desk.customer(1, status="past", services=["weed_control"], signed_seasons=[2026])


def signs(desk: Desk) -> None:
    desk.state.update("customers", ADA, {"signed_seasons": [2026, 2027], "status": "active"}, "signed")


def test_who_signs_while_an_invitation_begun_by_hand_waits_for_a_yes_gets_none(desk: Desk) -> None:
    past(desk)
    desk.start(ONE, crm_customer_id=ADA, season=2027)
    signs(desk)
    desk.answer()
    assert (desk.results(ONE), desk.letters(), desk.runs(SECOND)) == (["skipped"], [], [])


def test_who_signs_while_an_approved_invitation_waits_for_the_morning_gets_none(desk: Desk) -> None:
    past(desk)
    desk.start(ONE, crm_customer_id=ADA, season=2027)
    desk.at("2027-02-15T19:00")
    desk.answer()
    assert wakes(desk.runs(ONE)[0]) == "Tue 16 Feb 09:00 CST"
    signs(desk)
    desk.at("2027-02-16T09:00")
    assert (desk.results(ONE), desk.letters()) == (["skipped"], [])


def test_who_signs_while_a_second_note_waits_for_a_yes_gets_none(desk: Desk) -> None:
    past(desk)
    desk.start(ONE, crm_customer_id=ADA, season=2027)
    desk.answer()
    desk.at("2027-02-22T09:00")
    signs(desk)
    desk.answer()
    assert (desk.results(SECOND), len(desk.letters())) == (["signed"], 1)


# -- a lead -------------------------------------------------------------------------------------------


def mail_comes(desk: Desk, number: int = 1, **more: Any) -> None:
    data = {
        "email_from": "maja@example.test",
        "email_name": "Maja Berg",
        "email_subject": "Quote for mowing",
        "email_body": "How much is mowing?",
        "email_message_id": f"m{number}@example.test",
        "is_auto_reply": False,
        **more,
    }
    desk.firm.hears("mail.received", f"m{number}", **data)


@pytest.fixture
def open_for_leads(desk: Desk) -> Desk:
    desk.at("2027-03-10T18:42")
    desk.publish("quote-due", LEADS)
    return desk


def test_a_lead_whose_acknowledgement_nobody_reads_for_two_days_is_entered_and_watched_all_the_same(
    open_for_leads: Desk,
) -> None:
    mail_comes(open_for_leads, ask_first=True)
    open_for_leads.at("2027-03-12T18:43")
    (lead,) = open_for_leads.state.rows("customers")
    assert (lead["email"], lead["status"]) == ("maja@example.test", "lead")
    assert open_for_leads.letters() == []
    assert len(open_for_leads.runs("quote-due")) == 1
    assert (open_for_leads.questions(), open_for_leads.results(LEADS)) == ([], ["done"])


def test_one_address_gets_one_acknowledgement_a_day_and_every_mail_is_entered(open_for_leads: Desk) -> None:
    mail_comes(open_for_leads, 1)
    mail_comes(open_for_leads, 2, email_subject="One more question about mowing")
    (lead,) = open_for_leads.state.rows("customers")
    assert (len(open_for_leads.letters()), len(open_for_leads.notes(lead["id"]))) == (1, 2)
    open_for_leads.at("2027-03-11T00:01")
    mail_comes(open_for_leads, 3, email_subject="Quote for the hedge")
    assert len(open_for_leads.letters()) == 2


def test_when_somebody_was_acknowledged_is_forgotten_with_the_old_runs(open_for_leads: Desk) -> None:
    mail_comes(open_for_leads)
    assert ContactMark.objects.get().kind == "acknowledgement"
    journal.prune_acknowledgements(clock.now() - timedelta(days=1))
    assert ContactMark.objects.count() == 1
    journal.prune_acknowledgements(clock.now() + timedelta(seconds=1))
    assert not ContactMark.objects.exists()


# -- a reminder ---------------------------------------------------------------------------------------


def test_a_reminder_of_an_appointment_in_two_months_keeps_nothing_of_the_customer_and_leaves(
    desk: Desk,
) -> None:
    desk.at("2027-03-10T10:00")
    desk.publish(REMINDER)
    desk.customer(1)
    row = {"id": "apt_1", "customer_id": ADA, "type": "estimate", "status": "booked"}
    desk.put("appointments", {**row, "start": "2027-05-14T17:00:00Z", "end": "2027-05-14T18:00:00Z"})
    desk.start(
        REMINDER,
        crm_customer_id=ADA,
        appointment_id="apt_1",
        appointment_start="2027-05-14T12:00:00-05:00",
        hours=24,
    )
    waiting = Task.objects.get()
    assert (waiting.sealed, waiting.scrub_at) == (None, None)
    desk.at("2027-05-13T12:01")
    assert (desk.results(REMINDER), len(desk.letters())) == (["sent"], 1)


# -- what is no longer open ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["disputed", "written_off", "draft", "Sent to a lawyer"])
def test_no_letter_asks_for_an_invoice_that_is_no_longer_open(status: str, desk: Desk) -> None:
    desk.at("2027-03-08T07:00")
    desk.publish("invoice-watch", "invoice-letter")
    invoice = desk.invoice(1001, desk.customer(1), "2027-03-01")
    desk.start("invoice-letter", crm_customer_id=ADA, invoice_ids=[invoice], stage=7)
    desk.at("2027-03-08T10:00")
    desk.invoice(1001, ADA, "2027-03-01", status=status)
    desk.answer()
    assert desk.letters() == []
    assert desk.results("invoice-letter") == [status if status.islower() else "settled"]


def quoted(desk: Desk, **fields: Any) -> None:
    row = {"id": "q_1", "number": "Q-1", "customer_id": ADA, "version": 1, "status": "sent", "total": 900.0}
    sent = {"currency": "USD", "sent_at": "2027-03-08T15:00:00Z", "responded_at": None}
    desk.put("quotes", {**row, **sent, "valid_until": "2027-05-01", **fields})


@pytest.fixture
def offered(desk: Desk) -> Desk:
    """A quote that went out on Monday morning, and that we were told of at once."""
    desk.at("2027-03-08T09:00")
    desk.publish("quote-close", "quote-second-follow-up", QUOTE)
    desk.customer(1, status="lead")
    quoted(desk)
    return desk


@pytest.mark.parametrize("status", ["withdrawn", "cancelled", "draft", "superseded"])
def test_nobody_is_asked_about_a_quote_that_no_longer_waits_for_them(status: str, offered: Desk) -> None:
    offered.firm.hears("quote.sent", "e1", quote_id="q_1")
    offered.at("2027-03-11T10:00")
    quoted(offered, status=status)
    offered.answer()
    assert (offered.letters(), offered.results(QUOTE)) == ([], ["settled"])


def test_a_quote_that_the_crm_writes_down_after_it_has_told_of_it_is_followed_up(offered: Desk) -> None:
    quoted(offered, status="draft", sent_at=None)
    offered.firm.hears("quote.sent", "e1", quote_id="q_1")
    offered.at("2027-03-08T09:01")
    quoted(offered)
    offered.at("2027-03-11T10:00")
    assert len(offered.drafts()) == 1


def test_a_version_that_went_out_since_has_three_days_of_its_own(offered: Desk) -> None:
    offered.firm.hears("quote.sent", "e1", quote_id="q_1")
    offered.at("2027-03-09T09:00")
    quoted(offered, version=2, sent_at="2027-03-10T15:00:00Z")
    offered.at("2027-03-11T10:00")
    assert offered.drafts() == []
    offered.at("2027-03-15T09:00")
    assert len(offered.drafts()) == 1


def test_a_version_that_is_told_of_is_followed_up_after_an_answer_to_the_one_before(offered: Desk) -> None:
    offered.firm.hears("quote.sent", "e1", quote_id="q_1", version=1)
    offered.at("2027-03-09T09:00")
    quoted(offered, version=2, sent_at="2027-03-09T15:00:00Z")
    offered.firm.hears("quote.sent", "e2", quote_id="q_1", version=2)
    offered.at("2027-03-12T10:00")
    assert offered.results(QUOTE) == ["superseded", "waiting"]
    assert len(offered.drafts()) == 1


def test_of_two_versions_that_are_told_late_the_newer_one_is_followed_up_once(offered: Desk) -> None:
    quoted(offered, version=2)
    for version in (1, 2):
        offered.firm.hears("quote.sent", f"e{version}", quote_id="q_1", version=version)
    offered.at("2027-03-11T10:00")
    assert (offered.results(QUOTE), len(offered.drafts())) == (["superseded", "waiting"], 1)


def test_a_version_that_goes_out_once_more_is_followed_up_once_from_then_on(offered: Desk) -> None:
    offered.firm.hears("quote.sent", "e1", quote_id="q_1", version=1)
    offered.at("2027-03-09T09:00")
    quoted(offered, sent_at="2027-03-09T15:00:00Z")
    offered.firm.hears("quote.sent", "e2", quote_id="q_1", version=1)
    offered.at("2027-03-11T10:00")
    assert offered.drafts() == []
    offered.at("2027-03-12T10:00")
    assert len(offered.drafts()) == 1


@pytest.mark.parametrize("there", [{}, {"version": 1}])
def test_a_quote_that_is_told_of_before_the_crm_has_it_is_followed_up(
    there: dict[str, Any], offered: Desk
) -> None:
    if there:
        quoted(offered, **there)
    else:
        offered.state.remove("quotes", "q_1")
    offered.firm.hears("quote.sent", "e1", quote_id="q_1", version=2)
    offered.at("2027-03-08T09:01")
    quoted(offered, version=2)
    offered.at("2027-03-11T10:00")
    assert len(offered.drafts()) == 1


# -- a form with a phone number only ------------------------------------------------------------------


def test_who_leaves_a_phone_number_and_no_address_is_entered_and_called(open_for_leads: Desk) -> None:
    mail_comes(open_for_leads, email_from="", phone="612-555-0188")
    (lead,) = open_for_leads.state.rows("customers")
    assert (lead["name"], lead["phone"], lead["status"]) == ("Maja Berg", "+16125550188", "lead")
    assert (open_for_leads.letters(), open_for_leads.results(LEADS)) == ([], ["done"])
    assert any("Please call Maja Berg" in said for said in open_for_leads.told("#leads-incoming"))
    assert len(open_for_leads.runs("quote-due")) == 1


# -- a pause ------------------------------------------------------------------------------------------


def pauses(desk: Desk, signal: str = "pause") -> None:
    engine.signal([desk.runs(ONE)[0].pk], signal)
    desk.firm.work()


def test_the_hours_of_a_question_stand_still_while_its_run_is_paused(desk: Desk) -> None:
    past(desk)
    desk.start(ONE, crm_customer_id=ADA, season=2027)
    desk.at("2027-02-15T12:00")
    pauses(desk)
    desk.at("2027-02-19T12:00")
    question = desk.firm.question()
    assert question.expires_at is None
    assert (desk.results(ONE), kinds(desk.runs(ONE)[0]).count("escalated")) == (["paused"], 0)

    pauses(desk, "resume")
    question.refresh_from_db()
    assert question.expires_at is not None
    left = question.expires_at - clock.now()
    assert timedelta(hours=45.9) < left < timedelta(hours=46.1)
    desk.answer()
    assert desk.results(ONE) == ["sent"]


def test_what_is_answered_while_a_run_is_paused_is_done_when_it_goes_on(desk: Desk) -> None:
    past(desk)
    desk.start(ONE, crm_customer_id=ADA, season=2027)
    pauses(desk)
    desk.at("2027-02-19T12:00")
    desk.answer()
    assert (desk.results(ONE), desk.letters()) == (["paused"], [])
    pauses(desk, "resume")
    assert (desk.results(ONE), len(desk.letters())) == (["sent"], 1)
