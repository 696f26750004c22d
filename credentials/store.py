"""Where the rest of the project gets a secret: the newest credential in force.

A setting stands in only where none of that service and kind was ever stored: one that ran out or was
revoked was taken out of use, and the setting may well hold the same.

The access token of an OAuth login is not read here but by `credentials.oauth`, which renews it.
"""

import threading
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from credentials.models import Credential
from credentials.threads import own_connection
from credentials.vault import VaultError, unseal
from sopengine import clock
from sopengine.errors import AuthError

Kind = Credential.Kind
_KEPT = 1.0  # seconds a secret is used without looking at its row again
IN_FORCE = (Credential.Status.ACTIVE, Credential.Status.EXPIRING)
_kept: dict[tuple[str, str], tuple[float, str | None]] = {}
_reading = threading.Lock()

# The setting that stands in where no credential was ever stored.
ENVIRONMENT = {
    ("crm", Kind.API_KEY.value): "CRM_API_KEY",
    ("crm", Kind.WEBHOOK_SECRET.value): "CRM_HMAC_SECRET",
    ("crm-client", Kind.API_KEY.value): "CRM_OAUTH_CLIENT_SECRET",
    ("chat", Kind.WEBHOOK_SECRET.value): "CHAT_WEBHOOK_SECRET",
    ("slack", Kind.API_KEY.value): "SLACK_BOT_TOKEN",
    ("slack", Kind.WEBHOOK_SECRET.value): "SLACK_SIGNING_SECRET",
}

# The kind of the secret that a service is called with, by settings.CRM_AUTH.
KIND_OF_AUTH = {"api_key": Kind.API_KEY, "oauth": Kind.OAUTH_TOKEN, "hmac": Kind.WEBHOOK_SECRET}


def secret_for(service: str, kind: str = Kind.API_KEY) -> str | None:
    """Return the service's secret: the newest credential in force, else what `from_environment` has.

    A handler's thread may call it: a connection it opened there is closed. A stored secret that
    cannot be opened is an AuthError that says why; the environment does not stand in for it.
    """
    name = (service, str(kind))
    if connection.in_atomic_block:
        return _read(*name)
    known = _kept.get(name)
    if known and (clock.monotonic() - known[0] < _KEPT or _reading.locked()):
        return known[1]  # while one thread looks at the row, the others go on with what they had
    with _reading:
        known = _kept.get(name)
        if known is None or clock.monotonic() - known[0] >= _KEPT:
            now = clock.monotonic()
            with own_connection():
                known = (now, _read(*name))
            _kept[name] = known
        return known[1]


def forget(**_signal: Any) -> None:
    """Read every secret again at its next use; called whenever a credential is saved or deleted."""
    _kept.clear()


def secret_now(service: str, kind: str = Kind.API_KEY) -> str | None:
    """Return the service's secret as it is at this moment, past what is kept: for after a refusal."""
    _kept.pop((service, str(kind)), None)
    return secret_for(service, kind)


def client_of(service: str) -> str:
    """Return the name under which the client secret of a service's OAuth login is stored, as an API key."""
    return f"{service}-client"


def credential_for(service: str, kind: str = Kind.API_KEY) -> Credential | None:
    """Return the newest credential in force."""
    unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=clock.now())
    rows = Credential.objects.filter(unexpired, service=service, kind=kind, status__in=IN_FORCE)
    return rows.order_by("-created_at").first()


def secret_of(credential: Credential) -> str:
    """Return the secret of this row; VaultError says why it cannot be opened."""
    value = unseal(credential.secret, table=Credential._meta.db_table, row=str(credential.pk), field="secret")
    return str(value)


def check(credential: Credential) -> None:
    """Open all that the row holds; VaultError says why it cannot be opened."""
    secret_of(credential)
    if credential.refresh_token is not None:
        place = {"table": Credential._meta.db_table, "row": str(credential.pk), "field": "refresh_token"}
        unseal(credential.refresh_token, **place)


def last_ended(service: str, kind: str = Kind.API_KEY) -> Credential | None:
    """Return the newest credential of a service where there were some and none is in force."""
    if credential_for(service, kind) is not None:
        return None
    return Credential.objects.filter(service=service, kind=kind).order_by("-created_at").first()


def from_environment(service: str, kind: str = Kind.API_KEY) -> str | None:
    """Return the secret that a setting holds for the service; None where one was stored, in force or not."""
    secret: str = getattr(settings, ENVIRONMENT.get((service, str(kind)), ""), "")
    if not secret or Credential.objects.filter(service=service, kind=kind).exists():
        return None
    return secret


def unused_setting(service: str, kind: str = Kind.API_KEY) -> str:
    """Return the name of the setting that does not stand in for a credential that has ended, or ""."""
    name = ENVIRONMENT.get((service, str(kind)), "")
    return name if getattr(settings, name, "") and last_ended(service, kind) else ""


def put(credential: Credential) -> None:
    """Store a credential that has its secret; older ones of its service and kind are revoked.

    So that revoking the newest never brings an older one back.
    """
    older = Credential.objects.filter(
        service=credential.service, kind=credential.kind, status__in=IN_FORCE
    ).exclude(pk=credential.pk)
    with transaction.atomic():
        older.update(status=Credential.Status.REVOKED, changed_at=clock.now())
        credential.save()


def revoke(credential: Credential) -> None:
    """Take the credential out of use; its row stays."""
    credential.status = Credential.Status.REVOKED
    credential.changed_at = clock.now()
    credential.save(update_fields=["status", "changed_at"])


def mark_refused(service: str, code: str, *, kind: str = "") -> bool:
    """Note on the credential in force that the service refuses it; return whether that is news.

    `code` is that of the AuthError, `kind` by default what settings.CRM_AUTH calls with. The
    credential stays in force: a right that comes back over there needs no new secret here. What
    is wrong on our side (none stored, none that opens) is no refusal, and of a login that has ended
    (reauth) `credentials.oauth` has made the note already, on the row that it was about.
    """
    if code not in ("auth", "forbidden"):
        return False
    rows = _in_use(service, kind).filter(refused_at__isnull=True)
    with own_connection():
        return bool(rows.update(refused_at=clock.now(), refused_code=code[:40]))


def mark_accepted(service: str, *, kind: str = "") -> bool:
    """Take the note of `mark_refused` back, once the service answers again; return whether there was one."""
    rows = _in_use(service, kind).filter(refused_at__isnull=False)
    with own_connection():
        return bool(rows.update(refused_at=None, refused_code=""))


def _in_use(service: str, kind: str) -> "QuerySet[Credential]":
    wanted = kind or KIND_OF_AUTH[settings.CRM_AUTH]
    return Credential.objects.filter(service=service, kind=wanted, status__in=IN_FORCE)


def _read(service: str, kind: str) -> str | None:
    credential = credential_for(service, kind)
    if credential is None:
        return from_environment(service, kind)
    try:
        return secret_of(credential) or None
    except VaultError as error:
        raise AuthError(
            f"The stored credential {credential} cannot be opened: {error}", code="credential_unreadable"
        ) from None
