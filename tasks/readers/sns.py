"""Mail in by Amazon: SES hands a message to SNS, SNS posts it here."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from sopengine import http, sns
from sopengine.errors import DataError
from sopengine.signatures import Forged
from tasks import mail_in, notices
from tasks.events import Event
from tasks.readers import Reader, Received, readers


@readers.register("sns")
class Sns(Reader):
    """A message of a topic, the question whether we want its messages, or the news that they have ended."""

    takes = frozenset({"", "text/plain", "application/json"})
    hears_mail = True

    def look(self, raw: bytes, kind: str) -> str:
        """Return nothing: the id was signed and is known already."""
        return ""

    def read(self, received: Received) -> Sequence[Event]:
        """Return what the mail in it means; confirm the subscription if it asks for that."""
        try:
            message = sns.read(received.body)
        except Forged:
            raise DataError("the body is no message of SNS", code="bad_json") from None
        if message["Type"] == "SubscriptionConfirmation":
            sns.confirm(message.get("SubscribeURL", ""))
            return []
        if message["Type"] != sns.NOTIFICATION:
            _tell_unsubscribed(received)
            return []
        return _mail(message["Message"], received)


def _tell_unsubscribed(received: Received) -> None:
    """Tell staff that the topic's messages, and with them the mail, have ended."""
    notices.escalate(
        what=f"Amazon SNS sends us no mail any more: our subscription for {received.source} was ended.",
        why="somebody, or the topic's owner, has unsubscribed us.",
        machine="nothing; mail to the firm, and answers to our own, are not read here until it is back.",
        do="if that was not meant, subscribe our address to the topic again, in Amazon's console.",
        dedupe=f"sns:unsubscribed:{received.id}",
    )


def _mail(text: str, received: Received) -> list[Event]:
    try:
        told: Any = http.read_json(text.encode())
    except ValueError:
        raise DataError("the message is none of SES", code="not_ses") from None
    if not isinstance(told, dict) or told.get("notificationType") != "Received":
        return []  # of mail that we sent: bounces and complaints come by this way, too
    content, receipt = told.get("content"), told.get("receipt")
    if not isinstance(content, str) or not content:
        raise DataError(
            "the mail itself is not in the message; let SES hand it to SNS with its content",
            code="no_content",
        )
    receipt = receipt if isinstance(receipt, dict) else {}
    action = receipt.get("action")
    coded = isinstance(action, dict) and action.get("encoding") == "BASE64"
    try:
        raw = base64.b64decode(content, validate=True) if coded else content.encode("utf-8", "replace")
    except (binascii.Error, ValueError):
        raise DataError("the content of the mail is not base64", code="no_content") from None
    recipients = receipt.get("recipients")
    to = [text for text in recipients if isinstance(text, str)] if isinstance(recipients, list) else []
    return mail_in.events_of(mail_in.parsed(raw, to), received.source, received.external_id)
