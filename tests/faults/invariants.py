"""What must hold after every fault, whatever it was.

I1  each run is over, stopped with a reason, held, or has an hour at which somebody looks at it
I2  its events are gapless and unique by `seq`
I3  its last event says what its row says: status, step, seq
I4  each key has one applied write; a repeated call is explained by a death or a retry
I5  what is over keeps no text (the canary tests look at the values themselves)
I6  no step was committed twice, and what may not be repeated began once: a death after its start mark
    put it before a person, a death before it did not
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.faults.desk import Facts, Row
from tests.faults.ledger import Ledger
from tests.faults.postoffice import PostOffice

OVER = ("completed", "cancelled")
HELD = ("provider:", "approval:", "children", "listing", "event")
# What an event says of a start that came before it: its outcome is known now, or it never was handed over.
CLOSES_START = {"step_done", "step_failed", "retry_later", "held", "handed_back", "answered", "unknown"}


@dataclass(slots=True)
class Tally:
    """What the events tell of a scenario."""

    tasks: int = 0
    completed: int = 0
    steps: int = 0
    deaths: int = 0  # claims of a run whose holder died
    died_in_once: int = 0  # deaths between the start mark and the outcome of what may not be repeated
    died_before_once: int = 0
    given_up: int = 0  # mails whose deadline passed, as it may on a busy machine, without any death
    unknown: int = 0  # runs that stand before a person now
    quarantined: list[str] = field(default_factory=list)  # failed by bad luck, for the test to release
    deaths_of: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, step)
    retries_of: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.tasks:,} runs, {self.steps:,} steps, {self.deaths:,} claims after a death, "
            f"{self.died_in_once} died in a mail, {self.died_before_once} before it"
        )


def check(
    facts: Facts,
    *,
    ledger: Ledger | None = None,
    post: PostOffice | None = None,
    once: frozenset[str] = frozenset({"mail", "once"}),
) -> Tally:
    """Check all invariants and return the tally; `once` are the keys of the steps never to be repeated."""
    events: dict[str, list[Row]] = defaultdict(list)
    for event in facts["events"]:
        events[str(event["task_id"])].append(event)
    open_questions = Counter(str(a["task_id"]) for a in facts["approvals"] if a["state"] == "open")
    tally = Tally(tasks=len(facts["tasks"]))
    for task in facts["tasks"]:
        told = events[str(task["id"])]
        _check_rest(task)
        _check_journal(task, told)
        _check_once(task, told, once, tally)
        _check_question(task, open_questions[str(task["id"])])
        _count(task, told, tally)
    _check_texts(facts)
    if ledger is not None:
        _check_ledger(facts, ledger, tally)
    if post is not None:
        _check_letters(facts, post, once)
    return tally


def _about(task: Row, told: list[Row] | None = None) -> str:
    row = {name: task[name] for name in ("id", "status", "step", "seq", "reason", "waiting_for", "wake_at")}
    lines = [f"{e['seq']} {e['kind']} {e['step']} {e['status']} {e['data']}" for e in told or ()]
    return "\n".join([str(row), *lines])


def _check_rest(task: Row) -> None:
    """I1 and I5: nobody is forgotten, and what is over keeps nothing."""
    status, about = task["status"], _about(task)
    if status in OVER:
        assert task["wake_at"] is None, about
        assert task["sealed"] is None, about
        assert task["request"] is None, about
        assert task["mailbox"] == [], about
    elif status in ("failed", "paused"):
        assert task["reason"], about
    elif status == "waiting":
        assert task["waiting_for"], about
        assert task["wake_at"] or task["waiting_for"].startswith(HELD), about
    else:
        assert task["wake_at"], about


def _check_journal(task: Row, told: list[Row]) -> None:
    """I2 and I3: the journal is gapless, and its end is the row."""
    about = _about(task, told)
    assert [event["seq"] for event in told] == list(range(1, task["seq"] + 1)), about
    assert told[0]["kind"] == "created", about
    assert told[-1]["status"] == task["status"], about
    if task["status"] != "running":
        assert told[-1]["step"] == task["step"], about


def _check_once(task: Row, told: list[Row], once: frozenset[str], tally: Tally) -> None:
    """I6: what may not be repeated began once, and a death after its start put it before a person."""
    begun = died = False
    done: Counter[str] = Counter(event["step"] for event in told if event["kind"] == "step_done")
    assert all(count == 1 for count in done.values()), _about(task, told)
    for event in told:
        kind = event["kind"]
        tally.retries_of[str(task["id"]), event["step"]] += kind == "retry_later"
        if kind == "claimed" and event["data"].get("crashes"):
            tally.deaths_of[str(task["id"]), event["step"]] += 1
            if event["step"] in once:
                tally.died_in_once += begun and not died
                tally.died_before_once += not begun
            died = begun
        if event["step"] not in once:
            continue
        if kind == "started":
            assert not begun, "it began again:\n" + _about(task, told)
            begun = True
        elif kind == "late":
            tally.given_up -= 1  # the answer came after all, and nobody need decide
        elif kind == "unknown":
            tally.given_up += not died
            assert begun, "it never began, and a person is asked:\n" + _about(task, told)
        elif kind in CLOSES_START:
            assert not died, "its holder died in it, and nobody is asked:\n" + _about(task, told)
        if kind in CLOSES_START:
            begun = died = False


def _check_question(task: Row, open_questions: int) -> None:
    """Whoever waits for a person has a question that a person can see; nobody else has one."""
    asks = task["waiting_for"].startswith("approval:")
    assert open_questions == int(asks), _about(task)
    if task["reason"] == "outcome_unknown":
        assert task["status"] == "paused", _about(task)
        assert asks, _about(task)


def _count(task: Row, told: list[Row], tally: Tally) -> None:
    tally.completed += task["status"] == "completed"
    tally.steps += sum(event["kind"] == "step_done" for event in told)
    tally.deaths += sum(event["kind"] == "claimed" and bool(event["data"].get("crashes")) for event in told)
    tally.unknown += task["reason"] == "outcome_unknown"
    if task["status"] == "failed" and task["reason"] == "quarantined":
        tally.quarantined.append(str(task["id"]))


def _check_texts(facts: Facts) -> None:
    """I5: with its run, the text of a question or of a posted message goes."""
    over = {task["id"] for task in facts["tasks"] if task["status"] in OVER}
    for row in facts["approvals"]:
        assert row["sealed"] is None or row["task_id"] not in over, row
    for row in facts["notifications"]:
        assert row["sealed"] is None or row["task_id"] not in over or row["state"] != "sent", row


def _check_ledger(facts: Facts, ledger: Ledger, tally: Tally) -> None:
    """I4: one applied write for each key, and no call too many that no death explains."""
    twice = {key: count for key, count in ledger.applied.items() if count != 1}
    assert not twice, f"applied more than once: {twice}"
    for (kind, key), calls in ledger.raw.items():
        task, step, _visit = key.split(":")
        explained = 1 + tally.deaths_of[task, step] + tally.retries_of[task, step]
        assert calls <= explained, f"{kind} {key}: {calls} calls, {explained} explained"
    written: dict[str, set[str]] = defaultdict(set)
    for _, key in ledger.applied:
        task, step, _visit = key.split(":")
        written[task].add(step)
    for task_id, step in _done(facts):
        if step in LEDGER_STEPS:
            assert step in written[task_id], f"{task_id}: {step} is done and the ledger does not have it"


LEDGER_STEPS = ("write", "check", "once")


def _done(facts: Facts) -> list[tuple[str, str]]:
    return [(str(e["task_id"]), e["step"]) for e in facts["events"] if e["kind"] == "step_done"]


def _check_letters(facts: Facts, post: PostOffice, once: frozenset[str]) -> None:
    """I4 for mail: nobody got a letter twice, and each step that says "done" sent its letter.

    Of a step whose end is not known, or that was set aside after its start, the letter may be there.
    """
    twice = [recipient for recipient, count in post.recipients.items() if count > 1]
    assert not twice, f"got a mail twice: {twice}"
    assert all(count == 1 for count in post.ids.values())
    sent = sum(1 for _, step in _done(facts) if step == "mail" and step in once)
    unknown = sum(1 for event in facts["events"] if event["kind"] == "unknown" and event["step"] == "mail")
    aside = sum(1 for task in facts["tasks"] if task["reason"] == "quarantined" and task["started_at"])
    about = f"{sent} sent, {len(post.letters)} letters, {unknown} unknown, {aside} set aside"
    assert sent <= len(post.letters) <= sent + unknown + aside, about


def summary(name: str, tally: Tally, **more: Any) -> str:
    """Return one line for the report."""
    extra = "".join(f", {value} {what.replace('_', ' ')}" for what, value in more.items())
    return f"{name}: {tally}{extra}"
