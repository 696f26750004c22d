"""The stage of the stories."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.postoffice import PostOffice
from tests.servers import Redis
from tests.stories.stage import Stage


@pytest.fixture
def stage(tmp_path: Path, database_url: str, redis_server: Redis) -> Iterator[Callable[..., Stage]]:
    """Return a function that opens a stage on PostgreSQL and Redis; its arguments are settings."""
    with ExitStack() as stages:

        def opened(post: PostOffice | None = None, **more: str) -> Stage:
            return stages.enter_context(Stage(tmp_path, database_url, redis_server.url, post, **more))

        yield opened
