"""Chat by webhook: each message is POSTed as JSON, signed as Standard Webhooks 1.0 says.

    webhook-id           the message's id, the same at every try: whoever gets it twice drops the second
    webhook-timestamp    when this try was made, in seconds since 1970
    webhook-signature    v1,<base64 of HMAC-SHA256 over "id.timestamp.body">

The body is the same at every try, too:

    {"type": "staff.message", "timestamp": "2027-02-15T15:00:00+00:00",
     "data": {"text", "channel", "kind", "severity", "link", "reference", "task_thread", "count",
              "recipient", "replaces",
              "batch": [{"approval_id", "title", "lines", "options", "link", "decided"}]}}

A message of the kind "update" tells what became of questions that were posted before: `replaces` is the
webhook-id of that message.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import asdict
from urllib.parse import urlsplit

from django.conf import settings

from credentials.store import secret_for
from sopengine.errors import AuthError
from sopengine.http import Client
from tasks.transports import Message, Transport, transports

PREFIX = "whsec_"
CALL_SECONDS = 5.0  # whoever posts has other messages
NO_ADDRESS = "CHAT_WEBHOOK_URL is not set; expected the address to post to"
UNSIGNED = (
    "There is no secret to sign with: store one with `credential set chat --kind webhook_secret`"
    " or set CHAT_WEBHOOK_SECRET."
)
UNUSABLE = "The secret to sign with must be whsec_ and base64 of 24 to 64 random bytes."


@transports.register("webhook")
class Webhook(Transport):
    """Post to settings.CHAT_WEBHOOK_URL; any 2xx means that it was taken."""

    def problem(self) -> str:
        """Return which of the address and the secret is missing."""
        if not settings.CHAT_WEBHOOK_URL:
            return NO_ADDRESS
        try:
            signing_key()
        except AuthError as error:
            return error.message
        return ""

    def post(self, message: Message) -> str:
        """Post the message; return "", as the other side gives it no id of its own."""
        if not settings.CHAT_WEBHOOK_URL:
            raise AuthError(NO_ADDRESS, code="not_configured")
        address = urlsplit(settings.CHAT_WEBHOOK_URL)
        body = content(message)
        # The time of the world: a clock that was moved for a demo would be refused over there.
        headers = signed(signing_key(), message.id, int(time.time()), body)
        path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        client = Client("chat", f"{address.scheme}://{address.netloc}", total_seconds=CALL_SECONDS)
        client.post(path, body, label="messages.post", headers=headers)
        return ""


def content(message: Message) -> bytes:
    """Return the body: what the message has and nothing else."""
    data = asdict(message)
    del data["id"]
    at = data.pop("at")
    return json.dumps({"type": "staff.message", "timestamp": at.isoformat(), "data": data}).encode()


def signed(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers for this body, sent at this second."""
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def signing_key() -> bytes:
    """Return the key in the stored secret, else that of the environment; AuthError says what is wrong."""
    secret = secret_for("chat", kind="webhook_secret")
    if not secret:
        raise AuthError(UNSIGNED, code="not_configured")
    text = secret.removeprefix(PREFIX).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise AuthError(UNUSABLE, code="not_configured")
    return key
