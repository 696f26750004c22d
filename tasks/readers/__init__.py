"""Readers: what a delivery says. One file each, found by its name.

A reader looks at a body twice: when it comes in, only to find the sender's own id of it and to refuse
what is not even of its form; and when it is processed, to say which events it tells of. It may act
for itself, too; it is then asked again after a failure, so that what it does must bear a repeat.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sopengine.registry import Registry
from tasks.events import Event


@dataclass(frozen=True, slots=True)
class Received:
    """A stored delivery: its raw body and the Content-Type it came with, "" when it had none."""

    id: UUID
    source: str
    external_id: str
    at: datetime
    kind: str
    body: bytes = field(repr=False)


class Reader(ABC):
    """Reads the bodies of one kind of sender. `takes` are the media types it reads.

    One that `hears_mail` tells what came to the firm's mailbox, answers to our own mail among it.
    """

    takes: frozenset[str] = frozenset()
    hears_mail = False

    def look(self, raw: bytes, kind: str) -> str:
        """Return the sender's own id of a body that just came, "" without one; ValueError if it is none."""
        return ""

    @abstractmethod
    def read(self, received: Received) -> Sequence[Event]:
        """Return the events that the body tells of; DataError where it cannot be understood."""


readers: Registry[type[Reader]] = Registry("reader")


def media_type(kind: str) -> str:
    """Return the media type in a Content-Type, in lower case and without its parameters."""
    return kind.partition(";")[0].strip().lower()
