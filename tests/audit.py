"""Ask whether a pinned package has a known hole: `make audit`.

Ends with 1 on a finding. Where the advisory service cannot be reached, it says so and ends with 0.
"""

import json
import subprocess
import sys
from typing import Any

from tests.servers import ROOT

COMMAND = [
    sys.executable,
    "-m",
    "pip_audit",
    "--no-deps",
    "--disable-pip",
    "--format",
    "json",
    "--progress-spinner",
    "off",
]
UNREACHABLE = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Could not connect",
    "Max retries",
    "ProxyError",
)


def findings(report: dict[str, Any]) -> list[str]:
    """Return one line for each known hole."""
    return [
        f"{package['name']} {package['version']}: {hole['id']}, "
        f"fixed in {', '.join(hole['fix_versions']) or 'nothing yet'}"
        for package in report["dependencies"]
        for hole in package.get("vulns", ())
    ]


def verdict(code: int, output: str, errors: str) -> tuple[int, str]:
    """Return the exit code and the sentence for what pip-audit answered."""
    try:
        found = findings(json.loads(output))
    except ValueError:
        if code and any(word in errors for word in UNREACHABLE):
            return 0, "The advisory service cannot be reached; nothing was checked."
        return 1, f"pip-audit did not answer as expected:\n{errors.strip()[-2000:]}"
    if found:
        return 1, "\n".join(found)
    return 0, "No known hole in the pinned packages."


def main() -> int:
    """Check both requirement files and print what came of it."""
    worst = 0
    for name in ("requirements.txt", "requirements-dev.txt"):
        done = subprocess.run(
            [*COMMAND, "--requirement", name], cwd=ROOT, capture_output=True, text=True, check=False
        )
        code, sentence = verdict(done.returncode, done.stdout, done.stderr)
        print(f"{name}: {sentence}")
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main())
