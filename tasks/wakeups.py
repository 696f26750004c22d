"""Wake-ups: how somebody is told that a row may be due. They carry no work and no data.

With Redis a wake-up is a Celery message; without it, a flag that the drain loop of this process
reads. Losing one costs at most one sweep period, so sending one may never fail its caller.
"""

import logging
import os
import threading
import time

from celery import current_app
from django.conf import settings
from django.db import transaction

DRAIN = "engine.drain"
SWEEP = "engine.sweep"
MOMENT = 0.1  # seconds between two wake-ups of `wake_soon`
EXPIRES = 600  # seconds; after a long backlog old wake-ups evaporate, the sweep makes new ones

log = logging.getLogger(__name__)
_flag = threading.Event()
_thread: "_Sender | None" = None
_one_at_a_time = threading.Lock()


def wake(count: int = 1) -> None:
    """Send `count` wake-ups once the present transaction is committed; never raises."""

    def send() -> None:  # a plain function: on_commit cannot name a partial when it logs an error
        _send(DRAIN, count, EXPIRES)

    transaction.on_commit(send, robust=True)


def wake_soon() -> None:
    """Send one wake-up soon after the present transaction is committed; never raises and never waits.

    For who is asked often and must answer fast: what is asked for while one is being sent is one more.
    """

    def ask() -> None:
        _flag.set()
        if settings.REDIS_URL:
            _sender().asked.set()

    transaction.on_commit(ask, robust=True)


class _Sender(threading.Thread):
    """Sends wake-ups for this process; what it has not sent when the process ends, the sweep makes good."""

    def __init__(self) -> None:
        super().__init__(name="wake-ups", daemon=True)
        self.asked = threading.Event()
        self.process = os.getpid()

    def run(self) -> None:
        """Send one for all that have asked, wait a moment, and again."""
        while True:
            self.asked.wait()
            self.asked.clear()  # before it is sent: who asks from now on gets another one
            _send(DRAIN, 1, EXPIRES)
            time.sleep(MOMENT)


def _sender() -> _Sender:
    """Return the thread of this process; a forked process has none of its parent's."""
    global _thread
    with _one_at_a_time:
        if _thread is None or _thread.process != os.getpid() or not _thread.is_alive():
            _thread = _Sender()
            _thread.start()
        return _thread


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
