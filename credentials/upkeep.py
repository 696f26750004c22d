"""What the sweep does for credentials: move those that near their end, before somebody is surprised."""

from datetime import datetime

from django.db.models import Q

from credentials.models import WARNED_AHEAD, Credential
from sopengine import clock

Status = Credential.Status


def note_expiry() -> list[Credential]:
    """Move active credentials to expiring, seven days ahead, and all to expired; return those just moved.

    Of two processes that call it at once, one moves a row and gets it. A row whose end was put off
    is active again, without being returned.
    """
    now = clock.now()
    over = Q(expires_at__lte=now)
    near = Q(expires_at__gt=now, expires_at__lte=now + WARNED_AHEAD)
    moved = _moved((Status.ACTIVE, Status.EXPIRING), over, Status.EXPIRED, now)
    moved += _moved((Status.ACTIVE,), near, Status.EXPIRING, now)
    Credential.objects.filter(Q(expires_at__gt=now + WARNED_AHEAD), status=Status.EXPIRING).update(
        status=Status.ACTIVE, changed_at=now
    )
    return moved


def _moved(before: tuple[str, ...], when: Q, after: str, now: datetime) -> list[Credential]:
    """Move each row that is `before` and `when`; return those that were moved here."""
    found = []
    for credential in Credential.objects.filter(when, status__in=before):
        still = Credential.objects.filter(when, pk=credential.pk, status__in=before)
        if still.update(status=after, changed_at=now):
            credential.status = after
            found.append(credential)
    return found
