"""The demo: the shipped campaign on the mock CRM, from its schedule to its mails, and what it came to.

Nothing here is real but the engine: the customers are the mock's, mail goes to a folder. What the
summary says is read back from the journal of the mock CRM and from that folder.
"""

import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Literal
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.management import call_command
from django.db.models import Q

from crm.mock.state import MockState
from sopengine import clock
from tasks import approvals, definition, journal, sending, triggers
from tasks.models import Approval, Notification, Sop, Task

CAMPAIGN = "past-customer-reactivation"
USER = "demo"
STATE = ("demo.sqlite3", "crm-mock.sqlite3")
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that reads like something else
PATIENCE = 120.0  # seconds until a campaign that still moves is called stuck

Choice = Literal["approve", "decline", "leave", "but-one"]
Status = Task.Status
OPEN = (Status.READY, Status.RUNNING, Status.WAITING, Status.PAUSED)


class DemoError(Exception):
    """The demo cannot go on; the sentence says why."""


# -- before ------------------------------------------------------------------------------------


def clear(folder: Path) -> None:
    """Remove what an earlier demo has left in `folder`, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in STATE:
        for suffix in ("", "-wal", "-shm", "-journal"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    shutil.rmtree(folder / "mail", ignore_errors=True)


def make_user() -> tuple[AbstractUser, str]:
    """Create the staff user of the demo; return it with its password."""
    password = "-".join("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(3))
    user: AbstractUser = get_user_model().objects.create_superuser(USER, "demo@example.test", password)
    return user, password


def publish_sops(by: AbstractUser) -> list[str]:
    """Import and publish the shipped SOPs; return their names."""
    drafts = [definition.save_rows(definition.read_file(path)) for path in definition.shipped()]
    for draft in drafts:
        definition.publish(draft, by)
    return [draft.name for draft in drafts]


def migrate() -> None:
    """Make the tables."""
    call_command("migrate", verbosity=0, interactive=False)


def first_slot(after: datetime) -> datetime:
    """Return when the campaign's own schedule says that it begins next: a Monday at nine, in season."""
    file = next(path for path in definition.shipped() if path.stem.replace("_", "-") == CAMPAIGN)
    trigger = definition.read_file(file).trigger
    slot = triggers.next_slot(trigger, after)
    while slot and not sending.calendar().is_open(slot, "sending"):  # on a holiday no mail would leave
        slot = triggers.next_slot(trigger, slot)
    if slot is None:
        raise DemoError(f"The schedule of {CAMPAIGN} never comes.")
    return slot


def move_clock(to: datetime) -> None:
    """Let every clock of the demo show `to` now; returns when they do."""
    file = Path(settings.CLOCK_OFFSET_FILE)
    offset = (to - (clock.now() - timedelta(seconds=clock.offset()))).total_seconds()
    draft = file.with_suffix(".new")
    draft.write_text(f"{offset:.3f}\n")
    draft.replace(file)
    while abs((clock.now() - to).total_seconds()) > 30:  # the file is read once a second
        time.sleep(0.05)


def still_clock() -> None:
    """Begin with the clock of this machine."""
    Path(settings.CLOCK_OFFSET_FILE).write_text("0\n")


# -- meanwhile -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """What the terminal shows of one run: who it is about, and what it does."""

    who: str
    doing: str
    over: bool


class Campaign:
    """The campaign that the schedule has started, seen from outside: its runs, its questions."""

    def __init__(self, crm: MockState) -> None:
        self.crm = crm
        self.names = {row["id"]: str(row["name"]) for row in crm.rows("customers")}
        self.drafts: dict[UUID, dict[str, str]] = {}

    @property
    def parent(self) -> Task | None:
        """The run that the schedule has started, None before it has."""
        return Task.objects.filter(version__sop__slug=CAMPAIGN).order_by("created_at").first()

    def children(self) -> list[Task]:
        """Return the runs of the single customers, in the order in which they were found."""
        return sorted(
            Task.objects.filter(parent__version__sop__slug=CAMPAIGN).select_related("version"),
            key=lambda task: str(task.context.get("crm_customer_id")),
        )

    def lines(self) -> list[Line]:
        """Return what every run does now."""
        return [
            Line(
                self.names.get(str(task.context.get("crm_customer_id")), "?"),
                _doing(task),
                task.status not in OPEN,
            )
            for task in self.children()
        ]

    def questions(self) -> list[Approval]:
        """Return the questions that wait for a person, in the order of their customers."""
        rows = Approval.objects.filter(state=Approval.State.OPEN).select_related("task")
        return sorted(rows, key=lambda row: str(row.task.context.get("crm_customer_id")))

    def still(self) -> bool:
        """Tell whether nothing moves any more without a person."""
        parent = self.parent
        return parent is not None and not _moving()

    def wait(self, watch: Callable[[], None], patience: float = PATIENCE) -> None:
        """Call `watch` again and again until nothing moves; DemoError when that takes too long."""
        give_up = time.monotonic() + patience
        while not self.still():
            watch()
            if time.monotonic() > give_up:
                rest = "; ".join(f"{line.who}: {line.doing}" for line in self.lines() if not line.over)
                raise DemoError(f"After {patience:.0f} s the campaign still moves: {rest or 'no run yet'}.")
            time.sleep(0.1)
        watch()

    def answer(self, how: Choice, by: AbstractUser) -> Iterator[Approval]:
        """Answer the open questions, yielding each one answered; "but-one" leaves the last open."""
        questions = [row for row in self.questions() if _sends(row)]
        left = {"leave": len(questions), "but-one": 1}.get(how, 0)
        for question in questions[: max(0, len(questions) - left)]:
            draft = approvals.draft_of(question)
            choice = "decline" if how == "decline" else "approve"
            if draft is not None and choice == "approve":
                self.drafts[question.pk] = draft
            yield approvals.answer(question.pk, choice, by=by)


def _sends(question: Approval) -> bool:
    """Tell whether it is asked if a mail may go, and not what became of one."""
    return {"approve", "decline"} <= {option["key"] for option in question.options}


def _moving() -> bool:
    """Tell whether there is work that nobody must be waited for."""
    now = journal.database_now()
    busy = Q(status__in=[Status.READY, Status.RUNNING]) | Q(wake_at__lte=now) | Q(waiting_for="listing")
    if Task.objects.filter(busy).exists() or Notification.objects.filter(wake_at__lte=now).exists():
        return True
    waiting = Task.objects.filter(status=Status.WAITING, waiting_for="children")
    return waiting.exclude(children__status__in=OPEN).exists()


def _doing(task: Task) -> str:
    """Return in a few words what a run does, or what came of it."""
    if task.status == Status.COMPLETED:
        return {
            "sent": "mail sent, noted in the CRM",
            "declined": "declined, nothing sent",
            "skipped": "skipped: must not or cannot be written to",
            "customer_gone": "skipped: no longer in the CRM",
        }.get(task.result, task.result)
    if task.waiting_for.startswith("approval:"):
        return "draft waits for a person's yes"
    if task.status in (Status.PAUSED, Status.FAILED):
        return f"stopped: {task.reason}"
    if task.waiting_for == "listing":
        return "found"
    line = definition.from_json(task.version.definition).step(task.step)
    name = line.name or line.key
    return f"{name[:1].lower()}{name[1:].rstrip('?')} …"


# -- after ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail in the folder."""

    to: str
    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What the campaign came to; `problems` says what does not add up, and is empty if it does."""

    found: int
    approved: int
    declined: int
    waiting: int
    skipped: int
    mails: int
    notes: int
    problems: tuple[str, ...]


def summary(campaign: Campaign, folder: Path) -> Summary:
    """Count what the mock CRM's journal, its notes and the mail folder show, and compare."""
    crm = campaign.crm
    read = {
        entry["id"]
        for entry in crm.journal()
        if (entry["operation"], entry["entity"]) == ("find", "customers")
    }
    asked = Counter(_answer_of(row) for row in Approval.objects.filter(task__parent=campaign.parent))
    results = Counter(task.result for task in campaign.children() if task.status == Status.COMPLETED)
    mails = read_mails(folder)
    noted = [row["customer_id"] for row in crm.rows("notes")]
    counted = Summary(
        found=len(read),
        approved=asked["approve"],
        declined=asked["decline"],
        waiting=asked["open"],
        skipped=results["skipped"] + results["customer_gone"],
        mails=len(mails),
        notes=len(noted),
        problems=(),
    )
    addresses = {str(row["email"]): row["id"] for row in crm.rows("customers")}
    return Summary(
        **{name: getattr(counted, name) for name in Summary.__slots__ if name != "problems"},
        problems=(
            *sums(counted),
            *journals(crm, mails, noted, addresses),
            *texts(mails, list(campaign.drafts.values())),
            *(f"{line.who}: {line.doing}" for line in campaign.lines() if line.doing.startswith("stopped")),
        ),
    )


def _answer_of(row: Approval) -> str:
    if row.state != Approval.State.ANSWERED:
        return str(row.state)
    return next((option["outcome"] for option in row.options if option["key"] == row.choice), row.choice)


def read_mails(folder: Path) -> list[Mail]:
    """Return the mails in the folder, as a customer's program would show them."""
    return [_read_mail(path) for path in sorted(folder.glob("*.eml"))]


def _read_mail(path: Path) -> Mail:
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return Mail(str(message["To"]), str(message["Subject"]), _part(message, "plain"), _part(message, "html"))


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return "" if part is None else str(part.get_content())


def sums(seen: Summary) -> Iterator[str]:
    """Yield where the numbers do not add up."""
    parts = seen.approved + seen.declined + seen.waiting + seen.skipped
    if seen.found == 0:
        yield "nobody was found"
    if seen.found != parts:
        yield f"{seen.found} found, but {parts} approved, declined, waiting or skipped"
    if not seen.approved == seen.mails == seen.notes:
        yield f"{seen.approved} approved, {seen.mails} mails in the folder, {seen.notes} notes in the CRM"


def journals(
    crm: MockState, mails: Sequence[Mail], noted: Sequence[str], addresses: Mapping[str, str]
) -> Iterator[str]:
    """Yield where the mail folder, the CRM's notes and the CRM's journal tell different stories."""
    mailed = Counter(addresses.get(mail.to, mail.to) for mail in mails)
    if Counter(noted) != mailed:
        yield "the customers who got a mail are not those who have a note"
    if any(count > 1 for count in mailed.values()):
        yield "a customer got more than one mail"
    applied = sum(
        (entry["operation"], entry["entity"], entry["outcome"]) == ("create", "notes", "applied")
        for entry in crm.journal()
    )
    if applied != len(noted):
        yield f"the CRM's journal tells of {applied} notes, the CRM has {len(noted)}"


def texts(mails: Sequence[Mail], drafts: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield it when what was sent is not what was approved."""
    approved = sorted((d["to"], d["subject"], d["text"].rstrip("\n"), d["html"].rstrip("\n")) for d in drafts)
    sent = sorted((m.to, m.subject, m.text.rstrip("\n"), m.html.rstrip("\n")) for m in mails)
    if approved != sent:
        yield "a mail is not the draft that was approved"


def campaign_name() -> str:
    """Return the campaign's name as staff see it."""
    return Sop.objects.get(slug=CAMPAIGN).name
