"""What every test can ask for: the servers, a database of its own; and what is watched over in each."""

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from django.conf import settings as present
from django.db import connection, transaction
from pytest_django import Settings

from credentials import vault
from credentials.models import Credential
from crm.models import Health
from sopengine.logs import JsonFormatter
from tasks.models import TaskEvent
from tests.leaks import is_name_of_secret, leaks, secrets_in, worth_looking
from tests.servers import Postgres, Redis

TESTS = Path(__file__).parent
DATABASE_FIXTURES = {"db", "transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback"}
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by where it stands and by what it touches; the long ones come first.

    So that no core waits at the end for the last of them.
    """
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if TESTS in item.path.parents else ""
        if folder in {"faults", "stories"}:
            item.add_marker(folder)
        elif item.get_closest_marker("django_db") or DATABASE_FIXTURES & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker("database")
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this test session."""
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[Redis]:
    server = Redis()
    yield server
    server.remove()


@pytest.fixture
def redis_server(_redis_server: Redis) -> Redis:
    """A Redis of this test session, empty."""
    _redis_server.flush()
    return _redis_server


@pytest.fixture
def new_database(postgres: Postgres) -> Iterator[Callable[[], str]]:
    """Return a function that makes a migrated PostgreSQL database and returns its address."""
    names: list[str] = []

    def make() -> str:
        names.append(f"test_{next(_numbers)}")
        return postgres.migrated_database(names[-1])

    yield make
    for name in names:
        postgres.drop_database(name)


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """The address of a migrated PostgreSQL database of this test."""
    return new_database()


@pytest.fixture
def on_postgres(db: None) -> None:
    """Skip where the database of the unit tests is SQLite: the law at hand is one of PostgreSQL."""
    if connection.vendor != "postgresql":
        pytest.skip("this law is one of PostgreSQL; the database here is SQLite")


@pytest.fixture
def on_sqlite(db: None) -> None:
    """Skip where the database of the unit tests is PostgreSQL: the law at hand is one of SQLite."""
    if connection.vendor != "sqlite":
        pytest.skip("this law is one of SQLite; the database here is PostgreSQL")


# -- nothing secret is written, by any test ----------------------------------------------------------


class _Lines(logging.Handler):
    """Every line that a test logs, as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(self.format(record))


_secrets = pytest.StashKey[set[str]]()


@pytest.fixture(autouse=True)
def _watched(request: pytest.FixtureRequest, settings: Settings) -> Iterator[None]:
    """Fail a test whose log lines or events hold a secret that it works with, or a customer."""
    node: pytest.Item = request.node
    has_database = node.get_closest_marker("database") is not None
    if has_database:
        request.getfixturevalue("_django_db_helper")  # first, so that it is still there at the end
    written = _Lines()
    logging.getLogger().addHandler(written)
    yield
    logging.getLogger().removeHandler(written)
    secrets = secrets_in({name: getattr(present, name, "") for name in _names_of_secrets()})
    texts = written.lines
    if has_database:
        secrets |= _stored_secrets()
        texts = texts + _events()
    node.stash[_secrets] = secrets
    found = leaks(texts, secrets, people=True)
    assert not found, f"this was written, and must not be: …{found[0]}…"


@cache
def _names_of_secrets() -> tuple[str, ...]:
    return tuple(name for name in dir(present) if name.isupper() and is_name_of_secret(name))


def _stored_secrets() -> set[str]:
    """Return what the stored credentials open to, as far as the test has their keys."""
    found: set[str] = set()
    for row in Credential.objects.all():
        for field in ("secret", "refresh_token"):
            try:
                found.add(
                    vault.unseal(
                        getattr(row, field) or "",
                        table=Credential._meta.db_table,
                        row=str(row.pk),
                        field=field,
                    )
                )
            except vault.VaultError:
                continue
    return set(filter(worth_looking, found))


def _events() -> list[str]:
    """Return what events and the lines to other systems say, as text."""
    with transaction.atomic():
        rows = [json.dumps(data) for data in TaskEvent.objects.values_list("data", flat=True)]
        return rows + [json.dumps(row, default=str) for row in Health.objects.values()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Fail a test that printed one of its secrets."""
    report = yield
    printed = leaks([text for _, text in report.sections], item.stash.get(_secrets, set()))
    if printed and report.passed:
        report.outcome = "failed"
        report.longrepr = f"this was printed, and must not be: …{printed[0]}…"
    return report
