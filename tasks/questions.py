"""Questions as they stand: what is asked, who may answer, and what became of them. Nothing here decides."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.db.models import Q, QuerySet
from django.db.models.functions import Coalesce

from credentials import vault
from tasks import context, journal
from tasks.models import Approval, Task

TABLE = "tasks_approval"
PERMISSION = "tasks.answer_approval"
EDITABLE = ("subject", "text", "html")
State = Approval.State
Option = dict[str, str]


# -- the text --------------------------------------------------------------------------------------


# A campaign starts one run for each customer, and each of these may start another later: what they
# ask on one day is read as one list. For `annotate` on approvals.
FAMILY = Coalesce("task__parent__parent_id", "task__parent_id", "task_id")


def head_of(task: Task) -> Task:
    """Return the run that a list of questions is named after: that which all began with."""
    parent = task.parent
    return task if parent is None else parent.parent or parent


def content_of(approval: Approval) -> dict[str, Any] | None:
    """Return what is sealed in a question, {"question", "draft", "final" once answered}; None once gone."""
    if approval.sealed is None:
        return None
    content: dict[str, Any] = vault.unseal(approval.sealed, table=TABLE, row=str(approval.pk), field="sealed")
    return content


def draft_of(approval: Approval) -> dict[str, str] | None:
    """Return {"question", "to", "subject", "text", "html"}, as answered if it was; None once it is gone."""
    content = content_of(approval)
    if content is None:
        return None
    draft = content.get("final") or content.get("draft") or {}
    return {
        "question": content["question"],
        **{name: draft.get(name, "") for name in ("to", *EDITABLE)},
    }


def customer_of(task: Task) -> str:
    """Return the name of whom a run is about; "" when it is not known, or no longer."""
    if not task.sealed:
        return ""
    return str(context.unseal(str(task.pk), task.sealed).get("customer_name") or "")


# -- the options -----------------------------------------------------------------------------------


def approving(options: Iterable[Option]) -> Option | None:
    """Return the option that says yes to the draft as it is."""
    return next((option for option in options if option["outcome"] == "approve"), None)


def editing(options: Iterable[Option]) -> Option | None:
    """Return the option that takes a new text."""
    return next((option for option in options if option["outcome"] == "edit"), None)


# -- who may answer --------------------------------------------------------------------------------


def why_not(approval: Approval, person: AbstractUser | None) -> str:
    """Return why this question is not for this person, who may answer questions at all; "" when it is.

    None is somebody at the command line without a name, who may answer what everybody may.
    """
    forbidden, whom = approval.allowed.get("not"), whom_it_is_for(approval)
    if person is None:
        restricted = whom or forbidden is not None
        return "Not everybody may answer this question; say in whose name you do." if restricted else ""
    if forbidden == person.pk:
        return "You started this run yourself, so somebody else must answer its question."
    if whom and not _is_named(approval, person):
        way_out = ", and none of them can any more; a superuser may hand it over"
        return f"Only {whom} may answer this question{way_out if is_orphaned(approval) else ''}."
    return ""


def why_not_give(approval: Approval, person: AbstractUser | None) -> str:
    """Return why this person may not hand the question over; "" when it may be.

    Whoever may answer may. One that nobody can answer any more a superuser gives to somebody who can.
    """
    if person is not None and person.is_superuser and is_orphaned(approval):
        return ""
    return why_not(approval, person)


def may_take(approval: Approval, person: AbstractUser) -> bool:
    """Return whether the question may be given to this person, who may answer questions at all."""
    if is_orphaned(approval):
        return bool(approval.allowed.get("not") != person.pk)
    return not why_not(approval, person)


def is_orphaned(approval: Approval) -> bool:
    """Return whether the question is for certain people, and none of them may answer it any more."""
    if not whom_it_is_for(approval):
        return False
    forbidden = approval.allowed.get("not")
    return not any(may_answer(person) and person.pk != forbidden for person in _named(approval))


def _named(approval: Approval) -> "QuerySet[Any]":
    """Return everybody with a login whom the question names."""
    by_name = Q(username__in=approval.allowed.get("users") or ())
    by_group = Q(groups__name__in=approval.allowed.get("groups") or ())
    return get_user_model().objects.filter(by_name | by_group, is_active=True).distinct()


def _is_named(approval: Approval, person: AbstractUser) -> bool:
    if person.get_username() in approval.allowed.get("users", ()):
        return True
    groups = approval.allowed.get("groups", ())
    return bool(groups) and person.groups.filter(name__in=groups).exists()


def whom_it_is_for(approval: Approval) -> str:
    """Return in words the people and groups that may answer; "" when everybody may."""
    names = [*approval.allowed.get("users", ())]
    names += [f"the group {group}" for group in approval.allowed.get("groups", ())]
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else "".join(names)


def may_answer(person: AbstractUser) -> bool:
    """Return whether this person may answer questions at all."""
    return person.is_active and person.has_perm(PERMISSION)


def colleagues(approval: Approval) -> list[AbstractUser]:
    """Return everybody to whom this question may be handed over, by name."""
    narrow = whom_it_is_for(approval) and not is_orphaned(approval)
    active = _named(approval) if narrow else get_user_model().objects.filter(is_active=True)
    people: list[AbstractUser] = list(active.order_by("first_name", "username"))
    return [
        person
        for person in people
        if person != approval.assignee and may_answer(person) and may_take(approval, person)
    ]


# -- what became of it -----------------------------------------------------------------------------


def decision(approval: Approval) -> str:
    """Return as a sentence what became of a question: who decided what, and when."""
    if approval.state == State.ANSWERED:
        label = next((o["label"] for o in approval.options if o["key"] == approval.choice), approval.choice)
        who = approval.answered_by.get_username() if approval.answered_by else "Somebody at the command line"
        return f"{who} chose “{label}” on {when(approval.answered_at)}."
    if approval.state == State.EXPIRED or is_late(approval):
        return f"Nobody answered in time; the question ended on {when(approval.expires_at)}."
    if approval.state == State.VOID:
        return "The question was withdrawn: what it was about has changed, or its run has ended."
    return "Nobody has answered yet."


def is_late(approval: Approval) -> bool:
    """Return whether the time for an answer is over, though the run may not have noticed yet."""
    return approval.expires_at is not None and approval.expires_at <= journal.database_now()


def is_withdrawn(task: Task) -> bool:
    """Return whether an event has come that the run's question is void on, though it has not read it yet."""
    void_on = task.progress.get("wait", {}).get("void_on", ())
    came = {entry.get("name") for entry in task.mailbox if entry.get("kind") == "event"}
    return not came.union(task.progress.get("events", ())).isdisjoint(void_on)


def when(moment: datetime | None) -> str:
    """Return a day and an hour in the business' zone, in words."""
    if moment is None:
        return "an unknown day"
    local = moment.astimezone(ZoneInfo(settings.TIME_ZONE))
    return f"{local.day} {local:%B %Y} at {local:%H:%M}"
