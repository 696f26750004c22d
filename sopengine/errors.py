"""Why a step could not do its work, in the one question that matters: try again, or not, and when?

StepError
├── Transient      the other side was not there, or broke: try again later
├── RateLimited    the other side asked for a pause: wait `retry_after`, costs no retry
├── AuthError      the other side does not accept our credential: a person must act
├── Held           calls to this system are held: nothing was sent, costs no retry
├── DataError      an answer or a value is not what was promised: trying again changes nothing
├── Outdated       what a person approved is no longer so: a person must look again
├── Unclear        it cannot be told whether this was done before: a person must look
└── Permanent      the other side said no for good
    └── Unsupported    this provider cannot do what was asked, and says so instead of guessing
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

Sent = Literal["no", "maybe"]


LONGEST_PAUSE = 86_400.0  # seconds that anybody may ask us to wait


def _seconds(value: object) -> float | None:
    """Return a time that can be waited, or None: what the other side names may be anything."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    return float(min(value, LONGEST_PAUSE))


class StepError(Exception):
    """The step could not do its work.

    `code` is a short word for rows and logs; the message is our own sentence, never a foreign
    body. `retry_after` is in seconds. `sent` answers whether the request may have reached the
    other side: only "no" may be repeated freely. `origin` is the service whose call failed, if one did.
    """

    code: ClassVar[str] = "error"
    default_sent: ClassVar[Sent] = "no"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        retry_after: float | None = None,
        sent: Sent | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").splitlines()[0]
        self.reason = code or self.code
        self.retry_after = _seconds(retry_after)
        self.sent: Sent = sent or self.default_sent
        self.origin = ""
        super().__init__(self.message)


class Transient(StepError):
    """The other side did not answer properly; a later try may succeed."""

    code = "transient"
    default_sent = "maybe"


class RateLimited(StepError):
    """The other side asked for a pause."""

    code = "rate_limited"


class AuthError(StepError):
    """The other side does not accept our credential.

    The reason says which way: "auth" it does not know us (401), "forbidden" it knows us and says no
    (403), "reauth" a refresh token is no longer accepted, "no_credential" none is stored,
    "credential_unreadable" one is stored that our keys do not open.
    """

    code = "auth"


class Held(StepError):
    """Calls to this system are held: nothing was sent.

    `until` is the moment of the next try, None where only a person can say.
    """

    code = "held"

    def __init__(self, message: str = "", *, until: datetime | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code, sent="no")
        self.until = until


class DataError(StepError):
    """A value is not what was promised."""

    code = "data"


class Outdated(StepError):
    """What a person approved is no longer so.

    `values` are the customer's fields as they are now; `back_to` is the key of the step to begin again
    at, "" for the last draft before the last question.
    """

    code = "outdated"

    def __init__(
        self,
        message: str = "",
        *,
        values: Mapping[str, Any] | None = None,
        code: str | None = None,
        back_to: str = "",
    ) -> None:
        super().__init__(message, code=code, sent="no")
        self.values: Mapping[str, Any] = dict(values or {})
        self.back_to = back_to


class Unclear(StepError):
    """It cannot be told whether this was done before; a person must look."""

    code = "unclear"
    default_sent = "maybe"


class Permanent(StepError):
    """The other side refused, and would refuse again."""

    code = "permanent"


class Unsupported(Permanent):
    """This provider cannot do what was asked."""

    code = "unsupported"
