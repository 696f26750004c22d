"""What happened to a run, told as sentences: events in, lines out.

An event holds ids and codes only, so a line can be shown to anybody who may see the run. A kind
or a code that is not known here is still told, in its own words.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.utils import timezone

from crm import health
from tasks.models import Task, TaskEvent

# What a reader who asks "what happened?" does not need: folded under the line before.
QUIET = frozenset({"claimed", "started", "crm_called", "handed_back", "ignored", "paced", "released"})
MOST_LINES = 1000
USER = "user:"  # how the start of a run names the person who started it

REASONS: Mapping[str, str] = {
    "asked_recently": "the customer was asked not long ago",
    "answered_recently": "this address had an answer of ours not long ago",
    "frequency_cap": "the customer had a marketing mail not long ago",
    "settled": "what it is about is settled",
    "subject_changed": "what it is about has changed since a person approved",
    "unsubscribed": "the customer has unsubscribed",
    "void": "something has happened meanwhile that makes it needless",
    "window": "mail to customers does not leave at this hour",
    "address_changed": "the customer's address has changed since a person approved",
    "auth": "the other system does not accept our login",
    "cancelled": "cancelled by staff",
    "data": "a value is not what was expected",
    "data_expired": "its customer details were kept as long as they may be",
    "bad_coding": "the other system's answer could not be read",
    "bad_header": "the request could not be sent as it stood",
    "bad_json": "the other system's answer could not be read",
    "bad_request": "the request could not be sent as it stood",
    "connect_timeout": "the other system could not be reached",
    "deadline": "it took too long",
    "do_not_contact": "the customer wants no mail",
    "dropped": "the other system broke the connection",
    "expired": "nobody answered in time",
    "bug": "the step has a bug",
    "complaint": "the customer has complained, or something about this customer waits for a person",
    "credential_unreadable": "our login for the other system cannot be opened",
    "customer_gone": "the customer is no longer in the CRM",
    "forbidden": "the other system knows us and does not allow this",
    "another_name": "the CRM has somebody of another name with this mail or phone",
    "entering": "another run was entering the same person",
    "field_map": "the field map between the CRM and us cannot be used",
    "filter_ignored": "the CRM returned records that were not asked for",
    "held": "calls to the CRM are held",
    "handler_missing": "this kind of step no longer exists",
    "inputs": "a run that it should start does not take these inputs",
    "lost_lease": "another worker had the run",
    "no_token": "the login server of the other system gave no token",
    "no_credential": "no login for the other system is stored",
    "not_found": "the other system does not have what this is about",
    "not_json": "the other system answered with something else than data",
    "no_sop": "a procedure that it should start does not exist",
    "no_address": "the customer has no mail address",
    "no_step": "it should go on at a step that does not exist",
    "refused": "the database could not store the result",
    "signed": "the customer has signed up for this season already",
    "sop_not_active": "a procedure that it should start is not active",
    "undeclared": "the step uses the CRM without having said so",
    "vault": "its values cannot be opened: a key is missing",
    "outdated": "what a person approved is no longer so",
    "outside_filter": "the customer is no longer among those whom this is for",
    "reauth": "the other system no longer accepts the consent that was given",
    "redirect": "the other system answered with another address",
    "shape": "the other system's answer is not what was agreed",
    "timeout": "the other system did not answer in time",
    "too_large": "the other system's answer is too large",
    "two_found": "the CRM has two records of which it could be either",
    "unclear": "it cannot be told whether this was done before",
    "unreachable": "the other system could not be reached",
    "worker_lost": "the worker stopped while doing it",
    "overdue_invoice": "the customer owes an invoice that is overdue",
    "outcome_unknown": "it is not known whether this was sent",
    "pages": "the other system's list has no end",
    "paused": "paused by staff",
    "permanent": "the other system refused",
    "quarantined": "three workers stopped while doing this step",
    "rate_limited": "the other system asked us to slow down",
    "transient": "the other system did not answer",
    "unsupported": "this CRM cannot do that",
    "values_gone": "the customer details it needs were already removed",
    "values_kept_long_enough": "its customer details were kept as long as they may be",
}
RESULTS: Mapping[str, str] = {
    "answered_elsewhere": "it was settled before anybody had answered",
    "auto_reply": "an automatic mail; nothing was done",
    "by_hand": "left to a person",
    "cancelled": "cancelled",
    "cold": "the lead is cold",
    "complaint": "a complaint; a person was called",
    "customer_gone": "the customer is no longer in the CRM",
    "declined": "declined, nothing was sent",
    "done": "done",
    "expired": "nobody answered, nothing was sent",
    "failed": "failed",
    "no_answer": "no answer came",
    "no_quote": "no quote went out in time; a person was called",
    "paid": "paid before anything had to be sent",
    "quote_gone": "the quote is no longer in the CRM",
    "quoted": "a quote went out in time",
    "replied": "the customer has answered",
    "sent": "sent",
    "settled": "settled before anything was sent",
    "signed": "the customer has signed up",
    "skipped": "skipped",
    "spam": "nothing for us; nothing was done",
}
NOBODY_ANSWERS: Mapping[str, str] = {
    "decline": "nobody answering means it is not sent",
    "escalate": "nobody answering means it stops and a person is told",
    "continue": "nobody answering means the run goes on without an answer",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence of a run's story. `severity`: info, good, warning or error; `detail` may be empty."""

    at: datetime
    text: str
    detail: str
    kind: str
    severity: str

    @property
    def quiet(self) -> bool:
        """Return whether the line is folded under the one before."""
        return self.kind in QUIET and self.severity == "info"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line with the quiet ones that follow it; `gap` says how long nothing happened before it."""

    line: Line
    details: list[Line] = field(default_factory=list)
    gap: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """What the ids and keys in events are called: steps by key, people by id, choices by (approval, key)."""

    steps: Mapping[str, str] = field(default_factory=dict)
    people: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def step(self, key: str) -> str:
        """Return a step's name in quotes."""
        return f"“{self.steps.get(key) or key or 'the step'}”"

    def by(self, data: Mapping[str, Any]) -> str:
        """Return " by Ana", or nothing when no person is known."""
        who = str(data.get("by") or "").removeprefix(USER)
        return f" by {self.people.get(who, who)}" if who else ""


Telling = tuple[str, str, str]  # text, detail, severity
Teller = Callable[[Mapping[str, Any], str, Names], Telling]


def sentences(task: Task) -> list[Line]:
    """Return the run's story, oldest first, at most the last 1000 events."""
    events = list(task.events.order_by("-seq")[:MOST_LINES])[::-1]
    names = names_for(task, events)
    return [line_of(event, names) for event in events]


def line_of(event: TaskEvent, names: Names) -> Line:
    """Return one event as a line."""
    teller = _TELLERS.get(event.kind, _unknown_kind(event.kind))
    text, detail, severity = teller(event.data, names.step(event.step), names)
    return Line(event.at, text, detail, event.kind, severity)


def names_for(task: Task, events: Iterable[TaskEvent]) -> Names:
    """Return what the ids in these events are called."""
    steps = {s["key"]: s.get("name") or s["key"] for s in task.version.definition.get("steps", [])}
    choices = {
        (str(approval.pk), str(option["key"])): str(option["label"])
        for approval in task.approvals.all()
        for option in approval.options
    }
    ids = {str(event.data["by"]).removeprefix(USER) for event in events if event.data.get("by")}
    return Names(steps, people(ids), choices)


def people(ids: Iterable[str]) -> dict[str, str]:
    """Return the names of users by id as text; what is no id of a user is left out."""
    users = get_user_model().objects.filter(pk__in=[int(i) for i in ids if i.isdigit()])
    return {str(user.pk): user.get_full_name() or user.get_username() for user in users}


def fold(lines: Iterable[Line]) -> list[Entry]:
    """Return the lines with quiet ones under the loud one before, and long silences named."""
    entries: list[Entry] = []
    last: datetime | None = None
    for line in lines:
        if line.quiet and entries:
            entries[-1].details.append(line)
        else:
            silent = (line.at - last).total_seconds() if last else 0.0
            entries.append(Entry(line, [], f"{span(silent)} later" if silent >= 3600 else ""))
        last = line.at
    return entries


# -- where a run stands now ------------------------------------------------------------------------


def headline(task: Task, since: datetime, now: datetime) -> str:
    """Return in one sentence where the run stands; `since` is when it came to stand there."""
    for_how_long = f"since {moment(since, now)} ({span((now - since).total_seconds())})"
    wait = task.progress.get("wait", {})
    if task.status == "paused" and task.reason not in ("", "paused"):
        return f"Stopped {for_how_long}: {reason(task.reason)}. A person must decide."
    if task.status == "paused":
        return f"Paused by staff {for_how_long}. It goes on when somebody resumes it."
    if task.status == "waiting":
        for_what = f"{_awaited(task.waiting_for, wait)}{_next_try(task, now)}"
        return f"Waiting for {for_what} {for_how_long}{_nobody(wait, now)}."
    if task.status == "failed":
        return f"Failed at {moment(since, now)}: {reason(task.reason)}."
    if task.status in ("completed", "cancelled"):
        return f"{task.get_status_display()} at {moment(since, now)}: {result(task.result)}."
    return f"{task.get_status_display()} {for_how_long}."


def next_action(task: Task, now: datetime) -> str:
    """Return what the machine does next by itself, and when."""
    if task.status in ("completed", "cancelled"):
        return "Nothing more happens: this run is over."
    if task.status == "failed":
        return "Nothing happens by itself. Retry begins again at the step that failed."
    if task.status == "paused":
        return "Nothing happens by itself until a person decides."
    if task.status == "running":
        return "A worker is doing the step now."
    if task.status == "waiting":
        return _next_of_wait(task, now)
    if task.wake_at and task.wake_at > now:
        what = "the step is tried again" if task.retries else "the next step begins"
        return f"At {moment(task.wake_at, now)} {what}."
    return "The next step begins as soon as a worker is free."


def awaits(task: Task) -> str:
    """Return in a few words what a waiting run waits for."""
    return f"waits for {_awaited(task.waiting_for, task.progress.get('wait', {}))}"


def _awaited(waiting_for: str, wait: Mapping[str, Any]) -> str:
    kind, _, name = waiting_for.partition(":")
    if kind == "event":
        return f"“{spoken(wait.get('event') or name or 'something')}” to happen"
    if kind == "provider":
        return _system(name)
    return {
        "approval": "someone to answer",
        "children": "the runs it started",
        "listing": "its list to be complete",
        "time": "its time",
        "window": "the hour at which its mail may leave",
    }.get(kind, spoken(waiting_for) or "its turn")


def _next_try(task: Task, now: datetime) -> str:
    """Return when a held run is looked at again: at its own hour, or when its connection is tried."""
    if not task.waiting_for.startswith("provider:"):
        return ""
    if task.wake_at:
        return f", next try {moment(task.wake_at, now)}"
    line = health.standing(task.waiting_for.removeprefix("provider:"))
    told = {"held": ", which staff hold", "refused": ", which refuses our login"}.get(line.state, "")
    return told or (f", next try {moment(line.until, now)}" if line.until else "")


def _nobody(wait: Mapping[str, Any], now: datetime) -> str:
    parts = [
        f"{_ACTS.get(act, spoken(act))} at {moment(parsed(at), now)}" for at, act in wait.get("plan", [])[:1]
    ]
    if "approval" in wait and any(act == "expire" for _, act in wait.get("plan", [])):
        parts.append(NOBODY_ANSWERS.get(wait.get("then", ""), ""))
    return "".join(f"; {part}" for part in parts if part)


def _next_of_wait(task: Task, now: datetime) -> str:
    wait = task.progress.get("wait", {})
    plan = wait.get("plan") or []
    if plan:
        coming = [f"at {moment(parsed(at), now)} {_ACTS_LONG.get(act, spoken(act))}" for at, act in plan]
        return f"Next, {', then '.join(coming)}."
    if task.waiting_for == "children":
        return "It goes on when the last run it started is over."
    if task.waiting_for.startswith("approval"):
        return "It waits as long as it takes; nothing is sent without an answer."
    if task.waiting_for == "window" and wait.get("until"):
        return f"Its mail leaves in the next sending window: {moment(parsed(wait['until']), now)}."
    if task.wake_at:
        return f"It goes on at {moment(task.wake_at, now)}{_or_event(wait)}."
    if task.waiting_for.startswith("provider:"):
        return "It goes on by itself when the connection is open again; nothing is lost meanwhile."
    return "It goes on by itself when what it waits for is there."


def _or_event(wait: Mapping[str, Any]) -> str:
    return f", or when “{spoken(wait['event'])}” happens" if wait.get("event") else ""


_ACTS = {"remind": "reminder", "escalate": "somebody else is told", "expire": "the question closes"}
_ACTS_LONG = {**_ACTS, "remind": "a reminder goes out"}


# -- words -----------------------------------------------------------------------------------------


def reason(code: str) -> str:
    """Return why, in words."""
    return REASONS.get(code) or spoken(code) or "no reason is known"


def result(code: str) -> str:
    """Return what a run came to, in words."""
    return RESULTS.get(code) or spoken(code) or "done"


def spoken(code: object) -> str:
    """Return a code as words: `customer_gone` is "customer gone"."""
    return str(code or "").replace("_", " ").replace(".", " ").strip()


def parsed(text: str) -> datetime:
    """Return an ISO time, in UTC when it names no zone."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def moment(at: datetime, now: datetime) -> str:
    """Return a time as staff say it, in the business' zone: 09:12 CST, or Mon 16 Feb 09:12 CST."""
    local, today = timezone.localtime(at), timezone.localtime(now)
    if local.date() == today.date():
        return f"{local:%H:%M %Z}"
    year = "" if local.year == today.year else f" {local.year}"
    return f"{local:%a} {local.day} {local:%b}{year} {local:%H:%M %Z}"


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: 45 s, 12 min, 2 h, 3 days."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    # What is a moment short of a day was meant to be a day: clocks and databases round.
    length = timedelta(minutes=round(seconds / 60))
    if length < timedelta(hours=1):
        return f"{length.seconds // 60} min"
    if length < timedelta(days=1):
        return f"{length.seconds // 3600} h"
    return "1 day" if length.days == 1 else f"{length.days} days"


def counts(data: Mapping[str, Any]) -> str:
    """Return counts by result as words: 5 sent, 1 declined."""
    told = [f"{number} {spoken(name)}" for name, number in data.items() if name != "total" and number]
    return ", ".join(told)


def _system(name: str) -> str:
    return {"crm": "the CRM", "email": "the mail server", "chat": "the chat"}.get(name, spoken(name) or "it")


def _went_wrong(data: Mapping[str, Any]) -> str:
    return reason(str(data.get("code") or data.get("why") or ""))


def _rest(data: Mapping[str, Any], *told: str) -> str:
    """Return the codes that the sentence did not tell."""
    left = {name: value for name, value in data.items() if name not in told and value not in (None, "", [])}
    return ", ".join(f"{spoken(name)} {value}" for name, value in left.items())


# -- one teller for each kind of event -------------------------------------------------------------


def _plain(text: str, severity: str = "info") -> Teller:
    def tell(data: Mapping[str, Any], step: str, names: Names) -> Telling:
        return text.format(step=step, by=names.by(data)), _rest(data, "by"), severity

    return tell


def _unknown_kind(kind: str) -> Teller:
    return _plain(f"{spoken(kind).capitalize() or 'Something happened'} at {{step}}{{by}}.")


def _created(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    if data.get("by") == "schedule":
        return "The run was started by its schedule.", _rest(data, "by"), "info"
    if str(data.get("by", "")).startswith("event:"):
        name = str(data["by"]).removeprefix("event:")
        return (
            f"The run was started by the event “{name}”.",
            _rest(data, "by", "event", "at", "answers"),
            "info",
        )
    return f"The run was started{names.by(data)}.", _rest(data, "by", "mark"), "info"


def _step_done(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    came_to = f": {result(data['result'])}" if data.get("result") else ""
    then = f"; {names.step(data['next'])} is next" if data.get("next") else ""
    detail = _rest(data, "result", "next")
    return f"{step} is done{came_to}{then}.", detail, "good" if came_to else "info"


def _step_failed(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    return f"{step} did not work: {_went_wrong(data)}.", _rest(data, "code", "why"), "error"


def _retry_later(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    wait = f" in {span(float(data['wait']))}" if data.get("wait") is not None else ""
    text = f"{step} did not work: {_went_wrong(data)}. It is tried again{wait}."
    return text, _rest(data, "code", "why", "wait"), "warning"


def _answered(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    choice = str(data.get("choice", ""))
    label = names.choices.get((str(data.get("approval")), choice)) or spoken(choice)
    return f"{step} was answered{names.by(data)}: {label}.", _rest(data, "by", "choice", "approval"), "good"


def _expired(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    if data.get("why"):
        return f"The run ended: {_went_wrong(data)}.", _rest(data, "why"), "warning"
    then = {"continue": "the run goes on", "escalate": "a person is told"}.get(
        data.get("then", ""), "nothing is sent"
    )
    return f"Nobody answered {step} in time: {then}.", _rest(data, "then", "approval"), "warning"


def _voided(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    happened = f"“{spoken(data.get('event', ''))}” happened"
    what = f"the question of {step} was withdrawn" if data.get("approval") else f"{step} was not asked"
    return f"{happened}; {what}.", _rest(data, "event", "approval", "to"), "warning"


def _waiting(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    until = parsed(str(data["until"])) if data.get("until") else None
    for_event = f" for “{spoken(data['event'])}”" if data.get("event") else ""
    to = f" until {moment(until, until + timedelta(days=400))}" if until else ""
    return f"{step} waits{for_event}{to}.", _rest(data, "until", "event"), "info"


def _woke(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    if data.get("event"):
        return f"“{spoken(data['event'])}” happened; the wait is over.", _rest(data, "event"), "info"
    return "The wait is over.", _rest(data), "info"


def _continued(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    text = f"{step} listed page {data.get('page', '')} with {_runs(data.get('count', 0))}."
    return text, _rest(data, "page", "count"), "info"


def _children_started(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    return (
        f"{step} finished its list and let its runs begin.",
        f"last page: {_runs(data.get('count', 0))}",
        "info",
    )


def _children_done(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    text = f"All runs that {step} started are over: {counts(data) or 'there were none'}."
    return text, f"total {data['total']}" if data.get("total") else "", "good"


def _branched(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    to = str(data.get("to", ""))
    way = {"next": "the next step", "complete": "the end"}.get(to) or names.step(to)
    why = f": {_went_wrong(data)}" if data.get("why") else ""
    return f"{step} chose the way to {way}{why}.", _rest(data, "to", "why"), "warning" if why else "info"


def _held(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    wait = f" for {span(float(data['wait']))}" if data.get("wait") is not None else ""
    return f"{step} waits{wait}: {_went_wrong(data)}.", _rest(data, "code", "wait", "why"), "warning"


def _parked(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    return f"Stopped at {step} for a person: {_went_wrong(data)}.", _rest(data, "code", "why"), "error"


def _completed(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    return f"The run is over: {result(str(data.get('result', '')))}.", _rest(data, "result", "by"), "good"


def _failed(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    return f"The run failed at {step}: {_went_wrong(data)}.", _rest(data, "code", "why"), "error"


def _crm_called(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    took = f" in {data['ms']} ms" if data.get("ms") is not None else ""
    what = spoken(data.get("op") or data.get("operation") or "asked")
    if data.get("status") == "not_found":
        return f"The CRM does not have what was asked for ({what}).", _rest(data, "op", "status"), "warning"
    text = f"CRM: {what} answered {data.get('status', 'nothing')}{took}."
    return text, _rest(data, "op", "operation", "status", "ms"), "info"


def _moved(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    until = parsed(str(data["until"]))
    hour = moment(until, until + timedelta(days=1))
    told = {
        "window": f"next sending window {hour}",
        "frequency_cap": f"the customer had a marketing mail not long ago; the next may leave {hour}",
    }
    why = str(data.get("why", ""))
    return f"{step} waits: {told.get(why) or hour}.", _rest(data, "until", "why"), "info"


def _paced(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    text = (
        f"{step} waits {span(float(data.get('wait', 0)))} for its turn: only so many may be done in a time."
    )
    return text, _rest(data, "wait"), "info"


def _ignored(data: Mapping[str, Any], step: str, names: Names) -> Telling:
    why = f": {_went_wrong(data)}" if data.get("why") else ""
    text = f"“{spoken(data.get('signal', 'a message'))}”{names.by(data)} changed nothing{why}."
    return text, _rest(data, "signal", "by", "why"), "info"


def _runs(count: object) -> str:
    return "1 run" if count == 1 else f"{count} runs"


_TELLERS: Mapping[str, Teller] = {
    "created": _created,
    "claimed": _plain("A worker took the run."),
    "started": _plain("{step} began."),
    "step_done": _step_done,
    "step_failed": _step_failed,
    "retry_later": _retry_later,
    "asked": lambda data, step, names: (f"{step} asked a person.", _rest(data, "approval"), "warning"),
    "answered": _answered,
    "reminded": lambda data, step, names: (
        f"A reminder went out: {step} has no answer yet.",
        _rest(data, "approval"),
        "info",
    ),
    "escalated": lambda data, step, names: (
        f"Somebody else was told: {step} has no answer yet.",
        _rest(data, "approval"),
        "warning",
    ),
    "expired": _expired,
    "voided": _voided,
    "waiting": _waiting,
    "woke": _woke,
    "continued": _continued,
    "children_started": _children_started,
    "children_done": _children_done,
    "branched": _branched,
    "held": _held,
    "parked": _parked,
    "unknown": lambda data, step, names: (
        f"It is not known whether {step} went out: {_went_wrong(data)}.",
        _rest(data, "code"),
        "error",
    ),
    "paused": _plain("Paused{by}.", "warning"),
    "resumed": _plain("Resumed{by}."),
    "retried": _plain("{step} is tried again{by}."),
    "cancelled": lambda data, step, names: (
        f"Cancelled{names.by(data)}.",
        _rest(data, "by", "result"),
        "warning",
    ),
    "completed": _completed,
    "failed": _failed,
    "quarantined": _plain("Three workers stopped while doing {step}; the run is set aside.", "error"),
    "handed_back": _plain("A worker gave the run back without having begun {step}."),
    "crm_called": _crm_called,
    "released": _plain("The list is complete; the run may begin."),
    "scrubbed": _plain("The customer details of this run were removed."),
    "ignored": _ignored,
    "paced": _paced,
    "moved": _moved,
    "opened": _plain("{step} may go out now."),
    "looks_again": _plain("Time has passed before {step}; what it rests on is looked at again."),
    "late": _plain("{step} answered after all, before anybody had decided; the answer counts.", "warning"),
    "reread": _plain("The customer was read again before the retry."),
    "found": _plain("An earlier try had done {step} already; it was not done twice."),
    "outdated": lambda data, step, names: (
        f"{step} did not go out: {_went_wrong(data)}. A person is asked again.",
        _rest(data, "code", "to"),
        "warning",
    ),
    "freed": _plain("The wait for the other side is over; {step} is tried again."),
    "rested": _plain("A worker looked at the run and found nothing to do yet."),
}
KINDS = frozenset(_TELLERS)
