"""The shipped holidays, each a rule that gives its day in a year; days off of the firm's own are rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

MONDAY, THURSDAY = 0, 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One holiday: what people call it, and its day in a year."""

    name: str
    day: Callable[[int], date]


def _each(month: int, day: int) -> Callable[[int], date]:
    return lambda year: date(year, month, day)


def _nth(number: int, weekday: int, month: int) -> Callable[[int], date]:
    """Return the rule for the n-th such weekday of a month."""

    def day(year: int) -> date:
        first = date(year, month, 1)
        return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))

    return day


def _last_monday_of_may(year: int) -> date:
    last = date(year, 5, 31)
    return last - timedelta(days=(last.weekday() - MONDAY) % 7)


# The words of the setting HOLIDAYS.
RULES: Mapping[str, Rule] = {
    "new_year": Rule("New Year's Day", _each(1, 1)),
    "memorial": Rule("Memorial Day", _last_monday_of_may),
    "independence": Rule("Independence Day", _each(7, 4)),
    "labor": Rule("Labor Day", _nth(1, MONDAY, 9)),
    "thanksgiving": Rule("Thanksgiving Day", _nth(4, THURSDAY, 11)),
    "christmas": Rule("Christmas Day", _each(12, 25)),
}


@lru_cache(maxsize=256)
def _of_year(year: int, words: tuple[str, ...]) -> Mapping[date, str]:
    return {RULES[word].day(year): RULES[word].name for word in words}


def coming(after: date, words: Iterable[str]) -> list[tuple[date, str]]:
    """Return the next day of each of these holidays with its name, soonest first."""
    rules = [RULES[word] for word in words]
    return sorted(
        (min(d for d in map(rule.day, (after.year, after.year + 1)) if d >= after), rule.name)
        for rule in rules
    )


def name_of(day: date, words: Iterable[str]) -> str:
    """Return what the holiday on this day is called, "" when it is none; `words` are keys of RULES."""
    return _of_year(day.year, tuple(words)).get(day, "")
