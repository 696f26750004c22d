"""The API under /api/v1/: start runs, see them, tell them what happened, answer their questions.

Each request shows a key; what it does is done in the name of the key's user, who needs the same
permissions as in the admin. Every refusal is {"error": {"code", "message"}}. Customer data is shown
only as the draft of a question, to a key that may read questions and asks for drafts.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.models import Model, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.urls import URLPattern, URLResolver
from ninja import NinjaAPI, Status
from ninja.errors import HttpError, ValidationError
from ninja.operation import Operation
from ninja.params.functions import Header, Query
from ninja.security.base import AuthBase
from pydantic import Field

from credentials import vault
from sopengine.errors import DataError
from tasks import api_keys, api_shapes, approvals, engine, journal, pages, timeline, triggers
from tasks.api_shapes import (
    AnswerGiven,
    EventGiven,
    Question,
    Questions,
    Refusal,
    Run,
    RunEvent,
    RunEvents,
    Runs,
    Slug,
    StartGiven,
    Taken,
)
from tasks.models import ApiKey, Approval, Sop, Task, TaskEvent

log = logging.getLogger(__name__)

ABOUT = """Runs of the firm's procedures (SOPs) and the questions they put to people.

A key is made with `manage.py apikey create NAME --user USER --scope SCOPE` or in the admin, and sent as
`Authorization: Bearer sop_…`. A start carries an `Idempotency-Key`: sent again with the same body it
answers with the same run and starts nothing. Lists come in pages; `next` is null on the last one.

Each key has so many requests a minute; one too many is refused with 429, does nothing, and is told in
`Retry-After` after how many seconds to come again. So is 503, where the database does not answer."""
ALWAYS, WITH_BODY = (401, 403, 422, 429, 503), (400, 413)
M = TypeVar("M", bound=Model)
LATER = "10"  # seconds, where the database does not answer
IdempotencyKey = Annotated[str, Field(pattern=r"^[!-~]{1,200}$", examples=["order-4711"])]
PageSize = Annotated[int, Field(ge=1, le=100)]


class Problem(Exception):
    """A request that is refused: its HTTP status, a code for programs, a sentence for people."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


class Key(AuthBase):
    """Let in who shows a key in force that has this scope, and whose user may do it."""

    openapi_type = "http"
    openapi_scheme = "bearer"

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = scope

    def __call__(self, request: HttpRequest) -> ApiKey:
        kind, _, shown = request.headers.get("Authorization", "").partition(" ")
        key = api_keys.holder(shown.strip()) if kind.lower() == "bearer" else None
        if key is None:
            shows = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "no_key", "Show a key that is in force: Authorization: Bearer sop_…", shows)
        if wait := api_keys.wait_of(key):
            seconds = math.ceil(wait)
            told = f"That is too much for this key; come again in {seconds} s."
            raise Problem(429, "too_many", told, {"Retry-After": str(seconds)})
        if self.scope not in key.scopes:
            raise Problem(403, "scope", f"This key has not the scope {self.scope}.")
        if not any(map(key.user.has_perm, api_keys.SCOPES[self.scope].permissions)):
            raise Problem(403, "permission", "The user in whose name this key acts may not do that.")
        _refuse_unknown(request)
        return key


def _refuse_unknown(request: HttpRequest) -> None:
    """Refuse a parameter that the operation has not: a filter that is ignored gives too many."""
    assert request.resolver_match is not None
    known = _parameters()[request.resolver_match.route, str(request.method)]
    unknown = sorted(set(request.GET) - known)
    if unknown:
        there = f"expected some of {', '.join(sorted(known))}" if known else "expected none"
        raise Problem(422, "invalid", f"query: there is no parameter of that name; {there}")


@cache
def _parameters() -> dict[tuple[str, str], frozenset[str]]:
    """Return the names of the query's parameters by address, as Django writes it, and method."""
    return {
        (path.strip("/").replace("{", "<").replace("}", ">"), method.upper()): frozenset(
            told["name"] for told in operation["parameters"] if told["in"] == "query"
        )
        for path, item in api.get_openapi_schema()["paths"].items()
        for method, operation in item.items()
    }


class Api(NinjaAPI):
    """Our API; its operations are called as their functions are."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return operation.view_func.__name__


def _responses(*refused: int, **answers: Any) -> dict[Any, Any]:
    """Return what an operation may answer: `ok`, `made` or `taken`, and how it may refuse."""
    codes = {"ok": 200, "made": 201, "taken": 202}
    answered = {codes[name]: model for name, model in answers.items()}
    return {**answered, **dict.fromkeys(sorted({*ALWAYS, *refused}), Refusal)}


api = Api(title=f"{settings.BUSINESS_NAME}: SOPs", version="1", description=ABOUT, docs_url=None)


# -- runs ----------------------------------------------------------------------------------------


@api.post(
    "/runs",
    auth=Key("runs:start"),
    response=_responses(*WITH_BODY, 404, 409, made=Run, ok=Run),
    tags=["runs"],
)
def start_run(
    request: HttpRequest,
    given: StartGiven,
    idempotency_key: Annotated[IdempotencyKey, Header(alias="Idempotency-Key")],
) -> Status[Run]:
    """Start a run. 201 is a new one, 200 the one that this Idempotency-Key has started before.

    Scope: runs:start. The key counts for this user and this SOP, and is spent for ever, unless the
    run is cancelled. With another body it is refused (409).
    """
    user = _user(request)
    sop = Sop.objects.select_related("published").filter(slug=given.sop).first()
    if sop is None:
        raise Problem(404, "no_such_sop", f"There is no SOP {given.sop!r}.")
    key, mark = f"api:{user.pk}:{idempotency_key}", _mark_of(given.inputs)
    if earlier := engine.started(sop.pk, key):
        return Status(200, _same(earlier, mark))
    try:
        task = engine.start(
            triggers.runnable(sop), given.inputs, key=key, by=f"user:{user.pk}", origin={"mark": mark}
        )
    except triggers.NotRunnable as refusal:
        raise Problem(409, "not_runnable", str(refusal)) from None
    except (engine.InputError, DataError) as refusal:
        raise Problem(422, "inputs", str(refusal)) from None
    if task is not None:
        return Status(201, Run.of(_run(task.pk)))
    if earlier := engine.started(sop.pk, key):  # somebody else was faster by a moment
        return Status(200, _same(earlier, mark))
    raise Problem(409, "key_spent", "This Idempotency-Key has started a run that was removed since.")


def _mark_of(inputs: dict[str, Any]) -> str:
    """Return a keyed hash by which the same inputs are known again; it tells nothing about them."""
    return vault.fingerprint(f"inputs:{json.dumps(inputs, sort_keys=True)}")[:32]


def _same(task: Task, mark: str) -> Run:
    """Return the run that was started before, if it was with the same inputs."""
    first = TaskEvent.objects.filter(task=task, seq=1).values_list("data", flat=True).first() or {}
    if first.get("mark") != mark:
        raise Problem(409, "key_reused", "This Idempotency-Key has started a run with other inputs.")
    return Run.of(_run(task.pk))


@api.get("/runs", auth=Key("runs:read"), response=_responses(ok=Runs), tags=["runs"])
def list_runs(
    request: HttpRequest,
    sop: Slug | None = None,
    status: api_shapes.Status | None = None,
    parent: UUID | None = None,
    before: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
    limit: PageSize = 25,
) -> Runs:
    """List runs, newest first. Scope: runs:read."""
    asked = {"version__sop__slug": sop, "status": status, "parent": parent}
    rows = _tasks().filter(**{name: value for name, value in asked.items() if value is not None})
    if before is not None:
        last = _cursor(Task.objects.filter(pk=before), "before")
        rows = rows.filter(Q(created_at__lt=last) | Q(created_at=last, pk__lt=before))
    found, there_is_more = _page(rows.order_by("-created_at", "-pk"), limit)
    return Runs(runs=[Run.of(task) for task in found], next=found[-1].pk if there_is_more else None)


@api.get("/runs/{run_id}", auth=Key("runs:read"), response=_responses(404, ok=Run), tags=["runs"])
def show_run(request: HttpRequest, run_id: UUID) -> Run:
    """Show one run. Scope: runs:read."""
    return Run.of(_run(run_id))


@api.get(
    "/runs/{run_id}/events", auth=Key("runs:read"), response=_responses(404, ok=RunEvents), tags=["runs"]
)
def list_events(
    request: HttpRequest,
    run_id: UUID,
    after: Annotated[int, Query(ge=0, lt=2**53, description="The `next` of the page before.")] = 0,
    limit: PageSize = 100,
) -> RunEvents:
    """Tell what happened to a run, oldest first. Scope: runs:read."""
    task = _run(run_id)
    found, there_is_more = _page(task.events.filter(seq__gt=after).order_by("seq"), limit)
    names = timeline.names_for(task, found)
    told = [RunEvent.of(event, names) for event in found]
    return RunEvents(events=told, next=found[-1].seq if there_is_more else None)


@api.post(
    "/runs/{run_id}/events",
    auth=Key("runs:signal"),
    response=_responses(*WITH_BODY, 404, 409, taken=Taken),
    tags=["runs"],
)
def send_event(request: HttpRequest, run_id: UUID, given: EventGiven) -> Status[Taken]:
    """Tell a run what happened. One that does not wait for it now remembers it. Scope: runs:signal.

    A run that is over passes it on to those that it has started and that go on, such as its follow-up.
    """
    task = _run(run_id)
    told = {"name": given.name, "by": _user(request).pk}
    if not engine.signal([task.pk], "event", **told):
        heirs = journal.descendants([task.pk])
        if not engine.signal(heirs, "event", **told):
            state = task.get_status_display().lower()
            raise Problem(409, "over", f"The run is {state}, and none that it has started goes on.")
    return Status(202, Taken())


# -- questions -----------------------------------------------------------------------------------


@api.get("/approvals", auth=Key("approvals:read"), response=_responses(ok=Questions), tags=["approvals"])
def list_approvals(
    request: HttpRequest,
    state: Literal["open", "answered", "expired", "void", "all"] = "open",
    run: UUID | None = None,
    drafts: Annotated[bool, Query(description="With the text that the customer would get.")] = False,
    after: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
    limit: PageSize = 25,
) -> Questions:
    """List questions to people, oldest first. Scope: approvals:read."""
    if drafts and not pages.may_read_drafts(_user(request)):  # type: ignore[arg-type]
        raise Problem(403, "permission", "The user in whose name this key acts may not read drafts.")
    rows = _approvals()
    if state != "all":
        rows = rows.filter(state=state)
    if run is not None:
        rows = rows.filter(task=run)
    if after is not None:
        last = _cursor(Approval.objects.filter(pk=after), "after")
        rows = rows.filter(Q(created_at__gt=last) | Q(created_at=last, pk__gt=after))
    found, there_is_more = _page(rows.order_by("created_at", "pk"), limit)
    shown = [Question.of(approval, draft=drafts) for approval in found]
    return Questions(approvals=shown, next=found[-1].pk if there_is_more else None)


@api.post(
    "/approvals/{approval_id}/answer",
    auth=Key("approvals:answer"),
    response=_responses(*WITH_BODY, 404, 409, ok=Question),
    tags=["approvals"],
)
def answer_approval(request: HttpRequest, approval_id: UUID, given: AnswerGiven) -> Question:
    """Answer a question in the name of the key's user; the first answer wins (409 for the others).

    Scope: approvals:answer. The answer tells no draft.
    """
    if not Approval.objects.filter(pk=approval_id).exists():
        raise Problem(404, "no_such_approval", "There is no such question.")
    edited = given.edited.parts() if given.edited is not None else None
    try:
        approvals.answer(approval_id, given.choice, by=_user(request), edited=edited)
    except approvals.AnswerRefused as refusal:
        raise Problem(409, "refused", str(refusal)) from None
    return Question.of(_approvals().get(pk=approval_id), draft=False)


# -- rows ----------------------------------------------------------------------------------------


def _user(request: HttpRequest) -> AbstractUser:
    """Return in whose name the request acts."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]  # what `Key` returned
    return key.user


def _tasks() -> "QuerySet[Task]":
    return Task.objects.select_related("version__sop")


def _approvals() -> "QuerySet[Approval]":
    return Approval.objects.select_related("task__version__sop", "answered_by")


def _run(run_id: UUID) -> Task:
    task = _tasks().filter(pk=run_id).first()
    if task is None:
        raise Problem(404, "no_such_run", "There is no such run.")
    return task


def _cursor(row: "QuerySet[Any]", name: str) -> Subquery:
    """Return where a page begins, for a query: the row's hour as the database keeps it, to the last digit."""
    if not row.exists():
        raise Problem(422, "cursor", f"{name} names no row; begin again without it.")
    return Subquery(row.values("created_at")[:1])


def _page(rows: "QuerySet[M]", limit: int) -> tuple[list[M], bool]:
    """Return one page, and whether there is more."""
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


# -- refusals ------------------------------------------------------------------------------------


def refused(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> HttpResponse:
    """Return a refusal as every operation gives it."""
    return JsonResponse({"error": {"code": code, "message": message}}, status=status, headers=headers or {})


@api.exception_handler(Problem)
def _problem(request: HttpRequest, problem: Any) -> HttpResponse:
    return refused(problem.status, problem.code, problem.message, problem.headers)


@api.exception_handler(ValidationError)
def _not_valid(request: HttpRequest, error: Any) -> HttpResponse:
    """Name the first thing that is wrong; never the value."""
    first = error.errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "given")
    return refused(422, "invalid", f"{place}: {first['msg']}")


@api.exception_handler(HttpError)
def _not_readable(request: HttpRequest, error: Any) -> HttpResponse:
    """The one that the framework raises by itself: the body is no JSON."""
    return refused(400, "not_json", "The body cannot be read as JSON.")


@api.exception_handler(RequestDataTooBig)
def _too_big(request: HttpRequest, error: Any) -> HttpResponse:
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return refused(413, "too_large", f"The body is too large; at most {most:,} bytes are read.")


@api.exception_handler(UnreadablePostError)
def _broken_off(request: HttpRequest, error: Any) -> HttpResponse:
    return refused(400, "broken_off", "The body broke off.")


@api.exception_handler(OperationalError)
@api.exception_handler(InterfaceError)
def _database_away(request: HttpRequest, error: Any) -> HttpResponse:
    log.warning("database did not answer: %s", journal.sqlstate(error))
    connection.close_if_unusable_or_obsolete()
    return refused(503, "unavailable", "The database does not answer; try again.", {"Retry-After": LATER})


@api.exception_handler(vault.VaultError)
def _sealed_for_good(request: HttpRequest, error: Any) -> HttpResponse:
    log.error("a draft cannot be opened: %s", error)
    return refused(503, "unavailable", "The draft cannot be opened: a key is missing.")


@api.exception_handler(Exception)
def _bug(request: HttpRequest, error: Any) -> HttpResponse:
    """Nobody foresaw this: the log has it under the request's id, the caller learns nothing of it."""
    if isinstance(error, DatabaseError):
        log.error("database refused: %s", journal.sqlstate(error))
    else:
        log.error("request failed: %s", type(error).__name__, exc_info=error)
    return refused(500, "internal", "Something broke on our side; it is logged.")


# -- addresses -----------------------------------------------------------------------------------


def _nothing_here(request: HttpRequest, **_: Any) -> HttpResponse:
    """Answer an address that the API does not have."""
    return refused(404, "no_such_address", "The API has no such address; see /api/v1/openapi.json")


def _finished(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Return the view with what all answers have in common; a wrong method is refused in our words."""

    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        if response.status_code == 405:
            allowed = ", ".join(sorted(response.headers["Allow"].split(", ")))
            response = refused(405, "method", f"Use {allowed} here.", {"Allow": allowed})
        response.headers["Cache-Control"] = "no-store"
        return response

    answer.csrf_exempt = True  # type: ignore[attr-defined]  # a key is no cookie: no browser sends it by itself
    return answer


def _addresses() -> tuple[list[URLPattern | URLResolver], str, str]:
    patterns, app, namespace = api.urls
    for pattern in patterns:
        assert isinstance(pattern, URLPattern)
        own_page = pattern.name == "api-root"  # which only says where the others begin
        pattern.callback = _finished(_nothing_here if own_page else pattern.callback)
    return patterns, app, namespace


urls = _addresses()
nothing_here = _finished(_nothing_here)
