"""The engine inside one process, and the web server for development beside it."""

import socket

import pytest

from sopengine.webserver import DevelopmentServer, NoPort
from tasks.loop import DrainLoop
from tasks.models import Pulse
from tests.processes import eventually


@pytest.mark.django_db(transaction=True)
def test_the_loop_sweeps_and_ends_when_asked() -> None:
    with DrainLoop() as loop:
        eventually(lambda: Pulse.objects.filter(name="sweep").exists(), 10)
        assert loop.is_alive()
    assert not loop.is_alive()
    assert loop.stop()  # a second time does no harm


def test_a_taken_port_is_left_for_the_next() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with DevelopmentServer(port) as server:
            assert server.port > port


def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sopengine.webserver.PORTS_TO_TRY", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NoPort, match=f"ports {port} to {port} .* expected a free one"):
            DevelopmentServer(port)
