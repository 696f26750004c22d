"""Chat products: one file each. A transport posts one message to staff and knows nothing else.

@transports.register("pager")
class Pager(Transport):
    def post(self, message: Message) -> str: ...
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from django.conf import settings

from sopengine.registry import Registry


@dataclass(frozen=True, slots=True)
class Message:
    """One message to staff, written `at`. `id` is the same at every try; `link` opens what it is about.

    `kind`: info, approval, reminder, escalation ... `severity`: info, warning, error, critical.
    `reference` is the short id by which staff and logs name the run, "" when it is about none.
    """

    id: str
    text: str
    channel: str
    kind: str
    severity: str
    link: str
    reference: str
    at: datetime


class Transport(ABC):
    """One chat product."""

    def problem(self) -> str:
        """Return what this transport lacks before it can post, and where to set it; "" for nothing."""
        return ""

    @abstractmethod
    def post(self, message: Message) -> str:
        """Post the message once and return the product's own id for it, or raise a StepError."""


transports: Registry[type[Transport]] = Registry("chat transport")


@cache
def load_transports() -> None:
    """Import the shipped transports and those of settings.PLUGINS, which register themselves."""
    for package in (__name__, *settings.PLUGINS):
        transports.load(package)


def open_transport() -> Transport:
    """Return the transport that settings.CHAT names; UnknownName lists those there are."""
    load_transports()
    return transports.get(settings.CHAT)()
