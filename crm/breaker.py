"""What an error says about the line to a CRM, when to try again, and how a line stands in words.

Pure decisions: `crm.health` has the rows, and the clock of the database.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from django.utils import timezone

from sopengine.errors import AuthError, RateLimited, StepError, Transient

FAILURES = 5  # so many transport failures ...
WINDOW = timedelta(minutes=1)  # ... within this time, without a success between, open the breaker
FIRST_WAIT = 30.0  # seconds from the opening to the first probe; each further one doubles it
LONGEST_WAIT = 900.0
WAIT_UNSAID = 60.0  # the pause after a 429 that names none
LONGEST_PAUSE = 3_600.0
RAMP = timedelta(minutes=2)  # so long the slow start lasts

ANSWERS, SILENT, PAUSING, REFUSED, HELD = "answers", "silent", "pausing", "refused", "held"

_TRANSPORT = {"timeout", "connect_timeout", "unreachable", "dropped", "no_token"}
_LOGIN = {"auth", "reauth", "no_credential", "credential_unreadable"}
_WHY = {
    "timeout": "it did not answer in time",
    "connect_timeout": "it could not be reached in time",
    "unreachable": "it could not be reached",
    "dropped": "it broke the connection",
    "no_token": "its login server answered with something else than a token",
    "deadline": "the time for the step was over",
    "rate_limited": "it asked for a pause",
    "auth": "it refused our login",
    "forbidden": "it did not allow what was asked",
    "reauth": "our login must be authorised again",
    "no_credential": "no login is stored for it",
    "credential_unreadable": "our stored login cannot be opened",
}
_REFUSALS = {
    "reauth": "wants our login to be authorised again",
    "no_credential": "has no login stored",
    "credential_unreadable": "has a login stored that cannot be opened",
}


class Says(Enum):
    """What an error says about the line as a whole."""

    DOWN = "down"  # it did not answer as a server that is well does
    PAUSE = "pause"  # it answers, and asked us to wait
    LOGIN = "login"  # it answers, and does not accept our login
    NOTHING = "nothing"  # this request was at fault, or its answer; the line may be well


def says(error: StepError) -> Says:
    """Return what an error says about the line."""
    if isinstance(error, RateLimited):
        return Says.PAUSE
    if isinstance(error, AuthError) and error.reason in _LOGIN:
        return Says.LOGIN
    if isinstance(error, Transient) and is_transport(error.reason):
        return Says.DOWN
    return Says.NOTHING


def is_transport(code: str) -> bool:
    """Say whether the code is one of a line that does not answer: no connection, no answer, a 5xx."""
    return code in _TRANSPORT or (len(code) == len("http_5xx") and code.startswith("http_5"))


def pause_after(error: StepError) -> timedelta:
    """Return for how long a 429 stops the line: what it asked for, from a second to an hour."""
    asked = WAIT_UNSAID if error.retry_after is None else error.retry_after
    return timedelta(seconds=min(max(asked, 1.0), LONGEST_PAUSE))


def wait_before(tries: int, luck: float) -> timedelta:
    """Return the wait before the next probe: `tries` is 1 when the line fell silent, 2 after a vain probe ...

    `luck` is from 0 to 1 and takes off up to a sixth, so that many firms do not knock at one time.
    """
    whole = min(FIRST_WAIT * 2.0 ** min(tries - 1, 10), LONGEST_WAIT)
    return timedelta(seconds=whole * (1 - luck / 6))


@dataclass(frozen=True, slots=True)
class Standing:
    """How the line to a CRM stands. `until` is the next try, or the end of a pause; None: no time is set.

    `generation` rises with every change; `answering_since` is when it last began to answer again.
    `failures` counts the transport failures since the last success, at most five.
    """

    service: str
    state: str = ANSWERS
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None
    generation: int = 0
    rate_left: int | None = None
    by: str = ""
    note: str = ""
    last_ok_at: datetime | None = None
    last_failed_at: datetime | None = None
    last_code: str = ""
    answering_since: datetime | None = None
    failures: int = 0

    @property
    def may_call(self) -> bool:
        """Say whether a call may be made now."""
        return self.state == ANSWERS


def in_words(standing: Standing, now: datetime) -> str:
    """Return how the line stands, to follow "The CRM": "does not answer, next try 14:02"."""
    until = clock_time(standing.until, now)
    if standing.state == SILENT:
        return f"does not answer, next try {until}"
    if standing.state == PAUSING:
        return f"asked for a pause until {until}"
    if standing.state == REFUSED:
        return _REFUSALS.get(standing.reason, "refuses our login")
    if standing.state == HELD:
        note = f": {standing.note}" if standing.note else ""
        return f"is held by {standing.by or 'staff'} since {clock_time(standing.since, now)}{note}"
    return "answers"


def consequence(standing: Standing) -> str:
    """Return what follows from it for the runs, and what a person can do, in one or two sentences."""
    waits = "Runs whose present step needs the CRM wait, all others go on."
    return {
        ANSWERS: "Runs that need the CRM go on.",
        SILENT: f"{waits} It is tried again by itself, and the waiting runs go on when it answers.",
        PAUSING: f"{waits} They go on by themselves when the pause is over.",
        REFUSED: f"{waits} Store a login that it accepts; it is tried as soon as there is another one.",
        HELD: f"{waits} Nothing is tried until somebody releases it.",
    }[standing.state]


def why(code: str) -> str:
    """Return an error's code in words."""
    if code in _WHY:
        return _WHY[code]
    if code.startswith("http_"):
        return f"it answered with {code.removeprefix('http_')}"
    return code.replace("_", " ")


def clock_time(moment: datetime | None, now: datetime) -> str:
    """Return a moment of today as 14:02, another one with its day, both in the business' zone."""
    if moment is None:
        return "soon"
    local, today = timezone.localtime(moment), timezone.localtime(now)
    return f"{local:%H:%M}" if local.date() == today.date() else f"{local.day} {local:%B %H:%M}"
