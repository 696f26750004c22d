"""What the author of a handler imports.

A handler is a plain function. It gets the step it serves and the step's parameters, talks to the
world if it must, and returns one outcome or raises a StepError. It never touches the database:
what it wants written travels in the outcome.

    @handler("chat.post", calls=False)
    def post(step: StepRun, *, text: str, channel: str = "") -> Outcome:
        '''Post one message to the staff chat.'''
        return Done(notify=(Notice(text=text, channel=channel or step.channel),))

The keyword-only parameters, with their types, are the step's `with:` schema.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args, get_type_hints
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from crm.service import CrmService
from sopengine.errors import (
    AuthError,
    DataError,
    Held,
    Outdated,
    Permanent,
    RateLimited,
    StepError,
    Transient,
    Unclear,
    Unsupported,
)
from sopengine.registry import Registry
from tasks.business_hours import Calendar, usual

__all__ = [
    "AfterRest",
    "Aside",
    "Ask",
    "AuthError",
    "Branch",
    "Child",
    "Contact",
    "Continue",
    "DataError",
    "Deadline",
    "Decision",
    "Done",
    "Effect",
    "Handler",
    "Held",
    "MessageName",
    "MoreNames",
    "Notice",
    "Open",
    "Option",
    "Outcome",
    "Outdated",
    "Permanent",
    "Person",
    "RateLimited",
    "RawTemplate",
    "RowTemplate",
    "Start",
    "StepError",
    "StepRun",
    "Target",
    "Transient",
    "Unclear",
    "Unsupported",
    "Wait",
    "handler",
    "handlers",
]


class Effect(StrEnum):
    """What a repeat of the step would do to the world; see `docs/` on unknown outcomes."""

    NONE = "none"
    IDEMPOTENT = "idempotent"
    VERIFY_FIRST = "verify_first"
    AT_MOST_ONCE = "at_most_once"


class _OpenMark:
    """Marks a field of a result model that holds no customer data (ids, counts, flags, codes)."""


class _RawMark:
    """Marks a template that reaches the handler unrendered, because the handler knows how to render it."""


class _RowMark(_RawMark):
    """Marks a template that the handler renders once for each row it lists."""


@dataclass(frozen=True, slots=True)
class TargetMark:
    """Marks a value that names where the run goes: a step key, "next", "complete" or one of `words`.

    `aside`: the run goes there without the step having done its work; `rested`: only after a rest.
    """

    words: frozenset[str] = frozenset()
    aside: bool = False
    rested: bool = False


class MessageMark:
    """Marks a value that names a folder under `templates/messages`."""


class NamesMark:
    """Marks a mapping whose keys are more names for the templates that the handler renders itself."""


class PersonMark:
    """Marks a value that names a login, or a group as `group:<name>`."""


def _with_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a moment needs its time zone")
    return moment


T = TypeVar("T")
Open = Annotated[T, _OpenMark()]
Target = Annotated[str, TargetMark()]
Aside = Annotated[str, TargetMark(aside=True)]
AfterRest = Annotated[str, TargetMark(aside=True, rested=True)]
Decision = Annotated[str, TargetMark(frozenset({"approve", "edit", "decline"}))]
MessageName = Annotated[str, MessageMark()]
Person = Annotated[str, PersonMark()]
MoreNames = Annotated[dict[str, Any], NamesMark()]
RawTemplate = Annotated[str, _RawMark()]
RowTemplate = Annotated[str, _RowMark()]
# What a RowTemplate may name besides the step's own context; `row` has the record's id and codes.
ROW_NAMES = frozenset({"crm_customer_id", "row"})
# What a step that drafts puts into its templates besides the step's own context.
DRAFT_NAMES = frozenset({"unsubscribe_url"})


# -- what a handler may answer ---------------------------------------------------------------


STRICT = ConfigDict(strict=True, revalidate_instances="always", arbitrary_types_allowed=True)
LONGEST = 10 * 366 * 86_400.0  # seconds; nobody waits longer
Seconds = Annotated[float, Field(ge=0, le=LONGEST, allow_inf_nan=False)]
Delay = Annotated[timedelta, Field(ge=timedelta(0), le=timedelta(seconds=LONGEST))]
Moment = Annotated[datetime, AfterValidator(_with_zone)]


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to staff, posted through the outbox. `severity`: info, warning, error, critical.

    Notices with the same `dedupe` are posted once; those with the same `fold` become one with a count
    when they come within a quarter of an hour.
    """

    text: str
    channel: str = ""
    severity: str = "info"
    dedupe: str = ""
    fold: str = ""


@dataclass(frozen=True, slots=True)
class Child:
    """One child task: the SOP's slug, its inputs, and the key that makes it unique for ever.

    With no key the parent and `crm_customer_id` (or the inputs) make it unique. `filters` are those
    that its customer passed in the listing: they are asked again before something is sent.
    """

    sop: str
    inputs: Mapping[str, Any]
    key: str = ""
    filters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Option:
    """One button of an approval. `outcome`: approve, edit, decline, or a step key to go to."""

    key: str
    label: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Done:
    """The step is done; `values` become the step's result, addressed by its key.

    Keys that begin with `customer_` (and `crm_customer_id`) are kept at the top of the context
    instead. `result` says what the whole run has come to so far: sent, skipped, ...
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    result: str = ""
    notify: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a moment (`until`), a time (`delay`), or an `event` with either as its deadline.

    The step's result is then {"event": name or None, "timed_out": bool}.
    """

    until: Moment | None = None
    delay: Delay | None = None
    event: str = ""
    notify: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """Put a question to a person and wait.

    `draft` is what the customer would get: {"to", "subject", "text", "html"}. Times are seconds
    after asking; `then` is what happens when nobody answers: decline, escalate or continue; with
    `expired_to` the run goes on there instead.
    `who` are logins and `group:<name>`: only they may answer; `not_asker`: never the one who started
    the run. Any event in `void_on` withdraws the question, and the run goes on at `void_to`.
    The step's result is then {"choice": key, and the approved draft}.
    """

    question: str
    options: Sequence[Option]
    draft: Mapping[str, str] = field(default_factory=dict)
    channel: str = ""
    remind_after: Sequence[Seconds] = ()
    escalate_after: Seconds | None = None
    expire_after: Seconds | None = None
    then: Literal["decline", "escalate", "continue"] = "decline"
    who: Sequence[str] = ()
    not_asker: bool = False
    void_on: Sequence[str] = ()
    void_to: str = "complete"
    expired_to: str = ""
    notify: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """Go to the step `to`, to "next", or to "complete", which ends the run with `result`.

    `why` is a code that the run's story tells as the reason.
    """

    to: str
    result: str = ""
    why: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    notify: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Start children, and wait until none is open unless `wait` is off.

    The step's result, and `children` at the top of the context, are then counts by result:
    {"total": 7, "sent": 5, "declined": 1, "skipped": 1, ...}. `gather` names a step of theirs: `rows`
    then has the open part of its result, of each child that came through it, with its `crm_customer_id`.
    """

    children: Sequence[Child]
    wait: bool = True
    gather: str = ""
    notify: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Continue:
    """One page is done: start its children and call this handler again with `cursor`.

    The children become due only when the listing is complete, that is with `Start`.
    """

    cursor: str
    children: Sequence[Child]
    notify: Sequence[Notice] = ()


Outcome = Done | Wait | Ask | Branch | Start | Continue
for _kind in (Notice, Child, Option, Done, Wait, Ask, Branch, Start, Continue):
    setattr(_kind, "__pydantic_config__", STRICT)  # noqa: B010 - pydantic reads it off plain dataclasses
_checkers: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Done, Wait, Ask, Branch, Start, Continue)
}


def checked(outcome: object) -> Outcome:
    """Return the outcome, or raise DataError that names the field which is not what its type says."""
    if type(outcome) is Done and not outcome.values and not outcome.result and outcome.notify == ():
        return outcome  # nothing in it to look at: the most frequent answer
    checker = _checkers.get(type(outcome))
    if checker is None:
        raise DataError(f"the answer is {type(outcome).__name__}, which is no outcome", code="bug")
    try:
        return checker.validate_python(outcome)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
        raise DataError(f"{type(outcome).__name__}.{where}: {first['type']}", code="bug") from None


# -- what a handler gets ---------------------------------------------------------------------


class Deadline(Protocol):
    """How long this step may still take; known to everything that sends."""

    def remaining(self) -> float:
        """Return the seconds left, never negative."""

    def check(self) -> None:
        """Raise Transient (nothing sent) when the time is over or the step is no longer ours."""


@dataclass(frozen=True, slots=True)
class Contact:
    """What the engine knows of the person whom a step writes to, or is about.

    `last` is when that was for the last time, by kind (marketing, review); `unsubscribed`: wants no
    marketing mail; `unsubscribe_url` is where one says so, "" where that need not be offered; `escalated`:
    another run about this customer has called for a person and waits.
    """

    last: Mapping[str, datetime] = field(default_factory=dict)
    unsubscribed: bool = False
    unsubscribe_url: str = ""
    escalated: bool = False


@dataclass(frozen=True, slots=True)
class StepRun:
    """One run of one step, as its handler sees it.

    `context` has the run's inputs, the cached `customer_` fields and each earlier step's result
    by key. `now` is when the step began: the same at every repeat. `cursor` is what this step's
    own last `Continue` said. `filters` are those by which a listing found this run's customer.
    `contact` is known to steps that send, and to those that are registered with `contacts`.
    """

    task_id: UUID
    sop: str
    step: str
    visit: int
    channel: str
    context: Mapping[str, Any]
    now: datetime
    crm: CrmService
    deadline: Deadline
    cursor: str = ""
    retries: int = 0
    filters: Mapping[str, Any] = field(default_factory=dict)
    contact: Contact = field(default_factory=Contact)
    days_off: Mapping[date, str] = field(default_factory=dict)

    @property
    def calendar(self) -> Calendar:
        """Return when the business is open, and when it writes to customers."""
        return usual(self.days_off)

    def key(self, name: str = "") -> str:
        """Return the idempotency key of one write of this step: the same at every repeat."""
        return ":".join(filter(None, (str(self.task_id), self.step, str(self.visit), name)))


# -- how a handler is registered ---------------------------------------------------------------

Run = Callable[..., Outcome]
Look = Callable[..., Outcome | None]


@dataclass(frozen=True, slots=True)
class Handler:
    """The code behind a step, with what the engine and the SOP editor must know of it."""

    name: str
    run: Run
    params: type[BaseModel]
    results: type[BaseModel] | None
    effect: Effect
    look: Look | None
    calls: bool
    crm: bool
    sends: bool
    asks: bool
    drafts: bool
    waits: bool
    rechecks: bool
    sets: tuple[str, ...]
    open_fields: frozenset[str]
    raw_params: frozenset[str]
    row_params: frozenset[str]
    summary: str
    contacts: bool = False


handlers: Registry[Handler] = Registry("handler")


def handler(
    name: str,
    *,
    effect: Effect | str = Effect.NONE,
    look: Look | None = None,
    results: type[BaseModel] | None = None,
    calls: bool | None = None,
    crm: bool = False,
    sends: bool = False,
    asks: bool = False,
    drafts: bool = False,
    waits: bool = False,
    rechecks: bool = False,
    sets: Sequence[str] = (),
    contacts: bool = False,
) -> Callable[[Run], Run]:
    """Register the function under `name`.

    effect   what a repeat would do; `look(step, **params)` is asked before every repeat of a
             `verify_first` step and returns the outcome it found, or None to send
    results  the model of the values in `Done`; fields marked `Open[...]` are kept readable
    calls    talks to the world, so it runs in a thread; by default: any effect, or the CRM
    crm      needs the CRM: held while the CRM is away
    rechecks uses the CRM too, but only for some of its runs: it is not held beforehand
    sends    a customer sees the effect   asks   stops for a person   waits   stops for time
    drafts   writes a text to a customer, which a person may have to see again
    sets     top-level names it puts into the context besides its own key
    contacts is told when this run's customer was last written to
    """

    def add(run: Run) -> Run:
        kind = Effect(effect)
        if kind is Effect.VERIFY_FIRST and look is None:
            raise ValueError(f"handler {name!r} is verify_first and has no look")
        handlers.register(name)(
            Handler(
                name=name,
                run=run,
                params=_params_of(name, run),
                results=results,
                effect=kind,
                look=look,
                calls=(kind is not Effect.NONE or crm) if calls is None else calls,
                crm=crm,
                sends=sends,
                asks=asks,
                drafts=drafts,
                waits=waits,
                rechecks=rechecks,
                sets=tuple(sets),
                open_fields=_open_fields(results),
                raw_params=_marked_params(run, _RawMark),
                row_params=_marked_params(run, _RowMark),
                summary=(inspect.getdoc(run) or "").split("\n")[0],
                contacts=contacts,
            )
        )
        return run

    return add


def _params_of(name: str, run: Run) -> type[BaseModel]:
    """Return a model of the function's keyword-only parameters."""
    hints = get_type_hints(run, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(run).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _marked_params(run: Run, mark: type) -> frozenset[str]:
    """Return the names of the parameters whose type carries `mark`, inside a list or a dict too."""
    hints = get_type_hints(run, include_extras=True)
    return frozenset(name for name, hint in hints.items() if name != "return" and _carries(hint, mark))


def _carries(hint: Any, mark: type) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return any(isinstance(m, mark) for m in marks) or any(_carries(part, mark) for part in get_args(hint))


def _open_fields(results: type[BaseModel] | None) -> frozenset[str]:
    if results is None:
        return frozenset()
    return frozenset(
        name
        for name, info in results.model_fields.items()
        if any(isinstance(mark, _OpenMark) for mark in info.metadata)
    )
