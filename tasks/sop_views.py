"""The pages of the SOPs: their list, the editor of a draft, publishing, and starting a run."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import messages
from django.db import transaction
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from sopengine import clock
from tasks import calendars, definition, engine, pages, triggers
from tasks.definition import DefinitionError, Problem
from tasks.forms import (
    AddStepForm,
    NewSopForm,
    ParamsForm,
    ScheduleForm,
    SopForm,
    StepForm,
    kind_label,
    open_params,
    run_form,
    unknown_params,
)
from tasks.models import Sop, SopVersion, Step, Task
from tasks.outcome import handlers
from tasks.overview import OPEN, STATES, State
from tasks.schedules import next_slots, schedule_in_words
from tasks.timeline import spoken

MAY_SEE = ("tasks.view_sop", pages.MAY_CHANGE_SOP, pages.MAY_OPERATE)


# -- the list --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One SOP in the list."""

    sop: Sop
    state: State
    version: str
    when: str
    next_at: datetime | None
    open_runs: int


@require_GET
def sop_list(request: HttpRequest) -> HttpResponse:
    """Show every SOP: its state, its version, when it starts next, and its open runs."""
    pages.require(request, *MAY_SEE)
    now = clock.now()
    counts = _open_runs()
    sops = Sop.objects.select_related("published").order_by("name")
    return pages.page(
        request,
        "tasks/sop_list.html",
        "SOPs",
        rows=[_row(sop, counts.get(sop.pk, 0), now) for sop in sops],
        change=pages.may(request, pages.MAY_CHANGE_SOP),
        now=now,
    )


def _open_runs() -> dict[int, int]:
    found = Task.objects.filter(status__in=OPEN).order_by().values("version__sop").annotate(count=Count("pk"))
    return {row["version__sop"]: row["count"] for row in found}


def _row(sop: Sop, open_runs: int, now: datetime) -> Row:
    trigger = sop.published.definition.get("trigger", {}) if sop.published else {}
    coming = next_slots(trigger, now, 1) if sop.state == Sop.State.ACTIVE else []
    return Row(
        sop=sop,
        state=STATES[sop.state],
        version=f"Version {sop.published.number}" if sop.published else "Never published",
        when=schedule_in_words(trigger),
        next_at=coming[0] if coming else None,
        open_runs=open_runs,
    )


# -- the editor ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step in the editor: what its closed row says, and the forms inside."""

    step: Step
    number: int
    kind: str
    gist: list[str]
    marks: list[str]
    problems: list[Problem]
    unknown: list[str]
    form: StepForm
    params: ParamsForm
    open: bool
    first: bool
    last: bool
    moved: str = ""

    @property
    def more_params(self) -> list[forms.BoundField]:
        """Return the settings that this step leaves to their defaults."""
        return [field for field in self.params if not self._shown(field)]

    @property
    def main_params(self) -> list[forms.BoundField]:
        """Return the settings that this step gives, or must give."""
        return [field for field in self.params if self._shown(field)]

    def _shown(self, field: forms.BoundField) -> bool:
        given = field.name in self.step.params or field.field.required or bool(field.errors)
        return given or field.name == "everything" or len(self.params.fields) <= 4


@dataclass(frozen=True, slots=True)
class Opened:
    """Which step the address opens, and which one was just moved: "up-7"."""

    step: int
    moved: str


@dataclass(slots=True)
class Posted:
    """The forms that were posted and did not pass, by what they are for."""

    sop: SopForm | None = None
    schedule: ScheduleForm | None = None
    add: AddStepForm | None = None
    step: tuple[int, StepForm, ParamsForm] | None = None
    preview: dict[str, Any] | None = None


@require_http_methods(["GET", "POST"])
def sop_edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the editor of a SOP's draft; a POST saves what it is called and how it may act."""
    sop = _sop(request, pk)
    if request.method != "POST":
        return _editor(request, sop, Posted())
    pages.require(request, pages.MAY_CHANGE_SOP)
    form = SopForm(request.POST, instance=sop)
    if not form.is_valid():
        return _editor(request, _sop(request, pk), Posted(sop=form))
    form.save()
    pages.log(request, sop, "Changed its settings")
    messages.success(request, "Saved. Publish to use it in new runs.")
    return redirect("admin:tasks_sop_change", pk)


def _sop(request: HttpRequest, pk: int) -> Sop:
    pages.require(request, *MAY_SEE)
    return get_object_or_404(Sop.objects.select_related("published").prefetch_related("steps"), pk=pk)


def _editor(request: HttpRequest, sop: Sop, posted: Posted) -> HttpResponse:
    now = clock.now()
    problems = problems_of(sop)
    opened = Opened(pages.asked_number(request, "open", 0), request.GET.get("moved", ""))
    steps = list(sop.steps.all())
    trigger = posted.preview if posted.preview is not None else sop.trigger
    return pages.page(
        request,
        "tasks/sop_edit.html",
        str(sop),
        sop=sop,
        state=STATES[sop.state],
        rows=[
            _step_row(step, place, len(steps), problems, opened, posted) for place, step in enumerate(steps)
        ],
        problems=[problem for problem in problems if not _belongs(problem, steps)],
        problem_count=len(problems),
        sop_form=posted.sop or SopForm(instance=sop),
        schedule_form=posted.schedule or ScheduleForm(initial=ScheduleForm.initial_of(sop.trigger)),
        add_form=posted.add or AddStepForm(sop=sop),
        open_settings=posted.sop is not None,
        open_schedule=posted.schedule is not None or "schedule" in request.GET,
        open_add=posted.add is not None or not steps,
        when=schedule_in_words(trigger),
        coming=next_slots(trigger, now, 3),
        previewing=posted.preview is not None,
        changes=changes(sop),
        open_runs=_open_runs().get(sop.pk, 0),
        removed=_removed(request, sop),
        change=pages.may(request, pages.MAY_CHANGE_SOP),
        operate=pages.may(request, pages.MAY_OPERATE),
        now=now,
    )


def problems_of(sop: Sop) -> list[Problem]:
    """Return everything that keeps the draft from being published."""
    if not sop.steps.all():
        return [Problem("The SOP has no steps yet. Add the first one below.")]
    try:
        return list(definition.obstacles(definition.from_rows(sop)))
    except DefinitionError as error:
        return list(error.problems)


def _belongs(problem: Problem, steps: list[Step]) -> bool:
    return any(problem.step == step.key for step in steps)


def _step_row(
    step: Step, place: int, count: int, problems: list[Problem], opened: Opened, posted: Posted
) -> StepRow:
    mine = posted.step if posted.step and posted.step[0] == step.pk else None
    handler = handlers.get(step.handler) if step.handler in handlers else None
    return StepRow(
        step=step,
        number=place + 1,
        kind=kind_label(handler) if handler else f"Unknown kind of step: {step.handler}",
        gist=gist(step),
        marks=marks(step),
        problems=[problem for problem in problems if problem.step == step.key],
        unknown=unknown_params(step),
        form=mine[1] if mine else StepForm(instance=step, prefix=f"step-{step.pk}"),
        params=mine[2] if mine else open_params(step),
        open=bool(mine) or step.pk == opened.step,
        first=place == 0,
        last=place == count - 1,
        moved=_focused(step, place, count, opened.moved),
    )


def _focused(step: Step, place: int, count: int, moved: str) -> str:
    """Return which of the two buttons keeps the keyboard after a move: the same, or the other at an end."""
    direction, _, number = moved.partition("-")
    if number != str(step.pk):
        return ""
    return {("up", 0): "down", ("down", count - 1): "up"}.get((direction, place), direction)


def marks(step: Step) -> list[str]:
    """Return what staff must see of a step at once: whom it concerns."""
    if step.handler not in handlers:
        return []
    handler = handlers.get(step.handler)
    told = {
        "Asks a person": handler.asks,
        "Customer sees it": handler.sends,
        "Waits": handler.waits,
        "CRM": handler.crm,
    }
    return [text for text, holds in told.items() if holds]


def gist(step: Step) -> list[str]:
    """Return in short phrases what a closed row says of a step's settings and of its way."""
    params = step.params
    said = [
        label.format(_short(params[name]))
        for name, label in _GIST.items()
        if params.get(name) not in (None, "", [])
    ]
    if step.handler in handlers and handlers.get(step.handler).asks:
        infos = handlers.get(step.handler).params.model_fields
        rule = {name: params.get(name, infos[name].default) for name in ("expire", "then") if name in infos}
        if rule.get("expire") and rule.get("then"):
            said.append(f"no answer within {rule['expire']}: {rule['then']}")
    if step.on_success != "next":
        said.append("then the run ends" if step.on_success == "complete" else f"then “{step.on_success}”")
    if step.on_failure:
        said.append(f"on failure: {step.on_failure}")
    return said


_GIST: Mapping[str, str] = {
    "question": "asks “{}”",
    "channel": "in {}",
    "purpose": "purpose: {}",
    "sop": "starts {}",
    "duration": "waits {}",
    "until": "waits until {}",
    "event": "for {}",
    "template": "text: {}",
    "text": "says “{}”",
}


def _short(value: object) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}…"


def changes(sop: Sop) -> list[str]:
    """Return in short phrases how the draft differs from the published version; none when it does not."""
    if sop.published is None:
        return []
    try:
        before, after = sop.published.definition, definition.to_json(definition.from_rows(sop))
    except DefinitionError:
        return ["the draft cannot be read yet"]
    old, new = ({step["key"]: step for step in told["steps"]} for told in (before, after))
    said = [f"step “{key}” added" for key in new if key not in old]
    said += [f"step “{key}” removed" for key in old if key not in new]
    said += [f"step “{key}” changed" for key in new if key in old and new[key] != old[key]]
    if [key for key in old if key in new] != [key for key in new if key in old]:
        said.append("order of the steps changed")
    names = sorted({*before, *after} - {"steps"})
    return said + [f"{spoken(name)} changed" for name in names if before.get(name) != after.get(name)]


# -- changes to the draft --------------------------------------------------------------------------


def _draft(request: HttpRequest, pk: int) -> Sop:
    """Return a SOP for a change, locked until the transaction ends."""
    pages.require(request, pages.MAY_CHANGE_SOP)
    return get_object_or_404(Sop.objects.select_for_update(), pk=pk)


def _back(pk: int, step: int | None = None, **query: object) -> HttpResponse:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    address = reverse("admin:tasks_sop_change", args=[pk])
    return redirect(f"{address}{f'?{asked}' if asked else ''}{f'#step-{step}' if step else ''}")


@require_http_methods(["GET", "POST"])
def sop_add(request: HttpRequest) -> HttpResponse:
    """Begin a new SOP with its name."""
    pages.require(request, "tasks.add_sop")
    form = NewSopForm(pages.posted(request))
    if request.method == "POST" and form.is_valid():
        sop = form.save()
        pages.log(request, sop, "Created")
        messages.success(request, "The SOP is there, as a draft. Now add its steps.")
        return redirect("admin:tasks_sop_change", sop.pk)
    return pages.page(request, "tasks/sop_add.html", "New SOP", form=form)


@require_POST
@transaction.atomic
def schedule(request: HttpRequest, pk: int) -> HttpResponse:
    """Save when the SOP starts by itself, or only show what that would mean."""
    sop = _draft(request, pk)
    form = ScheduleForm(request.POST)
    trigger = form.trigger(sop.trigger) if form.is_valid() else None
    if trigger and not next_slots(trigger, clock.now(), 1) and trigger.get("schedule"):
        form.add_error("schedule", _schedule_problem(trigger))
        trigger = None
    if trigger is None:
        return _editor(request, _sop(request, pk), Posted(schedule=form))
    if "preview" in request.POST:
        return _editor(request, _sop(request, pk), Posted(schedule=form, preview=trigger))
    sop.trigger = trigger
    sop.save(update_fields=["trigger", "changed_at"])
    pages.log(request, sop, "Changed its schedule")
    messages.success(request, f"Schedule saved: {schedule_in_words(trigger)}. Publish to use it.")
    return redirect(f"{reverse('admin:tasks_sop_change', args=[pk])}?schedule=1#schedule")


def _schedule_problem(trigger: Mapping[str, Any]) -> str:
    try:
        calendars.check_cron(str(trigger["schedule"]))
    except ValueError as error:
        return str(error)
    return "This schedule never comes within its dates."


@require_POST
@transaction.atomic
def step_add(request: HttpRequest, pk: int) -> HttpResponse:
    """Append a step and open it."""
    sop = _draft(request, pk)
    form = AddStepForm(request.POST, sop=sop)
    if not form.is_valid():
        return _editor(request, _sop(request, pk), Posted(add=form))
    step = Step.objects.create(
        sop=sop,
        position=10 * (sop.steps.count() + 1),
        key=form.free_key(),
        name=form.cleaned_data["name"],
        handler=form.cleaned_data["handler"],
    )
    renumber([*sop.steps.exclude(pk=step.pk), step])
    pages.log(request, sop, f"Added step {step.key}")
    messages.success(request, f"Step “{step}” is the last one now. Fill in its settings.")
    return _back(pk, step.pk, open=step.pk)


@require_POST
@transaction.atomic
def step_save(request: HttpRequest, pk: int, step_pk: int) -> HttpResponse:
    """Save one step; what does not pass is shown in its row."""
    _draft(request, pk)
    sop = _sop(request, pk)
    step = next((step for step in sop.steps.all() if step.pk == step_pk), None)
    if step is None:
        messages.error(request, "This step is no longer there.")
        return _back(pk)
    before = step.key
    form = StepForm(request.POST, instance=step, prefix=f"step-{step.pk}")
    params = open_params(step, request.POST)
    if not (form.is_valid() & params.is_valid()):
        return _editor(request, _sop(request, pk), Posted(step=(step_pk, form, params)))
    saved = form.save(commit=False)
    saved.params = params.params()
    saved.save()
    for name in ("on_success", "on_failure"):
        sop.steps.filter(**{name: before}).update(**{name: saved.key})
    pages.log(request, sop, f"Changed step {saved.key}")
    messages.success(request, f"Step “{saved}” saved. Publish to use it in new runs.")
    return _back(pk, step_pk)


@require_POST
@transaction.atomic
def step_move(request: HttpRequest, pk: int, step_pk: int) -> HttpResponse:
    """Move one step up or down by one place."""
    sop = _draft(request, pk)
    steps = list(sop.steps.all())
    place = next((place for place, step in enumerate(steps) if step.pk == step_pk), None)
    direction = "up" if request.POST.get("direction") == "up" else "down"
    other = None if place is None else place + (-1 if direction == "up" else 1)
    if place is not None and other is not None and 0 <= other < len(steps):
        steps[place], steps[other] = steps[other], steps[place]
        renumber(steps)
        pages.log(request, sop, f"Moved step {steps[other].key} {direction}")
    # No place in the page is named here: the button that keeps the keyboard brings its step into view.
    return _back(pk, moved=f"{direction}-{step_pk}")


def renumber(steps: list[Step]) -> None:
    """Give the steps the positions 10, 20, 30 … in this order."""
    for place, step in enumerate(steps, start=1):
        step.position = 10 * place
    Step.objects.bulk_update(steps, ["position"])


_KEPT = ("key", "name", "handler", "params", "on_success", "on_failure", "max_retries", "timeout", "rate")


@require_POST
@transaction.atomic
def step_delete(request: HttpRequest, pk: int, step_pk: int) -> HttpResponse:
    """Take a step out; it can be put back from the bar that the editor then shows."""
    sop = _draft(request, pk)
    steps = list(sop.steps.all())
    step = next((step for step in steps if step.pk == step_pk), None)
    if step is not None:
        kept = {name: getattr(step, name) for name in _KEPT}
        request.session["removed_step"] = {"sop": pk, "place": steps.index(step), "step": kept}
        step.delete()
        renumber([other for other in steps if other is not step])
        pages.log(request, sop, f"Removed step {step.key}")
    return _back(pk)


def _removed(request: HttpRequest, sop: Sop) -> dict[str, Any] | None:
    kept = request.session.get("removed_step")
    return kept if kept and kept["sop"] == sop.pk else None


@require_POST
@transaction.atomic
def step_restore(request: HttpRequest, pk: int) -> HttpResponse:
    """Put the step that was removed last back where it was."""
    sop = _draft(request, pk)
    kept = _removed(request, sop)
    if kept is None or sop.steps.filter(key=kept["step"]["key"]).exists():
        messages.warning(request, "There is no step to put back.")
        return _back(pk)
    del request.session["removed_step"]
    before = list(sop.steps.all())
    step = Step.objects.create(sop=sop, position=0, **kept["step"])
    renumber([*before[: kept["place"]], step, *before[kept["place"] :]])
    pages.log(request, sop, f"Restored step {step.key}")
    messages.success(request, f"Step “{step}” is back.")
    return _back(pk, step.pk)


# -- publish, disable, export, run -----------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def publish(request: HttpRequest, pk: int) -> HttpResponse:
    """Show what publishing would do; a POST makes the next version."""
    pages.require(request, pages.MAY_CHANGE_SOP)
    sop = _sop(request, pk)
    if request.method == "POST":
        try:
            version = definition.publish(sop, by=pages.staff(request))
        except DefinitionError as error:
            messages.error(request, f"Not published: {error.problems[0]}")
            return redirect("admin:tasks_sop_publish", pk)
        pages.log(request, sop, f"Published version {version.number}")
        messages.success(request, f"Version {version.number} is published. New runs use it.")
        return redirect("admin:tasks_sop_change", pk)
    problems = problems_of(sop)
    return pages.page(
        request,
        "tasks/sop_publish.html",
        f"Publish {sop}?",
        sop=sop,
        problems=problems,
        changes=changes(sop),
        running=_runs_by_version(sop),
        when=schedule_in_words(sop.trigger),
        coming=next_slots(sop.trigger, clock.now(), 3),
        now=clock.now(),
    )


def _runs_by_version(sop: Sop) -> list[dict[str, Any]]:
    """Return how many open runs use which version, as {"number", "count"}."""
    found = Task.objects.filter(version__sop=sop, status__in=OPEN).order_by("version__number")
    return [
        {"number": row["version__number"], "count": row["count"]}
        for row in found.values("version__number").annotate(count=Count("pk"))
    ]


@require_http_methods(["GET", "POST"])
@transaction.atomic
def switch(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask whether the SOP shall be disabled or enabled; a POST does it."""
    sop = _draft(request, pk)
    enable = sop.state == Sop.State.DISABLED
    if sop.published_id is None:
        messages.warning(request, "This SOP was never published, so there is nothing to disable.")
        return _back(pk)
    if request.method == "POST":
        _enable(sop) if enable else definition.disable(sop)
        pages.log(request, sop, "Enabled" if enable else "Disabled")
        done = (
            "It starts again by its schedule."
            if enable
            else "It starts no new runs. Open runs go on to their end."
        )
        messages.success(request, f"{sop} is {'enabled' if enable else 'disabled'}. {done}")
        return _back(pk)
    return pages.page(
        request,
        "tasks/sop_switch.html",
        f"{'Enable' if enable else 'Disable'} {sop}?",
        sop=sop,
        enable=enable,
        running=_runs_by_version(sop),
    )


_ENABLED = "is enabled. It starts again by its schedule, or by hand."
_DISABLED = "is disabled. It starts no new runs; open runs go on to their end."


def _enable(sop: Sop) -> None:
    """Let the SOP start runs again; what came due while it was disabled is not made up for."""
    Sop.objects.filter(pk=sop.pk).update(state=Sop.State.ACTIVE, cursor=clock.now())


@require_GET
def export(request: HttpRequest, pk: int) -> HttpResponse:
    """Send the draft as a YAML file."""
    sop = _sop(request, pk)
    text = definition.dump(definition.from_rows(sop))
    return HttpResponse(
        text,
        content_type="application/yaml; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{sop.slug}.yaml"'},
    )


@require_http_methods(["GET", "POST"])
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask what a run is given; a POST starts it, once, however often the form is sent."""
    pages.require(request, pages.MAY_OPERATE)
    sop = _sop(request, pk)
    try:
        version = triggers.runnable(sop)
    except triggers.NotRunnable as refusal:
        messages.warning(request, str(refusal))
        return _back(pk)
    told = definition.from_json(version.definition)
    form = run_form(told.inputs)(pages.posted(request))
    # The hidden number makes a form that is sent twice start one run.
    once = _as_uuid(request.POST.get("once", "")) or uuid.uuid4()
    if request.method == "POST" and form.is_valid():
        answer = _start(request, version, form, once)
        if answer is not None:
            return answer
    return pages.page(
        request,
        "tasks/sop_run.html",
        f"Run {sop} now?",
        sop=sop,
        form=form,
        once=once,
        steps=told.steps,
    )


def _start(request: HttpRequest, version: SopVersion, form: Any, once: uuid.UUID) -> HttpResponse | None:
    by = f"user:{pages.staff(request).pk}"
    try:
        task = engine.start(version, form.given(), key=f"form:{once}", by=by)
    except engine.InputError as error:
        form.add_error(None, str(error))
        return None
    if task is None:
        messages.info(request, "This run was started already; nothing was started twice.")
        return redirect(f"{reverse('admin:tasks_task_changelist')}?sop={version.sop.slug}")
    messages.success(request, "The run is started.")
    return redirect("admin:tasks_task_change", task.pk)


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
