"""What manage.py says of a database that is not as a command needs it."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from django.db import Error, OperationalError, ProgrammingError

import manage
from tests.processes import product_environment
from tests.servers import ROOT

COMMANDS = ["sop list", "engine drain", "sop run x"]


def said(database_url: str, command: str) -> str:
    """Return what a command that must fail says."""
    done = subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        cwd=ROOT,
        env=product_environment(database_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_without_tables_is_one_sentence(command: str, tmp_path: Path) -> None:
    assert said(f"sqlite:///{tmp_path / 'empty.sqlite3'}", command) == f"{manage.NOT_READY}\n"


@pytest.mark.parametrize("command", ["sop list", "migrate"])
def test_a_database_that_is_away_is_one_sentence(command: str, tmp_path: Path) -> None:
    assert said("postgres://user:secret@127.0.0.1:1/name", command) == f"{manage.AWAY}\n"
    assert said(f"sqlite:///{tmp_path / 'nowhere' / 'x.sqlite3'}", command) == f"{manage.AWAY}\n"


@pytest.mark.parametrize(
    ("error", "cause", "told"),
    [
        (ProgrammingError("relation"), psycopg.errors.UndefinedTable(), manage.NOT_READY),
        (ProgrammingError("column"), psycopg.errors.UndefinedColumn(), manage.NOT_READY),
        (OperationalError("connection failed"), psycopg.OperationalError(), manage.AWAY),
        (OperationalError("going down"), psycopg.errors.AdminShutdown(), manage.AWAY),
        (OperationalError("cancelled"), psycopg.errors.QueryCanceled(), manage.BUSY),
        (OperationalError("database is locked"), sqlite3.OperationalError(), manage.BUSY),
        (ProgrammingError("syntax"), psycopg.errors.SyntaxError(), ""),
    ],
)
def test_what_the_operator_cannot_mend_keeps_its_traceback(error: Error, cause: Exception, told: str) -> None:
    error.__cause__ = cause
    assert manage.sentence(error) == told


def test_a_migration_that_misses_a_table_is_not_told_to_migrate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", "migrate"])
    assert manage.sentence(OperationalError("no such table: x")) == ""
