"""The engine inside one process: no broker, no worker. For development, the demo and one small machine."""

import logging
import threading
from types import TracebackType
from typing import Self

from django.conf import settings
from django.db import DatabaseError, connection

from tasks import deliveries, engine, wakeups
from tasks.sweep import sweep

log = logging.getLogger(__name__)
PAUSE = 1.0  # seconds between two looks at what has become due, when nobody wakes us


class DrainLoop(threading.Thread):
    """Drains and sweeps in a thread of its own, until it is stopped or its process ends."""

    def __init__(self) -> None:
        super().__init__(name="drain-loop", daemon=True)
        self._over = threading.Event()

    def run(self) -> None:
        """Drain what is due, sweep, wait for a wake-up or a second, and again."""
        try:
            while not self._over.is_set():
                if not self._round() and not self._over.is_set():
                    wakeups.wait(min(PAUSE, settings.ENGINE_SWEEP))
        finally:
            connection.close()

    def stop(self, within: float = 10.0) -> bool:
        """Ask the loop to end, wait at most `within` seconds, and return whether it has ended.

        What it holds then goes back with its lease.
        """
        self._over.set()
        wakeups.wake(0)
        if self.is_alive():
            self.join(within)
        return not self.is_alive()

    def _round(self) -> bool:
        """Work once; return whether there is more. A database that is away costs a pause, not the loop."""
        try:
            deliveries.process()
            report = engine.drain(stop=self._over.is_set)
            sweep()
        except DatabaseError as error:
            log.warning("the database did not answer: %s", type(error).__name__)
            connection.close()
            return False
        except Exception as error:  # a bug must not end the engine of a site that stays up
            log.exception("the round was given up: %s", type(error).__name__)
            return False
        return report.more

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
