"""Calls per second of CrmService.find beside bare HTTP clients. Prints JSON lines, the last one the ratios.

    python -m bench.crm_client [--rounds 40] [--quick]

`crm` is a find past the cache through everything: the state of the line, the limits of a call, the
login, the check of what comes in, the field map, the line in the log, the call for the step's event.
The others make the same request and read the same JSON, and do nothing else. All of them have one
thread and one kept connection to one server, a process of its own that sends bytes prepared before;
their turns are short and take turns, so that a busy second hits them alike. Ratios are of medians.
"""

import argparse
import gc
import json
import logging
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import django
import requests
import urllib3

from bench.engine import say
from tests.processes import live_environment
from tests.servers import Postgres

CUSTOMER = {
    "id": "cus_0001",
    "name": "Ada Ahlström",
    "email": "ada.ahlstrom.1@example.com",
    "phone": "+15550100001",
    "address": "1 Main Street",
    "city": "Springfield",
    "state": "IL",
    "zip": "62701",
    "services": ["fertilizer", "weed_control"],
    "status": "past",
    "last_service_date": "2026-05-02",
    "notes": "gate code at the office",
    "source": "referral",
    "created_at": "2024-03-01T09:00:00Z",
    "signed_seasons": [2025],
    "do_not_contact": False,
}
PATH = f"/api/v1/customers/{CUSTOMER['id']}"
KEY = "bench-key"
WARM_UP = 100  # calls of each before anything is counted
FINDS = 20  # with one service: about what the steps of a run make


# -- the server ------------------------------------------------------------------------------------------


def prepared() -> bytes:
    """Return the one answer as it goes over the line."""
    body = json.dumps({"customer": CUSTOMER}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def serve() -> None:
    """Answer every request on every connection; print the port first."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    answer = prepared()

    def converse(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := sock.recv(65536):
            if request.endswith(b"\r\n\r\n"):
                sock.sendall(answer)

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=converse, args=[sock], daemon=True).start()


@contextmanager
def served() -> Iterator[str]:
    """Run the server beside us; yield its address."""
    program = subprocess.Popen(
        [sys.executable, "-m", "bench.crm_client", "--serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        yield f"http://127.0.0.1:{program.stdout.readline().strip()}"
    finally:
        program.kill()
        program.wait()


# -- the contestants, each a function that makes one call ---------------------------------------------------


def by_session(url: str) -> Callable[[], object]:
    """A plain requests.Session."""
    session = requests.Session()
    headers = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}
    return lambda: session.get(f"{url}{PATH}", headers=headers, timeout=15).json()


def by_urllib3(url: str) -> Callable[[], object]:
    """A plain urllib3 pool."""
    pool = urllib3.PoolManager(1)
    headers = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}
    return lambda: pool.request("GET", f"{url}{PATH}", headers=headers, timeout=15).json()


def by_service() -> Callable[[], object]:
    """CrmService.find as a step makes it, in a process that is set up like a worker."""
    django.setup()
    from crm.service import open_service  # noqa: PLC0415 - its models need the setup above

    for handler in logging.getLogger().handlers:  # what a line costs is counted, where it lands is not
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(Path(os.devnull).open("w"))  # noqa: SIM115 - open for as long as we live
    service, left = open_service(), FINDS

    def find() -> object:
        nonlocal service, left
        if not left:
            service, left = open_service(), FINDS
        left -= 1
        return service.find("cus_0001", fresh=True)

    return find


# -- the measurement -----------------------------------------------------------------------------------------


def per_second(call: Callable[[], object], seconds: float) -> float:
    """Call for so long; return the calls per second."""
    calls, began = 0, time.perf_counter()
    end = began + seconds
    while time.perf_counter() < end:
        call()
        calls += 1
    return calls / (time.perf_counter() - began)


def measured(
    contestants: dict[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Let each contestant have its turn in each round, the first of one round last in the next."""
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        for name in order:
            gc.collect()
            figures[name].append(per_second(contestants[name], seconds))
        order = [*order[1:], order[0]]
    return figures


def main() -> None:
    """Measure, and print the ratios."""
    options = argparse.ArgumentParser(description="Measure CrmService.find beside bare HTTP clients.")
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--quick", action="store_true", help="few short rounds: to see that it runs")
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    told = options.parse_args()
    if told.serve:
        serve()
    rounds, seconds = (3, 0.1) if told.quick else (told.rounds, 0.25)
    with ExitStack() as stack:
        postgres = Postgres()
        stack.callback(postgres.remove)
        url = stack.enter_context(served())
        os.environ.update(
            live_environment(postgres.migrated_database("crm"), CRM_BASE_URL=url, CRM_API_KEY=KEY),
            DJANGO_SETTINGS_MODULE="sopengine.settings",
        )
        contestants = {
            "crm": by_service(),
            "requests_session": by_session(url),
            "urllib3": by_urllib3(url),
        }
        say(
            "machine", cores=os.cpu_count(), python=platform.python_version(), requests=version("requests"),
            urllib3=version("urllib3"), rounds=rounds, load=round(os.getloadavg()[0], 2),
        )  # fmt: skip
        for call in contestants.values():
            for _ in range(WARM_UP):
                call()
        figures = measured(contestants, rounds, seconds)
    for name, rates in figures.items():
        quarters = statistics.quantiles(rates, n=4)
        say(name, per_second=round(quarters[1], 1), lower=round(quarters[0], 1), upper=round(quarters[2], 1))
    medians = {name: statistics.median(rates) for name, rates in figures.items()}
    ratios = {name: round(medians["crm"] / medians[name], 2) for name in ("requests_session", "urllib3")}
    print(json.dumps({"ratios": ratios}))


if __name__ == "__main__":
    main()
