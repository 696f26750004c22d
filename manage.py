#!/usr/bin/env python
"""Django's command line."""

import os
import sys

from django.core.management import execute_from_command_line
from django.db import Error, OperationalError

from sopengine.environment import Misconfigured

NOT_READY = "The database is not ready: run python manage.py migrate."
AWAY = "The database cannot be reached."
BUSY = "The database is busy: it did not answer in time. Try again."
# What PostgreSQL and SQLite say of a table or column that is not there, and of one that is locked.
MISSING_STATES = frozenset({"42P01", "42703"})
MISSING_WORDS = ("no such table", "no such column", "has no column named")
BUSY_STATES = frozenset({"55P03", "57014", "40P01"})
BUSY_WORDS = ("database is locked", "database table is locked")
AWAY_STATES = ("08", "28", "3D", "53", "57")


def sentence(error: Error) -> str:
    """Return what the operator can do about a database's error, without its values; "" for a bug."""
    state = getattr(error.__cause__, "sqlstate", None) or ""
    said = str(error)
    if state in MISSING_STATES or (not state and any(words in said for words in MISSING_WORDS)):
        return NOT_READY if sys.argv[1:2] != ["migrate"] else ""
    if state in BUSY_STATES or (not state and any(words in said for words in BUSY_WORDS)):
        return BUSY
    if state.startswith(AWAY_STATES) or (not state and isinstance(error, OperationalError)):
        return AWAY
    return ""


def main() -> None:
    """Run a command; what the operator can mend is said in one sentence, a bug keeps its traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sopengine.settings")
    try:
        execute_from_command_line(sys.argv)
    except Misconfigured as error:
        sys.exit(str(error))
    except Error as error:
        told = "" if "--traceback" in sys.argv else sentence(error)
        if not told:
            raise
        sys.exit(told)


if __name__ == "__main__":
    main()
