"""Each class of effect with a handler that ships, killed while its request is in flight at the CRM."""

import json
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.procedures import Sop, people, sop, step
from tests.faults.scene import RECOVERY, Scene
from tests.processes import Command, answers, eventually
from tests.servers import free_port

RUNS = 3
WRITES_WAIT = """
ignore_keys: {ignore_keys}
faults:
  - {{"on": "POST *", call: "1-{calls}", delay: 1.5}}
"""
READS_WAIT = """
faults:
  - {{"on": "GET */customers/cus_*", call: "1-{calls}", delay: 1.5}}
"""
# The lease is longer than the delay: what was killed is applied by the time that somebody looks.
TIMES = {"ENGINE_LEASE": "4.5", "ENGINE_DEADLINE": "4", "ENGINE_CALL_TIMEOUT": "3.9"}
NOTE = sop(
    "note", step("note", "crm.note", params={"customer_id": "cus_0001", "text": "Called at {{ now }}."})
)
CREATE = sop(
    "create",
    step(
        "create",
        "crm.create",
        params={"attributes": {"name": "Ada Probe", "email": "{{ customer_email }}", "status": "lead"}},
    ),
)
FIND = sop("find", step("find", "crm.find", params={"customer_id": "cus_0001"}))


class Crm:
    """A served mock with its journal."""

    def __init__(self, scene: Scene, port: int, scenario: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = ["crm", "serve-mock", "--port", str(port), "--scenario", str(scenario)]
        self.process = scene.begun(Command(scene.environment, *command, log=scene.folder / "crm.log"))
        eventually(lambda: answers(f"{self.url}/_journal"), 30, what=self.process.output)

    def calls(self, method: str, part: str = "") -> list[dict[str, Any]]:
        """Return the journal's entries of this method whose path has `part`."""
        with urllib.request.urlopen(f"{self.url}/_journal", timeout=10) as answer:
            journal: list[dict[str, Any]] = json.load(answer)
        return [entry for entry in journal if entry["method"] == method and part in entry["path"]]

    def outcomes(self, method: str, part: str = "") -> list[str]:
        """Return what came of these calls, sorted."""
        return sorted(str(entry["outcome"]) for entry in self.calls(method, part))


Opened = Callable[[str, str], tuple[Scene, Crm]]


@pytest.fixture
def opened(stage: Callable[..., Scene], tmp_path: Path) -> Opened:
    """Return a function that opens a scene with a served CRM: (provider, scenario) -> (scene, crm)."""

    def both(provider: str, scenario: str) -> tuple[Scene, Crm]:
        port, file = free_port(), tmp_path / "scenario.yaml"
        file.write_text(scenario)
        more = {"CRM_PROVIDER": provider, "CRM_BASE_URL": f"http://127.0.0.1:{port}", "CRM_API_KEY": "any"}
        scene = stage(**more, **TIMES)
        return scene, Crm(scene, port, file)

    return both


def killed_in_flight(scene: Scene, procedures: Sequence[Sop], in_flight: Callable[[], int]) -> None:
    """Start runs, kill the worker when all of their calls are in flight, and let another one finish."""
    worker = scene.worker()
    for procedure in procedures:
        scene.desk.start(scene.desk.publish(procedure), people(RUNS))
    eventually(lambda: in_flight() == RUNS * len(procedures), RECOVERY, what=scene.said)
    worker.kill()
    worker.restart()
    eventually(scene.resting, RECOVERY, every=0.2, what=scene.said)


def test_effect_none_reads_again(opened: Opened) -> None:
    scene, crm = opened("rest", READS_WAIT.format(calls=RUNS))
    killed_in_flight(scene, [FIND], lambda: len(crm.calls("GET", "cus_")))
    assert scene.checked().completed == RUNS
    assert len(crm.calls("GET", "cus_")) == 2 * RUNS


def test_effect_idempotent_writes_again_under_the_same_key(opened: Opened) -> None:
    """The CRM honours the key, and refuses it for another text: the repeat must say the same."""
    scene, crm = opened("rest", WRITES_WAIT.format(calls=2 * RUNS, ignore_keys="false"))
    killed_in_flight(scene, [NOTE, CREATE], lambda: len(crm.calls("POST")))
    assert scene.checked().completed == 2 * RUNS, scene.said()
    assert crm.outcomes("POST") == ["applied"] * 2 * RUNS + ["replayed"] * 2 * RUNS
    assert len({call["key"] for call in crm.calls("POST")}) == 2 * RUNS


def test_effect_verify_first_looks_before_it_writes_again(opened: Opened) -> None:
    """The CRM ignores keys: a second write would be a second customer, or a second note."""
    scene, crm = opened("keyless", WRITES_WAIT.format(calls=2 * RUNS, ignore_keys="true"))
    killed_in_flight(scene, [NOTE, CREATE], lambda: len(crm.calls("POST")))
    assert scene.checked().completed == 2 * RUNS, scene.said()
    assert crm.outcomes("POST") == ["applied"] * 2 * RUNS
    assert len(crm.calls("GET", "search")) == len(crm.calls("GET", "notes")) == RUNS


def test_what_can_neither_carry_a_key_nor_be_looked_up_is_put_before_a_person(opened: Opened) -> None:
    """This CRM has no list of notes in which one could look."""
    scene, crm = opened("blind", WRITES_WAIT.format(calls=RUNS, ignore_keys="true"))
    killed_in_flight(scene, [NOTE], lambda: len(crm.calls("POST")))
    scene.checked()
    assert scene.desk.counts() == {"paused": RUNS}
    assert crm.outcomes("POST") == ["applied"] * RUNS
