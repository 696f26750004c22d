"""When the business is open, and when it writes to customers: pure, values in and values out.

A window is a part of the week on the business' own wall clock:

* business   its days and hours, for appointments and working days
* sending    the days and hours in which mail to customers leaves, without the quiet hours
* waking     any day, only without the quiet hours

On a holiday the first two are closed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from django.conf import settings

from sopengine.errors import DataError
from tasks import holidays
from tasks.calendars import after_days, parse_span

Window = Literal["business", "sending", "waking"]
Minutes = tuple[int, int]  # from and to, in minutes of the day; 1440 is the midnight that ends it
DAY = 1440
FAR = 3660  # days that are looked at before a window is called closed for ever


@dataclass(frozen=True, slots=True)
class Calendar:
    """The business' hours; `days_off` are its own holidays by day, `rules` words of `holidays.RULES`.

    `quiet` may go over midnight: (1200, 480) is from eight in the evening to eight in the morning;
    equal ends mean that there are no quiet hours. Days of the week count from Monday, 0.
    """

    tz: str
    business_days: frozenset[int]
    business_hours: Minutes
    sending_days: frozenset[int]
    sending_hours: Minutes
    quiet: Minutes
    rules: tuple[str, ...] = ()
    days_off: Mapping[date, str] = field(default_factory=dict)

    def holiday(self, day: date) -> str:
        """Return what the holiday on this day is called, or ""."""
        return self.days_off.get(day) or holidays.name_of(day, self.rules)

    def is_business_day(self, day: date) -> bool:
        """Return whether the business is open on this day."""
        return day.weekday() in self.business_days and not self.holiday(day)

    def hours_of(self, day: date, window: Window = "business") -> list[tuple[datetime, datetime]]:
        """Return from when to when the window is open on this day, in UTC; nothing when it is closed."""
        return [(self._at(day, begin), self._at(day, end)) for begin, end in self._minutes(day, window)]

    def is_open(self, moment: datetime, window: Window = "business") -> bool:
        """Return whether the window is open at this moment."""
        return any(begin <= moment < end for begin, end in self.hours_of(self.day_of(moment), window))

    def opening(self, moment: datetime, window: Window = "sending") -> datetime:
        """Return the moment itself when the window is open, else its next opening; in UTC."""
        moment = moment.astimezone(UTC)
        first = self.day_of(moment)
        for number in range(FAR):
            for begin, end in self.hours_of(first + timedelta(days=number), window):
                if moment < end:
                    return max(moment, begin)
        raise DataError(f"The window {window!r} does not open within ten years; look at the holidays.")

    def later(self, moment: datetime, span: str | int | float) -> datetime:
        """Return the moment after a span such as "5 days", "24h" or "2 working days", in UTC."""
        return self._moved(moment, span, 1)

    def earlier(self, moment: datetime, span: str | int | float) -> datetime:
        """Return the moment before a span such as "24h" or "1 day", in UTC."""
        return self._moved(moment, span, -1)

    def day_of(self, moment: datetime) -> date:
        """Return the day that the business' calendar shows at this moment."""
        return moment.astimezone(ZoneInfo(self.tz)).date()

    def begin_of(self, day: date) -> datetime:
        """Return the midnight with which the day begins, in UTC."""
        return self._at(day, 0)

    def _moved(self, moment: datetime, span: str | int | float, way: int) -> datetime:
        given = parse_span(span)
        days = self._over_working_days(moment, given.working_days, way) if given.working_days else given.days
        return after_days(moment, way * days, self.tz) + way * given.rest

    def _over_working_days(self, moment: datetime, count: int, way: int) -> int:
        """Return how many calendar days it is to the n-th business day after (or before) this one."""
        start = self.day_of(moment)
        for number in range(1, FAR):
            count -= self.is_business_day(start + timedelta(days=way * number))
            if not count:
                return number
        raise DataError("So many working days do not come within ten years; look at the holidays.")

    def _minutes(self, day: date, window: Window) -> Sequence[Minutes]:
        if window == "business":
            return [self.business_hours] if self.is_business_day(day) else []
        if window == "waking":
            return without((0, DAY), self.quiet)
        closed = day.weekday() not in self.sending_days or self.holiday(day)
        return [] if closed else without(self.sending_hours, self.quiet)

    def _at(self, day: date, minutes: int) -> datetime:
        """Return the moment at which the wall clock shows so many minutes of the day, in UTC."""
        local = datetime.combine(day, time()) + timedelta(minutes=minutes)
        return local.replace(tzinfo=ZoneInfo(self.tz)).astimezone(UTC)


def without(hours: Minutes, quiet: Minutes) -> list[Minutes]:
    """Return the hours of a day that are not quiet ones, earliest first."""
    begin, end = quiet
    if begin == end:
        return [hours]
    silent = [(begin, end)] if begin < end else [(0, end), (begin, DAY)]
    left = [hours]
    for lull in silent:
        left = [
            part
            for span in left
            for part in ((span[0], min(span[1], lull[0])), (max(span[0], lull[1]), span[1]))
        ]
        left = [(first, last) for first, last in left if first < last]
    return left


def usual(days_off: Mapping[date, str] | None = None) -> Calendar:
    """Return the calendar that the settings describe, with these holidays of the firm's own."""
    return Calendar(
        tz=settings.TIME_ZONE,
        business_days=frozenset(settings.BUSINESS_DAYS),
        business_hours=settings.BUSINESS_HOURS,
        sending_days=frozenset(settings.SENDING_DAYS),
        sending_hours=settings.SENDING_HOURS,
        quiet=settings.QUIET_HOURS,
        rules=tuple(settings.HOLIDAYS),
        days_off=days_off or {},
    )
