"""PostgreSQL crashes and comes back: what was committed stays, the rest is done again."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.invariants import summary
from tests.faults.postoffice import PostOffice
from tests.faults.procedures import FIVE, MAILS, people
from tests.faults.scene import RECOVERY, Scene
from tests.length import SOAK
from tests.processes import eventually
from tests.servers import Postgres, Redis


@pytest.fixture
def faithful() -> Iterator[Postgres]:
    """A PostgreSQL of this test alone that acknowledges only what it has written."""
    server = Postgres(options={"synchronous_commit": "on"})
    yield server
    server.remove()


@pytest.fixture
def stage(faithful: Postgres, redis_server: Redis, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Return a function that opens a scene on that server."""
    with ExitStack() as scenes:

        def opened(post: PostOffice | None = None, **more: str) -> Scene:
            database = faithful.migrated_database("crashing")
            return scenes.enter_context(
                Scene(tmp_path, database, redis_server.url, post or PostOffice(), **more)
            )

        yield opened


def test_a_crash_of_postgres_in_the_middle_loses_nothing(
    stage: Callable[..., Scene], faithful: Postgres, report: Callable[[str], None]
) -> None:
    scene = stage()
    scene.ledger.delay = lambda: 0.05
    workers = [scene.worker("first"), scene.worker("second")]
    count = 2_000 if SOAK else 300
    scene.desk.start(scene.desk.publish(FIVE), people(count))
    crashes = 8 if SOAK else 2
    for number in range(1, crashes + 1):
        done = number * count // (crashes + 2)
        eventually(
            lambda done=done: scene.desk.counts().get("completed", 0) >= done, RECOVERY, what=scene.said
        )
        faithful.kill()
        faithful.start()
    tally, released = scene.release_all()
    assert tally.completed + tally.unknown == tally.tasks == count
    assert all(worker.alive for worker in workers)
    report(summary("PostgreSQL crashed", tally, crashes=crashes, in_doubt=tally.unknown, released=released))


def test_a_postgres_that_is_back_within_the_lease_costs_no_mail_its_receipt(
    stage: Callable[..., Scene], faithful: Postgres
) -> None:
    """The letters are out and their settle finds no database: it insists, as long as the runs are its own."""
    times = {"ENGINE_LEASE": "25", "ENGINE_DEADLINE": "20", "ENGINE_CALL_TIMEOUT": "15", "ENGINE_SLICE": "30"}
    scene = stage(PostOffice(pause=3.0), **times)
    scene.worker(children=1)
    scene.desk.start(scene.desk.publish(MAILS), people(10))
    eventually(lambda: len(scene.post.letters) == 10, RECOVERY, what=scene.said)
    faithful.kill()
    time.sleep(6)
    faithful.start()
    tally = scene.rest(25 + RECOVERY)
    assert (tally.completed, tally.deaths, tally.unknown) == (10, 0, 0)
