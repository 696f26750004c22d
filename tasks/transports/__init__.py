"""Chat products: one file each. A transport posts one message to staff and knows nothing else.

@transports.register("pager")
class Pager(Transport):
    def post(self, message: Message) -> str: ...

The words of a message may have been a customer's: a transport escapes them as its product needs,
so that they mention nobody and lead nowhere. The only links are `link` and those of the cards.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from django.conf import settings

from sopengine.registry import Registry


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer that a card offers. `style`: approve, decline, edit (needs the new text), or ""."""

    key: str
    label: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One question in a message: what is asked, whom it is about in `lines`, and what may be answered.

    `decided` says who decided what and when; while it is "", the question is open. `link` opens it.
    """

    approval_id: str
    title: str
    lines: tuple[str, ...]
    options: tuple[Choice, ...]
    link: str
    decided: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message to staff, written `at`. `id` is the same at every try; `link` opens what it is about.

    `kind`: info, approval, update, reminder, escalation ... `severity`: info, warning, error, critical.
    `reference` is the short id by which staff and logs name the run, "" when it is about none.
    `task_thread` is what `post` returned for the run's first message in this channel, "" for that one
    itself. `count` is how many equal alerts it stands for, `batch` the questions that it lists.
    With a `recipient`, the chat's own id of a person, it is for that one alone. An update `replaces`
    the message with this id.
    """

    id: str
    text: str
    channel: str
    kind: str
    severity: str
    link: str
    reference: str
    at: datetime
    task_thread: str = ""
    count: int = 1
    batch: tuple[Card, ...] = ()
    recipient: str = ""
    replaces: str = ""


class Transport(ABC):
    """One chat product.

    `threads`: it keeps the messages of one run together, and shows a changed message in its old place.
    `pace` is how many seconds the product wants between two messages in one channel, 0 for none.
    """

    threads = False
    pace = 1.0

    def problem(self) -> str:
        """Return what this transport lacks before it can post, and where to set it; "" for nothing."""
        return ""

    @abstractmethod
    def post(self, message: Message) -> str:
        """Post the message once and return the product's own id for it, or raise a StepError."""

    def update(self, reference: str, message: Message) -> None:
        """Let `message` take the place of the one that `post` gave this id; by default it is posted anew."""
        self.post(message)


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
