"""Steps that send mail to customers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks import mail
from tasks.outcome import Branch, DataError, Done, Effect, Outcome, Permanent, StepError, StepRun, handler

# What the CRM may say just before a mail leaves, and what the run has then come to.
NOT_NOW = {"customer_gone": "customer_gone", "do_not_contact": "skipped", "outside_filter": "skipped"}


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


@handler("email.send", effect=Effect.AT_MOST_ONCE, sends=True, rechecks=True, results=Sent)
def send(
    step: StepRun,
    *,
    message: Message,
    purpose: Literal["marketing", "service", "transactional"],
    to: str = "",
    reply_to: str = "",
) -> Outcome:
    """Send one mail to a customer: exactly the subject and the text of `message`.

    The Message-ID is the same at every try. Without `to`, the mail goes where the draft was for. The
    CRM is asked once more before, unless the mail is transactional: a customer who is gone, wants no
    contact or has left the campaign's filter gets none; another address voids what was approved.
    """
    recipient = _recipient(to, message.to)
    if purpose != "transactional" and (refused := _refusal(step, recipient)):
        return Branch(to="complete", result=NOT_NOW[refused], why=refused)
    letter = mail.Letter(
        to=recipient,
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


def _refusal(step: StepRun, recipient: str) -> str:
    """Return why the run's customer must not get the mail now, or nothing."""
    customer = step.context.get("crm_customer_id")
    if not customer:
        return ""
    try:
        with _nothing_sent_yet():
            step.crm.recheck(str(customer), filters=step.filters, address=recipient)
    except Permanent as error:
        if error.reason not in NOT_NOW:
            raise
        return error.reason
    return ""


@contextmanager
def _nothing_sent_yet() -> Iterator[None]:
    """Let what goes wrong here say that no mail has left: only a call to the CRM may be in doubt."""
    try:
        yield
    except StepError as error:
        error.sent = "no"
        raise
