"""engine drain | sweep | doctor | reprocess | prune: the engine by hand, without a broker."""

import argparse
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import FrameType
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q

from crm import newcomers
from sopengine import inbox
from tasks import calendars, deliveries, doctor, engine, journal, outbox, wakeups
from tasks.models import Notification, Task
from tasks.sweep import sweep

OTHERS_HAVE_IT = 0.2  # seconds to wait when what is due is in another process's hands


class Command(BaseCommand):
    """Run what is due, sweep, ask whether all is well, and remove what is old."""

    help = "Run what is due in this process, sweep, examine, and prune."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(
            dest="verb", required=True, metavar="drain|sweep|doctor|reprocess|prune"
        )
        drain = verbs.add_parser("drain", help="run what is due until nothing is, messages to staff included")
        drain.add_argument("--seconds", type=_positive, help="stop after so many seconds")
        drain.add_argument("--json", action="store_true")
        sweeping = verbs.add_parser("sweep", help="fire due schedules and heal what was left lying")
        sweeping.add_argument("--force", action="store_true", help="even if another process has just swept")
        sweeping.add_argument("--json", action="store_true")
        examining = verbs.add_parser("doctor", help="say what is wrong; ends with 1 if something is broken")
        examining.add_argument("--json", action="store_true")
        again = verbs.add_parser("reprocess", help="let webhooks that failed be processed anew")
        again.add_argument("delivery", nargs="*", type=UUID, help="their ids; all that failed without one")
        again.add_argument("--json", action="store_true")
        pruning = verbs.add_parser("prune", help="remove runs that ended long ago, with their events")
        pruning.add_argument("--older-than", type=_span, default=timedelta(days=90), metavar="SPAN",
                             help="such as 90d (the default) or 12 weeks")  # fmt: skip
        pruning.add_argument("--dry-run", action="store_true", help="only say how many there are")
        pruning.add_argument("--json", action="store_true")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        """Do what the verb says."""
        {
            "drain": self._drain,
            "sweep": self._sweep,
            "doctor": self._doctor,
            "reprocess": self._reprocess,
            "prune": self._prune,
        }[verb](options)

    # -- drain -----------------------------------------------------------------------------------

    def _drain(self, options: dict[str, Any]) -> None:
        """Run what is due until nothing is; Ctrl-C hands back what was not begun."""
        ends = time.monotonic() + options["seconds"] if options["seconds"] else None
        steps = tasks = stuck = 0
        with _asked_to_stop() as asked:

            def stop() -> bool:
                return asked() or (ends is not None and time.monotonic() >= ends)

            while True:
                journal.due_count()  # a database that is not ready is said so before anything else
                deliveries.process()
                report = engine.drain(stop=stop)
                steps, tasks, stuck = steps + report.steps, tasks + report.tasks, report.abandoned
                posted = outbox.pump()
                if stop() or not (report.more or posted):
                    break
                if not report.steps and not posted:
                    time.sleep(OTHERS_HAVE_IT)
        left = Notification.objects.filter(wake_at__isnull=False).count()
        told = {
            "steps": steps,
            "ended": tasks,
            "due": journal.due_count(),
            "messages_left": left,
            "stuck": stuck,
        }
        self._print(
            options, told, f"{steps} steps were run and {tasks} runs ended; {told['due']} runs are due."
        )
        if stuck:
            raise CommandError(f"{stuck} steps work past their deadline; they end with this process.")

    # -- sweep -----------------------------------------------------------------------------------

    def _sweep(self, options: dict[str, Any]) -> None:
        report = sweep(force=options["force"])
        told = {"ran": report.ran, "fired": report.fired, "due": report.due, "posted": report.posted}
        sentence = (
            f"{report.fired} slots were fired, {report.posted} messages posted; {report.due} runs are due."
            if report.ran
            else "Another process has just swept; --force sweeps all the same."
        )
        self._print(options, told, sentence)

    # -- doctor ----------------------------------------------------------------------------------

    def _doctor(self, options: dict[str, Any]) -> None:
        found = doctor.examine()
        broken = [one.about for one in found if one.state == "broken"]
        if options["json"]:
            rows = [{"about": one.about, "state": one.state, "sentence": one.sentence} for one in found]
            self.stdout.write(json.dumps({"well": not broken, "checks": rows}, indent=2))
        else:
            for number, one in enumerate(found, 1):
                state = {"ok": "ok", "note": "NOTE", "broken": "BROKEN"}[one.state]
                self.stdout.write(f"{number:2}. {state:6}  {one.about}: {one.sentence}")
        if broken:
            raise CommandError(f"Broken: {', '.join(broken)}.")
        if not options["json"]:
            self.stdout.write("Nothing is broken.")

    # -- reprocess -------------------------------------------------------------------------------

    def _reprocess(self, options: dict[str, Any]) -> None:
        """Make failed deliveries due; a sweep or a drain then processes them."""
        count = inbox.reprocess(options["delivery"] or None)
        wakeups.wake()
        self._print(options, {"deliveries": count}, f"{count} deliveries are processed anew.")

    # -- prune -----------------------------------------------------------------------------------

    def _prune(self, options: dict[str, Any]) -> None:
        """Remove runs that ended before the span; their keys stay spent."""
        before = journal.database_now() - options["older_than"]
        if options["dry_run"]:
            count, came, verb = _prunable(before), inbox.prunable(before), "would be removed"
        else:
            count, came, verb = 0, inbox.prune(before), "were removed"
            journal.prune_acknowledgements(before)
            newcomers.prune(before)
            while removed := journal.prune(before):
                count += removed
        told = {
            "before": before.isoformat(),
            "runs": count,
            "deliveries": came,
            "dry_run": options["dry_run"],
        }
        webhooks = f" and {came} webhooks that came" if came else ""
        sentence = f"{count} runs that ended{webhooks} before {before:%Y-%m-%d %H:%M} UTC {verb}."
        self._print(options, told, sentence)

    def _print(self, options: dict[str, Any], told: dict[str, Any], sentence: str) -> None:
        self.stdout.write(json.dumps(told) if options["json"] else sentence)


def _prunable(before: datetime) -> int:
    """Return how many runs `journal.prune` would remove: those whose whole family ended before."""
    old = Q(status__in=["completed", "cancelled", "failed"], finished_at__lt=before)
    families = Task.objects.filter(parent__isnull=False)
    kept: set[UUID] = set()
    parents = set(families.exclude(old).values_list("parent_id", flat=True).distinct())
    while parents:
        kept |= parents
        above = families.filter(pk__in=parents).values_list("parent_id", flat=True)
        parents = set(above) - kept
    return Task.objects.filter(old).count() - Task.objects.filter(old, pk__in=kept).count()


@contextmanager
def _asked_to_stop() -> Iterator[Any]:
    """Give a function that tells whether Ctrl-C or SIGTERM came."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not usable; expected seconds above 0")
    return number


def _span(text: str) -> timedelta:
    try:
        return calendars.parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
