"""How the line to each CRM stands, known to all processes: one row per service.

    health.demand("crm")                    before a call: Held when none may be made
    health.worked("crm") / .failed(...)     after it

Five transport failures within a minute, or one step that used up its retries, make the line silent;
a 429 lets it pause; a login that is not accepted makes it refused; staff may hold it. What `probe`
does brings it back. Each change is one conditional UPDATE whose row count says who made it, so any
number of processes may call at once, on PostgreSQL and on SQLite. Time is the database's clock, moved
by `clock.offset()`.

A call has already happened when its result is noted here, so a database that is away costs the note
and never the result.
"""

import logging
import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.db.models import DateTimeField, ExpressionWrapper, F, Q, QuerySet
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from credentials import store
from credentials.threads import own_connection
from crm.access import access_for
from crm.breaker import (
    ANSWERS,
    HELD,
    PAUSING,
    RAMP,
    REFUSED,
    SILENT,
    WINDOW,
    Says,
    Standing,
    in_words,
    pause_after,
    says,
    wait_before,
)
from crm.models import Health
from crm.provider import Connection, providers
from sopengine import clock
from sopengine.errors import AuthError, Held, StepError, Transient, Unsupported

__all__ = [
    "Notes",
    "Standing",
    "demand",
    "failed",
    "forget",
    "hold",
    "news",
    "not_answering",
    "probe",
    "ramp",
    "release",
    "standing",
    "told",
    "used_up",
    "worked",
]

log = logging.getLogger("crm.health")

KEPT = 1.0  # seconds a standing is used without looking at its row again
NOTED_EVERY = 10.0  # seconds between two notes of a process that all is well
PROBE_SECONDS = 5.0  # for the first probe; after one in vain the next may take as long as a call
PROBE_LEASE = timedelta(seconds=60)  # longer than a call, a refresh of the login and a second call

_Away = (OperationalError, InterfaceError)
_kept: dict[str, tuple[float, Standing]] = {}
_noted: dict[str, float] = {}
_changes: Counter[str] = Counter()
_reading = threading.Lock()


# -- what is asked ---------------------------------------------------------------------------------


def standing(service: str = "crm", *, fresh: bool = False) -> Standing:
    """Return how the line stands: at most a second old, or as the row says now when `fresh`.

    While the database is away it is what was known last, and without that a line that answers.
    """
    known = _kept.get(service)
    if connection.in_atomic_block:
        return _read(service)
    if known and not fresh and (clock.monotonic() - known[0] < KEPT or _reading.locked()):
        return known[1]  # while one thread looks at the row, the others go on with what they had
    with _reading:
        known = _kept.get(service)
        if known is None or fresh or clock.monotonic() - known[0] >= KEPT:
            known = _looked(service, known)
        return known[1]


def demand(service: str = "crm") -> None:
    """Return when a call may be made; else raise Held with the moment of the next try."""
    found = standing(service)
    if not found.may_call:
        raise Held(f"The CRM {in_words(found, clock.now())}; nothing was sent.", until=found.until)


def ramp(service: str = "crm") -> datetime | None:
    """Return when the line last began to answer again: the slow start counts from then."""
    return standing(service).answering_since


def not_answering() -> list[str]:
    """Return the services that `probe` has to look at: every one whose row says anything but answers."""
    return list(Health.objects.exclude(state=ANSWERS).values_list("service", flat=True))


def news() -> list[Standing]:
    """Return the lines that changed since staff were last told, as their rows say."""
    return [_standing(row, row.state) for row in _rows().filter(generation__gt=F("told"))]


def told(found: Standing) -> bool:
    """Note that staff were told of this; False when somebody else told them before."""
    rows = Health.objects.filter(service=found.service, told__lt=found.generation)
    return rows.update(told=found.generation) == 1


def forget(**_signal: Any) -> None:
    """Read every row again at its next use."""
    _kept.clear()
    _noted.clear()


# -- what calls report -----------------------------------------------------------------------------


class Notes:
    """What calls meant, kept in the thread that made them for the one that owns the database.

    Takes the place of this module's `worked` and `failed`; `write` notes it all, oldest first.
    """

    def __init__(self) -> None:
        self._kept: list[Callable[[], None]] = []

    def worked(self, service: str = "crm", *, rate_left: int | None = None) -> None:
        """Keep a success."""
        self._kept.append(partial(worked, service, rate_left=rate_left))

    def failed(self, service: str, error: StepError, *, fingerprint: str = "") -> None:
        """Keep a failure."""
        self._kept.append(partial(failed, service, error, fingerprint=fingerprint))

    def write(self) -> None:
        """Note what was kept, once."""
        kept, self._kept = self._kept, []
        for note in kept:
            note()


def worked(service: str = "crm", *, rate_left: int | None = None) -> None:
    """Note a success: failures before it no longer count. It opens no line that is closed.

    A line that is well is noted at most every ten seconds by each process. Failures that another
    process saw within the last second may stay counted.
    """
    recent = clock.monotonic() - _noted.get(service, -NOTED_EVERY) < NOTED_EVERY
    if recent and not standing(service).failures:
        return
    _noted[service] = clock.monotonic()
    with _noting(service):
        seen = {} if rate_left is None else {"rate_left": rate_left}
        _update(service, Q(), last_ok_at=_now(), **_NO_FAILURES, **seen)
        store.mark_accepted(service)


def failed(service: str, error: StepError, *, fingerprint: str = "") -> None:
    """Note a failed call, and change the state of the line when it means that.

    `fingerprint` is that of the login with which the call was made.
    """
    with _noting(service):
        what = says(error)
        marks: dict[str, Any] = {"last_failed_at": _now(), "last_code": error.reason[:60]}
        if what is Says.DOWN:
            marks |= {f"failure_{n}": F(f"failure_{n - 1}") for n in range(2, 6)}
            marks["failure_1"] = _now()
        _update(service, Q(), **marks)
        if what is Says.DOWN:
            _open(service, error.reason, Q(failure_5__gt=_now(-WINDOW)))
        elif what is Says.PAUSE:
            _pause(service, error)
        elif what is Says.LOGIN:
            _refuse(service, error.reason, fingerprint)
        if isinstance(error, AuthError):
            store.mark_refused(service, error.reason)


def used_up(service: str, code: str) -> None:
    """Make the line silent at once: one step used up its transport retries."""
    with _noting(service):
        _update(service, Q(), last_failed_at=_now(), last_code=code[:60])
        _open(service, code, Q())


def _open(service: str, code: str, enough: Q) -> None:
    """Make a line that may be called silent when that is `enough`.

    The waits go on growing where it fell silent again within its slow start: it answers a probe, not
    the work.
    """
    row = _row(service)
    again = bool(row.ramp_at and row.ramp_at > _moment(row) - RAMP)
    tries = (row.tries if again else 0) + 1
    wait = wait_before(tries, random.random())  # noqa: S311
    callable_now = Q(state=ANSWERS) | _pause_is_over()
    if _move(service, SILENT, callable_now & enough, row, code, until=_now(wait), tries=tries):
        log.warning("%s does not answer (%s): calls are held", service, code)


def _pause(service: str, error: StepError) -> None:
    """Let the line pause; of two pauses the longer one wins, and a probe waits for it too."""
    end = _now(pause_after(error))
    if _move(service, PAUSING, Q(state=ANSWERS) | _pause_is_over(), None, error.reason, until=end):
        log.warning("%s asked for a pause: calls are held", service)
    else:
        _update(service, Q(state__in=[PAUSING, SILENT], until__lt=end), until=end)


def _refuse(service: str, code: str, fingerprint: str) -> None:
    """Make the line refused; one that is so already changes only for another login."""
    stands = Q(state__in=[ANSWERS, PAUSING, SILENT]) | (Q(state=REFUSED) & ~Q(fingerprint=fingerprint))
    if _move(service, REFUSED, stands, None, code, fingerprint=fingerprint[:128]):
        log.warning("%s refuses our login (%s): calls are held", service, code)


# -- what staff do ---------------------------------------------------------------------------------


def hold(service: str, by: str, note: str = "") -> bool:
    """Hold every call until somebody releases the line; False when it was held already."""
    _stored(service)
    one_line = " ".join(note.split())  # in a message to staff a line of its own could pass for ours
    return _move(service, HELD, ~Q(state=HELD), None, "staff", by=by[:150], note=one_line[:200])


def release(service: str, by: str) -> bool:
    """Let calls through again, slowly at first, whatever stopped them; False when nothing did."""
    return _answer(service, ~Q(state=ANSWERS), None, by=by[:150], tries=0)


# -- how it comes back -----------------------------------------------------------------------------


def probe(service: str = "crm") -> bool | None:
    """Look whether the line answers again: True when it does now, False when not, None: not our turn.

    A silent line gets one cheap call when its time has come, a refused one when there is another login
    than the one refused, a pause ends by itself, and what staff hold is left alone. Of many processes
    one makes the call.
    """
    row = _row(service)
    if row.state == PAUSING:
        return _answer(service, _pause_is_over(), row, tries=0) or None
    if row.state not in (SILENT, REFUSED) or (row.until and row.until > _moment(row)):
        return None
    fingerprint = access_for(service).fingerprint()
    if row.state == REFUSED and fingerprint == row.fingerprint:
        return None
    mark = _taken(row)
    return _probed(service, row, mark, fingerprint) if mark else None


def _taken(row: Health) -> str:
    """Take the probe of this generation for a while; "" when it is not due or another has it."""
    mark = secrets.token_hex(16)
    due = Q(until__isnull=True) | Q(until__lte=_now())
    free = Q(probe_until__isnull=True) | Q(probe_until__lte=_now())
    same = Q(state=row.state, generation=row.generation)
    taken = _update(row.service, due & free & same, probe=mark, probe_until=_now(PROBE_LEASE))
    return mark if taken else ""


def _probed(service: str, row: Health, mark: str, fingerprint: str) -> bool:
    """Make the one call of a probe and keep what it means, as long as the probe is still ours."""
    ours = Q(probe=mark)
    error = _ping(service, _time_for(row))
    if error is None or (isinstance(error, AuthError) and says(error) is not Says.LOGIN):
        answers = _answer(service, ours, row, last_ok_at=_now())
        store.mark_accepted(service)
        if error is not None:  # it knows us, and forbids what the probe asks; runs may ask for what it allows
            store.mark_refused(service, error.reason)
        if answers:
            log.warning("%s answers again", service)
        return answers
    _update(service, ours, last_failed_at=_now(), last_code=error.reason[:60])
    _probe_failed(service, row, ours, error, fingerprint)
    log.info("%s was tried: %s", service, error.reason)
    return False


def _time_for(row: Health) -> float:
    """Return the seconds for a probe: few for the first, all that a call may take after one in vain.

    A CRM that is slow and well would never be found to be back otherwise.
    """
    before = row.tries - (row.state == SILENT)  # a line that falls silent begins with one
    longest = float(settings.ENGINE_CALL_TIMEOUT)
    return longest if before > 0 else min(PROBE_SECONDS, longest)


class _Within:
    """The deadline of a probe: whoever sweeps has other work, too."""

    def __init__(self, seconds: float) -> None:
        self._until = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self._until - clock.monotonic())

    def check(self) -> None:
        """Raise Transient (nothing sent) when the time is over."""
        if not self.remaining():
            raise Transient("the probe took too long", code="timeout", sent="no")


def _ping(service: str, seconds: float) -> StepError | None:
    """Make one cheap call past the guard; return what came of it when that was not an answer."""
    within = _Within(seconds)
    way = Connection(settings.CRM_BASE_URL, access_for(service, within), within, service)
    try:
        providers.get(settings.CRM_PROVIDER)(way).ping()
    except Unsupported:
        return None  # this provider has no such call: the work itself must show whether the line answers
    except StepError as error:
        # The time of a probe is ours to set: when it is over, the CRM has not answered in time.
        return Transient(error.message, code="timeout") if error.reason == "deadline" else error
    except Exception as error:  # a provider is anybody's code, and the sweep that probes has other work too
        log.error("%s cannot be tried: %s in its provider", service, type(error).__name__)
        return StepError("the provider failed", code="bug")
    return None


def _probe_failed(service: str, row: Health, ours: Q, error: StepError, fingerprint: str) -> None:
    """Keep what a probe in vain means: another state, or the same one with a later try."""
    if isinstance(error, AuthError):
        _move(service, REFUSED, ours, row, error.reason, fingerprint=fingerprint[:128])
        store.mark_refused(service, error.reason)
    elif says(error) is Says.PAUSE and row.state == SILENT:
        _move(service, PAUSING, ours, row, error.reason, until=_now(pause_after(error)))
    else:
        tries = row.tries + 1
        wait = wait_before(tries, random.random())  # noqa: S311
        if says(error) is Says.PAUSE:
            wait = max(wait, pause_after(error))
        _update(service, ours, tries=tries, until=_now(wait), probe="", probe_until=None)


# -- the rows --------------------------------------------------------------------------------------

_NO_FAILURES: dict[str, Any] = {f"failure_{n}": None for n in range(1, 6)}


def _now(plus: timedelta = timedelta(0)) -> Combinable:
    """Return the moved clock of the database as an expression."""
    moved = timedelta(seconds=clock.offset()) + plus
    return ExpressionWrapper(Now() + moved, output_field=DateTimeField())


def _pause_is_over() -> Q:
    return Q(state=PAUSING, until__lte=_now())


def _rows() -> "QuerySet[Any]":
    """Return the rows, each with the time of its database."""
    return Health.objects.annotate(now=_now())


def _row(service: str) -> Any:
    """Return the row with the time at which it was read; one that is not stored is a line that answers."""
    return _rows().filter(service=service).first() or Health(service=service)


def _moment(row: Any) -> datetime:
    """Return when the row was read, by the clock of its database."""
    found: datetime = getattr(row, "now", None) or clock.now()
    return found


def _read(service: str) -> Standing:
    row = _row(service)
    over = row.state == PAUSING and row.until is not None and row.until <= _moment(row)
    return _standing(row, ANSWERS if over else row.state)


def _standing(row: Any, state: str) -> Standing:
    """Return the row as a standing; a pause that is over counts as answering from its end."""
    over = state == ANSWERS and row.state == PAUSING
    return Standing(
        service=row.service,
        state=state,
        reason="" if over else row.reason,
        since=row.until if over else row.since,
        until=None if over else row.until,
        generation=row.generation,
        rate_left=row.rate_left,
        by=row.by,
        note=row.note,
        last_ok_at=row.last_ok_at,
        last_failed_at=row.last_failed_at,
        last_code=row.last_code,
        answering_since=row.until if over else row.ramp_at,
        failures=sum(getattr(row, name) is not None for name in _NO_FAILURES),
    )


def _looked(service: str, known: tuple[float, Standing] | None) -> tuple[float, Standing]:
    """Read the row and keep it, unless this process has changed it meanwhile."""
    changes, began = _changes[service], clock.monotonic()
    try:
        with own_connection():
            found = began, _read(service)
    except _Away:
        log.warning("the state of %s cannot be read: the database is away", service)
        found = began, known[1] if known else Standing(service)
    if _changes[service] == changes:
        _kept[service] = found
    return found


def _update(service: str, when: Q, **values: Any) -> bool:
    """Change the row if it is so, with one UPDATE; say whether this process did it."""
    rows = Health.objects.filter(when, service=service)
    done = rows.update(**values) == 1
    if not done and not when:
        _stored(service)
        done = rows.update(**values) == 1
    _changes[service] += 1
    _kept.pop(service, None)
    return done


def _move(service: str, state: str, when: Q, row: Health | None, code: str = "", **values: Any) -> bool:
    """Bring the line into another state, if it is as `when` says and no change came after `row`.

    A new state has a new generation, and whatever probe is under way loses its turn.
    """
    same = Q(generation=row.generation) if row is not None else Q()
    fresh: dict[str, Any] = {
        "state": state,
        "reason": code[:60],
        "since": _now(),
        "until": None,
        "generation": F("generation") + 1,
        "by": "",
        "note": "",
        "probe": "",
        "probe_until": None,
    }
    return _update(service, when & same, **{**fresh, **values})


def _answer(service: str, when: Q, row: Health | None, **values: Any) -> bool:
    """Let the line answer again: nothing counts against it, and its slow start begins."""
    cleared = {**_NO_FAILURES, "fingerprint": "", "ramp_at": _now()}
    return _move(service, ANSWERS, when, row, **{**cleared, **values})


def _stored(service: str) -> None:
    """Make sure that there is a row; who comes second makes none."""
    Health.objects.bulk_create([Health(service=service)], ignore_conflicts=True)


@contextmanager
def _noting(service: str) -> Iterator[None]:
    """Note what a call meant; without a database the note is lost, and the call's result is not."""
    try:
        with own_connection():
            yield
    except _Away:
        if connection.in_atomic_block:
            raise
        log.warning("how %s answered could not be noted: the database is away", service)
