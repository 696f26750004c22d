"""A mock CRM for each test: in this process, or served over real HTTP."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from pytest_django import Settings

from credentials import store
from crm import health
from crm.mock.contract import Contract
from crm.mock.scenario import Scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.provider import Connection, providers
from crm.providers.mock import forget_state
from crm.service import CrmService
from sopengine.errors import AuthError
from tests.crm.shapes.answers import KEY_HEADER, Shape

Serve = Callable[..., MockServer]


SECRET = "a-secret-key-4321"  # the key in the settings of those tests that call a `server`


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    """Begin and end each test with nothing in the memory of the process: no line, no login, no mock."""
    for forget in (health.forget, store.forget, forget_state):
        forget()
    yield
    for forget in (health.forget, store.forget, forget_state):
        forget()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that serves a mock, in the contract's shape or another, and returns its server."""
    servers: list[MockServer] = []

    def start(
        past: int = 12,
        latency: float = 0.0,
        contract: type[Contract] | type[Shape] = Contract,
        **scenario: object,
    ) -> MockServer:
        server = MockServer(MockState(customers=past), 0, latency, Scenario.model_validate(scenario))
        server.contract = contract(server.state, server.scenario.api_key, server.scenario.ignore_keys)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(settings: Settings, serve: Serve) -> MockServer:
    """A CRM over real HTTP that this process is set to call, with a key from the settings."""
    made = serve()
    settings.CRM_PROVIDER, settings.CRM_BASE_URL = "rest", made.url
    settings.CRM_AUTH, settings.CRM_API_KEY = "api_key", SECRET
    return made


@dataclass
class Key:
    """A key that is simply there, in one header; `next` is the one that is there after a 401."""

    secret: str | None = "key-1"
    header: str = "Authorization"
    scheme: str = "Bearer "
    next: str = ""

    def headers(self, _method: str, _target: str, _body: bytes) -> Mapping[str, str]:
        """Return the key in its header."""
        if not self.secret:
            raise AuthError("There is no key.", code="no_credential")
        return {self.header: f"{self.scheme}{self.secret}"}

    def renew(self) -> bool:
        """Take the next key, once."""
        renewed = bool(self.next)
        self.secret, self.next = self.next or self.secret, ""
        return renewed

    def fingerprint(self) -> str:
        """Return nothing that could be compared."""
        return ""


def rest_service(server: MockServer, key: str | None = "key-1") -> CrmService:
    """Return a service that calls this server, whatever the state of the line."""
    return CrmService(providers.get("rest")(Connection(server.url, Key(key))), guarded=False)


def shaped_service(base_url: str, key: str | None = "key-1") -> CrmService:
    """Return a service that calls a CRM of the second shape, whatever the state of the line."""
    providers.load("tests.crm.shapes")
    access = Key(key, KEY_HEADER, "")
    return CrmService(providers.get("shaped")(Connection(base_url, access)), guarded=False)
