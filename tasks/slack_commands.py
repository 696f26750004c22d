"""/sop: what staff can ask and do by typing in Slack.

/sop list                       the procedures, and when they start next
/sop run SLUG [name=value ...]  start one now
/sop status [RUN]               what needs a person; or where one run stands
/sop pause RUN|SLUG             stop a run, or all open runs of a procedure
/sop resume RUN|SLUG            go on with it; of a procedure, with what staff paused
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from django.contrib.auth.models import AbstractUser
from django.db.models import Count

from sopengine import clock
from sopengine.errors import DataError
from tasks import engine, journal, overview, pages, timeline, triggers
from tasks.escalations import STOPPED
from tasks.models import Sop, Task
from tasks.short_ids import NoSuchId, find, short

MOST_RUNS = 1000
MAY_LOOK = ("tasks.view_sop", pages.MAY_CHANGE_SOP, pages.MAY_OPERATE, pages.MAY_ANSWER)
HELP = (
    "/sop list: the procedures, and when they start next\n"
    "/sop run SLUG [name=value …]: start one now\n"
    "/sop status [RUN]: what needs a person, or where one run stands\n"
    "/sop pause RUN or SLUG, /sop resume RUN or SLUG: stop and go on with what was paused"
)
OPEN = (Task.Status.READY, Task.Status.RUNNING, Task.Status.WAITING)


class NotDone(Exception):
    """The command was not carried out; the sentence says why and what to type."""


def answer(text: str, person: AbstractUser, key: str) -> str:
    """Carry out one command and return what to say. `key` is that of the request: a repeat starts nothing."""
    verb, *words = text.split() or ["help"]
    act = _VERBS.get(verb.lower())
    if act is None:
        return HELP if verb == "help" else f"“{verb[:40]}” is no command.\n{HELP}"
    try:
        return act(words, person, key)
    except (NotDone, NoSuchId, triggers.NotRunnable, engine.InputError) as refusal:
        return f"Not done: {refusal}"
    except DataError as error:
        return f"Not done: {error.message}"


def _require(person: AbstractUser, *permissions: str) -> None:
    if not any(map(person.has_perm, permissions)):
        raise NotDone(f"{person.get_username()} may not do this; ask an administrator.")


def _list(words: Sequence[str], person: AbstractUser, key: str) -> str:
    _require(person, *MAY_LOOK)
    now = clock.now()
    return "\n".join(_told(sop, now) for sop in Sop.objects.select_related("published").order_by("slug")) or (
        "There is no procedure yet."
    )


def _told(sop: Sop, now: datetime) -> str:
    state = overview.STATES[sop.state].word.lower()
    trigger = sop.published.definition.get("trigger", {}) if sop.published else {}
    slot = triggers.next_slot(trigger, now) if sop.state == Sop.State.ACTIVE else None
    starts = f", next {timeline.moment(slot, now)}" if slot else ""
    return f"{sop.slug}: {sop.name} ({state}{starts})"


def _run(words: Sequence[str], person: AbstractUser, key: str) -> str:
    _require(person, pages.MAY_OPERATE)
    if not words:
        raise NotDone("say which one, such as: /sop run past-customer-reactivation")
    version = triggers.runnable(_sop(words[0]))
    task = engine.start(
        version,
        _given(words[1:]),
        key=f"slack:{key}",
        slot=journal.database_now(),
        by=f"user:{person.pk}",
    )
    return f"Started: run {short(task.pk)}." if task else "This run was started already."


def _given(words: Sequence[str]) -> Mapping[str, str]:
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise NotDone("inputs are written name=value, such as season=2027")
        given[name] = value
    return given


def _status(words: Sequence[str], person: AbstractUser, key: str) -> str:
    _require(person, "tasks.view_task", pages.MAY_OPERATE, pages.MAY_ANSWER)
    if words:
        task = find(Task.objects.select_related("version__sop"), words[0])
        now = clock.now()
        last = task.events.order_by("-seq").values_list("at", flat=True).first() or task.created_at
        return (
            f"Run {short(task.pk)} of {task.version.sop.name}: {timeline.headline(task, last, now)} "
            f"{timeline.next_action(task, now)}"
        )
    seen = overview.overview()
    return (
        f"{seen.to_answer} to answer, {seen.stopped} stopped, {seen.failed} failed in the last 24 h, "
        f"{seen.late} late, {seen.undelivered} messages not delivered, "
        f"{seen.unprocessed} webhooks not processed. {seen.alive.text} {seen.crm.text}"
    )


def _pause(words: Sequence[str], person: AbstractUser, key: str) -> str:
    return _signal("pause", words, person, OPEN)


def _resume(words: Sequence[str], person: AbstractUser, key: str) -> str:
    return _signal("resume", words, person, (Task.Status.PAUSED,))


def _signal(kind: str, words: Sequence[str], person: AbstractUser, takes: Sequence[str]) -> str:
    """Tell one run, or the runs of a procedure that can take it; its children are told with each.

    What stopped by itself is tried again only where somebody names that run.
    """
    _require(person, pages.MAY_OPERATE)
    if len(words) != 1:
        raise NotDone(f"say which run or procedure, such as: /sop {kind} 1a2b3c4d")
    sop = Sop.objects.filter(slug=words[0]).first()
    if sop is None:
        found = [find(Task.objects.all(), words[0])]
        if found[0].status not in takes:
            raise NotDone(f"run {short(found[0].pk)} is {found[0].status}; it cannot {kind}.")
    else:
        theirs = Task.objects.filter(version__sop=sop, status__in=takes)
        found = list(theirs.exclude(STOPPED)[:MOST_RUNS])
    taken = engine.signal([task.pk for task in found], kind, by=person.pk) if found else 0
    done = {"pause": "paused before its next step", "resume": "going on"}[kind]
    left = _left(sop) if sop and kind == "resume" else ""
    return f"{taken} run{'' if taken == 1 else 's'} of “{words[0]}” {done}.{left}"


def _left(sop: Sop) -> str:
    """Return how many runs of the procedure are not resumed with it, and why; "" where there are none."""
    stopped = Task.objects.filter(STOPPED, version__sop=sop).order_by("reason").values_list("reason")
    counts = [(count, timeline.reason(code)) for code, count in stopped.annotate(count=Count("pk"))]
    if not counts:
        return ""
    why = "; ".join(f"{count}: {reason}" for count, reason in counts)
    number = sum(count for count, _ in counts)
    left = (
        "1 run stays stopped, as nobody paused it"
        if number == 1
        else (f"{number} runs stay stopped, as nobody paused them")
    )
    return f" {left} ({why}). To try one again, name it: /sop resume RUN."


def _sop(slug: str) -> Sop:
    sop = Sop.objects.select_related("published").filter(slug=slug).first()
    if sop is None:
        raise NotDone(f"there is no procedure “{slug[:80]}”; see /sop list")
    return sop


_VERBS: Mapping[str, Callable[[Sequence[str], AbstractUser, str], str]] = {
    "list": _list,
    "run": _run,
    "status": _status,
    "pause": _pause,
    "resume": _resume,
}
