"""Steps after a phone call."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.outcome import Branch, Done
from tests.tasks.steps import ListedCrm, customer, run, step_run

NUMBER = "+16125550134"


def read(**call: Any) -> dict[str, Any]:
    outcome = run("calls.read", step_run(), **call)
    assert isinstance(outcome, Done)
    return dict(outcome.values)


@pytest.mark.parametrize(
    ("seconds", "spoken"),
    [
        (192, "3 m 12 s"),
        (0, "0 s"),
        (59.6, "1 m"),
        (3600, "1 h"),
        (3792, "1 h 3 m 12 s"),
        (None, "unknown"),
        (-1, "unknown"),
    ],
)
def test_a_length_is_told_as_people_say_it(seconds: float | None, spoken: str) -> None:
    assert f"Duration: {spoken}." in read(duration_seconds=seconds)["note"]


@pytest.mark.parametrize(
    ("call", "phone"),
    [
        ({"from_number": "612-555-0134"}, NUMBER),
        ({"direction": "inbound", "from_number": NUMBER, "to_number": "+16125550100"}, NUMBER),
        ({"direction": "outbound", "from_number": "+16125550100", "to_number": NUMBER}, NUMBER),
        ({"from_number": "anonymous"}, None),
        ({"from_number": ""}, None),
        ({}, None),
    ],
)
def test_the_number_is_the_customers(call: dict[str, str], phone: str | None) -> None:
    values = read(**call)
    assert (values["customer_phone"], values["has_phone"]) == (phone, phone is not None)


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        ("2099-03-14T12:00", None, ("2099-03-14T17:00:00+00:00", "2099-03-14T18:00:00+00:00")),
        ("2099-03-14T12:00", "2099-03-14T12:30", ("2099-03-14T17:00:00+00:00", "2099-03-14T17:30:00+00:00")),
        ("2099-03-14T12:00", "2099-03-14T11:00", ("2099-03-14T17:00:00+00:00", "2099-03-14T18:00:00+00:00")),
        ("2099-03-14T12:00Z", None, ("2099-03-14T12:00:00+00:00", "2099-03-14T13:00:00+00:00")),
        ("2001-03-14T12:00", None, (None, None)),
        ("2099-03-14 12:00 PM", None, ("2099-03-14T17:00:00+00:00", "2099-03-14T18:00:00+00:00")),
        ("03/14/2099 12:00 PM", None, ("2099-03-14T17:00:00+00:00", "2099-03-14T18:00:00+00:00")),
        ("Sat, March 14, 2099 at 3 pm", None, ("2099-03-14T20:00:00+00:00", "2099-03-14T21:00:00+00:00")),
        (None, None, (None, None)),
    ],
)
def test_an_appointment_is_a_time_that_lies_ahead(start: str | None, end: str | None, found: Any) -> None:
    values = read(appointment_start=start, appointment_end=end, intent="booking_request")
    assert (values["start"], values["end"]) == found
    assert values["has_appointment"] is (found[0] is not None)
    assert values["wants_appointment"] is (found[0] is None)
    assert ("Appointment:" in values["note"]) is (found[0] is not None)


@pytest.mark.parametrize(
    "words",
    [
        "Sunday at noon",
        "03/04/2099 12:00 PM",  # in March, or in April
        "2099-03-14",  # at which hour?
        "3/14 12:00",
        "Mon 03/14/2099 12:00 PM",  # a Saturday
        "03/14/2099 12:00 PM EST",
        "Sat Mar 14 2099 12:00 GMT+0200",
        "4071754800",
        "03/14/2099 10:00-12:00",  # from ten to twelve, not in a zone twelve hours off
        "2099-03-14 10:00-11:00",
        "March 14, 2099 10-11am",
        "99-03-14 12:00",
    ],
)
def test_a_time_that_cannot_be_read_in_one_way_only_is_agreed_and_noted_in_its_own_words(words: str) -> None:
    values = read(appointment_start=f" {words} ", intent="booking_request", appointment_type="estimate")
    assert (values["unread"], values["has_appointment"], values["wants_appointment"]) == (True, False, False)
    assert (values["start"], values["when"]) == (None, "")
    wanted = f"Appointment: agreed for “{words}”, which could not be read (estimate)."
    assert values["note"].splitlines()[-1] == wanted


@settings(deadline=None)
@given(st.text(max_size=200))
def test_whatever_stands_for_a_time_is_read_or_noted_on_one_line(words: str) -> None:
    values = read(appointment_start=words)
    assert len(values["note"].split("\n")) <= 5
    assert not values["unread"] or words.split()


@given(st.text(max_size=60))
def test_an_intent_that_is_no_code_is_not_kept_readable(intent: str) -> None:
    code = read(intent=intent)["intent"]
    assert code == "other" or code == intent.strip().lower().replace(" ", "_")
    assert code.replace("_", "").replace("-", "").isalnum()


@given(st.text())
def test_any_summary_is_one_line_of_the_note(summary: str) -> None:
    lines = read(summary=summary)["note"].split("\n")
    assert len(lines) == 4
    assert lines[1].startswith("Summary: ")


# -- the caller ----------------------------------------------------------------------------------------


class Mapped(ListedCrm):
    """A CRM of customers that has the field map of the mock."""

    name = "mock"


def caller(*known: Any, **params: Any) -> tuple[Any, ListedCrm]:
    crm = Mapped(list(known))
    given = {"phone": NUMBER, "several": "which", "remark": "Last call.", **params}
    return run("calls.caller", step_run(crm=crm), **given), crm


def test_a_known_caller_keeps_name_and_address_and_gets_the_remark() -> None:
    ruth = customer(1, phone=NUMBER, name="Ruth Olson", email="ruth@example.test")
    outcome, crm = caller(ruth, name="Rut", email="other@example.test")
    assert outcome.values["was"] == "known"
    assert outcome.values["crm_customer_id"] == "cus_1"
    assert outcome.values["customer_email"] == "ruth@example.test"
    assert [(verb, dict(fields)) for verb, _, fields, _ in crm.written] == [
        ("update", {"id": "cus_1", "notes": "Last call."})
    ]


def test_an_unknown_caller_is_created_as_a_lead() -> None:
    outcome, crm = caller(name=None, email="ruth@example.test")
    assert outcome.values["was"] == "new"
    ((verb, entity, fields, key),) = crm.written
    assert (verb, entity) == ("create", "customers")
    assert fields == {
        "phone": NUMBER,
        "notes": "Last call.",
        "email": "ruth@example.test",
        "name": "Unknown caller",
        "source": "phone",
        "status": "lead",
    }
    assert key.endswith(":caller")


def test_a_number_or_an_address_that_several_have_is_for_a_person() -> None:
    twice = customer(1, phone=NUMBER), customer(2, phone=NUMBER)
    outcome, crm = caller(*twice)
    assert outcome == Branch(to="which", values={"was": "several"})
    assert crm.written == []


def test_what_is_no_number_is_asked_again() -> None:
    outcome = run("calls.number", step_run(), text="it was Ruth", otherwise="who")
    assert outcome == Branch(to="who", why="no_number")
    assert run("calls.number", step_run(), text=" (612) 555-0134 ", otherwise="who") == Done(
        values={"customer_phone": NUMBER}
    )


def test_the_remark_has_the_day_of_the_call() -> None:
    assert read(intent="pricing question")["remark"] == "Last call 15 Feb 2027: pricing question."
