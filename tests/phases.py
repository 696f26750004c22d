"""The phases of `make test`, one after the other: what each took, and what it came to.

    python -m tests.phases lint unit postgres faults stories

A failed phase does not keep the next from running; the exit code tells.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.processes import live_environment
from tests.servers import ROOT, bare_environment

PYTHON = sys.executable
PYTEST = [PYTHON, "-m", "pytest", "-q"]
REAL_PROCESSES = ["--ignore=tests/faults", "--ignore=tests/stories"]
# More than the two cores: now and then each of them waits for somebody, those with real processes often.
BUSY = ["-n", "3", "--dist", "worksteal"]
# Here leases last a second and a half, and what misses them on a busy machine proves nothing.
CALM = ["-n", "2", "--dist", "worksteal"]
# The tests of a story's module share their processes, stand in their order, and wait more than they work.
BY_MODULE = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
# What stands above the tables is shown on SQLite, and on PostgreSQL again at full length only.
ABOVE_THE_TABLES = (
    *("sops_*", "handlers_*", "failures", "demo", "recheck", "subject", "void_ways", "who_answers"),
    *("api*", "slack*", "signed*", "transport*", "chat_admin", "staff_mail", "escalations", "mail"),
    *("readers", "views", "forms", "sop_command", "people_commands", "publication", "sending_admin"),
    *("second_looks", "admin", "events", "deliveries", "summary", "folding", "login"),
    *("templating", "timeline", "shipped_messages", "definition", "contract", "crm_command", "service"),
)
CLOSING = re.compile(
    r"=*\s*(\d+ (passed|failed|error|skipped|deselected).* in [\d.]+s.*|no tests ran.*?)\s*=*"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One program of a phase."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What a phase came to; `closing` is the last line of its test runner."""

    name: str
    ok: bool
    seconds: float
    closing: str


def lint_steps() -> list[Step]:
    """Form, types, imports, migrations, settings, security; the slow one first."""
    django = [PYTHON, "-W", "error::RuntimeWarning", "manage.py"]
    live = live_environment("postgres://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1/0")
    product = ["sopengine", "tasks", "crm", "credentials"]
    return [
        Step("types", [PYTHON, "-m", "mypy"]),
        Step("form", [PYTHON, "-m", "ruff", "check", "."]),
        Step("layout", [PYTHON, "-m", "ruff", "format", "--check", "."]),
        Step("imports", [PYTHON, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]),
        Step("migrations", [*django, "makemigrations", "--check", "--dry-run"]),
        Step("settings", [*django, "check", "--deploy", "--fail-level", "ERROR"], live),
        Step("security", [PYTHON, "-m", "bandit", "-q", "-c", "pyproject.toml", "-ll", "-r", *product]),
    ]


def lint() -> Result:
    """Run all linters, two at a time; print what they say when they object."""
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(_run_quietly, lint_steps()))
    for step, code, output in done:
        print(f"  {step.name}: {'ok' if code == 0 else 'NOT OK'}", flush=True)
        if code:
            print(output, flush=True)
    objecting = [step.name for step, code, _ in done if code]
    closing = f"objections: {', '.join(objecting)}" if objecting else f"{len(done)} linters, no objection"
    return Result("lint", not objecting, time.monotonic() - began, closing)


def _run_quietly(step: Step) -> tuple[Step, int, str]:
    environment = dict(step.environment) or bare_environment(DEBUG="1")
    done = subprocess.run(
        step.command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return step, done.returncode, done.stdout


def pytest_phase(name: str) -> Result:
    """Run the tests of a phase, printing as they print."""
    lightened = (
        [] if os.environ.get("SOAK") else [f"--ignore-glob=*/test_{name}.py" for name in ABOVE_THE_TABLES]
    )
    command = {
        "unit": [*PYTEST, *BUSY, *REAL_PROCESSES],
        "postgres": [
            *[PYTHON, "-m", "tests.servers", "run", "--no-redis", "--"],
            *[*PYTEST, *BUSY, "-m", "database", *lightened, *REAL_PROCESSES],
        ],
        "faults": [*PYTEST, *CALM, "tests/faults", "--durations=8"],
        "stories": [*PYTEST, *BY_MODULE, "tests/stories", "--durations=8"],
    }[name]
    kept = {"SOAK": os.environ["SOAK"]} if os.environ.get("SOAK") else {}
    began, closing = time.monotonic(), "ended without a closing line"
    with subprocess.Popen(
        command, cwd=ROOT, env=bare_environment(DEBUG="1", **kept), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            found = CLOSING.fullmatch(line.strip())
            closing = found[1] if found else closing
    return Result(name, process.returncode == 0, time.monotonic() - began, closing)


PHASES = ("lint", "unit", "postgres", "faults", "stories")


def main(wanted: Sequence[str]) -> int:
    """Run the wanted phases in order; return 1 if one failed."""
    unknown = sorted(set(wanted) - set(PHASES))
    if unknown or not wanted:
        print(f"unknown phase {', '.join(unknown)}; expected some of: {', '.join(PHASES)}", file=sys.stderr)
        return 2
    results = []
    for name in wanted:
        print(f"\n== {name}", flush=True)
        results.append(lint() if name == "lint" else pytest_phase(name))
        print(f"== {name}: {results[-1].seconds:.0f} s", flush=True)
    print("\n== all phases", flush=True)
    for result in results:
        print(
            f"{'ok    ' if result.ok else 'FAILED'} {result.name:9} {result.seconds:5.0f} s  {result.closing}"
        )
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
