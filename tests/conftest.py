"""What every test can ask for: the servers, a database of its own, a place for logs."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connection

from tests.servers import Postgres, Redis

TESTS = Path(__file__).parent
DATABASE_FIXTURES = {"db", "transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback"}
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by where it stands and by what it touches."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if TESTS in item.path.parents else ""
        if folder in {"faults", "stories"}:
            item.add_marker(folder)
        elif item.get_closest_marker("django_db") or DATABASE_FIXTURES & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker("database")


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
