"""The pages of the runs: their list, the story of one, and what a person may do with it."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from sopengine import clock
from tasks import engine, pages, timeline
from tasks.forms import WHY, WhyForm
from tasks.models import Sop, Task
from tasks.overview import NEEDS, STATES, WAITS, State, needs, state_of

PER_PAGE = 50
MAY_SEE = ("tasks.view_task", pages.MAY_OPERATE, pages.MAY_ANSWER)


# -- the list --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chip:
    """One filter in force; `without` is the address of the list without it."""

    text: str
    without: str


@dataclass(frozen=True, slots=True)
class Row:
    """One run in the list."""

    task: Task
    state: State
    about: str
    says: str


@require_GET
def run_list(request: HttpRequest) -> HttpResponse:
    """Show the runs that the address asks for, newest first."""
    pages.require(request, *MAY_SEE)
    now = clock.now()
    wanted = pages.asked(request, "q")
    if (found := _run_with_id(wanted)) is not None:
        return redirect("admin:tasks_task_change", found)
    asked, chips = _filters(request, now)
    number = max(1, pages.asked_number(request, "page", 1))
    start = (number - 1) * PER_PAGE
    # One row more than a page holds says whether there is a next page, without counting a million runs.
    tasks = list(_runs(asked)[start : start + PER_PAGE + 1])
    return pages.page(
        request,
        "tasks/run_list.html",
        "Runs",
        rows=[_row(task, request, now) for task in tasks[:PER_PAGE]],
        chips=chips,
        chosen=request.GET,
        choices=_choices(),
        number=number,
        earlier=_address(request.GET, page=number - 1) if number > 1 else "",
        later=_address(request.GET, page=number + 1) if len(tasks) > PER_PAGE else "",
        now=now,
    )


def _runs(asked: Q) -> QuerySet[Task]:
    return Task.objects.filter(asked).select_related("version__sop").order_by("-created_at")


def _row(task: Task, request: HttpRequest, now: datetime) -> Row:
    return Row(task, state_of(task), pages.about(task, pages.staff(request)), _short(task, now))


def _short(task: Task, now: datetime) -> str:
    """Return in a few words where the run stands."""
    if task.status in ("completed", "cancelled"):
        return timeline.result(task.result)
    if task.status == "failed" or task.reason:
        return timeline.reason(task.reason)
    if task.status == "waiting":
        return timeline.awaits(task)
    if task.wake_at and task.wake_at > now:
        return f"goes on at {timeline.moment(task.wake_at, now)}"
    return "being done now" if task.status == "running" else "begins as soon as a worker is free"


def _filters(request: HttpRequest, now: datetime) -> tuple[Q, list[Chip]]:
    """Return what the address asks for, and one chip for each part of it."""
    asked, chips = Q(), []
    for name, read in _FILTERS.items():
        value = pages.asked(request, name)
        told = read(value, now) if value else None
        if told:
            text, condition = told
            asked &= condition
            chips.append(Chip(text, _address(request.GET, **{name: "", "page": ""})))
    return asked, chips


def _by_needs(value: str, now: datetime) -> tuple[str, Q] | None:
    return (NEEDS[value], needs(value, now)) if value in NEEDS else None


def _by_status(value: str, now: datetime) -> tuple[str, Q] | None:
    return (STATES[value].word, Q(status=value)) if value in Task.Status.values else None


def _by_sop(value: str, now: datetime) -> tuple[str, Q] | None:
    sop = Sop.objects.filter(slug=value).first()
    return (f"SOP: {sop}", Q(version__sop=sop)) if sop else (f"SOP: {value}", Q(pk=None))


def _by_wait(value: str, now: datetime) -> tuple[str, Q] | None:
    return (f"Waits for {WAITS[value][0]}", WAITS[value][1]) if value in WAITS else None


def _by_parent(value: str, now: datetime) -> tuple[str, Q] | None:
    parent = _as_uuid(value)
    return (f"Started by run {value[:8]}", Q(parent=parent)) if parent else None


def _by_result(value: str, now: datetime) -> tuple[str, Q] | None:
    return f"Result: {timeline.result(value)}", Q(result=value)


def _by_text(value: str, now: datetime) -> tuple[str, Q] | None:
    return f"Number begins with {value}", Q(pk__startswith=value.lower())


_FILTERS = {
    "needs": _by_needs,
    "status": _by_status,
    "sop": _by_sop,
    "waits": _by_wait,
    "result": _by_result,
    "parent": _by_parent,
    "q": _by_text,
}


def _choices() -> dict[str, list[tuple[str, str]]]:
    return {
        "needs": list(NEEDS.items()),
        "status": [(value, STATES[value].word) for value in Task.Status.values],
        "sop": list(Sop.objects.values_list("slug", "name")),
        "waits": [(name, told[0]) for name, told in WAITS.items()],
    }


def _address(chosen: QueryDict, **changed: object) -> str:
    """Return the address of the list with some of its filters changed; an empty value leaves one out."""
    query = chosen.copy()
    for name, value in changed.items():
        query[name] = str(value)
    for name in [name for name in query if not query[name]]:
        del query[name]
    return "?" + query.urlencode()


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _run_with_id(text: str) -> uuid.UUID | None:
    number = _as_uuid(text)
    return number if number and Task.objects.filter(pk=number).exists() else None


# -- one run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a person may do with a run now, and what happens then."""

    kind: str
    label: str
    effect: str
    done: str


ACTS: Mapping[str, Act] = {
    act.kind: act
    for act in (
        Act(
            "retry",
            "Retry",
            "The run begins again at the step where it stopped. What was done before stays done.",
            "The run is tried again from the step where it stopped.",
        ),
        Act(
            "resume",
            "Resume",
            "The run goes on where it was paused.",
            "The run goes on where it was paused.",
        ),
        Act(
            "pause",
            "Pause",
            "The run stops before its next step and keeps its place. You can resume it at any time.",
            "The run is paused before its next step. Nothing happens until somebody resumes it.",
        ),
        Act(
            "cancel",
            "Cancel",
            "The run ends for good, with every open run that it started. "
            "What was sent already is not taken back. This cannot be undone.",
            "The run ends before its next step. What was sent already is not taken back.",
        ),
    )
}


def acts_for(task: Task) -> list[Act]:
    """Return what a person may do with the run in its present state."""
    parked = task.status == "paused" and task.reason not in ("", "paused")
    asks = task.waiting_for.startswith("approval:")
    names = {
        "ready": ["pause", "cancel"],
        "running": ["pause", "cancel"],
        "waiting": ["retry", "pause", "cancel"]
        if task.waiting_for.startswith("provider:")
        else ["pause", "cancel"],
        "paused": (["cancel"] if asks else ["retry", "cancel"]) if parked else ["resume", "cancel"],
        "failed": ["retry", "cancel"],
    }.get(task.status, [])
    return [ACTS[name] for name in names]


@require_GET
def run_detail(request: HttpRequest, number: uuid.UUID) -> HttpResponse:
    """Show one run: where it stands, what happens next, and its story."""
    task = _task(request, number)
    return pages.page(request, "tasks/run_detail.html", f"Run of {task.version.sop}", **_story(request, task))


@require_GET
def run_fragment(request: HttpRequest, number: uuid.UUID) -> HttpResponse:
    """Show the part of the page that changes while the run goes on."""
    task = _task(request, number)
    response = render(request, "tasks/run_story.html", _story(request, task))
    response["Cache-Control"] = "no-store"
    return response


def _task(request: HttpRequest, number: uuid.UUID) -> Task:
    pages.require(request, *MAY_SEE)
    return get_object_or_404(Task.objects.select_related("version__sop", "parent__version__sop"), pk=number)


def _story(request: HttpRequest, task: Task) -> dict[str, Any]:
    now = clock.now()
    lines = timeline.sentences(task)
    loud = [line for line in lines if not line.quiet]
    since = loud[-1].at if loud else task.created_at
    return {
        "task": task,
        "state": state_of(task),
        "about": pages.about(task, pages.staff(request)),
        "headline": timeline.headline(task, since, now),
        "next_action": timeline.next_action(task, now),
        "entries": timeline.fold(lines),
        "children": _children(task),
        "questions": task.approvals.order_by("-created_at"),
        "notices": task.notifications.order_by("created_at")[:50],
        "acts": acts_for(task),
        "operate": pages.may(request, pages.MAY_OPERATE),
        "polls": task.status not in ("completed", "cancelled", "failed"),
        "now": now,
    }


def _children(task: Task) -> list[dict[str, Any]]:
    """Return the counts of the runs that this one started, by state and result, with the list behind each."""
    found = task.children.values("status", "result").annotate(count=Count("pk")).order_by("status", "result")
    return [
        {
            "count": row["count"],
            "state": STATES[row["status"]],
            "result": timeline.result(row["result"]) if row["result"] else "",
            "link": f"{reverse('admin:tasks_task_changelist')}?parent={task.pk}&status={row['status']}"
            + (f"&result={row['result']}" if row["result"] else ""),
        }
        for row in found
    ]


@require_http_methods(["GET", "POST"])
def run_act(request: HttpRequest, number: uuid.UUID, kind: str) -> HttpResponse:
    """Ask whether the run shall be retried, paused, resumed or cancelled; a POST does it."""
    pages.require(request, pages.MAY_OPERATE)
    task = _task(request, number)
    act = next((act for act in acts_for(task) if act.kind == kind), None)
    if act is None:
        messages.warning(
            request, f"The run is {state_of(task).word.lower()} now; there is nothing to {kind}."
        )
        return redirect("admin:tasks_task_change", task.pk)
    form = WhyForm(pages.posted(request))
    if request.method == "POST" and form.is_valid():
        why = {"why": form.cleaned_data["why"]} if form.cleaned_data["why"] else {}
        engine.signal([task.pk], kind, by=pages.staff(request).pk, **why)
        pages.log(request, task, f"{act.label}: {dict(WHY).get(form.cleaned_data['why'], '')}")
        messages.success(request, act.done)
        return redirect("admin:tasks_task_change", task.pk)
    open_children = task.children.exclude(status__in=("completed", "cancelled", "failed")).count()
    return pages.page(
        request,
        "tasks/run_act.html",
        f"{act.label} this run?",
        task=task,
        act=act,
        form=form,
        state=state_of(task),
        about=pages.about(task, pages.staff(request)),
        open_children=open_children,
    )
