"""Webhooks per second at /hooks/<source>, beside a bare Django view. Prints JSON lines, the last one the ratios.

    python -m bench.inbox [--seconds 20] [--quick]

Both are views of one site in one gunicorn, set up as in production, with one PostgreSQL that keeps its
promises to the disk and one Redis. The bare view checks the same HMAC over the same body and makes one
insert into the same table. `/hooks` besides finds its secret, refuses what is too large, compressed, of
another type or no JSON, encrypts the body, knows a repeat, and wakes a worker. Each body is new. Their
turns are short and take turns, so that a busy second hits them alike; the ratio is of medians.
"""

import argparse
import hashlib
import hmac
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from itertools import count
from pathlib import Path

from bench.engine import say
from tests.processes import Process, answers, eventually, live_environment
from tests.servers import Postgres, Redis, free_port

SECRET = "bench-secret-0123456789"
CONNECTIONS = 4
TURN = 0.5  # seconds
_numbers = count(1)


def request_for(path: str) -> bytes:
    """Return a signed request with a body that was never sent before."""
    data = {"job_id": f"j-{next(_numbers)}", "customer_id": "c-7", "services": ["mowing", "edging"] * 5}
    body = json.dumps({"event": "job.completed", "timestamp": "2027-04-06T20:00:00Z", "data": data}).encode()
    proof = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Signature: {proof}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answer(sock: socket.socket) -> int:
    """Read one answer with its length; return its status."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += sock.recv(65536)
    head, _, rest = raw.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(rest) < length:
        rest += sock.recv(65536)
    return int(head.split()[1])


def turn(port: int, path: str, seconds: float) -> float:
    """Post over some kept connections for so long; return how many were taken per second."""
    taken: list[int] = []

    def post() -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while time.perf_counter() < ends:
                sock.sendall(request_for(path))
                status = answer(sock)
                assert status == 202, f"{path} answered {status}"
                taken.append(status)

    begun = time.perf_counter()
    ends = begun + seconds
    threads = [threading.Thread(target=post) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(taken) / (time.perf_counter() - begun)


def rounds(port: int, seconds: float) -> Iterator[tuple[str, float]]:
    """Let the two take turns; yield who took how many a second."""
    for number in range(max(2, round(seconds / TURN / 2))):
        pair = [("hooks", "/hooks/crm"), ("bare_view", "/bare")]
        for name, path in pair if number % 2 else reversed(pair):
            yield name, turn(port, path, TURN)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="Measure the address for webhooks beside a bare view.")
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--quick", action="store_true", help="only to see that it runs")
    told = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sop-bench-")))
        postgres, redis = Postgres(durable=True), Redis()
        stack.callback(postgres.remove)
        stack.callback(redis.remove)
        say(
            "machine", cores=os.cpu_count(), python=platform.python_version(), django=version("django"),
            gunicorn=version("gunicorn"), load=round(os.getloadavg()[0], 2),
        )  # fmt: skip
        environment = live_environment(
            postgres.migrated_database("inbox"), redis.url, HOOKS="crm=hmac", CRM_HMAC_SECRET=SECRET
        )
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "bench.inbox_site", "--bind", f"127.0.0.1:{port}"]
        command += ["--workers", "1", "--threads", "4"]
        web = stack.enter_context(Process(command, environment, log=folder / "web.log", name="web"))
        eventually(lambda: answers(f"http://127.0.0.1:{port}/healthz"), 30, what=web.output)
        for path in ("/hooks/crm", "/bare"):
            turn(port, path, TURN)
        found: dict[str, list[float]] = {"hooks": [], "bare_view": []}
        for name, rate in rounds(port, 4 * TURN if told.quick else told.seconds):
            found[name].append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    for name, rates in found.items():
        say(name, per_second=round(medians[name]), turns=[round(rate) for rate in rates])
    print(json.dumps({"ratios": {"bare_view": round(medians["hooks"] / medians["bare_view"], 2)}}))


if __name__ == "__main__":
    main()
