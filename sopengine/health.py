"""Is the machine alive, is it ready, and how much is there to do? For monitors, not for people."""

import hmac
import time
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Count, Min
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from sopengine import clock, inbox
from tasks import watch
from tasks.models import Approval, Notification, Pulse, Task

SWEEP_PULSE = "sweep"
REDIS_SECONDS = 2.0


class Alive:
    """Answer /healthz before anything else: this process serves. No host check, no redirect, no database."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info == "/healthz":
            return HttpResponse("ok\n", content_type="text/plain", headers={"Cache-Control": "no-store"})
        return self.get_response(request)


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 when work can be taken and is being done; else 503 with what is wrong.

    Who asks here again and again also makes that staff are told of silent workers, once.
    """
    found: dict[str, Any] = {}
    wrong: list[str] = []
    try:
        _look_at_tables(found, wrong)
        found["database"] = "ok"
        watch.look_for_workers()
    except DatabaseError:
        connection.close()
        found["database"] = "no answer"
        wrong.append("database: no answer")
    found["redis"] = _redis_state()
    if found["redis"] == "no answer":
        wrong.append("redis: no answer; work goes on at the pace of the sweep")
    return JsonResponse(
        {"ready": not wrong, "wrong": wrong, **found},
        status=503 if wrong else 200,
        headers={"Cache-Control": "no-store"},
    )


def _look_at_tables(found: dict[str, Any], wrong: list[str]) -> None:
    """Add the age of the last sweep and of the oldest task that is due, in seconds."""
    swept = Pulse.objects.filter(name=SWEEP_PULSE).values_list("at", flat=True).first()
    found["last_sweep_seconds"] = None if swept is None else round(_age(swept), 1)
    if swept is None:
        wrong.append("sweep: never; expected a worker, beat or manage.py engine sweep")
    elif _age(swept) > settings.READY_SWEEP_AGE:
        wrong.append(f"sweep: {_age(swept):.0f} s ago; expected at most {settings.READY_SWEEP_AGE:g} s")
    overdue = oldest_overdue()
    found["oldest_overdue_seconds"] = round(overdue, 1)
    if overdue > settings.READY_OVERDUE:
        wrong.append(
            f"tasks: one is overdue for {overdue:.0f} s; expected at most {settings.READY_OVERDUE:g} s"
        )


def oldest_overdue() -> float:
    """Return for how many seconds the oldest due task has been due; 0 when none is.

    One look at the start of the due index for each priority: as fast with a million tasks as with ten.
    """
    due = Task.objects.filter(wake_at__isnull=False)
    firsts = [due.filter(crashes=0, priority=priority) for priority in Task.Priority.values]
    moments = [rows.aggregate(first=Min("wake_at"))["first"] for rows in (*firsts, due.filter(crashes__gt=0))]
    return max([0.0, *(_age(moment) for moment in moments if moment)])


def _age(moment: datetime) -> float:
    return (clock.now() - moment).total_seconds()


@lru_cache(maxsize=2)
def _redis_client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=None
    )


def _redis_state() -> str:
    if not settings.REDIS_URL:
        return "not used"
    try:
        _redis_client(settings.REDIS_URL).ping()
    except (redis.RedisError, OSError):
        return "no answer"
    return "ok"


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer the figures of the engine as Prometheus reads them, computed from the database now."""
    if not _may_read_metrics(request):
        return HttpResponse(
            "expected: Authorization: Bearer <METRICS_TOKEN>\n", status=401, content_type="text/plain"
        )
    began = time.monotonic()
    lines = [line for name, text, kind, values in _figures() for line in _exposed(name, text, kind, values)]
    lines += _exposed(
        "sop_scrape_seconds", "How long these figures took.", "gauge", {"": time.monotonic() - began}
    )
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


def _may_read_metrics(request: HttpRequest) -> bool:
    """Tell whether the request shows the token; without one set, only development may look."""
    if not settings.METRICS_TOKEN:
        return bool(settings.DEBUG)
    shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(shown.encode(), settings.METRICS_TOKEN.encode())


def _figures() -> list[tuple[str, str, str, dict[str, float]]]:
    """Return name, meaning, kind and values by label of each figure."""
    counted = dict(Task.objects.order_by().values_list("status").annotate(count=Count("id")))
    by_status = {f'status="{status}"': float(counted.get(status, 0)) for status in Task.Status.values}
    now = clock.now()
    due = Task.objects.filter(wake_at__lte=now).count()
    swept = Pulse.objects.filter(name=SWEEP_PULSE).values_list("at", flat=True).first()
    pending = Notification.objects.filter(wake_at__isnull=False, state=Notification.State.PENDING).count()
    asked = Approval.objects.filter(state=Approval.State.OPEN).count()
    return [
        ("sop_tasks", "Runs by status.", "gauge", by_status),
        ("sop_tasks_due", "Runs that somebody must look at now.", "gauge", {"": due}),
        (
            "sop_oldest_overdue_seconds",
            "How long the oldest of them has been due.",
            "gauge",
            {"": oldest_overdue()},
        ),
        (
            "sop_last_sweep_seconds",
            "Age of the last sweep; -1 if never.",
            "gauge",
            {"": _age(swept) if swept else -1},
        ),
        ("sop_notifications_pending", "Messages to staff that wait to be posted.", "gauge", {"": pending}),
        (
            "sop_notifications_dead",
            "Messages to staff that could not be delivered.",
            "gauge",
            {"": Notification.objects.filter(state=Notification.State.DEAD).count()},
        ),
        (
            "sop_deliveries_failed",
            "Webhooks that could not be processed.",
            "gauge",
            {"": inbox.failures()},
        ),
        ("sop_approvals_open", "Questions that wait for a person.", "gauge", {"": asked}),
    ]


def _exposed(name: str, text: str, kind: str, values: dict[str, float]) -> list[str]:
    samples = [
        f"{name}{{{label}}} {value:g}" if label else f"{name} {value:.10g}" for label, value in values.items()
    ]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
