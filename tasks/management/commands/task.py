"""task: the runs, their story, and what staff can do with them."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from sopengine import arguments
from tasks import engine, timeline
from tasks.models import Task
from tasks.short_ids import NoSuchId, find, short

SIGNALS = {
    "retry": "try again from the step that failed",
    "cancel": "end the run; nothing more is sent",
    "pause": "stop until somebody resumes it",
    "resume": "go on with a paused run",
}
OVER = frozenset({Task.Status.COMPLETED, Task.Status.CANCELLED})
OPEN = frozenset({Task.Status.READY, Task.Status.RUNNING, Task.Status.WAITING})


class Command(BaseCommand):
    """Show runs and steer them."""

    help = "Show runs, tell the story of one, retry, cancel, pause and resume."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare list, show and the signals."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="runs, newest first")
        listing.add_argument("--status", choices=[*Task.Status.values])
        listing.add_argument("--sop", metavar="SLUG")
        listing.add_argument("--parent", metavar="ID", help="only the runs that this one started")
        listing.add_argument("--limit", type=arguments.limit, default=50)
        listing.add_argument("--json", action="store_true")
        show = verbs.add_parser("show", help="the story of one run")
        show.add_argument("id", help="the run's id, or its first characters")
        show.add_argument("--all", action="store_true", help="with what the machine did in between")
        show.add_argument("--json", action="store_true")
        for verb, meaning in SIGNALS.items():
            signal = verbs.add_parser(verb, help=meaning)
            signal.add_argument("ids", nargs="+", metavar="ID")
            signal.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the verb says; every refusal is one sentence and a non-zero exit."""
        verb = options["verb"]
        try:
            if verb == "list":
                self._list(options)
            elif verb == "show":
                self._show(options)
            else:
                self._signal(verb, options)
        except NoSuchId as error:
            raise CommandError(str(error)) from None

    def _list(self, options: dict[str, Any]) -> None:
        rows = Task.objects.select_related("version__sop").order_by("-created_at")
        if options["status"]:
            rows = rows.filter(status=options["status"])
        if options["sop"]:
            rows = rows.filter(version__sop__slug=options["sop"])
        if options["parent"]:
            rows = rows.filter(parent=find(Task.objects.all(), options["parent"]))
        shown = [_told(task) for task in rows[: options["limit"]]]
        if options["json"]:
            self.stdout.write(json.dumps(shown, indent=2))
            return
        for row in shown:
            self.stdout.write(_line(row))
        if not shown:
            self.stdout.write("No run fits.")

    def _show(self, options: dict[str, Any]) -> None:
        task = find(Task.objects.select_related("version__sop"), options["id"])
        lines = [line for line in timeline.sentences(task) if options["all"] or not line.quiet]
        if options["json"]:
            story = [
                {"at": line.at.isoformat(), "kind": line.kind, "text": line.text, "detail": line.detail}
                for line in lines
            ]
            self.stdout.write(json.dumps({**_told(task), "timeline": story}, indent=2))
            return
        self.stdout.write(_line(_told(task)))
        for line in lines:
            detail = f" ({line.detail})" if line.detail and options["all"] else ""
            self.stdout.write(f"  {timezone.localtime(line.at):%Y-%m-%d %H:%M:%S}  {line.text}{detail}")

    def _signal(self, verb: str, options: dict[str, Any]) -> None:
        """Send the signal to every run named, or to none when one of them cannot take it."""
        tasks = [find(Task.objects.all(), typed) for typed in options["ids"]]
        for task in tasks:
            if why := _refusal(task, verb):
                raise CommandError(f"Run {short(task.pk)} cannot {verb}: {why}.")
        taken = engine.signal([task.pk for task in tasks], verb)
        if taken < len(tasks):
            raise CommandError(f"{len(tasks) - taken} of {len(tasks)} runs ended before they could {verb}.")
        if options["json"]:
            self.stdout.write(json.dumps({"signal": verb, "tasks": [str(task.pk) for task in tasks]}))
        else:
            self.stdout.write(f"{verb}: {', '.join(short(task.pk) for task in tasks)}")


def _refusal(task: Task, verb: str) -> str:
    """Return why the run could make nothing of the signal now; nothing when it can."""
    status = Task.Status(task.status)
    if verb == "cancel":
        return f"it is {status}" if status in OVER else ""
    if verb == "pause":
        return "" if status in OPEN else f"it is {status}"
    if status is Task.Status.PAUSED and task.waiting_for.startswith("approval:") and _is_parked(task):
        return "its question must be answered first; see: approval list"
    if verb == "resume":
        return "" if status is Task.Status.PAUSED else f"it is {status}"
    if task.progress.get("scrubbed"):
        return "the customer details that it needs were already removed; start a new run"
    held = status is Task.Status.WAITING and task.waiting_for.startswith("provider:")
    return "" if held or status is Task.Status.FAILED or _is_parked(task) else f"it is {status}"


def _is_parked(task: Task) -> bool:
    """Return whether the engine stopped the run for a reason, as opposed to staff who paused it."""
    return task.status == Task.Status.PAUSED and task.reason != "paused"


def _told(task: Task) -> dict[str, Any]:
    """Return a run as plain values, without anything that it knows of a customer."""
    return {
        "id": str(task.pk),
        "sop": task.version.sop.slug,
        "version": task.version.number,
        "status": task.status,
        "step": task.step,
        "waiting_for": task.waiting_for,
        "result": task.result,
        "reason": task.reason,
        "parent": str(task.parent_id) if task.parent_id else None,
        "created_at": task.created_at.isoformat(),
        "finished_at": task.finished_at.isoformat() if task.finished_at else None,
    }


def _line(row: dict[str, Any]) -> str:
    why = row["reason"] or row["result"] or row["waiting_for"].partition(":")[0]
    state = f"{row['status']} ({why})" if why else row["status"]
    return f"{short(row['id'])}  {row['sop']} v{row['version']}  {row['step']}  {state}"
