"""Kill -9 at any moment: nothing is lost, no step counts twice, no mail goes out twice."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.invariants import summary
from tests.faults.postoffice import PostOffice
from tests.faults.procedures import FIVE, KEYED, MAILS, people, sop, step
from tests.faults.scene import RECOVERY, Monkey, Scene
from tests.length import AT_FULL_LENGTH, SOAK
from tests.processes import Worker, eventually

LONG_CALLS = {"ENGINE_LEASE": "6", "ENGINE_DEADLINE": "5.5", "ENGINE_CALL_TIMEOUT": "5.4"}
# Where a worker dies, and how often of those it passes there; the rarer it comes by, the likelier.
POINTS = {
    "m1": ("after a claim", 0.25),
    "m2": ("after the answer of the other side", 0.08),
    "m3": ("before the update of a settle", 0.25),
    "m4": ("after an update, before its commit", 0.12),
    "m5": ("after a settle", 0.3),
}


@pytest.mark.long
def test_a_worker_that_dies_at_any_point_loses_and_repeats_nothing(
    stage: Callable[..., Scene], report: Callable[[str], None]
) -> None:
    """One point after the other, each with runs of its own; what is counted at the end is all of them."""
    scene = stage(ENGINE_BATCH="3")
    five, mails = scene.desk.publish(FIVE), scene.desk.publish(MAILS)
    runs, deaths = 0, {}
    # The next test dies at all of them; here those between an act and its record are gone through alone.
    for point in POINTS if SOAK else ("m2", "m3", "m4"):
        where, often = POINTS[point]
        worker = scene.worker(point, SOP_CRASH=f"{point}:{often}")
        runs += len(scene.desk.start(five, people(500 if SOAK else 18)))
        runs += len(scene.desk.start(mails, people(200 if SOAK else 9)))
        keeper = scene.kept(worker)
        tally, released = scene.release_all(300 if SOAK else 60)
        keeper.stop()
        worker.kill()
        deaths[where] = tally.deaths - sum(deaths.values())
        assert tally.completed + tally.unknown == tally.tasks == runs
        assert tally.unknown == tally.died_in_once + tally.given_up
        assert deaths[where] > 0, f"nobody died {where}: the test shows nothing"
        report(summary(f"killed {where}, and before", tally, quarantined_and_released=released))


@pytest.mark.long
def test_a_thousand_runs_under_random_kills_lose_nothing_and_mail_nobody_twice(
    stage: Callable[..., Scene], report: Callable[[str], None]
) -> None:
    count = 5_000 if SOAK else 1_000
    scene = stage(SOP_CRASH="*:0.0015", ENGINE_BATCH="20")
    workers = [scene.worker("first"), scene.worker("second")]
    scene.desk.start(scene.desk.publish(FIVE), people(count))
    scene.desk.start(scene.desk.publish(MAILS), people(count // 10))
    keeper = scene.kept(*workers)
    with Monkey(lambda: kill_somebody(workers), (0.5, 1.5)) as monkey:
        tally, released = scene.release_all(900 if SOAK else 240)
    assert tally.completed + tally.unknown == tally.tasks == count + count // 10
    assert tally.unknown == tally.died_in_once + tally.given_up
    assert monkey.kills >= 3
    assert tally.deaths >= 50
    report(
        summary(
            "random kill -9 on PostgreSQL and Redis",
            tally,
            kills_from_outside=monkey.kills,
            workers_restarted=keeper.restarts,
            quarantined_and_released=released,
        )
    )


def kill_somebody(workers: list[Worker]) -> bool:
    """SIGKILL for a pool process of a worker that is at work, now and then for a whole worker."""
    worker = random.choice(workers)
    if len(worker.children()) < 2:
        return False
    if random.random() < 0.1:
        worker.kill()
        return True
    return worker.kill_child() is not None


def test_one_process_on_sqlite_under_random_kills_loses_nothing_and_mails_nobody_twice(
    embedded_stage: Callable[..., Scene], report: Callable[[str], None]
) -> None:
    least, deaths = (600, 20) if SOAK else (30, 1)
    scene = embedded_stage(SOP_CRASH="*:0.01", ENGINE_BATCH="20")
    keeper = scene.kept(scene.embedded())
    version, count, released = scene.desk.publish(FIVE), 0, 0
    while count < least or (keeper.restarts < deaths and count < 20 * least):
        scene.desk.start(version, people(30))
        count += 30
        tally, freed = scene.release_all(120)
        released += freed
    assert tally.completed + tally.unknown == tally.tasks == count
    assert keeper.restarts > 0, "nobody died: the test shows nothing"
    report(
        summary(
            "random kill -9 on SQLite", tally, restarts=keeper.restarts, quarantined_and_released=released
        )
    )


ONE_OF_EACH = {
    "slow": sop("slow", step("slow", "probe.slow", params={"seconds": 2.0})),
    "write": sop("write", step("write", "probe.write")),
    "check": sop("check", step("check", "probe.check")),
    "mail": MAILS,
}


def test_a_kill_with_the_request_in_flight_is_answered_by_the_effect_of_the_step(
    stage: Callable[..., Scene],
) -> None:
    """None and idempotent run again, verify_first looks, at_most_once is put before a person."""
    scene = stage(PostOffice(pause=30), **LONG_CALLS)
    scene.ledger.delay = lambda: 30.0
    worker = scene.worker()
    runs = {
        key: scene.desk.start(scene.desk.publish(procedure), people(3))
        for key, procedure in ONE_OF_EACH.items()
    }
    everybody_asked = lambda: len(scene.post.letters) == len(scene.ledger.raw) // 2 == 3  # noqa: E731
    eventually(everybody_asked, RECOVERY, what=scene.said)
    worker.kill()
    scene.ledger.delay = lambda: 0.0
    worker.restart()
    tally = scene.rest()
    tasks = {str(task["id"]): task for task in scene.desk.facts()["tasks"]}
    assert {key: {tasks[run]["status"] for run in ids} for key, ids in runs.items()} == {
        "slow": {"completed"},
        "write": {"completed"},
        "check": {"completed"},
        "mail": {"paused"},
    }
    assert tally.died_in_once == tally.unknown == 3
    assert [scene.ledger.calls(kind) for kind in ("keyed", "checked")] == [6, 3]
    assert len(scene.post.letters) == 3


def test_a_death_before_the_start_mark_of_a_mail_puts_nobody_before_a_question(
    stage: Callable[..., Scene],
) -> None:
    scene = stage()
    scene.desk.start(scene.desk.publish(MAILS), people(5))
    deadly = scene.worker("deadly", children=1, SOP_CRASH="m1")
    all_died = "SELECT 1 FROM tasks_task HAVING min(crashes) > 0"
    eventually(lambda: scene.desk.sql(all_died), RECOVERY, every=0.02, what=scene.said)
    deadly.kill()
    scene.worker("kind")
    tally = scene.rest()
    assert tally.died_before_once >= 5
    assert (tally.completed, tally.unknown) == (5, 0)


def test_one_death_in_the_middle_of_many_mails_does_not_stop_the_engine(stage: Callable[..., Scene]) -> None:
    """Many runs died with one worker; that is one death, and nothing is wrong with the host."""
    scene = stage(PostOffice(pause=30), ENGINE_THREADS="40", **LONG_CALLS)
    scene.desk.start(scene.desk.publish(MAILS), people(40))
    worker = scene.worker(children=1)
    eventually(lambda: len(scene.post.letters) == 40, RECOVERY, what=scene.said)
    worker.kill()
    scene.post.pause = 0
    worker.restart()
    tally = scene.rest()
    assert tally.unknown == tally.died_in_once == 40
    assert not scene.desk.sql("SELECT 1 FROM tasks_pulse WHERE name = 'brake'")


def test_a_third_death_in_a_mail_still_puts_it_before_a_person(stage: Callable[..., Scene]) -> None:
    """Quarantine must not forget that the mail may have gone out, nor may a retry."""
    scene = stage(PostOffice(pause=30), **LONG_CALLS)
    run = scene.desk.start(scene.desk.publish(MAILS), people(1))
    scene.desk.sql("UPDATE tasks_task SET crashes = 2")  # two have died before its start
    worker = scene.worker(children=1)
    eventually(lambda: scene.post.letters, RECOVERY, what=scene.said)
    worker.kill()
    scene.post.pause = 0
    worker.restart()
    eventually(scene.resting, RECOVERY, what=scene.said)
    scene.desk.signal(run, "retry")
    scene.rest()
    assert len(scene.post.letters) == 1
    assert scene.desk.facts()["tasks"][0]["reason"] == "outcome_unknown"


def test_a_worker_that_sleeps_past_its_lease_writes_nothing_when_it_wakes(
    stage: Callable[..., Scene], report: Callable[[str], None]
) -> None:
    scene = stage(ENGINE_BATCH="10", ENGINE_THREADS="4")
    scene.ledger.delay = lambda: 0.2  # so that it falls asleep in the middle of something
    sleeper = scene.worker("sleeper")
    keyed = scene.desk.publish(KEYED)
    scene.desk.start(keyed, people(300 if SOAK else 100))
    eventually(lambda: running(scene), RECOVERY, every=0.02, what=scene.said)
    sleeper.signal(signal.SIGSTOP, everyone=True)  # it is alone, so what runs is its own
    other = scene.worker("other")
    taken_over = "SELECT 1 FROM tasks_taskevent WHERE kind = 'claimed' AND data ? 'crashes'"
    eventually(lambda: scene.desk.sql(taken_over), RECOVERY, every=0.02, what=scene.said)
    sleeper.signal(signal.SIGCONT, everyone=True)
    # One that fell asleep inside a transaction finds it ended by the database, and has nothing to be fenced.
    least, most = (7, 20) if SOAK else (2, 12)
    for round_ in range(most):
        if round_ >= least and "fenced" in sleeper.output():
            break
        scene.desk.start(keyed, people(20))
        eventually(lambda: running(scene), RECOVERY, every=0.02, what=scene.said)
        sleeper.signal(signal.SIGSTOP, everyone=True)
        time.sleep(1.6 * 1.5)
        sleeper.signal(signal.SIGCONT, everyone=True)
        time.sleep(0.5)
    tally = scene.rest()
    assert tally.completed + tally.unknown == tally.tasks
    fenced = sleeper.output().count("fenced")
    assert fenced > 0, "nobody was fenced: the test shows nothing"
    assert other.alive
    report(summary("asleep past the lease", tally, fenced=fenced))


def running(scene: Scene) -> bool:
    """Tell whether somebody has a lease now."""
    return scene.desk.counts().get("running", 0) > 0


@AT_FULL_LENGTH  # a restart by SIGTERM alone, and by SIGKILL alone, are shown at any length
def test_a_storm_of_sigterm_and_sigkill_over_all_workers_loses_nothing(
    stage: Callable[..., Scene], report: Callable[[str], None]
) -> None:
    """As a platform deploys: SIGTERM for everybody, SIGKILL for who is still there, and a new start."""
    scene = stage(WORKER_GRACE="1", ENGINE_BATCH="10", ENGINE_THREADS="4")
    scene.ledger.delay = lambda: 0.2
    workers = [scene.worker("first"), scene.worker("second")]
    for worker in workers:
        worker.ready()
    scene.desk.start(scene.desk.publish(FIVE), people(600 if SOAK else 150))
    for turn in range(20 if SOAK else 4):
        worker = workers[turn % 2]
        eventually(lambda: running(scene) or scene.resting(), RECOVERY, what=scene.said)
        worker.terminate(random.choice([0.2, 6.0]), everyone=random.random() < 0.5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.restart()
    tally, released = scene.release_all()
    assert tally.completed + tally.unknown == tally.tasks
    handed_back = sum(event["kind"] == "handed_back" for event in scene.desk.facts()["events"])
    assert tally.deaths + handed_back > 0, "nobody was disturbed: the test shows nothing"
    report(summary("SIGTERM storm", tally, handed_back=handed_back, quarantined_and_released=released))
