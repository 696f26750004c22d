"""Whose turn it is to be written to: marks by person and kind, taken and given back."""

from collections.abc import Iterable
from datetime import datetime

from tasks.journal.sql import as_time, execute, fetch, moment, now_sql


def reserve_contact(people: Iterable[str], kind: str, mark: str, before: datetime) -> datetime | None:
    """Take the turn of each of these for this kind, unless one was taken at `before` or later by another mark.

    Returns None when all are ours, else when that one was taken: then none is kept. Under one mark turns
    may be taken again and again.
    """
    wanted = sorted(people)  # of two mails to the same people one takes the first, and with it all
    for person in wanted:
        if taken := _reserve(person, kind, mark, before):
            free_contacts(wanted, mark)
            return taken
    return None


def _reserve(person: str, kind: str, mark: str, before: datetime) -> datetime | None:
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


def free_contacts(people: Iterable[str], mark: str) -> None:
    """Give back the turns that were taken under this mark and not used."""
    for person in sorted(people):
        execute("DELETE FROM tasks_contactmark WHERE person = %s AND mark = %s", person, mark)


def contact_marks(people: Iterable[str]) -> dict[str, datetime]:
    """Return when one of these was marked for the last time, by kind."""
    marks: dict[str, datetime] = {}
    for person in people:
        for row in fetch("SELECT kind, at FROM tasks_contactmark WHERE person = %s", person):
            kind, at = str(row["kind"]), moment(row["at"])
            marks[kind] = max(at, marks.get(kind, at))
    return marks
