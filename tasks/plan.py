"""From a step's line to a call: its handler, its parameters, its effect, what its templates may name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, cast
from zoneinfo import ZoneInfo

from django.conf import settings
from pydantic import ValidationError, create_model

from credentials import vault
from crm.service import CrmService
from sopengine.errors import DataError
from tasks import context as values
from tasks import days_off, templating
from tasks.definition import SopDef, StepDef, from_json
from tasks.models import SopVersion
from tasks.outcome import Contact, Deadline, Done, Effect, Handler, Outcome, StepRun, handlers
from tasks.transition import Turn


@dataclass(frozen=True, slots=True)
class Plan:
    """One step of one version, made ready: `fixed` are its parameters where no template needs rendering."""

    step: StepDef
    handler: Handler
    fixed: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a step, ready to be made. `looks` says that what was sent must be looked up first.

    `contact` is what is known of the person it writes to; `reserved` is whose turns were taken under which
    mark, None where no turn was needed.
    """

    plan: Plan
    params: Mapping[str, Any]
    rendered: Mapping[str, Any]
    effect: Effect
    looks: bool
    contact: Contact = field(default_factory=Contact)
    reserved: tuple[tuple[str, ...], str] | None = None


@lru_cache(maxsize=512)
def definition_of(version: int) -> SopDef:
    """Return the definition of a published version, which never changes."""
    return from_json(SopVersion.objects.only("definition").get(pk=version).definition)


def forget() -> None:
    """Forget what is cached of versions: for tests, whose databases are rolled back."""
    definition_of.cache_clear()
    _plan.cache_clear()


@lru_cache(maxsize=4096)
def _plan(version: int, step: str, handler: Handler) -> Plan:
    line = definition_of(version).step(step)
    raw = {name: value for name, value in line.params.items() if name not in handler.raw_params}
    fixed = None if templating.has_template(raw) else _checked(handler, line, line.params)
    return Plan(line, handler, fixed)


def plan_of(turn: Turn) -> Plan:
    """Return the plan of the step it stands at; UnknownName when its handler is gone."""
    line = turn.definition
    return _plan(turn.version, turn.step, handlers.get(line.handler))


def _checked(handler: Handler, line: StepDef, rendered: Mapping[str, Any]) -> dict[str, Any]:
    try:
        model = handler.params.model_validate(rendered)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"step {line.key!r}, parameter {where}: {first['msg']}") from None
    return {name: getattr(model, name) for name in handler.params.model_fields}


def call_of(turn: Turn, plan: Plan, window: Callable[[], float | None]) -> Call:
    """Return the call of this step: the rendered request of its first start, or a fresh one.

    `window()` is for how many hours the CRM keeps an idempotency key; None: it ignores keys.
    """
    effect = weaker(turn, plan.handler, window)
    if turn.started and turn.request:
        rendered = vault.unseal(turn.request, table=values.TABLE, row=str(turn.id), field="request")
        return Call(plan, _checked(plan.handler, plan.step, rendered), rendered, effect, True)
    if plan.fixed is not None:
        return Call(plan, plan.fixed, plan.step.params, effect, turn.started)
    raw = plan.handler.raw_params
    names = names_of(turn)
    rendered = {
        name: value if name in raw else templating.render(value, names, customer_facing=plan.handler.sends)
        for name, value in plan.step.params.items()
    }
    return Call(plan, _checked(plan.handler, plan.step, rendered), rendered, effect, turn.started)


def weaker(turn: Turn, handler: Handler, window: Callable[[], float | None]) -> Effect:
    """Return what a repeat would do, given what the handler needs and what the CRM can."""
    if handler.effect is not Effect.IDEMPOTENT or not handler.crm:
        return handler.effect
    hours = window()
    if hours is not None and turn.now - since(turn) < timedelta(hours=hours):
        return Effect.IDEMPOTENT
    return Effect.VERIFY_FIRST if handler.look else Effect.AT_MOST_ONCE


def since(turn: Turn) -> datetime:
    """Return when the step began: the same at every repeat."""
    began = turn.progress.get("since")
    if not began:
        began = turn.progress["since"] = turn.now.isoformat()
    return datetime.fromisoformat(began)


def names_of(turn: Turn) -> dict[str, Any]:
    """Return everything that a template of this step may name."""
    began = since(turn)
    slot = turn.progress.get("slot")
    return {
        **surroundings(datetime.fromisoformat(slot) if slot else began, began),
        **values.merge(turn.context, turn.sealed),
        "run": {"id": str(turn.id)},
    }


def surroundings(slot: datetime, now: datetime) -> dict[str, Any]:
    """Return the names that every run has: slot, now, business."""
    zone = ZoneInfo(settings.TIME_ZONE)
    return {
        "slot": _moment(slot.astimezone(zone)),
        "now": now.astimezone(zone).isoformat(),
        "business": {
            "name": settings.BUSINESS_NAME,
            "address": settings.BUSINESS_ADDRESS,
            "phone": settings.BUSINESS_PHONE,
            "review_link": settings.REVIEW_LINK,
            "hears_replies": settings.MAIL_IN,
        },
    }


def _moment(at: datetime) -> dict[str, Any]:
    return {
        "year": at.year,
        "month": at.month,
        "day": at.day,
        "date": at.date().isoformat(),
        "time": f"{at:%H:%M}",
    }


def _read_customer(step: StepRun) -> Outcome:
    """Read the run's customer again."""
    customer = step.crm.customers.find(str(step.context[values.CUSTOMER_ID]))
    return Done(values=step.crm.customer_fields(customer))


# Not a step that anybody can name: what a retry does before its step, because the CRM owns customers.
REREAD = Handler(
    name="engine.reread",
    run=_read_customer,
    params=create_model("engine.reread"),
    results=None,
    effect=Effect.NONE,
    look=None,
    calls=True,
    crm=True,
    sends=False,
    asks=False,
    drafts=False,
    waits=False,
    rechecks=False,
    sets=(),
    open_fields=frozenset(),
    raw_params=frozenset(),
    row_params=frozenset(),
    summary="",
)


def reread_call(turn: Turn) -> Call:
    """Return the call that reads the run's customer again."""
    return Call(Plan(turn.definition, REREAD, {}), {}, {}, Effect.NONE, False)


class Names(Mapping[str, Any]):
    """What a step may name, put together at first use: many steps never look."""

    def __init__(self, turn: Turn) -> None:
        self._turn: Turn | None = turn
        self._names: dict[str, Any] = {}

    def _all(self) -> dict[str, Any]:
        if self._turn is not None:
            self._names, self._turn = names_of(self._turn), None
        return self._names

    def __getitem__(self, name: str) -> Any:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class NoCrm:
    """What a handler gets that did not say that it needs the CRM: held tasks rely on its word."""

    def __getattr__(self, name: str) -> Any:
        raise DataError("the handler uses the CRM, but was registered without crm=True", code="undeclared")


NO_CRM = cast(CrmService, NoCrm())


def step_run(turn: Turn, crm: CrmService, deadline: Deadline, contact: Contact) -> StepRun:
    """Return what the handler gets."""
    return StepRun(
        task_id=turn.id,
        sop=turn.sop.slug,
        step=turn.step,
        visit=turn.visit,
        channel=turn.sop.channel,
        context=Names(turn),
        now=since(turn),
        crm=crm,
        deadline=deadline,
        cursor=turn.progress.get("cursor", ""),
        retries=turn.retries,
        filters=turn.progress.get("filters", {}),
        contact=contact,
        days_off=days_off.known(),
    )
