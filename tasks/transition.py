"""What a signal, an hour, an outcome or an error makes of a run: pure, values in and values out.

A `Turn` is one task between its claim and its settle. Every function here changes only the turn
in memory, and notes an event for each thing that happened; `journal.settle` writes both at once.

Where a turn comes from is kept in the row itself, because the claim overwrites `status`:
`progress["rest"]` while it rests (paused, parked, failed), else `waiting_for` while it waits.
So a worker that dies between claim and settle loses nothing that a signal said.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from sopengine.errors import (
    DataError,
    Held,
    Outdated,
    RateLimited,
    StepError,
    Transient,
    Unclear,
)
from tasks import context as values
from tasks.definition import SopDef, StepDef
from tasks.outcome import (
    Ask,
    Branch,
    Child,
    Continue,
    Done,
    Effect,
    Handler,
    Notice,
    Option,
    Start,
    Wait,
    handlers,
)
from tasks.wording import escalation_text

DAY = 86_400.0
FAILED_KEEPS = 7 * DAY  # how long a failed run keeps its values for a retry
OPEN_KEEPS = 30 * DAY  # how long a waiting or parked run may keep them
MOST_CRASHES = 3
LONGEST_HOLD = 900.0
FIRST_HOLD = 30.0
MOST_HOLDS = 3  # rounds of retries that one step may use up while the other side answers everybody else

# What no retry mends: the connection is held until its credential changes.
LOGIN_CODES = frozenset({"auth", "reauth", "no_credential", "credential_unreadable"})

REMIND, OVERDUE = "remind:", "overdue:"  # how the messages that count open questions are told apart
WINDOW = "window"  # what a run waits for whose mail must not leave at this hour
UNKNOWN = "outcome_unknown"
UNKNOWN_OPTIONS = (
    Option("was_sent", "It was sent", "next"),
    Option("send_again", "Send again", "again"),
    Option("skip", "Skip", "skip"),
)
ENDED = frozenset({"completed", "cancelled"})
_CODE = re.compile(r"[a-z][a-z0-9_-]{0,39}")  # a result is kept readable: no room for a name
_OF_ONE_VISIT = (
    "cursor",
    "page",
    "versions",
    "since",
    "kept_wait",
    "holds",
    "sent",
    "paced",
    "more",
    "rested",
)
Started = Literal["", "mark", "keep"]


@dataclass(slots=True)
class Event:
    """One thing that happened; `status` is the run's status after it."""

    seq: int
    kind: str
    step: str
    status: str
    data: dict[str, Any]


@dataclass(slots=True)
class Question:
    """An approval to write: who is asked what, and what the customer would get."""

    id: UUID
    step: str
    visit: int
    options: list[dict[str, str]]
    content: dict[str, Any]
    channel: str
    expires_at: datetime | None
    allowed: dict[str, Any] = field(default_factory=dict)
    not_asker: bool = False


@dataclass(slots=True)
class Post:
    """A notification to write."""

    notice: Notice
    kind: str = "info"
    approval: UUID | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person decided, as the approval's row says it; `approved` opens the text that was approved."""

    approval: str
    choice: str
    outcome: str
    by: int | None
    approved: Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What other rows say that this turn must know: answers by approval, children by result, and the
    connections (as in `waiting_for`) over which nothing may be called now."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    children: Mapping[str, int] = field(default_factory=dict)
    open_children: int = 0
    closed: frozenset[str] = frozenset()
    gathered: Sequence[Mapping[str, Any]] = ()


@dataclass(slots=True)
class Turn:
    """A claimed task in memory: the values of its row, and what is to be written with them."""

    id: UUID
    version: int
    parent: UUID | None
    sop: SopDef
    now: datetime
    step: str
    visit: int
    retries: int
    crashes: int
    seq: int
    waiting_for: str
    started: bool
    mailbox: list[dict[str, Any]]
    result: str
    reason: str
    priority: int
    context: dict[str, Any]
    sealed_text: str | None
    request: str | None
    progress: dict[str, Any]
    status: str = "running"
    # what the next settle writes besides the row
    base_seq: int = 0
    taken: int = 0
    wake_in: float | None = None
    wake_until: datetime | None = None
    events: list[Event] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    closes: str = ""  # what becomes of its open question: expired or void
    expiry: tuple[datetime | None] | None = None  # when its open question ends from now on; (None,): never
    frees: tuple[tuple[str, ...], str] | None = None  # the turns that it took and did not use: people, mark
    child_rows: list[dict[str, Any]] = field(default_factory=list)
    post_rows: list[dict[str, Any]] = field(default_factory=list)
    _sealed: dict[str, Any] | None = None
    resealed: bool = False

    def __post_init__(self) -> None:
        self.base_seq = self.seq

    # -- values -------------------------------------------------------------------------------

    @property
    def sealed(self) -> dict[str, Any]:
        """The sealed values, opened at first use."""
        if self._sealed is None:
            self._sealed = values.unseal(str(self.id), self.sealed_text)
        return self._sealed

    def put(self, step: str, result: Mapping[str, Any], open_fields: frozenset[str]) -> None:
        """Keep a step's result."""
        if not result and step not in self.context:
            return
        values.check(result, f"the result of step {step!r}")
        before = self.context, dict(self.sealed)
        values.put_result(self.context, self.sealed, step, result, open_fields)
        self.resealed = self.resealed or before[1] != self.sealed

    # -- the row ------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a step is to run now."""
        return self.status == "running"

    @property
    def over(self) -> bool:
        """Whether nothing can happen any more."""
        return self.status in ENDED

    @property
    def state(self) -> str:
        """Return where the turn came from: paused, parked, failed, waiting or ready."""
        rest: str = self.progress.get("rest", "")
        return rest or ("waiting" if self.waiting_for else "ready")

    @property
    def place(self) -> str:
        """Return what people call the step."""
        return (self.definition.name if self.step in self.sop else "") or self.step

    @property
    def definition(self) -> StepDef:
        """Return the step that it stands at."""
        return self.sop.step(self.step)

    def note(self, kind: str, /, **data: Any) -> None:
        """Note one event; the only place where `seq` rises."""
        self.seq += 1
        self.events.append(Event(self.seq, kind, self.step, self.status, data))

    def post(self, notice: Notice, kind: str = "info", approval: UUID | None = None) -> None:
        """Leave a message for the staff chat."""
        self.posts.append(Post(notice, kind, approval))

    def rest(self, status: str, *, delay: float | None = None, until: datetime | None = None) -> None:
        """Stop running: the row is let go with this status and this hour."""
        self.status, self.wake_in, self.wake_until = status, delay, until

    def enter(self, step: str) -> None:
        """Begin at `step`."""
        visits = self.progress.setdefault("visits", {})
        visits[step] = visits.get(step, 0) + 1
        self.step, self.visit, self.retries = step, visits[step], 0
        if self.events:
            self.events[-1].data["to"] = step
        self.clear_attempt()
        for name in _OF_ONE_VISIT:
            self.progress.pop(name, None)

    def become(self, other: "Turn") -> None:
        """Take over everything from a fresh copy of the same row."""
        for column in fields(self):
            setattr(self, column.name, getattr(other, column.name))

    def clear_attempt(self) -> None:
        """Forget that the step was started: its outcome is known."""
        self.started, self.request = False, None

    # A run that looks again comes back to the step for the same mail: what it had of it is carried over.

    @property
    def mark(self) -> str:
        """Return what stands for the mail of this step wherever a turn is taken for it."""
        mark: str = self._carried.get("mark", f"{self.id}:{self.step}:{self.visit}")
        return mark

    @property
    def holds(self) -> int:
        """Return how often this step has used up its retries and waited for the other side."""
        holds: int = self.progress.get("holds", self._carried.get("holds", 0))
        return holds

    @property
    def _carried(self) -> dict[str, Any]:
        carried: dict[str, Any] = self.progress.get("carried", {}).get(self.step, {})
        return carried

    def carry(self) -> None:
        """Keep what this visit has for the next one."""
        self.progress.setdefault("carried", {})[self.step] = {"mark": self.mark, "holds": self.holds}

    def recorded(self) -> None:
        """An outcome was recorded: the worker did not die of this task."""
        self.crashes = 1  # the claim that is held now


# -- signals ------------------------------------------------------------------------------------


def take_mail(turn: Turn, facts: Facts) -> None:
    """Apply every signal in the mailbox, oldest first, and then the hour that woke the row."""
    for entry in turn.mailbox[turn.taken :]:
        turn.taken += 1
        if not turn.over:
            _SIGNALS.get(entry.get("kind", ""), _ignored)(turn, entry, facts)
    if turn.running and turn.state != "ready":
        _look_at_hour(turn, facts)
    if not turn.running:
        _tell_rest(turn)


def _tell_rest(turn: Turn) -> None:
    """The last event says in which status the run was left."""
    if turn.events:
        turn.events[-1].status = turn.status
    else:
        turn.note("rested")


def _look_at_hour(turn: Turn, facts: Facts) -> None:
    """A row that still rests goes back to rest, or its wait is over."""
    if turn.state != "waiting":
        turn.rest({"parked": "paused"}.get(turn.state, turn.state))
        return
    wait = turn.progress.get("wait", {})
    if turn.waiting_for == "children" and not facts.open_children:
        _children_done(turn, facts)
    elif turn.waiting_for.startswith("approval:"):
        if not _void_meanwhile(turn):
            _approval_hour(turn, wait)
    elif turn.waiting_for.startswith("provider:") and _is_free(turn, wait, facts):
        _wake(turn, "freed")
    elif turn.waiting_for == "event" and wait.get("event") in turn.progress.get("events", ()):
        turn.progress["events"].remove(wait["event"])
        _wait_over(turn, wait["event"])
    elif turn.waiting_for == WINDOW and _hour_has_come(turn, wait.get("until")):
        _wake(turn, "opened")
    elif turn.waiting_for in ("time", "event") and _hour_has_come(turn, wait.get("until")):
        _wait_over(turn, None)
    else:
        _rest_again(turn)


def _is_free(turn: Turn, wait: Mapping[str, Any], facts: Facts) -> bool:
    """Whether a held run may go on: its hour has come, or it had none and its connection is open."""
    if wait.get("until"):
        return _hour_has_come(turn, wait["until"])
    return turn.waiting_for not in facts.closed


def _hour_has_come(turn: Turn, until: str | None) -> bool:
    return bool(until) and datetime.fromisoformat(str(until)) <= turn.now


def _rest_again(turn: Turn) -> None:
    """Go back to the wait that the row came from."""
    wait = turn.progress.get("wait", {})
    plan = wait.get("plan") or []
    until = plan[0][0] if plan else wait.get("until")
    turn.rest("waiting", until=datetime.fromisoformat(until) if until else None)


def _wake(turn: Turn, kind: str, **data: Any) -> None:
    turn.waiting_for, turn.reason = "", ""
    turn.progress.pop("rest", None)
    turn.progress.pop("wait", None)
    turn.status = "running"
    turn.note(kind, **data)


def _pause(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    if turn.state not in ("ready", "waiting"):
        _ignored(turn, entry, facts)
        return
    turn.progress["rest"] = "paused"
    turn.progress["rested"] = True
    if turn.waiting_for.startswith("approval:"):
        turn.progress["paused_at"] = turn.now.isoformat()
        turn.expiry = (None,)
    turn.reason = "paused"
    turn.rest("paused")
    turn.note("paused", **_by(entry))


def _resume(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    if turn.state == "parked":
        _retry(turn, entry, facts)
    elif turn.state == "paused":
        turn.progress.pop("rest")
        turn.reason, turn.status = "", "running"
        _give_time_back(turn)
        turn.note("resumed", **_by(entry))
        answers = turn.progress.pop("kept", [])
        if not _void_meanwhile(turn):
            for kept in answers:
                _SIGNALS[kept["kind"]](turn, kept, facts)
    else:
        _ignored(turn, entry, facts)


def _give_time_back(turn: Turn) -> None:
    """The hours of a question stand still while its run is paused."""
    began = turn.progress.pop("paused_at", None)
    plan = turn.progress.get("wait", {}).get("plan")
    if not began or not plan:
        return
    pause = turn.now - datetime.fromisoformat(began)
    for entry in plan:
        entry[0] = (datetime.fromisoformat(entry[0]) + pause).isoformat()
    ends = [datetime.fromisoformat(at) for at, act in plan if act == "expire"]
    turn.expiry = (ends[0] if ends else None,)


def _cancel(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    end(turn, "cancelled", "cancelled", "cancelled", **_by(entry))


def _retry(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    held = turn.state == "waiting" and turn.waiting_for.startswith("provider:")
    if (turn.state not in ("failed", "parked") and not held) or turn.reason == UNKNOWN:
        _ignored(turn, entry, facts)
        return
    if turn.progress.get("scrubbed"):
        turn.note("ignored", signal="retry", why="values_gone")
        turn.rest("failed")
        return
    # A start whose outcome is not known stays marked: it is looked up, or put before a person.
    turn.retries, turn.result = 0, ""
    if not held and values.CUSTOMER_ID in turn.context:
        turn.progress["reread"] = True
    _wake(turn, "retried", **_by(entry))


def _answer(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    answer = facts.answers.get(str(entry.get("approval")))
    if turn.state == "paused" and turn.progress.get("rest") == "paused":
        turn.progress.setdefault("kept", []).append(dict(entry))
        turn.note("ignored", signal="answer", why="paused")
        turn.rest("paused")
    elif answer is None or turn.waiting_for != f"approval:{answer.approval}":
        _ignored(turn, entry, facts)
    elif turn.reason == UNKNOWN:
        _unknown_answered(turn, answer)
    else:
        _answered(turn, answer)


def _answered(turn: Turn, answer: Answer) -> None:
    final = answer.approved()
    _wake(turn, "answered", approval=answer.approval, choice=answer.choice, by=answer.by)
    turn.put(turn.step, {"choice": answer.choice, **final}, frozenset({"choice"}))
    turn.recorded()
    if answer.outcome == "decline":
        end(turn, "completed", "completed", "declined")
    elif answer.outcome in ("approve", "edit", "next"):
        go_on(turn, turn.definition.on_success)
    else:
        go_on(turn, answer.outcome)


def _unknown_answered(turn: Turn, answer: Answer) -> None:
    result = "sent" if answer.choice == "was_sent" else ""
    _wake(turn, "answered", approval=answer.approval, choice=answer.choice, by=answer.by)
    turn.recorded()
    turn.clear_attempt()
    if answer.outcome == "again":
        turn.retries = 0
    else:
        turn.result = result or turn.result
        turn.put(turn.step, {"choice": answer.choice}, frozenset({"choice"}))
        go_on(turn, turn.definition.on_success)


def _event(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    wanted = turn.progress.get("wait", {}).get("event")
    if turn.state == "waiting" and turn.waiting_for == "event" and wanted == entry.get("name"):
        _wait_over(turn, wanted)
        return
    kept = turn.progress.setdefault("events", [])
    if entry.get("name") not in kept:
        kept.append(entry.get("name"))
    if turn.state == "waiting":
        _void_meanwhile(turn)


def _wait_over(turn: Turn, event: str | None) -> None:
    wanted = bool(turn.progress.get("wait", {}).get("event"))
    _wake(turn, "woke", **({"event": event} if event else {}))
    turn.put(
        turn.step,
        {"event": event, "timed_out": wanted and event is None},
        frozenset({"event", "timed_out"}),
    )
    turn.recorded()
    go_on(turn, turn.definition.on_success)


def _release(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    if turn.waiting_for == "listing":
        _wake(turn, "released")


def _children(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    """Children were closed; whether all are is asked when the hour is looked at."""


def _children_done(turn: Turn, facts: Facts) -> None:
    counts = dict(facts.children)
    rows = {"rows": list(facts.gathered)} if turn.progress.get("wait", {}).get("gather") else {}
    _wake(turn, "children_done", **counts)
    turn.context["children"] = counts
    turn.put(turn.step, {**counts, **rows}, frozenset(counts))
    turn.recorded()
    go_on(turn, turn.definition.on_success)


def _ignored(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    turn.note("ignored", signal=str(entry.get("kind", ""))[:20], **_by(entry))


def _expire_data(turn: Turn, entry: Mapping[str, Any], facts: Facts) -> None:
    """The values of an open run were kept as long as they may be: it fails, and they go."""
    turn.closes = "expired" if turn.progress.get("asked") else ""
    _wake(turn, "expired", why="values_kept_long_enough")
    turn.progress["scrubbed"] = True
    fail(turn, "data_expired")
    text = escalation_text(
        what=f"A run of {turn.sop.name} has ended without being done.",
        why="what it knows of its customer was kept as long as it may be, and the run still waited.",
        machine="has forgotten the values, and does nothing more.",
        do="see in the run where it waited, and do the rest by hand or start it anew.",
    )
    turn.post(Notice(text, severity="error", fold=f"data_expired:{turn.sop.slug}"), "escalation")


_SIGNALS: dict[str, Callable[[Turn, Mapping[str, Any], Facts], None]] = {
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "retry": _retry,
    "answer": _answer,
    "event": _event,
    "release": _release,
    "children": _children,
    "expire": _expire_data,
}
SIGNALS = frozenset(_SIGNALS)


def _by(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"by": entry["by"]} if entry.get("by") else {}


# -- questions -----------------------------------------------------------------------------------


def _approval_hour(turn: Turn, wait: dict[str, Any]) -> None:
    """Remind, escalate or expire, whatever of the plan has come due."""
    plan = wait.get("plan") or []
    while plan and turn.status == "running" and _hour_has_come(turn, plan[0][0]):
        _, act = plan.pop(0)
        _APPROVAL_ACTS[act](turn, wait)
    if turn.status == "running" and turn.waiting_for:
        _rest_again(turn)


def _remind(turn: Turn, wait: dict[str, Any]) -> None:
    """What waits in one channel is reminded of once an hour; it is counted when the message is posted."""
    turn.note("reminded", approval=wait["approval"])
    channel = wait.get("channel", "")
    notice = Notice(
        "Questions still wait for an answer.", channel=channel, dedupe=f"{REMIND}{channel}:{_hour(turn)}"
    )
    turn.post(notice, "reminder", UUID(wait["approval"]))


def _escalate_approval(turn: Turn, wait: dict[str, Any]) -> None:
    turn.note("escalated", approval=wait["approval"])
    text = escalation_text(
        what=f"{turn.sop.name}: nobody has answered yet.",
        why="the question has waited as long as this procedure allows.",
        machine="without an answer nothing is sent.",
        do="open the question and decide, or ask a colleague to.",
    )
    dedupe = f"{OVERDUE}{wait.get('channel', '')}:{_hour(turn)}"
    turn.post(Notice(text, severity="warning", dedupe=dedupe), "escalation", UUID(wait["approval"]))


def _hour(turn: Turn) -> str:
    return f"{turn.now.astimezone(UTC):%Y-%m-%dT%H}"


def _void_meanwhile(turn: Turn) -> bool:
    """Withdraw the question when an event that it is void on has come; was there one?"""
    wait = turn.progress.get("wait", {})
    if not turn.waiting_for.startswith("approval:"):
        return False
    came = [name for name in turn.progress.get("events", ()) if name in wait.get("void_on", ())]
    if not came:
        return False
    turn.closes = "void"
    _void(turn, came[0], wait["approval"], wait.get("void_to", "complete"))
    return True


def _void(turn: Turn, event: str, approval: str, to: str) -> None:
    """The question is no longer one: something has happened to what it is about."""
    turn.progress["events"].remove(event)
    _wake(turn, "voided", event=event, **({"approval": approval} if approval else {}))
    turn.recorded()
    if to == "complete":
        turn.result = "answered_elsewhere"
    go_on(turn, to)


def _expire_approval(turn: Turn, wait: dict[str, Any]) -> None:
    then = wait.get("then", "decline")
    turn.recorded()
    turn.closes = "expired"
    _wake(turn, "expired", approval=wait["approval"], then=then)
    if then == "escalate":
        park(turn, "expired", "nobody answered in time")
        return
    text = escalation_text(
        what=f"{turn.sop.name}: a question was closed unanswered.",
        why="nobody answered it in time.",
        machine="the run goes on." if then == "continue" else "nothing is sent, and the run is over.",
        do="see whether this procedure asks the right people; a run that you start by hand asks again.",
    )
    turn.post(Notice(text, severity="warning", fold=f"expired:{turn.sop.slug}"), "escalation")
    if then == "continue":
        go_on(turn, wait.get("expired_to") or turn.definition.on_success)
    else:
        end(turn, "completed", "completed", "expired")


_APPROVAL_ACTS = {"remind": _remind, "escalate": _escalate_approval, "expire": _expire_approval}


def ask(turn: Turn, outcome: Ask, *, notice: Notice | None = None) -> None:
    """Put a question and wait for its answer; `notice` tells of it at once, else `tasks.asking` does."""
    if early := [name for name in turn.progress.get("events", ()) if name in outcome.void_on]:
        _void(turn, early[0], "", outcome.void_to)
        return
    approval = uuid4()
    channel = outcome.channel or turn.sop.channel
    plan = [(after, "remind") for after in outcome.remind_after]
    plan += [(outcome.escalate_after, "escalate")] if outcome.escalate_after else []
    plan += [(outcome.expire_after, "expire")] if outcome.expire_after else []
    dated = [[(turn.now + timedelta(seconds=after)).isoformat(), act] for after, act in sorted(plan)]
    turn.progress["wait"] = {
        "approval": str(approval),
        "plan": dated,
        "then": "continue" if outcome.expired_to else outcome.then,
        **({"expired_to": outcome.expired_to} if outcome.expired_to else {}),
        "channel": channel,
        **({"void_on": list(outcome.void_on), "void_to": outcome.void_to} if outcome.void_on else {}),
    }
    turn.waiting_for = f"approval:{approval}"
    content = {"question": outcome.question, "draft": dict(outcome.draft)}
    values.check(content, f"the question of step {turn.step!r}")
    options = [{"key": o.key, "label": o.label, "outcome": o.outcome} for o in outcome.options]
    turn.questions.append(
        Question(
            approval,
            turn.step,
            turn.visit,
            options,
            content,
            channel,
            turn.now + timedelta(seconds=outcome.expire_after) if outcome.expire_after else None,
            _allowed(outcome.who),
            outcome.not_asker,
        )
    )
    turn.progress["asked"] = True
    _rest_again(turn)
    turn.note("asked", approval=str(approval))
    if notice:
        turn.post(notice, "escalation", approval)


def _allowed(who: Sequence[str]) -> dict[str, Any]:
    """Return who may answer as the approval keeps it; nobody named means everybody who may answer at all."""
    if not who:
        return {}
    groups = [name.removeprefix("group:") for name in who if name.startswith("group:")]
    return {"users": [name for name in who if not name.startswith("group:")], "groups": groups}


def answer_came_late(turn: Turn) -> None:
    """The answer that a person was asked about has come after all, and nobody has decided yet."""
    turn.closes = "void"
    _wake(turn, "late")


# -- outcomes ------------------------------------------------------------------------------------


def go_on(turn: Turn, target: str) -> None:
    """Leave the step for `target`: next, complete, or a step key."""
    following = turn.sop.after(turn.step) if target in ("", "next") else target
    if following is None or following == "complete":
        end(turn, "completed", "completed", turn.result or "done")
        return
    turn.enter(following)


def _check_target(turn: Turn, target: str) -> None:
    if target not in ("", "next", "complete") and target not in turn.sop:
        raise DataError(f"step {turn.step!r} goes to a step that does not exist", code="no_step")


def end(turn: Turn, status: str, kind: str, result: str, **data: Any) -> None:
    """The run is over."""
    if turn.waiting_for.startswith("approval:"):
        turn.closes = "void"
    turn.recorded()
    turn.result, turn.waiting_for, turn.reason = result, "", ""
    for name in ("wait", "rest", "kept", "events", "paused_at"):
        turn.progress.pop(name, None)
    turn.rest(status)
    turn.note(kind, result=result, **data)


def take_outcome(turn: Turn, handler: Handler, outcome: object, ms: int | None = None) -> None:
    """Apply what the handler answered, or raise DataError when it is not an outcome."""
    if type(outcome) not in _OUTCOMES:
        raise DataError(f"handler {handler.name!r} returned {type(outcome).__name__}, which is no outcome")
    for name in ("result", "why"):
        code = getattr(outcome, name, "")
        if code and not _CODE.fullmatch(code):
            raise DataError(f"handler {handler.name!r} gave a {name} that is no code, such as sent")
    timing = {} if ms is None else {"ms": ms}
    _OUTCOMES[type(outcome)](turn, handler, outcome, timing)
    for notice in outcome.notify:  # type: ignore[attr-defined]
        turn.post(notice, "escalation" if notice.severity in ("error", "critical") else "info")
    turn.recorded()


def move(turn: Turn, until: datetime, why: str) -> None:
    """What a customer would see must not leave now: wait for an hour at which it may."""
    turn.waiting_for = WINDOW
    turn.progress["wait"] = {"until": until.isoformat(), "why": why}
    turn.progress.pop("paced", None)  # its slot is gone by then
    turn.progress["rested"] = True
    turn.rest("waiting", until=until)
    turn.note("moved", until=until.isoformat(), why=why)


def look_again(turn: Turn, step: str) -> None:
    """The run has rested before what a customer would see: what was seen before that is looked at again."""
    _check_target(turn, step)
    turn.note("looks_again")
    turn.carry()
    turn.enter(step)


def take_customer(turn: Turn, outcome: Done) -> None:
    """Keep what the CRM now says of the run's customer; the step itself is still to come."""
    turn.progress.pop("reread")
    turn.put("", outcome.values, frozenset())
    turn.note("reread")


def _done(turn: Turn, handler: Handler, outcome: Done, timing: dict[str, int]) -> None:
    turn.put(turn.step, outcome.values, handler.open_fields)
    turn.result = outcome.result or turn.result
    turn.clear_attempt()
    turn.progress.get("carried", {}).pop(turn.step, None)
    turn.note("step_done", **timing, **({"result": outcome.result} if outcome.result else {}))
    go_on(turn, turn.definition.on_success)


def _wait(turn: Turn, handler: Handler, outcome: Wait, timing: dict[str, int]) -> None:
    until = outcome.until or (turn.now + outcome.delay if outcome.delay is not None else None)
    turn.progress["wait"] = {"until": until.isoformat() if until else None, "event": outcome.event}
    turn.waiting_for = "event" if outcome.event else "time"
    turn.clear_attempt()
    turn.rest("waiting", until=until)
    turn.note(
        "waiting", **({"event": outcome.event} if outcome.event else {}), until=until and until.isoformat()
    )
    early = turn.progress.get("events", [])
    if outcome.event and outcome.event in early:
        early.remove(outcome.event)
        turn.status = "running"
        _wait_over(turn, outcome.event)


def _ask(turn: Turn, handler: Handler, outcome: Ask, timing: dict[str, int]) -> None:
    _check_target(turn, outcome.void_to)
    _check_target(turn, outcome.expired_to)
    turn.clear_attempt()
    ask(turn, outcome)


def _branch(turn: Turn, handler: Handler, outcome: Branch, timing: dict[str, int]) -> None:
    _check_target(turn, outcome.to)
    turn.put(turn.step, outcome.values, handler.open_fields)
    turn.result = outcome.result or turn.result
    turn.clear_attempt()
    told = {"result": outcome.result, "why": outcome.why}
    turn.note("branched", to=outcome.to, **{name: code for name, code in told.items() if code})
    go_on(turn, outcome.to)


def _start(turn: Turn, handler: Handler, outcome: Start, timing: dict[str, int]) -> None:
    turn.children.extend(outcome.children)
    turn.clear_attempt()
    turn.progress["listed"] = True
    if outcome.wait:
        turn.progress["wait"] = {"gather": outcome.gather} if outcome.gather else {}
        turn.waiting_for = "children"
        turn.rest("waiting")
    turn.note("children_started", count=len(outcome.children))
    if not outcome.wait:
        turn.put(turn.step, {"total": len(outcome.children)}, frozenset({"total"}))
        go_on(turn, turn.definition.on_success)


def _continue(turn: Turn, handler: Handler, outcome: Continue, timing: dict[str, int]) -> None:
    turn.children.extend(outcome.children)
    turn.clear_attempt()
    turn.retries = 0
    turn.progress["cursor"] = outcome.cursor
    turn.progress["page"] = turn.progress.get("page", 0) + 1
    turn.progress["more"] = True
    turn.note("continued", page=turn.progress["page"], count=len(outcome.children))


_OUTCOMES: dict[type, Callable[[Turn, Handler, Any, dict[str, int]], None]] = {
    Done: _done,
    Wait: _wait,
    Ask: _ask,
    Branch: _branch,
    Start: _start,
    Continue: _continue,
}


# -- errors --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """How the engine answers errors.

    `retry_waits` are the seconds before each retry, `jitter` a number in [0, 1). `pause` is in how many
    seconds this run's turn comes after a pause that the other side asked for; None: when it is over.
    """

    retry_waits: Sequence[float] = (2.0, 4.0, 8.0)
    jitter: float = 0.0
    pause: float | None = None


def take_error(turn: Turn, handler: Handler, effect: Effect, error: StepError, rules: Rules) -> None:
    """Apply what went wrong: wait and try again, hold, look first, ask a person, or follow on_failure."""
    turn.recorded()
    if isinstance(error, Held):
        _hold(turn, handler, error, rules.pause)
    elif isinstance(error, Unclear) and error.sent == "no":
        turn.clear_attempt()
        turn.note("step_failed", code=error.reason)
        follow(turn, handler, error)
    elif isinstance(error, Unclear):
        put_before_person(turn, error.reason, error.message)
    elif effect is Effect.AT_MOST_ONCE and turn.started and error.sent == "maybe":
        put_before_person(turn, error.reason)
    elif isinstance(error, Outdated):
        _draft_again(turn, handler, error)
    elif isinstance(error, RateLimited):
        asked = error.retry_after or FIRST_HOLD
        _hold(turn, handler, error, asked if rules.pause is None else rules.pause)
    elif isinstance(error, Transient):
        _transient(turn, handler, error, rules)
    else:
        if error.sent == "no":
            turn.clear_attempt()
        turn.note("step_failed", code=error.reason)
        follow(turn, handler, error)


def _transient(turn: Turn, handler: Handler, error: StepError, rules: Rules) -> None:
    if error.sent == "no":
        turn.clear_attempt()
    if turn.retries >= turn.definition.max_retries:
        turn.note("step_failed", code=error.reason, retries=turn.retries)
        follow(turn, handler, error)
        return
    waits = rules.retry_waits
    wait = error.retry_after or waits[min(turn.retries, len(waits) - 1)] * (1 + rules.jitter / 4)
    turn.retries += 1
    turn.rest("ready", delay=wait)
    turn.note("retry_later", code=error.reason, wait=round(wait, 3), retry=turn.retries)


def _hold(turn: Turn, handler: Handler, error: StepError, seconds: float | None) -> None:
    """Wait for the other side; costs no retry. Without `seconds` it waits until the connection is open."""
    if error.sent == "no":
        turn.clear_attempt()
    until = None if seconds is None else turn.now + timedelta(seconds=seconds)
    turn.waiting_for = f"provider:{other_side(handler, error)}"
    turn.progress["rested"] = True
    turn.progress["wait"] = {"until": until.isoformat()} if until else {}
    turn.reason = error.reason
    turn.rest("waiting", until=until)
    timing = {} if seconds is None else {"wait": round(seconds, 3)}
    turn.note("held", code=error.reason, **timing, retry=turn.retries)


def other_side(handler: Handler, error: StepError) -> str:
    """Return the name of the connection over which this went wrong."""
    return error.origin or ("crm" if handler.crm else handler.name.split(".")[0])


def used_up(turn: Turn, error: StepError) -> bool:
    """Whether the step has no retry left for this error."""
    return isinstance(error, Transient) and turn.retries >= turn.definition.max_retries


def follow(turn: Turn, handler: Handler, error: StepError) -> None:
    """Do what the step says of its failure; without a word, hold for the CRM and park otherwise."""
    of_crm = other_side(handler, error) == "crm"
    told = turn.definition.on_failure or ("hold" if of_crm else "escalate")
    passes = isinstance(error, Transient) or (of_crm and error.reason in LOGIN_CODES)
    rounds_left = not of_crm or turn.holds < MOST_HOLDS
    if told == "hold" and passes and rounds_left:
        _hold_until_back(turn, handler, error, of_crm=of_crm)
    elif told in ("escalate", "hold"):
        # Of what the CRM does not allow, one run speaks for all.
        forbidden = of_crm and error.reason == "forbidden"
        park(turn, error.reason, error.message, alike="forbidden:crm" if forbidden else "")
    elif told == "fail":
        fail(turn, error.reason)
    else:
        turn.enter(told)


def _hold_until_back(turn: Turn, handler: Handler, error: StepError, *, of_crm: bool) -> None:
    """Wait until the other side is back: the CRM's connection tells, of another one only a try does."""
    holds = turn.holds
    turn.progress["holds"] = holds + 1
    turn.retries = 0
    if of_crm:
        _hold(turn, handler, error, None)
        return
    _hold(turn, handler, error, min(FIRST_HOLD * 2**holds, LONGEST_HOLD))
    side = other_side(handler, error)
    text = escalation_text(
        what=f"{side.upper()} does not answer; runs that need it wait.",
        why=error.message,
        machine="each run tries again, less and less often, and goes on when the answer comes.",
        do=f"see whether {side.upper()} is up; nothing is lost meanwhile.",
    )
    notice = Notice(text, severity="error", dedupe=f"held:{side}:{turn.now:%Y-%m-%dT%H}")
    turn.post(notice, "escalation")


def _draft_again(turn: Turn, handler: Handler, error: Outdated) -> None:
    """What a person approved is no longer so: with the customer as now known, draft and ask again."""
    turn.clear_attempt()
    turn.put("", error.values, frozenset())
    turn.note("outdated", code=error.reason)
    back = error.back_to if error.back_to in turn.sop else _place_of_draft(turn)
    if back is None:
        park(turn, error.reason, error.message)
    else:
        turn.enter(back)


def _place_of_draft(turn: Turn) -> str | None:
    """Return the last draft before the last question before this step; without a draft, the question."""
    before = turn.sop.steps[: turn.sop.steps.index(turn.definition)]
    asks = [place for place, step in enumerate(before) if _is(step, "asks")]
    last = asks[-1] if asks else len(before)
    drafts = [step.key for step in before[:last] if _is(step, "drafts")]
    return drafts[-1] if drafts else before[asks[-1]].key if asks else None


def _is(step: StepDef, what: str) -> bool:
    return step.handler in handlers and bool(getattr(handlers.get(step.handler), what))


def park(turn: Turn, code: str, why: str, *, alike: str = "") -> None:
    """Stop with a reason and one message; a person decides. `alike` names the cases that are one message."""
    turn.recorded()
    turn.progress["rest"] = "parked"
    turn.progress["rested"] = True
    turn.waiting_for, turn.reason = "", code
    turn.rest("paused")
    turn.note("parked", code=code)
    text = escalation_text(
        what=f"{turn.sop.name} stopped at “{turn.place}”.",
        why=why,
        machine="nothing; the run waits for you.",
        do="open the run and choose Retry or Cancel.",
    )
    fold = alike or f"park:{turn.sop.slug}:{turn.step}:{code}"
    turn.post(Notice(text, severity="error", dedupe=f"park:{turn.id}:{turn.seq}", fold=fold), "escalation")


def put_before_person(turn: Turn, code: str, why: str = "the answer to it was lost.") -> None:
    """What cannot be known and must not be repeated is for a person to decide."""
    turn.recorded()
    turn.progress["rest"] = "parked"
    turn.note("unknown", code=code)
    question = "This may have been sent: the answer to it was lost. Was it?"
    text = escalation_text(
        what=f"{turn.sop.name}: “{turn.place}” may have been sent, or not.",
        why=why,
        machine="nothing; it is never sent again by itself.",
        do="look whether it arrived, then choose It was sent, Send again or Skip.",
    )
    notice = Notice(text, severity="error", dedupe=f"unknown:{turn.id}:{turn.seq}")
    ask(turn, Ask(question, UNKNOWN_OPTIONS), notice=notice)
    turn.reason = UNKNOWN
    turn.rest("paused")
    turn.note("parked", code=UNKNOWN)


def fail(turn: Turn, code: str) -> None:
    """The run ends here, for now; a retry begins at this step."""
    turn.recorded()
    turn.progress["rest"] = "failed"
    turn.progress["rested"] = True
    turn.waiting_for, turn.reason = "", code
    turn.result = turn.result or "failed"
    turn.rest("failed")
    turn.note("failed", code=code)


def quarantine(turn: Turn) -> None:
    """Three workers died with this task: it is kept away from the others. What it had begun stays marked."""
    turn.recorded()
    turn.note("quarantined", crashes=MOST_CRASHES)
    fail(turn, "quarantined")
    text = escalation_text(
        what=f"{turn.sop.name} is set aside at “{turn.place}”.",
        why="three workers stopped while they did this step.",
        machine="nothing; all other runs go on.",
        do="tell whoever looks after the engine; afterwards choose Retry or Cancel.",
    )
    notice = Notice(text, severity="critical", dedupe=f"quarantine:{turn.id}:{turn.seq}")
    turn.post(notice, "escalation")
