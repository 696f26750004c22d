"""Connections to other systems: bounded in time and in bytes, kept per thread, never shared.

One call at a time is begun in a thread (`begin`), made through `adapter_for`, and its limits hold
for whatever happens below: looking up the name, connecting, the handshake, sending, reading.
"""

import http.client
import io
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from sopengine.addresses import INTERNET, Network, connected
from sopengine.errors import DataError, Sent

IDLE_SECONDS = 4.0  # after which a kept connection may be closed by the other side at any moment
MOST_KEPT = 32  # connections per thread


@dataclass(slots=True)
class Call:
    """The call that this thread is making. Moments are of time.monotonic()."""

    service: str = ""
    until: float = 0.0
    connect_until: float = 0.0
    bytes_left: int = 0
    network: Network = INTERNET
    guarded: bool = False
    authorities: str = ""
    sent: Sent = "no"

    def left(self) -> float:
        """Return the seconds that are left; TimeoutError when there are none."""
        seconds = self.until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the call's time is over")
        return seconds


class _Thread(threading.local):
    """This thread's connections, and the call it is making."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.adapters: dict[Any, HTTPAdapter] = {}
        self.call = Call()


_thread = _Thread()


def begin(call: Call) -> Call:
    """Make this the call whose limits hold in this thread from now on."""
    _thread.call = call
    return call


def hurry(seconds: float) -> None:
    """Let this thread's call end in so many seconds, if it would not end before."""
    _thread.call.until = min(_thread.call.until, time.monotonic() + seconds)


def drop(origin: str, call: Call) -> None:
    """Close this thread's connection to the origin: what may still come over it belongs to no call."""
    found = _thread.adapters.pop(_key(origin, call), None)
    if found is not None:
        found.close()


def _key(origin: str, call: Call) -> tuple[object, ...]:
    return (origin, call.guarded, call.network, call.authorities)


def adapter_for(origin: str, call: Call) -> HTTPAdapter:
    """Return this thread's connection to the origin; a forked process never uses its parent's sockets.

    A guarded call never gets a connection that was made without looking at its address.
    """
    if _thread.pid != os.getpid():
        _thread.pid, _thread.adapters = os.getpid(), {}
    key = _key(origin, call)
    found = _thread.adapters.get(key)
    if found is None:
        while len(_thread.adapters) >= MOST_KEPT:
            _thread.adapters.pop(next(iter(_thread.adapters))).close()
        found = _thread.adapters[key] = _Adapter(pool_connections=1, pool_maxsize=1, max_retries=0)
    return found


class _TimedReader(io.RawIOBase):
    """Reads from a socket until the call's own end, however slowly or richly the bytes come."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self.ended = False

    def readable(self) -> bool:
        """Say that this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there; TimeoutError when the time is over, DataError when it is too much."""
        call = _thread.call
        self._sock.settimeout(call.left())
        count = cast("io.RawIOBase", self._raw).readinto(buffer)
        self.ended = count == 0
        call.bytes_left -= count or 0
        if call.bytes_left < 0:
            raise DataError(f"{call.service} answered without an end", code="too_large", sent="maybe")
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer read through a _TimedReader, status line and headers included."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self._reader = _TimedReader(sock)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Read status and headers; the library takes a line that was cut off for the last one."""
        super().begin()
        if self._reader.ended:
            raise http.client.RemoteDisconnected("the connection ended within the headers")


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _TimedResponse
    _used_at = 0.0

    def _new_conn(self) -> socket.socket:
        """Return a socket to an address that was looked at, as the call wants it."""
        call = _thread.call
        try:
            return connected(
                call.service,
                self._dns_host,
                self.port,
                network=call.network,
                guarded=call.guarded,
                until=call.connect_until,
            )
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "nobody answered in time") from error
        except OSError as error:
            raise NewConnectionError(self, "nobody answered") from error

    @property
    def is_connected(self) -> bool:
        """Say whether the other side keeps the connection, as far as can be told."""
        return time.monotonic() - self._used_at < IDLE_SECONDS and super().is_connected

    def send(self, data: Any) -> None:
        """Send a part of the request; connect before, if need be: until then nothing left."""
        if self.sock is None:
            self.connect()
        call = _thread.call
        self.sock.settimeout(call.left())
        self._used_at = time.monotonic()
        call.sent = "maybe"
        super().send(data)


class _SecureConnection(_Connection, urllib3.connection.HTTPSConnection):
    """The same with TLS: the name that is checked is that of the host, whatever its address."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """Hands out our connections to one origin, without what the library does for proxies and cookies."""

    _pool: Any = None

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Build the pool from our connection classes."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool: all calls of this adapter go to one origin, under one set of certificates."""
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Return the path with its query."""
        return str(request.path_url)

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> requests.Response:
        """Return status, headers and what the body is read from."""
        response = requests.Response()
        response.status_code = raw.status
        response.headers = CaseInsensitiveDict(raw.headers)
        response.raw, response.request = raw, request
        return response
