"""What staff read about a credential, beside its status."""

from datetime import datetime, timedelta

from django.utils.timezone import localtime

from credentials.models import WARNED_AHEAD, Credential

_REFUSALS = {
    "auth": "it does not know us",
    "forbidden": "it knows us and does not allow this",
    "reauth": "somebody must log in again",
}


def remarks(credential: Credential, now: datetime) -> str:
    """Return what is worth a look: that it ends soon, that it was refused; "" when nothing is."""
    found = [_refusal(credential), _end(credential, now)]
    return "; ".join(text for text in found if text)


def _refusal(credential: Credential) -> str:
    if credential.refused_at is None:
        return ""
    why = _REFUSALS.get(credential.refused_code, credential.refused_code)
    return f"refused by {credential.service} at {moment(credential.refused_at)}: {why}"


def _end(credential: Credential, now: datetime) -> str:
    if credential.expires_at is None or credential.status == Credential.Status.REVOKED:
        return ""
    left = credential.expires_at - now
    if left <= timedelta(0):
        return f"expired at {moment(credential.expires_at)}"
    return f"expires in {span(left)}" if left <= WARNED_AHEAD else ""


def span(left: timedelta) -> str:
    """Return a time that is left, in the largest whole unit: days, hours or minutes."""
    minutes = max(int(left.total_seconds() // 60), 1)
    for size, unit in ((24 * 60, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            count = minutes // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError("a minute is left at least")


def moment(at: datetime) -> str:
    """Return a moment in the time zone of the firm."""
    return f"{localtime(at):%Y-%m-%d %H:%M}"
