"""The daily summary: what the procedures did since the last one, in the ops channel at 19:00 local."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Count, Q, QuerySet

from tasks import journal, outbox
from tasks.models import Notification, Task, TaskEvent

HOUR = time(19)
WAITS = Q(status__in=("waiting", "paused")) & ~Q(waiting_for__in=("children", "listing"))
# A reply ends a wait, withdraws a question, or ends the run before its mail leaves.
REPLIED = Q(data__event="replied") | Q(data__result="replied")
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
    events = TaskEvent.objects.filter(_within("at", day))
    sop, sop_of_event = "version__sop__name", "task__version__sop__name"
    found = {
        "started": _by(sop, Task.objects.filter(_within("created_at", day)), "pk"),
        "sent": _by(sop_of_event, events.filter(kind="step_done", data__result="sent"), "pk"),
        "replied": _by(sop_of_event, events.filter(REPLIED).exclude(kind="waiting"), "task"),
        "declined": _by(sop, ended.filter(status=Task.Status.COMPLETED, result="declined"), "pk"),
        "failed": _by(sop, ended.filter(status=Task.Status.FAILED), "pk"),
        "waiting": _by(sop, Task.objects.filter(WAITS), "pk"),
    }
    counts: dict[str, dict[str, int]] = {}
    for word, by_name in found.items():
        for name, count in by_name.items():
            counts.setdefault(name, {})[word] = count
    return counts


def _by(sop: str, rows: "QuerySet[Any]", what: str) -> dict[str, int]:
    """Return how many different `what` of these rows each SOP has."""
    return dict(rows.order_by().values_list(sop).annotate(count=Count(what, distinct=True)))


def money_of(day: Day) -> list[str]:
    """Return the sums collected, one for each currency: what runs found paid wrote as `collected`."""
    paid = Task.objects.filter(_within("finished_at", day), status=Task.Status.COMPLETED, result=PAID)
    sums: dict[str, Decimal] = {}
    for values in paid.values_list("context", flat=True).iterator():
        for step in values.values():
            if isinstance(step, dict) and "collected" in step:
                currency = str(step.get("currency") or "")
                sums[currency] = sums.get(currency, Decimal(0)) + _amount(step["collected"])
    return [f"{amount:,.2f} {currency}".strip() for currency, amount in sorted(sums.items()) if amount]


def _amount(text: object) -> Decimal:
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() else Decimal(0)


def _within(column: str, day: Day) -> Q:
    return Q(**{f"{column}__gt": day.begins, f"{column}__lte": day.ends})
