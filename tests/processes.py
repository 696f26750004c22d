"""The product's own processes, as a test needs them: real, killable, and gone when the test is.

    with Worker(product_environment(database, redis)) as worker:
        worker.ready()
        worker.kill()                     # SIGKILL for the worker and its children
        worker.restart()

Each process leads a process group and writes to a log file.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.leaks import check_output
from tests.leash import leash
from tests.servers import ROOT, bare_environment, free_port

T = TypeVar("T")
# Times of a fault test, in seconds; production has minutes. call < deadline < lease still holds.
FAST_ENGINE = {
    "ENGINE_CALL_TIMEOUT": "0.8",
    "ENGINE_DEADLINE": "1.2",
    "ENGINE_LEASE": "1.5",
    "ENGINE_SWEEP": "0.5",
    "ENGINE_BRAKE": "1",
    "ENGINE_SLICE": "5",
    "ENGINE_RETRY_WAITS": "0.2,0.4,0.8",
    "WORKER_GRACE": "5",
}


# Tests run at any hour of any day: mail leaves at all of them. A story that is about hours says so.
ANY_HOUR = {
    "SENDING_DAYS": "MON-SUN",
    "SENDING_HOURS": "00:00-24:00",
    "QUIET_HOURS": "none",
    "HOLIDAYS": "none",
}
OFFICE_HOURS = {
    "SENDING_DAYS": "MON-FRI",
    "SENDING_HOURS": "09:00-18:00",
    "QUIET_HOURS": "20:00-08:00",
    "HOLIDAYS": "new_year,memorial,independence,labor,thanksgiving,christmas",
}


def product_environment(database_url: str, redis_url: str = "", **more: str) -> dict[str, str]:
    """Return a development environment for our processes that inherits no setting of ours."""
    said = {"DEBUG": "1", "DATABASE_URL": database_url, "REDIS_URL": redis_url, "LOG_FORMAT": "json"}
    return bare_environment(**{**said, **ANY_HOUR, **more})


def live_environment(database_url: str, redis_url: str = "", **more: str) -> dict[str, str]:
    """Return an environment as production has it: DEBUG off, all that must be said is said."""
    said = {
        "DEBUG": "0",
        "SECRET_KEY": "check-only-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLM",
        "ALLOWED_HOSTS": "127.0.0.1,localhost,sop.example.com",
        "PUBLIC_URL": "https://sop.example.com",
        "VAULT_KEYS": "k1:" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
        "CRM_PROVIDER": "rest",
        "CRM_BASE_URL": "https://crm.example.com",
        "CRM_API_KEY": "key",
        "CHAT": "webhook",
        "CHAT_WEBHOOK_URL": "https://chat.example.com/hook",
        "EMAIL_URL": "smtp+tls://user:password@mail.example.com:587",
        "DEFAULT_FROM_EMAIL": "office@example.com",
        "BUSINESS_NAME": "Example",
        "BUSINESS_ADDRESS": "1 Main Street, Springfield",
        "REVIEW_LINK": "https://reviews.example.com/us",
    }
    return bare_environment(**{**said, "DATABASE_URL": database_url, "REDIS_URL": redis_url, **more})


def eventually(
    predicate: Callable[[], T],
    within: float = 10.0,
    *,
    every: float = 0.05,
    what: str | Callable[[], object] = "",
) -> T:
    """Return the predicate's first true answer; AssertionError with `what` after `within` seconds."""
    give_up = time.monotonic() + within
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > give_up:
            said = what() if callable(what) else what or getattr(predicate, "__name__", "it")
            raise AssertionError(f"not true within {within:g} s: {said}")
        time.sleep(every)


def manage(environment: Mapping[str, str], *arguments: str, within: float = 60.0, ok: bool = True) -> str:
    """Run a management command to its end; return what it printed. With `ok`, a bad exit code is an error."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    check_output(done.stdout + done.stderr, environment)
    if ok and done.returncode:
        raise AssertionError(
            f"manage.py {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


class Process:
    """One program in a process group of its own, with its output in a log file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, log: Path, name: str = ""
    ) -> None:
        self.command = list(command)
        self.environment = dict(environment)
        self.log = log
        self.name = name or log.stem
        self.starts = 0
        self._begins_at = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self.start()

    @property
    def pid(self) -> int:
        """The process id; also the id of the process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the main process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code once it has ended; negative for a signal."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start the program; its output is appended to the log."""
        with self._lock, self.log.open("ab") as log:
            self.starts += 1
            self._begins_at = log.tell()
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            leash.hold(self._process.pid)

    def children(self) -> list[int]:
        """Return the process ids of the children of the main process."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            tasks = Path(f"/proc/{self.pid}/task").iterdir()
            return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        return []

    def signal(self, number: signal.Signals, *, everyone: bool = False) -> None:
        """Signal the main process, or everyone in its group as a platform does."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if everyone else os.kill)(self.pid, number)

    def kill(self) -> None:
        """SIGKILL for the whole group; returns when it is gone."""
        with self._lock:
            self.signal(signal.SIGKILL, everyone=True)
            self._gone(10)

    def kill_child(self, choose: Callable[[Sequence[int]], int] = random.choice) -> int | None:
        """SIGKILL for one child; return its process id, or None when there is none."""
        children = self.children()
        if not children:
            return None
        child = choose(children)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return child

    def terminate(self, within: float = 30.0, *, everyone: bool = False) -> int:
        """Ask to end (SIGTERM), wait, and kill what is left; return the exit code."""
        with self._lock:
            self.signal(signal.SIGTERM, everyone=everyone)
            self._gone(within)
            self.signal(signal.SIGKILL, everyone=True)
        assert self._process is not None
        return self._process.returncode

    def restart(self) -> None:
        """Start again what has ended, after killing it if it has not."""
        with self._lock:
            if self.alive:
                self.kill()
            self.start()

    def output(self) -> str:
        """Return all it has written, over all its starts."""
        return self.log.read_text(errors="replace")

    def output_of_this_start(self) -> str:
        """Return what it has written since it was started last."""
        return self.log.read_bytes()[self._begins_at :].decode(errors="replace")

    def _gone(self, within: float) -> None:
        assert self._process is not None
        try:
            self._process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL, everyone=True)
            self._process.wait()
        leash.release(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is None:
            check_output(self.output(), self.environment)


class Worker(Process):
    """A Celery worker with `children` processes, as the Procfile starts it."""

    def __init__(
        self, environment: Mapping[str, str], *, log: Path, children: int = 2, name: str = "worker"
    ) -> None:
        self._name = name
        command = [sys.executable, "-m", "celery", "-A", "sopengine", "worker", "-c", str(children)]
        command += ["-n", f"{name}-{os.getpid()}@%h", "--without-gossip", "--without-mingle", "-l", "INFO"]
        super().__init__(command, {"REMAP_SIGTERM": "SIGQUIT", **environment}, log=log, name=name)

    def ready(self, within: float = 30.0) -> None:
        """Wait until the present start of the worker takes messages."""

        def said() -> bool:
            if not self.alive:
                raise AssertionError(f"{self.name} ended with {self.exit_code}:\n{self.output()[-3000:]}")
            return "ready." in self.output_of_this_start()

        eventually(said, within, what=lambda: f"{self.name} is ready:\n{self.output()[-3000:]}")


class Beat(Process):
    """A Celery beat, as the Procfile starts it."""

    def __init__(self, environment: Mapping[str, str], *, log: Path, name: str = "beat") -> None:
        command = [sys.executable, "-m", "celery", "-A", "sopengine", "beat", "-l", "INFO", "--pidfile="]
        super().__init__(command, environment, log=log, name=name)


class WebServer(Process):
    """A gunicorn on a free port of loopback, as the Procfile starts it."""

    def __init__(
        self, environment: Mapping[str, str], *, log: Path, port: int = 0, name: str = "web"
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "gunicorn", "sopengine.wsgi", "--bind", f"127.0.0.1:{self.port}"]
        command += ["--workers", "1", "--threads", "4"]
        super().__init__(command, environment, log=log, name=name)

    def ready(self, within: float = 30.0) -> None:
        """Wait until it answers."""
        eventually(
            lambda: answers(f"{self.url}/healthz"),
            within,
            what=lambda: f"web answers:\n{self.output()[-3000:]}",
        )


class Command(Process):
    """A management command that stays, such as `crm serve-mock --port N`."""

    def __init__(self, environment: Mapping[str, str], *arguments: str, log: Path, name: str = "") -> None:
        super().__init__([sys.executable, "manage.py", *arguments], environment, log=log, name=name)


class Keeper(threading.Thread):
    """Starts processes again when they have ended, as a platform does, until it is stopped."""

    def __init__(self, processes: Sequence[Process], *, pause: float = 0.1) -> None:
        super().__init__(name="keeper", daemon=True)
        self.processes = list(processes)
        self.restarts = 0
        self._pause = pause
        self._over = threading.Event()

    def run(self) -> None:
        """Look at each process again and again."""
        while not self._over.wait(self._pause):
            for process in self.processes:
                if not process.alive:
                    process.kill()  # what is left of its group
                    process.start()
                    self.restarts += 1

    def stop(self) -> None:
        """Stop looking; the processes stay as they are."""
        self._over.set()
        if self.is_alive():
            self.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def answers(url: str, timeout: float = 2.0) -> bool:
    """Tell whether an address answers at all, with whatever status."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
