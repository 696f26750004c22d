"""Steps that send mail to customers."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks import mail
from tasks.outcome import DataError, Done, Effect, Outcome, StepRun, handler


class Message(BaseModel):
    """What is sent: the answer to a question, which has the approved draft; without a question, any draft."""

    model_config = ConfigDict(extra="ignore")

    to: str = ""
    subject: str
    text: str
    html: str = ""


class Sent(BaseModel):
    """The mail that went out."""

    message_id: str  # looks like a mail address, so it is not kept readable


@handler("email.send", effect=Effect.AT_MOST_ONCE, sends=True, results=Sent)
def send(
    step: StepRun,
    *,
    message: Message,
    purpose: Literal["marketing", "service", "transactional"],
    to: str = "",
    reply_to: str = "",
) -> Outcome:
    """Send one mail to a customer: exactly the subject and the text of `message`.

    The Message-ID is the same at every try. Without `to`, the mail goes where the draft was for.
    """
    letter = mail.Letter(
        to=_recipient(to, message.to),
        subject=message.subject,
        text=message.text,
        html=message.html,
        message_id=mail.message_id(step.key("mail")),
        reply_to=reply_to,
    )
    mail.send(letter, step.deadline)
    return Done(values={"message_id": letter.message_id}, result="sent")


def _recipient(given: str, drafted: str) -> str:
    """Return the address; a draft that was written and approved for another one is not sent."""
    if given and drafted and given != drafted:
        raise DataError("The message was drafted for another address than the one it should go to.")
    if not (given or drafted):
        raise DataError("The mail has no recipient.")
    return given or drafted
