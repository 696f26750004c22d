"""Wake-ups: how somebody is told that a row may be due. They carry no work and no data.

With Redis a wake-up is a Celery message; without it, a flag that the drain loop of this process
reads. Losing one costs at most one sweep period, so sending one may never fail its caller.
"""

import logging
import threading

from celery import current_app
from django.conf import settings
from django.db import transaction

DRAIN = "engine.drain"
SWEEP = "engine.sweep"
EXPIRES = 600  # seconds; after a long backlog old wake-ups evaporate, the sweep makes new ones

log = logging.getLogger(__name__)
_flag = threading.Event()


def wake(count: int = 1) -> None:
    """Send `count` wake-ups once the present transaction is committed; never raises."""

    def send() -> None:  # a plain function: on_commit cannot name a partial when it logs an error
        _send(DRAIN, count, EXPIRES)

    transaction.on_commit(send, robust=True)


def wait(timeout: float) -> bool:
    """Wait in this process for a wake-up, at most `timeout` seconds; return whether one came."""
    came = _flag.wait(timeout)
    _flag.clear()
    return came


def _send(name: str, count: int, expires: float) -> None:
    _flag.set()
    if not settings.REDIS_URL:
        return
    try:
        for _ in range(count):
            current_app.send_task(name, expires=expires, ignore_result=True, retry=False)
    except Exception as error:  # the broker may be gone in any way: the sweep heals it
        log.warning("wake-up not sent: %s", type(error).__name__)
