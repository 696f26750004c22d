"""What a served mock is told to hold and to do wrong, from one small YAML file."""

import threading
from collections.abc import Mapping
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

`on` is a pattern over "METHOD /path", `call` counts the calls that fit it. `drop: before` cuts off
without applying. `delay` goes with any other fault; otherwise the first fault that fits wins.
"""


class ScenarioError(ValueError):
    """A scenario file is not what it must be; says where and why."""


class Fault(BaseModel):
    """One thing that goes wrong."""

    model_config = ConfigDict(extra="forbid")

    on: str = "*"
    call: int | str | None = None
    status: int | None = Field(default=None, ge=300, le=599)
    retry_after: int | str | None = None
    delay: float = Field(default=0.0, ge=0)
    drop: Literal["before", "after"] | None = None
    body: str | None = None

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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
