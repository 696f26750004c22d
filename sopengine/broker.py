"""Redis as the broker, for a worker that lives through what it cannot read.

Whatever lies in the queue and is no message of Celery's would end the worker, and with it every step
that it has in flight.
"""

import logging
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):
    """Drops what is no message, and says so."""

    # A wake-up that was fetched and not begun is lost with its connection: the sweep makes a new one.
    # Putting it back over a connection that has just broken can end the worker instead.
    do_restore = False

    def _brpop_read(self, **options: Any) -> bool:
        try:
            taken: bool = super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.error("dropped from the queue, as it is no message: %s", type(error).__name__)
            raise Empty from None
        return taken


class Transport(redis.Transport):
    """Kombu's own, with our channel."""

    Channel = Channel


def use() -> None:
    """Let every Redis address lead here."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
