"""The tables of the secrets. Nothing here shows, prints or logs a secret."""

import uuid
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from credentials.vault import register_sealed, seal
from sopengine import clock
from sopengine.headers import fits_header

_SHOW_LAST_FOUR_FROM = 12  # characters; of a shorter secret the last four would say too much
WARNED_AHEAD = timedelta(days=7)  # so long before its end a credential "expires soon"


class Credential(models.Model):
    """An encrypted secret of another system. It is set once, read by `credentials.store`, never shown.

    Of an OAuth login `secret` is the access token and `credentials.oauth` the only reader and writer:
    `expires_at` is the end of the login, `renew_at` the moment from which the access token is renewed
    (None: once it is refused), `renewals` counts what was stored, and who has set `refresh_until` may
    call the token endpoint until then.
    """

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
    refused_at = models.DateTimeField(null=True, editable=False)
    refused_code = models.CharField(max_length=40, blank=True, default="", db_default="", editable=False)
    refresh_token = models.TextField(null=True, editable=False)
    renew_at = models.DateTimeField(null=True, editable=False)
    renewals = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    refreshed_at = models.DateTimeField(null=True, editable=False)
    refresh_until = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    changed_at = models.DateTimeField(default=clock.now, editable=False)

    # What `set_secret` and `set_login` change, for `save(update_fields=…)`: a whole row that was read
    # a moment ago would put an old token back.
    SECRET_FIELDS = (
        "secret",
        "last4",
        "refresh_token",
        "renew_at",
        "renewals",
        "refreshed_at",
        "refresh_until",
        "refused_at",
        "refused_code",
        "changed_at",
    )

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
            models.CheckConstraint(
                name="credential_refresh_is_sealed",
                condition=Q(refresh_token__isnull=True) | Q(refresh_token__startswith="v1|"),  # noqa: S106  # nosec B106
            ),
        ]

    def __str__(self) -> str:
        return f"{self.service} {self.kind}"

    def set_secret(self, value: str) -> None:
        """Seal `value` into this row, unsaved; ValidationError if it cannot be a secret."""
        self.set_login(checked_secret(value, self.kind))

    def set_login(self, access: str, refresh: str = "", renew_at: datetime | None = None) -> None:
        """Seal an access token and the refresh token behind it into this row, unsaved.

        Either may be "": then there is none. What the row knew of the secret before is gone with it.
        """
        self.secret = self.sealed("secret", access)
        self.last4 = last_four(access)
        self.refresh_token = self.sealed("refresh_token", refresh) if refresh else None
        self.renew_at = renew_at
        # A renewal that is under way must not overwrite this.
        self.renewals = 1 if self._state.adding else F("renewals") + 1
        self.refreshed_at = self.refresh_until = self.refused_at = None
        self.refused_code = ""
        self.changed_at = clock.now()

    def sealed(self, field: str, value: str) -> str:
        """Return `value` sealed for this field of this row."""
        return seal(value, table=self._meta.db_table, row=str(self.pk), field=field)

    def status_at(self, moment: datetime) -> str:
        """Return the status; a credential at or near its end says so whether or not its row does yet."""
        ended = self.status in (self.Status.REVOKED, self.Status.EXPIRED)
        if ended or self.expires_at is None:
            return self.status
        if self.expires_at <= moment:
            return self.Status.EXPIRED
        return self.Status.EXPIRING if self.expires_at <= moment + WARNED_AHEAD else self.Status.ACTIVE


IN_A_HEADER = (Credential.Kind.API_KEY, Credential.Kind.OAUTH_TOKEN)


def checked_secret(value: str, kind: str = "") -> str:
    """Return `value`, or raise ValidationError if it cannot be a secret, or not one of this kind."""
    if not value or value != value.strip() or not value.isprintable():
        raise ValidationError(_("A secret is one line of printable characters, without blanks around it."))
    if kind in IN_A_HEADER and not fits_header(value):
        raise ValidationError(
            _("A secret of this kind goes into a header: at most 7,900 ASCII letters, digits and signs.")
        )
    return value


def last_four(secret: str) -> str:
    """Return what may be shown of a secret: its last four characters, "" of a short one."""
    return secret[-4:] if len(secret) >= _SHOW_LAST_FOUR_FROM else ""


class LoginAttempt(models.Model):
    """A login that a person has begun at another system; it counts once, in the browser that began it.

    Both texts are hashes: of the `state` that goes through the other system, and of what only the
    session of that browser knows.
    """

    state = models.CharField(max_length=64, primary_key=True)
    browser = models.CharField(max_length=64)
    service = models.SlugField(max_length=60)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.service} until {self.until:%H:%M}"


class HashKey(models.Model):
    """The key of the vault's fingerprints, sealed; one row, never replaced."""

    name = models.CharField(max_length=40, primary_key=True)
    secret = models.TextField()

    def __str__(self) -> str:
        return self.name


register_sealed("credentials.Credential", "secret", "refresh_token")
register_sealed("credentials.HashKey", "secret")
