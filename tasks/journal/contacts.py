"""Whose turn it is to be written to: marks by person and kind, taken and given back."""

from collections.abc import Iterable
from datetime import datetime

from tasks.journal.sql import as_time, execute, fetch, moment, now_sql


def reserve_contact(person: str, kind: str, mark: str, before: datetime) -> datetime | None:
    """Take the person's turn for this kind, unless it was taken at `before` or later by another mark.

    Returns None when it is ours, else when it was taken. Under one mark it may be taken again and again.
    """
    while True:
        taken = execute(
            f"INSERT INTO tasks_contactmark (person, kind, at, mark) VALUES (%s, %s, {now_sql()}, %s) "
            f"ON CONFLICT (person, kind) DO UPDATE SET at = {now_sql()}, mark = excluded.mark "
            "WHERE tasks_contactmark.at < %s OR tasks_contactmark.mark = excluded.mark",
            person,
            kind,
            mark,
            as_time(before),
        )
        if taken:
            return None
        rows = fetch("SELECT at FROM tasks_contactmark WHERE person = %s AND kind = %s", person, kind)
        if rows:  # else it was given back just now
            return moment(rows[0]["at"])


def free_contacts(reserved: Iterable[tuple[str, str]]) -> None:
    """Give back the turns that were taken and not used: pairs of person and mark."""
    for person, mark in reserved:
        execute("DELETE FROM tasks_contactmark WHERE person = %s AND mark = %s", person, mark)


def contact_marks(person: str) -> dict[str, datetime]:
    """Return when the person was marked for the last time, by kind."""
    rows = fetch("SELECT kind, at FROM tasks_contactmark WHERE person = %s", person)
    return {str(row["kind"]): moment(row["at"]) for row in rows}
