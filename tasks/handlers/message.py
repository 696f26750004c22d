"""Steps that write texts to customers, without sending them."""

from pydantic import BaseModel

from tasks import contacts, templating
from tasks.outcome import DataError, Done, MessageName, MoreNames, Outcome, RawTemplate, StepRun, handler

LINK = "unsubscribe_url"


class Draft(BaseModel):
    """A message as the customer would get it."""

    to: str
    subject: str
    text: str
    html: str


@handler("message.draft", results=Draft, drafts=True)
def draft(
    step: StepRun,
    *,
    template: MessageName = "",
    subject: RawTemplate = "",
    text: RawTemplate = "",
    html: RawTemplate = "",
    to: str = "",
    values: MoreNames | None = None,
) -> Outcome:
    """Write a message to the customer from a template, or from a subject and a text given here.

    `template` names a folder under templates/messages. `values` are names for the text besides the
    run's own; `unsubscribe_url` is the page on which this recipient asks for no more marketing mail.
    Without `to`, the message is for the customer's address in the CRM.
    """
    names = {**step.context, **(values or {})}
    source = _source(template, subject, text, html)
    recipient = to or names.get("customer_email") or ""
    if recipient and templating.mentions(source, LINK):
        names[LINK] = contacts.unsubscribe_url(recipient, str(names.get("crm_customer_id") or ""))
    message = templating.render_message(source, {LINK: "", **names})
    if not recipient:
        raise DataError("The message has no recipient: the customer has no mail address.")
    return Done(values={"to": recipient, **message})


def _source(template: str, subject: str, text: str, html: str) -> str | dict[str, str]:
    """Return the template's name, or the parts given inline: one of the two."""
    if template and (subject or text or html):
        raise DataError("Give either a template or subject and text, not both.")
    if template:
        return template
    if not (subject and text):
        raise DataError("A message needs a template, or a subject and a text.")
    return {"subject": subject, "text": text, "html": html}
