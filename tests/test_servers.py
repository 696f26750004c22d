"""The servers of the tests are real, ours, and gone with us."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests import audit, phases, servers
from tests.processes import Keeper, Process, eventually, manage, product_environment
from tests.servers import ROOT, Postgres, Redis, bare_environment


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL of this module, which its tests may stop."""
    server = Postgres()
    yield server
    server.remove()


def alive(pid: int) -> bool:
    """Tell whether a process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_crash_of_the_database_keeps_what_was_committed(server: Postgres) -> None:
    address = server.create_database("crash")
    connection = psycopg.connect(address)
    connection.execute("CREATE TABLE kept (n int)")
    connection.execute("INSERT INTO kept VALUES (1)")
    connection.commit()
    connection.execute("INSERT INTO kept VALUES (2)")
    server.kill()
    connection.close()
    server.start()
    with psycopg.connect(address) as again:
        assert again.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_each_test_gets_a_database_with_all_tables(server: Postgres) -> None:
    first, second = server.migrated_database("first"), server.migrated_database("second")
    with psycopg.connect(first) as connection:
        connection.execute("INSERT INTO tasks_spentkey VALUES ('only-here', now())")
    assert "only-here" in server.dump("first")
    assert "only-here" not in server.dump("second")
    assert manage(product_environment(second), "migrate", "--check") == ""


def test_the_server_listens_on_no_port(server: Postgres) -> None:
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


@pytest.mark.parametrize("on_port", [False, True])
def test_redis_comes_back_empty_at_the_same_address(on_port: bool) -> None:
    server = Redis(on_port=on_port)
    with server.client() as client:
        client.rpush("sop", "a")
        assert "b'a'" in server.dump()
    address = server.url
    server.kill()
    server.start()
    assert (server.url, server.dump()) == (address, "")
    server.remove()
    assert not server.folder.exists()


def test_programs_that_the_other_user_cannot_reach_are_copied(tmp_path: Path) -> None:
    """A clone below /root has its virtual environment where no other user may look."""
    package = tmp_path / "closed" / "pkg" / "pginstall"
    (package / "bin").mkdir(parents=True)
    (package / "bin" / "postgres").write_text("#!/bin/sh\n")
    (tmp_path / "closed" / "pkg.libs").mkdir()
    (tmp_path / "closed").chmod(0o700)
    target = tmp_path / "copy"
    target.mkdir()
    copied = servers._reachable_programs(package / "bin", target, "nobody")
    assert copied == target / "programs" / "pkg" / "pginstall" / "bin"
    assert copied.stat().st_mode & 0o005 == 0o005
    assert (target / "programs" / "pkg.libs").is_dir()
    assert servers._reachable_programs(package / "bin", target, None) == package / "bin"


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL gives nobody a chance to tidy up; the watcher does it."""
    program = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from tests.processes import Process
        from tests.servers import Postgres, Redis, bare_environment
        redis, postgres = Redis(), Postgres()
        log = Path({str(tmp_path / "log")!r})
        child = Process(["sh", "-c", "sleep 100 & sleep 100"], bare_environment(), log=log)
        pids = [redis.pid, postgres.pid, child.pid, *child.children()]
        print(*pids, redis.folder, postgres.folder, flush=True)
        time.sleep(100)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=bare_environment(), stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout
        words = run.stdout.readline().split()
        pids = [int(word) for word in words if word.isdigit()]
        folders = [Path(word) for word in words if "/" in word]
        assert len(pids) >= 3
        assert all(alive(pid) for pid in pids)
        os.kill(run.pid, signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids), 10, what="every process is gone")
    eventually(lambda: not any(folder.exists() for folder in folders), 10, what="every folder is gone")


def test_a_keeper_starts_again_what_has_died(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo started; sleep 100"]
    with Process(command, bare_environment(), log=tmp_path / "log") as process, Keeper([process]) as keeper:
        eventually(lambda: "started" in process.output(), 5)
        first = process.pid
        process.kill()
        eventually(lambda: process.alive and process.pid != first, 5)
        eventually(lambda: keeper.restarts == 1, 5)
        eventually(lambda: process.output().count("started") == 2, 5)
        last = process.pid
    assert not alive(last)


def test_a_child_can_be_killed_alone(tmp_path: Path) -> None:
    with Process(["sh", "-c", "sleep 100; sleep 101"], bare_environment(), log=tmp_path / "log") as process:
        eventually(process.children, 5)
        killed = process.kill_child()
        assert killed
        eventually(lambda: not alive(killed), 5)
        assert process.alive
        assert process.terminate(5) == -signal.SIGTERM


def test_eventually_says_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match=r"not true within 0\.05 s: rain"):
        eventually(lambda: False, 0.05, what="rain")


NO_HOLE = '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}'
A_HOLE = NO_HOLE.replace("[]", '[{"id": "X-1", "fix_versions": ["2"]}]')


@pytest.mark.parametrize(
    ("output", "errors", "code", "verdict"),
    [
        (NO_HOLE, "", 0, (0, "No known hole")),
        (A_HOLE, "Found 1 known vulnerability", 1, (1, "a 1: X-1, fixed in 2")),
        (
            "",
            "requests.exceptions.ConnectionError: refused",
            1,
            (0, "The advisory service cannot be reached"),
        ),
        ("", "invalid requirement in line 3", 1, (1, "pip-audit did not answer as expected")),
    ],
)
def test_an_audit_fails_on_findings_only(
    output: str, errors: str, code: int, verdict: tuple[int, str]
) -> None:
    found, sentence = audit.verdict(code, output, errors)
    assert found == verdict[0]
    assert sentence.startswith(verdict[1])


@pytest.mark.parametrize(
    "line",
    ["=== 3 passed, 1 skipped in 2.10s ===", "3 passed in 2.10s", "1 failed, 2 passed in 70.00s (0:01:10)"],
)
def test_the_closing_line_of_a_test_run_is_recognised(line: str) -> None:
    found = phases.CLOSING.fullmatch(line)
    assert found
    assert "passed" in found[1]


def test_a_command_runs_with_the_servers_it_asked_for() -> None:
    show = "import os; e = os.environ; print('REDIS_URL' in e, e['DATABASE_URL'].split('@')[0]); exit(3)"
    run = [sys.executable, "-m", "tests.servers", "run", "--no-redis", "--", sys.executable, "-c", show]
    done = subprocess.run(run, cwd=ROOT, env=bare_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "False postgresql://postgres\n")
