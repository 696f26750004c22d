"""What the mock CRM remembers: rows, idempotency keys and a journal, in one SQLite database.

With a path the database is a file in WAL mode that any number of processes and threads share; without
one it lives in the memory of this process. It is as strict as a CRM over HTTP: a refusal is a
`Refused` with the status that the REST contract would answer.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from crm.filters import matches
from crm.mapping import maps_for
from crm.mock.cast import cast_of, settled
from crm.records import ENTITIES, Record
from sopengine import clock
from sopengine.errors import StepError

Row = dict[str, Any]

KEY_HOURS = 24.0
PREFIXES = {
    "customers": "cus",
    "invoices": "inv",
    "quotes": "quo",
    "appointments": "app",
    "notes": "not",
    "deals": "dea",
    "accounts": "acc",
    "contacts": "con",
    "activities": "act",
}
DEFAULTS: Mapping[str, Row] = {
    "customers": {
        **dict.fromkeys(("email", "phone", "address", "city", "state", "zip")),
        **dict.fromkeys(("last_service_date", "notes", "source")),
        "services": [],
        "status": "lead",
        "signed_seasons": [],
        "do_not_contact": False,
    },
    "appointments": {"status": "booked"},
}
SEARCHED: Mapping[str, tuple[str, ...]] = {
    "customers": ("name", "email", "phone", "address", "city"),
    "accounts": ("name", "domain"),
    "contacts": ("name", "email", "phone"),
}
# Which field of a row names which other row, and whether it must.
REFERENCES: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "notes": {"customer_id": ("customers", True)},
    "appointments": {"customer_id": ("customers", True)},
    "activities": {"customer_id": ("customers", True)},
    "deals": {"customer_id": ("customers", False), "account_id": ("accounts", False)},
    "contacts": {"account_id": ("accounts", False)},
}

TABLES = """
CREATE TABLE IF NOT EXISTS row (entity TEXT, id TEXT, place INTEGER, body TEXT, PRIMARY KEY (entity, id));
CREATE TABLE IF NOT EXISTS version (entity TEXT PRIMARY KEY, number INTEGER);
CREATE TABLE IF NOT EXISTS key (key TEXT PRIMARY KEY, request TEXT, answer TEXT, at REAL);
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY, at TEXT, operation TEXT, entity TEXT, id TEXT, key TEXT, outcome TEXT);
CREATE TABLE IF NOT EXISTS seeded (customers INTEGER);
"""


class Refused(Exception):
    """The mock CRM says no, as a status of the REST contract."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Written:
    """The row that a write made, and whether the answer was replayed for a key seen before."""

    row: Row
    replayed: bool


class MockState:
    """The rows of one mock CRM, of `customers` past customers when it is new. Safe between threads."""

    def __init__(self, path: str = "", customers: int = 12) -> None:
        self.path = path
        self._past = customers
        self._lock = threading.RLock()
        self._own = threading.local()
        self._memory: sqlite3.Connection | None = None
        self._seen: dict[str, tuple[int, datetime, list[tuple[Row, Record]]]] = {}
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        else:
            self._memory = self._opened(":memory:")
        with self._writing() as db:
            self._seed(db)

    # -- reading -----------------------------------------------------------------------------------

    def query(
        self, entity: str, filters: Mapping[str, Any], page: int = 1, per_page: int = 25
    ) -> tuple[list[Row], int]:
        """Return one page of the rows that match the typed filters, and how many match in all.

        The notes of a customer who is not there are refused, as they have no address in the contract.
        """
        if entity == "notes":
            with self._reading() as db:
                self._demand_references(db, entity, filters)
        found = [row for row, record in self._all(entity) if not filters or matches(record, filters)]
        self._note("query", entity, "", outcome="read")
        return found[(page - 1) * per_page : page * per_page], len(found)

    def find(self, entity: str, record_id: str) -> Row | None:
        """Return the row with this id, or None."""
        with self._reading() as db:
            row = self._row(db, entity, record_id)
        self._note("find", entity, record_id, outcome="read" if row else "not_found")
        return settled(row, clock.now()) if row else None

    def search(
        self, text: str, page: int = 1, per_page: int = 25, entity: str = "customers"
    ) -> tuple[list[Row], int]:
        """Return one page of the rows whose name, mail, phone or address has the text.

        A phone number is found by its digits as they are stored, no matter who else would know it.
        """
        wanted = text.casefold()
        digits = "".join(filter(str.isdigit, text))
        found = [
            row
            for row, _ in self._all(entity)
            if any(wanted in str(row.get(name) or "").casefold() for name in SEARCHED[entity])
            or (len(digits) >= 7 and digits in str(row.get("phone") or ""))
        ]
        self._note("search", entity, "", outcome="read")
        return found[(page - 1) * per_page : page * per_page], len(found)

    def rows(self, entity: str) -> list[Row]:
        """Return every row of the entity as it reads now; leaves no mark in the journal."""
        return [dict(row) for row, _ in self._all(entity)]

    def journal(self) -> list[dict[str, Any]]:
        """Return every operation in order: at, operation, entity, id, key and outcome.

        The outcome is read, not_found, applied, replayed or refused.
        """
        with self._reading() as db:
            cursor = db.execute("SELECT * FROM journal ORDER BY seq")
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, values, strict=True)) for values in cursor]

    # -- writing -----------------------------------------------------------------------------------

    def create(self, entity: str, row: Mapping[str, Any], key: str = "") -> Written:
        """Create a row, once per key."""

        def apply(db: sqlite3.Connection) -> Row:
            self._demand_references(db, entity, row)
            place = self._last_place(db, entity) + 1
            now = clock.now().isoformat()
            made = {
                **DEFAULTS.get(entity, {}),
                **row,
                "id": f"{PREFIXES[entity]}_{place:04}",
                **({"created_at": now} if entity in ("customers", "notes") else {}),
                "updated_at": now,
            }
            return self._put(db, entity, made, place)

        return self._write("create", entity, "", row, key, apply)

    def update(self, entity: str, record_id: str, row: Mapping[str, Any], key: str = "") -> Written:
        """Change the given fields of a row, once per key."""

        def apply(db: sqlite3.Connection) -> Row:
            stored = self._row(db, entity, record_id)
            if stored is None:
                raise Refused(404, f"there is no {ENTITIES[entity].word} with this id")
            self._demand_references(db, entity, row, updating=True)
            changed = {**stored, **row, "updated_at": clock.now().isoformat()}
            return self._put(db, entity, changed)

        return self._write("update", entity, record_id, row, key, apply)

    def load(self, entity: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows as they are, each with its id, in place of those that have the same id."""
        with self._writing() as db:
            for place, row in enumerate(rows, self._last_place(db, entity) + 1):
                self._put(db, entity, {**DEFAULTS.get(entity, {}), **row}, place)

    def remove(self, entity: str, record_id: str) -> None:
        """Take a row away, as when somebody deletes it in the CRM."""
        with self._writing() as db:
            db.execute("DELETE FROM row WHERE entity = ? AND id = ?", [entity, record_id])
            self._touch(db, entity)

    def _write(
        self, operation: str, entity: str, record_id: str, row: Mapping[str, Any], key: str, apply: Any
    ) -> Written:
        """Apply one write, or replay the answer that its key has had within the last 24 hours."""
        request = _fingerprint(operation, entity, record_id, row)
        try:
            with self._writing() as db:
                self._demand_fields(entity, row)
                answer = self._replay(db, key, request)
                made = answer if answer is not None else apply(db)
                outcome = "applied" if answer is None else "replayed"
                if key and answer is None:
                    stored = [key, request, json.dumps(made), clock.now().timestamp()]
                    db.execute("INSERT OR REPLACE INTO key VALUES (?, ?, ?, ?)", stored)
                self._journal(db, operation, entity, made["id"], key, outcome)
        except Refused:
            self._note(operation, entity, record_id, key, "refused")
            raise
        return Written(settled(made, clock.now()), outcome == "replayed")

    def _replay(self, db: sqlite3.Connection, key: str, request: str) -> Row | None:
        if not key:
            return None
        found = db.execute("SELECT request, answer, at FROM key WHERE key = ?", [key]).fetchone()
        if found is None or clock.now().timestamp() - found[2] > KEY_HOURS * 3600:
            return None
        if found[0] != request:
            raise Refused(422, "this Idempotency-Key was used for another request")
        answer: Row = json.loads(found[1])
        return answer

    def _demand_fields(self, entity: str, row: Mapping[str, Any]) -> None:
        """Refuse a field that cannot be written."""
        writable = {item.provider for item in maps_for("mock").rows[entity] if item.direction != "in"}
        if unknown := sorted(row.keys() - writable):
            raise Refused(422, f"cannot be written: {', '.join(unknown)}")

    def _demand_references(
        self, db: sqlite3.Connection, entity: str, row: Mapping[str, Any], *, updating: bool = False
    ) -> None:
        """Refuse a row that is about a customer or an account that is not there."""
        for field, (target, needed) in REFERENCES.get(entity, {}).items():
            other = row.get(field)
            if (updating and field not in row) or (other is None and not needed):
                continue
            if not isinstance(other, str) or self._row(db, target, other) is None:
                raise Refused(404, f"there is no {ENTITIES[target].word} with this id")

    def _put(self, db: sqlite3.Connection, entity: str, row: Row, place: int | None = None) -> Row:
        """Store a row that is well-formed, at its old place by default; else it is refused with 422."""
        try:
            maps_for("mock").record(entity, settled(row, clock.now()))
        except StepError as error:
            raise Refused(422, error.message) from None
        if place is None:
            db.execute(
                "UPDATE row SET body = ? WHERE entity = ? AND id = ?", [json.dumps(row), entity, row["id"]]
            )
        else:
            stored = [entity, row["id"], place, json.dumps(row)]
            db.execute("INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?)", stored)
        self._touch(db, entity)
        return row

    # -- the database ------------------------------------------------------------------------------

    def _seed(self, db: sqlite3.Connection) -> None:
        """Fill a new database; whoever comes first does it."""
        for statement in TABLES.split(";"):
            db.execute(statement)
        if db.execute("SELECT 1 FROM seeded").fetchone():
            return
        for entity, rows in cast_of(self._past).items():
            placed = [(entity, row["id"], place, json.dumps(row)) for place, row in enumerate(rows, 1)]
            db.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", placed)
        db.execute("INSERT INTO seeded VALUES (?)", [self._past])

    def _all(self, entity: str) -> list[tuple[Row, Record]]:
        """Return every row with its record, read again only when a row changed or the hour did."""
        now = clock.now()
        hour = now.replace(minute=0, second=0, microsecond=0)
        with self._reading() as db:
            found = db.execute("SELECT number FROM version WHERE entity = ?", [entity]).fetchone()
            number = found[0] if found else 0
            known = self._seen.get(entity)
            if known and known[:2] == (number, hour):
                return known[2]
            bodies = db.execute("SELECT body FROM row WHERE entity = ? ORDER BY place", [entity]).fetchall()
        rows = [settled(json.loads(body), now) for (body,) in bodies]
        record = maps_for("mock").record
        pairs = [(row, record(entity, row)) for row in rows]
        self._seen[entity] = (number, hour, pairs)
        return pairs

    def _row(self, db: sqlite3.Connection, entity: str, record_id: str) -> Row | None:
        found = db.execute("SELECT body FROM row WHERE entity = ? AND id = ?", [entity, record_id]).fetchone()
        return json.loads(found[0]) if found else None

    def _last_place(self, db: sqlite3.Connection, entity: str) -> int:
        found = db.execute("SELECT coalesce(max(place), 0) FROM row WHERE entity = ?", [entity])
        return int(found.fetchone()[0])

    def _touch(self, db: sqlite3.Connection, entity: str) -> None:
        db.execute(
            "INSERT INTO version VALUES (?, 1) ON CONFLICT (entity) DO UPDATE SET number = number + 1",
            [entity],
        )

    def _note(
        self, operation: str, entity: str, record_id: str, key: str = "", outcome: str = "read"
    ) -> None:
        with self._writing() as db:
            self._journal(db, operation, entity, record_id, key, outcome)

    def _journal(
        self, db: sqlite3.Connection, operation: str, entity: str, record_id: str, key: str, outcome: str
    ) -> None:
        values = [clock.now().isoformat(), operation, entity, record_id, key, outcome]
        db.execute(
            "INSERT INTO journal (at, operation, entity, id, key, outcome) VALUES (?, ?, ?, ?, ?, ?)", values
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside one transaction that writes."""
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Give this thread its connection: its own to a file, the one and locked to memory."""
        if self._memory is not None:
            with self._lock:
                yield self._memory
            return
        if getattr(self._own, "pid", None) != os.getpid():  # SQLite must not cross a fork
            self._own.pid, self._own.db = os.getpid(), self._opened(self.path)
        yield self._own.db

    @staticmethod
    def _opened(path: str) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        # The file outlives a killed process either way; only a power cut could take the last writes.
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        return db


def _fingerprint(operation: str, entity: str, record_id: str, row: Mapping[str, Any]) -> str:
    text = json.dumps([operation, entity, record_id, row], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
