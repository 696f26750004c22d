"""The engine beside its yardsticks, in one run on one machine. Prints JSON lines, the last one the ratios.

    python -m bench.engine [--rounds 3] [--quick]

Every contestant has its turn in each round, so that a busy minute hits them alike; ratios are of
medians. Both servers are the bench's own; PostgreSQL keeps its default promises to the disk.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import psycopg

from tests.processes import Command, Worker, eventually, product_environment
from tests.servers import Postgres, Redis, free_port

STEPS = 5
PGBENCH = """
\\set id random(1, 100000)
BEGIN;
UPDATE bench_task SET seq = seq + 1, wake_at = now(), context = context WHERE id = :id;
INSERT INTO bench_event (task_id, kind, at, data) VALUES (:id, 'step_done', now(), '{"ms": 1}');
COMMIT;
"""
PGBENCH_TABLES = """
CREATE TABLE bench_task (id bigint PRIMARY KEY, seq bigint, wake_at timestamptz, context jsonb);
CREATE TABLE bench_event (id bigserial PRIMARY KEY, task_id bigint, kind text, at timestamptz, data jsonb);
INSERT INTO bench_task SELECT n, 0, now(), jsonb_build_object('a', repeat('x', 450)) FROM generate_series(1, 100000) n;
"""
SINCE = """
SELECT extract(epoch FROM max(finished_at) - (SELECT min(at) FROM tasks_taskevent e JOIN tasks_task t
  ON t.id = e.task_id WHERE t.version_id = %(version)s AND e.kind = 'claimed')), count(*)
FROM (SELECT finished_at FROM tasks_task WHERE version_id = %(version)s AND status = 'completed' AND seq > 1
  ORDER BY finished_at LIMIT %(first)s) done
"""


def say(name: str, **figures: object) -> None:
    """Print one line of JSON."""
    print(json.dumps({"bench": name, **figures}), flush=True)


class Bench:
    """The servers, the databases and the scratch folder of one run."""

    def __init__(self, stack: ExitStack, quick: bool) -> None:
        self.quick = quick
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sop-bench-")))
        self.postgres = Postgres(durable=True)
        stack.callback(self.postgres.remove)
        self.redis = Redis(on_port=True)
        stack.callback(self.redis.remove)
        self.empty = self.postgres.migrated_database("empty")
        self.peers = self.postgres.create_database("peers")
        with psycopg.connect(self.peers, autocommit=True) as connection:
            connection.execute(PGBENCH_TABLES)

    # -- contestants, each in operations per second

    def pgbench(self) -> float:
        """(a) one update and one insert per transaction, 8 clients."""
        script = self.folder / "step.sql"
        script.write_text(PGBENCH)
        seconds = "5" if self.quick else "10"
        out = subprocess.run(
            [
                self.postgres.program("pgbench"), "-n", "-c", "8", "-j", "2", "-T", seconds, "-f", str(script),
                "-h", str(self.postgres.folder), "-U", "postgres", "peers",
            ],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        line = next(line for line in out.stdout.splitlines() if line.startswith("tps"))
        return float(line.split()[2])

    def celery(self) -> float:
        """(b) bare Celery messages that do nothing, one node, -c 2."""
        count = 2000 if self.quick else 5000
        environment = {**os.environ, "REDIS_URL": self.redis.url}
        publish = f"from bench.celery_noop import noop\nfor _ in range({count}): noop.delay()"
        subprocess.run([sys.executable, "-c", publish], env=environment, check=True)
        client = self.redis.client()
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "bench.celery_noop",
            "worker",
            "-c",
            "2",
            "-l",
            "ERROR",
        ]
        node = subprocess.Popen([*command, "--without-gossip", "--without-mingle"], env=environment)
        try:
            left = count
            while left > count * 0.95:
                left = client.llen("bench-noop")
                time.sleep(0.005)
            began, first = time.perf_counter(), left
            while client.llen("bench-noop"):
                time.sleep(0.005)
            return first / (time.perf_counter() - began)
        finally:
            node.terminate()
            node.wait()

    def dbos(self) -> float:
        """(c) DBOS steps."""
        url = self.peers.replace("postgres://", "postgresql://")
        out = subprocess.run(
            [sys.executable, "-m", "bench.dbos_noop", url], capture_output=True, text=True, check=True
        )
        return float(out.stdout.split()[-1])

    def engine(
        self, database: str, shape: str, due: int, *, first: int | None = None, finished: int = 0
    ) -> float:
        """(d) this engine, two worker processes; over the `first` tasks that are done, in steps per second."""
        environment = self.environment(database)
        with self.workers(environment, database):
            seeded = self.seed(environment, shape, due, finished)
            return self.rate(database, seeded, due, first or due, 3 if shape == "once" else STEPS)

    # -- how (d) is run

    def environment(self, database: str, **more: str) -> dict[str, str]:
        """Return the environment of a worker as in production, but for the plug-in and the mock."""
        return {
            **product_environment(database, self.redis.url, **more),
            "PLUGINS": "bench.plugins",
            "ENGINE_SWEEP": "2",
            "LOG_FORMAT": "text",
        }

    def seed(self, environment: dict[str, str], shape: str, due: int, finished: int = 0) -> int:
        """Publish a SOP and write its tasks; return the version's id."""
        settings = {**environment, "DJANGO_SETTINGS_MODULE": "sopengine.settings"}
        out = subprocess.run(
            [sys.executable, "-m", "bench.seed", shape, str(due), str(finished)],
            env=settings, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(out.stdout.split()[-1])

    @contextmanager
    def workers(self, environment: dict[str, str], database: str) -> Iterator[None]:
        """Two worker processes."""
        self.redis.flush()
        team = [
            Worker(environment, log=self.folder / f"w{n}.log", children=1, name=f"bench{n}") for n in (1, 2)
        ]
        with ExitStack() as stack:
            for worker in team:
                stack.enter_context(worker)
            for worker in team:
                worker.ready()
            yield

    def rate(self, database: str, seeded: int, due: int, first: int, steps: int) -> float:
        """Wait until `first` tasks are done; return steps per second between the first claim and then."""
        with psycopg.connect(database, autocommit=True) as connection:
            left = "SELECT count(*) FROM tasks_task WHERE version_id = %s AND status IN ('ready', 'running')"

            def done() -> bool:
                row = connection.execute(left, (seeded,)).fetchone()
                return row is not None and due - row[0] >= first

            eventually(done, 600, every=1.0)  # seldom: counting takes from what is measured
            seconds, tasks = connection.execute(SINCE, {"version": seeded, "first": first}).fetchone() or (
                0,
                0,
            )
            return float(tasks * steps / float(seconds))

    def calls_in_flight(self) -> float:
        """How many CRM calls two processes keep under way, on average, at 100 ms each."""
        port = free_port()
        crm = Command(
            self.environment(self.empty), "crm", "serve-mock", "--port", str(port), "--customers", "50",
            "--latency", "100", log=self.folder / "crm.log",
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        with crm:
            eventually(lambda: "127.0.0.1" in crm.output(), 20)
            environment = self.environment(
                self.empty, CRM_PROVIDER="rest", CRM_BASE_URL=url, CRM_API_KEY="bench", ENGINE_THREADS="16"
            )
            with self.workers(environment, self.empty):
                due = 300 if self.quick else 1000
                self.rate(self.empty, self.seed(environment, "find", due), due, due, STEPS)
            with urllib.request.urlopen(f"{url}/_journal?summary=1") as answer:
                summary = json.load(answer)
        return float(summary["average_in_flight"])


def rounds_of(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let each contestant have its turn in every round."""
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, measure in contestants.items():
            figures[name].append(measure())
            say(name, round=number + 1, per_second=round(figures[name][-1], 1))
    return figures


def main() -> None:
    """Measure, and print the ratios."""
    options = argparse.ArgumentParser(description="Measure the engine beside its yardsticks.")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--quick", action="store_true", help="smaller numbers: to see that it runs")
    told = options.parse_args()
    due = 2000 if told.quick else 10_000
    finished = 20_000 if told.quick else 1_000_000
    with ExitStack() as stack:
        bench = Bench(stack, told.quick)
        say(
            "machine", cores=os.cpu_count(), python=platform.python_version(), celery=version("celery"),
            django=version("django"), dbos=version("dbos"), load=round(os.getloadavg()[0], 2),
        )  # fmt: skip
        contestants: dict[str, Callable[[], float]] = {
            "pgbench": bench.pgbench,
            "celery": bench.celery,
            "dbos": bench.dbos,
            "engine": lambda: bench.engine(bench.empty, "noop", due),
            "engine_at_most_once": lambda: bench.engine(bench.empty, "once", due // 10),
        }
        medians = {
            name: statistics.median(all_) for name, all_ in rounds_of(contestants, told.rounds).items()
        }

        first = due if told.quick else 20_000
        fresh = bench.postgres.migrated_database("fresh")
        loaded = bench.postgres.migrated_database("loaded")
        bench.seed(bench.environment(loaded), "noop", 0, finished)
        pair = {
            "on_empty_table": lambda: bench.engine(fresh, "noop", first, first=first),
            "on_loaded_table": lambda: bench.engine(loaded, "noop", first * 5, first=first),
        }
        tables = {
            name: statistics.median(all_) for name, all_ in rounds_of(pair, 1 if told.quick else 3).items()
        }
        in_flight = bench.calls_in_flight()
        say("calls_in_flight", average=in_flight)
    ratios = {
        "pgbench": medians["engine"] / medians["pgbench"],
        "celery": medians["engine"] / medians["celery"],
        "dbos": medians["engine"] / medians["dbos"],
        "loaded": tables["on_loaded_table"] / tables["on_empty_table"],
        "calls_in_flight": in_flight,
    }
    print(json.dumps({"ratios": {name: round(value, 2) for name, value in ratios.items()}}))


if __name__ == "__main__":
    main()
