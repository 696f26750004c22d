"""Messages to staff on their way out: written with what they tell of, posted later, at least once.

Chat that is down stops nobody. A message is claimed by a conditional UPDATE that moves its hour
to the end of a lease, so that two processes never post the same one at the same time; a process
that dies leaves it to be posted again when the lease is over.
"""

import logging
import random
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Case, CharField, F, Q, QuerySet, Value, When
from django.urls import reverse

from credentials import vault
from sopengine.errors import Permanent, RateLimited, StepError
from tasks import journal
from tasks.models import Notification, Task
from tasks.transports import Message, Transport, open_transport
from tasks.wording import escalation_text

log = logging.getLogger("tasks.outbox")

TABLE = "tasks_notification"
LEASE = timedelta(seconds=60)
MOST_TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 5.0, 900.0  # seconds before another try
KEEPS = timedelta(days=7)
OVER = (Task.Status.COMPLETED, Task.Status.CANCELLED)
State = Notification.State


# -- writing -------------------------------------------------------------------------------------


def sealed_notice(id: UUID | str, text: str) -> str:  # noqa: A002 - the row's id
    """Return the sealed column of the notification with this id."""
    return vault.seal({"text": text}, table=TABLE, row=str(id), field="sealed")


def post(
    text: str,
    *,
    task_id: UUID | None = None,
    approval_id: UUID | None = None,
    kind: str = "info",
    severity: str = "info",
    channel: str = "",
    dedupe: str | None = None,
) -> bool:
    """Leave one message for staff; False when one with the same `dedupe` is there already."""
    now = journal.database_now()
    row = Notification(
        id=uuid4(),
        task_id=task_id,
        approval_id=approval_id,
        kind=kind,
        severity=severity,
        channel=channel,
        dedupe=dedupe,
        created_at=now,
        wake_at=now,
    )
    row.sealed = sealed_notice(row.id, text)
    Notification.objects.bulk_create([row], ignore_conflicts=True)
    return Notification.objects.filter(pk=row.pk).exists()


def escalate(
    *,
    what: str,
    why: str,
    machine: str,
    do: str,
    task_id: UUID | None = None,
    severity: str = "error",
    dedupe: str | None = None,
) -> bool:
    """Leave one call for help in the escalations channel; the link and the run's id are added to it."""
    return post(
        escalation_text(what=what, why=why, machine=machine, do=do),
        task_id=task_id,
        kind="escalation",
        severity=severity,
        channel=settings.ESCALATIONS_CHANNEL,
        dedupe=dedupe,
    )


# -- posting -------------------------------------------------------------------------------------


def pump(limit: int = 50) -> int:
    """Post what is due, at most `limit`, and return how many went out. Never raises."""
    posted = 0
    try:
        transport = open_transport()
        for id_ in _due(limit):
            posted += _deliver(id_, transport)
    except Exception as error:
        # The caller's work is done; what could not be posted is still due.
        log.error("outbox stopped: %s", type(error).__name__)
    return posted


def _due(limit: int) -> list[UUID]:
    due = Notification.objects.filter(wake_at__lte=journal.database_now(), state=State.PENDING)
    return list(due.order_by("wake_at").values_list("id", flat=True)[:limit])


def _deliver(id_: UUID, transport: Transport) -> bool:
    """Claim one message and post it; False when another process has it, or it could not be posted."""
    row = _claim(id_)
    if row is None:
        return False
    try:
        reference = transport.post(_message(row))
    except StepError as error:
        _failed(row, error)
        return False
    except Exception as error:
        _failed(row, StepError(code=type(error).__name__))
        return False
    _sent(row, reference)
    return True


def _claim(id_: UUID) -> Notification | None:
    now = journal.database_now()
    due = Notification.objects.filter(pk=id_, state=State.PENDING, wake_at__lte=now)
    if not due.update(wake_at=now + LEASE, attempts=F("attempts") + 1):
        return None
    return Notification.objects.get(pk=id_)


def _message(row: Notification) -> Message:
    if row.sealed is None:
        raise Permanent("The text is gone.", code="text_gone")
    content = vault.unseal(row.sealed, table=TABLE, row=str(row.id), field="sealed")
    return Message(
        id=str(row.id),
        text=content["text"],
        channel=row.channel or settings.ESCALATIONS_CHANNEL,
        kind=row.kind,
        severity=row.severity,
        link=_link(row),
        reference=str(row.task_id)[:8] if row.task_id else "",
        at=row.created_at,
    )


def _link(row: Notification) -> str:
    if row.approval_id:
        path = reverse("admin:tasks_approval_change", args=[row.approval_id])
    elif row.task_id:
        path = reverse("admin:tasks_task_change", args=[row.task_id])
    else:
        path = reverse("admin:index")
    return settings.PUBLIC_URL.rstrip("/") + path


def _sent(row: Notification, reference: str) -> None:
    """Mark it posted. Its text goes now if its task is over, else with the end of the task."""
    with transaction.atomic():
        keeps = row.task_id is not None and _goes_on(row.task_id)
        _ours(row).update(
            state=State.SENT,
            wake_at=None,
            sent_at=journal.database_now(),
            reference=reference[:120],
            reason="",
            sealed=row.sealed if keeps else None,
        )


def _goes_on(task_id: UUID) -> bool:
    """Return whether the task is not over yet, and keep it so until the transaction ends."""
    status = Task.objects.select_for_update().filter(pk=task_id).values_list("status", flat=True).first()
    return status is not None and status not in OVER


def _failed(row: Notification, error: StepError) -> None:
    """Try again later; give up when the other side said no for good, or after eight tries."""
    reason = error.reason[:200]
    pause = isinstance(error, RateLimited)
    if isinstance(error, Permanent) or (row.attempts >= MOST_TRIES and not pause):
        log.error("message %s to staff given up after %s tries: %s", row.id, row.attempts, reason)
        _ours(row).update(state=State.DEAD, wake_at=None, reason=reason)
        return
    wait = _wait(row.attempts, error.retry_after)
    _ours(row).update(wake_at=journal.database_now() + wait, reason=reason)


def _wait(tries: int, retry_after: float | None) -> timedelta:
    """Return the pause before another try: what the other side asked for, else twice as long each time."""
    if retry_after is not None:
        return timedelta(seconds=retry_after)
    doubled: float = min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT)
    return timedelta(seconds=doubled * (1 + random.random() / 4))  # noqa: S311 - spreads load, hides nothing


def _ours(row: Notification) -> "QuerySet[Notification]":
    """Return the row as long as nobody has claimed it since."""
    return Notification.objects.filter(pk=row.pk, state=State.PENDING, attempts=row.attempts)


# -- forgetting ------------------------------------------------------------------------------------


def scrub_old() -> int:
    """Null every text older than seven days, and give up what was never posted; returns how many."""
    old = Notification.objects.filter(created_at__lt=_oldest(), sealed__isnull=False)
    unsent = Q(state=State.PENDING)
    return old.update(
        sealed=None,
        wake_at=None,
        state=Case(When(unsent, then=Value(State.DEAD)), default=F("state"), output_field=CharField()),
        reason=Case(When(unsent, then=Value("too_old")), default=F("reason"), output_field=CharField()),
    )


def _oldest() -> datetime:
    return journal.database_now() - KEEPS
