"""Cron slots, season windows, spans of time and rates: pure, values in and values out.

A cron expression is read on the wall clock of its zone. A slot that the spring change skips
comes when the clock is put forward; one that the autumn change repeats comes once, unless the
hour field is a wildcard: then the schedule follows real time and comes in both hours.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter

_FIELD = re.compile(r"[0-9A-Za-z*,/#-]+")
_NAMES = re.compile(
    r"(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC|SUN|MON|TUE|WED|THU|FRI|SAT|L)", re.I
)
_MONTH_DAY = re.compile(r"(\d{2})-(\d{2})")
_RATE = re.compile(r"\s*(\d+)\s*(?:/|per)\s*(second|minute|hour|day)s?\s*", re.I)
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)?\s*,?", re.I)
_WORKING = re.compile(r"\s*(\d{1,4})\s*(?:working|business)[\s-]*days?\s*", re.I)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_UNITS = {
    **{name[0]: seconds for name, seconds in _SECONDS.items()},
    **_SECONDS,
    **{f"{name}s": seconds for name, seconds in _SECONDS.items()},
    "sec": 1,
    "min": 60,
}
_LONGEST = timedelta(days=3660)
MOST_WORKING_DAYS = 1_000
_CHANGE = timedelta(hours=3)  # more than any zone moves its clock at once
_EXAMPLE = 'expected five fields, such as "0 9 * * MON" for Mondays at 9:00'
# Durations are also read while runs go on, from what may be a customer's value: it is not repeated.
_NO_DURATION = (
    'this is not a duration; expected such as "5 days", "2h", "1h 30m" or a number of seconds,'
    " at most ten years"
)

MonthDay = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Season:
    """The days of the year from `opens` to `closes`, both included; it may go over the new year."""

    opens: MonthDay
    closes: MonthDay

    def __contains__(self, day: date) -> bool:
        here = (day.month, day.day)
        if self.opens <= self.closes:
            return self.opens <= here <= self.closes
        return here >= self.opens or here <= self.closes

    def next_opening(self, day: date) -> date:
        """Return the first day of the next season after `day`, which lies outside."""
        return min(d for d in (_day(day.year + n, self.opens, date.max) for n in (0, 1)) if d > day)

    def last_closing(self, day: date) -> date:
        """Return the last day of the season before `day`, which lies outside."""
        return max(d for d in (_day(day.year - n, self.closes, date.min) for n in (0, 1)) if d < day)


def _day(year: int, month_day: MonthDay, side: date) -> date:
    """Return the day in that year; for 29 February, where there is none, its neighbour on that side."""
    try:
        return date(year, *month_day)
    except ValueError:
        return date(year, 3, 1) if side == date.max else date(year, 2, 28)


def season(from_: str = "", until: str = "") -> Season:
    """Return the season between two dates "MM-DD"; an empty one leaves that side at the year's end."""
    return Season(parse_month_day(from_ or "01-01"), parse_month_day(until or "12-31"))


def parse_month_day(text: str) -> MonthDay:
    """Return (month, day) of "MM-DD", or raise ValueError."""
    found = _MONTH_DAY.fullmatch(text) if isinstance(text, str) else None
    try:
        if found:
            day = date(2024, int(found[1]), int(found[2]))  # a leap year: 29 February is a day
            return day.month, day.day
    except ValueError:
        pass
    raise ValueError(f'{text!r} is not a day of the year; expected month and day, such as "02-15"')


def zone(name: str) -> ZoneInfo:
    """Return the time zone, or raise ValueError."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError, TypeError):
        raise ValueError(f'{name!r} is not a time zone; expected a name such as "America/Chicago"') from None


def check_cron(cron: str) -> None:
    """Raise ValueError when `cron` is not five fields, or never comes."""
    fields = cron.split() if isinstance(cron, str) else []
    plain = [_NAMES.sub("", field) for field in fields]
    if len(fields) != 5 or not all(map(_FIELD.fullmatch, fields)) or re.search(r"[A-Za-z]", "".join(plain)):
        raise ValueError(f"{cron!r} is not a cron expression; {_EXAMPLE}")
    if not croniter.is_valid(cron):
        raise ValueError(f"{cron!r} is not a cron expression; {_EXAMPLE}")
    try:
        croniter(cron, datetime(2024, 1, 1)).get_next(datetime)
    except ValueError:
        raise ValueError(f"{cron!r} names a day that never comes; {_EXAMPLE}") from None


# -- slots ----------------------------------------------------------------------------------------


def slots(
    cron: str,
    tz: str,
    after: datetime,
    until: datetime,
    from_: str = "",
    until_: str = "",
    *,
    limit: int | None = None,
) -> list[datetime]:
    """Return the slots in (after, until] in UTC, oldest first; with `limit`, only so many of the newest.

    Slots outside the season `from_` to `until_` ("MM-DD", on the zone's wall clock) are left out.
    """
    here = zone(tz)
    window = season(from_, until_)
    start, earliest = _wall(until, here) + _CHANGE, _wall(after, here) - _CHANGE
    found: set[datetime] = set()
    for local in _walk(cron, start, window, back=True):
        if local < earliest:
            break
        found.update(slot for slot in _instants(local, here, cron) if after < slot <= until)
        if limit is not None and len(found) >= limit:
            # Walking back, the wall clock is not yet sorted by instant within one change of it.
            earliest = max(earliest, _wall(sorted(found)[-limit], here) - _CHANGE)
    newest = sorted(found)
    return newest if limit is None else newest[max(0, len(newest) - limit) :]


def next_slot(cron: str, tz: str, after: datetime, from_: str = "", until_: str = "") -> datetime | None:
    """Return the first slot after `after` in UTC, or None when there is none within ten years."""
    here = zone(tz)
    start = _wall(after, here)
    for local in _walk(cron, start - _CHANGE, season(from_, until_)):
        coming = [slot for slot in _instants(local, here, cron) if slot > after]
        if coming:
            return min(coming)
        if local > start + timedelta(days=3660):
            return None
    return None


def _walk(cron: str, start: datetime, window: Season, *, back: bool = False) -> Iterator[datetime]:
    """Yield the wall-clock times of `cron` in season, from `start` on or back; off-seasons are jumped."""
    times = croniter(cron, start)
    jumps = 0
    while jumps < 50:
        try:
            local: datetime = times.get_prev(datetime) if back else times.get_next(datetime)
        except ValueError:
            return
        if local.date() in window:
            jumps = 0
            yield local
            continue
        jumps += 1
        if back:
            times.set_current(
                datetime.combine(window.last_closing(local.date()) + timedelta(days=1), time()), force=True
            )
        else:
            opening = datetime.combine(window.next_opening(local.date()), time())
            times.set_current(opening - timedelta(seconds=1), force=True)


def _wall(moment: datetime, here: ZoneInfo) -> datetime:
    return moment.astimezone(here).replace(tzinfo=None)


def _instants(local: datetime, here: ZoneInfo, cron: str) -> list[datetime]:
    """Return when the wall clock shows `local`, in UTC; a wildcard hour has both of a repeated hour."""
    first = local.replace(tzinfo=here).astimezone(UTC)
    second = local.replace(tzinfo=here, fold=1).astimezone(UTC)
    repeated = second > first
    return [first, second] if repeated and cron.split()[1].startswith("*") else [first]


# -- spans ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time as people mean it: calendar days keep the wall clock, `rest` is real time.

    `working_days` counts only days on which the business is open; it stands alone.
    """

    days: int = 0
    rest: timedelta = timedelta()
    working_days: int = 0


def parse_span(value: str | int | float) -> Span:
    """Return what "5 days", "1 week 2h", "24h" or "2 working days" means, or raise ValueError.

    Days and weeks are calendar days; what is given in hours, minutes or seconds is real time.
    """
    found = _WORKING.fullmatch(value) if isinstance(value, str) else None
    if found:
        if int(found[1]) > MOST_WORKING_DAYS:
            raise ValueError(_NO_DURATION)
        return Span(working_days=int(found[1]))
    parse_duration(value)
    days, rest = 0, timedelta()
    for number, unit in _parts(str(value).strip()):
        in_days = number * (_UNITS.get(unit, 1) // _SECONDS["day"])
        days += int(in_days)
        rest += timedelta(days=in_days - int(in_days)) if in_days else _real(number, unit)
    return Span(days, rest)


def after_days(moment: datetime, days: int, tz: str) -> datetime:
    """Return the moment so many calendar days later (or earlier) at the same wall clock of the zone, in UTC.

    Where that hour is skipped by the spring change, it comes as much later as the clock was put forward.
    """
    here = zone(tz)
    local = moment.astimezone(here)
    there = local.replace(tzinfo=None) + timedelta(days=days)
    return there.replace(tzinfo=here, fold=local.fold).astimezone(UTC)


def parse_duration(value: str | int | float) -> timedelta:
    """Return the time that "5 days", "2h", "1h 30m" or a number of seconds means, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(_NO_DURATION)
    text = str(value).strip()
    seconds = sum((_real(number, unit).total_seconds() for number, unit in _parts(text)), 0.0)
    return timedelta(seconds=seconds)


def _parts(text: str) -> list[tuple[float, str]]:
    """Return the numbers of a duration with their units ("" for seconds), or raise ValueError."""
    parts: list[tuple[float, str]] = []
    seconds, place = 0.0, 0
    while place < len(text):
        found = _PART.match(text, place)
        unit = (found[2] or "").lower() if found else ""
        if not found or (unit and unit not in _UNITS) or (not unit and found.group().strip() != text):
            raise ValueError(_NO_DURATION)
        parts.append((float(found[1]), unit))
        seconds += float(found[1]) * _UNITS.get(unit, 1)
        place = found.end()
    if not text or seconds > _LONGEST.total_seconds():
        raise ValueError(_NO_DURATION)
    return parts


def _real(number: float, unit: str) -> timedelta:
    return timedelta(seconds=number * _UNITS.get(unit, 1))


def parse_rate(text: str) -> float:
    """Return the seconds between two slots of a rate such as "30/minute", or raise ValueError."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if not found or not int(found[1]):
        raise ValueError(f'{text!r} is not a rate; expected such as "30/minute", "5/second" or "100/day"')
    return _SECONDS[found[2].lower()] / int(found[1])
