"""The stage of the stories; and of one story after the other, a firm that goes through a year."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.postoffice import PostOffice
from tests.servers import Postgres, Redis
from tests.stories.firm import Firm
from tests.stories.stage import Stage


@pytest.fixture
def stage(tmp_path: Path, database_url: str, redis_server: Redis) -> Iterator[Callable[..., Stage]]:
    """Return a function that opens a stage on PostgreSQL and Redis; its arguments are settings."""
    with ExitStack() as stages:

        def opened(post: PostOffice | None = None, **more: str) -> Stage:
            return stages.enter_context(Stage(tmp_path, database_url, redis_server.url, post, **more))

        yield opened


@pytest.fixture(scope="module")
def firm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Postgres
) -> Iterator[Firm]:
    """The firm of a module: one database, one set of processes; its tests run in their order."""
    broker: Redis = request.getfixturevalue("_redis_server")
    broker.flush()
    name = f"firm_{request.module.__name__.rpartition('.')[2]}"
    database = postgres.migrated_database(name)
    with Firm(tmp_path_factory.mktemp("firm"), database, broker.url) as opened:
        yield opened
    postgres.drop_database(name)
