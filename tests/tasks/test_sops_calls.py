"""Story 6: what happens after a phone call, and before the appointment that was agreed in it."""

from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pytest_django import Settings

from crm import health
from tests.length import AT_FULL_LENGTH
from tests.tasks.desk import Desk, set_out
from tests.tasks.runs import check_invariants
from tests.tasks.shop import CRMS

# The threads of a drain have connections of their own. On real processes tests/stories tells the same.
pytestmark = [pytest.mark.django_db(transaction=True), AT_FULL_LENGTH]

SOPS = ("appointment-confirmation", "appointment-reminder", "after-call")
NOWHERE = "http://127.0.0.1:9"  # nobody listens there
CALL = {
    "call_id": "call_1",
    "direction": "inbound",
    "from_number": "+16125550134",
    "to_number": "+16125550100",
    "duration_seconds": 192,
    "summary": "Ruth wants an estimate for aeration.",
    "intent": "booking_request",
    "caller_name": "Ruth",
    "caller_email": "ruth@example.com",
    "appointment_start": "2027-03-14T12:00",
    "appointment_type": "estimate",
}


@pytest.fixture(params=CRMS)
def desk(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Desk]:
    with set_out(request.param, settings, tmp_path) as desk:
        desk.at("2027-03-10T10:00")
        desk.publish(*SOPS)
        yield desk


def call_ended(desk: Desk, times: int = 1, **more: Any) -> None:
    """Tell that a call has ended; what is None was not told."""
    data = {name: value for name, value in {**CALL, **more}.items() if value is not None}
    for _ in range(times):
        desk.firm.hears("call_ended", f"evt-{uuid4()}", **data)


def lead(desk: Desk, number: int = 7, **fields: Any) -> str:
    return desk.customer(
        number, **{"name": "Ruth Olson", "phone": "612-555-0134", "status": "lead", **fields}
    )


def subjects(desk: Desk) -> list[str]:
    return [str(letter["Subject"]) for letter in desk.letters()]


def text_of(letter: EmailMessage) -> str:
    part = letter.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


def test_a_call_updates_the_lead_and_adds_one_note_and_the_appointment(desk: Desk) -> None:
    ruth = lead(desk, email=None)
    call_ended(desk, times=3)
    (customer,) = desk.state.rows("customers")
    assert (customer["id"], customer["name"], customer["phone"]) == (ruth, "Ruth Olson", "612-555-0134")
    assert customer["email"] == "ruth@example.com"
    assert customer["notes"] == "Last call 10 Mar 2027: booking request."
    (note,) = desk.notes(ruth)
    assert note.split(" [ref")[0].splitlines() == [
        "phone_call: 10 Mar 2027.",
        "Summary: Ruth wants an estimate for aeration.",
        "Intent: booking request.",
        "Duration: 3 m 12 s.",
        "Appointment: Sun 14 Mar 12:00 CDT (estimate).",
    ]
    (booked,) = desk.state.rows("appointments")
    assert (booked["customer_id"], booked["type"], booked["status"]) == (ruth, "estimate", "booked")
    assert booked["start"] == "2027-03-14T17:00:00+00:00"
    assert desk.results("after-call") == ["done"]
    check_invariants()


def test_the_confirmation_leaves_at_once_and_at_any_hour(desk: Desk) -> None:
    lead(desk)
    desk.at("2027-03-10T22:30")
    call_ended(desk)
    (letter,) = desk.letters()
    assert (letter["To"], letter["Subject"]) == ("ruth@example.com", "Your appointment: Sun 14 Mar 12:00 CDT")
    assert "(estimate)" in text_of(letter)
    assert desk.questions() == []


def test_a_caller_who_gave_no_name_gets_the_confirmation_too(desk: Desk) -> None:
    call_ended(desk, caller_name=None)
    (letter,) = desk.letters()
    assert text_of(letter).startswith("Hello,\n")


def test_the_reminders_come_a_day_and_an_hour_before_on_the_clock_that_changes(desk: Desk) -> None:
    lead(desk)
    call_ended(desk)
    assert [run.status for run in desk.runs("appointment-reminder")] == ["waiting", "waiting"]
    desk.at("2027-03-13T10:59")
    assert len(desk.letters()) == 1
    desk.at("2027-03-13T11:00")
    assert subjects(desk)[1:] == ["Reminder: your appointment on Sun 14 Mar 12:00 CDT"]
    desk.at("2027-03-14T10:59")
    assert len(desk.letters()) == 2
    desk.at("2027-03-14T11:00")
    assert len(desk.letters()) == 3
    desk.at("2027-03-14T13:00")
    assert len(desk.letters()) == 3
    assert desk.results("appointment-reminder") == ["sent", "sent"]


def test_booked_three_hours_ahead_has_only_the_reminder_an_hour_before(desk: Desk) -> None:
    lead(desk)
    call_ended(desk, appointment_start="2027-03-10T13:00")
    assert desk.results("appointment-reminder") == ["too_late", "waiting"]
    desk.at("2027-03-10T12:00")
    assert subjects(desk) == [
        "Your appointment: Wed 10 Mar 13:00 CST",
        "Reminder: your appointment on Wed 10 Mar 13:00 CST",
    ]


def test_a_cancelled_appointment_has_no_reminder_when_that_is_told(desk: Desk) -> None:
    lead(desk)
    call_ended(desk)
    (booked,) = desk.state.rows("appointments")
    desk.firm.hears("appointment_cancelled", "evt-9", appointment_id="app_9999")
    assert desk.results("appointment-reminder") == ["waiting", "waiting"]
    desk.firm.hears("appointment_cancelled", "evt-10", appointment_id=booked["id"])
    assert desk.results("appointment-reminder") == ["cancelled_there", "cancelled_there"]
    desk.at("2027-03-14T11:00")
    assert len(desk.letters()) == 1


def test_a_cancelled_appointment_has_no_reminder_when_only_the_crm_knows(desk: Desk) -> None:
    lead(desk)
    call_ended(desk)
    (booked,) = desk.state.rows("appointments")
    desk.state.update("appointments", booked["id"], {"status": "cancelled"}, "cancel")
    desk.at("2027-03-13T11:00")
    desk.at("2027-03-14T11:00")
    assert len(desk.letters()) == 1
    assert desk.results("appointment-reminder") == ["cancelled_there", "cancelled_there"]


def test_a_moved_appointment_is_reminded_of_at_its_new_hour(desk: Desk) -> None:
    lead(desk)
    call_ended(desk)
    (booked,) = desk.state.rows("appointments")
    moved = {"start": "2027-03-16T15:00:00+00:00", "end": "2027-03-16T16:00:00+00:00"}
    desk.state.update("appointments", booked["id"], moved, "move")
    desk.at("2027-03-13T11:00")
    assert len(desk.letters()) == 1
    desk.at("2027-03-15T10:00")
    assert subjects(desk)[1:] == ["Reminder: your appointment on Tue 16 Mar 10:00 CDT"]


def test_without_an_address_staff_are_told_to_confirm_and_to_remind(desk: Desk) -> None:
    ruth = lead(desk, email=None)
    call_ended(desk, caller_email=None)
    desk.at("2027-03-13T11:00")
    desk.at("2027-03-14T11:00")
    assert desk.letters() == []
    told = [text for text in desk.told("#leads-incoming") if "by phone" in text]
    when = f"customer {ruth}, Sun 14 Mar 12:00 CDT. There is no mail address."
    assert told == [
        f"Please confirm by phone: {when}",
        *([f"Please remind by phone: {when[:-1]}, or no mail is wanted."] * 2),
    ]
    assert desk.results("appointment-reminder") == ["staff_told", "staff_told"]


def test_the_address_that_only_the_crm_has_gets_one_confirmation(desk: Desk) -> None:
    lead(desk, email="olson@example.com")
    call_ended(desk, caller_email=None)
    assert [letter["To"] for letter in desk.letters()] == ["olson@example.com"]


def test_without_a_number_a_person_is_asked_and_what_is_no_number_is_asked_again(desk: Desk) -> None:
    ruth = lead(desk)
    call_ended(desk, from_number=None)
    assert subjects(desk) == ["Your appointment: Sun 14 Mar 12:00 CDT"]
    assert desk.state.rows("appointments") == []
    desk.answer("number", subject="Ruth", text="it was Ruth")
    desk.answer("number", subject="Ruth", text="(612) 555-0134")
    assert len(desk.notes(ruth)) == 1
    assert len(desk.state.rows("appointments")) == 1
    assert len(desk.letters()) == 1


def test_a_call_without_a_number_may_be_noted_by_hand(desk: Desk) -> None:
    call_ended(desk, from_number="anonymous")
    desk.answer("noted")
    assert desk.results("after-call") == ["by_hand"]
    assert desk.state.rows("customers") == []


def test_of_an_outgoing_call_the_customer_is_the_one_who_was_called(desk: Desk) -> None:
    ruth = lead(desk)
    call_ended(desk, direction="outbound", from_number="+16125550100", to_number="+16125550134")
    assert len(desk.notes(ruth)) == 1
    assert len(desk.state.rows("customers")) == 1


def test_a_caller_who_is_known_by_mail_alone_keeps_the_name(desk: Desk) -> None:
    ruth = lead(desk, phone=None, email="ruth@example.com")
    call_ended(desk, caller_name="R.")
    (customer,) = desk.state.rows("customers")
    assert (customer["id"], customer["name"], customer["phone"]) == (ruth, "Ruth Olson", "+16125550134")


def test_an_unknown_caller_becomes_a_lead(desk: Desk) -> None:
    call_ended(desk, caller_name=None)
    (customer,) = desk.state.rows("customers")
    assert (customer["name"], customer["phone"]) == ("Unknown caller", "+16125550134")
    assert (customer["status"], customer["source"]) == ("lead", "phone")
    assert len(desk.notes(customer["id"])) == 1


def test_a_number_that_two_customers_have_is_for_a_person(desk: Desk) -> None:
    ruth = lead(desk)
    lead(desk, 8, name="Rolf Olson", email="rolf@example.com")
    call_ended(desk)
    assert desk.state.rows("appointments") == []
    (draft,) = desk.drafts()
    assert "3 m 12 s" in draft["text"]
    desk.put("customers", {**desk.state.rows("customers")[1], "phone": "+16125550199"})
    desk.answer("again")
    assert len(desk.notes(ruth)) == 1
    assert len(desk.state.rows("appointments")) == 1


def test_a_caller_who_wants_a_time_and_has_none_is_told_to_staff_with_free_ones(desk: Desk) -> None:
    ruth = lead(desk)
    for number, (start, end) in enumerate((("15:00", "16:30"), ("17:00", "18:00")), 1):
        times = {"start": f"2027-03-10T{start}:00-06:00", "end": f"2027-03-10T{end}:00-06:00"}
        row = {"id": f"app_{number}", "customer_id": ruth, "type": "visit", "status": "booked"}
        desk.put("appointments", {**row, **times})
    desk.at("2027-03-10T13:40")
    call_ended(desk, appointment_start=None)
    assert desk.told("#leads-incoming") == [
        f"Customer {ruth} called for an appointment and has none."
        " Free: Wed 10 Mar 14:00 CST, Thu 11 Mar 09:00 CST, Thu 11 Mar 09:30 CST"
    ]
    assert desk.letters() == []


def test_two_appointments_at_a_time_are_told_to_staff(desk: Desk) -> None:
    ruth = lead(desk)
    other = {"id": "app_1", "customer_id": desk.customer(9), "type": "visit", "status": "booked"}
    times = {"start": "2027-03-14T16:30:00+00:00", "end": "2027-03-14T17:30:00+00:00"}
    desk.put("appointments", {**other, **times})
    call_ended(desk)
    assert f"the new one is with customer {ruth}" in desk.told("#leads-incoming")[0]
    assert len(desk.runs("appointment-reminder")) == 2


@pytest.mark.parametrize("words", ["03/04/2027 12:00 PM", "Sunday at noon"])
def test_an_appointment_that_cannot_be_read_is_in_the_note_and_before_the_team(
    desk: Desk, words: str
) -> None:
    ruth = lead(desk)
    call_ended(desk, appointment_start=words)
    assert f"agreed for “{words}”" in desk.notes(ruth)[0]
    (told,) = desk.told("#leads-incoming")
    assert told.startswith(
        f"An appointment was agreed with customer {ruth} and could not be read: see the note."
    )
    assert (words in told, desk.letters(), desk.state.rows("appointments")) == (False, [], [])


def test_a_second_appointment_of_one_customer_is_told_with_both_times(desk: Desk) -> None:
    ruth = lead(desk)
    call_ended(desk)
    assert not [text for text in desk.told("#leads-incoming") if "replaces" in text]
    call_ended(desk, call_id="call_2", intent="reschedule", appointment_start="2027-03-15T12:00")
    (told,) = [text for text in desk.told("#leads-incoming") if "replaces" in text]
    both = "Mon 15 Mar 12:00 CDT, and has Sun 14 Mar 12:00 CDT too"
    assert told.startswith(f"Customer {ruth} now has {both}.")
    old = desk.state.rows("appointments")[0]
    desk.state.update("appointments", old["id"], {"status": "cancelled"}, "cancel")
    desk.at("2027-03-14T12:00")
    desk.at("2027-03-15T11:00")
    assert [subject.split(" on ")[1] for subject in subjects(desk) if "Reminder" in subject] == [
        "Mon 15 Mar 12:00 CDT"
    ] * 2


def test_a_customers_appointment_that_is_over_or_cancelled_is_no_second_one(desk: Desk) -> None:
    ruth = lead(desk)
    for number, (day, status) in enumerate((("2027-03-09", "booked"), ("2027-03-20", "cancelled")), 1):
        times = {"start": f"{day}T15:00:00-06:00", "end": f"{day}T16:00:00-06:00"}
        row = {"id": f"app_{number}", "customer_id": ruth, "type": "visit", "status": status}
        desk.put("appointments", {**row, **times})
    call_ended(desk)
    assert not [text for text in desk.told("#leads-incoming") if "replaces" in text]


@pytest.mark.parametrize("more", [{"summary": None, "intent": None, "duration_seconds": None}])
def test_a_call_of_which_little_is_known_is_noted_all_the_same(desk: Desk, more: dict[str, Any]) -> None:
    ruth = lead(desk)
    call_ended(desk, appointment_start="soon", **more)
    (note,) = desk.notes(ruth)
    assert note.split(" [ref")[0].splitlines()[1:] == [
        "Summary: no summary",
        "Intent: other.",
        "Duration: unknown.",
        "Appointment: agreed for “soon”, which could not be read (estimate).",
    ]
    assert desk.state.rows("appointments") == []


def test_while_the_crm_is_down_the_confirmation_leaves_and_the_rest_is_done_once_afterwards(
    desk: Desk,
) -> None:
    ruth = lead(desk)
    health.hold("crm", "ana")
    call_ended(desk, times=3)
    assert subjects(desk) == ["Your appointment: Sun 14 Mar 12:00 CDT"]
    assert desk.notes(ruth) == []
    desk.at("2027-03-10T11:00")
    health.release("crm", "ana")
    health.forget()
    desk.resume()
    assert len(desk.notes(ruth)) == 1
    assert len(desk.state.rows("customers")) == 1
    assert len(desk.state.rows("appointments")) == 1
    assert len(desk.letters()) == 1
    assert desk.results("after-call") == ["done"]


@pytest.mark.parametrize("desk", ["rest"], indirect=True)
def test_a_crm_that_fails_for_an_hour_is_one_alert_and_nothing_is_written_twice(desk: Desk) -> None:
    ruth = lead(desk)
    address = desk.settings.CRM_BASE_URL
    desk.settings.CRM_BASE_URL = NOWHERE
    call_ended(desk, times=3)
    for minute in range(1, 60, 7):
        desk.at(f"2027-03-10T10:{minute:02}")
    assert subjects(desk) == ["Your appointment: Sun 14 Mar 12:00 CDT"]
    (alert,) = desk.told("#escalations")
    assert "CRM" in alert
    desk.settings.CRM_BASE_URL = address
    desk.at("2027-03-10T11:05")
    for minute in range(6, 20, 3):
        desk.at(f"2027-03-10T11:{minute:02}")
    assert desk.results("after-call") == ["done"]
    assert len(desk.notes(ruth)) == 1
    assert len(desk.state.rows("customers")) == 1
    assert len(desk.state.rows("appointments")) == 1
    assert len(desk.letters()) == 1
