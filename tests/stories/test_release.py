"""The release of a deployment: the line of the Procfile, run as a platform runs it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.processes import live_environment, manage
from tests.servers import ROOT


def release(environment: Mapping[str, str]) -> str:
    """Run the release line in a shell; return what it printed. A bad exit code is an error."""
    procfile = (ROOT / "Procfile").read_text().splitlines()
    (line,) = [line.partition(":")[2] for line in procfile if line.startswith("release:")]
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=ROOT,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fresh_deployment_has_drafts_to_read_and_a_later_release_leaves_them_to_staff(
    database_url: str,
) -> None:
    environment = live_environment(database_url)
    first = release(environment)
    assert "past-customer-reactivation: imported as the draft." in first
    assert "published" not in first
    listed = json.loads(manage(environment, "sop", "list", "--json"))
    assert len(listed) == len(list((ROOT / "tasks" / "sops").glob("*.yaml")))
    assert {(row["state"], row["version"]) for row in listed} == {("draft", None)}
    manage(environment, "sop", "publish", *(row["slug"] for row in listed))
    manage(environment, "sop", "disable", "past-customer-reactivation")
    before = manage(environment, "sop", "list", "--json")

    assert "past-customer-reactivation: is there already and stays as it is." in release(environment)

    assert manage(environment, "sop", "list", "--json") == before
