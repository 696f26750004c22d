"""A mock CRM for each test: in this process, or served over real HTTP."""

import threading
from collections.abc import Callable, Iterator

import pytest

from crm.mock.scenario import Scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.provider import Connection, providers
from crm.providers.mock import forget_state
from crm.service import CrmService

Serve = Callable[..., MockServer]


@pytest.fixture(autouse=True)
def _own_mock() -> Iterator[None]:
    """Give each test a mock that nobody has written to."""
    forget_state()
    yield
    forget_state()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that serves a mock and returns its server."""
    servers: list[MockServer] = []

    def start(past: int = 12, latency: float = 0.0, **scenario: object) -> MockServer:
        server = MockServer(MockState(customers=past), 0, latency, Scenario.model_validate(scenario))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def rest_service(server: MockServer, key: str | None = "key-1") -> CrmService:
    """Return a service that calls this server."""
    return CrmService(providers.get("rest")(Connection(server.url, lambda: key)))
