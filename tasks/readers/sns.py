"""Mail in by Amazon: SES hands a message to SNS, SNS posts it here."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from sopengine import http, sns
from sopengine.errors import DataError
from sopengine.signatures import Forged
from tasks import mail_in
from tasks.events import Event
from tasks.readers import Reader, Received, readers


@readers.register("sns")
class Sns(Reader):
    """A message of a topic, or the question whether we want the topic's messages."""

    takes = frozenset({"", "text/plain", "application/json"})

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
            return []
        return _mail(message["Message"], received)


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
