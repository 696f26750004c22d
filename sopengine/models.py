"""What comes in from outside before anybody has looked at it."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from credentials.vault import register_sealed


class Delivery(models.Model):
    """One received webhook. Its body is sealed, and gone once it is processed.

    `external_id` is the sender's own opaque id, or its keyed hash where it might show a customer; `headers`
    holds safe codes only.
    """

    class State(models.TextChoices):
        RECEIVED = "received", _("Received")
        PROCESSED = "processed", _("Processed")
        FAILED = "failed", _("Failed")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    source = models.CharField(max_length=60)
    external_id = models.CharField(max_length=200)
    body_hash = models.CharField(max_length=64)
    body = models.TextField(null=True, blank=True)
    headers = models.JSONField(default=dict, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.RECEIVED)
    received_at = models.DateTimeField()
    processed_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    wake_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        ordering = ["received_at"]
        verbose_name_plural = _("deliveries")
        indexes = [
            # What must be processed next.
            models.Index(fields=["wake_at"], name="delivery_due", condition=Q(wake_at__isnull=False)),
            # The sweep's scrub: bodies that nobody processed.
            models.Index(fields=["received_at"], name="delivery_unscrubbed", condition=Q(body__isnull=False)),
        ]
        constraints = [
            models.UniqueConstraint(fields=["source", "external_id"], name="delivery_once_per_source"),
            models.CheckConstraint(
                name="delivery_processed_is_scrubbed",
                condition=~Q(state="processed") | Q(body__isnull=True, wake_at__isnull=True),
            ),
            models.CheckConstraint(
                name="delivery_body_is_sealed", condition=Q(body__isnull=True) | Q(body__startswith="v1|")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id}"


register_sealed("sopengine.Delivery", "body")
