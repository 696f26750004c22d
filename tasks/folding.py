"""Equal alerts become one message with a count, within a quarter of an hour.

The first of them is posted at once. The second waits for the end of the first one's window, and is
then posted as "it happened n more times"; the others are counted on the first and end unposted. What
is posted at the end of a window opens the next one, so that whatever happens, one alert speaks at
most every quarter of an hour. What is critical is never folded.
"""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet

from tasks.models import Notification

WINDOW = timedelta(minutes=15)
FOLDED = "folded"  # why it was not posted: another one counts it
FOLDING = "folding"  # why it waits: it will say how many there were
State = Notification.State


def is_folded(row: Notification, now: datetime) -> bool:
    """Fold a message that was just claimed for the first time; True when it must not be posted now."""
    if not row.fold or row.severity == "critical" or row.attempts != 1 or row.reason == FOLDING:
        return False
    with transaction.atomic():
        head = _head(row, now)
        if head is None:
            return False
        closes = (head.sent_at or head.created_at) + WINDOW
        counted = Notification.objects.filter(pk=head.pk)
        ours = Notification.objects.filter(pk=row.pk, state=State.PENDING, attempts=row.attempts)
        if counted.filter(count=1).update(count=2):
            ours.update(wake_at=closes, reason=FOLDING, attempts=0)
        else:
            counted.update(count=F("count") + 1)
            ours.update(state=State.SENT, wake_at=None, reason=FOLDED, sealed=None)
    return True


def more_times(row: Notification) -> int:
    """Return how many equal alerts this one speaks of, beside the one before it; 0 for a first one."""
    if not row.fold:
        return 0
    before = _equal(row).exclude(reason=FOLDED).order_by("-created_at", "-pk").first()
    return before.count - 1 if before else 0


def _head(row: Notification, now: datetime) -> Notification | None:
    """Return the alert that counts this one: the newest that spoke, or is about to, in this window."""
    in_window = Q(sent_at__gt=now - WINDOW) | Q(sent_at__isnull=True, created_at__gt=now - WINDOW)
    heads = _equal(row).filter(in_window).exclude(reason__in=(FOLDED, FOLDING))
    return heads.order_by("-created_at", "-pk").first()


def _equal(row: Notification) -> "QuerySet[Notification]":
    """Return the alerts before this one that say the same in the same place, but for those given up."""
    before = Q(created_at__lt=row.created_at) | Q(created_at=row.created_at, pk__lt=row.pk)
    equal = Notification.objects.filter(
        before, fold=row.fold, channel=row.channel, medium=row.medium, state__in=(State.PENDING, State.SENT)
    )
    return equal.exclude(pk=row.pk)  # SQLite compares moments as texts, of which one has more digits
