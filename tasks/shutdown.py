"""Whether this worker was asked to stop: drains look here before they take or begin anything.

The flag is one byte of memory that the worker's main process shares with the pool processes it
forks: the main process is the one that hears SIGTERM.
"""

import mmap
import signal
from typing import Any

_flag = mmap.mmap(-1, 1)


def asked() -> bool:
    """Return whether the worker is going down."""
    return _flag[0] != 0


def ask(*_args: Any, **_kwargs: Any) -> None:
    """Ask every drain of this worker to stop soon."""
    _flag[0] = 1


def listen(*_args: Any, **_kwargs: Any) -> None:
    """In a pool process: a SIGTERM sent to it directly is heard as well, and does not kill it."""
    signal.signal(signal.SIGTERM, ask)
