"""Whether this worker was asked to stop: drains look here before they take or begin anything.

Two flags say so. One is a byte of memory that the worker's main process, which hears SIGTERM,
shares with the pool processes that it forks. The other is this process' own: a platform that
stops a machine signals every process on it.
"""

import mmap
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_worker = mmap.mmap(-1, 1)
_process = threading.Event()


def asked() -> bool:
    """Return whether the worker, or this process of it, is going down."""
    return _worker[0] != 0 or _process.is_set()


def ask(*_args: Any, **_kwargs: Any) -> None:
    """Ask every drain of this worker to stop soon."""
    _worker[0] = 1


def hear_first(*_args: Any, **_kwargs: Any) -> None:
    """In the main process: ask the drains as soon as a signal to end comes.

    A worker that shuts down softly says so to its own parts only when its patience is over.
    """
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, _asking_first(signal.getsignal(number)))


def _asking_first(then: Any) -> Any:
    def heard(number: int, frame: Any) -> None:
        ask()
        if callable(then):
            then(number, frame)

    return heard


@contextmanager
def postponed() -> Iterator[None]:
    """While a drain runs, a SIGTERM for this very process asks it to stop, and takes effect afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _process.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if _process.is_set():
            _process.clear()
            os.kill(os.getpid(), signal.SIGTERM)
