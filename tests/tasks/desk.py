"""The desk of SOPs 4 to 6: a firm whose CRM has nobody but whom a test enters, hour after hour."""

from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from pytest_django import Settings

from crm.mock.state import MockState
from tasks import approvals, engine
from tasks.models import Approval, Task
from tests.tasks.shop import Shop, shop, story

ENTITIES = ("customers", "invoices", "quotes", "appointments", "notes")


class Desk:
    """What a test of these SOPs does, and what it sees."""

    def __init__(self, firm: Shop) -> None:
        self.firm = firm

    @property
    def settings(self) -> Settings:
        """The settings of the firm."""
        return self.firm.settings

    @property
    def state(self) -> MockState:
        """What stands in the CRM."""
        return self.firm.state

    def at(self, text: str) -> None:
        """Move every clock to this moment of the business, such as 2027-03-08T08:00, and do what is due."""
        self.firm.at(*text.split("T"))

    def publish(self, *slugs: str) -> None:
        """Publish these shipped SOPs."""
        self.firm.publish(*slugs)

    def start(self, slug: str, **inputs: Any) -> None:
        """Start a run by hand, and let it go as far as it can."""
        self.firm.started(slug, **inputs)

    # -- the CRM -----------------------------------------------------------------------------------

    def put(self, entity: str, *rows: dict[str, Any]) -> None:
        """Put rows into the CRM, in place of those that have the same id."""
        self.state.load(entity, rows)

    def customer(self, number: int, **fields: Any) -> str:
        """Put a customer into the CRM and return the id."""
        row = {"id": f"cus_{number:04}", "name": f"Ada {number}", "email": f"ada{number}@example.com"}
        self.put("customers", {**row, "status": "active", **fields})
        return row["id"]

    def invoice(self, number: int, customer: str, due: str, amount: float = 420.0, **fields: Any) -> str:
        """Put an open invoice into the CRM and return the id."""
        row = {"id": f"inv_{number}", "number": f"INV-{number}", "customer_id": customer}
        money = {"amount_due": amount, "currency": "USD", "status": "open", "paid_at": None}
        self.put("invoices", {**row, "due_date": due, **money, **fields})
        return str(row["id"])

    # -- people ------------------------------------------------------------------------------------

    def questions(self) -> list[Approval]:
        """Return the open questions."""
        return self.firm.questions()

    def drafts(self) -> list[dict[str, str]]:
        """Return what the open questions would send."""
        return [draft for one in self.questions() if (draft := approvals.draft_of(one)) is not None]

    def answer(self, choice: str = "approve", **edited: str) -> None:
        """Answer the only open question, and let the run go on."""
        self.firm.question()
        self.firm.answer(choice, edited=edited or None)

    def approve(self, question: Approval) -> None:
        """Say yes to one question, and let the run go on."""
        approvals.answer(question.pk, "approve", by=None)
        self.firm.work()

    def resume(self) -> None:
        """Let the runs go on that were held until the CRM is back."""
        held = Task.objects.filter(status="waiting", waiting_for__startswith="provider:")
        engine.signal([run.pk for run in held], "retry")
        self.firm.work()

    # -- what is seen ------------------------------------------------------------------------------

    def letters(self) -> list[EmailMessage]:
        """Return the mails that left, oldest first."""
        return self.firm.mails()

    def runs(self, slug: str) -> list[Task]:
        """Return the runs of a SOP, oldest first."""
        return self.firm.runs(slug)

    def results(self, slug: str) -> list[str]:
        """Return what the runs of a SOP have come to, sorted; an open one has its status."""
        return sorted(self.firm.results(slug).elements())

    def told(self, channel: str) -> list[str]:
        """Return what was posted in a channel, oldest first, without questions."""
        return [text for text in self.firm.posts(channel) if text not in self.firm.posts(channel, "approval")]

    def notes(self, customer: str) -> list[str]:
        """Return the notes in a customer's file."""
        return self.firm.notes(customer)

    def story(self, run: Task) -> str:
        """Return what is told of a run."""
        return story(run)


@contextmanager
def set_out(kind: str, settings: Settings, folder: Path) -> Iterator[Desk]:
    """Lay out a desk whose CRM, of this kind, has nobody yet."""
    settings.REVIEW_LINK = "https://reviews.example.com/us?place=1"
    with shop(kind, settings, folder / "mail") as firm:
        for entity in ENTITIES:
            for row in firm.state.rows(entity):
                firm.state.remove(entity, row["id"])
        yield Desk(firm)
