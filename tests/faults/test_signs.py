"""Real processes that fall silent: those who are left say so, once, and say when it is over."""

from collections.abc import Callable

from tests.faults.scene import RECOVERY, Scene
from tests.processes import eventually

PATIENCE = 30.0  # seconds; far more than watch.patience says of these settings


def told(scene: Scene, who: str) -> list[tuple[str, str, str]]:
    """Return what staff were told of this one, oldest first: silent or back, severity, state."""
    rows = scene.desk.sql(
        "SELECT dedupe, severity, state FROM tasks_notification WHERE medium = 'chat' "
        f"AND (dedupe LIKE 'silent:{who}:%' OR dedupe LIKE 'back:{who}:%') ORDER BY created_at"
    )
    return [(str(row["dedupe"]).partition(":")[0], row["severity"], row["state"]) for row in rows]


def test_a_silent_beat_is_missed_by_the_workers_and_silent_workers_by_beat(
    stage: Callable[..., Scene],
) -> None:
    scene = stage(ENGINE_SLICE="1", ENGINE_SILENCE="4")
    worker, beat = scene.worker(), scene.beat()
    signs = "SELECT name FROM tasks_pulse WHERE name IN ('beat', 'sweep')"
    eventually(lambda: len(scene.desk.sql(signs)) == 2, RECOVERY, what=scene.said)
    for missing, who in ((beat, "beat"), (worker, "sweep")):
        missing.kill()
        posted = [("silent", "critical", "sent")]
        eventually(lambda who=who, posted=posted: told(scene, who) == posted, PATIENCE, what=scene.said)
        missing.start()
        ended = [*posted, ("back", "info", "sent")]
        eventually(lambda who=who, ended=ended: told(scene, who) == ended, RECOVERY, what=scene.said)
