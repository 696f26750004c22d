"""Nothing outlives its test run, not even when the run is killed with -9.

A watcher process reads a pipe from us. We tell it each process group and folder that must not stay;
when the pipe ends, however we end, it ends the groups and removes the folders.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

GRACE = 5.0  # seconds between the polite signal and SIGKILL


class Leash:
    """The line to the watcher of this process; started with the first thing that is held."""

    def __init__(self) -> None:
        self._line: IO[str] | None = None
        self._owner = 0

    def hold(self, group: int, polite: signal.Signals = signal.SIGKILL) -> None:
        """End the process group when this process ends: with `polite`, and SIGKILL if that does not help."""
        self._say(f"hold {group} {int(polite)}")

    def release(self, group: int) -> None:
        """Forget a process group that has ended."""
        self._say(f"release {group} 0")

    def folder(self, path: Path) -> None:
        """Remove the folder when this process ends."""
        self._say(f"folder {path}")

    def _say(self, words: str) -> None:
        if self._line is None or self._owner != os.getpid():
            watcher = subprocess.Popen(
                [sys.executable, "-I", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                cwd="/",
            )
            self._line, self._owner = watcher.stdin, os.getpid()
            # The watcher ends after us; nobody waits for it here.
            watcher.returncode = 0
        assert self._line is not None
        self._line.write(words + "\n")
        self._line.flush()


leash = Leash()


def watch(lines: IO[str]) -> None:
    """Read what must go until the line ends, then make it go."""
    groups: dict[int, int] = {}
    folders: list[Path] = []
    for line in lines:
        verb, _, rest = line.strip().partition(" ")
        if verb == "folder":
            folders.append(Path(rest))
        else:
            group, polite = (int(word) for word in rest.split())
            groups.pop(group, None)
            if verb == "hold":
                groups[group] = polite
    for group, polite in groups.items():
        _signal(group, polite)
    waited = time.monotonic() + GRACE
    while any(_signal(group, 0) for group in groups) and time.monotonic() < waited:
        time.sleep(0.02)
    for group in groups:
        _signal(group, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _signal(group: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    watch(sys.stdin)
