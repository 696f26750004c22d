"""What the sweep does for credentials: move those that near their end, before somebody is surprised.

upkeep.put_off()
for credential in upkeep.ending():
    with transaction.atomic():
        if upkeep.move(credential):
            ...  # tell of it: the status moves only with the message
"""

from datetime import datetime

from django.db.models import Q, QuerySet

from credentials.models import WARNED_AHEAD, Credential
from sopengine import clock

Status = Credential.Status


def ending() -> list[Credential]:
    """Return the credentials whose row does not say yet that they end, each with the status to get.

    That is expiring from seven days ahead, and expired; nothing is written.
    """
    now = clock.now()
    found = []
    for status in (Status.EXPIRED, Status.EXPIRING):
        for credential in _behind(status, now):
            credential.status = status
            found.append(credential)
    return found


def move(credential: Credential) -> bool:
    """Write the status of one that `ending` returned; False when another process did, or its end changed."""
    now = clock.now()
    rows = _behind(credential.status, now).filter(pk=credential.pk)
    return rows.update(status=credential.status, changed_at=now) == 1


def put_off() -> None:
    """Let credentials be active again whose end was put off, or is not known any more."""
    now = clock.now()
    no_end = Q(expires_at__isnull=True) | Q(expires_at__gt=now + WARNED_AHEAD)
    Credential.objects.filter(no_end, status=Status.EXPIRING).update(status=Status.ACTIVE, changed_at=now)


def _behind(status: str, now: datetime) -> "QuerySet[Credential]":
    """Return the rows that are to get this status and have not."""
    if status == Status.EXPIRED:
        return Credential.objects.filter(expires_at__lte=now, status__in=(Status.ACTIVE, Status.EXPIRING))
    near = Q(expires_at__gt=now, expires_at__lte=now + WARNED_AHEAD)
    return Credential.objects.filter(near, status=Status.ACTIVE)
