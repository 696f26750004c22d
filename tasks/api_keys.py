"""Keys for the API: shown once, kept as a digest. Each acts in the name of one user, within its scopes.

A key looks like `sop_1a2b3c4d_<43 characters>`: the part in the middle finds the row, the last part
is 256 random bits, so that a plain digest of it gives nothing away.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Q

from sopengine import clock
from tasks import inbox_views, journal, pages, views
from tasks.models import ApiKey


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key may do; its user must have one of the permissions too."""

    meaning: str
    permissions: tuple[str, ...]


SCOPES: Mapping[str, Scope] = {
    "runs:start": Scope("start runs", (pages.MAY_OPERATE,)),
    "runs:read": Scope("see runs and what happened to them", views.MAY_SEE),
    "runs:signal": Scope("send events to runs", (pages.MAY_OPERATE,)),
    "approvals:read": Scope("see questions and, on demand, their drafts", inbox_views.MAY_SEE),
    "approvals:answer": Scope("answer questions", (pages.MAY_ANSWER,)),
}
USE_NOTED_EVERY = timedelta(minutes=1)
_FORM = re.compile(r"sop_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")


class KeyRefused(ValueError):
    """A key that cannot be made like this; the sentence says why."""


def make(name: str, user: User, scopes: Iterable[str]) -> tuple[ApiKey, str]:
    """Make a key and return its row with the text that opens the API, which nobody can read again."""
    wanted = sorted(set(scopes))
    _check(name, user, wanted)
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    row = ApiKey(
        name=name, prefix=prefix, digest=_digest(secret), scopes=wanted, user=user, created_at=clock.now()
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        raise KeyRefused(f"There is a key of the name “{name}” already; revoked ones keep theirs.") from None
    return row, f"sop_{prefix}_{secret}"


def _check(name: str, user: User, scopes: list[str]) -> None:
    longest = ApiKey._meta.get_field("name").max_length or 0
    if not name.strip() or not name.isprintable() or len(name) > longest:
        raise KeyRefused(f"A key needs a name of one line and at most {longest} characters.")
    if not user.is_active:
        raise KeyRefused(f"{user.get_username()} is not active; a key acts in the name of an active user.")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        wrong = f"There is no scope {unknown[0]!r}" if unknown else "A key needs a scope"
        raise KeyRefused(f"{wrong}; there are: {', '.join(SCOPES)}.")


def holder(shown: str) -> ApiKey | None:
    """Return the key that was shown, with its user; None unless it is in force."""
    found = _FORM.fullmatch(shown)
    if found is None:
        return None
    key = ApiKey.objects.select_related("user").filter(prefix=found[1]).first()
    # The digest is compared even where there is no such row: both cases take equally long.
    right = hmac.compare_digest(_digest(found[2]), key.digest if key else "-" * 64)
    if key is None or not right or key.revoked_at is not None or not key.user.is_active:
        return None
    _note_use(key)
    return key


def _note_use(key: ApiKey) -> None:
    now = clock.now()
    earlier = now - USE_NOTED_EVERY
    if key.last_used_at is None or key.last_used_at < earlier:
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=earlier)
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now)


def wait_of(key: ApiKey) -> float:
    """Count one more request of this key; return 0, or in how many seconds it may come again."""
    most = settings.API_REQUESTS_PER_MINUTE
    return journal.take(f"api:{key.pk}", 60 / most, most) if most else 0.0


def revoke(key: ApiKey) -> bool:
    """Take the key out of use for ever; False when it was already."""
    return bool(ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=clock.now()))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
