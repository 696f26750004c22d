"""The mock CRM as an HTTP server on loopback, with a journal of every request at /_journal.

GET /_journal is a list of requests, GET /_journal?summary=1 their counts, DELETE /_journal forgets
them. These calls are not in the journal themselves.
"""

import json
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from crm.mock.contract import Contract, Reply, Request
from crm.mock.scenario import Fault, Scenario, Spoil
from crm.mock.state import MockState
from sopengine import clock

MAX_BODY = 1_000_000
REASONS = {200: "OK", 201: "Created", 404: "Not Found"}


class Journal:
    """Every request with what came of it, and how many were in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self.forget()

    def forget(self) -> None:
        """Begin anew; requests in flight stay counted."""
        with self._lock:
            self._entries: list[dict[str, Any]] = []
            self._max = self._in_flight
            self._area = 0.0
            self._first: float | None = None
            self._moved = time.monotonic()

    def begin(self, request: Request) -> dict[str, Any]:
        """Enter a request that has arrived."""
        entry: dict[str, Any] = {
            "at": clock.now().isoformat(),
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "key": request.headers.get("idempotency-key", "").strip('"'),
            "status": None,
            "outcome": None,
        }
        with self._lock:
            self._step(1)
            entry["number"] = len(self._entries) + 1
            entry["in_flight"] = self._in_flight
            self._entries.append(entry)
        return entry

    def end(self, entry: dict[str, Any], status: int | None, outcome: str) -> None:
        """Enter what came of it; no status means that nothing was answered."""
        with self._lock:
            self._step(-1)
            entry["status"], entry["outcome"] = status, outcome

    def _step(self, change: int) -> None:
        """Move the number in flight and add what the time so far amounts to."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
        else:
            self._area += self._in_flight * (now - self._moved)
        self._moved = now
        self._in_flight += change
        self._max = max(self._max, self._in_flight)

    def entries(self) -> list[dict[str, Any]]:
        """Return a copy of all entries, oldest first."""
        with self._lock:
            return [dict(entry) for entry in self._entries]

    def summary(self) -> dict[str, Any]:
        """Return counts, and the calls in flight from the first arrival to the last change."""
        entries = self.entries()
        with self._lock:
            seconds = self._moved - self._first if self._first is not None else 0.0
            return {
                "requests": len(entries),
                "status": dict(Counter(str(entry["status"]) for entry in entries)),
                "outcome": dict(Counter(str(entry["outcome"]) for entry in entries)),
                "in_flight": self._in_flight,
                "max_in_flight": self._max,
                "average_in_flight": round(self._area / seconds, 2) if seconds else 0.0,
                "seconds": round(seconds, 3),
            }


class MockServer(ThreadingHTTPServer):
    """Serves one mock CRM on 127.0.0.1; port 0 takes a free one. `latency` is in seconds."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, state: MockState, port: int = 0, latency: float = 0.0, scenario: Scenario | None = None
    ) -> None:
        self.scenario = scenario or Scenario()
        for entity, rows in self.scenario.rows.items():
            state.load(entity, rows)
        self.state = state
        self.latency = latency
        self.contract = Contract(state, self.scenario.api_key, self.scenario.ignore_keys)
        self.journal = Journal()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Return the address to set as CRM_BASE_URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client goes away in the middle: that is what clients under test do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept for many requests; each answer leaves in one piece."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: MockServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            self.close_connection = True
            self._send(Reply(413, {"error": "the body must have a length of at most 1 MB"}, "refused"))
            return
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, headers, body)
        if path == "/_journal":
            self._send(self._journal(request))
            return
        self._answer(request)

    def _answer(self, request: Request) -> None:
        """Answer one request of the contract, with the faults that the scenario has for it.

        The journal is closed before the answer leaves, so that whoever has the answer can read it.
        """
        server = self.server
        entry = server.journal.begin(request)
        faults = server.scenario.faults_of(f"{request.method} {request.path}")
        if wait := server.latency + sum(fault.delay for fault in faults):
            time.sleep(wait)
        reply, arrives = Reply(0, None, "broken"), 0.0
        try:
            reply, arrives = self._reply(request, faults)
        finally:
            server.journal.end(entry, reply.status if arrives else None, reply.outcome)
        if arrives < 1:
            self.close_connection = True
        if arrives:
            self._send(reply, arrives)
        if arrives < 1:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, request: Request, faults: list[Fault]) -> tuple[Reply, float]:
        """Return the reply, and how much of its body arrives: 1 for all, 0 when nothing is answered."""
        for fault in faults:
            if fault.drop == "before":
                return Reply(0, None, "dropped"), 0.0
            if fault.drop == "after":
                return self.server.contract.answer(request), 0.0
            if fault.status is not None:
                retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                return Reply(fault.status, {"error": fault.body or "told to fail"}, "fault", retry), 1.0
            if fault.body is not None:
                return Reply(200, fault.body, "fault", {"Content-Type": "text/html"}), 1.0
            if fault.spoil == "truncated":
                return self.server.contract.answer(request), 0.5
            if fault.spoil is not None:
                reply = self.server.contract.answer(request)
                return replace(reply, value=spoilt(reply.value, fault.spoil, fault.field)), 1.0
        return self.server.contract.answer(request), 1.0

    def _journal(self, request: Request) -> Reply:
        journal = self.server.journal
        if request.method == "DELETE":
            journal.forget()
            return Reply(200, {"forgotten": True}, "read")
        if request.method != "GET":
            return Reply(405, {"error": "GET or DELETE"}, "refused")
        summary = "summary=1" in request.query.split("&")
        return Reply(200, journal.summary() if summary else journal.entries(), "read")

    def _body(self) -> bytes | None:
        """Return the body, or None when its length is unknown or too large."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > MAX_BODY:
            return None
        return self.rfile.read(int(length)) if length != "0" else b""

    def _send(self, reply: Reply, arrives: float = 1.0) -> None:
        """Send the reply in one piece; a value that has a type of its own goes out as it is.

        `arrives` is the part of the body that is sent; the header tells the length of the whole.
        """
        headers = {"Content-Type": "application/json", **reply.headers}
        text = reply.value if "Content-Type" in reply.headers else json.dumps(reply.value)
        body = text.encode()
        lines = [
            f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Status')}",
            f"Date: {self.date_time_string()}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
            *(("Connection: close",) if self.close_connection else ()),
        ]
        sent = body[: int(len(body) * arrives)]
        self.wfile.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + sent)

    def log_message(self, *_args: Any) -> None:
        """Write nothing: the journal has it all."""


def spoilt(value: Any, how: Spoil, field: str) -> Any:
    """Return an answer's value with every record in it spoilt; the answer of a refusal has none."""
    if not isinstance(value, dict):
        return value
    return {name: _spoilt(part, how, field) if name != "meta" else part for name, part in value.items()}


def _spoilt(part: Any, how: Spoil, field: str) -> Any:
    if how == "not_a_list" and isinstance(part, list | dict):
        return {} if isinstance(part, list) else []
    if isinstance(part, list):
        return [_spoilt(row, how, field) for row in part]
    if not isinstance(part, dict):
        return part
    kept = {name: value for name, value in part.items() if name != field}
    return {**kept, field: {"wrong": "type"}} if how == "wrong_type" else kept
