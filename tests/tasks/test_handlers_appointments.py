"""Steps about appointments: what is free, what is booked, how one stands."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pytest_django import Settings

from crm.provider import Page
from crm.records import Appointment
from sopengine import clock
from sopengine.errors import DataError
from tests.tasks.steps import ListedCrm, look, run, step_run

CHICAGO = ZoneInfo("America/Chicago")


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=CHICAGO)


class Book(ListedCrm):
    """A CRM that has appointments only, and keeps what it is asked for."""

    def page(self, entity: str, filters: Any, cursor: str = "") -> Page[Any]:
        """Return those that begin in the span that was asked for."""
        self.listed.append((entity, dict(filters), cursor))
        booked: list[Any] = list(self.records)
        return Page(tuple(one for one in booked if filters["from"] <= one.start < filters["to"]))

    def create(self, entity: str, attributes: Any, key: str) -> Any:
        """Create once per key."""
        if key not in self.keys:
            self.keys[key] = appointment(len(self.records) + 1, **attributes)
            self.records.append(self.keys[key])
        return self.keys[key]


def appointment(number: int, **fields: Any) -> Appointment:
    usual = {"customer_id": "cus_1", "type": "visit", "status": "booked"}
    source = {"id": f"app_{number}", "crm_ref": f"app_{number}", "source_provider": "listed"}
    return Appointment(**{**source, **usual, **fields})


def at(settings: Settings, text: str) -> None:
    settings.CLOCK_OFFSET = (local(text) - datetime.now(UTC)).total_seconds()


def taken(start: str, end: str, number: int = 1, **fields: Any) -> Appointment:
    return appointment(number, start=local(start).astimezone(UTC), end=local(end).astimezone(UTC), **fields)


def free(*records: Appointment, **params: Any) -> list[str]:
    outcome: Any = run("appointments.free_slots", step_run(crm=Book(list(records))), **params)
    found = [datetime.fromisoformat(start).astimezone(CHICAGO) for start in outcome.values["starts"]]
    assert outcome.values["count"] == len(found)
    return [f"{one:%a %H:%M}" for one in found]


# -- free times --------------------------------------------------------------------------------------


def test_free_times_lie_ahead_inside_business_hours_and_overlap_nothing(settings: Settings) -> None:
    at(settings, "2027-03-10T15:10")
    busy = taken("2027-03-10T16:00", "2027-03-10T16:30"), taken("2027-03-11T08:00", "2027-03-11T09:15", 2)
    assert free(*busy, most=4) == ["Wed 16:30", "Wed 17:00", "Thu 09:30", "Thu 10:00"]


def test_a_cancelled_appointment_takes_no_time(settings: Settings) -> None:
    at(settings, "2027-03-10T08:00")
    assert free(taken("2027-03-10T09:00", "2027-03-10T17:00", status="cancelled"), most=1) == ["Wed 09:00"]


def test_one_that_began_before_the_opening_and_goes_on_is_in_the_way(settings: Settings) -> None:
    at(settings, "2027-03-10T08:00")
    assert free(taken("2027-03-09T22:00", "2027-03-10T12:00"), most=1) == ["Wed 12:00"]


def test_nothing_is_free_on_a_closed_day_and_the_next_open_one_is_found(settings: Settings) -> None:
    settings.HOLIDAYS = ["memorial"]
    at(settings, "2027-05-28T17:30")
    assert free(most=1) == ["Tue 09:00"]
    assert free(on="2027-05-29") == []
    assert free(on="2027-05-31") == []


def test_a_visit_that_is_longer_than_the_day_has_no_time(settings: Settings) -> None:
    at(settings, "2027-03-10T08:00")
    assert free(minutes=9 * 60, most=1) == ["Wed 09:00"]
    assert free(minutes=9 * 60 + 1) == []


@pytest.mark.parametrize("params", [{"minutes": 0}, {"most": 0}, {"within_days": 0}])
def test_a_search_for_nothing_is_refused(params: dict[str, int]) -> None:
    with pytest.raises(DataError):
        free(**params)


SPANS = st.tuples(st.integers(0, 5 * 24 * 4), st.integers(1, 60))


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SPANS, max_size=12), st.integers(10, 200))
def test_whatever_is_booked_a_free_time_is_free(spans: list[tuple[int, int]], minutes: int) -> None:
    begin = clock.now().replace(minute=0, second=0, microsecond=0)
    booked: list[Any] = [
        appointment(
            number,
            start=begin + timedelta(minutes=15 * start),
            end=begin + timedelta(minutes=15 * (start + length)),
        )
        for number, (start, length) in enumerate(spans)
    ]
    step = step_run(crm=Book(list(booked)))
    outcome: Any = run("appointments.free_slots", step, minutes=minutes, most=50, within_days=6)
    starts = [datetime.fromisoformat(start) for start in outcome.values["starts"]]
    assert all(first < second for first, second in pairwise(starts))
    for start in starts:
        end = start + timedelta(minutes=minutes)
        assert start > clock.now() - timedelta(minutes=1)
        assert not [one for one in booked if one.start < end and one.end > start]
        day = start.astimezone(CHICAGO)
        assert day.weekday() < 5
        assert (day.hour, day.minute) >= (9, 0)
        assert end.astimezone(CHICAGO) <= day.replace(hour=18, minute=0)


# -- booking -----------------------------------------------------------------------------------------

TIMES = {"start": "2027-03-14T12:00", "end": "2027-03-14T13:00"}


def test_an_appointment_is_booked_once_whoever_tried_before() -> None:
    crm = Book([])
    step = step_run(crm=crm, context={"crm_customer_id": "cus_1"})
    assert look("appointments.book", step, **TIMES) is None
    first: Any = run("appointments.book", step, **TIMES)
    again: Any = run("appointments.book", step, **TIMES)
    assert (
        first.values == again.values == {"id": "app_1", "start": "2027-03-14T17:00:00+00:00", "clash": False}
    )
    assert look("appointments.book", step, **TIMES) == again
    assert len(crm.records) == 1


@pytest.mark.parametrize(
    ("start", "end", "fields", "clash"),
    [
        ("2027-03-14T11:00", "2027-03-14T12:00", {}, False),
        ("2027-03-14T13:00", "2027-03-14T14:00", {}, False),
        ("2027-03-14T11:00", "2027-03-14T12:01", {}, True),
        ("2027-03-14T12:59", "2027-03-14T14:00", {}, True),
        ("2027-03-14T12:00", "2027-03-14T13:00", {"status": "cancelled"}, False),
    ],
)
def test_an_overlap_is_told(start: str, end: str, fields: dict[str, Any], clash: bool) -> None:
    crm = Book([taken(start, end, customer_id="cus_2", **fields)])
    step = step_run(crm=crm, context={"crm_customer_id": "cus_1"})
    outcome: Any = run("appointments.book", step, **TIMES)
    assert (outcome.values["clash"], len(crm.records)) == (clash, 2)


@pytest.mark.parametrize("times", [{"start": "soon"}, {"end": "2027-03-14T12:00"}])
def test_times_that_are_none_are_refused(times: dict[str, str]) -> None:
    with pytest.raises(DataError):
        run("appointments.book", step_run(crm=Book([])), customer_id="cus_1", **{**TIMES, **times})


def test_a_booking_needs_a_customer() -> None:
    with pytest.raises(DataError, match="No customer"):
        run("appointments.book", step_run(crm=Book([])), **TIMES)


# -- before a reminder -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "early", "over"),
    [
        ("2027-03-13T10:59", True, False),
        ("2027-03-13T11:01", False, False),
        ("2027-03-14T11:59", False, False),
        ("2027-03-14T12:01", False, True),
    ],
)
def test_a_day_before_is_24_hours_whatever_the_clocks_do(
    settings: Settings, now: str, early: bool, over: bool
) -> None:
    at(settings, now)
    step = step_run(crm=Book([taken("2027-03-14T12:00", "2027-03-14T13:00")]))
    outcome: Any = run("appointments.look", step, appointment_id="app_1", start="2027-03-14T12:00", hours=24)
    assert outcome.values == {
        "state": "booked",
        "start": "2027-03-14T17:00:00+00:00",
        "remind_at": "2027-03-13T17:00:00+00:00",
        "early": early,
        "over": over,
        "spoken": "Sun 14 Mar 12:00 CDT",
    }


@pytest.mark.parametrize("status", ["cancelled", "canceled", "no_show", ""])
def test_what_does_not_stand_is_cancelled(settings: Settings, status: str) -> None:
    at(settings, "2027-03-13T10:00")
    records: list[Any] = [taken("2027-03-14T12:00", "2027-03-14T13:00", status=status)] if status else []
    step = step_run(crm=Book(records))
    outcome: Any = run("appointments.look", step, appointment_id="app_1", start="2027-03-14T12:00", hours=1)
    assert outcome.values["state"] == "cancelled"


# -- a second one ------------------------------------------------------------------------------------


def test_the_customers_other_appointments_are_those_that_stand_and_lie_ahead(settings: Settings) -> None:
    at(settings, "2027-03-10T12:00")
    booked: list[Any] = [
        taken("2027-03-15T12:00", "2027-03-15T13:00", 1),  # the one that was just booked
        taken("2027-03-20T09:00", "2027-03-20T10:00", 2),
        taken("2027-03-14T12:00", "2027-03-14T13:00", 3),
        taken("2027-03-10T09:00", "2027-03-10T10:00", 4),
        taken("2027-03-16T12:00", "2027-03-16T13:00", 5, status="cancelled"),
        taken("2027-03-17T12:00", "2027-03-17T13:00", 6, customer_id="cus_2"),
    ]
    crm = step_run(crm=Book(booked))
    asked = {"appointment_id": "app_1", "start": "2027-03-15T12:00", "customer_id": "cus_1"}
    outcome: Any = run("appointments.others", crm, **asked)
    assert outcome.values == {"count": 2, "spoken": "Sun 14 Mar 12:00 CDT, Sat 20 Mar 09:00 CDT"}
