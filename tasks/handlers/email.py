"""Steps that send mail to customers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

from django.conf import settings
from pydantic import BaseModel, ConfigDict, Field

from tasks import mail, subject
from tasks import replies as replies_to
from tasks.outcome import (
    AfterRest,
    Aside,
    Branch,
    DataError,
    Done,
    Effect,
    Open,
    Outcome,
    Permanent,
    StepError,
    StepRun,
    handler,
)
from tasks.subject import Still

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
    """The mail that went out; `collected` is what was paid before it had to, by currency."""

    message_id: str = ""  # looks like a mail address, so it is not kept readable
    collected: Open[dict[str, str]] = {}


class Limit(BaseModel):
    """At most one mail of a kind to a person in so many days; instead of one more the run ends as skipped,
    or goes on at `otherwise`."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["review", "acknowledgement"]
    days: Annotated[int, Field(ge=1, le=3660)]
    otherwise: Aside | None = None


@handler("email.send", effect=Effect.AT_MOST_ONCE, sends=True, rechecks=True, results=Sent)
def send(
    step: StepRun,
    *,
    message: Message,
    purpose: Literal["marketing", "service", "transactional"],
    to: str = "",
    reply_to: str = "",
    replies: bool = False,
    window: Literal["sending", "waking"] = "sending",
    when_capped: Literal["move", "skip"] = "move",
    at_most: Limit | None = None,
    void_on: Sequence[str] = (),
    still: Still | None = None,
    look_again: AfterRest | None = None,
) -> Outcome:
    """Send one mail to a customer: exactly the subject and the text of `message`.

    The Message-ID is the same at every try. Without `to`, the mail goes where the draft was for. The
    CRM is asked once more before, unless the mail is transactional: a customer who is gone, wants no
    contact or has left the campaign's filter gets none; another address voids what was approved, and
    so does a change of what the mail is about (`still`).

    Unless it is transactional, the mail waits for its `window`; a marketing mail waits until its
    customer may have one again, or ends the run with `when_capped: skip`. `at_most` is asked and
    counted besides. A run that has rested here (for the window, for the CRM, on a person's word) goes
    back to `look_again`, as what was seen there may be otherwise by now. An event in `void_on` that
    came before it left ends the run. With `replies` the customer's answer comes back to this run, where
    mail is read here.
    """
    recipient = _recipient(to, message.to)
    with _nothing_sent_yet():
        if purpose != "transactional" and (refused := _refusal(step, recipient)):
            return Branch(to="complete", result=NOT_NOW[refused], why=refused)
        if still and (end := subject.ended(step, still)):
            return end
    letter = mail.Letter(
        to=recipient,
        subject=message.subject,
        text=message.text,
        html=message.html,
        message_id=mail.message_id(step.key("mail")),
        reply_to=_reply_to(step, reply_to, replies),
        unsubscribe_url=step.contact.unsubscribe_url,
    )
    mail.send(letter, step.deadline)
    return Done(values={"message_id": letter.message_id}, result="sent")


def _reply_to(step: StepRun, given: str, hears: bool) -> str:
    """Return where an answer goes: the run itself, if mail is read here, else what the step says."""
    return replies_to.address(step.task_id, step.step) if hears and settings.MAIL_IN else given


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
