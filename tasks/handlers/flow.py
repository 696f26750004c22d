"""Steps that decide where a run goes and when."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from django.conf import settings
from pydantic import AfterValidator, BaseModel, ConfigDict

from tasks import conditions
from tasks.calendars import parse_span
from tasks.outcome import Branch, Child, DataError, Open, Outcome, Start, StepRun, Target, Wait, handler


def _checked_duration(text: str | int) -> str | int:
    parse_span(text)
    return text


Duration = Annotated[str | int, AfterValidator(_checked_duration)]


class Rule(BaseModel):
    """When the condition holds, the run goes to `to`; `result` says what it has come to, `why` is a code."""

    model_config = ConfigDict(extra="forbid")

    when: conditions.Condition
    to: Target
    result: str = ""
    why: str = ""


@handler("flow.branch")
def branch(step: StepRun, *, rules: Sequence[Rule], default: Target = "next", result: str = "") -> Outcome:
    """Go where the first rule that holds says; to `default`, with `result`, when none does."""
    for rule in rules:
        if conditions.holds(rule.when, step.context):
            return Branch(to=rule.to, result=rule.result, why=rule.why)
    return Branch(to=default, result=result)


class Waited(BaseModel):
    """What ended the wait: the event, or None and `timed_out`."""

    event: Open[str | None]
    timed_out: Open[bool]


@handler("flow.wait", waits=True, results=Waited)
def wait(
    step: StepRun,
    *,
    duration: Duration | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    before: Duration | None = None,
    window: Literal["", "sending", "waking", "business"] = "",
    event: str = "",
) -> Outcome:
    """Wait for a time: `duration` from now or `since`, or `until` a moment; with `event` as a deadline.

    "5 days" are calendar days at the same wall clock, "2 working days" those on which the business is
    open, "24h" is real time. `before` ends the wait so long before `until`. With `window` a wait that
    would end outside it ends at its next opening.
    """
    if (duration is None) == (until is None):
        raise DataError("A wait needs either duration or until; with an event it is the deadline.")
    if before is not None and until is None:
        raise DataError("before says how long before until the wait ends; it needs until.")
    if since is not None and duration is None:
        raise DataError("since says from when the duration counts; it needs one.")
    begin = _moment(since, "since") if since is not None else step.now
    end = _moment(until) if until is not None else step.calendar.later(begin, duration or 0)
    if before is not None:
        end = step.calendar.earlier(end, before)
    return Wait(until=step.calendar.opening(end, window) if window else end, event=event)


def _moment(value: datetime | str, name: str = "until") -> datetime:
    """Return the moment in UTC; without a zone it is the business's own, a bare date its midnight."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError:
        raise DataError(
            f"{name} is no date; expected a date or a moment such as 2030-05-31 or 2030-05-31T09:00."
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(settings.TIME_ZONE))
    return moment.astimezone(UTC)


class Started(BaseModel):
    """How the started runs ended: their number, and their counts by result."""

    total: Open[int]


@handler("flow.start", results=Started, sets=("children",))
def start(
    step: StepRun, *, sop: str, inputs: dict[str, Any] | None = None, wait: bool = True, once_per: str = ""
) -> Outcome:
    """Start a run of another procedure, and wait for its end unless `wait` is off.

    `once_per` names what must never be started twice; without it, once per visit of this step. The
    filters by which a listing found this run's customer hold for the new run too.
    """
    key = f"{sop}:{once_per}" if once_per else step.key(sop)
    return Start([Child(sop=sop, inputs=inputs or {}, key=key, filters=step.filters)], wait=wait)
