"""Answers to questions: the first one wins, and what was approved is what is sent.

An answer locks its task, then takes the question with one conditional UPDATE, then signals the
task, all in one transaction. Whoever comes second, late, without permission or with an answer
that the question does not have is refused, and told why.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.db.models import Q
from django.utils.html import escape

from credentials import vault
from tasks import engine, journal
from tasks.models import Approval, Task

TABLE = "tasks_approval"
PERMISSION = "tasks.answer_approval"
EDITABLE = ("subject", "text", "html")
LONGEST_SUBJECT = 250
State = Approval.State
OVER = {Task.Status.COMPLETED: "done", Task.Status.FAILED: "failed", Task.Status.CANCELLED: "cancelled"}


class AnswerRefused(Exception):
    """The answer was not taken; the message says why, in a sentence for the person who gave it."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one answer to many questions: the ids that took it, and why the others did not."""

    answered: tuple[UUID, ...]
    refused: Mapping[UUID, str]


# -- reading -------------------------------------------------------------------------------------


def draft_of(approval: Approval) -> dict[str, str] | None:
    """Return {"question", "to", "subject", "text", "html"}, as answered if it was; None once it is gone."""
    content = _content(approval)
    if content is None:
        return None
    draft = content.get("final") or content.get("draft") or {}
    return {
        "question": content["question"],
        **{name: draft.get(name, "") for name in ("to", *EDITABLE)},
    }


def _content(approval: Approval) -> dict[str, Any] | None:
    if approval.sealed is None:
        return None
    content: dict[str, Any] = vault.unseal(approval.sealed, table=TABLE, row=str(approval.pk), field="sealed")
    return content


def decision(approval: Approval) -> str:
    """Return as a sentence what became of a question: who decided what, and when."""
    if approval.state == State.ANSWERED:
        label = next((o["label"] for o in approval.options if o["key"] == approval.choice), approval.choice)
        who = approval.answered_by.get_username() if approval.answered_by else "Somebody at the command line"
        return f"{who} chose “{label}” on {_when(approval.answered_at)}."
    if approval.state == State.EXPIRED or (
        approval.expires_at is not None and approval.expires_at <= journal.database_now()
    ):
        return f"Nobody answered in time; the question ended on {_when(approval.expires_at)}."
    if approval.state == State.VOID:
        return "The question was withdrawn, because what it was about has changed."
    return "Nobody has answered yet."


def _when(moment: datetime | None) -> str:
    if moment is None:
        return "an unknown day"
    local = moment.astimezone(ZoneInfo(settings.TIME_ZONE))
    return f"{local.day} {local:%B %Y} at {local:%H:%M}"


# -- answering -----------------------------------------------------------------------------------


def answer(
    approval_id: UUID | str,
    choice: str,
    *,
    by: AbstractUser | None,
    edited: Mapping[str, str] | None = None,
) -> Approval:
    """Take the answer and wake its task; AnswerRefused says why not. `by` None is the command line.

    `edited` has the parts of subject, text and html that replace the draft's, for an option to edit.
    """
    _check_permission(by)
    pk = _known(approval_id)
    journal.patiently(lambda: _answer(pk, choice, by, edited))
    return Approval.objects.get(pk=pk)


def answer_batch(ids: Iterable[UUID | str], choice: str, *, by: AbstractUser | None) -> BatchResult:
    """Give the same answer to many questions, each for itself: one that refuses it stops no other."""
    answered: list[UUID] = []
    refused: dict[UUID, str] = {}
    for approval_id in sorted({UUID(str(one)) for one in ids}):
        try:
            answer(approval_id, choice, by=by)
            answered.append(approval_id)
        except AnswerRefused as error:
            refused[approval_id] = str(error)
    return BatchResult(tuple(answered), refused)


def _known(approval_id: UUID | str) -> UUID:
    try:
        return UUID(str(approval_id))
    except ValueError:
        raise AnswerRefused("There is no such question.") from None


@transaction.atomic
def _answer(pk: UUID, choice: str, by: AbstractUser | None, edited: Mapping[str, str] | None) -> None:
    task = Task.objects.select_for_update(of=("self",)).filter(approvals=pk).first()
    if task is None:
        raise AnswerRefused("There is no such question.")
    approval = Approval.objects.select_related("answered_by").get(pk=pk)
    _check_open(approval, task)
    content = _content(approval)
    if content is None:
        raise AnswerRefused("The text of this question is gone; it can no longer be answered.")
    draft: dict[str, str] = content.get("draft") or {}
    final = _final(draft, _option(approval, choice), edited)
    sealed = vault.seal({**content, "final": final}, table=TABLE, row=str(pk), field="sealed")
    _take(approval, choice, by, sealed=sealed, edited=final != draft)
    if not engine.signal([task.pk], "answer", approval=str(pk)):
        raise AnswerRefused("The run no longer takes answers.")


def _check_permission(by: AbstractUser | None) -> None:
    if by is not None and not (by.is_active and by.has_perm(PERMISSION)):
        raise AnswerRefused(f"{by.get_username()} may not answer questions; ask an administrator for it.")


def _check_open(approval: Approval, task: Task) -> None:
    """Refuse what came late, or speaks of a step that the run has left."""
    late = approval.expires_at is not None and approval.expires_at <= journal.database_now()
    if approval.state != State.OPEN or late:
        raise AnswerRefused(decision(approval))
    if task.status in OVER:
        raise AnswerRefused(f"The run is {OVER[Task.Status(task.status)]}; its question is no longer open.")
    if (task.step, task.visit) != (approval.step, approval.visit):
        raise AnswerRefused("The run has moved on; this question is out of date.")


def _option(approval: Approval, choice: str) -> dict[str, str]:
    options: Sequence[dict[str, str]] = approval.options
    for option in options:
        if option["key"] == choice:
            return option
    known = ", ".join(f"{option['key']} ({option['label']})" for option in options)
    raise AnswerRefused(f"This question has no answer “{choice}”. Possible are: {known}.")


def _take(
    approval: Approval, choice: str, by: AbstractUser | None, *, sealed: str | None, edited: bool
) -> None:
    """Make this answer the answer, unless there is one."""
    now = journal.database_now()
    in_time = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
    taken = Approval.objects.filter(in_time, pk=approval.pk, state=State.OPEN).update(
        state=State.ANSWERED, choice=choice, edited=edited, answered_by=by, answered_at=now, sealed=sealed
    )
    if not taken:
        raise AnswerRefused(decision(Approval.objects.select_related("answered_by").get(pk=approval.pk)))


# -- the approved text ---------------------------------------------------------------------------


def _final(
    draft: Mapping[str, str], option: Mapping[str, str], edited: Mapping[str, str] | None
) -> dict[str, str]:
    """Return the draft as approved: byte for byte, or with the parts that were edited."""
    if option["outcome"] != "edit":
        if edited is not None:
            raise AnswerRefused(f"“{option['label']}” takes no new text; choose the answer that edits it.")
        return dict(draft)
    if not edited:
        raise AnswerRefused(f"“{option['label']}” needs the new text.")
    parts = {name: value.replace("\r\n", "\n") for name, value in edited.items()}
    _check_parts(parts)
    final = {**draft, **parts}
    if final["text"] != draft.get("text") and draft.get("html") and final["html"] == draft["html"]:
        final["html"] = html_of(final["text"])  # else one mail would say two things
    return final


def _check_parts(edited: Mapping[str, str]) -> None:
    foreign = sorted(set(edited) - set(EDITABLE))
    if foreign:
        raise AnswerRefused(f"Only subject, text and html can be edited, not {', '.join(foreign)}.")
    for name, value in edited.items():
        if not value.strip() and name != "html":
            raise AnswerRefused(f"The {name} is empty.")
        if "{{" in value or "{%" in value:
            raise AnswerRefused(
                f"The {name} contains {{{{ or {{%: an unfilled place that customers would see."
            )
        if "\x00" in value:
            raise AnswerRefused(f"The {name} contains a character that cannot be stored.")
    subject = edited.get("subject", "")
    if not subject.isprintable() or len(subject) > LONGEST_SUBJECT:
        raise AnswerRefused(f"The subject must be one line of at most {LONGEST_SUBJECT} characters.")


def html_of(text: str) -> str:
    """Return plain text as HTML: a paragraph for each block, a break for each line, nothing else."""
    blocks = text.replace("\r\n", "\n").strip().split("\n\n")
    lines = ("<br>\n".join(escape(line) for line in block.strip("\n").split("\n")) for block in blocks)
    return "\n".join(f"<p>{block}</p>" for block in lines if block)
