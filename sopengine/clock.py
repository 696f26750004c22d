"""The one source of time.

Python's clock is for display and for calendars; what decides who may act is the database's clock,
to which the journal adds the same `offset()`. The offset moves every clock at once, so that a
demo can stand on a Monday in season and a test can live through a month in a minute.
"""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings

_read_at = 0.0
_from_file = 0.0


def offset() -> float:
    """Return by how many seconds every clock is moved; a file is read again each second."""
    global _read_at, _from_file
    if not settings.CLOCK_OFFSET_FILE:
        return float(settings.CLOCK_OFFSET)
    if time.monotonic() - _read_at >= 1.0 or not _read_at:
        text = Path(settings.CLOCK_OFFSET_FILE).read_text().strip()
        _from_file, _read_at = float(text or 0), time.monotonic()
    return _from_file


def now() -> datetime:
    """Return the moved wall clock, in UTC."""
    return datetime.now(UTC) + timedelta(seconds=offset())


def monotonic() -> float:
    """Return seconds that never jump: for deadlines and leases inside one process."""
    return time.monotonic()
