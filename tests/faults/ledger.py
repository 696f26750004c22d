"""The other side: a ledger over HTTP that remembers every raw call.

    POST /<kind>/<key>   one write        GET /<kind>/<key>   how many were applied

`keyed` applies a key once and answers a repeat with the first answer; the others apply every call.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Ledger:
    """What was written, by kind and key; `raw` counts calls, `applied` what they changed."""

    def __init__(self) -> None:
        self.raw: Counter[tuple[str, str]] = Counter()
        self.applied: Counter[tuple[str, str]] = Counter()
        self.delay: Callable[[], float] = lambda: 0.0  # seconds between a write and its answer
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._answers())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where the ledger listens, as host:port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def calls(self, kind: str) -> int:
        """Return how many calls of this kind came in."""
        return sum(count for (name, _), count in self.raw.items() if name == kind)

    def keys(self, kind: str) -> dict[str, int]:
        """Return the keys of this kind with how often each was applied."""
        return {key: count for (name, key), count in self.applied.items() if name == kind}

    def take(self, kind: str, key: str) -> int:
        """Take one write; return how often it is applied by now."""
        with self._lock:
            self.raw[kind, key] += 1
            if kind != "keyed" or not self.applied[kind, key]:
                self.applied[kind, key] += 1
            return self.applied[kind, key]

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(ledger) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request in here
        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                _, kind, key = self.path.split("/", 2)
                count = ledger.take(kind, key)
                time.sleep(ledger.delay())
                self._say(count)

            def do_GET(self) -> None:
                _, kind, key = self.path.split("/", 2)
                self._say(ledger.applied[kind, key])

            def _say(self, count: int) -> None:
                body = json.dumps({"count": count}).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    return  # the caller was killed

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Answers
