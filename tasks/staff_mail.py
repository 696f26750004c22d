"""Messages to staff by mail: what is an error or worse, and what is for one person alone."""

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import AbstractUser

from sopengine.errors import DataError, Permanent, StepError
from tasks import mail
from tasks.contents import one_line
from tasks.crew import StepDeadline
from tasks.transports import Card, Message

SECONDS = 10.0  # that one message may take


def addresses(recipient: AbstractUser | None) -> Sequence[str]:
    """Return to whom a message goes: one of us, or all who are to hear of errors."""
    if recipient is None:
        return list(settings.ESCALATIONS_EMAIL)
    return [recipient.email] if recipient.email and recipient.is_active else []


def send(message: Message, to: Sequence[str]) -> str:
    """Send the message, one letter each, and return its Message-ID, or raise a StepError.

    A letter has the same Message-ID at every try, so that a second one shows as the first. An address
    that is refused for good does not keep the letter from the others.
    """
    if not to:
        raise Permanent("There is nobody to get this mail.", code="no_address")
    deadline = StepDeadline(SECONDS)
    refused: list[StepError] = []
    for address in to:
        try:
            mail.send(letter(message, address), deadline)
        except (Permanent, DataError) as error:
            refused.append(error)
    if len(refused) == len(to):
        raise refused[0]
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
