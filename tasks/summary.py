"""The daily summary: what the procedures did since the last one, in the ops channel at 19:00 local."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from tasks import events, journal, outbox
from tasks.mail_in import REPLIED as ANSWERED
from tasks.models import Notification, Task, TaskEvent
from tasks.outcome import handlers
from tasks.plan import definition_of
from tasks.transition import UNKNOWN

HOUR = time(19)
WAITS = Q(status__in=("waiting", "paused")) & ~Q(waiting_for__in=("children", "listing"))
# A reply ends a wait, withdraws a question, or ends the run before its mail leaves.
REPLIED = (Q(data__event=ANSWERED) | Q(data__result=ANSWERED)) & ~Q(kind="waiting")
PAID = "paid"
# In the order of the line; what did not happen is left out of it.
COUNTED = ("started", "sent", "replied", "declined", "failed", "waiting")


@dataclass(frozen=True, slots=True)
class Day:
    """What one summary tells of: (begins, ends], both at 19:00 on the wall clock."""

    begins: datetime
    ends: datetime


def post_due() -> bool:
    """Post the summary whose hour has come last, unless it is there; return whether it was posted.

    After a long silence only the newest is posted. Where nothing had been started before its hour
    there is nothing to sum up.
    """
    day = day_before(journal.database_now())
    dedupe = f"summary:{day.ends:%Y-%m-%d}"
    if Notification.objects.filter(dedupe=dedupe).exists():  # `dedupe` decides; this saves the counting
        return False
    if not Task.objects.filter(created_at__lte=day.ends).exists():
        return False
    return outbox.post(text_of(day), kind="summary", channel=settings.OPS_CHANNEL, dedupe=dedupe)


def day_before(now: datetime) -> Day:
    """Return the day that ended last."""
    zone = ZoneInfo(settings.TIME_ZONE)
    date = now.astimezone(zone).date()
    ends = datetime.combine(date, HOUR, zone)
    if ends > now:
        date -= timedelta(days=1)
        ends = datetime.combine(date, HOUR, zone)
    begins = datetime.combine(date - timedelta(days=1), HOUR, zone)
    return Day(begins.astimezone(UTC), ends.astimezone(UTC))


def text_of(day: Day) -> str:
    """Return the summary: a line for each SOP that had anything to do, and the money that came in."""
    local = day.ends.astimezone(ZoneInfo(settings.TIME_ZONE))
    counts = counts_of(day)
    lines = [f"{local:%A} {local.day} {local:%B}"]
    lines += [f"{name}: {_counted(counts[name])}" for name in sorted(counts)]
    if not counts:
        lines.append("No procedure had anything to do.")
    lines += [f"Money collected after our notices: {amount}" for amount in money_of(day)]
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in COUNTED if counts.get(word))


def counts_of(day: Day) -> dict[str, dict[str, int]]:
    """Return by SOP how many runs were started, were declined, failed, and wait now; how many mails went
    out, and to how many runs a customer replied."""
    ended = Task.objects.filter(_within("finished_at", day))
    found = {
        "started": _by_sop(Task.objects.filter(_within("created_at", day))),
        "sent": _sent(day),
        "replied": _by_sop(Task.objects.filter(pk__in=_heard(day) | _answered_unheard(day))),
        "declined": _by_sop(ended.filter(status=Task.Status.COMPLETED, result="declined")),
        "failed": _by_sop(ended.filter(status=Task.Status.FAILED)),
        "waiting": _by_sop(Task.objects.filter(WAITS)),
    }
    counts: dict[str, dict[str, int]] = {}
    for word, by_name in found.items():
        for name, count in by_name.items():
            counts.setdefault(name, {})[word] = count
    return counts


def _by_sop(rows: "QuerySet[Any]", sop: str = "version__sop__name") -> dict[str, int]:
    """Return how many of these rows each SOP has."""
    return dict(rows.order_by().values_list(sop).annotate(count=Count("pk")))


# -- mails -----------------------------------------------------------------------------------------


def _sent(day: Day) -> Mapping[str, int]:
    told = TaskEvent.objects.filter(_within("at", day))
    known = _by_sop(told.filter(kind="step_done", data__result="sent"), "task__version__sop__name")
    return Counter(known) + _said_to_be_sent(told)


def _said_to_be_sent(told: "QuerySet[TaskEvent]") -> Counter[str]:
    """Count the mails of which the answer was lost, and a person said that they had gone out."""
    before = TaskEvent.objects.filter(task=OuterRef("task"), step=OuterRef("step"), seq__lt=OuterRef("seq"))
    asked = Exists(before.filter(kind="parked", data__code=UNKNOWN))
    rows = told.filter(asked, kind="answered", data__choice="was_sent")
    found = rows.order_by().values_list("task__version__sop__name", "task__version", "step")
    return Counter(sop for sop, version, step in found if _sends(version, step))


def _sends(version: int, step: str) -> bool:
    name = definition_of(version).step(step).handler
    return name in handlers and handlers.get(name).sends


# -- replies ---------------------------------------------------------------------------------------


def _heard(day: Day) -> set[UUID]:
    """Return the runs that first heard of a reply on this day."""
    replied = TaskEvent.objects.filter(REPLIED)
    today = _runs_of(replied.filter(_within("at", day)))
    return today - _runs_of(replied.filter(task__in=today, at__lte=day.begins))


def _answered_unheard(day: Day) -> set[UUID]:
    """Return the runs whose mail was first answered on this day, without their hearing of it: most are over.

    The run that takes the answer knows whose mail it was. Where a follow-up hears of replies, it counts.
    """
    tellers = TaskEvent.objects.filter(seq=1, data__has_key="answers")
    today = dict(tellers.filter(_within("at", day)).values_list("data__answers", "task__version__sop"))
    earlier = tellers.filter(
        at__lte=day.begins, task__version__sop__in=set(today.values()), data__answers__in=list(today)
    )
    runs = {UUID(run) for run in today} - {
        UUID(run) for run in earlier.values_list("data__answers", flat=True)
    }
    return runs - _with_ears(runs)


def _with_ears(runs: Iterable[UUID]) -> set[UUID]:
    """Return those of the runs that have heard of a reply or will, themselves or a run they started."""
    elders = {run: run for run in runs}
    line = elders
    while line:
        children = Task.objects.filter(parent__in=line).values_list("pk", "parent")
        line = {child: line[parent] for child, parent in children if parent}
        elders = {**elders, **line}
    family = Task.objects.filter(pk__in=elders)
    hearing = {
        run
        for run, version in family.filter(status__in=events.OPEN).values_list("pk", "version")
        if ANSWERED in events.listened(definition_of(version))
    }
    return {elders[run] for run in hearing | _runs_of(TaskEvent.objects.filter(REPLIED, task__in=elders))}


def _runs_of(rows: "QuerySet[TaskEvent]") -> set[UUID]:
    return set(rows.order_by().values_list("task", flat=True))


# -- money -----------------------------------------------------------------------------------------


def money_of(day: Day) -> list[str]:
    """Return the sums collected, one for each currency: what runs found paid wrote as `collected`."""
    paid = Task.objects.filter(_within("finished_at", day), status=Task.Status.COMPLETED, result=PAID)
    sums: dict[str, Decimal] = {}
    for values in paid.values_list("context", flat=True).iterator():
        for step in values.values():
            for currency, amount in _collected(step):
                sums[currency] = sums.get(currency, Decimal(0)) + amount
    return [f"{amount:,.2f} {currency}".strip() for currency, amount in sorted(sums.items()) if amount]


def _collected(step: object) -> Iterator[tuple[str, Decimal]]:
    """Yield what a step has collected: amounts by currency, or one amount with its currency beside it."""
    found = step.get("collected") if isinstance(step, dict) else None
    if isinstance(found, dict):
        for currency, amount in found.items():
            yield currency, _amount(amount)
    elif isinstance(step, dict) and found:
        yield str(step.get("currency") or ""), _amount(found)


def _amount(text: object) -> Decimal:
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() else Decimal(0)


def _within(column: str, day: Day) -> Q:
    return Q(**{f"{column}__gt": day.begins, f"{column}__lte": day.ends})
