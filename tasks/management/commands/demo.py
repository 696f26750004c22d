"""`manage.py demo`: the whole machine in one terminal, on invented customers, with no settings at all."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.urls import reverse

from crm.providers.mock import shared_state
from sopengine import arguments, clock
from sopengine.webserver import FIRST_PORT, DevelopmentServer, NoPort
from tasks import demo
from tasks.loop import DrainLoop

HALF_PAST_EIGHT = timedelta(minutes=30)  # before the campaign's hour: when the office is set up
A_MOMENT = timedelta(seconds=1)
BETWEEN_ANSWERS = 0.25  # seconds, so that an eye can follow
INTERRUPTED = 130


class Command(BaseCommand):
    """Run the shipped campaign from its schedule to its mails, then serve the site."""

    help = "Show a campaign on a mock CRM, from its schedule to its mails; needs no settings."
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take what to answer, and whether to stay."""
        parser.add_argument(
            "--answer",
            choices=["approve", "decline", "leave"],
            help="answer every question so; without it all drafts are approved but one",
        )
        parser.add_argument("--no-serve", action="store_true", help="end after the summary")
        parser.add_argument(
            "--port",
            type=arguments.port,
            default=FIRST_PORT,
            help="first port to try (default %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the demo; Ctrl-C ends it at any moment."""
        if not settings.DEMO:
            raise CommandError("The demo has settings of its own; start it as: manage.py demo")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with ExitStack() as stack:
                stack.enter_context(_only_one(settings.DEMO_FOLDER))
                self._run(
                    stack, options["answer"] or "but-one", options["port"], stay=not options["no_serve"]
                )
        except KeyboardInterrupt:
            self.stdout.write("\nThe demo was interrupted.")
            sys.exit(INTERRUPTED)
        except (demo.DemoError, NoPort) as error:
            raise CommandError(str(error)) from None

    def _run(self, stack: ExitStack, how: demo.Choice, port: int, *, stay: bool) -> None:
        web = stack.enter_context(DevelopmentServer(port)) if stay else None
        if web is not None:
            settings.PUBLIC_URL = web.address  # which port is free is known only now
        screen = Screen(sys.stdout, sys.stderr)
        self._heading(screen)
        demo.clear(settings.DEMO_FOLDER)
        demo.still_clock()
        user, password = self._set_up(screen)
        campaign = demo.Campaign(shared_state())
        stack.enter_context(DrainLoop())
        with screen:
            self._campaign(screen, campaign, how, user)
        counted = demo.summary(campaign, Path(settings.EMAIL_FOLDER))
        self._print_summary(counted)
        if counted.problems:
            raise CommandError("The summary does not add up: " + "; ".join(counted.problems))
        if web is not None:
            threading.Thread(target=web.serve, name="web", daemon=True).start()
            stack.callback(web.stop)
            self._print_way_in(web.address, campaign, password)
            self._stay()

    # -- the campaign --------------------------------------------------------------------------

    def _heading(self, screen: "Screen") -> None:
        screen.say("SOP engine, a demo: the CRM is a mock, no customer is real, mail goes to a folder.")
        screen.say("")

    def _set_up(self, screen: "Screen") -> tuple[Any, str]:
        """Make the tables, the user and the SOPs, half an hour before the campaign."""
        began = time.monotonic()
        demo.migrate()
        demo.move_clock(demo.first_slot(clock.now()) - HALF_PAST_EIGHT)
        user, password = demo.make_user()
        names = demo.publish_sops(user)
        screen.say(f"A new database, and {len(names)} procedures published: {', '.join(names)}.")
        screen.say(
            f"The clock of the demo stands at {_moment(clock.now())}. ({time.monotonic() - began:.1f} s)"
        )
        return user, password

    def _campaign(self, screen: "Screen", campaign: demo.Campaign, how: demo.Choice, user: Any) -> None:
        """Let the schedule's hour come, then watch and answer until nothing moves."""
        demo.move_clock(demo.first_slot(clock.now()) - A_MOMENT)
        screen.say("")
        screen.say(f"{_moment(clock.now())}: waiting for the schedule …")

        def watch() -> None:
            screen.show(_title(campaign), campaign.lines())

        campaign.wait(watch)
        for _ in campaign.answer(how, user):
            pause = time.monotonic() + BETWEEN_ANSWERS
            while time.monotonic() < pause:
                watch()
                time.sleep(0.05)
        campaign.wait(watch)

    # -- afterwards ----------------------------------------------------------------------------

    def _print_summary(self, counted: demo.Summary) -> None:
        """Print the numbers, and that they add up."""
        for line in summary_lines(counted, Path(settings.EMAIL_FOLDER)):
            self.stdout.write(line)

    def _print_way_in(self, address: str, campaign: demo.Campaign, password: str) -> None:
        waiting = campaign.questions()
        if waiting:
            path = reverse("admin:tasks_approval_change", args=[waiting[0].pk])
            first = "read the draft that waits, choose “Send as is”, and watch the mail folder"
        else:
            parent = campaign.parent
            path = reverse("admin:tasks_task_change", args=[parent.pk]) if parent else reverse("admin:index")
            first = "read the story of the campaign, line by line"
        for line in (
            "",
            f"The site    {address}/admin/   (mock CRM; the engine goes on in this process)",
            f"Log in as   {demo.USER}   with the password   {password}",
            f"Mail        {settings.EMAIL_FOLDER}",
            f"First       {first}:",
            f"            {address}{path}",
            "",
            "Ctrl-C ends the demo.",
        ):
            self.stdout.write(line)
        self.stdout.flush()

    def _stay(self) -> None:
        """Stay until Ctrl-C, which is the ordinary end."""
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        self.stdout.write("\nThe demo has ended.")


def summary_lines(counted: demo.Summary, folder: Path) -> list[str]:
    """Return the summary as lines for a terminal."""
    parts = f"{counted.approved} + {counted.declined} + {counted.waiting} + {counted.skipped}"
    same = "; every mail is, letter by letter, the draft that was approved" if counted.mails else ""
    proof = [] if counted.problems else [f"  {counted.found} = {parts}{same}."]
    return [
        "",
        "What the campaign came to, read back from the journal of the mock CRM and from the mail folder:",
        f"  found     {counted.found:3}   past customers of the mock CRM who have not signed for this season",
        f"  approved  {counted.approved:3}",
        f"  declined  {counted.declined:3}",
        f"  waiting   {counted.waiting:3}   for a person's yes",
        f"  skipped   {counted.skipped:3}   who do not want mail, or have no address",
        f"  sent      {counted.mails:3}   mails in {_short(folder)}",
        f"  noted     {counted.notes:3}   notes in the mock CRM",
        *proof,
    ]


def _title(campaign: demo.Campaign) -> str:
    if campaign.parent is None:
        return f"{_moment(clock.now())}"
    return f"{_moment(clock.now())}  {demo.campaign_name()} (mock CRM)"


def _moment(moment: datetime) -> str:
    local = moment.astimezone(ZoneInfo(settings.TIME_ZONE))
    return f"{local:%A} {local.day} {local:%B %Y}, {local:%H:%M:%S}"


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the demo's folder; DemoError when another demo has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise demo.DemoError(
                f"Another demo is running in {_short(folder)}: end it with Ctrl-C, or name another folder "
                "for this one with DEMO_FOLDER=..."
            ) from None
        yield


# -- the terminal --------------------------------------------------------------------------------


class Screen:
    """Progress: one block that is drawn anew on a terminal, a plain line for each change in a pipe.

    On a terminal what others write to the standard error meanwhile (the console chat) is put above
    the block.
    """

    def __init__(self, out: IO[str], errors: IO[str]) -> None:
        self._out = out
        self._live = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._block: list[str] = []
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        self._redirect = contextlib.redirect_stderr(_Above(self, errors)) if self._live else None

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._erase()
            self._out.write(f"{text}\n")
            self._draw()

    def show(self, title: str, lines: Sequence[demo.Line]) -> None:
        """Show what every run does now."""
        with self._lock:
            if self._live:
                self._erase()
                self._block = [title, *(_told(line) for line in lines)]
                self._draw()
            else:
                self._print_changes(lines)

    def _print_changes(self, lines: Sequence[demo.Line]) -> None:
        for line in lines:
            if self._known.get(line.who) != line.doing:
                self._known[line.who] = line.doing
                self._out.write(f"{_told(line)}\n")
        self._out.flush()

    def _erase(self) -> None:
        if self._block:
            self._out.write(f"\x1b[{len(self._block)}F\x1b[0J")

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        for line in self._block:
            self._out.write(f"{line[:width]}\n")
        self._out.flush()

    def __enter__(self) -> Self:
        if self._redirect is not None:
            self._redirect.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._redirect is not None:
            self._redirect.__exit__(kind, error, trace)
        self._block = []  # it stays as it is now


class _Above:
    """A standard error output whose lines go above the block."""

    def __init__(self, screen: Screen, errors: IO[str]) -> None:
        self._screen = screen
        self._errors = errors

    def write(self, text: str) -> int:
        """Write whole lines."""
        for line in text.splitlines():
            self._screen.say(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._errors, name)


def _told(line: demo.Line) -> str:
    return f"  {'✓' if line.over else '·'} {line.who:<22} {line.doing}"
