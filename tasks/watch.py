"""Is somebody missing? Beat and the workers leave a sign of life; whoever sees that it stays away says so.

The workers' sign is the pulse of the sweep, which beat and the web look at; beat's own sign is looked
at by the workers. What counts is how long the same sign was the newest one, on the watcher's own clock
that never jumps: neither a clock that was moved nor a machine that just woke up raises an alarm.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TypedDict

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import Q

from sopengine import clock
from tasks import journal, outbox
from tasks.models import Pulse

BEAT, SWEEP = "beat", "sweep"
PERIODS = 5  # without a sign
AT_ONCE = 10  # messages that a process posts which is not there for posting

log = logging.getLogger(__name__)


class Words(TypedDict):
    """What a call for help says."""

    what: str
    why: str
    machine: str
    do: str


class Sign:
    """The newest sign of life that this process saw of somebody, and since when it is the newest."""

    def __init__(self) -> None:
        self._newest: datetime | None = None
        self._since = 0.0

    def age(self, shown: datetime, now: float) -> float:
        """Return for how many seconds no other sign than this was seen; `now` never jumps."""
        if shown != self._newest:
            self._newest, self._since = shown, now
        return now - self._since


_signs = {BEAT: Sign(), SWEEP: Sign()}


def patience(name: str) -> float:
    """Return for how many seconds a sign may stay away.

    A worker sweeps between two drains: one that works hard needs a slice and its last step for that.
    """
    periods = max(PERIODS * settings.ENGINE_SWEEP, settings.ENGINE_SILENCE)
    work = settings.ENGINE_SLICE + max(settings.ENGINE_LEASE, settings.ENGINE_DEADLINE)
    return max(periods, work + settings.ENGINE_SILENCE) if name == SWEEP else periods


# -- signs -----------------------------------------------------------------------------------------


def note_beat() -> None:
    """Leave beat's sign of life."""
    now = journal.database_now()
    if not Pulse.objects.filter(name=BEAT).update(at=now):
        Pulse.objects.bulk_create([Pulse(name=BEAT, at=now)], ignore_conflicts=True)
    is_back(BEAT)


def is_back(name: str) -> bool:
    """After a sign of life: end the alarm about this one, if there is one, and tell so."""
    with transaction.atomic():
        ended = Pulse.objects.filter(name=name, data__has_key="silent").update(data={})
        if ended:
            outbox.escalate(**_BACK[name], severity="info", dedupe=_once("back", name))
    return bool(ended)


# -- watchers --------------------------------------------------------------------------------------


def look_for_beat(now: float | None = None) -> bool:
    """In a sweep: raise one alarm when beat has been silent for too long; where there is none, it cannot be.

    Returns whether the alarm was raised now.
    """
    return bool(settings.REDIS_URL) and _is_silent(BEAT, now) and _raise(BEAT)


def look_for_workers(now: float | None = None) -> bool:
    """In beat or the web: raise one alarm when nobody has swept for too long, and post it from here.

    As long as nobody sweeps, nobody else posts. Returns whether somebody is missing.
    """
    if not _is_silent(SWEEP, now):
        return False
    _raise(SWEEP)
    outbox.pump(AT_ONCE)
    return True


def _is_silent(name: str, now: float | None) -> bool:
    shown = Pulse.objects.filter(name=name).values_list("at", flat=True).first()
    if shown is None:
        return False  # nobody can be missing who was never here
    return _signs[name].age(shown, clock.monotonic() if now is None else now) >= patience(name)


def _raise(name: str) -> bool:
    """Raise the alarm, unless somebody has."""
    with transaction.atomic():
        mine = Pulse.objects.filter(~Q(data__has_key="silent"), name=name).update(data={"silent": True})
        if mine:
            outbox.escalate(**_SILENT[name], severity="critical", dedupe=_once("silent", name))
    return bool(mine)


def _once(what: str, name: str) -> str:
    """Return the name of this one message; it is the row's update that keeps it from being two."""
    return f"{what}:{name}:{journal.database_now():%Y-%m-%dT%H:%M:%S.%f}"


_SILENT: dict[str, Words] = {
    BEAT: {
        "what": "Beat is silent: nothing asks for the regular round any more, except the workers themselves.",
        "why": "its process has ended or hangs.",
        "machine": "the workers go round by themselves, so schedules and waits still come in time.",
        "do": "start the beat process again; that is all it takes.",
    },
    SWEEP: {
        "what": "The workers are silent: no procedure goes on.",
        "why": "no worker has made its round; they have ended, hang, or do not hear from Redis.",
        "machine": "nothing; no run is lost, and all go on when a worker is back.",
        "do": "start the workers again, and see whether Redis and the database answer.",
    },
}
_BACK: dict[str, Words] = {
    BEAT: {
        "what": "Beat is back.",
        "why": "it has given a sign of life.",
        "machine": "everything as usual.",
        "do": "nothing.",
    },
    SWEEP: {
        "what": "The workers are back.",
        "why": "one has made its round.",
        "machine": "what has become due meanwhile is done now, the most urgent first.",
        "do": "nothing.",
    },
}


class Lookout(threading.Thread):
    """Looks for the workers from within beat, until its process ends."""

    def __init__(self, look: Callable[[], object] = look_for_workers) -> None:
        super().__init__(name="lookout", daemon=True)
        self._look = look
        self._over = threading.Event()

    def run(self) -> None:
        """Look once in each period; a database that is away costs this look, not the next."""
        while not self._over.wait(max(settings.ENGINE_SWEEP, 1.0)):
            try:
                self._look()
            except DatabaseError as error:
                log.warning("could not look for the workers: %s", journal.sqlstate(error))
            except Exception as error:
                log.exception("could not look for the workers: %s", type(error).__name__)
            finally:
                connection.close()

    def stop(self) -> None:
        """End after the present look."""
        self._over.set()
