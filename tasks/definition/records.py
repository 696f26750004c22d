"""A SOP as plain values: what a file, a draft's rows and a published version have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

NEXT = "next"
COMPLETE = "complete"


@dataclass(frozen=True)
class StepDef:
    """One step: which handler does it, with what, and where the run goes from here.

    `timeout` is in seconds; `rate` is "30/minute". An empty `on_failure` leaves it to the engine.
    """

    key: str
    name: str
    handler: str
    params: Mapping[str, Any] = field(default_factory=dict)
    on_success: str = NEXT
    on_failure: str = ""
    max_retries: int = 3
    timeout: float | None = None
    rate: str = ""


@dataclass(frozen=True)
class SopDef:
    """One procedure, whole. `trigger` and `inputs` are as in the file; `priority` is 0, 1 or 2."""

    slug: str
    name: str
    description: str = ""
    channel: str = ""
    trigger: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    autonomous: bool = False
    priority: int = 1
    steps: tuple[StepDef, ...] = ()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {step.key: place for place, step in enumerate(self.steps)}

    def __contains__(self, key: object) -> bool:
        return key in self._places

    @property
    def first(self) -> str:
        """Return the key of the step that a run begins with."""
        return self.steps[0].key

    def step(self, key: str) -> StepDef:
        """Return the step called `key`, or raise KeyError."""
        return self.steps[self._places[key]]

    def after(self, key: str) -> str | None:
        """Return the key of the step that stands below `key`, or None below the last."""
        place = self._places[key] + 1
        return self.steps[place].key if place < len(self.steps) else None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a SOP and where; `line` and `column` count from 1, 0 where there is no file."""

    message: str
    source: str = ""
    line: int = 0
    column: int = 0
    step: str = ""
    key: str = ""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        where = [f"step {self.step!r}"] if self.step else []
        where += [self.key] if self.key else []
        return ": ".join(part for part in (place, ", ".join(where), self.message) if part)


class DefinitionError(ValueError):
    """A SOP that must not be saved or published, with every problem found in it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


STEP_DEFAULTS: dict[str, Any] = {
    "name": "",
    "with": {},
    "on_success": NEXT,
    "on_failure": "",
    "max_retries": 3,
    "timeout": None,
    "rate": "",
}
SOP_DEFAULTS: dict[str, Any] = {
    "description": "",
    "channel": "",
    "trigger": {},
    "inputs": {},
    "autonomous": False,
    "priority": 1,
}


def to_json(sop: SopDef) -> dict[str, Any]:
    """Return the definition as JSON values, with the keys of the SOP file; defaults are left out."""
    values: dict[str, Any] = {"sop": sop.slug, "name": sop.name}
    for key, default in SOP_DEFAULTS.items():
        value = getattr(sop, key)
        if value != default:
            values[key] = value
    values["steps"] = [_step_to_json(step) for step in sop.steps]
    return values


def _step_to_json(step: StepDef) -> dict[str, Any]:
    values: dict[str, Any] = {"key": step.key}
    if step.name:
        values["name"] = step.name
    values["handler"] = step.handler
    for key, default in STEP_DEFAULTS.items():
        value = step.params if key == "with" else getattr(step, key)
        if value != default:
            values[key] = value
    return values


def from_json(values: Mapping[str, Any]) -> SopDef:
    """Return the definition that `to_json` wrote; what is left out has its default. Checks nothing."""
    return SopDef(
        slug=values["sop"],
        name=values.get("name", ""),
        description=values.get("description", ""),
        channel=values.get("channel", ""),
        trigger=values.get("trigger", {}),
        inputs=values.get("inputs", {}),
        autonomous=values.get("autonomous", False),
        priority=values.get("priority", 1),
        steps=tuple(_step_from_json(step) for step in values["steps"]),
    )


def _step_from_json(values: Mapping[str, Any]) -> StepDef:
    return StepDef(
        key=values["key"],
        handler=values["handler"],
        name=values.get("name", ""),
        params=values.get("with", {}),
        on_success=values.get("on_success", NEXT),
        on_failure=values.get("on_failure", ""),
        max_retries=values.get("max_retries", 3),
        timeout=values.get("timeout"),
        rate=values.get("rate", ""),
    )
