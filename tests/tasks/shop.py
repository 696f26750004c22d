"""A firm in one process, with a clock that the test moves, for the stories of the shipped SOPs.

Its CRM is the mock of this process, or one that is served over HTTP and reached by the REST provider;
its mail goes to a folder. Hours are those of the wall clock in Chicago.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pytest_django import Settings

from crm import health
from crm.mock.scenario import Scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.providers.mock import forget_state, shared_state
from tasks import approvals, definition, engine, events, journal, plan, timeline
from tasks.models import Approval, Sop, Task
from tasks.sweep import sweep
from tasks.transports import Message, Transport, load_transports, transports
from tests.length import SOAK

CHICAGO = ZoneInfo("America/Chicago")
# The provider in this process is so much like the served one that it takes its turn at full length only.
CRMS = ("mock", "rest") if SOAK else ("rest",)
KEY = "shop-key-1"


class Shop:
    """The firm: what stands in its CRM, what leaves it, and what is asked in it."""

    def __init__(self, settings: Settings, state: MockState, folder: Path) -> None:
        self.settings, self.state, self.folder = settings, state, folder
        settings.EMAIL_FOLDER = str(folder)
        settings.CLOCK_OFFSET_FILE = ""
        settings.BUSINESS_NAME = "Green Lawns"
        settings.BUSINESS_ADDRESS = "1 Main St, Minneapolis, MN 55401"
        settings.BUSINESS_DAYS = settings.SENDING_DAYS = tuple(range(5))
        settings.BUSINESS_HOURS = settings.SENDING_HOURS = (9 * 60, 18 * 60)
        settings.QUIET_HOURS = (20 * 60, 8 * 60)
        settings.HOLIDAYS = ["new_year", "memorial", "independence", "labor", "thanksgiving", "christmas"]
        settings.MAIL_IN = True
        settings.TIME_ZONE = "America/Chicago"
        settings.CHAT = "shop"
        self.chat: list[Message] = []
        plan.forget()

    # -- the clock -----------------------------------------------------------------------------

    def at(self, day: str, hour: str = "09:00") -> "Shop":
        """Move every clock to this hour, such as "2027-02-15", "09:00", and do what is due then."""
        moment = datetime.fromisoformat(f"{day}T{hour}").replace(tzinfo=CHICAGO)
        self.settings.CLOCK_OFFSET = (moment - datetime.now(UTC)).total_seconds() + 0.05
        health.forget()
        return self.work()

    def work(self) -> "Shop":
        """Do what is due, until nothing is."""
        for _ in range(200):
            sweep(force=True)
            if not engine.drain().steps and not journal.due_count():
                return self
        raise AssertionError("the firm does not come to rest")

    # -- procedures ----------------------------------------------------------------------------

    def publish(self, *slugs: str) -> None:
        """Publish shipped SOPs."""
        files = {path.stem: path for path in definition.shipped()}
        for slug in slugs:
            definition.publish(definition.save_rows(definition.read_file(files[slug])))

    def runs(self, slug: str) -> list[Task]:
        """Return the runs of a SOP, oldest first."""
        rows = Task.objects.filter(version__sop__slug=slug).select_related("version__sop")
        return list(rows.order_by("created_at", "pk"))

    def run(self, slug: str) -> Task:
        """Return the only run of a SOP."""
        (only,) = self.runs(slug)
        return only

    def results(self, slug: str) -> Counter[str]:
        """Return what the runs of a SOP have come to; one that goes on counts as its status."""
        over = ("completed", "cancelled")
        return Counter(task.result if task.status in over else task.status for task in self.runs(slug))

    def about(self, slug: str, customer: str) -> Task:
        """Return the only run of a SOP about this customer."""
        (only,) = [task for task in self.runs(slug) if task.context.get("crm_customer_id") == customer]
        return only

    def hears(self, name: str, id_: str = "", task: Task | None = None, **data: Any) -> int:
        """Let something happen outside."""
        whose = None if task is None else task.pk
        taken = events.receive(events.Event(name, id_ or f"{name}-1", data, "tests", whose)).runs
        self.work()
        return taken

    def started(self, slug: str, **inputs: Any) -> Task:
        """Start a run by hand, and do what is due."""
        version = Sop.objects.get(slug=slug).published
        assert version is not None
        task = engine.start(version, inputs, slot=journal.database_now())
        assert task is not None
        self.work()
        return Task.objects.get(pk=task.pk)

    # -- people --------------------------------------------------------------------------------

    def questions(self, slug: str = "") -> list[Approval]:
        """Return the open questions, those of one SOP if it is named."""
        rows = Approval.objects.filter(state="open").select_related("task__version__sop")
        found = [row for row in rows if slug in ("", row.task.version.sop.slug)]
        return sorted(found, key=lambda row: str(row.task.context.get("crm_customer_id")))

    def question(self, slug: str = "") -> Approval:
        """Return the only open question."""
        (only,) = self.questions(slug)
        return only

    def answer(self, choice: str, slug: str = "", *, edited: Mapping[str, str] | None = None) -> None:
        """Give this answer to every open question of the SOP, and do what is due."""
        for question in self.questions(slug):
            approvals.answer(question.pk, choice, by=None, edited=edited)
        self.work()

    def asked(self, question: Approval) -> str:
        """Return what a question says."""
        told = approvals.draft_of(Approval.objects.get(pk=question.pk))
        assert told is not None
        return told["question"]

    # -- what can be seen from outside -----------------------------------------------------------

    def mails(self) -> list[EmailMessage]:
        """Return the mails that have left, in the order in which they did."""
        files = sorted(self.folder.glob("*.eml"), key=lambda path: path.stat().st_mtime_ns)
        return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in files]

    def recipients(self) -> Counter[str]:
        """Return how many mails each address has got."""
        return Counter(str(mail["To"]) for mail in self.mails())

    def posts(self, channel: str, kind: str = "") -> list[str]:
        """Return what staff have read in a channel, oldest first."""
        return [
            message.text for message in self.chat if message.channel == channel and kind in ("", message.kind)
        ]

    def notes(self, customer: str) -> list[str]:
        """Return the notes in a customer's file."""
        return [str(row["text"]) for row in self.state.rows("notes") if row["customer_id"] == customer]

    def customer(self, id_: str) -> dict[str, Any]:
        """Return a customer as the CRM has it."""
        return next(row for row in self.state.rows("customers") if row["id"] == id_)

    def crm_calls(self) -> int:
        """Return how many operations the CRM has seen."""
        return len(self.state.journal())


def story(task: Task) -> str:
    """Return what staff read of a run."""
    return "\n".join(line.text for line in timeline.sentences(Task.objects.get(pk=task.pk)))


def wakes(task: Task) -> str:
    """Return when a run goes on, on the wall clock: "Mon 22 Feb 09:00 CST"."""
    hour = Task.objects.get(pk=task.pk).wake_at
    assert hour is not None, "the run has no hour"
    # A row keeps milliseconds at least; an opening is a whole minute.
    local = (hour + timedelta(milliseconds=1)).astimezone(CHICAGO)
    return f"{local:%a} {local.day} {local:%b %H:%M %Z}"


@contextmanager
def shop(crm: str, settings: Settings, folder: Path, **scenario: Any) -> Iterator[Shop]:
    """Give a firm whose CRM is the mock of this process, or ("rest") one over HTTP."""
    forget_state()
    health.forget()
    if crm == "mock":
        with _chat(Shop(settings, shared_state(), folder)) as firm:
            yield firm
        forget_state()
        return
    server = MockServer(MockState(), 0, 0.0, Scenario.model_validate({"api_key": KEY, **scenario}))
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    settings.CRM_PROVIDER, settings.CRM_BASE_URL, settings.CRM_API_KEY = "rest", server.url, KEY
    try:
        with _chat(Shop(settings, server.state, folder)) as firm:
            yield firm
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _chat(firm: Shop) -> Iterator[Shop]:
    """Let the firm's chat be a list of messages."""

    class ToTheShop(Transport):
        pace = 0.0

        def post(self, message: Message) -> str:
            firm.chat.append(message)
            return message.id

    load_transports()
    transports.register("shop")(ToTheShop)
    yield firm
    transports.remove("shop")
