"""Messages to staff on their way out: written with what they tell of, posted later, at least once.

Chat that is down stops nobody. A message is claimed by a conditional UPDATE that moves its hour
to the end of a lease, so that two processes never post the same one at the same time; a process
that dies leaves it to be posted again when the lease is over. When the other side is away, nothing
is sent that way until the next try, however many messages wait; none is given up for that.
"""

import logging
import random
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Case, CharField, F, Q, QuerySet, Value, When

from sopengine import clock
from sopengine.errors import AuthError, Permanent, RateLimited, StepError, Transient
from tasks import asking, contents, folding, journal, mail, staff_mail
from tasks.models import Approval, ChatAccount, Notification, Pace, Pulse, Task
from tasks.notices import away_pulse, escalate, post, sealed_notice
from tasks.transports import Message, Transport, open_transport
from tasks.wording import escalation_text

__all__ = ["escalate", "post", "post_again", "pump", "scrub_old", "sealed_notice"]

log = logging.getLogger("tasks.outbox")

LEASE = timedelta(seconds=60)
PUMP_SECONDS = 10.0  # that one pump takes at most, beside the call that it is in
MOST_TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 5.0, 900.0  # seconds before another try
TRIES_UNTOLD = 7  # of a chat that does not answer, in about ten minutes; then mail says so
BURST = 4  # messages in one channel that may leave at once, before they leave at its pace
KEEPS = timedelta(days=7)
PACED = "paced"  # why it waits: it has its place in the channel's line
ANSWERED = "answered"  # why it was not posted: nothing was left to say
OVER = (Task.Status.COMPLETED, Task.Status.CANCELLED)
State = Notification.State
Medium = Notification.Medium


# -- posting -------------------------------------------------------------------------------------


def pump(limit: int = 50) -> int:
    """Post what is due, at most `limit` and for some seconds, and return how many went out. Never raises."""
    posted = 0
    ends = clock.monotonic() + PUMP_SECONDS
    try:
        if not _is_anything_waiting():
            return 0
        _tell()
        transport = open_transport()
        due = deque(_due(limit))
        while due and clock.monotonic() < ends:
            posted += _deliver(due.popleft(), transport, due)
    except Exception as error:
        # The caller's work is done; what could not be posted is still due.
        log.error("outbox stopped: %s", type(error).__name__)
    return posted


def _is_anything_waiting() -> bool:
    """Whether a message is due, or a question open that nobody was told of: mostly neither is so."""
    return (
        Notification.objects.filter(wake_at__lte=journal.database_now()).exists()
        or Approval.objects.filter(state=Approval.State.OPEN, message=None).exists()
    )


def _tell() -> None:
    """Write the messages about questions that are to be told; what goes wrong there stops nothing else."""
    try:
        asking.tell()
    except Exception as error:
        log.error("questions not told: %s", type(error).__name__)


def _due(limit: int) -> list[UUID]:
    """Return what is due: critical first, and of a medium that is away only that."""
    now = journal.database_now()
    away = _away(now)
    due = Notification.objects.filter(wake_at__lte=now, state=State.PENDING)
    first = Case(When(severity="critical", then=Value(0)), default=Value(1))
    due = due.exclude(Q(medium__in=away) & ~Q(severity="critical"))
    return list(due.order_by(first, "wake_at", "created_at", "pk").values_list("id", flat=True)[:limit])


def _deliver(id_: UUID, transport: Transport, due: deque[UUID]) -> bool:
    """Claim one message and post it; False when another process has it, or it could not be posted.

    What is for more people than one adds theirs to what is `due`.
    """
    row = _claim(id_)
    if row is None:
        return False
    try:
        if _waits(row, transport):
            return False
        due.extendleft(_shared_out(row))
        reference = _send(row, transport)
    except contents.Moot:
        _sent(row, "", reason=ANSWERED)
        return False
    except StepError as error:
        _failed(row, error, transport)
        return False
    except Exception as error:
        _failed(row, StepError(code=type(error).__name__), transport)
        return False
    _sent(row, reference)
    _answers_again(row.medium)
    return True


def _claim(id_: UUID) -> Notification | None:
    now = journal.database_now()
    due = Notification.objects.filter(pk=id_, state=State.PENDING, wake_at__lte=now)
    if not due.filter(_may_go(now)).update(wake_at=now + LEASE, attempts=F("attempts") + 1):
        return None
    return Notification.objects.select_related("replaces", "recipient").get(pk=id_)


def _may_go(now: datetime) -> Q:
    """Keep back what was due when this pump began, if its way has proved to be closed since."""
    return ~Q(medium__in=_away(now)) | Q(severity="critical")


def _waits(row: Notification, transport: Transport) -> bool:
    """Put a message off that another one counts, or whose channel has had enough for the moment."""
    now = journal.database_now()
    if folding.is_folded(row, now):
        return True
    unposted = row.replaces
    if unposted is not None and unposted.state == State.PENDING:
        # What it would replace is not there yet, and will tell what is so when it is posted.
        _put_off(row, timedelta(seconds=FIRST_WAIT), row.reason)
        return True
    free = row.medium != Medium.CHAT or not transport.pace or row.severity == "critical"
    if free or row.reason == PACED:
        return False
    ahead = journal.reserve(_line(row), transport.pace)
    late = ahead - BURST * transport.pace
    if late <= 0:
        return False
    _put_off(row, timedelta(seconds=late), PACED)
    return True


def _line(row: Notification) -> str:
    return f"chat:{row.recipient_id or _channel(row)}"[:160]


def _put_off(row: Notification, wait: timedelta, reason: str) -> None:
    """Let it wait without counting a try."""
    _ours(row).update(wake_at=journal.database_now() + wait, attempts=F("attempts") - 1, reason=reason)


def _shared_out(row: Notification) -> list[UUID]:
    """Write the mails to the others, if this one is for several people; return their ids."""
    others = staff_mail.share_out(row)
    if not others:
        return []
    with transaction.atomic():
        if not _ours(row).update(sealed=row.sealed):
            return []
        Notification.objects.bulk_create(others)
    return [other.pk for other in others]


def _send(row: Notification, transport: Transport) -> str:
    """Send the message on its way; return the other side's own id for it."""
    message = _message(row, transport)
    if row.medium == Medium.MAIL:
        return staff_mail.send(message, row)
    if row.replaces is None:
        return transport.post(message)
    never = row.replaces.state == State.DEAD or row.replaces.reason == ANSWERED
    if never or (transport.threads and not row.replaces.reference):
        raise contents.Moot  # there is nothing that it could replace
    transport.update(row.replaces.reference, message)
    return row.replaces.reference


def _message(row: Notification, transport: Transport) -> Message:
    try:
        content = contents.content_of(row)
    except LookupError:
        raise Permanent("The text is gone.", code="text_gone") from None
    return Message(
        id=str(row.id),
        text=content.text,
        channel=_channel(row),
        kind=row.kind,
        severity=row.severity,
        link=content.link,
        reference=str(row.task_id)[:8] if row.task_id else "",
        at=row.created_at,
        task_thread=_thread(row) if transport.threads and row.replaces is None else "",
        count=content.count,
        batch=content.batch,
        recipient=_chat_id(row),
        replaces=str(row.replaces_id or ""),
    )


def _channel(row: Notification) -> str:
    return row.channel or str(settings.ESCALATIONS_CHANNEL)


def _chat_id(row: Notification) -> str:
    """Return who in the chat a direct message is for; "" for one to a channel, or in an old place."""
    if row.medium != Medium.CHAT or row.recipient_id is None or row.replaces_id:
        return ""
    account = ChatAccount.objects.filter(user=row.recipient_id).first()
    if account is None:
        raise Permanent("This person has no chat account.", code="no_chat_account")
    return account.chat_id


def _thread(row: Notification) -> str:
    """Return the reference of the first message about this run in this place; "" when there is none."""
    if row.task_id is None:
        return ""
    posted = Notification.objects.filter(
        task=row.task_id,
        channel=row.channel,
        recipient=row.recipient_id,
        medium=row.medium,
        state=State.SENT,
        replaces__isnull=True,
    )
    earlier = posted.exclude(reference="").order_by("sent_at")
    return earlier.values_list("reference", flat=True).first() or ""


def _sent(row: Notification, reference: str, reason: str = "") -> None:
    """Mark it posted. Its text goes now if its task is over, else with the end of the task."""
    with transaction.atomic():
        keeps = row.task_id is not None and _goes_on(row.task_id)
        _ours(row).update(
            state=State.SENT,
            wake_at=None,
            sent_at=journal.database_now(),
            reference=reference[:120],
            reason=reason,
            sealed=row.sealed if keeps else None,
        )


def _goes_on(task_id: UUID) -> bool:
    """Return whether the task is not over yet, and keep it so until the transaction ends."""
    status = Task.objects.select_for_update().filter(pk=task_id).values_list("status", flat=True).first()
    return status is not None and status not in OVER


def _ours(row: Notification) -> "QuerySet[Notification]":
    """Return the row as long as nobody has claimed it since."""
    return Notification.objects.filter(pk=row.pk, state=State.PENDING, attempts=row.attempts)


# -- when it cannot be posted ----------------------------------------------------------------------


def _failed(row: Notification, error: StepError, transport: Transport) -> None:
    """Try again later; give up when the other side said no for good, or after eight tries."""
    reason = error.reason[:200]
    now = journal.database_now()
    if isinstance(error, RateLimited):
        until = now + _wait(row.attempts, error.retry_after)
        _ours(row).update(wake_at=until, reason=reason)
        _pause_channel(row, now, until, transport)
    elif isinstance(error, Transient | AuthError) and error.reason != mail.MAILBOX:
        # Nobody is there, or nobody knows us: so it is for all, and no message's own fault.
        _ours(row).update(wake_at=_goes_away(row.medium, error, now), reason=reason)
    elif isinstance(error, Permanent) or row.attempts >= MOST_TRIES:
        _give_up(row, reason)
    else:
        _ours(row).update(wake_at=now + _wait(row.attempts, error.retry_after), reason=reason)


def _give_up(row: Notification, reason: str) -> None:
    """Leave it where staff see it, and say so in another way, once for equal reasons."""
    log.error("message %s to staff given up after %s tries: %s", row.id, row.attempts, reason)
    _ours(row).update(state=State.DEAD, wake_at=None, reason=reason)
    if row.kind != "dead_letter":
        where = "mail" if row.medium == Medium.MAIL else _channel(row)
        post(
            f"A message to staff could not be delivered by {where} ({reason}).\n"
            "What you can do: put right what is wrong, then post it again: Messages to staff, in the admin.",
            kind="dead_letter",
            severity="error",
            channel=settings.ESCALATIONS_CHANNEL,
            fold=f"dead:{where}:{reason}",
        )


def _wait(tries: int, retry_after: float | None) -> timedelta:
    """Return the pause before another try: what the other side asked for, else twice as long each time."""
    if retry_after is not None:
        return timedelta(seconds=retry_after)
    doubled: float = min(FIRST_WAIT * 2 ** min(tries - 1, 10), LONGEST_WAIT)
    return timedelta(seconds=doubled * (1 + random.random() / 4))  # noqa: S311 - spreads load, hides nothing


def _pause_channel(row: Notification, now: datetime, until: datetime, transport: Transport) -> None:
    """Let what else is for this channel wait as long; what is critical is tried all the same."""
    due = Notification.objects.filter(state=State.PENDING, medium=row.medium, wake_at__lte=now)
    due.filter(channel=row.channel).exclude(severity="critical").update(wake_at=until)
    if row.medium == Medium.CHAT:
        # The line of the channel begins again then: who comes meanwhile gets a place behind the pause.
        after = until + timedelta(seconds=BURST * transport.pace)
        Pace.objects.update_or_create(name=_line(row), defaults={"next_at": after})


def _away(now: datetime) -> list[str]:
    """Return the ways by which nothing is sent at present."""
    pulses = {away_pulse(medium): medium for medium in Medium.values}
    names = Pulse.objects.filter(name__in=pulses, at__gt=now).values_list("name", flat=True)
    return [pulses[name] for name in names]


def _goes_away(medium: str, error: StepError, now: datetime) -> datetime:
    """Note that the other side is away; return when it is tried again."""
    known = Pulse.objects.filter(name=away_pulse(medium)).first()
    if known is not None and known.at > now:
        return known.at  # somebody else has found out meanwhile
    tries = (known.data.get("tries", 0) if known else 0) + 1
    until = now + _wait(tries, error.retry_after)
    Pulse.objects.update_or_create(
        name=away_pulse(medium), defaults={"at": until, "data": {"tries": tries, "code": error.reason[:40]}}
    )
    log.warning("%s to staff is away (%s), tried again after %s tries", medium, error.reason, tries)
    if medium == Medium.CHAT and tries == (1 if isinstance(error, AuthError) else TRIES_UNTOLD):
        _tell_by_mail(error, now)
    return until


def _tell_by_mail(error: StepError, now: datetime) -> None:
    """Say that the chat says nothing, to those who read mail."""
    login = isinstance(error, AuthError)
    if settings.ESCALATIONS_EMAIL:
        post(
            escalation_text(
                what=f"The staff chat {'does not accept our login' if login else 'does not answer'}.",
                why=f"{error.message} ({error.reason})",
                machine="messages wait and are posted when it answers again; everything else goes on.",
                do="store a new login." if login else "see whether it is up.",
            ),
            kind="escalation",
            severity="error",
            medium=Medium.MAIL,
            dedupe=f"{away_pulse(Medium.CHAT)}:{now:%Y-%m-%dT%H}",
        )


def _answers_again(medium: str) -> None:
    Pulse.objects.filter(name=away_pulse(medium)).delete()


def post_again(ids: Iterable[UUID]) -> int:
    """Let messages that were given up be tried anew, but for those whose text is gone; return how many."""
    dead = Notification.objects.filter(pk__in=list(ids), state=State.DEAD, sealed__isnull=False)
    return dead.update(state=State.PENDING, wake_at=journal.database_now(), attempts=0, reason="")


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
