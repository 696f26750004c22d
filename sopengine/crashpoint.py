"""Places where a test may end the process, to prove that nothing is lost there.

`SOP_CRASH=name:p` ends the process with SIGKILL with probability p each time it passes the point
`name` (`*` for every point); settings refuse it with DEBUG off.
"""

import os
import random
import signal

from django.conf import settings


def crashpoint(name: str) -> None:
    """Die here if this run was told to."""
    told = settings.ENGINE_CRASH
    if not told:
        return
    point, _, probability = told.partition(":")
    if point in (name, "*") and random.random() < float(probability or 1):  # noqa: S311
        os.kill(os.getpid(), signal.SIGKILL)
