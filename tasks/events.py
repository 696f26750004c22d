"""Events: something happened outside, and runs start because of it or stop waiting for it.

A SOP starts by an event that its trigger names; its inputs are taken from the event by name. A run
that waits hears an event that a step of its SOP names, when the event is about the same things:
every id that both know (`quote_id`, `crm_customer_id`) is the same, and there is at least one.

Whoever receives an event twice does no harm: what makes it one event is its id, or what the SOP's
`once_per` says. An id is that of its source; a mail's Message-ID is the same whichever source tells it.
An event that is older than the one that started a run tells that run nothing, and one that came before
the run it is about is told when the run starts; of both only a time that the sender gave can say which
is older.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from credentials.vault import fingerprint
from sopengine.errors import DataError
from sopengine.models import Delivery
from tasks import context as values
from tasks import engine, inputs, journal, notices, templating
from tasks.definition import SopDef
from tasks.models import Sop, SopVersion, Task, TaskEvent
from tasks.plan import definition_of, surroundings

OPEN = (Task.Status.READY, Task.Status.RUNNING, Task.Status.WAITING, Task.Status.PAUSED)
LATE = timedelta(days=7)  # so long an event may be ahead of the one that starts its run
MOST_IDS = 10  # of one event that are looked for among the runs

_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*_id")
_LISTENING = ("event", "void_on")  # the parameters in which a step names what it listens to

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `id` is the same however often it is told; `data` may be a customer's.

    `task` is the one run that it is for, which only a signed token may say; `answers` the run whose mail
    it answers, though it is for all who want to know. `at` is when it happened, None where the sender does
    not tell. `writer` is who wrote the mail whose Message-ID is the id: both make it one in all sources.
    `words` says that it brings what somebody has written to us, which is not thrown away unread.
    """

    name: str
    id: str
    data: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    task: UUID | None = None
    at: datetime | None = None
    answers: UUID | None = None
    writer: str = ""
    words: bool = False

    def about(self) -> dict[str, str]:
        """Return the ids in its data by name: open codes that a run may know too."""
        found = {
            name: str(value)
            for name, value in self.data.items()
            if _NAME.fullmatch(name) and values.is_open_id(name, value)
        }
        return dict(sorted(found.items())[:MOST_IDS])


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of an event: the runs that were told or started, the SOPs that could not start with it, and
    whether any SOP wants to know of such events at all."""

    runs: int
    refused: int
    wanted: bool


def receive(event: Event) -> Heard:
    """Tell runs of the event and start those that it triggers.

    All or nothing, in the caller's transaction if there is one. A SOP that cannot start with this
    event is told to staff, and the others start all the same.
    """
    with transaction.atomic():
        told = _tell(event)
        began = [_start(sop, event) for sop in triggered(event)]
    wanted = bool(told or began or _versions_that_listen(event.name))
    return Heard(told + began.count(True), began.count(None), wanted)


# -- runs that listen ------------------------------------------------------------------------------


def _tell(event: Event) -> int:
    # A follow-up is a run of its own, begun by the one whose mail was answered, which is over by then.
    ids = [event.task, *journal.descendants([event.task])] if event.task else _listeners(event)
    return engine.signal(ids, "event", name=event.name) if ids else 0


def _listeners(event: Event) -> list[UUID]:
    """Return the open runs that listen to the event, are about the same, and did not begin after it."""
    about, versions = event.about(), _versions_that_listen(event.name)
    if not about or not versions:
        return []
    one_of_them = Q()
    for name, value in about.items():
        one_of_them |= Q(**{f"context__{name}": value})
        if value.isdigit() and len(value) < 16:
            one_of_them |= Q(**{f"context__{name}": int(value)})
    rows = Task.objects.filter(one_of_them, version__in=versions, status__in=OPEN)
    found = [pk for pk, context in rows.values_list("pk", "context") if _agree(context, about)]
    return sorted(set(found) - _begun_by_or_after(found, event))


def _versions_that_listen(name: str) -> list[int]:
    versions = SopVersion.objects.values_list("pk", flat=True)
    return [version for version in versions if name in listened(definition_of(version))]


def _agree(context: Mapping[str, Any], about: Mapping[str, str]) -> bool:
    """Whether every id that both know is the same."""
    return all(str(context[name]) == value for name, value in about.items() if context.get(name) is not None)


def _begun_by_or_after(tasks: Iterable[UUID], event: Event) -> set[UUID]:
    """Return those that this event itself has started, or one that happened after it."""
    rows = TaskEvent.objects.filter(task__in=list(tasks), seq=1).values_list("task_id", "data")
    return {
        task
        for task, origin in rows
        if origin.get("event") == _mark(event)
        or (event.at and origin.get("at") and datetime.fromisoformat(origin["at"]) > event.at)
    }


def _mark(event: Event) -> str:
    """Return what stands for this event wherever it must be known again, and says nothing."""
    return fingerprint(_identity(event))[:24]


def _identity(event: Event) -> str:
    """Return what makes it one event; another sender's mail is another one, whatever its Message-ID."""
    if event.writer:
        return f"mail by {event.writer.lower()}:{event.name}:{event.id}"
    return f"{event.source}:{event.name}:{event.id}"


def listened(sop: SopDef) -> frozenset[str]:
    """Return the names of the events to which the steps of a SOP listen."""
    return frozenset(
        name
        for step in sop.steps
        for param in _LISTENING
        for name in _words(step.params.get(param))
        if name and not templating.has_template(name)
    )


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [word for word in value if isinstance(word, str)] if isinstance(value, list | tuple) else []


# -- SOPs that it starts ---------------------------------------------------------------------------


def triggered(event: Event) -> list[Sop]:
    """Return the active SOPs whose trigger names this event and, if it names one, its source."""
    waiting = Sop.objects.filter(
        state=Sop.State.ACTIVE, published__isnull=False, published__definition__trigger__has_key="event"
    )
    return [sop for sop in waiting.select_related("published").order_by("pk") if _names(sop, event)]


def _names(sop: Sop, event: Event) -> bool:
    assert sop.published is not None
    trigger = sop.published.definition["trigger"]
    return event.name in _words(trigger["event"]) and trigger.get("source") in (None, "", event.source)


def _start(sop: Sop, event: Event) -> bool | None:
    """Start the run of this event; return whether it is new, None where it cannot start: staff hear of it."""
    assert sop.published is not None
    definition = definition_of(sop.published.pk)
    now = journal.database_now()
    try:
        given = _given(definition, event)
        key = _key(definition, given, event, now)
        by = f"event:{event.name}"
        task = engine.start(sop.published, given, key=key, slot=now, by=by, origin=_origin(event))
    except (engine.InputError, DataError) as error:
        _refused(sop, event, error)
        return None
    if task is not None:
        _tell_what_came_before(definition, task, event)
    return task is not None


def _origin(event: Event) -> dict[str, str]:
    """Return the codes by which the run's first event knows what began it."""
    origin = {"event": _mark(event)}
    if event.at:
        origin["at"] = event.at.isoformat()
    if event.answers:
        origin["answers"] = str(event.answers)
    return origin


def _given(sop: SopDef, event: Event) -> dict[str, Any]:
    """Return what the event says of the SOP's inputs; what is no input of it is left out."""
    given = {}
    for name, spec in sop.inputs.items():
        value = event.data.get(name)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_text = spec.get("type", "string") == "string"
        given[name] = str(value) if is_number and is_text else value
    return given


def _key(sop: SopDef, given: Mapping[str, Any], event: Event, now: datetime) -> str:
    """Return what must not start twice: what `once_per` makes of the inputs, else the event itself."""
    template = sop.trigger.get("once_per")
    if template:
        names = surroundings(now, now)
        once = templating.render(template, {**names, **inputs.bind(sop, given, names)})
        if once not in (None, ""):
            return f"once:{once}"
    return f"event:{_identity(event)}"


def _tell_what_came_before(sop: SopDef, task: Task, event: Event) -> None:
    """Tell a new run of events about it that were sent later, but came before the one that started it."""
    about, names = event.about(), listened(sop)
    if not about or not names or event.at is None:
        return
    early = Delivery.objects.filter(
        received_at__gt=journal.database_now() - LATE,
        state=Delivery.State.PROCESSED,
        headers__event__in=sorted(names),
    )
    for headers in early.order_by("received_at").values_list("headers", flat=True):
        theirs, at = headers.get("about", {}), headers.get("at")
        shared = [name for name in theirs if name in about]
        if at and shared and _agree(about, theirs) and datetime.fromisoformat(at) > event.at:
            engine.signal([task.pk], "event", name=headers["event"])


def _refused(sop: Sop, event: Event, error: Exception) -> None:
    log.warning("SOP %s not started by %s from %s: %s", sop.slug, event.name, event.source, error)
    notices.escalate(
        what=f"{sop.name} was not started by the event {event.name}.",
        why=str(error),
        machine="nothing; what came is kept for seven days.",
        do=(
            "correct what sends the event or the SOP's inputs, then process it anew under Webhooks in;"
            " or start the run by hand."
        ),
        dedupe=f"event:{sop.pk}:{_mark(event)}",
        fold=f"event:{sop.pk}:{event.name}",
    )
