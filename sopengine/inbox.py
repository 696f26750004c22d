"""Webhooks in: each delivery is stored once, sealed, before anything else is done with it."""

import json
import logging
import re
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from email.message import Message
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest

from credentials.store import secret_for
from credentials.vault import fingerprint, seal, unseal
from sopengine import clock, http, looks, signatures, sns
from sopengine.errors import AuthError, DataError, StepError
from sopengine.models import Delivery
from sopengine.registry import UnknownName

LARGEST = 1_000_000  # bytes of a body
_PIECE = 65_536
_LONGEST_ID = 200
_LONGEST_REASON = 200
KEPT_UNPROCESSED = timedelta(days=7)
_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{1,70}")  # what one may be made of
_ESCAPED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


log = logging.getLogger(__name__)


class NotTaken(Exception):
    """A request that is no delivery: its HTTP status, and a sentence without anything of its body."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


class DeliveryRefused(Exception):
    """The delivery is not stored: its id is none (`status` 400), or stands for another body already (409)."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        self.status = status
        super().__init__(sentence)


# -- at the address ----------------------------------------------------------------------------------


def take(request: HttpRequest, source: str, scheme: str) -> tuple[bytes, str]:
    """Return the raw body of a request that its sender signed, and the id that was signed with it or "".

    Nothing is parsed before. NotTaken: 411, 413, 415, 400 for a body that cannot be taken, 401 for one
    that is not signed by any of the source's secrets or where there is none, 503 while we cannot tell.
    """
    raw = read_body(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        return raw, signatures.verify(
            scheme, headers, raw, secrets_of(source, scheme), clock.now().timestamp()
        )
    except signatures.Forged as error:
        log.warning("a delivery from %s is not signed as it must be: %s", source, error.code)
        raise NotTaken(401, "The signature is missing, too old or wrong.") from None
    except DataError as error:
        log.error("deliveries from %s cannot be checked: %s", source, error)
        raise NotTaken(401, "The signature is missing, too old or wrong.") from None
    except (StepError, UnknownName) as error:
        log.error("deliveries from %s cannot be checked: %s", source, error)
        raise NotTaken(503, "Nothing can be taken now; try again later.") from None


def secrets_of(source: str, scheme: str) -> list[str]:
    """Return what this source may sign with, the newest first; [] when nothing is stored: then nobody may."""
    if scheme == sns.SCHEME:
        return list(settings.MAIL_SNS_TOPIC)  # its key is Amazon's own; what counts is whose topic it is
    try:
        return (secret_for(source, "webhook_secret") or "").split()
    except AuthError:
        raise StepError(f"the secret of {source} cannot be opened", code="credential_unreadable") from None


def read_body(request: HttpRequest) -> bytes:
    """Return the body as it came, of which at most `LARGEST` bytes are read, or raise NotTaken."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise NotTaken(415, "Compressed bodies are not taken.")
    length = request.META.get("CONTENT_LENGTH") or ""
    if length:
        if not length.isdecimal() or not length.isascii():
            raise NotTaken(400, "The length of the body is no number.")
        if len(length) > 12 or int(length) > LARGEST:
            raise NotTaken(413, f"At most {LARGEST:,} bytes are taken.")
    elif not request.META.get("wsgi.input_terminated"):
        raise NotTaken(411, "The length of the body is missing.")
    # Django reads nothing of a body without a length; a server that knows its end lets us read to it.
    stream = request if length else request.META["wsgi.input"]
    raw = _read(stream, int(length) if length else LARGEST + 1)
    if length and len(raw) != int(length):
        raise NotTaken(400, "The body is shorter than it said.")
    if len(raw) > LARGEST:
        raise NotTaken(413, f"At most {LARGEST:,} bytes are taken.")
    return raw


def _read(stream: Any, most: int) -> bytes:
    pieces = []
    left = most
    while left > 0:
        try:
            piece = stream.read(min(left, _PIECE))
        except Exception as error:  # the other side went away; or the server's own error for broken chunks
            log.info("a body did not come whole: %s", type(error).__name__)
            raise NotTaken(400, "The body did not come whole.") from None
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


# -- the store ---------------------------------------------------------------------------------------


def store(
    source: str, external_id: str, raw: bytes, *, headers: Mapping[str, Any] | None = None
) -> tuple[Delivery, bool]:
    """Store the delivery's raw body, sealed; return its row and whether it is new.

    A repeat with the same body gets the first one's row; the same id with another body is refused
    with DeliveryRefused. An id that may show a customer is kept as its keyed hash only. `headers` holds
    codes that may stand open, never a signature or a token; of a `type` what a reader needs is kept.
    """
    if not external_id.isprintable() or not 0 < len(external_id) <= _LONGEST_ID:
        raise DeliveryRefused(
            f"A delivery from {source} has no usable id: expected 1 to {_LONGEST_ID} printable characters."
        )
    if not looks.is_open_id(external_id):
        external_id = f"id:{fingerprint(external_id)}"
    codes = dict(headers or {})
    if "type" in codes:
        codes["type"] = _type_of(str(codes["type"]))
    delivery = _row(source, external_id, raw, codes)
    try:
        with transaction.atomic() if connection.in_atomic_block else nullcontext():
            delivery.save(force_insert=True)
    except IntegrityError:
        kept = Delivery.objects.get(source=source, external_id=external_id)
    else:
        return delivery, True
    if kept.body_hash != delivery.body_hash:
        raise DeliveryRefused(
            f"{source} sent another body under an id that it used before; the first one stands ({kept.pk}).",
            409,
        )
    return kept, False


def _type_of(kind: str) -> str:
    """Return a Content-Type with its boundary alone: another parameter may be a file's name."""
    media = kind.partition(";")[0].strip().lower()
    message = Message()
    message["Content-Type"] = kind
    boundary = message.get_boundary()
    return f'{media}; boundary="{boundary}"' if boundary and _BOUNDARY.fullmatch(boundary) else media


def id_of(raw: bytes) -> str:
    """Return the id of a body whose sender gave it none: the same bytes are the same delivery."""
    return f"body:{fingerprint(raw.decode('latin-1'))}"


def body_of(delivery: Delivery) -> bytes:
    """Return the raw body; LookupError once it is gone, VaultError if it cannot be opened."""
    if delivery.body is None:
        raise LookupError(f"delivery {delivery.pk}: the body is gone, it is {delivery.state}")
    text: str = unseal(delivery.body, **_place(delivery))
    return text.encode("latin-1")


def read_json(raw: bytes) -> Any:
    """Return the JSON value of a body; ValueError, which says nothing of it, where it cannot be taken.

    As `sopengine.http.read_json`, but a NUL or half of a surrogate pair is refused and not mended: what
    was signed is taken as it is or not at all.
    """
    value = http.read_json(raw)
    if _ESCAPED.search(raw) and _is_spoiled(json.loads(raw)):
        raise ValueError("it has a character that cannot be kept")
    return value


def _is_spoiled(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_spoiled(name) or _is_spoiled(inner) for name, inner in value.items())
    if isinstance(value, list):
        return any(map(_is_spoiled, value))
    return isinstance(value, str) and http.clean_text(value) != value


# -- one after the other -----------------------------------------------------------------------------


def due(limit: int) -> list[Delivery]:
    """Return deliveries whose hour has come, the longest waiting first, at most so many."""
    waiting = Delivery.objects.filter(state=Delivery.State.RECEIVED, wake_at__lte=clock.now())
    return list(waiting.order_by("wake_at")[:limit])


def claim(delivery: Delivery, lease: timedelta) -> bool:
    """Take a due delivery for `lease`, unless another process has it; its attempts then count this one."""
    now = clock.now()
    mine = Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.RECEIVED, wake_at__lte=now)
    taken = mine.update(wake_at=now + lease, attempts=F("attempts") + 1)
    if taken:
        delivery.refresh_from_db()
    return taken == 1


def again(delivery: Delivery, wait: timedelta, reason: str) -> bool:
    """Let a delivery be tried again after `wait`; return whether it was still waiting."""
    waiting = Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.RECEIVED)
    return waiting.update(wake_at=clock.now() + wait, reason=reason[:_LONGEST_REASON]) == 1


def reprocess(ids: "list[Any] | None" = None) -> int:
    """Let failed deliveries (these, or all) be processed anew; one whose body is gone stays as it is."""
    failed_ones = Delivery.objects.filter(state=Delivery.State.FAILED, body__isnull=False)
    if ids is not None:
        failed_ones = failed_ones.filter(pk__in=ids)
    return failed_ones.update(state=Delivery.State.RECEIVED, wake_at=clock.now(), attempts=0, reason="")


def processed(delivery: Delivery, *, headers: Mapping[str, Any] | None = None) -> bool:
    """Mark as processed and drop the body, in one UPDATE; return whether this call did it.

    `headers` are more codes to keep with it.
    """
    kept = {**delivery.headers, **(headers or {})}
    return _close(
        delivery, state=Delivery.State.PROCESSED, body=None, processed_at=clock.now(), headers=kept, reason=""
    )


def failed(delivery: Delivery, reason: str, *, headers: Mapping[str, Any] | None = None) -> bool:
    """Mark as failed for good, with a reason code; the body stays for `KEPT_UNPROCESSED`.

    `headers` are more codes to keep with it.
    """
    kept = {**delivery.headers, **(headers or {})}
    return _close(delivery, state=Delivery.State.FAILED, headers=kept, reason=reason[:_LONGEST_REASON])


def failures() -> int:
    """Return how many deliveries could not be processed."""
    return Delivery.objects.filter(state=Delivery.State.FAILED).count()


def prune(before: datetime) -> int:
    """Remove deliveries that came before and wait for nothing; a repeat of one would count as new."""
    return _over(before).delete()[0]


def prunable(before: datetime) -> int:
    """Return how many deliveries `prune` would remove."""
    return _over(before).count()


def _over(before: datetime) -> "QuerySet[Delivery]":
    return Delivery.objects.filter(received_at__lt=before).exclude(state=Delivery.State.RECEIVED)


def scrub() -> int:
    """Drop the bodies that nobody processed in time; return how many. For the sweep."""
    over = Delivery.objects.filter(body__isnull=False, received_at__lt=clock.now() - KEPT_UNPROCESSED)
    late = over.filter(state=Delivery.State.RECEIVED).update(
        state=Delivery.State.FAILED, reason="never_processed", body=None, wake_at=None
    )
    return late + over.update(body=None)


def _row(source: str, external_id: str, raw: bytes, headers: dict[str, Any]) -> Delivery:
    """Return the unsaved row of a delivery that is due at once."""
    now = clock.now()
    text = raw.decode("latin-1")  # one character per byte: every body comes back as it came
    delivery = Delivery(
        source=source,
        external_id=external_id,
        body_hash=fingerprint(text),
        headers=headers,
        received_at=now,
        wake_at=now,
    )
    delivery.body = seal(text, **_place(delivery))
    return delivery


def _close(delivery: Delivery, **changes: object) -> bool:
    """End an unprocessed delivery with one conditional UPDATE, and read the row again."""
    waiting = Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.RECEIVED)
    ended = waiting.update(wake_at=None, **changes) == 1
    delivery.refresh_from_db()
    return ended


def _place(delivery: Delivery) -> dict[str, str]:
    return {"table": Delivery._meta.db_table, "row": str(delivery.pk), "field": "body"}
