"""The firm's own holidays as this process knows them: the drain reads them, handlers only look."""

from collections.abc import Mapping
from datetime import date

from tasks.models import Holiday

_known: Mapping[date, str] = {}


def read() -> Mapping[date, str]:
    """Read the holidays again, and return their names by day."""
    global _known
    _known = dict(Holiday.objects.values_list("day", "name"))
    return _known


def known() -> Mapping[date, str]:
    """Return the holidays as they were read last; none before."""
    return _known
