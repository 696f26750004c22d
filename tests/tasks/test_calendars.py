"""Laws of schedules, seasons, durations and rates."""

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import calendars

CHICAGO, NEW_YORK = "America/Chicago", "America/New_York"


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


def walls(cron: str, tz: str, after: datetime, until: datetime, *season: str) -> list[str]:
    """Return the slots as their zone's wall clock shows them."""
    return [
        f"{s.astimezone(ZoneInfo(tz)):%m-%d %H:%M}" for s in calendars.slots(cron, tz, after, until, *season)
    ]


# -- slots ------------------------------------------------------------------------------------------


def test_monday_at_nine_in_chicago_is_15_utc_in_winter_and_14_utc_in_summer() -> None:
    found = calendars.slots("0 9 * * MON", CHICAGO, utc(2027, 3, 2), utc(2027, 3, 16))
    assert found == [utc(2027, 3, 8, 15), utc(2027, 3, 15, 14)]


def test_a_time_that_the_spring_change_skips_comes_once_when_the_clock_is_put_forward() -> None:
    found = calendars.slots("30 2 * * *", NEW_YORK, utc(2027, 3, 13, 12), utc(2027, 3, 15, 12))
    assert found == [utc(2027, 3, 14, 7, 30), utc(2027, 3, 15, 6, 30)]
    assert walls("30 2 * * *", NEW_YORK, utc(2027, 3, 13, 12), utc(2027, 3, 14, 12)) == ["03-14 03:30"]


def test_a_time_that_the_autumn_change_repeats_comes_once() -> None:
    found = calendars.slots("30 1 * * *", NEW_YORK, utc(2027, 11, 6, 12), utc(2027, 11, 8, 12))
    assert found == [utc(2027, 11, 7, 5, 30), utc(2027, 11, 8, 6, 30)]


@pytest.mark.parametrize("night", [utc(2027, 3, 14), utc(2027, 11, 7)])
def test_an_hourly_schedule_comes_each_real_hour_whatever_the_clock_does(night: datetime) -> None:
    found = calendars.slots("0 * * * *", NEW_YORK, night, night + timedelta(hours=12))
    assert found == [night + timedelta(hours=n) for n in range(1, 13)]


@pytest.mark.parametrize("night", [utc(2027, 3, 14), utc(2027, 11, 7)])
def test_looking_in_pieces_finds_what_looking_once_finds(night: datetime) -> None:
    for cron in ("30 1 * * *", "30 2 * * *", "*/20 * * * *", "15 1,2,3 * * *"):
        whole = calendars.slots(cron, NEW_YORK, night, night + timedelta(hours=12))
        edges = [night + timedelta(minutes=7 * n) for n in range(12 * 60 // 7 + 1)] + [
            night + timedelta(hours=12)
        ]
        pieces = [
            slot for a, b in itertools.pairwise(edges) for slot in calendars.slots(cron, NEW_YORK, a, b)
        ]
        assert pieces == whole


def test_the_slot_at_the_end_is_in_and_the_one_at_the_beginning_is_not() -> None:
    at = utc(2027, 3, 8, 15)
    assert calendars.slots("0 9 * * MON", CHICAGO, at - timedelta(seconds=1), at) == [at]
    assert calendars.slots("0 9 * * MON", CHICAGO, at, at + timedelta(days=1)) == []


def test_a_season_has_both_its_days_and_nothing_outside() -> None:
    found = walls("0 9 * * *", CHICAGO, utc(2027, 1, 1), utc(2027, 12, 31), "02-15", "02-17")
    assert found == ["02-15 09:00", "02-16 09:00", "02-17 09:00"]


def test_a_season_may_go_over_the_new_year() -> None:
    found = walls("0 9 * * *", CHICAGO, utc(2026, 12, 1), utc(2027, 12, 1), "12-30", "01-02")
    assert found == ["12-30 09:00", "12-31 09:00", "01-01 09:00", "01-02 09:00"]


def test_a_season_is_read_on_the_wall_clock_of_the_zone() -> None:
    """22:00 on 14 February in Chicago is the 15th in UTC, and not in season."""
    assert walls("0 22 * * *", CHICAGO, utc(2027, 2, 13), utc(2027, 2, 17, 12), "02-15", "05-31") == [
        "02-15 22:00",
        "02-16 22:00",
    ]


def test_29_february_as_the_end_of_a_season_is_kept_in_every_year() -> None:
    assert walls("0 9 * * *", "UTC", utc(2027, 2, 27), utc(2027, 3, 5), "02-01", "02-29") == [
        "02-27 09:00",
        "02-28 09:00",
    ]
    assert calendars.next_slot("0 9 * * *", "UTC", utc(2027, 1, 2), "02-29", "03-03") == utc(2027, 3, 1, 9)


def test_with_a_limit_the_newest_slots_are_found() -> None:
    found = calendars.slots("* * * * *", CHICAGO, utc(2020, 1, 1), utc(2027, 3, 1, 0, 0, 30), limit=2)
    assert found == [utc(2027, 2, 28, 23, 59), utc(2027, 3, 1)]


def test_the_next_slot_waits_for_the_season() -> None:
    coming = calendars.next_slot("0 9 * * MON", CHICAGO, utc(2026, 6, 1, 15), "02-15", "05-31")
    assert coming == utc(2027, 2, 15, 15)


def test_the_next_slot_is_later_than_the_moment_itself() -> None:
    at = utc(2027, 3, 8, 15)
    assert calendars.next_slot("0 9 * * MON", CHICAGO, at) == utc(2027, 3, 15, 14)
    assert calendars.next_slot("30 1 * * *", NEW_YORK, utc(2027, 11, 7, 5, 30)) == utc(2027, 11, 8, 6, 30)


def test_a_schedule_that_never_meets_its_season_has_no_next_slot() -> None:
    assert calendars.next_slot("0 9 1 7 *", "UTC", utc(2027, 1, 1), "02-01", "02-28") is None


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)), st.sampled_from(["0 9 * * MON", "30 1,2 * * *"])
)
def test_the_next_slot_is_the_first_of_the_slots(moment: datetime, cron: str) -> None:
    at = moment.replace(tzinfo=UTC)
    coming = calendars.next_slot(cron, NEW_YORK, at)
    assert coming is not None
    assert calendars.slots(cron, NEW_YORK, at, coming) == [coming]


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cron", ["0 9 * * MON", "*/15 8-18 * JAN,feb 1-5", "0 9 L * *", "0 9 * * MON#2", "0 0 * * 7"]
)
def test_five_good_fields_are_a_cron_expression(cron: str) -> None:
    calendars.check_cron(cron)


@pytest.mark.parametrize(
    "cron",
    ["", "0 9 * *", "* * * * * *", "@daily", "61 9 * * *", "R 9 * * *", "H 9 * * *", "0 9 * * FOO", 5, None],
)
def test_what_is_no_cron_expression_is_refused_with_an_example(cron: object) -> None:
    with pytest.raises(ValueError, match=r'expected five fields, such as "0 9 \* \* MON"'):
        calendars.check_cron(cron)  # type: ignore[arg-type]


def test_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(ValueError, match="never comes"):
        calendars.check_cron("0 0 30 2 *")


@pytest.mark.parametrize("name", ["America/Chicagoo", "", "../etc/passwd", None, 5])
def test_what_is_no_time_zone_is_refused_with_an_example(name: object) -> None:
    with pytest.raises(ValueError, match="America/Chicago"):
        calendars.zone(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["2-15", "02-30", "13-01", "15.02.", "", None, 215])
def test_what_is_no_day_of_the_year_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match='such as "02-15"'):
        calendars.parse_month_day(text)  # type: ignore[arg-type]


# -- durations and rates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("5 days", timedelta(days=5)),
        ("1 day", timedelta(days=1)),
        ("2h", timedelta(hours=2)),
        ("1h 30m", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("1 hour, 30 minutes", timedelta(minutes=90)),
        ("90s", timedelta(seconds=90)),
        ("0.5h", timedelta(minutes=30)),
        ("3 Weeks", timedelta(weeks=3)),
        ("90", timedelta(seconds=90)),
        (90, timedelta(seconds=90)),
        (1.5, timedelta(seconds=1.5)),
        (0, timedelta(0)),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str | float, meant: timedelta) -> None:
    assert calendars.parse_duration(text) == meant


@pytest.mark.parametrize(
    "text", ["", "days", "5 potatoes", "1 2", "5 days 3", "-1", "1e3", None, True, [], "9999 weeks", -5]
)
def test_what_is_no_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match='expected such as "5 days"'):
        calendars.parse_duration(text)  # type: ignore[arg-type]


def test_the_refusal_of_a_duration_does_not_repeat_it() -> None:
    with pytest.raises(ValueError, match="not a duration") as caught:
        calendars.parse_duration("Ann Miller")
    assert "Ann" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30/minute", 2), ("5/second", 0.2), ("100/day", 864), ("6 per hour", 600), ("1/minutes", 60)],
)
def test_a_rate_is_the_time_between_two_slots(text: str, seconds: float) -> None:
    assert calendars.parse_rate(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["0/minute", "30", "30/fortnight", "fast", "", None, 30])
def test_what_is_no_rate_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match='expected such as "30/minute"'):
        calendars.parse_rate(text)  # type: ignore[arg-type]
