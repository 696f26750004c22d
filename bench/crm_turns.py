"""CrmService.find and bare HTTP clients, taking turns. Prints JSON lines, the last one the ratios.

    python -m bench.crm_turns CUSTOMER ROUNDS SECONDS     with the environment that bench.crm_client makes

`crm` is a find past the cache through everything: the state of the line, the limits of a call, the
login, the check of what comes in, the field map, the line in the log, the call for the step's event.
The others make the same request and read the same JSON, and do nothing else. All of them have one
thread and one kept connection to one server; their turns are short and take turns, so that a busy
second hits them alike. Ratios are of medians.
"""

import gc
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import django
import requests
import urllib3

django.setup()

from django.conf import settings  # noqa: E402 - they need the setup above

from bench.engine import say  # noqa: E402
from crm.service import open_service  # noqa: E402

WARM_UP = 100  # calls of each before anything is counted
FINDS = 20  # with one service: about what the steps of a run make


# -- the contestants, each a function that makes one call ---------------------------------------------------


def by_session(address: str, headers: dict[str, str]) -> Callable[[], object]:
    """A plain requests.Session."""
    session = requests.Session()
    return lambda: session.get(address, headers=headers, timeout=15).json()


def by_urllib3(address: str, headers: dict[str, str]) -> Callable[[], object]:
    """A plain urllib3 pool."""
    pool = urllib3.PoolManager(1)
    return lambda: pool.request("GET", address, headers=headers, timeout=15).json()


def by_service(customer: str) -> Callable[[], object]:
    """CrmService.find as a step makes it."""
    for handler in logging.getLogger().handlers:  # what a line costs is counted, where it lands is not
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(Path(os.devnull).open("w"))  # noqa: SIM115 - open for as long as we live
    service, left = open_service(), FINDS

    def find() -> object:
        nonlocal service, left
        if not left:
            service, left = open_service(), FINDS
        left -= 1
        return service.find(customer, fresh=True)

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


def main(customer: str, rounds: int, seconds: float) -> None:
    """Measure, and print the ratios."""
    address = f"{settings.CRM_BASE_URL}/api/v1/customers/{customer}"
    headers = {"Authorization": f"Bearer {settings.CRM_API_KEY}", "Accept": "application/json"}
    contestants = {
        "crm": by_service(customer),
        "requests_session": by_session(address, headers),
        "urllib3": by_urllib3(address, headers),
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
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
