"""sop: the procedures as files, drafts and versions, and runs of them by hand."""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from sopengine import clock
from sopengine.errors import DataError
from tasks import definition, engine, family, inputs, journal, outbox, plan, templating, triggers, wakeups
from tasks.definition import DefinitionError, Problem, SopDef, StepDef
from tasks.family import Standing
from tasks.models import Sop, SopVersion, Task
from tasks.outcome import handlers
from tasks.sweep import sweep

ONLY_PEOPLE = 3
STILL_RUNNING = 4
SLICE = 1.0  # seconds of work between two lines of progress
PAUSE = 0.25  # seconds between two looks when others do the work


class Command(BaseCommand):
    """Check, import, export, publish and run SOPs."""

    help = "List, validate, import, export, publish, disable and run SOPs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        add = verbs.add_parser("list", help="the SOPs, their versions and their next hour")
        add.add_argument("--json", action="store_true")
        add = verbs.add_parser("validate", help="check files; without any, those that are shipped")
        add.add_argument(
            "files", nargs="*", metavar="FILE_OR_SLUG", help="a SOP file, or the slug of a draft"
        )
        add.add_argument("--json", action="store_true")
        add = verbs.add_parser(
            "import", help="make files the drafts of their SOPs; without any, those shipped"
        )
        add.add_argument("files", nargs="*", metavar="FILE")
        add.add_argument("--missing", action="store_true", help="only SOPs that are not there yet")
        add.add_argument("--publish", action="store_true", help="and publish each that lacks nothing")
        add.add_argument("--json", action="store_true")
        add = verbs.add_parser("export", help="print a SOP as a file")
        add.add_argument("slug")
        add.add_argument("--number", type=int, help="a published version instead of the draft")
        add.add_argument("--json", action="store_true", help="as JSON instead of YAML")
        add = verbs.add_parser("publish", help="make drafts the versions that new runs follow")
        add.add_argument("slugs", nargs="+", metavar="SLUG")
        add.add_argument("--json", action="store_true")
        add = verbs.add_parser("disable", help="let SOPs start nothing more; their runs go on")
        add.add_argument("slugs", nargs="+", metavar="SLUG")
        add.add_argument("--json", action="store_true")
        self._add_run(verbs.add_parser("run", help="start a run by hand and print its id"))

    def _add_run(self, add: ArgumentParser) -> None:
        add.add_argument("slug")
        add.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an input")
        add.add_argument("--wait", action="store_true", help="show how it goes, and end with its result")
        add.add_argument("--timeout", type=float, help=f"seconds to wait at most; then exit {STILL_RUNNING}")
        add.add_argument("--dry-run", action="store_true", help="say what would start, and write nothing")
        add.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the verb says; what is refused is told in a sentence, with a non-zero exit."""
        verbs: dict[str, Callable[..., None]] = {
            "list": self._list,
            "validate": self._validate,
            "import": self._import,
            "export": self._export,
            "publish": self._publish,
            "disable": self._disable,
            "run": self._run,
        }
        try:
            verbs[options["verb"]](**options)
        except DefinitionError as error:
            raise CommandError(_told(error.problems)) from None
        except (triggers.NotRunnable, engine.InputError, DataError) as error:
            raise CommandError(str(error)) from None

    # -- definitions -----------------------------------------------------------------------------

    def _list(self, json: bool, **options: Any) -> None:
        rows = [_row(sop) for sop in Sop.objects.select_related("published").order_by("slug")]
        if json:
            self._print_json(rows)
            return
        for row in rows:
            version = f"v{row['version']}" if row["version"] else "no version"
            coming = f"  next {_moment(row['next'])}" if row["next"] else ""
            self.stdout.write(f"{row['slug']:<32} {row['state']:<9} {version:<11} {row['name']}{coming}")
        if not rows:
            self.stdout.write("There is no SOP; `sop import` brings those that are shipped.")

    def _validate(self, files: list[str], json: bool, **options: Any) -> None:
        names = files or [str(path) for path in definition.shipped()]
        problems = [problem for name in names for problem in _problems_in(name)]
        if json:
            self._print_json([_problem(problem) for problem in problems])
        if problems:
            raise CommandError(_told(problems))
        if not json:
            self.stdout.write(f"{len(names)} checked, nothing is wrong.")

    @transaction.atomic
    def _import(self, files: list[str], missing: bool, publish: bool, json: bool, **options: Any) -> None:
        """Save all files or none; with `missing`, what is there already is not touched.

        So a release brings what is new, and never undoes what staff have edited, published or disabled.
        Shipped files that lack a setting stay drafts; a file that was named is published or refused.
        """
        paths = [Path(name) for name in files] or definition.shipped()
        found = [_read(path) for path in paths]
        there = set(Sop.objects.values_list("slug", flat=True)) if missing else set()
        rows = [definition.save_rows(one) for one in found if one.slug not in there]
        done = [_imported(row, publish=publish, strict=bool(files)) for row in rows]
        if json:
            self._print_json([_imported_row(one) for one in done])
            return
        for slug in sorted(there.intersection(one.slug for one in found)):
            self.stdout.write(f"{slug}: is there already and stays as it is.")
        for one in done:
            self.stdout.write(f"{one.sop.slug}: imported as the draft{_publication(one)}")

    def _export(self, slug: str, number: int | None, json: bool, **options: Any) -> None:
        sop = _sop(slug)
        found = definition.from_rows(sop) if number is None else _version(sop, number)
        if json:
            self._print_json(definition.to_json(found))
        else:
            self.stdout.write(definition.dump(found), ending="")

    def _publish(self, slugs: list[str], json: bool, **options: Any) -> None:
        done = [(slug, definition.publish(sop).number) for slug, sop in [(s, _sop(s)) for s in slugs]]
        if json:
            self._print_json([{"sop": slug, "version": number} for slug, number in done])
            return
        for slug, number in done:
            self.stdout.write(f"{slug}: version {number} is published.")

    def _disable(self, slugs: list[str], json: bool, **options: Any) -> None:
        for sop in [_sop(slug) for slug in slugs]:
            definition.disable(sop)
        if json:
            self._print_json([{"sop": slug, "state": "disabled"} for slug in slugs])
            return
        for slug in slugs:
            self.stdout.write(f"{slug}: disabled; nothing new is started.")

    # -- runs --------------------------------------------------------------------------------------

    def _run(self, slug: str, **options: Any) -> None:
        sop = _sop(slug)
        given = _given(options["set"])
        if options["dry_run"]:
            self._dry_run(sop, given, json=options["json"])
            return
        task = triggers.start_now(sop, given, by="command")
        if not options["wait"]:
            self._print_json({"task": str(task.pk)}) if options["json"] else self.stdout.write(str(task.pk))
            return
        if not options["json"]:
            self.stdout.write(str(task.pk))
        self._end(task, self._wait(task, options["timeout"]), json=options["json"])

    def _dry_run(self, sop: Sop, given: Mapping[str, Any], *, json: bool) -> None:
        version = triggers.runnable(sop)
        told = dry_run(version, given)
        if json:
            self._print_json(told)
            return
        values = ", ".join(f"{name}={value}" for name, value in told["inputs"].items())
        with_them = f" with {values}" if values else ""
        self.stdout.write(f"Would start {sop.slug} version {version.number}{with_them}; nothing is written.")
        for number, step in enumerate(told["steps"], start=1):
            self.stdout.write(f"{number}. {step['name']}  ({step['handler']}: {step['does']})")
            for name, value in step["with"].items():
                self.stdout.write(f"     {name}: {value}")

    def _wait(self, task: Task, timeout: float | None) -> Standing:
        """Show how the run goes until it is over, only people are awaited, or the time is up."""
        ends = clock.monotonic() + timeout if timeout is not None else None
        shown = ""
        while True:
            more = _work(SLICE)
            now = family.standing(task.pk)
            if str(now) != shown:
                shown = str(now)
                self.stderr.write(f"{timezone.localtime(clock.now()):%H:%M:%S}  {shown}")
            late = ends is not None and clock.monotonic() >= ends
            if now.over or late or (now.only_people and not more):
                return now
            if not more:
                wakeups.wait(PAUSE) if not settings.REDIS_URL else time.sleep(PAUSE)

    def _end(self, task: Task, now: Standing, *, json: bool) -> None:
        """Print how it ended, and leave with the exit code that says so."""
        if json:
            result = {"status": now.status, "result": now.result, "reason": now.reason}
            self._print_json({"task": str(task.pk), **result, "ended": now.ended, "open": now.open})
        elif now.over:
            why = f" ({now.reason})" if now.reason else ""
            counts = f": {now}" if now.ended else ""
            self.stdout.write(f"{now.status}, result {now.result or 'none'}{why}{counts}")
        elif now.only_people:
            self.stdout.write(f"Only people are awaited: {now}")
        else:
            self.stdout.write(f"Not over yet: {now}")
        if now.over and now.status != Task.Status.COMPLETED:
            sys.exit(1)
        if not now.over:
            sys.exit(ONLY_PEOPLE if now.only_people else STILL_RUNNING)

    def _print_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, indent=2, default=str))


def _work(seconds: float) -> bool:
    """Do what is due in this process where there is no broker; return whether more is due."""
    if settings.REDIS_URL:
        return False
    report = engine.drain(seconds=seconds)
    sweep()
    outbox.pump()
    return report.more


# -- what is shown ---------------------------------------------------------------------------------


def dry_run(version: SopVersion, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run of this version would begin with: its inputs, and its steps as far as they are known.

    What a step's parameters take from earlier steps stays the template that it is.
    """
    found = plan.definition_of(version.pk)
    now = journal.database_now()
    around = plan.surroundings(now, now)
    bound = inputs.bind(found, given, around)
    return {
        "sop": found.slug,
        "version": version.number,
        "inputs": bound,
        "steps": [_foreseen(step, {**around, **bound}) for step in found.steps],
    }


def _foreseen(step: StepDef, names: Mapping[str, Any]) -> dict[str, Any]:
    known = handlers.get(step.handler) if step.handler in handlers else None
    raw = known.raw_params if known else frozenset()
    return {
        "key": step.key,
        "name": step.name or step.key,
        "handler": step.handler,
        "does": known.summary if known else "this handler is not installed",
        "with": {
            name: value if name in raw else _rendered(value, names) for name, value in step.params.items()
        },
    }


def _rendered(value: Any, names: Mapping[str, Any]) -> Any:
    try:
        return templating.render(value, names)
    except DataError:
        return value


def _row(sop: Sop) -> dict[str, Any]:
    trigger = sop.published.definition.get("trigger", {}) if sop.published else {}
    active = sop.state == Sop.State.ACTIVE
    return {
        "slug": sop.slug,
        "name": sop.name,
        "state": sop.state,
        "version": sop.published.number if sop.published else None,
        "schedule": trigger.get("schedule"),
        "event": trigger.get("event"),
        "next": triggers.next_slot(trigger, journal.database_now()) if active else None,
    }


def _moment(moment: Any) -> str:
    return f"{timezone.localtime(moment):%a %Y-%m-%d %H:%M}"


@dataclass(frozen=True, slots=True)
class Imported:
    """A draft that was just imported: its new version, or what it lacks to have one."""

    sop: Sop
    number: int | None = None
    problems: tuple[Problem, ...] = ()


def _imported(sop: Sop, *, publish: bool, strict: bool) -> Imported:
    """Publish the draft if that is wanted; what it lacks is told, or raised where `strict`."""
    if not publish:
        return Imported(sop)
    try:
        return Imported(sop, definition.publish(sop).number)
    except DefinitionError as error:
        if strict:
            raise
        return Imported(sop, problems=tuple(error.problems))


def _publication(one: Imported) -> str:
    """Return what became of the publication, as the end of a sentence."""
    if not one.problems:
        return f", published as version {one.number}." if one.number else "."
    lacks = "; ".join(dict.fromkeys(problem.message for problem in one.problems))
    stays = f"; version {one.sop.published.number} stays published" if one.sop.published else ""
    return f", not published: {lacks}{stays}. Then: manage.py sop publish {one.sop.slug}"


def _imported_row(one: Imported) -> dict[str, Any]:
    lacks = {"problems": [_problem(problem) for problem in one.problems]} if one.problems else {}
    return {"sop": one.sop.slug, "version": one.number, **lacks}


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.source,
        "line": problem.line,
        "column": problem.column,
        "step": problem.step,
        "key": problem.key,
        "message": problem.message,
    }


def _told(problems: Iterable[Problem]) -> str:
    return "\n".join(map(str, problems))


# -- what is meant ---------------------------------------------------------------------------------


def _sop(slug: str) -> Sop:
    try:
        return Sop.objects.select_related("published").get(slug=slug)
    except Sop.DoesNotExist:
        known = ", ".join(Sop.objects.order_by("slug").values_list("slug", flat=True)) or "none"
        raise CommandError(f"There is no SOP {slug!r}; known: {known}.") from None


def _version(sop: Sop, number: int) -> SopDef:
    found = sop.versions.filter(number=number).first()
    if found is None:
        raise CommandError(f"SOP {sop.slug} has no version {number}.")
    return definition.from_json(found.definition)


def _read(path: Path) -> SopDef:
    try:
        return definition.read_file(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise CommandError(f"{path} cannot be read: {reason}.") from None


def _problems_in(name: str) -> list[Problem]:
    """Return what is wrong with a file, or with the draft of that slug."""
    path = Path(name)
    draft = None if path.exists() else Sop.objects.filter(slug=name).first()
    if draft is not None:
        return definition.validate(definition.from_rows(draft), name)
    try:
        _read(path)
    except DefinitionError as error:
        return error.problems
    return []


def _given(settings_: Iterable[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for one in settings_:
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise CommandError(f"--set {one!r} is not understood; expected name=value, such as season=2027.")
        if name.strip() in given:
            raise CommandError(f"--set {name.strip()} is there twice.")
        given[name.strip()] = value
    return given
