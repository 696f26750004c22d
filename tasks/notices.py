"""Messages to staff, written: sealed, with what they tell of, in the writer's own transaction.

`tasks.outbox` posts them. What is an error is told twice, in the chat and by mail to
settings.ESCALATIONS_EMAIL: a chat that is down must not hide it.
"""

from uuid import UUID, uuid4

from django.conf import settings

from credentials import vault
from tasks import journal
from tasks.models import Notification
from tasks.wording import escalation_text

TABLE = "tasks_notification"
MAILED = frozenset({"error", "critical"})
Medium = Notification.Medium


def away_pulse(medium: str) -> str:
    """Return the name of the pulse that says until when nothing is sent by this medium."""
    return f"{medium}:away"


def sealed_notice(id: UUID | str, text: str, to: str = "") -> str:  # noqa: A002 - the row's id
    """Return the sealed column of the notification with this id; `to` is the one address it is for."""
    said = {"text": text, "to": to} if to else {"text": text}
    return vault.seal(said, table=TABLE, row=str(id), field="sealed")


def is_mailed(severity: str) -> bool:
    """Return whether what is so bad goes by mail too, and there is somebody to get it."""
    return severity in MAILED and bool(settings.ESCALATIONS_EMAIL)


def mailed_dedupe(dedupe: str | None) -> str | None:
    """Return the `dedupe` of the mail that says the same as the chat message with this one."""
    return f"mail:{dedupe}"[:120] if dedupe else None


def post(
    text: str,
    *,
    task_id: UUID | None = None,
    approval_id: UUID | None = None,
    kind: str = "info",
    severity: str = "info",
    channel: str = "",
    dedupe: str | None = None,
    fold: str = "",
    medium: str = Medium.CHAT,
    recipient_id: int | None = None,
) -> bool:
    """Leave one message for staff; False when one with the same `dedupe` is there already.

    Messages with the same `fold` become one with a count when they come within a quarter of an hour.
    With a `recipient_id` it is for one of us alone, else for the channel, or for all who get mail.
    """
    now = journal.database_now()
    row = Notification(
        id=uuid4(),
        task_id=task_id,
        approval_id=approval_id,
        kind=kind,
        severity=severity,
        channel=channel,
        dedupe=dedupe,
        fold=fold[:120],
        medium=medium,
        recipient_id=recipient_id,
        created_at=now,
        wake_at=now,
    )
    row.sealed = sealed_notice(row.id, text)
    rows = [row]
    if medium == Medium.CHAT and is_mailed(severity):
        twin = Notification(
            id=uuid4(),
            task_id=task_id,
            approval_id=approval_id,
            kind=kind,
            severity=severity,
            channel=channel,
            dedupe=mailed_dedupe(dedupe),
            fold=row.fold,
            medium=Medium.MAIL,
            created_at=now,
            wake_at=now,
        )
        twin.sealed = sealed_notice(twin.id, text)
        rows.append(twin)
    Notification.objects.bulk_create(rows, ignore_conflicts=True)
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
    fold: str = "",
) -> bool:
    """Leave one call for help in the escalations channel; the link and the run's id are added to it."""
    return post(
        escalation_text(what=what, why=why, machine=machine, do=do),
        task_id=task_id,
        kind="escalation",
        severity=severity,
        channel=settings.ESCALATIONS_CHANNEL,
        dedupe=dedupe,
        fold=fold,
    )
