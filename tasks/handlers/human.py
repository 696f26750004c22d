"""Steps that stop for a person."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from tasks.calendars import parse_span
from tasks.outcome import Aside, Ask, DataError, Decision, Open, Option, Outcome, Person, StepRun, handler


def _checked_duration(text: str | int) -> str | int:
    parse_span(text)
    return text


Duration = Annotated[str | int, AfterValidator(_checked_duration)]
_WHO = r"^(group:)?[^\s:][^:]*$"
Who = Annotated[Person, StringConstraints(strip_whitespace=True, pattern=_WHO, max_length=150)]
EventName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]


class Draft(BaseModel):
    """What the customer would get."""

    model_config = ConfigDict(extra="ignore")

    to: str = ""
    subject: str = ""
    text: str = ""
    html: str = ""


class Choice(BaseModel):
    """One button; `outcome` is approve, edit, decline or the key of the step to go to."""

    model_config = ConfigDict(extra="forbid")

    key: str
    label: str
    outcome: Decision


class Answer(BaseModel):
    """The answer, with the text that was approved."""

    choice: Open[str]
    to: str
    subject: str
    text: str
    html: str


USUAL = (
    Choice(key="approve", label="Send as is", outcome="approve"),
    Choice(key="edit", label="Edit first", outcome="edit"),
    Choice(key="decline", label="Don't send", outcome="decline"),
)


@handler("human.ask", asks=True, results=Answer)
def ask(
    step: StepRun,
    *,
    question: str,
    draft: Draft | None = None,
    options: Sequence[Choice] = USUAL,
    channel: str = "",
    remind: Sequence[Duration] = ("2h", "20h"),
    escalate: Duration | None = "24h",
    expire: Duration | None = "48h",
    then: Literal["decline", "escalate", "continue"] = "decline",
    who: Sequence[Who] = (),
    not_asker: bool = False,
    void_on: Sequence[EventName] = (),
    void_to: Aside = "complete",
    expired_to: Aside | None = None,
) -> Outcome:
    """Ask a person and wait for the answer.

    `draft` is what the customer would get; what is approved is what later steps send. Times count
    from the question; `then` says what happens when nobody has answered until `expire`, and with
    `expired_to` the run goes on there, with nothing approved. Only `who` (logins, or `group:office`)
    may answer, and with `not_asker` never the one who started the run. An event in `void_on` withdraws
    the question: the run goes on at `void_to`.
    """
    _check(question, options)
    return Ask(
        question=question,
        options=[Option(key=o.key, label=o.label, outcome=o.outcome) for o in options],
        draft=draft.model_dump() if draft else {},
        channel=channel or step.channel,
        remind_after=[_seconds(step, after) for after in remind],
        escalate_after=None if escalate is None else _seconds(step, escalate),
        expire_after=None if expire is None else _seconds(step, expire),
        then=then,
        who=list(who),
        not_asker=not_asker,
        void_on=list(void_on),
        void_to=void_to,
        expired_to=expired_to or "",
    )


def _check(question: str, options: Sequence[Choice]) -> None:
    keys = [option.key for option in options]
    if not question.strip():
        raise DataError("The question is empty.")
    if not keys:
        raise DataError("A question needs at least one option.")
    if len(set(keys)) < len(keys):
        raise DataError("Two options have the same key; each needs its own.")


def _seconds(step: StepRun, span: str | int) -> float:
    """Return the real seconds of a span from now; "2 working days" ends on a day that is one."""
    return (step.calendar.later(step.now, span) - step.now).total_seconds()
