"""`make run`: the whole machine in one terminal, and nothing left when it ends."""

import json
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.length import AT_FULL_LENGTH
from tests.processes import Command, answers, eventually, manage, product_environment
from tests.servers import Redis, free_port


def ready(address: str) -> bool:
    """Tell whether everything runs: the site answers, and somebody has swept."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as answer:
            return bool(json.load(answer)["ready"])
    except OSError:
        return False


def serve(environment: dict[str, str], log: Path) -> tuple[Command, str]:
    port = free_port()
    process = Command(environment, "serve", "--port", str(port), log=log)
    eventually(lambda: "/admin/" in process.output(), 30, what=process.output)
    return process, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=AT_FULL_LENGTH), signal.SIGTERM])
def test_serve_runs_the_engine_without_a_broker(tmp_path: Path, number: signal.Signals) -> None:
    environment = product_environment(f"sqlite:///{tmp_path / 'db.sqlite3'}", ENGINE_SWEEP="0.5")
    manage(environment, "migrate", "--verbosity", "0")
    process, address = serve(environment, tmp_path / "serve.log")
    with process:
        eventually(lambda: ready(address), 20, what=process.output)
        assert answers(f"{address}/admin/login/")
        process.signal(number)
        eventually(lambda: not process.alive, 20, what=process.output)
        assert process.exit_code == 0, process.output()
    assert "the engine runs in this process; the CRM is the mock" in process.output()
    assert "Traceback" not in process.output()


def test_serve_starts_and_ends_worker_and_beat_with_a_broker(
    tmp_path: Path, new_database: Callable[[], str], redis_server: Redis
) -> None:
    environment = product_environment(
        new_database(), redis_server.url, ENGINE_SWEEP="0.5", WORKER_CONCURRENCY="1"
    )
    process, address = serve(environment, tmp_path / "serve.log")
    with process:
        children = process.children()
        assert len(children) == 2
        eventually(lambda: ready(address), 30, what=process.output)
        process.signal(signal.SIGINT)
        eventually(lambda: not process.alive, 40, what=process.output)
        assert process.exit_code == 0, process.output()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_serve_says_when_a_child_ends_by_itself(
    tmp_path: Path, new_database: Callable[[], str], redis_server: Redis
) -> None:
    environment = product_environment(new_database(), redis_server.url, WORKER_CONCURRENCY="1")
    process, _ = serve(environment, tmp_path / "serve.log")
    with process:
        os.kill(process.children()[1], signal.SIGKILL)
        eventually(lambda: not process.alive, 40, what=process.output)
        assert process.exit_code == 1
        assert "has ended by itself, with exit code -9" in process.output()
