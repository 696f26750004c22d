"""Whose turn it is to enter a person into the CRM: two runs that hear of one person make no double.

    with newcomers.turn(["ada@example.com", "+16125550134"], key, deadline) as mine:
        ...                      look, and create whom the CRM does not have
        mine.entered()           after a create

A turn is a short lease on a keyed hash of each address and number, taken by one conditional UPDATE
before the search and given back after the create; no transaction is open meanwhile. Who finds it taken
waits, within its deadline. A turn ends by itself when its holder dies; under one key it may be taken
again, and what its holder cannot tell keeps it: the CRM may still be taking what was sent.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import DateTimeField, ExpressionWrapper, Q, QuerySet
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from credentials import vault
from credentials.threads import own_connection
from crm.models import Newcomer
from sopengine import clock
from sopengine.errors import StepError, Transient
from sopengine.http import Deadline

log = logging.getLogger("crm")

_SPARE = 5.0  # seconds beyond the deadline of its step that a turn lasts
_LOOKS = (0.02, 0.25)  # seconds between two looks at a turn that another one has: first and longest
_KEPT = timedelta(days=1)  # so long it is known who was entered by whom


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one run, as long as it is inside `turn`."""

    people: tuple[str, ...]
    mark: str
    entered_by: frozenset[str]

    def entered(self) -> None:
        """Note that the CRM has this person now, and from whom."""
        with _noting():
            _of(self.people, self.mark).update(entered_by=self.mark)
            prune(clock.now() - _KEPT)

    def is_ours(self) -> bool | None:
        """Say whether an earlier try under this key has entered the person; None when nobody knows."""
        return self.mark in self.entered_by if self.entered_by else None


@contextmanager
def turn(people: Iterable[str], key: str, deadline: Deadline | None) -> Iterator[Turn]:
    """Let nobody else enter these people meanwhile; Transient (nothing sent) when it is not free in time."""
    mark = hashlib.sha256(key.encode()).hexdigest()[:32]
    hashes = tuple(sorted({vault.fingerprint(f"newcomer:{person}") for person in people}))
    with own_connection():
        _wait_for(hashes, mark, deadline)
        entered_by = frozenset(_of(hashes, mark).exclude(entered_by="").values_list("entered_by", flat=True))
    try:
        yield Turn(hashes, mark, entered_by)
    except StepError as error:
        if error.sent == "no":
            _give_back(hashes, mark)
        raise
    _give_back(hashes, mark)


def prune(before: datetime) -> None:
    """Forget who was entered, or was to be, before this."""
    Newcomer.objects.filter(until__lt=before).delete()


def _wait_for(people: tuple[str, ...], mark: str, deadline: Deadline | None) -> None:
    ends, step = clock.monotonic() + settings.ENGINE_CALL_TIMEOUT, _LOOKS[0]
    while not _taken(people, mark, deadline):
        left = ends - clock.monotonic()
        left = min(left, deadline.remaining()) if deadline else left
        if left <= 0:
            raise Transient("another run is entering the same person", code="entering", sent="no")
        time.sleep(min(step, left))
        step = min(step * 1.5, _LOOKS[1])


def _taken(people: tuple[str, ...], mark: str, deadline: Deadline | None) -> bool:
    """Take the turn of all of them, in their order, or of none."""
    until = _now(_seconds(deadline))
    for number, person in enumerate(people):
        if not _take(person, mark, until):
            _free(people[:number], mark)
            return False
    return True


def _take(person: str, mark: str, until: Combinable) -> bool:
    """Take one turn if it is free; committed at once, so that everybody sees it."""
    free = Q(until__lte=_now()) | Q(mark=mark)
    rows = Newcomer.objects.filter(person=person)
    with transaction.atomic(durable=True):
        if rows.filter(free).update(mark=mark, until=until):
            return True
        Newcomer.objects.bulk_create(
            [Newcomer(person=person, until=clock.now() - _KEPT)], ignore_conflicts=True
        )
        return bool(rows.filter(free).update(mark=mark, until=until))


def _give_back(people: tuple[str, ...], mark: str) -> None:
    with _noting():
        _free(people, mark)


def _free(people: tuple[str, ...], mark: str) -> None:
    """End these turns; only who was entered is remembered for a while."""
    rows = _of(people, mark)
    rows.filter(entered_by="").delete()
    rows.update(mark="", until=_now())


def _of(people: tuple[str, ...], mark: str) -> "QuerySet[Newcomer]":
    return Newcomer.objects.filter(person__in=people, mark=mark)


def _seconds(deadline: Deadline | None) -> float:
    """Return how long a turn lasts: no call of its step goes on for longer."""
    return (deadline.remaining() if deadline else settings.ENGINE_DEADLINE) + _SPARE


def _now(plus: float = 0.0) -> Combinable:
    """Return the moved clock of the database, `plus` seconds on, as an expression."""
    moved = Now() + timedelta(seconds=clock.offset() + plus)
    return ExpressionWrapper(moved, output_field=DateTimeField())


@contextmanager
def _noting() -> Iterator[None]:
    """Write what is nice to have: without it a turn ends by itself, and the CRM's answer is not lost."""
    try:
        with own_connection():
            yield
    except (OperationalError, InterfaceError):
        log.warning("a turn was not given back: the database is away")
