"""Webhooks in: the address where others tell us what happened, and what becomes of it.

A delivery is answered once it is stored, and read afterwards: by a drain that its wake-up asks for, or
by the sweep. What it tells is done in the transaction that marks it processed, so that a worker that
dies does it again or not at all.
"""

import logging
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from sopengine import inbox
from sopengine.errors import DataError, Permanent, StepError
from sopengine.models import Delivery
from sopengine.registry import UnknownName
from tasks import events, journal, notices, wakeups
from tasks.readers import Reader, Received, media_type, readers

LEASE = timedelta(minutes=2)  # longer than a reader may take
WAITS = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 3600))  # before another try
LONGEST_KIND = 200

Answered = tuple[events.Event, events.Heard]

_CHALLENGES = ("challenge", "hub.challenge")
_PLAIN = re.compile(r"[A-Za-z0-9_.:=-]{1,200}")

log = logging.getLogger(__name__)


class _Lost(Exception):
    """Another process has processed the delivery meanwhile."""


# -- at the address --------------------------------------------------------------------------------


@csrf_exempt
def hook(request: HttpRequest, source: str) -> HttpResponse:
    """Store what a known source posts, and say so; answer its challenge."""
    if source not in settings.HOOKS:
        return _answer(404, "There is no such source.")
    if request.method == "GET":
        return _challenge(request)
    if request.method != "POST":
        response = _answer(405, "Only POST, and GET with a challenge.")
        response["Allow"] = "GET, POST"
        return response
    try:
        delivery, fresh = _take(request, source)
    except inbox.NotTaken as error:
        return _answer(error.status, str(error))
    if fresh:
        wakeups.wake_soon()
    return JsonResponse({"status": "accepted" if fresh else "repeated", "id": str(delivery.pk)}, status=202)


def _take(request: HttpRequest, source: str) -> tuple[Delivery, bool]:
    """Return the stored delivery and whether it is new, or raise NotTaken."""
    scheme, name = settings.HOOKS[source]
    kind = request.META.get("CONTENT_TYPE", "")[:LONGEST_KIND]
    try:
        reader = readers.get(name)()
    except UnknownName as error:
        log.error("deliveries from %s cannot be read: %s", source, error)
        raise inbox.NotTaken(503, "Nothing can be taken now; try again later.") from None
    if not _takes(reader, kind):
        raise inbox.NotTaken(415, f"Expected {' or '.join(sorted(filter(None, reader.takes)))}.")
    raw, signed_id = inbox.take(request, source, scheme)
    try:
        own_id = reader.look(raw, kind)
    except ValueError as error:
        raise inbox.NotTaken(400, f"The body cannot be taken: {error}.") from None
    try:
        return inbox.store(source, signed_id or own_id or inbox.id_of(raw), raw, headers={"type": kind})
    except inbox.DeliveryRefused as error:
        _tell_refused(source, error)
        raise inbox.NotTaken(error.status, str(error)) from None


def _takes(reader: Reader, kind: str) -> bool:
    media = media_type(kind)
    as_json = "application/json" in reader.takes and media.startswith("application/")
    return media in reader.takes or (as_json and media.endswith("+json"))


def _challenge(request: HttpRequest) -> HttpResponse:
    """Say back what the sender asks to hear when it is told of our address."""
    asked = next((request.GET[name] for name in _CHALLENGES if name in request.GET), "")
    if not _PLAIN.fullmatch(asked):
        return _answer(400, "Expected ?challenge= with at most 200 letters, digits and _ . : = -")
    return _answer(200, asked)


def _answer(status: int, text: str) -> HttpResponse:
    response = HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")
    response["Cache-Control"] = "no-store"
    return response


def _tell_refused(source: str, error: inbox.DeliveryRefused) -> None:
    log.warning("delivery refused: %s", error)
    if error.status == 409:
        notices.escalate(
            what=f"{source} sent two different deliveries under one id.",
            why="an id stands for one delivery; the second one was refused.",
            machine="the first one stands.",
            do="ask whoever runs the other side what its id means.",
            severity="warning",
            fold=f"delivery:{source}:conflict",
        )


# -- afterwards --------------------------------------------------------------------------------------


def process(limit: int = 100) -> int:
    """Process what is due, at most `limit`, and return how many deliveries that were. Never raises."""
    done = 0
    try:
        for delivery in inbox.due(limit):
            if inbox.claim(delivery, LEASE):
                done += _process(delivery)
    except DatabaseError as error:
        log.error("the inbox stopped: SQLSTATE %s", journal.sqlstate(error))
    return done


def _process(delivery: Delivery) -> bool:
    """Do what one claimed delivery tells; what goes wrong costs a try."""
    try:
        if delivery.attempts > len(WAITS) + 1:
            raise Permanent("it stopped whoever processed it", code="worker_lost")
        told = list(_reader(delivery.source).read(_received(delivery)))
        with transaction.atomic():
            heard = [(event, events.receive(event)) for event in told]
            if not _closed(delivery, heard):
                raise _Lost
            _tell_unheard(delivery.source, heard)
    except _Lost:
        log.info("delivery %s: another process was faster", delivery.pk)
    except Exception as error:  # a broken reader or body must not keep the others
        _failed(delivery, error)
        return False
    return True


def _closed(delivery: Delivery, heard: Sequence[Answered]) -> bool:
    """End the delivery; what started nothing though it should, or nobody has read, keeps its body."""
    codes = _codes([event for event, _ in heard])
    if any(one.refused for _, one in heard):
        return inbox.failed(delivery, "not_started", headers=codes)
    if any(event.words and not one.wanted for event, one in heard):
        return inbox.failed(delivery, "nobody_listens", headers=codes)
    return inbox.processed(delivery, headers=codes)


def _tell_unheard(source: str, heard: Sequence[Answered]) -> None:
    """Tell staff of events for which there is no procedure: of others' words each day, else once."""
    for event, one in heard:
        if one.wanted:
            continue
        day = f":{journal.database_now():%Y-%m-%d}" if event.words else ""
        notices.escalate(
            what=f"{source} has told of “{event.name}”, and no procedure listens.",
            why="none that is published begins with this event, or waits for it.",
            machine="nothing; what came is kept for seven days." if event.words else "nothing.",
            do=(
                "publish a procedure that begins with it, then process it anew under Webhooks in."
                if event.words
                else "see whether the name is right; else let the other side not send it."
            ),
            severity="warning",
            dedupe=f"unheard{day}:{source}:{event.name}"[:120],
        )


def _reader(source: str) -> Reader:
    """Return what reads this source: as settings.HOOKS says, else the reader of its own name."""
    name = settings.HOOKS.get(source, ("", source))[1]
    return readers.get(name)()


def _received(delivery: Delivery) -> Received:
    return Received(
        id=delivery.pk,
        source=delivery.source,
        external_id=delivery.external_id,
        at=delivery.received_at,
        kind=str(delivery.headers.get("type", "")),
        body=inbox.body_of(delivery),
    )


def _codes(told: list[events.Event]) -> dict[str, Any]:
    """Return what is kept of a delivery: which event it was, what it was about and when, all codes."""
    for event in told:
        if about := event.about():
            return {"event": event.name, "about": about, "at": event.at.isoformat() if event.at else ""}
    return {}


def _failed(delivery: Delivery, error: Exception) -> None:
    """Try again later, or give up and tell staff: at once where another try would end the same."""
    code = _code(error)
    gone = type(error) is LookupError  # its body is
    final = gone or isinstance(error, DataError | Permanent | UnknownName)
    if not final and delivery.attempts <= len(WAITS):
        log.warning("delivery %s from %s not processed: %s", delivery.pk, delivery.source, code)
        inbox.again(delivery, WAITS[delivery.attempts - 1], code)
        return
    log.error("delivery %s from %s given up: %s", delivery.pk, delivery.source, code)
    if inbox.failed(delivery, code):
        notices.escalate(
            what=f"A delivery from {delivery.source} could not be processed.",
            why=f"{error.message if isinstance(error, StepError) else code}.",
            machine="nothing; it is kept for seven days.",
            do="correct what is wrong and let it be processed again, under Deliveries in the admin.",
            fold=f"delivery:{delivery.source}:{code}",
        )


def _code(error: Exception) -> str:
    if isinstance(error, UnknownName):
        return "no_reader"
    if isinstance(error, StepError):
        return error.reason
    return journal.sqlstate(error) if isinstance(error, DatabaseError) else type(error).__name__
