"""How a worker ends: asked to by its platform, by a step that hangs, by a step that kills it."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.invariants import summary
from tests.faults.postoffice import PostOffice
from tests.faults.procedures import FIVE, MAILS, people, sop, step
from tests.faults.scene import RECOVERY, Scene
from tests.length import AT_FULL_LENGTH
from tests.processes import eventually

SLOW_MAIL = {"ENGINE_LEASE": "12", "ENGINE_DEADLINE": "10", "ENGINE_CALL_TIMEOUT": "9"}


@pytest.mark.parametrize(
    ("everyone", "remap"),
    [
        (True, "SIGQUIT"),
        pytest.param(False, "SIGQUIT", marks=AT_FULL_LENGTH),
        pytest.param(True, "", marks=AT_FULL_LENGTH),
    ],
    ids=["everybody", "main process", "everybody without REMAP"],
)
def test_a_sigterm_during_fifty_mails_parks_none_and_counts_no_crash(
    stage: Callable[..., Scene], report: Callable[[str], None], everyone: bool, remap: str
) -> None:
    scene = stage(PostOffice(pause=1.0), **SLOW_MAIL)
    worker = scene.worker(REMAP_SIGTERM=remap, WORKER_GRACE="6")
    scene.desk.start(scene.desk.publish(MAILS), people(50))
    eventually(lambda: scene.post.letters, RECOVERY, every=0.01, what=scene.said)
    began = time.monotonic()
    worker.terminate(60, everyone=everyone)
    took = time.monotonic() - began
    sent = len(scene.post.letters)
    facts = scene.desk.facts()
    assert 0 < sent < 50, "the signal did not come in the middle: the test shows nothing"
    assert {task["status"] for task in facts["tasks"]} == {"completed", "ready"}, scene.said()
    assert not any(task["crashes"] for task in facts["tasks"])
    worker.restart()
    tally = scene.rest()
    assert (tally.completed, tally.deaths, tally.unknown) == (50, 0, 0)
    assert len(scene.post.letters) == 50
    report(f"SIGTERM ({'everybody' if everyone else 'main process'}, remap {remap or 'none'}) in 50 mails: "
           f"{sent} sent by then, {took:.1f} s to end, 0 parked, 0 crashes, each sent once")  # fmt: skip


@pytest.mark.parametrize(
    "patient",
    [False, pytest.param(True, marks=AT_FULL_LENGTH)],
    ids=["the mail gives up", "the deadline gives up"],
)
def test_a_mail_server_that_takes_and_never_answers_gets_each_mail_once(
    stage: Callable[..., Scene], patient: bool
) -> None:
    times = {
        "ENGINE_LEASE": "3",
        "ENGINE_DEADLINE": "1.5",
        "ENGINE_CALL_TIMEOUT": "1.4" if patient else "0.5",
    }
    scene = stage(PostOffice(deaf=True), **times)
    worker = scene.worker()
    scene.desk.start(scene.desk.publish(MAILS), people(40))
    tally = scene.rest()
    assert tally.unknown == 40
    assert len(scene.post.letters) == 40
    assert set(scene.post.recipients.values()) == {1}
    assert worker.alive


def test_what_a_person_says_of_an_unknown_mail_is_what_happens(stage: Callable[..., Scene]) -> None:
    scene = stage(PostOffice(deaf=True))
    scene.worker()
    scene.desk.start(scene.desk.publish(MAILS), people(3))
    scene.rest()
    scene.post.deaf = False
    questions = [str(approval["id"]) for approval in scene.desk.facts()["approvals"]]
    for question, choice in zip(questions, ("was_sent", "send_again", "skip"), strict=True):
        scene.desk.answer(question, choice)
    eventually(lambda: scene.desk.counts() == {"completed": 3}, RECOVERY, what=scene.said)
    assert sorted(scene.post.recipients.values()) == [1, 1, 2]


def test_a_step_that_never_ends_is_given_up_and_its_process_replaced(stage: Callable[..., Scene]) -> None:
    scene = stage()
    worker = scene.worker()
    hang = sop("hang", step("hang", "probe.hang", max_retries=0))
    hanging = scene.desk.start(scene.desk.publish(hang), people(3))
    eventually(lambda: worker.children(), RECOVERY)
    before = set(worker.children())
    scene.desk.start(scene.desk.publish(FIVE), people(30))
    tally = scene.rest()
    tasks = {str(task["id"]): task for task in scene.desk.facts()["tasks"]}
    assert {tasks[run]["reason"] for run in hanging} == {"deadline"}
    assert tally.completed == 30
    eventually(lambda: set(worker.children()) - before, RECOVERY, what=scene.said)
    again = scene.desk.start(scene.desk.publish(FIVE), people(10))
    scene.rest()
    assert scene.desk.counts()["completed"] == 30 + len(again)
    assert worker.alive


def test_a_run_that_kills_its_worker_each_time_is_set_aside_after_three(
    stage: Callable[..., Scene], report: Callable[[str], None]
) -> None:
    """Exactly three deaths and one alert for each; all others are done."""
    scene = stage(ENGINE_BATCH="20")
    scene.kept(scene.worker())
    others = scene.desk.publish(FIVE)
    scene.desk.start(others, people(40))
    poison: list[str] = []
    for handler in ("probe.die", "probe.exit"):
        procedure = sop(handler.replace(".", "-"), step("poison", handler))
        poison += scene.desk.start(scene.desk.publish(procedure), people(2))
    scene.desk.start(others, people(40))
    tally = scene.rest()
    assert sorted(tally.quarantined) == sorted(poison)
    assert tally.completed + tally.unknown == 80
    assert [tally.deaths_of[run, "poison"] for run in poison] == [3] * 4
    alerts = [n for n in scene.desk.facts()["notifications"] if n["severity"] == "critical"]
    assert len(alerts) == 4
    report(summary("poison", tally, alerts=len(alerts)))


def test_a_sigterm_to_a_pool_process_alone_hands_back_and_counts_no_crash(
    stage: Callable[..., Scene],
) -> None:
    scene = stage(PostOffice(pause=0.5), **SLOW_MAIL)
    worker = scene.worker(children=1)
    scene.desk.start(scene.desk.publish(MAILS), people(30))
    eventually(lambda: scene.post.letters, RECOVERY, every=0.01, what=scene.said)
    os.kill(worker.children()[0], signal.SIGTERM)
    tally = scene.rest()
    assert (tally.completed, tally.deaths, tally.unknown) == (30, 0, 0)
