"""Messages to staff by mail: what is an error or worse, and what is for one person alone."""

from collections.abc import Sequence
from uuid import uuid4
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import AbstractUser

from sopengine.errors import DataError, Permanent
from tasks import contents, journal, mail
from tasks.contents import one_line
from tasks.crew import StepDeadline
from tasks.models import Notification
from tasks.notices import sealed_notice
from tasks.transports import Card, Message

SECONDS = 10.0  # that one message may take


def addresses(recipient: AbstractUser | None) -> Sequence[str]:
    """Return to whom a message goes: one of us, or all who are to hear of errors."""
    if recipient is None:
        return list(settings.ESCALATIONS_EMAIL)
    return [recipient.email] if recipient.email and recipient.is_active else []


def share_out(row: Notification) -> list[Notification]:
    """Make a mail that is for several people one for the first of them; return those for the others.

    Each is then tried, given up and posted again for itself: whoever cannot be reached keeps nobody
    waiting, and nobody gets it again for another one's sake.
    """
    to = addresses(row.recipient)
    if row.medium != Notification.Medium.MAIL or len(to) < 2 or contents.address_of(row):
        return []
    text = contents.content_of(row).text
    row.sealed = sealed_notice(row.pk, contents.text_of(row), to[0])
    return [_copy(row, text, address) for address in to[1:]]


def _copy(row: Notification, text: str, address: str) -> Notification:
    copy = Notification(
        id=uuid4(),
        task_id=row.task_id,
        approval_id=row.approval_id,
        kind=row.kind,
        severity=row.severity,
        channel=row.channel,
        medium=row.medium,
        created_at=row.created_at,
        wake_at=journal.database_now(),
    )
    copy.sealed = sealed_notice(copy.pk, text, address)
    return copy


def send(message: Message, row: Notification) -> str:
    """Send the message of this row to whom it is for and return its Message-ID, or raise a StepError.

    It has the same Message-ID at every try, so that a second one shows as the first.
    """
    to, only = addresses(row.recipient), contents.address_of(row)
    if only:
        to = [only] if only in to else []  # who is no longer to hear of errors hears of none
    if not to:
        raise Permanent("There is nobody to get this mail.", code="no_address")
    try:
        mail.send(letter(message, to[0]), StepDeadline(SECONDS))
    except DataError as error:
        raise Permanent(error.message, code=error.reason) from None
    return mail.message_id(message.id)


def letter(message: Message, address: str) -> mail.Letter:
    """Return the mail that says what the message says."""
    lines = [message.text, *(_told(card) for card in message.batch)]
    about = f"Run {message.reference}: {message.link}" if message.reference else message.link
    return mail.Letter(
        to=address,
        subject=subject(message),
        text="\n\n".join([*lines, about, f"Written {clock_time(message)}."]) + "\n",
        message_id=mail.message_id(f"{message.id}:{address}"),
    )


def subject(message: Message) -> str:
    """Return how bad it is, and the first line."""
    how_bad = "" if message.severity == "info" else f"{message.severity.upper()}: "
    first = message.text.strip().partition("\n")[0]
    return f"[{one_line(settings.BUSINESS_NAME, 40)}] {how_bad}{one_line(first)}"


def clock_time(message: Message) -> str:
    """Return when the message was written, in the business' zone."""
    local = message.at.astimezone(ZoneInfo(settings.TIME_ZONE))
    return f"{local:%a %Y-%m-%d %H:%M %Z}"


def _told(card: Card) -> str:
    what = card.decided or "\n".join(card.lines)
    return f"{card.title}\n{what}\n{card.link}"
