"""The outer form of a SOP: which keys there are, of which type, and what may stand in them."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Any

from sopengine.errors import DataError
from tasks import calendars, templating
from tasks.definition.records import COMPLETE, NEXT

Path = tuple[str | int, ...]

FAILURE_WORDS = ("escalate", "hold", "fail")
_OURS = ("inputs", "children", "now", "slot", "business", "run", "row", "unsubscribe_url")
RESERVED = frozenset({*_OURS, NEXT, COMPLETE, *FAILURE_WORDS, *templating.WORDS})
SURROUNDINGS: dict[str, tuple[str, ...]] = {
    "now": (),
    "slot": ("year", "month", "day", "date", "time"),
    "business": ("name", "address", "phone", "review_link", "hears_replies"),
    "run": ("id",),
}
SCHEDULE_KEYS = ("schedule", "from", "until", "timezone", "overlap", "catch_up")
EVENT_KEYS = ("event", "source", "once_per")
INPUT_KEYS = ("type", "default", "required", "description")
TYPES = ("string", "integer", "number", "boolean", "list", "date")

_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_KEY = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_EVENT = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")
LONGEST_EVENT = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a path into the SOP's values; `at_key` when the key itself is."""

    path: Path
    message: str
    at_key: bool = False


Check = Callable[[Any], str]  # what is wrong with a value, or ""


def one_of(name: str, known: Any) -> str:
    """Return "expected one of ...", with the likeliest first when `name` looks mistyped."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}expected {'one of ' if len(names) > 1 else ''}{', '.join(names) or 'nothing'}"


# -- single values --------------------------------------------------------------------------------


def _text(most: int, *, needed: bool = False) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            return f"must be text, not {_kind(value)}"
        if needed and not value.strip():
            return "is empty; expected text"
        return f"has {len(value)} characters; at most {most} are kept" if len(value) > most else ""

    return check


def _matches(pattern: re.Pattern[str], most: int, example: str) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, str) and pattern.fullmatch(value) and len(value) <= most:
            return ""
        return f"{value!r} does not fit; expected at most {most} characters such as {example!r}"

    return check


def _whole(least: int, most: int) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return ""
        return f"{value!r} does not fit; expected a whole number from {least} to {most}"

    return check


def _by(parse: Callable[[Any], object]) -> Check:
    """Return a check out of a parser that raises ValueError with a sentence."""

    def check(value: Any) -> str:
        try:
            parse(value)
        except ValueError as error:
            return str(error)
        return ""

    return check


def _among(*words: str) -> Check:
    return lambda value: "" if value in words else f"{value!r} is unknown; expected {' or '.join(words)}"


def _timeout(value: Any) -> str:
    if value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 86_400
    ):
        return ""
    return f"{value!r} does not fit; expected seconds, more than 0 and at most 86400"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else f"{value!r} does not fit; expected true or false"


def _mapping(value: Any) -> str:
    return "" if isinstance(value, Mapping) else f"must be keys with values, not {_kind(value)}"


def _rate(value: Any) -> str:
    return "" if value == "" else _by(calendars.parse_rate)(value)


def _events(value: Any) -> str:
    names = value if isinstance(value, list) else [value]
    if not names:
        return "is empty; expected the name of an event, or a list of names"
    wrong = map(_matches(_EVENT, LONGEST_EVENT, "job.completed"), names)
    return next(filter(None, wrong), "")


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "keys with values"


_SOP: dict[str, Check] = {
    "sop": _matches(_SLUG, 80, "past-customer-reactivation"),
    "name": _text(120, needed=True),
    "description": _text(10_000),
    "channel": _text(80),
    "trigger": _mapping,
    "inputs": _mapping,
    "autonomous": _flag,
    "priority": _whole(0, 2),
    "steps": lambda value: (
        "" if isinstance(value, list) and value else "expected a list of at least one step"
    ),
}
_STEP: dict[str, Check] = {
    "key": _matches(_KEY, 60, "send_mail"),
    "name": _text(120),
    "handler": _text(60, needed=True),
    "with": _mapping,
    "on_success": _text(60, needed=True),
    "on_failure": _text(60),
    "max_retries": _whole(0, 100),
    "timeout": _timeout,
    "rate": _rate,
}
_TRIGGER: dict[str, Check] = {
    "schedule": _by(calendars.check_cron),
    "from": _by(calendars.parse_month_day),
    "until": _by(calendars.parse_month_day),
    "timezone": _by(calendars.zone),
    "overlap": _among("skip", "allow"),
    "catch_up": _among("once", "skip"),
    "event": _events,
    "source": _matches(_SLUG, 60, "billing"),
    "once_per": _text(500, needed=True),
}
_NEEDED = {"sop": ("sop", "name", "steps"), "step": ("key", "handler")}


# -- the whole ------------------------------------------------------------------------------------


def findings(values: Any) -> Iterator[Finding]:
    """Yield what is wrong with the outer form of a SOP's values; nothing means it can be built."""
    if not isinstance(values, Mapping):
        yield Finding((), f"a SOP file has keys such as sop, name and steps, not {_kind(values)}")
        return
    bad = list(_fields(values, (), _SOP, _NEEDED["sop"]))
    yield from bad
    if _sound("trigger", values, bad):
        yield from _trigger(values["trigger"], values.get("inputs"))
    if _sound("inputs", values, bad):
        yield from _inputs(values["inputs"])
    if _sound("steps", values, bad):
        yield from _steps(values["steps"], values.get("inputs"))


def _sound(key: str, values: Mapping[str, Any], bad: list[Finding]) -> bool:
    return key in values and not any(finding.path == (key,) for finding in bad)


def _fields(
    values: Mapping[str, Any], path: Path, checks: Mapping[str, Check], needed: tuple[str, ...]
) -> Iterator[Finding]:
    for key in values:
        if key not in checks:
            yield Finding((*path, key), f"unknown key {key!r}; {one_of(str(key), checks)}", at_key=True)
    for key in needed:
        if key not in values:
            yield Finding(path, f"the key {key!r} is missing")
    for key, check in checks.items():
        wrong = check(values[key]) if key in values else ""
        if wrong:
            yield Finding((*path, key), wrong)


def _trigger(trigger: Mapping[str, Any], inputs: Any) -> Iterator[Finding]:
    yield from _fields(trigger, ("trigger",), _TRIGGER, ())
    for first, its_keys, example in (
        ("schedule", SCHEDULE_KEYS, '"0 9 * * MON"'),
        ("event", EVENT_KEYS, "job.completed"),
    ):
        if first not in trigger and any(key in trigger for key in its_keys):
            yield Finding(("trigger",), f"the key {first!r} is missing; expected such as {example}")
    if "schedule" in trigger and isinstance(inputs, Mapping):
        for name, spec in inputs.items():
            if isinstance(spec, Mapping) and "default" not in spec and spec.get("required", True):
                yield Finding(
                    ("inputs", name),
                    "a SOP with a schedule starts by itself: give a default, or required: false",
                )
    if isinstance(trigger.get("once_per"), str):
        yield from _once_per(trigger["once_per"], inputs if isinstance(inputs, Mapping) else {})


def _once_per(template: str, inputs: Mapping[str, Any]) -> Iterator[Finding]:
    """What must not start twice is told by the inputs; a text without any would let one run start, ever."""
    path = ("trigger", "once_per")
    try:
        used = templating.variables(template)
    except DataError as error:
        yield Finding(path, error.message)
        return
    if not any(name[0] in inputs for name in used):
        yield Finding(path, "names no input of the SOP; without one only a single run would ever start")
    for name in sorted(used):
        if name[0] not in inputs:
            wrong = unknown_surrounding(name)
            if wrong or name[0] == "run":
                known = one_of(name[0], [*inputs, *sorted(set(SURROUNDINGS) - {"run"})])
                yield Finding(path, f"unknown variable {'.'.join(name)!r}; {known}")


def _inputs(inputs: Mapping[str, Any]) -> Iterator[Finding]:
    for name, spec in inputs.items():
        path = ("inputs", name)
        wrong = _matches(_NAME, 60, "season")(name)
        if wrong:
            yield Finding(path, f"the input's name {wrong}", at_key=True)
        elif name in RESERVED:
            yield Finding(path, f"the name {name!r} is reserved; call the input something else", at_key=True)
        if not isinstance(spec, Mapping):
            yield Finding(path, f"must be keys such as type and default, not {_kind(spec)}")
            continue
        yield from _fields(
            spec,
            path,
            {
                "type": _among(*TYPES),
                "default": _default_of(spec.get("type", "string")),
                "required": _flag,
                "description": _text(300),
            },
            (),
        )


def _default_of(kind: Any) -> Check:
    def check(value: Any) -> str:
        if templating.has_template(value):
            return _default_template(value)
        fits = _FITS.get(kind) if isinstance(kind, str) else None
        return "" if not fits or fits(value) else f"{value!r} does not fit; expected a value of type {kind}"

    return check


def _default_template(value: Any) -> str:
    try:
        used = templating.variables(value)
    except DataError as error:
        return error.message
    for path in sorted(used):
        wrong = unknown_surrounding(path)
        if wrong:
            return f"{wrong}; a default may use {', '.join(sorted(set(SURROUNDINGS) - {'run'}))}"
        if path[0] == "run":
            return "a default is set before the run begins and cannot use run"
    return ""


def unknown_surrounding(path: tuple[str, ...]) -> str:
    """Return what is wrong with a path into now, slot, business or run, or ""."""
    if path[0] not in SURROUNDINGS:
        return f"unknown variable {'.'.join(path)!r}"
    known = SURROUNDINGS[path[0]]
    if len(path) > 1 and path[1] not in known:
        return f"unknown variable {'.'.join(path)!r}: {path[0]} has {', '.join(known) or 'no parts'}"
    return ""


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(date.fromisoformat(value))
    except ValueError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_FITS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "date": _is_date,
}


def _steps(steps: list[Any], inputs: Any) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for number, step in enumerate(steps):
        path = ("steps", number)
        if not isinstance(step, Mapping):
            yield Finding(path, f"a step has keys such as key, handler and with, not {_kind(step)}")
            continue
        yield from _fields(step, path, _STEP, _NEEDED["step"])
        yield from _step_key(step.get("key"), number, seen, inputs)


def _step_key(key: Any, number: int, seen: dict[str, int], inputs: Any) -> Iterator[Finding]:
    if not isinstance(key, str):
        return
    path: Path = ("steps", number, "key")
    if key in seen:
        yield Finding(path, f"the key {key!r} is that of step {seen[key] + 1} too; each step needs its own")
    elif key in RESERVED or key.startswith("customer_") or key == "crm_customer_id":
        yield Finding(path, f"the key {key!r} is reserved; call the step something else")
    elif isinstance(inputs, Mapping) and key in inputs:
        yield Finding(path, f"the key {key!r} is the name of an input too; call one of them something else")
    seen.setdefault(key, number)
