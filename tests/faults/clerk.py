"""The desk's own process: does what the test asks with the product's code and settings."""

import contextlib
import io
from collections.abc import Mapping
from multiprocessing.connection import Client
from typing import Any

from celery import current_app
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Count, Q
from django.utils import timezone

from tasks import approvals, engine, sweep
from tasks.models import Approval, Notification, ScheduledRun, Sop, SopVersion, Task, TaskEvent

Row = dict[str, Any]


def main(address: str) -> None:
    """Do what comes over the line until it ends."""
    with Client(address, family="AF_UNIX") as line:
        while True:
            try:
                verb, arguments = line.recv()
            except EOFError:
                return
            try:
                connection.close_if_unusable_or_obsolete()
                answer: tuple[bool, Any] = True, VERBS[verb](**arguments)
            except Exception as error:
                connection.close()
                answer = False, f"{type(error).__name__}: {error}"
            line.send(answer)


def publish(sop: Mapping[str, Any]) -> int:
    """Make a version of this SOP, active from now on."""
    row, _ = Sop.objects.get_or_create(slug=sop["sop"], defaults={"name": sop["name"]})
    number = row.versions.count() + 1
    now = timezone.now()
    version = SopVersion.objects.create(sop=row, number=number, definition=sop, published_at=now)
    changes = {
        "published": version,
        "state": Sop.State.ACTIVE,
        "trigger": sop.get("trigger", {}),
        "cursor": now,
    }
    Sop.objects.filter(pk=row.pk).update(**changes)
    return int(version.pk)


def start(version: int, inputs: list[Row], priority: int | None) -> list[str]:
    """Start one run for each of the inputs, all in one transaction."""
    published = SopVersion.objects.get(pk=version)
    with transaction.atomic():
        started = [engine.start(published, one, priority=priority) for one in inputs]
    return [str(task.pk) for task in started if task]


def signal(tasks: list[str], kind: str, codes: Row) -> int:
    """Signal runs."""
    return engine.signal(tasks, kind, **codes)


def answer(approval: str, choice: str) -> None:
    """Answer a question."""
    approvals.answer(approval, choice, by=None)


def facts() -> dict[str, list[Row]]:
    """Return what the tables of the engine hold, all at one moment."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return {
            "tasks": list(Task.objects.order_by("id").values()),
            "events": list(TaskEvent.objects.order_by("task_id", "seq").values()),
            "approvals": list(Approval.objects.values()),
            "notifications": list(Notification.objects.values()),
            "runs": list(ScheduledRun.objects.order_by("slot").values()),
        }


def counts() -> dict[str, int]:
    """Return how many tasks have which status."""
    return dict(Task.objects.order_by().values_list("status").annotate(n=Count("id")))


def busy() -> int:
    """Return how many tasks are under way: to run, running, or with mail that nobody has read."""
    return Task.objects.filter(Q(status__in=["ready", "running"]) | ~Q(mailbox=[])).count()


def send(name: str, count: int) -> None:
    """Publish messages."""
    for _ in range(count):
        current_app.send_task(name, ignore_result=True, retry=False)


def sweep_now() -> None:
    """Sweep here."""
    sweep.sweep(force=True)


def manage(arguments: list[str]) -> str:
    """Run a management command; return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        call_command(*arguments, stdout=printed)
    return printed.getvalue()


def sql(statement: str) -> list[Row]:
    """Run one statement; return what it found."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else ())]


VERBS = {
    "publish": publish,
    "start": start,
    "signal": signal,
    "answer": answer,
    "facts": facts,
    "counts": counts,
    "busy": busy,
    "send": send,
    "sweep": sweep_now,
    "manage": manage,
    "sql": sql,
}
