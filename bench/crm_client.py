"""Calls per second of CrmService.find beside bare HTTP clients. Prints JSON lines, the last one the ratios.

    python -m bench.crm_client [--rounds 40] [--quick]

Starts a PostgreSQL, and a server, a process of its own, that sends bytes prepared before. What is measured
stands in `bench.crm_turns`, which is a process too: it is set up like a worker, with these servers.
"""

import argparse
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.processes import live_environment
from tests.servers import ROOT, Postgres

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


def main() -> None:
    """Start the servers, and let the turns be measured."""
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
        environment = live_environment(
            postgres.migrated_database("crm"),
            CRM_BASE_URL=stack.enter_context(served()),
            CRM_API_KEY="bench-key",
            DJANGO_SETTINGS_MODULE="sopengine.settings",
        )
        turns = [sys.executable, "-m", "bench.crm_turns", str(CUSTOMER["id"]), str(rounds), str(seconds)]
        sys.exit(subprocess.run(turns, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
