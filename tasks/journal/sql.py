"""The dialect: what both databases are told in the same words.

A batch travels as one JSON document, which PostgreSQL opens with jsonb_to_recordset and SQLite
with json_each. What decides who may act is the database's clock, moved by `clock.offset()`.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connection
from django.db.utils import DataError as DatabaseDataError

from sopengine import clock

T = TypeVar("T")
Row = dict[str, Any]
Refused = (IntegrityError, DatabaseDataError)
Away = (OperationalError, InterfaceError)


def postgres() -> bool:
    """Return whether the database is PostgreSQL; else it is SQLite."""
    return connection.vendor == "postgresql"


def now_sql(plus: str = "") -> str:
    """Return the SQL of the moved database clock; `plus` is an SQL expression in seconds."""
    moved = f"{clock.offset():.6f}"
    if postgres():
        return f"(statement_timestamp() + ({moved}{' + ' + plus if plus else ''}) * interval '1 second')"
    shift = f"({moved}{' + ' + plus if plus else ''}) || ' seconds'"
    return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', {shift})"


def source(columns: Mapping[str, str]) -> str:
    """Return the SQL that opens the document parameter as a table `c` with these columns."""
    if postgres():
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"jsonb_to_recordset(%s::jsonb) AS c({typed})"
    picked = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
    return f"(SELECT {picked} FROM json_each(%s)) AS c"


def as_json(column: str) -> str:
    """Return the SQL that reads this text column of the document as JSON."""
    return f"{column}::jsonb" if postgres() else column


def key(value: UUID) -> str:
    """Return an id as the database keeps it."""
    return str(value) if postgres() else value.hex


def as_uuid(value: UUID | str) -> UUID:
    """Return an id that the database gave."""
    return value if isinstance(value, UUID) else UUID(value)


def as_time(value: datetime | None) -> str | None:
    """Return a moment as the database reads it."""
    if value is None:
        return None
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") + ("+00" if postgres() else "")


def moment(value: Any) -> datetime:
    """Return a moment that the database gave, with its zone."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def document(rows: Iterable[Row]) -> str:
    """Return a batch as the one parameter it travels in."""
    return json.dumps(list(rows), separators=(",", ":"))


def fetch(sql: str, *params: Any) -> list[Row]:
    """Return the rows of a statement, as dicts."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        if cursor.description is None:
            return []
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def execute(sql: str, *params: Any) -> int:
    """Run a statement; return how many rows it touched."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


def execute_many(sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run a statement once for each row of parameters."""
    with connection.cursor() as cursor:
        cursor.executemany(sql, rows)


def ids_in(column: str) -> str:
    """Return an SQL condition on `column` that takes one document of ids."""
    if postgres():
        return f"{column} = ANY(ARRAY(SELECT jsonb_array_elements_text(%s::jsonb)::uuid))"
    return f"{column} IN (SELECT value FROM json_each(%s))"


def id_document(ids: Iterable[UUID]) -> str:
    """Return ids as the one parameter they travel in."""
    return json.dumps([key(i) for i in ids])


def database_now() -> datetime:
    """Return the moved clock of the database."""
    return moment(fetch(f"SELECT {now_sql()} AS now")[0]["now"])


def patiently(work: Callable[[], T], patience: float = 3.0) -> T:
    """Do `work`, a whole transaction, again while the database is busy, dead-locked or away."""
    ends = clock.monotonic() + patience
    pause = 0.02
    while True:
        try:
            return work()
        except Away:
            if connection.in_atomic_block or clock.monotonic() + pause > ends:
                raise
            connection.close_if_unusable_or_obsolete()
            time.sleep(pause * (1 + random.random()))  # noqa: S311
            pause = min(2 * pause, 0.5)


def quoted(text: str) -> str:
    """Return a literal of our own making."""
    return f"'{text}'"


def sqlstate(error: DatabaseError) -> str:
    """Return what may be logged of a database error: its state and constraint, never its values."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or type(cause or error).__name__
    constraint = ""
    with suppress(AttributeError):
        constraint = cause.diag.constraint_name or ""  # type: ignore[union-attr]
    return f"{state} {constraint}".strip()
