"""Redis and beat may lose everything, come twice, or not be there: it costs a sweep, never a run."""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tests.faults.invariants import summary
from tests.faults.procedures import FIVE, people, sop, step
from tests.faults.scene import NO_HURRY, RECOVERY, Scene
from tests.length import SOAK
from tests.processes import WebServer, eventually
from tests.servers import Redis

ANSWERS = 1.0 * 5  # seconds: the ceiling of one request while Redis is away, x 5 for a busy machine
PAGES = ("/healthz", "/admin/login/")


def test_without_beat_the_workers_sweep_by_themselves(stage: Callable[..., Scene]) -> None:
    """Nobody publishes a wake-up when an hour comes: the waits end all the same."""
    scene = stage()
    worker = scene.worker()
    later = sop("later", step("wait", "flow.wait", params={"duration": 2}), step("end", "probe.note"))
    scene.desk.start(scene.desk.publish(later), people(50))
    eventually(lambda: scene.desk.counts() == {"waiting": 50}, RECOVERY, what=scene.said)
    eventually(lambda: scene.desk.counts() == {"completed": 50}, RECOVERY, what=scene.said)
    scene.checked()
    assert worker.alive


def test_three_beats_and_two_workers_fire_each_slot_once(stage: Callable[..., Scene], tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    scene = stage(CLOCK_OFFSET_FILE=str(clock))
    minutely = {"schedule": "* * * * *", "timezone": "UTC", "overlap": "allow"}
    scene.desk.publish(sop("minutely", step("write", "probe.write"), trigger=minutely))
    for number in range(3):
        scene.beat(f"beat-{number}")
    scene.worker("first")
    scene.worker("second")
    eventually(lambda: scene.desk.sql("SELECT 1 FROM tasks_pulse WHERE name = 'sweep'"), RECOVERY)
    for minute in range(1, 16 if SOAK else 6):
        clock.write_text(str(60 * minute))
        eventually(
            lambda at_least=minute: len(scene.desk.facts()["runs"]) >= at_least, RECOVERY, what=scene.said
        )
    scene.rest()
    facts = scene.desk.facts()
    slots = [run["slot"] for run in facts["runs"]]
    assert slots == [slots[0] + timedelta(minutes=number) for number in range(len(slots))]
    started = [run["task_id"] for run in facts["runs"] if run["outcome"] == "started"]
    assert sorted(map(str, started)) == sorted(str(task["id"]) for task in facts["tasks"])
    # A clock that jumps a minute ends every lease, so that a write may be asked for again, under its key.
    assert list(scene.ledger.keys("keyed").values()) == [1] * len(started)


def test_a_flushed_redis_loses_no_run(
    stage: Callable[..., Scene], redis_server: Redis, report: Callable[[str], None]
) -> None:
    scene = stage(**NO_HURRY, ENGINE_THREADS="4")
    scene.ledger.delay = lambda: 0.1
    scene.desk.start(scene.desk.publish(FIVE), people(1_000 if SOAK else 120))
    scene.desk.send("engine.drain", 100)
    scene.worker()
    flushes = 0
    while not scene.resting():
        redis_server.flush()
        flushes += 1
        time.sleep(0.2)
    tally = scene.rest()
    assert tally.completed == tally.tasks
    assert flushes > 3, "nothing was flushed in the middle: the test shows nothing"
    report(summary("FLUSHALL again and again", tally, flushes=flushes))


def test_while_redis_is_down_the_web_answers_and_afterwards_the_workers_go_on(
    stage: Callable[..., Scene], redis_server: Redis, report: Callable[[str], None]
) -> None:
    scene = stage(**NO_HURRY)
    scene.ledger.delay = lambda: 0.05
    worker = scene.worker()
    web = scene.begun(WebServer(scene.environment, log=scene.folder / "web.log"))
    version = scene.desk.publish(FIVE)
    scene.desk.start(version, people(40))
    web.ready()
    eventually(lambda: scene.desk.counts().get("completed"), RECOVERY, what=scene.said)
    slow = sop("slow", step("slow", "probe.slow", params={"seconds": 3}))
    scene.desk.start(scene.desk.publish(slow), people(40), priority=0)
    scene.desk.send("engine.drain", 50)
    time.sleep(1)  # all pool processes are at work, and the worker holds messages that it has not begun
    redis_server.kill()
    slowest = 0.0
    ends = time.monotonic() + (30 if SOAK else 4)
    try:
        while time.monotonic() < ends:
            began = time.monotonic()
            scene.desk.start(version, people(1))  # what the web does when it accepts a run
            slowest = max(slowest, time.monotonic() - began, *(asked(web.url + page) for page in PAGES))
            time.sleep(0.2)
    finally:
        redis_server.start()
    began = time.monotonic()
    tally = scene.rest(RECOVERY + 50)
    took = time.monotonic() - began
    assert tally.completed == tally.tasks > 40
    assert tally.unknown == 0
    assert slowest < ANSWERS
    assert worker.alive
    report(
        summary("Redis down", tally, slowest_answer=f"{slowest:.2f} s", at_work_again_after=f"{took:.1f} s")
    )


def asked(url: str) -> float:
    """Return how long the page took; an answer of 500 raises."""
    began = time.monotonic()
    with urllib.request.urlopen(url, timeout=30) as answer:
        answer.read()
    return time.monotonic() - began


def test_fifty_wake_ups_for_one_run_run_it_once(stage: Callable[..., Scene]) -> None:
    scene = stage(**NO_HURRY)
    scene.ledger.delay = lambda: 0.3
    scene.desk.start(scene.desk.publish(FIVE), people(1))
    scene.desk.send("engine.drain", 50)
    scene.worker("first")
    scene.worker("second")
    tally = scene.rest()
    assert (tally.completed, tally.deaths) == (1, 0)
    assert set(scene.ledger.raw.values()) == {1}
    kinds = Counter(event["kind"] for event in scene.desk.facts()["events"])
    assert kinds["claimed"] == 1


def test_messages_that_mean_nothing_are_dropped_and_the_worker_lives(
    stage: Callable[..., Scene], redis_server: Redis
) -> None:
    scene = stage()
    worker = scene.worker()
    worker.ready()
    scene.desk.send("no.such.task", 5)
    with redis_server.client() as client:
        client.lpush("sop", "neither JSON nor anything")
        client.lpush("sop", json.dumps({"body": "e30=", "headers": {}, "properties": {}}))
        client.lpush("sop", json.dumps([1, 2, 3]))
    scene.desk.start(scene.desk.publish(FIVE), people(20))
    tally = scene.rest()
    assert tally.completed == 20
    time.sleep(1)
    assert worker.alive
    scene.desk.start(scene.desk.publish(FIVE), people(5))
    assert scene.rest().completed == 25
