"""Webhooks in: each delivery is stored once, sealed, before anything else is done with it."""

from collections.abc import Mapping
from datetime import timedelta

from credentials.vault import fingerprint, seal, unseal
from sopengine import clock
from sopengine.models import Delivery

_LONGEST_ID = 200
_LONGEST_REASON = 200
KEPT_UNPROCESSED = timedelta(days=7)


class DeliveryRefused(Exception):
    """The delivery is not stored: its id is no id, or stands for another body already."""


def store(
    source: str, external_id: str, raw: bytes, *, headers: Mapping[str, str] | None = None
) -> tuple[Delivery, bool]:
    """Store the delivery's raw body, sealed; return its row and whether it is new.

    A repeat with the same body gets the first one's row; the same id with another body is refused
    with DeliveryRefused. `headers` holds codes that may stand open, never a signature or a token.
    """
    if not external_id.isprintable() or not 0 < len(external_id) <= _LONGEST_ID:
        raise DeliveryRefused(
            f"A delivery from {source} has no usable id: expected 1 to {_LONGEST_ID} printable characters."
        )
    delivery = _row(source, external_id, raw, dict(headers or {}))
    Delivery.objects.bulk_create([delivery], ignore_conflicts=True)
    kept = Delivery.objects.get(source=source, external_id=external_id)
    if kept.body_hash != delivery.body_hash:
        raise DeliveryRefused(
            f"{source} sent another body under an id that it used before; the first one stands ({kept.pk})."
        )
    return kept, kept.pk == delivery.pk


def body_of(delivery: Delivery) -> bytes:
    """Return the raw body; LookupError once it is gone, VaultError if it cannot be opened."""
    if delivery.body is None:
        raise LookupError(f"delivery {delivery.pk}: the body is gone, it is {delivery.state}")
    text: str = unseal(delivery.body, **_place(delivery))
    return text.encode("latin-1")


def processed(delivery: Delivery) -> bool:
    """Mark as processed and drop the body, in one UPDATE; return whether this call did it."""
    return _close(delivery, state=Delivery.State.PROCESSED, body=None, processed_at=clock.now())


def failed(delivery: Delivery, reason: str) -> bool:
    """Mark as failed for good, with a reason code; the body stays for `KEPT_UNPROCESSED`."""
    return _close(delivery, state=Delivery.State.FAILED, reason=reason[:_LONGEST_REASON])


def scrub() -> int:
    """Drop the bodies that nobody processed in time; return how many. For the sweep."""
    over = Delivery.objects.filter(body__isnull=False, received_at__lt=clock.now() - KEPT_UNPROCESSED)
    late = over.filter(state=Delivery.State.RECEIVED).update(
        state=Delivery.State.FAILED, reason="never_processed", body=None, wake_at=None
    )
    return late + over.update(body=None)


def _row(source: str, external_id: str, raw: bytes, headers: dict[str, str]) -> Delivery:
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
