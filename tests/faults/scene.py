"""A scene: a database, a broker, the other sides, the desk and the processes of one fault test."""

import random
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.faults import invariants
from tests.faults.desk import Desk
from tests.faults.ledger import Ledger
from tests.faults.postoffice import PostOffice
from tests.processes import FAST_ENGINE, Beat, Keeper, Process, Worker, eventually, product_environment

P = TypeVar("P", bound=Process)
RECOVERY = (1.5 + 0.5 + 5) * 5  # seconds: the ceiling lease + sweep + 5 s, x 5 for a busy machine

# For tests in which nobody dies: on a busy machine, too, every step has time enough.
NO_HURRY = {"ENGINE_LEASE": "12", "ENGINE_DEADLINE": "10", "ENGINE_CALL_TIMEOUT": "9"}


class Scene:
    """Everything one test needs; what it started ends with it."""

    def __init__(self, folder: Path, database: str, broker: str, post: PostOffice, **more: str) -> None:
        self.folder = folder
        self.post = post
        self.ledger = Ledger()
        self.processes: list[Process] = []
        self.environment = product_environment(
            database,
            broker,
            **{
                **FAST_ENGINE,
                "DJANGO_SETTINGS_MODULE": "sopengine.settings",
                "PLUGINS": "tests.faults.probe",
                "PROBE_LEDGER": self.ledger.address,
                "EMAIL_URL": post.url,
                # Mail leaves only where the customers are real; nobody calls this CRM.
                "CRM_PROVIDER": "rest",
                "CRM_BASE_URL": "http://127.0.0.1:1",
                **more,
            },
        )
        self._ends = ExitStack()
        self._ends.enter_context(self.post)
        self._ends.enter_context(self.ledger)
        self.desk = self._ends.enter_context(Desk(self.environment, folder))

    def worker(self, name: str = "worker", *, children: int = 2, **more: str) -> Worker:
        """Start a worker; it may still be on its way when this returns."""
        environment = {**self.environment, **more}
        return self.begun(Worker(environment, log=self.folder / f"{name}.log", children=children, name=name))

    def beat(self, name: str = "beat", **more: str) -> Beat:
        """Start a beat."""
        return self.begun(Beat({**self.environment, **more}, log=self.folder / f"{name}.log", name=name))

    def embedded(self, **more: str) -> Process:
        """Start a process that drains and sweeps without a broker."""
        command = [sys.executable, "-m", "tests.faults.run", "embedded"]
        return self.begun(Process(command, {**self.environment, **more}, log=self.folder / "embedded.log"))

    def kept(self, *processes: Process) -> Keeper:
        """Start again whatever of these ends."""
        return self._ends.enter_context(Keeper(processes))

    def resting(self) -> bool:
        """Tell whether nothing is under way."""
        return not self.desk.busy()

    def rest(self, within: float = RECOVERY) -> invariants.Tally:
        """Wait until nothing is under way, and check what must always hold."""
        eventually(self.resting, within, every=0.2, what=self.said)
        return self.checked()

    def checked(self) -> invariants.Tally:
        """Check the invariants now."""
        return invariants.check(self.desk.facts(), ledger=self.ledger, post=self.post)

    def release_all(self, within: float = RECOVERY) -> tuple[invariants.Tally, int]:
        """Wait for rest; retry what was quarantined by bad luck until nothing is. Return how many were."""
        released = 0
        while (tally := self.rest(within)).quarantined:
            released += self.desk.signal(tally.quarantined, "retry")
        return tally, released

    def said(self) -> str:
        """Return the counts and the ends of all logs, for a failure."""
        ends = [f"--- {p.name}\n{p.output()[-1500:]}" for p in self.processes]
        return "\n".join([f"runs come to rest: {self.desk.counts()}", *ends])

    def close(self) -> None:
        """End everything."""
        self._ends.close()

    def begun(self, process: P) -> P:
        """Let this process end with the scene."""
        self.processes.append(process)
        return self._ends.enter_context(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Monkey(threading.Thread):
    """Kills pool processes and whole workers at random moments, until it is stopped."""

    def __init__(self, kill: Callable[[], bool], pauses: tuple[float, float]) -> None:
        super().__init__(name="monkey", daemon=True)
        self.kills = 0
        self._kill, self._pauses = kill, pauses
        self._over = threading.Event()

    def run(self) -> None:
        """Kill, wait, and again."""
        while not self._over.wait(random.uniform(*self._pauses)):
            self.kills += self._kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()
