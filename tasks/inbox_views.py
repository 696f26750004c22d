"""The inbox of questions: cards by run, one question with its draft, and answers. A GET never decides."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.models import AbstractUser, User
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from sopengine import clock
from tasks import approvals, contacts, pages, questions, timeline
from tasks.definition import SopDef, from_json
from tasks.forms import DraftForm
from tasks.models import Approval, Task
from tasks.outcome import handlers
from tasks.overview import STATES
from tasks.questions import FAMILY, Option, approving, head_of

CARDS_PER_RUN = 25
CARDS_IN_ALL = 200
TYPED_ABOVE = 25  # an answer to more questions than this asks for the number, typed
MAY_SEE = ("tasks.view_approval", "tasks.change_approval", pages.MAY_ANSWER)
WITH_RUN = ("task__version__sop", "task__parent__version__sop", "assignee")


@dataclass(frozen=True, slots=True)
class Card:
    """One question in the inbox."""

    approval: Approval
    who: str
    subject: str
    if_yes: str
    if_nothing: str


@dataclass(slots=True)
class Batch:
    """The open questions of one run: of its own, or of the runs it started."""

    run: Task
    total: int
    cards: list[Card] = field(default_factory=list)
    approve: Option | None = None
    begun: bool = False  # some of the run's questions have been answered

    @property
    def ids(self) -> str:
        """Return the ids that are shown, which are the only ones a batch answer takes."""
        return ",".join(str(card.approval.pk) for card in self.cards)

    @property
    def if_yes(self) -> str:
        """Return what a yes does, where it does the same for every card shown; else nothing."""
        return _same(card.if_yes for card in self.cards)

    @property
    def if_nothing(self) -> str:
        """Return what silence does, where it does the same for every card shown; else nothing."""
        return _same(card.if_nothing for card in self.cards)

    @property
    def more(self) -> int:
        """Return how many questions are not shown."""
        return self.total - len(self.cards)


def _same(texts: Iterable[str]) -> str:
    found = set(texts)
    return found.pop() if len(found) == 1 else ""


@require_GET
def inbox(request: HttpRequest) -> HttpResponse:
    """Show the open questions by run, the oldest first; `?run=` shows one run's."""
    pages.require(request, *MAY_SEE)
    run = _as_uuid(request.GET.get("run", ""))
    now = clock.now()
    batches = _batches(request, run, now)
    return pages.page(
        request,
        "tasks/inbox.html",
        "To answer",
        batches=batches,
        one_run=run,
        waiting=sum(batch.total for batch in batches),
        answer=pages.may(request, pages.MAY_ANSWER),
        answered=_recent() if not run else [],
        now=now,
    )


def _batches(request: HttpRequest, run: uuid.UUID | None, now: datetime) -> list[Batch]:
    found = Approval.objects.filter(state=Approval.State.OPEN).annotate(batch=FAMILY)
    if run:
        found = found.filter(batch=run)
    totals = {
        row["batch"]: row["total"] for row in found.order_by().values("batch").annotate(total=Count("pk"))
    }
    rows = found.select_related(
        "task__version__sop", "task__parent__version__sop", "task__parent__parent__version__sop"
    ).order_by("created_at", "pk")
    batches: dict[uuid.UUID, Batch] = {}
    for approval in rows[: CARDS_IN_ALL if not run else CARDS_PER_RUN * 4]:
        owner = head_of(approval.task)
        batch = batches.setdefault(owner.pk, Batch(owner, totals[owner.pk]))
        if run or len(batch.cards) < CARDS_PER_RUN:
            batch.cards.append(_card(request, approval, now))
            batch.approve = batch.approve or approving(approval.options)
    answered = Approval.objects.filter(state=Approval.State.ANSWERED)
    known = answered.annotate(batch=FAMILY).filter(batch__in=list(batches))
    for owner_id in known.order_by().values_list("batch", flat=True).distinct():
        batches[owner_id].begun = True
    return list(batches.values())


def _card(request: HttpRequest, approval: Approval, now: datetime) -> Card:
    draft = pages.draft_for(approval, pages.staff(request))
    return Card(
        approval=approval,
        who=pages.about(approval.task, pages.staff(request)) or draft.get("to") or "Somebody",
        subject=draft.get("subject") or draft.get("question") or _hidden(draft),
        if_yes=_if_yes(approval),
        if_nothing=if_nothing(approval, now),
    )


def _hidden(draft: dict[str, Any]) -> str:
    if draft.get("closed"):
        return "The text cannot be opened: its key is missing on this machine."
    return "The text is shown only to those who may answer."


def _recent() -> list[Approval]:
    done = Approval.objects.exclude(state=Approval.State.OPEN).filter(answered_at__isnull=False)
    return list(done.select_related("task__version__sop", "answered_by").order_by("-answered_at")[:10])


# -- what an answer means --------------------------------------------------------------------------


def _if_yes(approval: Approval) -> str:
    option = approving(approval.options)
    if option is None:
        labels = " · ".join(option["label"] for option in approval.options)
        return f"Choose: {labels}"
    return f"{option['label']}: {effect_of(approval, option)}"


def effect_of(approval: Approval, option: Option) -> str:
    """Return as a sentence what happens when this option is chosen."""
    outcome = option["outcome"]
    definition = from_json(approval.task.version.definition)
    if outcome == "decline":
        return "nothing is sent and the run ends."
    if outcome == "edit":
        return f"your text replaces the draft, then {_onward(definition, approval.step)}"
    if outcome == "again":
        return "the step is done once more, even if the customer has it already."
    if outcome == "skip":
        return f"it is left out, then {_onward(definition, approval.step)}"
    if outcome in ("approve", "next"):
        return _onward(definition, approval.step)
    return f"the run goes on with “{_name(definition, outcome)}”."


def _onward(definition: SopDef, step: str) -> str:
    told = definition.step(step).on_success if step in definition else "next"
    following = definition.after(step) if told == "next" and step in definition else told
    if following in (None, "complete") or following not in definition:
        return "the run ends."
    name = definition.step(str(following)).handler
    sends = name in handlers and handlers.get(name).sends
    seen = ", which the customer sees" if sends else ""
    return f"the run goes on with “{_name(definition, str(following))}”{seen}."


def _name(definition: SopDef, step: str) -> str:
    return (definition.step(step).name or step) if step in definition else step


def if_nothing(approval: Approval, now: datetime) -> str:
    """Return as a sentence what happens when nobody answers."""
    then = approval.task.progress.get("wait", {}).get("then", "decline")
    if approval.expires_at is None:
        return "If nobody answers, it waits; nothing is sent."
    meaning = timeline.NOBODY_ANSWERS.get(then, "").replace("nobody answering means ", "")
    return f"If nobody answers by {timeline.moment(approval.expires_at, now)}, {meaning}."


# -- one question ----------------------------------------------------------------------------------

_PREVIEW = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"><base target=\"_blank\">"
)


@require_GET
def question(request: HttpRequest, number: uuid.UUID) -> HttpResponse:
    """Show one question with the text that the customer would get."""
    pages.require(request, *MAY_SEE)
    return _question(request, _approval(number), None)


def _question(request: HttpRequest, approval: Approval, form: DraftForm | None) -> HttpResponse:
    user, now = pages.staff(request), clock.now()
    draft = pages.draft_for(approval, user)
    why_not = questions.why_not(approval, user)
    new_text = form.data.get("text", "") if form else ""
    letter = draft if draft.get("text") or draft.get("html") else _letter_before(approval, user)
    editing = questions.editing(approval.options)
    return pages.page(
        request,
        "tasks/question.html",
        "Question" if approval.state == Approval.State.OPEN else "Answered question",
        approval=approval,
        draft=draft,
        letter=letter,
        hidden="" if draft.get("question") else _hidden_or_gone(approval, draft, user),
        preview=_PREVIEW + letter["html"] if letter.get("html") else "",
        who=pages.about(approval.task, user),
        state=STATES[approval.state],
        decision=approvals.decision(approval),
        open=approval.state == Approval.State.OPEN,
        answer=pages.may(request, pages.MAY_ANSWER),
        options=[told(approval, option) for option in approval.options if option["outcome"] != "edit"],
        editing=editing and told(approval, editing),
        preview_text=approvals.preview_of(draft, new_text),
        way_out=contacts.way_out(draft.get("text", "")),
        preview_subject=form.data.get("subject", "") if form else "",
        why_not=why_not,
        barred=bool(why_not) or not user.has_perm(pages.MAY_ANSWER),
        whom=questions.whom_it_is_for(approval),
        colleagues=_colleagues(approval, user),
        form=form or DraftForm(initial={"subject": draft.get("subject"), "text": draft.get("text")}),
        if_nothing=if_nothing(approval, now),
        now=now,
    )


def _colleagues(approval: Approval, user: User) -> list[AbstractUser]:
    """Return to whom this person may hand the question over."""
    may = approval.state == Approval.State.OPEN and user.has_perm(pages.MAY_ANSWER)
    return questions.colleagues(approval) if may and not questions.why_not_give(approval, user) else []


def _letter_before(approval: Approval, user: User) -> dict[str, Any]:
    """Return the text that the run's last answer approved: what a question about its sending is about."""
    earlier = (
        approval.task.approvals.filter(created_at__lt=approval.created_at).order_by("-created_at").first()
    )
    return pages.draft_for(earlier, user) if earlier else {}


def _hidden_or_gone(approval: Approval, draft: dict[str, Any], user: User) -> str:
    if approval.sealed is None:
        return "The text is gone: it is kept only until its run is over."
    return _hidden(draft)


def told(approval: Approval, option: Option) -> dict[str, str]:
    """Return an option with what it does (`effect`) and how its button looks (`tone`)."""
    tone = {"approve": "good", "decline": "bad", "again": "alert"}.get(option["outcome"], "plain")
    return {**option, "effect": effect_of(approval, option), "tone": tone}


def _approval(number: uuid.UUID) -> Approval:
    return get_object_or_404(Approval.objects.select_related(*WITH_RUN, "answered_by"), pk=number)


@require_POST
def answer(request: HttpRequest, number: uuid.UUID) -> HttpResponse:
    """Take one answer and go to the next question; a refused one says why."""
    pages.require(request, *MAY_SEE)
    approval = _approval(number)
    choice = request.POST.get("choice", "")
    option = next((option for option in approval.options if option["key"] == choice), None)
    edited = None
    shows = "preview" in request.POST and questions.editing(approval.options) is not None
    if shows or (option and option["outcome"] == "edit"):
        form = DraftForm(request.POST)
        if shows or not form.is_valid():
            return _question(request, approval, form)
        edited = {"subject": form.cleaned_data["subject"], "text": form.cleaned_data["text"]}
    who = pages.about(approval.task, pages.staff(request)) or "The question"
    try:
        approvals.answer(number, choice, by=pages.staff(request), edited=edited)
    except approvals.AnswerRefused as refusal:
        messages.error(request, f"Not taken: {refusal}")
        return redirect("admin:tasks_approval_change", number)
    assert option is not None
    messages.success(request, f"{who}: {option['label']}. Now {effect_of(approval, option)}")
    return redirect(_next_after(approval))


@require_POST
def hand_over(request: HttpRequest, number: uuid.UUID) -> HttpResponse:
    """Give a question to a colleague; a refusal says why."""
    pages.require(request, *MAY_SEE)
    approval = _approval(number)
    to = User.objects.filter(username=request.POST.get("to", "").replace("\0", "")).first()
    if to is None:
        messages.error(request, "Not handed over: choose a colleague.")
        return redirect("admin:tasks_approval_change", number)
    try:
        approvals.hand_over(number, to, by=pages.staff(request))
    except approvals.AnswerRefused as refusal:
        messages.error(request, f"Not handed over: {refusal}")
    else:
        pages.log(request, approval, f"handed over to {to.get_username()}")
        messages.success(
            request, f"Handed over to {to.get_full_name() or to.get_username()}, who is told of it."
        )
    return redirect("admin:tasks_approval_change", number)


def _next_after(approval: Approval) -> str:
    """Return the address of the next question: of the same run first, then the oldest."""
    still_open = Approval.objects.filter(state=Approval.State.OPEN).order_by("created_at", "pk")
    same = still_open.annotate(batch=FAMILY).filter(batch=head_of(approval.task).pk)
    following = same.first() or still_open.first()
    if following is None:
        return reverse("admin:tasks_approval_changelist")
    return reverse("admin:tasks_approval_change", args=[following.pk])


# -- many at once ----------------------------------------------------------------------------------


@require_POST
def batch(request: HttpRequest) -> HttpResponse:
    """Say what an answer to all shown questions would do; with `sure`, do it."""
    pages.require(request, pages.MAY_ANSWER)
    ids = [number for number in map(_as_uuid, request.POST.get("ids", "").split(",")) if number]
    found = list(
        Approval.objects.filter(pk__in=ids, state=Approval.State.OPEN)
        .select_related(*WITH_RUN)
        .order_by("created_at", "pk")
    )
    takes = [approval for approval in found if (approving(approval.options) or {}).get("key")]
    if not takes:
        messages.warning(request, "These questions have been answered already; nothing was changed.")
        return redirect("admin:tasks_approval_changelist")
    typed_right = len(takes) <= TYPED_ABOVE or request.POST.get("count", "").strip() == str(len(takes))
    if "sure" not in request.POST or not typed_right:
        return _confirm(request, takes, len(ids), wrong="sure" in request.POST)
    return _answer_all(request, takes)


def _confirm(request: HttpRequest, takes: list[Approval], shown: int, *, wrong: bool) -> HttpResponse:
    user = pages.staff(request)
    option = approving(takes[0].options)
    assert option is not None
    return pages.page(
        request,
        "tasks/batch.html",
        f"{option['label']}: {len(takes)} at once?",
        takes=takes,
        ids=",".join(str(approval.pk) for approval in takes),
        names=[pages.about(approval.task, user) or "Somebody" for approval in takes[:5]],
        rest=len(takes) - 5,
        gone=shown - len(takes),
        option=option,
        effect=effect_of(takes[0], option),
        typed=len(takes) > TYPED_ABOVE,
        wrong=wrong,
    )


def _answer_all(request: HttpRequest, takes: list[Approval]) -> HttpResponse:
    result = approvals.approve_rest([approval.pk for approval in takes], by=pages.staff(request))
    if result.answered:
        messages.success(request, f"{len(result.answered)} approved. They go on now, a few at a time.")
    if result.refused:
        reasons = " ".join(dict.fromkeys(result.refused.values()))
        messages.warning(request, f"{len(result.refused)} not taken. {reasons}")
    return redirect("admin:tasks_approval_changelist")


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
