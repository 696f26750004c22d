"""`manage.py serve`: the whole machine for development, in one terminal.

Without REDIS_URL: the web and the engine in this process. With it: the web here, a worker and beat
beside it; all end together.
"""

import os
import signal
import subprocess
import sys
import threading
from argparse import ArgumentParser
from contextlib import ExitStack
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from sopengine import arguments
from sopengine.webserver import FIRST_PORT, DevelopmentServer, NoPort
from tasks.loop import DrainLoop

GRACE = 25.0  # seconds that worker and beat get to end
CELERY = [sys.executable, "-m", "celery", "-A", "sopengine"]


class Command(BaseCommand):
    """Serve the site and run the engine, until Ctrl-C."""

    help = "Serve the site and run the engine, for development; Ctrl-C ends it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the first port to try."""
        parser.add_argument(
            "--port",
            type=arguments.port,
            default=FIRST_PORT,
            help="first port to try (default %(default)s)",
        )

    def handle(self, *args: Any, port: int, **options: Any) -> None:
        """Start everything, say where it is, and stop everything."""
        with ExitStack() as stack:
            try:
                web = stack.enter_context(DevelopmentServer(port))
            except NoPort as error:
                raise CommandError(str(error)) from None
            ended = threading.Event()
            _on_signal(ended)
            threading.Thread(target=web.serve, name="web", daemon=True).start()
            stack.callback(web.stop)
            children: dict[str, subprocess.Popen[bytes]] = {}
            if settings.REDIS_URL:
                children = {"worker": _start("worker"), "beat": _start("beat")}
                stack.callback(_end, children)
            else:
                stack.enter_context(DrainLoop())
            beside = "a worker and beat beside it" if children else "the engine runs in this process"
            mock = "; the CRM is the mock" if settings.CRM_PROVIDER == "mock" else ""
            self.stdout.write(f"{web.address}/admin/  ({beside}{mock}; Ctrl-C ends it)")
            self.stdout.flush()
            self._wait(ended, children)

    def _wait(self, ended: threading.Event, children: dict[str, "subprocess.Popen[bytes]"]) -> None:
        """Wait for the signal; a child that ends by itself is an error."""
        while not ended.wait(0.5):
            for name, child in children.items():
                if child.poll() is not None:
                    raise CommandError(f"the {name} has ended by itself, with exit code {child.returncode}")


def _on_signal(ended: threading.Event) -> None:
    def note(number: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)


def _start(name: str) -> "subprocess.Popen[bytes]":
    """Start worker or beat in a process group of its own, so that Ctrl-C reaches only us."""
    arguments = ["--pidfile="] if name == "beat" else ["-c", str(settings.WORKER_CONCURRENCY)]
    command = ["env", "REMAP_SIGTERM=SIGQUIT", *CELERY, name, *arguments]
    return subprocess.Popen(command, start_new_session=True)  # noqa: S603


def _end(children: dict[str, "subprocess.Popen[bytes]"]) -> None:
    """Ask all to end, wait together, and kill the groups that do not."""
    for child in children.values():
        if child.poll() is None:
            child.terminate()
    for child in children.values():
        try:
            child.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
