"""How staff hear of questions: in lists of up to 25, with reminders that count what waits.

A step that asks writes its question and nothing else. `tell` puts the open questions of one run, and of
the runs that it started, into one message as soon as no more are about to come. What a message says is
made when it is posted (`words`, `cards`), from the questions as they stand then; it keeps no draft.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.urls import reverse

from credentials import vault
from tasks import journal, questions, signed
from tasks.models import Approval, ChatAccount, Notification, Task
from tasks.notices import sealed_notice
from tasks.timeline import span
from tasks.transition import OVERDUE, REMIND
from tasks.transports import Card, Choice
from tasks.wording import escalation_text

PER_MESSAGE = 25
PATIENCE = timedelta(seconds=60)  # so long a question waits for others of its run to be told with it
MOST = 1000  # questions that are looked at in one go
CLOSED_TEXT = "The text cannot be opened: its key is missing on this machine."
HANDED_OVER = "What stood here was handed over to a colleague."
Status = Task.Status
State = Approval.State
Medium = Notification.Medium

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What one message lists: one step's questions in the runs of one family, to one channel or person."""

    owner: UUID
    step: str
    channel: str
    person: int | None


# -- telling ---------------------------------------------------------------------------------------


def tell() -> int:
    """Write messages for the questions that nobody was told of; return how many messages. Never raises.

    Reminders of what was answered meanwhile are dropped.
    """
    try:
        return _tell(journal.database_now())
    except Exception as error:
        # Whoever posts messages goes on with the others; what was not told is still to be told.
        log.error("questions not told: %s", type(error).__name__)
        return 0


def _tell(now: datetime) -> int:
    _count_told()
    told = 0
    complete = {
        place
        for place, seen in _by_place().items()
        if now - seen[0].created_at >= PATIENCE or not _more_to_come(place.owner, now)
    }
    # The last of them may have come while that was looked at, so all are read once more.
    for place, untold in (_by_place() if complete else {}).items():
        if place in complete:
            for first in range(0, len(untold), PER_MESSAGE):
                told += _told(place, untold[first : first + PER_MESSAGE])
    _drop_idle_reminders(now)
    return told


def _count_told() -> None:
    """A question that came with a call for help of its own needs no other message."""
    alerts = Notification.objects.filter(kind="escalation", medium=Medium.CHAT)
    untold = Approval.objects.filter(state=State.OPEN, message=None)
    for pk in untold.filter(Exists(alerts.filter(approval=OuterRef("pk"))), assignee=None).values_list(
        "pk", flat=True
    )[:MOST]:
        alert = alerts.filter(approval=pk).order_by("created_at").first()
        Approval.objects.filter(pk=pk, message=None, assignee=None).update(message=alert)


def _by_place() -> dict[Place, list[Approval]]:
    """Return the untold questions by where they belong, the oldest first."""
    untold = (
        Approval.objects.filter(state=State.OPEN, message=None)
        .select_related("task")
        .annotate(family=questions.FAMILY)
    )
    found: dict[Place, list[Approval]] = {}
    heavy = ("sealed", "task__sealed", "task__request")
    for approval in untold.order_by("created_at", "pk").defer(*heavy)[:MOST]:
        place = Place(approval.family, approval.step, approval.channel, _person_of(approval))
        found.setdefault(place, []).append(approval)
    return found


def _person_of(approval: Approval) -> int | None:
    """Return to whom alone a question goes: who was given it, or the only one who may answer it."""
    named = approval.allowed.get("users", ())
    if approval.assignee_id or len(named) != 1 or approval.allowed.get("groups"):
        return approval.assignee_id
    people = get_user_model().objects.filter(username=named[0], is_active=True)
    return people.values_list("pk", flat=True).first()


def _more_to_come(owner: UUID, now: datetime) -> bool:
    """Whether a run of this family is under way, or will be before anybody would mind the wait."""
    moving = (
        Q(status=Status.RUNNING)
        | Q(status=Status.READY, wake_at__lte=now + PATIENCE)
        | Q(status=Status.WAITING, waiting_for="listing")
        | Q(status=Status.WAITING, waiting_for__in=("time", "event"), wake_at__lte=now + PATIENCE)
    )
    family = (Q(pk=owner), Q(parent=owner), Q(parent__parent=owner))
    return any(Task.objects.filter(moving, generation).exists() for generation in family)


def _told(place: Place, untold: Sequence[Approval]) -> bool:
    """Write one message that lists these; False when somebody else has done so, or all are decided."""
    # A message about one question goes with that question's run, one about several with their parent.
    about = untold[0].task_id if len(untold) == 1 else place.owner
    return journal.patiently(lambda: _write(place, about, [approval.pk for approval in untold]))


@transaction.atomic
def _write(place: Place, about: UUID, ids: Sequence[UUID]) -> bool:
    list(Task.objects.select_for_update().filter(pk=about).values_list("pk"))  # tasks are locked first
    listed = list(
        Approval.objects.select_for_update()
        .filter(pk__in=ids, state=State.OPEN, message=None)
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    if not listed:
        return False
    medium, person = _way_to(place.person)
    now = journal.database_now()
    row = Notification(
        id=uuid4(),
        task_id=about,
        approval_id=listed[0] if len(ids) == 1 else None,
        kind="approval",
        channel=place.channel,
        medium=medium,
        recipient_id=person,
        created_at=now,
        wake_at=now,
    )
    row.sealed = sealed_notice(row.pk, "")
    row.save(force_insert=True)
    Approval.objects.filter(pk__in=listed).update(message=row, assignee_id=place.person)
    return True


def _way_to(person: int | None) -> tuple[Medium, int | None]:
    """Return how a person is told: by the chat if known there, else by mail, else with all in the channel."""
    if person is None or ChatAccount.objects.filter(user=person).exists():
        return Medium.CHAT, person
    if get_user_model().objects.filter(pk=person).exclude(email="").exists():
        return Medium.MAIL, person
    return Medium.CHAT, None


# -- reminding -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where a reminder goes; reminders with the same `dedupe` are one."""

    medium: str
    person: int | None
    dedupe: str


def target_of(approval: UUID | None, dedupe: str) -> Target:
    """Return where the reminder of a question goes: to whom it was given alone, else to its channel."""
    given = Approval.objects.filter(assignee__isnull=False).values_list("assignee_id", flat=True)
    person = given.filter(pk=approval).first() if approval else None
    medium, recipient = _way_to(person)
    if recipient is None:
        return Target(Medium.CHAT, None, dedupe)
    return Target(medium, recipient, f"{REMIND}user {recipient}:{dedupe.rpartition(':')[2]}")


def _drop_idle_reminders(now: datetime) -> None:
    """Nobody is reminded of what was answered meanwhile."""
    due = Notification.objects.filter(state=Notification.State.PENDING, wake_at__lte=now, attempts=0)
    idle = [
        row.pk
        for row in due.filter(Q(dedupe__startswith=REMIND) | Q(dedupe__startswith=OVERDUE))
        if not _waiting(row).exists()
    ]
    if idle:
        Notification.objects.filter(pk__in=idle, state=Notification.State.PENDING, attempts=0).update(
            state=Notification.State.SENT, wake_at=None, sealed=None, reason="answered"
        )


# -- what a message says ---------------------------------------------------------------------------


def words(row: Notification) -> str:
    """Return what a message about questions says, as they stand now; "" for a message about anything else."""
    if row.kind in ("approval", "update"):
        return _summary(row)
    if (row.dedupe or "").startswith(REMIND):
        return _reminder(row)
    return _overdue(row) if (row.dedupe or "").startswith(OVERDUE) else ""


def cards(row: Notification) -> tuple[Card, ...]:
    """Return the questions that a message lists, as they stand now, the oldest first; else nothing.

    Of a draft a card shows whom it is for, what is asked and the subject, nothing else: a chat has more
    readers than may answer. In a message to one person its link is for that one alone and needs no login.
    """
    return tuple(_card(approval, row) for approval in _listed(row))


def _listed(row: Notification) -> list[Approval]:
    if row.kind not in ("approval", "update", "escalation"):
        return []
    shown = Approval.objects.filter(message=row.replaces_id or row.pk)
    return list(shown.select_related("task__version__sop", "answered_by").order_by("created_at", "pk"))


def _summary(row: Notification) -> str:
    listed = _listed(row)
    if not listed:
        return HANDED_OVER
    sop, still_open = listed[0].task.version.sop.name, sum(one.state == State.OPEN for one in listed)
    if not still_open:
        decided = (
            questions.decision(listed[0]) if len(listed) == 1 else f"all {len(listed)} questions are closed."
        )
        return f"{sop}: {decided}"
    whom = "you" if row.recipient_id else "an answer"
    if still_open < len(listed):
        return f"{sop}: {still_open} of {len(listed)} questions still {_waits(still_open)} for {whom}."
    return f"{sop}: {_counted(still_open)} {_waits(still_open)} for {whom}."


def _card(approval: Approval, row: Notification) -> Card:
    title, lines = _title_and_lines(approval)
    decided = "" if approval.state == State.OPEN else questions.decision(approval)
    options = () if decided else tuple(_choice(option) for option in approval.options)
    return Card(str(approval.pk), title, lines, options, _link(approval, row), decided)


def _title_and_lines(approval: Approval) -> tuple[str, tuple[str, ...]]:
    sop = approval.task.version.sop.name
    try:
        draft = questions.draft_of(approval) or {}
        name = questions.customer_of(approval.task)
    except vault.VaultError:
        return sop, (CLOSED_TEXT,)
    if subject := draft.get("subject", ""):
        asked = (draft["question"],) if draft["question"] else ()
        return name or draft["to"] or "A customer", (*asked, subject)
    return name or sop, (draft["question"],) if draft else ()


def _choice(option: questions.Option) -> Choice:
    style = option["outcome"] if option["outcome"] in ("approve", "edit", "decline") else ""
    return Choice(option["key"], option["label"], style)


def _link(approval: Approval, row: Notification) -> str:
    if row.recipient is not None and approval.assignee_id == row.recipient_id:
        return signed.link(approval, row.recipient)
    return settings.PUBLIC_URL.rstrip("/") + reverse("admin:tasks_approval_change", args=[approval.pk])


# -- counting --------------------------------------------------------------------------------------


def _waiting(row: Notification) -> "QuerySet[Approval]":
    """Return the open questions that a reminder counts: those of its person, else of a channel."""
    still_open = Approval.objects.filter(state=State.OPEN)
    if row.recipient_id:
        return still_open.filter(assignee=row.recipient_id)
    return still_open.filter(channel=_channel_of(row) or settings.ESCALATIONS_CHANNEL)


def _channel_of(row: Notification) -> str:
    """Return the channel of the questions that are counted; the message itself may go elsewhere."""
    return (row.dedupe or "").removeprefix(REMIND).removeprefix(OVERDUE).rpartition(":")[0]


def _reminder(row: Notification) -> str:
    whom = "you" if row.recipient_id else "an answer"
    return _count(_waiting(row), whom)


def _overdue(row: Notification) -> str:
    channel = _channel_of(row)
    return escalation_text(
        what=f"{_count(_waiting(row), 'an answer')}",
        why=f"nobody has answered{f' in {channel}' if channel else ''} as long as the procedure allows.",
        machine="without an answer nothing is sent, and each question closes at its time.",
        do="open the questions and decide, or hand them over to a colleague.",
    )


def _count(found: "QuerySet[Approval]", whom: str) -> str:
    """Return how many questions these are, and since when the oldest waits."""
    oldest = found.order_by("created_at").values_list("created_at", flat=True).first()
    now, count = journal.database_now(), found.count()
    age = span((now - (oldest or now)).total_seconds())
    return f"{_counted(count)} {_waits(count)} for {whom}, the oldest for {age}."


def _counted(count: int) -> str:
    return "1 question" if count == 1 else f"{count} questions"


def _waits(count: int) -> str:
    return "waits" if count == 1 else "wait"
