"""The page behind a signed link: one person, one question, no login. Only a POST from it decides.

The link is the key: whoever has it acts as the person it was made for, so the page says who that is,
is kept by no cache, and tells no other site where it is. A session plays no part, so another site
has nothing to forge with; what a POST must bring besides is a mark that only the shown page has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from csp.decorators import csp_replace
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.crypto import constant_time_compare
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from credentials.vault import VaultError
from sopengine import clock
from tasks import approvals, contacts, inbox_views, questions, signed
from tasks.approvals import AnswerRefused
from tasks.forms import DraftForm
from tasks.models import Approval

View = Callable[..., HttpResponse]
PREVIEW = "preview"  # the name of the button that shows a changed text and decides nothing
NOT_OURS = "This link is not valid. Open it from the message again; part of it may have been lost on the way."
NOT_SHOWN = "Your answer did not come from this page as we showed it. Look at the question and answer again."
CLOSED = "The text cannot be opened now; tell whoever looks after this system."
# What a mail may do in its frame: look as it is meant to, and nothing else.
FRAMED = {"style-src": ["'self'", "'unsafe-inline'"], "frame-ancestors": ["'self'"], "sandbox": [""]}
CHANGED = {"subject": "Subject", "text": "Text"}


@dataclass(frozen=True, slots=True)
class Visit:
    """A genuine link and what it leads to; `refusal` says why this person may not answer, "" if so."""

    approval: Approval
    person: AbstractUser
    refusal: str = ""


def _private(view: View) -> View:
    """Let nobody keep the page, list it, or learn its address from it."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        response.headers["Cache-Control"] = "no-store, private"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Robots-Tag"] = "noindex, nofollow"
        return response

    return guarded


@csrf_exempt
@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@_private
def answer_page(request: HttpRequest, token: str) -> HttpResponse:
    """Show the question; take the answer that is posted, or say why not."""
    visit = _visit(token)
    if visit is None:
        return _say(request, NOT_OURS, status=404)
    if visit.refusal:
        return _say(request, visit.refusal, status=200 if request.method != "POST" else 409, visit=visit)
    if request.method != "POST":
        return _page(request, token, visit)
    if not constant_time_compare(request.POST.get("page", ""), signed.page_mark(token)):
        return _page(request, token, visit, refused=NOT_SHOWN, status=403)
    return _take(request, token, visit)


def _take(request: HttpRequest, token: str, visit: Visit) -> HttpResponse:
    """Take one answer from the page, or show what a changed text would look like."""
    choice = request.POST.get("choice", "")
    editing = questions.editing(visit.approval.options)
    form, edited = None, None
    if PREVIEW in request.POST or (editing and choice == editing["key"]):
        form = DraftForm(request.POST)
        if PREVIEW in request.POST or not form.is_valid():
            return _page(request, token, visit, form=form, status=200 if form.is_valid() else 400)
        edited = {name: form.cleaned_data[name] for name in CHANGED}
    try:
        approval = approvals.answer(visit.approval.pk, choice, by=visit.person, edited=edited)
    except AnswerRefused as refusal:
        now = _visit(token)
        if now is None or now.refusal:
            return _say(request, str(refusal), status=409, visit=now)
        return _page(request, token, now, form=form, refused=str(refusal), status=409)
    option = next(option for option in approval.options if option["key"] == choice)
    effect = inbox_views.effect_of(approval, option)
    return _say(request, f"{option['label']}. Now {effect}", visit=visit, done=True)


@require_safe
@csp_replace(FRAMED)
@xframe_options_sameorigin
@_private
def letter_preview(request: HttpRequest, token: str) -> HttpResponse:
    """Show the mail as a mail program does; it is a frame of the page, in which nothing runs."""
    visit = _visit(token)
    letter = "" if visit is None or visit.refusal else _draft(visit.approval).get("html", "")
    return HttpResponse(f'<!doctype html><meta charset="utf-8"><base target="_blank">{letter}')


# -- who comes, and to what --------------------------------------------------------------------------


def _visit(token: str) -> Visit | None:
    """Return what the token leads to, None when it is none of ours or leads nowhere."""
    opened = signed.opened(token)
    if opened is None:
        return None
    found = Approval.objects.select_related(*inbox_views.WITH_RUN, "answered_by", "assignee")
    approval = found.filter(pk=opened.approval).first()
    person: AbstractUser | None = get_user_model().objects.filter(pk=opened.user).first()
    if approval is None or person is None:
        return None
    return Visit(approval, person, _refusal(approval, person, opened.visit))


def _refusal(approval: Approval, person: AbstractUser, visit: int) -> str:
    """Return why this person may not answer this question now; "" when they may."""
    if not person.is_active:
        return f"{person.get_username()} may not answer any more: this login is switched off."
    if not questions.may_answer(person):
        return f"{person.get_username()} may no longer answer questions; ask an administrator for it."
    if approval.state != Approval.State.OPEN or questions.is_late(approval):
        return questions.decision(approval)
    if approval.assignee is not None and approval.assignee_id != person.pk:
        return f"This question was handed over to {approval.assignee.get_username()}; this link is spent."
    if why := questions.why_not(approval, person):
        return why
    if (approval.task.step, approval.task.visit) != (approval.step, visit) or approval.visit != visit:
        return "The run has moved on; this question is out of date."
    return ""


def _draft(approval: Approval) -> Mapping[str, str]:
    try:
        return questions.draft_of(approval) or {}
    except VaultError:
        return {"question": CLOSED}


# -- what is shown -----------------------------------------------------------------------------------


def _page(
    request: HttpRequest,
    token: str,
    visit: Visit,
    *,
    form: DraftForm | None = None,
    refused: str = "",
    status: int = 200,
) -> HttpResponse:
    approval, draft = visit.approval, _draft(visit.approval)
    editing = questions.editing(approval.options)
    preview = approvals.preview_of(draft, form.data.get("text", "")) if form else ""
    return render(
        request,
        "tasks/answer_page.html",
        {
            "approval": approval,
            "person": visit.person,
            "token": token,
            "mark": signed.page_mark(token),
            "draft": draft,
            "who": _whom(approval) or draft.get("to", ""),
            "options": [inbox_views.told(approval, o) for o in approval.options if o != editing],
            "editing": editing and inbox_views.told(approval, editing),
            "form": form or DraftForm(initial={name: draft.get(name) for name in CHANGED}),
            "preview": preview,
            "way_out": contacts.way_out(draft.get("text", "")),
            "preview_subject": form.data.get("subject", "") if form else "",
            "refused": refused,
            "if_nothing": inbox_views.if_nothing(approval, clock.now()),
            "business": settings.BUSINESS_NAME,
        },
        status=status,
    )


def _whom(approval: Approval) -> str:
    try:
        return questions.customer_of(approval.task)
    except VaultError:
        return ""


def _say(
    request: HttpRequest, what: str, *, status: int = 200, visit: Visit | None = None, done: bool = False
) -> HttpResponse:
    """Show one sentence and no draft."""
    shown = {"what": what, "visit": visit, "done": done, "business": settings.BUSINESS_NAME}
    return render(request, "tasks/answer_said.html", shown, status=status)
