"""Whether a request that came in is from whom it says: one function for each scheme of signing.

Every scheme looks at the bytes as they came, compares in constant time, tries every secret there is
(so that a new one can be given out before the old one ends) and answers with nothing but yes or no:
Forged says which of four codes, for our log only.

    standard   Standard Webhooks 1.0: webhook-id, webhook-timestamp, webhook-signature  v1,<base64>
    slack      X-Slack-Request-Timestamp, X-Slack-Signature                             v0=<hex>
    sha256     X-Hub-Signature-256, X-Notion-Signature or X-Signature-256               sha256=<hex>
    hmac       X-Signature or X-Zoho-Signature                                          <hex>
    token      X-Webhook-Token, or Authorization: Bearer <token>
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from sopengine.errors import DataError
from sopengine.registry import Registry

WINDOW = 300  # seconds that a signature is good for, before and after its own time
LONGEST = 4_000  # characters of a header that are looked at

Headers = Mapping[str, str]  # names in lower case
# (headers, raw body, secrets, now in seconds since 1970) -> the sender's signed id of it, "" without one
Verify = Callable[[Headers, bytes, Sequence[str], float], str]

schemes: Registry[Verify] = Registry("signature scheme")

_SECONDS = re.compile(r"[0-9]{1,12}")
_KEY_BYTES = range(24, 65)


class Forged(Exception):
    """The request is not signed as it must be. `code`: missing, malformed, stale, wrong."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


def verify(scheme: str, headers: Headers, raw: bytes, secrets: Sequence[str], now: float) -> str:
    """Return the sender's own id of this request, "" where nothing signed has one, or raise Forged.

    UnknownName if there is no such scheme. DataError if none of the secrets can be one of this scheme.
    """
    check = schemes.get(scheme)
    if not secrets:
        raise Forged("missing")
    return check(headers, raw, secrets, now)


@schemes.register("standard")
def _standard(headers: Headers, raw: bytes, secrets: Sequence[str], now: float) -> str:
    external_id, stamp = _header(headers, "webhook-id"), _header(headers, "webhook-timestamp")
    given = _header(headers, "webhook-signature")
    _fresh(stamp, now)
    text = _bytes(f"{external_id}.{stamp}.") + raw
    expected = [f"v1,{base64.b64encode(_hmac(key, text)).decode()}" for key in standard_keys(secrets)]
    _same(given.split(" "), expected)
    return external_id


@schemes.register("slack")
def _slack(headers: Headers, raw: bytes, secrets: Sequence[str], now: float) -> str:
    stamp, given = _header(headers, "x-slack-request-timestamp"), _header(headers, "x-slack-signature")
    _fresh(stamp, now)
    text = _bytes(f"v0:{stamp}:") + raw
    _same([given], [f"v0={_hmac(_bytes(secret), text).hex()}" for secret in secrets])
    return ""


@schemes.register("sha256")
def _sha256(headers: Headers, raw: bytes, secrets: Sequence[str], now: float) -> str:
    given = _header(headers, "x-hub-signature-256", "x-notion-signature", "x-signature-256")
    _same([given.lower()], [f"sha256={_hmac(_bytes(secret), raw).hex()}" for secret in secrets])
    return ""


@schemes.register("hmac")
def _plain_hmac(headers: Headers, raw: bytes, secrets: Sequence[str], now: float) -> str:
    given = _header(headers, "x-signature", "x-zoho-signature")
    _same([given.lower()], [_hmac(_bytes(secret), raw).hex() for secret in secrets])
    return ""


@schemes.register("token")
def _token(headers: Headers, raw: bytes, secrets: Sequence[str], now: float) -> str:
    if headers.get("x-webhook-token"):
        given = _header(headers, "x-webhook-token")
    else:
        kind, _, given = _header(headers, "authorization").partition(" ")
        if kind.lower() != "bearer" or not given:
            raise Forged("malformed")
    _same([given.strip()], secrets)
    return ""


def standard_keys(secrets: Iterable[str]) -> list[bytes]:
    """Return the keys in secrets of Standard Webhooks (whsec_ and base64); DataError if none is one."""
    keys = [key for key in map(_standard_key, secrets) if key]
    if not keys:
        raise DataError("The secret must be whsec_ and base64 of 24 to 64 random bytes.", code="bad_secret")
    return keys


def _standard_key(secret: str) -> bytes:
    text = secret.removeprefix("whsec_").rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
    return key if len(key) in _KEY_BYTES else b""


def _header(headers: Headers, *names: str) -> str:
    """Return the first of these headers that is there."""
    value = next((headers[name] for name in names if headers.get(name)), "")
    if not value:
        raise Forged("missing")
    if len(value) > LONGEST:
        raise Forged("malformed")
    return value


def _fresh(stamp: str, now: float) -> None:
    """Refuse what is not signed about now: a request that was overheard is good for five minutes."""
    if not _SECONDS.fullmatch(stamp):
        raise Forged("malformed")
    if abs(now - int(stamp)) > WINDOW:
        raise Forged("stale")


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, hashlib.sha256)


def _bytes(text: str) -> bytes:
    """Return a header as the bytes that came, and a secret as its UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _same(given: Iterable[str], expected: Sequence[str]) -> None:
    """Refuse unless one of `given` is one of `expected`; every pair is compared, each in constant time."""
    found = False
    for candidate in given:
        for right in expected:
            found |= hmac.compare_digest(_bytes(candidate), _bytes(right))
    if not found:
        raise Forged("wrong")
