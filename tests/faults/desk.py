"""The desk of a fault test: a process of the product's own code, with the product's own settings.

The test tells it what to publish, start, signal and read; so the test's own Django, with its other
database, is in nobody's way. The desk lives through the faults of the others.
"""

import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

from tests.processes import Process

Row = dict[str, Any]
Facts = dict[str, list[Row]]


class Desk:
    """The test's side; each method is done in the desk's process (see `clerk`)."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._lock = RLock()
        self._line: Connection | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="sop-desk-")
        address = f"{self._folder.name}/line"  # the folder of a test can be too deep for a socket
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(1)
        self._listener.settimeout(60)
        command = [sys.executable, "-m", "tests.faults.run", "clerk", address]
        self.process = Process(command, environment, log=folder / "desk.log")

    def publish(self, sop: Mapping[str, Any]) -> int:
        """Publish a SOP, given as in its file; return the id of the version."""
        return int(self._do("publish", sop=dict(sop)))

    def start(
        self, version: int, inputs: Iterable[Mapping[str, Any]], priority: int | None = None
    ) -> list[str]:
        """Start one run for each of the inputs; return their ids."""
        given = [dict(one) for one in inputs]
        return list(self._do("start", version=version, inputs=given, priority=priority))

    def signal(self, tasks: Iterable[str], kind: str, **codes: Any) -> int:
        """Signal these runs; return how many took it."""
        return int(self._do("signal", tasks=list(tasks), kind=kind, codes=codes))

    def answer(self, approval: str, choice: str) -> None:
        """Answer a question as somebody at the command line."""
        self._do("answer", approval=approval, choice=choice)

    def facts(self) -> Facts:
        """Return every task, event, approval, notification and scheduled run, as plain values."""
        found: Facts = self._do("facts")
        return found

    def counts(self) -> dict[str, int]:
        """Return how many tasks have which status."""
        found: dict[str, int] = self._do("counts")
        return found

    def busy(self) -> int:
        """Return how many tasks are under way."""
        return int(self._do("busy"))

    def send(self, name: str, count: int = 1) -> None:
        """Publish messages with this task name."""
        self._do("send", name=name, count=count)

    def sweep(self) -> None:
        """Sweep in the desk's process."""
        self._do("sweep")

    def manage(self, *arguments: str) -> str:
        """Run a management command in the desk's process; return what it printed."""
        return str(self._do("manage", arguments=list(arguments)))

    def sql(self, statement: str) -> list[Row]:
        """Run one statement; return the rows it found."""
        return list(self._do("sql", statement=statement))

    def close(self) -> None:
        """End the process."""
        if self._line is not None:
            self._line.close()
        self._listener.close()
        self.process.kill()
        self._folder.cleanup()

    def _do(self, verb: str, **arguments: Any) -> Any:
        with self._lock:
            try:
                if self._line is None:  # it had time to start while the test began other things
                    line, _ = self._listener.accept()
                    line.setblocking(True)
                    self._line = Connection(line.detach())
                self._line.send((verb, arguments))
                good, answer = self._line.recv()
            except (EOFError, OSError):
                raise AssertionError(f"the desk is gone:\n{self.process.output()[-3000:]}") from None
        if not good:
            raise AssertionError(f"the desk could not {verb}: {answer}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
