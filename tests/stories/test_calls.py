"""What follows a phone call of Wednesday, 10 March 2027: the story on real processes.

Most of the calls come at ten; what was agreed in them is for the days until the clocks change on
Sunday the 14th, and after. Each caller is somebody else.
"""

from dataclasses import replace
from typing import Any

import pytest

from tasks.mock.slack import Said
from tests.stories.firm import CHICAGO, COLLEAGUE, Firm
from tests.stories.people import address, person, subjects
from tests.stories.stage import Row, letter_text

CALL, CONFIRM, REMIND = "after-call", "appointment-confirmation", "appointment-reminder"
INCOMING, ESCALATIONS = "#leads-incoming", "#escalations"
WEDNESDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = (f"2027-03-{day}" for day in range(10, 15))

# Who calls: the end of the number, and when the appointment is, if any.
AGREED: dict[str, tuple[str, str | None]] = {
    "Ruth": ("0134", "2027-03-14T12:00"),
    "Hank": ("0135", "2027-03-10T13:00"),
    "Carla": ("0136", "2027-03-14T09:00"),
    "Chris": ("0137", "2027-03-14T08:00"),
    "Mona": ("0138", "2027-03-14T07:00"),
    "Greta": ("0139", "2027-03-14T11:00"),
    "Adam": ("0140", "2027-03-14T11:30"),
    "Fred": ("0141", None),
    "Tom": ("0142", "2027-03-16T14:00"),
    "Nina": ("0143", "2027-03-16T13:00"),
    "Noel": ("", "2027-03-16T15:00"),
    "Xena": ("", "2027-03-16T16:00"),
    "Rolf": ("0144", "2027-03-16T09:00"),
    "Chad": ("0145", "2027-03-16T10:00"),
    "Cora": ("0146", "2027-03-16T11:00"),
}
ENDS = {"Greta": "2027-03-14T11:30", "Adam": "2027-03-14T12:00"}  # after an hour where none is told
KNOWN: dict[str, Row] = {  # who was in the CRM before
    "Ruth": {"name": "Ruth Olson", "phone": "612-555-0134", "email": None},
    "Adam": {"email": None},
    "Tom": {},
    "Nina": {"phone": "(612) 555.0143"},
}
AT_TEN = tuple(name for name in AGREED if name not in ("Fred", "Rolf", "Chad", "Cora"))
NO_NUMBER = ("Nina", "Noel", "Xena")
BUSY = (("10:30", "12:00"), ("14:00", "17:00"))  # on Wednesday, beside Hank's visit


@pytest.fixture(scope="module", autouse=True)
def _opened(firm: Firm) -> None:
    firm.opens(WEDNESDAY, "10:00", CONFIRM, REMIND, CALL, customers=0)
    firm.state.load("customers", [row(name, **fields) for name, fields in KNOWN.items()])
    firm.state.load("customers", [row("Tom", id="cus_tom_2", name="Tom's wife")])
    visits = [{"start": f"{WEDNESDAY}T{a}:00-06:00", "end": f"{WEDNESDAY}T{b}:00-06:00"} for a, b in BUSY]
    firm.state.load(
        "appointments",
        [
            {"id": f"app_90{number}", "customer_id": "cus_adam", "type": "visit", "status": "booked", **visit}
            for number, visit in enumerate(visits)
        ],
    )
    firm.hears_all("call_ended", *(call(name) for name in AT_TEN if name != "Ruth"))
    firm.hears("call_ended", "evt-ruth", times=2, **call("Ruth"))
    firm.hears("call_ended", "evt-ruth-again", **call("Ruth"))  # another event, the same call
    firm.at(WEDNESDAY, "10:10")


# -- who calls, and what becomes of it ----------------------------------------------------------------


def row(name: str, /, **fields: Any) -> Row:
    """Return the CRM's row of somebody who was there before."""
    known = {"name": name, "status": "lead", "phone": f"+1612555{AGREED[name][0]}"}
    return person(name, **{**known, **fields})


def call(name: str) -> Row:
    """Return what the phone service tells of a call of this person."""
    end, start = AGREED[name]
    known = {
        "call_id": f"call-{name}",
        "direction": "inbound",
        "from_number": None if name in NO_NUMBER else f"+1612555{end}",
        "to_number": "+16125550100",
        "duration_seconds": 192,
        "summary": f"{name} wants an estimate for aeration.",
        "intent": "booking_request",
        "caller_name": name,
        "caller_email": None if name == "Adam" else address(name),
        "appointment_start": start,
        "appointment_end": ENDS.get(name),
        "appointment_type": "estimate",
    }
    return {key: value for key, value in known.items() if value is not None}


def one(firm: Firm, name: str) -> Row:
    """Return this person's row in the CRM, of which there is one."""
    (found,) = entered(firm, name)
    return found


def entered(firm: Firm, name: str) -> list[Row]:
    mine = {address(name), f"cus_{name.lower()}"}
    return [found for found in firm.state.rows("customers") if mine & {found["email"], found["id"]}]


def appointments(firm: Firm, name: str) -> list[Row]:
    customer = one(firm, name)["id"]
    rows = [found for found in firm.state.rows("appointments") if found["customer_id"] == customer]
    return [found for found in rows if not found["id"].startswith("app_90")]


def appointment(firm: Firm, name: str) -> Row:
    (found,) = appointments(firm, name)
    return found


def reminders(firm: Firm, name: str) -> list[str]:
    """Return what the runs that remind this person have come to: a day before, an hour before."""
    booked = appointment(firm, name)["id"]
    runs = [run for run in firm.runs(REMIND) if booked in str(run["context"])]
    return [run["result"] if run["status"] == "completed" else run["status"] for run in runs]


def question(firm: Firm, name: str) -> Said:
    (asks,) = [said for said in firm.said_in(INCOMING, f"*{name}*") if "Open the page" in said.buttons]
    return asks


def counted(firm: Firm, channel: str) -> list[Said]:
    """Return the messages that count what waits: reminders, and calls for an answer."""
    return [said for said in firm.said_in(channel) if said.text.startswith("1 question waits")]


# -- the story -----------------------------------------------------------------------------------------


def test_a_call_updates_the_lead_and_adds_one_note_and_the_appointment(firm: Firm) -> None:
    ruth = one(firm, "Ruth")
    assert (ruth["id"], ruth["name"], ruth["phone"]) == ("cus_ruth", "Ruth Olson", "612-555-0134")
    assert ruth["notes"] == "Last call 10 Mar 2027: booking request."
    (note,) = firm.notes("cus_ruth")
    assert note.split(" [ref")[0].splitlines() == [
        "phone_call: 10 Mar 2027.",
        "Summary: Ruth wants an estimate for aeration.",
        "Intent: booking request.",
        "Duration: 3 m 12 s.",
        "Appointment: Sun 14 Mar 12:00 CDT (estimate).",
    ]
    booked = appointment(firm, "Ruth")
    assert (booked["start"], booked["type"]) == ("2027-03-14T17:00:00+00:00", "estimate")
    assert len(firm.said_in(INCOMING, "A call was noted: customer cus_ruth (known)")) == 1


def test_the_confirmation_left_at_once(firm: Firm) -> None:
    (mail,) = firm.mails(address("Ruth"))
    assert mail["Subject"] == "Your appointment: Sun 14 Mar 12:00 CDT"
    for kind in ("text/plain", "text/html"):
        assert "Sun 14 Mar 12:00 CDT" in letter_text(mail, kind)
    assert "10 Mar 2027 10:00" in f"{mail['Date'].datetime.astimezone(CHICAGO):%d %b %Y %H:%M}"


def test_an_unknown_caller_is_a_new_lead(firm: Firm) -> None:
    hank = one(firm, "Hank")
    assert (hank["name"], hank["phone"], hank["status"]) == ("Hank", "+16125550135", "lead")
    assert len(firm.notes(hank["id"])) == 1


def test_free_times_are_only_free_ones_inside_business_hours(firm: Firm) -> None:
    firm.hears("call_ended", "evt-fred", **call("Fred"))
    (told,) = firm.said_in(INCOMING, "called for an appointment and has none")
    assert told.text.endswith("Free: Wed 10 Mar 12:00 CST, Wed 10 Mar 17:00 CST, Thu 11 Mar 09:00 CST")
    assert (appointments(firm, "Fred"), subjects(firm, "Fred")) == ([], [])


def test_without_an_address_staff_are_asked_to_confirm(firm: Firm) -> None:
    (told,) = firm.said_in(INCOMING, "Please confirm by phone")
    assert "Please confirm by phone: customer cus_adam, Sun 14 Mar 11:30 CDT." in told.text


def test_without_a_number_a_person_is_asked_and_what_is_none_is_asked_again(firm: Firm) -> None:
    assert subjects(firm, "Nina") == ["Your appointment: Tue 16 Mar 13:00 CDT"]
    assert appointments(firm, "Nina") == []
    firm.edits(button="Give the number", on=question(firm, "Nina"), text="it was Nina")
    first, again = firm.said_in(INCOMING, "*Nina*")
    assert (list(first.buttons), appointments(firm, "Nina")) == ([], [])
    firm.edits(button="Give the number", on=again, text="612 555 0143")
    assert len(firm.notes("cus_nina")) == 1
    assert appointment(firm, "Nina")["start"] == "2027-03-16T18:00:00+00:00"
    assert len(subjects(firm, "Nina")) == 1


def test_declined_a_call_that_a_person_has_noted_writes_nothing(firm: Firm) -> None:
    asks = question(firm, "Noel")
    before = replace(asks)  # the message as it stands on another phone
    firm.presses("I have noted it", on=asks)
    firm.presses("Give the number", on=before, by=COLLEAGUE)
    assert "owner chose “I have noted it” on 10 March 2027 at 10:1" in asks.text
    assert entered(firm, "Noel") == []
    assert subjects(firm, "Noel") == ["Your appointment: Tue 16 Mar 15:00 CDT"]
    assert "by_hand" in firm.results(CALL)


def test_changed_meanwhile_two_with_one_number_are_put_right_and_looked_at_again(firm: Firm) -> None:
    assert (firm.notes("cus_tom"), firm.notes("cus_tom_2")) == ([], [])
    firm.state.update("customers", "cus_tom_2", {"phone": "+16125550199", "email": "tom-2@example.test"})
    firm.presses("Look again", on=question(firm, "Tom"))
    assert (len(firm.notes("cus_tom")), len(firm.notes("cus_tom_2"))) == (1, 0)
    assert len(appointments(firm, "Tom")) == 1
    assert len(subjects(firm, "Tom")) == 1


# -- the firm's other side is away -----------------------------------------------------------------


def test_mail_refused_is_told_and_the_rest_is_done(firm: Firm) -> None:
    firm.post.refuses.add(address("Rolf"))
    firm.hears("call_ended", "evt-rolf", **call("Rolf"))
    assert firm.post.refused[address("Rolf")] == 1
    assert (len(firm.notes(one(firm, "Rolf")["id"])), len(appointments(firm, "Rolf"))) == (1, 1)
    assert firm.results(CONFIRM)["paused"] == 1
    (told,) = firm.said_in(ESCALATIONS, "Appointment confirmation")
    assert told.text.startswith("Appointment confirmation stopped at “Send it”.")
    assert "The mail server refuses the customer's address (550)." in told.text


def test_chat_down_everything_else_goes_on_and_the_team_is_told_afterwards(firm: Firm) -> None:
    firm.slack.fail(status=503)
    firm.hears("call_ended", "evt-chad", **call("Chad"))
    chad = one(firm, "Chad")["id"]
    assert (len(subjects(firm, "Chad")), len(firm.notes(chad)), len(appointments(firm, "Chad"))) == (1, 1, 1)
    assert firm.said_in(INCOMING, chad) == []
    firm.slack.recover()
    firm.at(WEDNESDAY, "10:35")
    assert len(firm.said_in(INCOMING, f"A call was noted: customer {chad}")) == 1


def test_crm_down_for_an_hour_the_confirmation_leaves_and_the_rest_is_done_once(firm: Firm) -> None:
    firm.at(WEDNESDAY, "10:40").crm_ends()
    firm.hears("call_ended", "evt-cora", times=3, **call("Cora"))
    assert subjects(firm, "Cora") == ["Your appointment: Tue 16 Mar 11:00 CDT"]
    firm.at(WEDNESDAY, "11:30")
    (alert,) = firm.said_in(ESCALATIONS, "The CRM")
    assert alert.text.startswith("The CRM does not answer; runs that need it wait.")
    firm.crm_begins()
    firm.at(WEDNESDAY, "11:45")
    firm.at(WEDNESDAY, "11:48")
    cora = one(firm, "Cora")["id"]
    assert (len(firm.notes(cora)), len(appointments(firm, "Cora")), len(subjects(firm, "Cora"))) == (1, 1, 1)
    (_, again) = firm.said_in(ESCALATIONS, "The CRM")
    assert "1 run that waited for it goes on." in again.text


# -- before the appointment ---------------------------------------------------------------------------


def test_booked_three_hours_ahead_has_only_the_reminder_an_hour_before(firm: Firm) -> None:
    assert reminders(firm, "Hank") == ["too_late", "waiting"]
    firm.at(WEDNESDAY, "12:00")
    assert subjects(firm, "Hank") == [
        "Your appointment: Wed 10 Mar 13:00 CST",
        "Reminder: your appointment on Wed 10 Mar 13:00 CST",
    ]


def test_expired_a_call_whose_number_nobody_gives_stops_after_two_days_and_calls(firm: Firm) -> None:
    asks = question(firm, "Xena")
    firm.at(WEDNESDAY, "12:15")
    firm.at(THURSDAY, "06:15")
    assert (len(counted(firm, INCOMING)), len(counted(firm, ESCALATIONS))) == (2, 0)
    firm.at(THURSDAY, "10:15")
    assert (len(counted(firm, INCOMING)), len(counted(firm, ESCALATIONS))) == (2, 1)
    firm.at(FRIDAY, "10:15")
    (run,) = [run for run in firm.runs(CALL) if run["status"] == "paused"]
    assert run["reason"] == "expired"
    assert entered(firm, "Xena") == []
    assert subjects(firm, "Xena") == ["Your appointment: Tue 16 Mar 16:00 CDT"]
    assert asks.text == "After a call: Nobody answered in time; the question ended on 12 March 2027 at 10:00."
    (told,) = firm.said_in(ESCALATIONS, "nobody answered in time")
    assert told.text.startswith("After a call stopped at “Ask a person who called”.")


@pytest.fixture(scope="module")
def _friday(firm: Firm) -> None:
    """On Friday one appointment is cancelled, one is cancelled where only the CRM knows, one is moved."""
    firm.at(FRIDAY, "12:00")
    firm.hears("appointment_cancelled", "evt-cancel", appointment_id=appointment(firm, "Carla")["id"])
    firm.state.update("appointments", appointment(firm, "Chris")["id"], {"status": "cancelled"})
    moved = {"start": "2027-03-15T16:00:00+00:00", "end": "2027-03-15T17:00:00+00:00"}
    firm.state.update("appointments", appointment(firm, "Mona")["id"], moved)
    firm.state.remove("customers", one(firm, "Greta")["id"])


@pytest.mark.usefixtures("_friday")
def test_the_reminders_come_a_day_and_an_hour_before_on_the_clock_that_changes(firm: Firm) -> None:
    assert (reminders(firm, "Ruth"), len(subjects(firm, "Ruth"))) == (["waiting", "waiting"], 1)
    firm.at(SATURDAY, "10:59")
    assert len(subjects(firm, "Ruth")) == 1
    firm.at(SATURDAY, "11:00")
    assert subjects(firm, "Ruth")[1:] == ["Reminder: your appointment on Sun 14 Mar 12:00 CDT"]
    firm.at(SUNDAY, "10:59")
    assert len(subjects(firm, "Ruth")) == 2
    firm.at(SUNDAY, "11:00")
    assert subjects(firm, "Ruth")[1:] == ["Reminder: your appointment on Sun 14 Mar 12:00 CDT"] * 2
    assert reminders(firm, "Ruth") == ["sent", "sent"]


def test_cancelled_none_is_reminded(firm: Firm) -> None:
    for name in ("Carla", "Chris"):
        assert reminders(firm, name) == ["cancelled_there"] * 2
        assert len(subjects(firm, name)) == 1


def test_a_moved_appointment_is_reminded_of_at_its_new_hour(firm: Firm) -> None:
    assert subjects(firm, "Mona")[1:] == ["Reminder: your appointment on Mon 15 Mar 11:00 CDT"]
    assert reminders(firm, "Mona") == ["sent", "waiting"]


def test_customer_gone_nobody_is_reminded(firm: Firm) -> None:
    assert len(subjects(firm, "Greta")) == 1
    assert firm.results(REMIND)["customer_gone"] == 2


def test_without_an_address_staff_are_asked_to_remind(firm: Firm) -> None:
    assert (
        len(firm.said_in(INCOMING, "Please remind by phone: customer cus_adam, Sun 14 Mar 11:30 CDT.")) == 2
    )
    assert reminders(firm, "Adam") == ["staff_told", "staff_told"]


def test_no_mail_left_twice(firm: Firm) -> None:
    assert set(firm.post.ids.values()) == {1}


CELLS = {
    "declined": test_declined_a_call_that_a_person_has_noted_writes_nothing,
    "edited": test_without_a_number_a_person_is_asked_and_what_is_none_is_asked_again,
    "expired": test_expired_a_call_whose_number_nobody_gives_stops_after_two_days_and_calls,
    "customer gone": test_customer_gone_nobody_is_reminded,
    "changed meanwhile": test_changed_meanwhile_two_with_one_number_are_put_right_and_looked_at_again,
    "CRM down": test_crm_down_for_an_hour_the_confirmation_leaves_and_the_rest_is_done_once,
    "chat down": test_chat_down_everything_else_goes_on_and_the_team_is_told_afterwards,
    "mail refused": test_mail_refused_is_told_and_the_rest_is_done,
}
