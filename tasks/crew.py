"""The bounded crew of threads that handlers run in, and the deadline each of them works under.

A thread cannot be stopped. One that works past its deadline is abandoned: its place is filled by
a new thread, what it may still answer is handed on as late, and it dies with its process.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sopengine import clock
from sopengine.errors import Transient

J = TypeVar("J")


class StepDeadline:
    """How long a step may still take, and whether it is still ours."""

    def __init__(self, seconds: float) -> None:
        self.ends = clock.monotonic() + seconds
        self.lost = False

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self.ends - clock.monotonic())

    def check(self) -> None:
        """Raise Transient (nothing sent) when the time is over or somebody else has the run."""
        if self.lost:
            raise Transient("the run is in other hands by now", code="lost_lease", sent="no")
        if clock.monotonic() >= self.ends:
            raise Transient("the time for this step is over", code="deadline", sent="no")


@dataclass(eq=False)
class Job(Generic[J]):
    """One piece of work, whose it is, and when it must be done."""

    subject: J
    work: Callable[[], object]
    deadline: StepDeadline
    answer: object = None
    abandoned: bool = False
    begun: float = field(default_factory=clock.monotonic)


class Crew(Generic[J]):
    """At most `size` jobs side by side; what is done comes back through `finished`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.working: set[Job[J]] = set()
        self.abandoned: set[Job[J]] = set()
        self._jobs: queue.SimpleQueue[Job[J] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Job[J]] = queue.SimpleQueue()
        self._threads = 0

    @property
    def free(self) -> int:
        """How many jobs can begin at once now."""
        return self.size - len(self.working)

    def begin(self, job: Job[J]) -> None:
        """Hand the job to a free thread."""
        self.working.add(job)
        if self._threads < min(self.size, len(self.working)):
            self._threads += 1
            threading.Thread(target=self._work, name="step", daemon=True).start()
        self._jobs.put(job)

    def finished(self, wait: float) -> list[Job[J]]:
        """Return the jobs that are done, after waiting up to `wait` seconds for the first."""
        done: list[Job[J]] = []
        try:
            done.append(self._done.get(timeout=wait) if wait > 0 else self._done.get_nowait())
            while True:
                done.append(self._done.get_nowait())
        except queue.Empty:
            pass
        for job in done:
            self.working.discard(job)
            self.abandoned.discard(job)
        return done

    def overdue(self) -> list[Job[J]]:
        """Give up the jobs that work past their deadline, and return them."""
        late = [job for job in self.working if job.deadline.remaining() <= 0]
        for job in late:
            job.abandoned = True
            self.working.discard(job)
            self.abandoned.add(job)
            self._threads -= 1
        return late

    def dismiss(self) -> None:
        """Let idle threads go; those that work end with their job."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.answer = job.work()
            self._done.put(job)
            if job.abandoned:
                return
