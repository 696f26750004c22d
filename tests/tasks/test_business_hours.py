"""Laws of the business' own week: when it is open, when mail leaves, and what "n days" means."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sopengine.errors import DataError
from tasks import calendars, holidays
from tasks.business_hours import DAY, Calendar, without

ZONE = "America/Chicago"
WEEK = frozenset(range(5))
SHIPPED = tuple(holidays.RULES)
OFFICE: dict[str, Any] = {
    "tz": ZONE,
    "business_days": WEEK,
    "business_hours": (540, 1080),
    "sending_days": WEEK,
    "sending_hours": (540, 1080),
    "quiet": (1200, 480),
    "rules": SHIPPED,
}
OFFICE_HOURS = Calendar(**OFFICE)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2029, 12, 31)).map(lambda at: at.replace(tzinfo=UTC))


def local(*parts: int) -> datetime:
    """Return a moment on the wall clock of Chicago."""
    return datetime(*parts, tzinfo=ZoneInfo(ZONE))  # type: ignore[misc, arg-type]


def wall(moment: datetime) -> str:
    return f"{moment.astimezone(ZoneInfo(ZONE)):%a %Y-%m-%d %H:%M %Z}"


# -- holidays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("year", "days"),
    [
        (2027, ["01-01", "05-31", "07-04", "09-06", "11-25", "12-25"]),
        (2028, ["01-01", "05-29", "07-04", "09-04", "11-23", "12-25"]),
        (2029, ["01-01", "05-28", "07-04", "09-03", "11-22", "12-25"]),
    ],
)
def test_the_shipped_holidays_of_a_year(year: int, days: list[str]) -> None:
    every = [date(year, 1, 1) + timedelta(days=n) for n in range(365)]
    assert [f"{day:%m-%d}" for day in every if holidays.name_of(day, SHIPPED)] == days


def test_a_holiday_that_is_not_kept_is_a_day_like_any_other() -> None:
    assert holidays.name_of(date(2027, 12, 25), ("labor",)) == ""
    assert Calendar(**{**OFFICE, "rules": ()}).is_business_day(date(2027, 5, 31))


def test_a_day_off_of_the_firms_own_closes_it() -> None:
    closed = Calendar(**OFFICE, days_off={date(2027, 3, 10): "Spring clean"})
    assert closed.holiday(date(2027, 3, 10)) == "Spring clean"
    assert wall(closed.opening(local(2027, 3, 9, 18, 0))) == "Thu 2027-03-11 09:00 CST"


# -- the window ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "opens"),
    [
        (local(2027, 2, 20, 9, 0), "Mon 2027-02-22 09:00 CST"),  # a Saturday
        (local(2027, 2, 22, 8, 59), "Mon 2027-02-22 09:00 CST"),
        (local(2027, 2, 22, 9, 0), "Mon 2027-02-22 09:00 CST"),
        (local(2027, 2, 22, 17, 59), "Mon 2027-02-22 17:59 CST"),
        (local(2027, 2, 22, 18, 0), "Tue 2027-02-23 09:00 CST"),
        (local(2027, 5, 31, 9, 0), "Tue 2027-06-01 09:00 CDT"),  # Memorial Day
        (local(2027, 3, 12, 18, 30), "Mon 2027-03-15 09:00 CDT"),  # the clock changes on that Sunday
        (local(2027, 11, 24, 20, 0), "Fri 2027-11-26 09:00 CST"),  # Thanksgiving
    ],
)
def test_outside_the_window_the_next_opening_counts(asked: datetime, opens: str) -> None:
    assert wall(OFFICE_HOURS.opening(asked)) == opens


def test_the_opening_follows_the_wall_clock_over_the_change() -> None:
    friday, monday = (OFFICE_HOURS.opening(local(2027, 3, day, 6, 0)) for day in (12, 15))
    assert (friday, monday) == (datetime(2027, 3, 12, 15, tzinfo=UTC), datetime(2027, 3, 15, 14, tzinfo=UTC))


@given(moments, st.sampled_from(["business", "sending", "waking"]))
def test_an_opening_is_open_and_nothing_before_it_is(moment: datetime, window: Any) -> None:
    opening = OFFICE_HOURS.opening(moment, window)
    assert opening >= moment
    assert OFFICE_HOURS.is_open(opening, window)
    if opening > moment:
        middle = moment + (opening - moment) / 2
        assert not any(OFFICE_HOURS.is_open(at, window) for at in (moment, middle))


def test_on_any_day_that_is_not_quiet_one_is_awake() -> None:
    sunday = local(2027, 3, 14, 7, 0)
    assert wall(OFFICE_HOURS.opening(sunday, "waking")) == "Sun 2027-03-14 08:00 CDT"
    assert wall(OFFICE_HOURS.opening(local(2027, 7, 4, 21, 0), "waking")) == "Mon 2027-07-05 08:00 CDT"


def test_quiet_hours_take_from_the_sending_hours() -> None:
    early = Calendar(**{**OFFICE, "sending_hours": (360, 1320)})
    assert wall(early.opening(local(2027, 3, 10, 6, 0))) == "Wed 2027-03-10 08:00 CST"
    assert wall(early.opening(local(2027, 3, 10, 20, 0))) == "Thu 2027-03-11 08:00 CST"


@given(
    st.tuples(st.integers(0, 1439), st.integers(1, 1440)).filter(lambda span: span[0] < span[1]),
    st.tuples(st.integers(0, 1440), st.integers(0, 1440)),
)
def test_the_hours_left_are_those_that_are_not_quiet(hours: tuple[int, int], quiet: tuple[int, int]) -> None:
    begin, end = quiet
    silent = set(range(begin, end)) if begin <= end else {*range(end), *range(begin, DAY)}
    left = [minute for first, last in without(hours, quiet) for minute in range(first, last)]
    assert left == [minute for minute in range(*hours) if minute not in silent]


def test_a_window_that_never_opens_is_told_and_not_waited_for() -> None:
    with pytest.raises(DataError, match="does not open"):
        Calendar(**{**OFFICE, "sending_days": frozenset()}).opening(local(2027, 1, 4))


def test_the_open_hours_of_a_day_are_moments() -> None:
    assert OFFICE_HOURS.hours_of(date(2027, 3, 15)) == [
        (datetime(2027, 3, 15, 14, tzinfo=UTC), datetime(2027, 3, 15, 23, tzinfo=UTC))
    ]
    assert OFFICE_HOURS.hours_of(date(2027, 3, 14)) == []


# -- "n days" -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "span", "end"),
    [
        (local(2027, 3, 11, 16, 0), "3 days", "Sun 2027-03-14 16:00 CDT"),  # 71 real hours
        (local(2027, 3, 11, 16, 0), "72h", "Sun 2027-03-14 17:00 CDT"),
        (local(2027, 2, 15, 10, 0), "5 days", "Sat 2027-02-20 10:00 CST"),
        (local(2027, 3, 13, 9, 0), "1 week 2h", "Sat 2027-03-20 11:00 CDT"),
        (local(2027, 11, 6, 1, 30), "1 day", "Sun 2027-11-07 01:30 CDT"),
        (local(2027, 3, 13, 2, 30), "1 day", "Sun 2027-03-14 03:30 CDT"),
        (local(2027, 3, 13, 9, 0), "1.5 days", "Sun 2027-03-14 21:00 CDT"),
        (local(2027, 3, 13, 9, 0), "432000", "Thu 2027-03-18 10:00 CDT"),
        (local(2027, 3, 11, 16, 0), "2 working days", "Mon 2027-03-15 16:00 CDT"),
        (local(2027, 3, 13, 16, 0), "1 working day", "Mon 2027-03-15 16:00 CDT"),
        (local(2027, 5, 28, 16, 0), "1 business day", "Tue 2027-06-01 16:00 CDT"),
    ],
)
def test_days_keep_the_wall_clock_and_hours_are_real(start: datetime, span: str, end: str) -> None:
    assert wall(OFFICE_HOURS.later(start, span)) == end


@pytest.mark.parametrize(
    ("span", "begin"),
    [
        ("24h", "Sat 2027-03-13 11:00 CST"),
        ("1 day", "Sat 2027-03-13 12:00 CST"),
        ("1h", "Sun 2027-03-14 11:00 CDT"),
    ],
)
def test_so_long_before_an_appointment(span: str, begin: str) -> None:
    assert wall(OFFICE_HOURS.earlier(local(2027, 3, 14, 12, 0), span)) == begin


@pytest.mark.parametrize(
    "text", ["", "a while", "2 working hours", "1h 2 working days", "9999 working days", True]
)
def test_what_is_no_span_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        calendars.parse_span(text)


@given(moments, st.integers(-400, 400))
def test_days_later_is_that_day_on_the_calendar(moment: datetime, days: int) -> None:
    there = calendars.after_days(moment, days, ZONE)
    begin = moment.astimezone(ZoneInfo(ZONE))
    assert there.astimezone(ZoneInfo(ZONE)).date() == begin.date() + timedelta(days=days)
    assert abs(there - moment - timedelta(days=days)) <= timedelta(hours=1)


@given(st.integers(0, 500), st.sampled_from("hms"))
def test_real_time_is_the_same_in_both_readings(number: int, unit: str) -> None:
    assert calendars.parse_span(f"{number}{unit}").rest == calendars.parse_duration(f"{number}{unit}")
