"""The tables of the secrets. Nothing here shows, prints or logs a secret."""

import uuid
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from credentials.vault import register_sealed, seal
from sopengine import clock

_SHOW_LAST_FOUR_FROM = 12  # characters; of a shorter secret the last four would say too much


class Credential(models.Model):
    """An encrypted secret of another system. It is set once, read by `credentials.store`, never shown."""

    class Kind(models.TextChoices):
        API_KEY = "api_key", _("API key")
        OAUTH_TOKEN = "oauth_token", _("OAuth token")
        WEBHOOK_SECRET = "webhook_secret", _("Webhook secret")
        SMTP = "smtp", _("Mail server password")

    class Status(models.TextChoices):
        ACTIVE = "active", _("Active")
        EXPIRING = "expiring", _("Expires soon")
        EXPIRED = "expired", _("Expired")
        REVOKED = "revoked", _("Revoked")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    service = models.SlugField(max_length=60, help_text=_("Which system it opens, such as crm or slack"))
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.API_KEY)
    label = models.CharField(max_length=120, blank=True, default="", help_text=_("A note for staff"))
    secret = models.TextField(editable=False)
    last4 = models.CharField(_("last four"), max_length=4, blank=True, default="", editable=False)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.ACTIVE)
    scopes = models.CharField(max_length=500, blank=True, default="", help_text=_("Separated by spaces"))
    expires_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    changed_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["service", "kind", "-created_at"]
        indexes = [
            # The one to use: the newest that is in force.
            models.Index(
                fields=["service", "kind", "-created_at"],
                name="credential_in_force",
                condition=Q(status__in=["active", "expiring"]),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="credential_secret_is_sealed",
                condition=Q(secret__startswith="v1|"),  # noqa: S106  # nosec B106
            ),
        ]

    def __str__(self) -> str:
        return f"{self.service} {self.kind}"

    def set_secret(self, value: str) -> None:
        """Seal `value` into this row, unsaved; ValidationError if it cannot be a secret."""
        if not value or value != value.strip() or not value.isprintable():
            raise ValidationError(
                _("A secret is one line of printable characters, without blanks around it.")
            )
        self.secret = seal(value, table=self._meta.db_table, row=str(self.pk), field="secret")
        self.last4 = value[-4:] if len(value) >= _SHOW_LAST_FOUR_FROM else ""
        self.changed_at = clock.now()

    def status_at(self, moment: datetime) -> str:
        """Return the status; a credential past its date is expired whether or not a row says so."""
        over = self.expires_at is not None and self.expires_at <= moment
        if over and self.status != self.Status.REVOKED:
            return self.Status.EXPIRED
        return self.status


class HashKey(models.Model):
    """The key of the vault's fingerprints, sealed; one row, never replaced."""

    name = models.CharField(max_length=40, primary_key=True)
    secret = models.TextField()

    def __str__(self) -> str:
        return self.name


register_sealed("credentials.Credential", "secret")
register_sealed("credentials.HashKey", "secret")
