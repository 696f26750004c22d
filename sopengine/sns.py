"""Messages of Amazon SNS: what is signed in them, and with whose certificate.

A message names the address of the certificate that signed it. That address counts only at a host of
SNS itself; so does the address at which a subscription is confirmed.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from credentials.vault import is_signed_by
from sopengine import http
from sopengine.errors import StepError
from sopengine.signatures import Forged, Headers, schemes

SCHEME = "sns"
NOTIFICATION = "Notification"
CONFIRMATIONS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")

_HOST = re.compile(r"sns\.[a-z]{2}(?:-[a-z]+){1,3}-[0-9]{1,2}\.amazonaws\.com(?:\.cn)?")
_CERTIFICATE = re.compile(r"/SimpleNotificationService-[0-9a-f]{32,64}\.pem")
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    **dict.fromkeys(
        CONFIRMATIONS, ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    ),
}
_DIGESTS = {"1": "sha1", "2": "sha256"}

certificates: dict[str, bytes] = {}  # by address; what was fetched once is good for as long as we run


@schemes.register(SCHEME)
def verify(headers: Headers, raw: bytes, topics: Sequence[str], now: float) -> str:
    """Return the MessageId of a message that SNS signed for one of our topics, or raise Forged."""
    message = read(raw)
    digest = _DIGESTS.get(message.get("SignatureVersion", ""))
    address = message.get("SigningCertURL", "")
    if digest is None or not is_certificate(address):
        raise Forged("malformed")
    if message.get("TopicArn") not in topics:
        raise Forged("wrong")
    try:
        signature = base64.b64decode(message.get("Signature", ""), validate=True)
    except (binascii.Error, ValueError):
        raise Forged("malformed") from None
    if not is_signed_by(certificate(address), signature, signed_text(message), digest=digest):
        raise Forged("wrong")
    return message["MessageId"]


def read(raw: bytes) -> dict[str, str]:
    """Return the message: texts by name; Forged where it is none."""
    try:
        value = http.read_json(raw)
    except ValueError:
        raise Forged("malformed") from None
    if not isinstance(value, dict):
        raise Forged("malformed")
    message = {name: text for name, text in value.items() if isinstance(text, str)}
    if message.get("Type") not in _SIGNED or not message.get("MessageId") or "Message" not in message:
        raise Forged("malformed")
    return message


def signed_text(message: Mapping[str, str]) -> bytes:
    """Return the text that SNS signs: names and values, a line each."""
    names = [name for name in _SIGNED[message["Type"]] if name in message]
    return "".join(f"{name}\n{message[name]}\n" for name in names).encode()


def is_certificate(address: str) -> bool:
    """Whether this is the address of a certificate of SNS itself."""
    host, path, query = _parts(address)
    return bool(_HOST.fullmatch(host) and _CERTIFICATE.fullmatch(path) and not query)


def is_subscription(address: str) -> bool:
    """Whether this is the address at which SNS itself lets a subscription be confirmed."""
    host, path, query = _parts(address)
    return bool(_HOST.fullmatch(host) and path == "/" and ("Action", "ConfirmSubscription") in query)


def certificate(address: str) -> bytes:
    """Return the certificate at this address of SNS; StepError while it cannot be had."""
    if address not in certificates:
        host, path, _ = _parts(address)
        certificates[address] = _client(host).fetch(path, label="certificate")
    return certificates[address]


def confirm(address: str) -> None:
    """Confirm a subscription at its address; StepError when that cannot be done."""
    host, path, query = _parts(address)
    if not is_subscription(address):
        raise StepError("the address of the subscription is not one of SNS", code="address_refused")
    _client(host).fetch(path, label="confirm", params=query)


@lru_cache(maxsize=16)
def _client(host: str) -> http.Client:
    return http.Client("sns", f"https://{host}", guarded=True, total_seconds=5.0)


def _parts(address: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Return host, path and query of an https address on its usual port; empty parts of any other."""
    try:
        parts = urlsplit(address)
        plain = parts.scheme == "https" and not (parts.username or parts.password or parts.fragment)
        usable = plain and parts.port in (None, 443) and address.isascii()
    except ValueError:
        usable = False
    if not usable:
        return "", "", []
    query: Any = parse_qsl(parts.query)
    return parts.hostname or "", parts.path, query
