"""The address that an answer to one of our mails goes to: it says which run it is for, and is signed.

`reply+<token>@<domain>`: the token is the run's id with a keyed hash behind it. It is in lower case,
because some mail systems make addresses so, and shorter than the 64 characters before the @.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable
from email.utils import parseaddr
from uuid import UUID

from django.conf import settings
from django.utils.crypto import salted_hmac

_HASH_BYTES = 10
_SALT = "tasks.replies"
_ADDRESS = re.compile(r"reply\+([a-z2-7]{42})@([^@\s]+)", re.IGNORECASE)


def address(task_id: UUID | str, step: str = "") -> str:
    """Return where an answer to a mail of this run goes; every step of a run has the same address."""
    task = UUID(str(task_id)).bytes
    token = base64.b32encode(task + _hash(task, settings.SECRET_KEY)).decode().lower().rstrip("=")
    return f"reply+{token}@{domain()}"


def domain() -> str:
    """Return where answers arrive: settings.REPLY_DOMAIN, else the domain that our mail comes from."""
    own: str = settings.REPLY_DOMAIN
    return own or parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"


def task_of(addresses: Iterable[str]) -> UUID | None:
    """Return the run to which one of these mail addresses belongs, None when none of them is ours."""
    return next(filter(None, map(_task_of, addresses)), None)


def _task_of(text: str) -> UUID | None:
    found = _ADDRESS.fullmatch(text.strip())
    if found is None or found[2].lower().rstrip(".") != domain().lower():
        return None
    try:
        raw = base64.b32decode(found[1].upper() + "=" * (-len(found[1]) % 8))
    except binascii.Error:
        return None
    task, given = raw[:16], raw[16:]
    keys = [str(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]
    genuine = [hmac.compare_digest(given, _hash(task, key)) for key in keys]
    return UUID(bytes=task) if any(genuine) else None


def _hash(task: bytes, key: str) -> bytes:
    return salted_hmac(_SALT, task, secret=key, algorithm="sha256").digest()[:_HASH_BYTES]
