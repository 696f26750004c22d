"""A web server inside this process, for development and the demo; production has gunicorn."""

import socketserver
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIServer

from django.core.servers.basehttp import WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

from sopengine.arguments import HIGHEST_PORT

HOST = "127.0.0.1"
FIRST_PORT = 8000
PORTS_TO_TRY = 100


class NoPort(Exception):
    """No port could be taken."""


class _Handler(WSGIRequestHandler):
    """Django's own handler of requests, without a log line for each of them."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: what matters is logged by whoever answers."""


class _Threads(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 50
    # A port in use must be refused, not shared with a server that is going away.
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that hung up is no error."""


class DevelopmentServer:
    """Serves the site on loopback, on the first free port from `port` on; `address` says where."""

    def __init__(self, port: int = FIRST_PORT) -> None:
        self._server = _first_free(port)
        self._server.set_app(get_wsgi_application())
        self.port = int(self._server.server_address[1])
        self.address = f"http://{HOST}:{self.port}"

    def serve(self) -> None:
        """Answer requests until `stop` is called from another thread."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.server_close()


def _first_free(port: int) -> _Threads:
    last = min(port + PORTS_TO_TRY - 1, HIGHEST_PORT)
    for candidate in range(port, last + 1):
        try:
            return _Threads((HOST, candidate), _Handler)
        except OSError:
            continue
    raise NoPort(f"ports {port} to {last} of {HOST} are all taken; expected a free one")
