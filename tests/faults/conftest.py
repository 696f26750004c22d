"""The stage of the fault tests, and the lines they leave for the report."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.postoffice import PostOffice
from tests.faults.scene import Scene
from tests.processes import manage, product_environment
from tests.servers import Redis

CAME_TO = "what the faults came to"


@pytest.fixture
def stage(tmp_path: Path, database_url: str, redis_server: Redis) -> Iterator[Callable[..., Scene]]:
    """Return a function that opens a scene on PostgreSQL and Redis; its arguments are settings."""
    with ExitStack() as scenes:

        def opened(post: PostOffice | None = None, **more: str) -> Scene:
            return scenes.enter_context(
                Scene(tmp_path, database_url, redis_server.url, post or PostOffice(), **more)
            )

        yield opened


@pytest.fixture
def embedded_stage(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Return a function that opens a scene on SQLite without a broker."""
    database = f"sqlite:///{tmp_path / 'engine.sqlite3'}"
    manage(product_environment(database), "migrate", "--verbosity", "0")
    with ExitStack() as scenes:

        def opened(post: PostOffice | None = None, **more: str) -> Scene:
            return scenes.enter_context(Scene(tmp_path, database, "", post or PostOffice(), **more))

        yield opened


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return a function that keeps a line for the end of the test run."""
    return lambda line: record_property(CAME_TO, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the fault tests counted, in whichever process they ran."""
    done = [told for reports in terminalreporter.stats.values() for told in reports]
    lines = [
        line
        for told in done
        if getattr(told, "when", "") == "call"
        for name, line in told.user_properties
        if name == CAME_TO
    ]
    if lines:
        terminalreporter.section("what the faults came to")
        for line in lines:
            terminalreporter.write_line(line)
