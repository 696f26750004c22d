"""What changes under a run's feet: its procedure gets a new version, its handler is gone."""

from collections.abc import Callable

from tests.faults.procedures import FIVE, people, sop, step
from tests.faults.scene import NO_HURRY, RECOVERY, Scene
from tests.processes import eventually


def test_a_run_stays_on_the_version_it_began_with(stage: Callable[..., Scene]) -> None:
    scene = stage(**NO_HURRY)
    scene.worker()
    wait = step("wait", "flow.wait", params={"duration": "1 day", "event": "go"})
    old = scene.desk.publish(sop("edited", wait, step("write", "probe.write"), step("old", "probe.note")))
    runs = scene.desk.start(old, people(20))
    eventually(lambda: scene.desk.counts() == {"waiting": 20}, RECOVERY, what=scene.said)
    new = scene.desk.publish(sop("edited", wait, step("new", "probe.note")))
    newer = scene.desk.start(new, people(20))
    scene.desk.signal([*runs, *newer], "event", name="go")
    eventually(lambda: scene.desk.counts() == {"completed": 40}, RECOVERY, what=scene.said)
    scene.checked()
    steps: dict[str, set[str]] = {}
    for event in scene.desk.facts()["events"]:
        if event["kind"] == "step_done":
            steps.setdefault(str(event["task_id"]), set()).add(event["step"])
    assert all(steps[run] == {"write", "old"} for run in runs)
    assert all(steps[run] == {"new"} for run in newer)


def test_a_run_whose_handler_is_gone_is_parked_and_goes_on_when_it_is_back(
    stage: Callable[..., Scene],
) -> None:
    scene = stage(**NO_HURRY)
    bare = scene.worker("without", PLUGINS="")
    runs = scene.desk.start(scene.desk.publish(FIVE), people(20))
    eventually(lambda: scene.desk.counts() == {"paused": 20}, RECOVERY, what=scene.said)
    tally = scene.checked()
    facts = scene.desk.facts()
    assert {task["reason"] for task in facts["tasks"]} == {"handler_missing"}
    assert len({row["fold"] for row in facts["notifications"]}) == 1  # posted as one message
    assert tally.deaths == 0
    assert bare.alive
    bare.kill()
    scene.worker("with")
    assert scene.desk.signal(runs, "retry") == 20
    eventually(lambda: scene.desk.counts() == {"completed": 20}, RECOVERY, what=scene.said)
    scene.checked()
