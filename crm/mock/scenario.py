"""What a served mock is told to hold and to do wrong: from one small YAML file, or by name."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

HELP = """\
A scenario is a YAML file; every part may be left out:

  api_key: secret-1          only this bearer key is accepted (else: any)
  ignore_keys: true          Idempotency-Key is not honoured
  customers:                 rows to add, each with its id; dates may be offsets from today
    - {id: cus_9001, name: Eva Probe, status: past, services: [fertilizer],
       last_service_date: {$days: -200}, signed_seasons: [{$year: -1}]}
  invoices: []               also quotes and appointments
  faults:
    - {call: 3, status: 503}                          the third call fails
    - {call: 2-4, status: 429, retry_after: 7}        calls two to four are put off
    - {on: "POST */notes", call: 1, drop: after}      applied, then cut off without an answer
    - {on: "GET */customers/*", delay: 2.5}           every such call waits, in seconds
    - {call: 5, body: "<html>down</html>"}            answered with this text as HTML
    - {spoil: truncated}                              applied, the answer is cut off in its middle
    - {spoil: missing_field, field: name}             applied, each record of the answer lacks this field

`on` is a pattern over "METHOD /path", `call` counts the calls that fit it. `drop: before` cuts off
without applying. `spoil` is truncated, wrong_type, missing_field or not_a_list, and `field` the one that
is spoiled. `delay` goes with any other fault; otherwise the first fault that fits wins.
"""
Spoil = Literal["truncated", "wrong_type", "missing_field", "not_a_list"]


class ScenarioError(ValueError):
    """A scenario file is not what it must be; says where and why."""


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are a yes or no: `on` is a name here."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if first in "tTfF" or not tag.endswith(":bool")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Fault(BaseModel):
    """One thing that goes wrong."""

    model_config = ConfigDict(extra="forbid")

    on: str = "*"
    call: int | str | None = None
    status: int | None = Field(default=None, ge=300, le=599)
    retry_after: int | str | None = None
    delay: float = Field(default=0.0, ge=0, le=86_400)
    drop: Literal["before", "after"] | None = None
    body: str | None = None
    spoil: Spoil | None = None
    field: str = ""

    _first: int = PrivateAttr(default=1)
    _last: int | None = PrivateAttr(default=None)
    _calls: int = PrivateAttr(default=0)

    def model_post_init(self, _context: Any, /) -> None:
        """Read `call`: a number, a range such as 2-4, an open range such as 5-, or nothing for all."""
        if self.call is None:
            return
        first, dash, last = str(self.call).partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ValueError("call must be a number or a range such as 2-4")
        self._first = int(first)
        self._last = (int(last) if last else None) if dash else self._first

    def strikes(self, request: str) -> bool:
        """Count the request if it fits, and say whether this one is to go wrong."""
        if not fnmatchcase(request, self.on):
            return False
        self._calls += 1
        return self._calls >= self._first and (self._last is None or self._calls <= self._last)


class Scenario(BaseModel):
    """A whole scenario; without anything: a CRM that behaves."""

    model_config = ConfigDict(extra="forbid")

    api_key: str = ""
    ignore_keys: bool = False
    customers: list[dict[str, Any]] = []
    invoices: list[dict[str, Any]] = []
    quotes: list[dict[str, Any]] = []
    appointments: list[dict[str, Any]] = []
    faults: list[Fault] = []

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def rows(self) -> Mapping[str, list[dict[str, Any]]]:
        """Return the rows to load, by entity."""
        return {name: getattr(self, name) for name in ("customers", "invoices", "quotes", "appointments")}

    def faults_of(self, request: str) -> list[Fault]:
        """Return the faults that strike this request ("METHOD /path"), in the file's order."""
        if not self.faults:
            return []
        with self._lock:
            return [fault for fault in self.faults if fault.strikes(request)]


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file; ScenarioError says what is wrong and where."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ScenarioError(f"{path}: this is not YAML{where}") from None
    try:
        return Scenario.model_validate(content or {})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ScenarioError(f"{path}: {place}: {first['msg']}") from None


# -- faults by name --------------------------------------------------------------------------------

HANGS = 120.0  # seconds without an answer: longer than anybody waits


@dataclass(frozen=True, slots=True)
class Named:
    """One fault that has a name: what it does, and what the value after its name becomes."""

    does: str
    example: str
    fault: Callable[[str], Mapping[str, Any]]
    takes: Literal["", "a value", "a value that must be given"] = ""


def _status(number: int) -> Callable[[str], Mapping[str, Any]]:
    return lambda _: {"status": number}


def _spoilt(how: Spoil, field: str = "") -> Callable[[str], Mapping[str, Any]]:
    return lambda value: {"spoil": how, "field": value or field}


FAULTS: Mapping[str, Named] = {
    "timeout": Named(
        f"no answer for so many seconds ({HANGS:g}), then cut off without applying",
        "--fault timeout",
        lambda value: {"delay": value or HANGS, "drop": "before"},
        "a value",
    ),
    "slow": Named(
        "every answer comes so many seconds late",
        "--fault slow=2.5",
        lambda value: {"delay": value},
        "a value that must be given",
    ),
    "drop": Named(
        "cut off without applying",
        "--fault 'drop@POST *'",
        lambda _: {"drop": "before"},
    ),
    "drop-after": Named(
        "applied, then cut off without an answer",
        "--fault 'drop-after@POST */notes'",
        lambda _: {"drop": "after"},
    ),
    "500": Named("an error inside the CRM", "--fault 500", _status(500)),
    "503": Named("the CRM is being maintained", "--fault 503", _status(503)),
    "404": Named("nothing is there", "--fault '404@GET */customers/*'", _status(404)),
    "401": Named("the login is not accepted", "--fault 401", _status(401)),
    "403": Named("the login does not allow it", "--fault '403@PATCH *'", _status(403)),
    "429": Named(
        "a pause is asked for: seconds, a date, or whatever a Retry-After may say",
        "--fault 429=30",
        lambda value: {"status": 429, "retry_after": value or None},
        "a value",
    ),
    "html": Named(
        "a page for people instead of JSON",
        "--fault html",
        lambda _: {"body": "<!doctype html><title>Down</title><p>We are back soon."},
    ),
    "truncated": Named(
        "applied, the answer is cut off in its middle",
        "--fault truncated",
        _spoilt("truncated"),
    ),
    "wrong-type": Named(
        "applied, a field of each record (name) is an object",
        "--fault wrong-type=services",
        _spoilt("wrong_type", "name"),
        "a value",
    ),
    "missing-field": Named(
        "applied, a field of each record (id) is left out",
        "--fault missing-field=name",
        _spoilt("missing_field", "id"),
        "a value",
    ),
    "not-a-list": Named(
        "applied, an object stands where a list belongs, and a list where an object does",
        "--fault not-a-list",
        _spoilt("not_a_list"),
    ),
}
FAULTS_HELP = """\
--fault NAME[=VALUE][@PATTERN] may be given several times; PATTERN is over "METHOD /path", all calls without
it. The first that fits wins, before those of the scenario.

""" + "".join(f"  {name:<14}{named.does}\n  {'':<14}{named.example}\n" for name, named in FAULTS.items())


def fault_named(text: str) -> Fault:
    """Return the fault that NAME[=VALUE][@PATTERN] means; ScenarioError says what is wrong with it."""
    told, at, pattern = text.partition("@")
    name, equals, value = told.partition("=")
    named = FAULTS.get(name)
    if named is None:
        raise ScenarioError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    if at and not pattern.strip():
        raise ScenarioError(f"{text!r}: after @ belongs a pattern such as 'GET */customers/*'")
    if equals and not (value and named.takes):
        raise ScenarioError(f"{text!r} is not usable; expected such as {named.example}")
    if not value and named.takes == "a value that must be given":
        raise ScenarioError(f"{text!r} needs a value; expected such as {named.example}")
    try:
        return Fault.model_validate({"on": pattern.strip() or "*", **named.fault(value)})
    except ValidationError:
        raise ScenarioError(f"{text!r} is not usable; expected such as {named.example}") from None
