"""Answers to questions: the first one wins, and what was approved is what is sent.

An answer locks its task, then takes the question with one conditional UPDATE, then signals the
task, all in one transaction. Whoever comes second, late, without permission or with an answer
that the question does not have is refused, and told why.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.db.models import Q
from django.utils.html import escape

from credentials import vault
from tasks import contacts, engine, journal, questions
from tasks.models import Approval, Task
from tasks.questions import EDITABLE, PERMISSION, TABLE, Option, State, decision, draft_of

__all__ = [
    "PERMISSION",
    "AnswerRefused",
    "BatchResult",
    "answer",
    "answer_batch",
    "approve_rest",
    "decision",
    "draft_of",
    "hand_over",
    "html_of",
    "preview_of",
]

LONGEST_SUBJECT = 250
OVER = {Task.Status.COMPLETED: "done", Task.Status.FAILED: "failed", Task.Status.CANCELLED: "cancelled"}
GONE = "There is no such question."
_BODY_ENDS = re.compile(r"(</body\s*>)", re.IGNORECASE)

log = logging.getLogger(__name__)


class AnswerRefused(Exception):
    """The answer was not taken; the message says why, in a sentence for the person who gave it."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one answer to many questions: the ids that took it, and why the others did not."""

    answered: tuple[UUID, ...]
    refused: Mapping[UUID, str]


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
    return _changed(approval_id, by, lambda pk, person: _answer(pk, choice, person, edited))


def answer_batch(ids: Iterable[UUID | str], choice: str, *, by: AbstractUser | None) -> BatchResult:
    """Give the same answer to many questions, each for itself: one that refuses it stops no other."""
    return _each(ids, lambda approval_id: answer(approval_id, choice, by=by))


def approve_rest(ids: Iterable[UUID | str], *, by: AbstractUser | None) -> BatchResult:
    """Say yes to the drafts of these questions as they are, each for itself."""
    wanted = [_known(one) for one in ids]
    options = dict(Approval.objects.filter(pk__in=wanted).values_list("pk", "options"))

    def approve(approval_id: UUID) -> None:
        option = questions.approving(options.get(approval_id, ()))
        if approval_id in options and option is None:
            raise AnswerRefused("This question is no draft to approve; open it to answer.")
        answer(approval_id, option["key"] if option else "", by=by)

    return _each(wanted, approve)


def _each(ids: Iterable[UUID | str], act: Callable[[UUID], object]) -> BatchResult:
    answered: list[UUID] = []
    refused: dict[UUID, str] = {}
    for approval_id in sorted({_known(one) for one in ids}):
        try:
            act(approval_id)
            answered.append(approval_id)
        except AnswerRefused as error:
            refused[approval_id] = str(error)
    return BatchResult(tuple(answered), refused)


def _changed(
    approval_id: UUID | str,
    by: AbstractUser | None,
    change: Callable[[UUID, AbstractUser | None], None],
) -> Approval:
    """Make a person's change to a question and return it; a refusal is logged, by numbers."""
    pk = _known(approval_id)
    try:
        person = _as_now(by)
        journal.patiently(lambda: change(pk, person))
    except AnswerRefused:
        log.info("refused: question %s, user %s", pk, by.pk if by else "none")
        raise
    return Approval.objects.select_related("answered_by", "assignee").get(pk=pk)


def _known(approval_id: UUID | str) -> UUID:
    try:
        return UUID(str(approval_id))
    except ValueError:
        raise AnswerRefused(GONE) from None


def _as_now(by: AbstractUser | None) -> AbstractUser | None:
    """Return the person as the table knows them at this moment: what a caller holds may be of yesterday."""
    if by is None:
        return None
    person: AbstractUser | None = get_user_model().objects.filter(pk=by.pk).first()
    if person is None or not person.is_active:
        raise AnswerRefused(f"{by.get_username()} may not answer any more: this login is switched off.")
    if not questions.may_answer(person):
        raise AnswerRefused(f"{by.get_username()} may not answer questions; ask an administrator for it.")
    return person


@transaction.atomic
def _answer(pk: UUID, choice: str, by: AbstractUser | None, edited: Mapping[str, str] | None) -> None:
    task, approval = _locked(pk)
    _check_open(approval, task)
    _check_allowed(approval, by)
    content = questions.content_of(approval)
    if content is None:
        raise AnswerRefused("The text of this question is gone; it can no longer be answered.")
    draft: dict[str, str] = content.get("draft") or {}
    final = _final(draft, _option(approval, choice), edited)
    sealed = vault.seal({**content, "final": final}, table=TABLE, row=str(pk), field="sealed")
    _take(approval, choice, by, sealed=sealed, edited=final != draft)
    if not engine.signal([task.pk], "answer", approval=str(pk)):
        raise AnswerRefused("The run no longer takes answers.")


def _locked(pk: UUID) -> tuple[Task, Approval]:
    """Return a question with its run, which nobody else changes until the transaction ends."""
    task = Task.objects.select_for_update(of=("self",)).filter(approvals=pk).first()
    if task is None:
        raise AnswerRefused(GONE)
    return task, Approval.objects.select_related("answered_by").get(pk=pk)


def _check_open(approval: Approval, task: Task) -> None:
    """Refuse what came late, or speaks of a step that the run has left."""
    if approval.state != State.OPEN or questions.is_late(approval):
        raise AnswerRefused(decision(approval))
    if task.status in OVER:
        raise AnswerRefused(f"The run is {OVER[Task.Status(task.status)]}; its question is no longer open.")
    if (task.step, task.visit) != (approval.step, approval.visit):
        raise AnswerRefused("The run has moved on; this question is out of date.")
    if questions.is_withdrawn(task):
        raise AnswerRefused("What this question is about has just changed; it is withdrawn.")


def _check_allowed(approval: Approval, by: AbstractUser | None) -> None:
    if why := questions.why_not(approval, by):
        raise AnswerRefused(why)


def _option(approval: Approval, choice: str) -> Option:
    options: Sequence[Option] = approval.options
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
    _tell_again(approval.pk)


def _tell_again(pk: UUID) -> None:
    """Have the message that lists this question say what has become of it; the row is ours by now."""
    told = Approval.objects.filter(pk=pk, message__isnull=False).values_list("message_id", flat=True)
    journal.tell_again(list(told))


# -- handing over ----------------------------------------------------------------------------------


def hand_over(approval_id: UUID | str, to: AbstractUser, *, by: AbstractUser | None) -> Approval:
    """Give an open question to a colleague, who is told of it; AnswerRefused says why not.

    Nobody loses the right to answer by it, but a link in a mail to whoever had it before is spent. One
    that is for people of whom nobody can answer any more, a superuser gives to whoever can.
    """
    return _changed(approval_id, by, lambda pk, person: _hand_over(pk, to, person))


@transaction.atomic
def _hand_over(pk: UUID, to: AbstractUser, by: AbstractUser | None) -> None:
    task, approval = _locked(pk)
    _check_open(approval, task)
    if why := questions.why_not_give(approval, by):
        raise AnswerRefused(why)
    taker = _as_now(to)
    assert taker is not None
    if not questions.may_take(approval, taker):
        raise AnswerRefused(f"{taker.get_username()} is not one of those who may answer this question.")
    if approval.assignee_id == taker.pk:
        raise AnswerRefused(f"{taker.get_username()} has this question already.")
    _tell_again(pk)
    allowed = approval.allowed
    if questions.why_not(approval, taker):  # none of those it was for: it is for this one, too, from now on
        allowed = {**allowed, "users": [*allowed.get("users", ()), taker.get_username()]}
    given = {"assignee": taker, "message": None, "allowed": allowed}
    if not Approval.objects.filter(pk=pk, state=State.OPEN).update(**given):
        raise AnswerRefused(decision(Approval.objects.select_related("answered_by").get(pk=pk)))


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
    if "text" in parts:
        parts["text"] = _kept_in_text(draft, parts["text"])
    final = {**draft, **parts}
    if final["text"] != draft.get("text") and draft.get("html") and final["html"] == draft["html"]:
        final["html"] = html_of(final["text"])  # else one mail would say two things
    if "html" in final:
        final["html"] = _kept_in_html(draft, final["html"])
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


def _kept_in_text(draft: Mapping[str, str], text: str) -> str:
    """Return the new text of a draft; where it lost the draft's unsubscribe link, that stands at its end."""
    way_out = contacts.way_out(draft.get("text", ""))
    if way_out is None or way_out.is_in(text):
        return text
    return f"{text.rstrip()}\n\n{way_out.line}\n"


def preview_of(draft: Mapping[str, str], text: str) -> str:
    """Return as HTML what the customer would get if this were the new text of a draft."""
    return html_of(_kept_in_text(draft, text.replace("\r\n", "\n"))) if text.strip() else ""


def _kept_in_html(draft: Mapping[str, str], html: str) -> str:
    way_out = contacts.way_out(draft.get("text", "")) or contacts.way_out(draft.get("html", ""))
    if not html.strip() or way_out is None or way_out.is_in(html):
        return html
    body, end, rest = _BODY_ENDS.split(html, maxsplit=1) if _BODY_ENDS.search(html) else (html, "", "")
    return f"{body.rstrip()}\n{html_of(way_out.line)}{end}{rest}"


def html_of(text: str) -> str:
    """Return plain text as HTML: a paragraph for each block, a break for each line, nothing else."""
    blocks = text.replace("\r\n", "\n").strip().split("\n\n")
    lines = ("<br>\n".join(escape(line) for line in block.strip("\n").split("\n")) for block in blocks)
    return "\n".join(f"<p>{block}</p>" for block in lines if block)
