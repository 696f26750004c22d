"""A server on loopback that answers well until it is told to misbehave, in every way a CRM can.

    def answer(method, path, query, headers, body):
        return 200, {}, {"customer": {"id": "c1", "name": "Ada"}}

    with Rogue(answer) as rogue:
        rogue.does("status", 429, {"Retry-After": "7"}, times=2)     # the next two requests
        rogue.does("break_body", on="POST ", applied=True)           # each POST, after it was done
        call_something(rogue.url)
        assert [seen.did for seen in rogue.requests] == ["status", "status", ""]
        rogue.behaves()                                              # well again

The good answers come from a function (method, path, query, headers, body) -> (status, headers, value),
header names in lower case. `playing(contract)` is that function for the REST contract of the mock.
Every request is in `rogue.requests`, with its raw bytes and the moment of its arrival by the moved
clock. The ways to misbehave are the functions below that are marked with `@way`; `WAYS` has them all.
"""

import gzip
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Concatenate, Protocol

from crm.mock.contract import Reply, Request
from sopengine import clock

Answer = Callable[[str, str, str, Mapping[str, str], bytes], tuple[int, Mapping[str, str], Any]]

HUGE = 50_000_000  # bytes of a body that nobody should read
MAX_REQUEST = 10_000_000


@dataclass(slots=True)
class Seen:
    """One request as it arrived. `did` is the way in which the server misbehaved, "" for none."""

    at: datetime
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    raw: bytes = field(repr=False)
    connection: int
    did: str = ""

    @property
    def json(self) -> Any:
        """Return the body's value."""
        return json.loads(self.body)


@dataclass(slots=True)
class _Order:
    name: str
    arguments: tuple[Any, ...]
    on: str
    left: int | None
    applied: bool


class Playable(Protocol):
    """What answers requests: the contract of the mock, or a shape beside it."""

    def answer(self, request: Request) -> Reply:
        """Return the reply."""


class Exchange:
    """One request with the socket to answer it on."""

    def __init__(self, rogue: "Rogue", sock: socket.socket, seen: Seen) -> None:
        self.rogue = rogue
        self.sock = sock
        self.seen = seen
        self._good: tuple[int, Mapping[str, str], Any] | None = None

    @property
    def good(self) -> tuple[int, Mapping[str, str], Any]:
        """Return the good answer; asked for the first time, it is what applies a write."""
        if self._good is None:
            seen = self.seen
            self._good = self.rogue.answer(seen.method, seen.path, seen.query, seen.headers, seen.body)
        return self._good

    def good_text(self) -> str:
        """Return the good answer's value as JSON."""
        return json.dumps(self.good[2])

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(raw)

    def reply(self, text: str | bytes, status: int | None = None, **headers: str) -> None:
        """Send a whole answer: by default with the good one's status and headers."""
        body = text.encode() if isinstance(text, str) else text
        given = {} if status else self.good[1]
        self.send(reply_bytes(status or self.good[0], {**given, **headers}, body))

    def hang_up(self) -> None:
        """End the connection in both directions."""
        self.sock.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float | None = None) -> None:
        """Do nothing for a while, or until the server is closed."""
        if self.rogue.closed.wait(seconds):
            raise ConnectionAbortedError


Way = Callable[Concatenate[Exchange, ...], None]
WAYS: dict[str, Way] = {}


def way(misbehave: Way) -> Way:
    """Let `does` find this function by its name."""
    WAYS[misbehave.__name__] = misbehave
    return misbehave


def reply_bytes(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return an answer as it goes over the line."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unheard Of"
    given = {name.lower().replace("_", "-"): value for name, value in headers.items()}
    given = {"content-type": "application/json", "content-length": str(len(body)), **given}
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def playing(contract: Playable) -> Answer:
    """Return the good answers of the REST contract over a mock's state, or of another shape over it."""

    def answer(
        method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], Any]:
        found = contract.answer(Request(method, path, query, headers, body))
        return found.status, found.headers, found.value

    return answer


def content(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Any:
    """Answer everything with a small object."""
    return 200, {}, {"id": "c1", "name": "Ada", "visits": 3, "tags": ["a", "b"]}


class Rogue:
    """The server; serves from the moment it is made until `close`. With `tls` it speaks https."""

    def __init__(self, answer: Answer = content, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.tls = tls
        self.requests: list[Seen] = []
        self.connections = 0
        self.closed = threading.Event()
        self._orders: list[_Order] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> "Rogue":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Return the address to call."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    # -- what it is told

    def does(
        self, name: str, *arguments: Any, times: int | None = None, on: str = "", applied: bool = False
    ) -> None:
        """Misbehave in this way, `times` times or until `behaves`, at requests whose "METHOD /path" has `on`.

        Orders hold in the order given, each until it is used up. `applied`: the request is carried
        out all the same, and only its answer is spoiled.
        """
        if name not in WAYS:
            raise ValueError(f"no such way: {name}; there are {', '.join(sorted(WAYS))}")
        with self._lock:
            self._orders.append(_Order(name, arguments, on, times, applied))

    def behaves(self) -> None:
        """Forget every order: answer well from now on."""
        with self._lock:
            self._orders.clear()

    def seen(self, on: str = "") -> list[Seen]:
        """Return the requests whose "METHOD /path" has this in it."""
        with self._lock:
            return [seen for seen in self.requests if on in f"{seen.method} {seen.path}"]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse connections inside the block, and cut those that are open."""
        self._stop_listening()
        self._cut()
        try:
            yield
        finally:
            self._listener = self._listen(self.port)

    def close(self) -> None:
        """End everything."""
        self.closed.set()
        self._stop_listening()
        self._cut()

    # -- what it does

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()
        return listener

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _cut(self) -> None:
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with self._lock:
                    self.connections += 1
                    number = self.connections
                    self._open.add(sock)
                threading.Thread(target=self._serve, args=[sock, number], daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.tls:
                    sock = self._secured(sock, self.tls)
                while (seen := _read(sock, number)) is not None:
                    self._answer(Exchange(self, sock, seen))
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _secured(self, sock: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        with self._lock:
            self._open.discard(sock)
        sock.settimeout(5.0)  # for the handshake
        secured = tls.wrap_socket(sock, server_side=True)
        secured.settimeout(None)
        with self._lock:
            self._open.add(secured)
        return secured

    def _answer(self, exchange: Exchange) -> None:
        order = self._order(exchange.seen)
        with self._lock:
            exchange.seen.did = order.name if order else ""
            self.requests.append(exchange.seen)
        if order is None:
            exchange.reply(exchange.good_text())
            return
        if order.applied:
            _ = exchange.good
        WAYS[order.name](exchange, *order.arguments)

    def _order(self, seen: Seen) -> _Order | None:
        """Return the first order that fits the request, and count it."""
        asked = f"{seen.method} {seen.path}"
        with self._lock:
            for order in self._orders:
                if order.on in asked and order.left != 0:
                    order.left = None if order.left is None else order.left - 1
                    return order
        return None


def _read(sock: socket.socket, connection: int) -> Seen | None:
    """Return the next request, or None when there is none."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        piece = sock.recv(65536)
        if not piece or len(raw) > MAX_REQUEST:
            return None
        raw += piece
    at = clock.now()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    while len(body) < int(headers.get("content-length", 0)):
        piece = sock.recv(65536)
        if not piece:
            return None
        body += piece
        raw += piece
    method, target, _ = first.split(" ", 2)
    path, _, query = target.partition("?")
    return Seen(at, method, path, query, headers, body, raw, connection)


# -- no answer, or not in time -------------------------------------------------------------------------


@way
def silence(exchange: Exchange) -> None:
    """Take the request and never answer."""
    exchange.wait()


@way
def drip(exchange: Exchange, every: float = 1.0) -> None:
    """Answer one byte at a time."""
    status, headers, _ = exchange.good
    for byte in reply_bytes(status, headers, exchange.good_text().encode()):
        exchange.send(bytes([byte]))
        exchange.wait(every)


@way
def drip_body(exchange: Exchange, every: float = 1.0, status: int = 200) -> None:
    """Answer the head at once and the body one byte at a time."""
    body = exchange.good_text().encode()
    exchange.send(reply_bytes(status, {"content-length": str(len(body))}, b""))
    for byte in body:
        exchange.send(bytes([byte]))
        exchange.wait(every)


@way
def hang_up(exchange: Exchange) -> None:
    """Close without a word."""
    exchange.hang_up()


@way
def reset(exchange: Exchange) -> None:
    """Break the connection off."""
    exchange.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.sock.close()
    raise ConnectionAbortedError


@way
def break_headers(exchange: Exchange) -> None:
    """Close in the middle of the headers."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: appl")
    exchange.hang_up()


@way
def break_body(exchange: Exchange) -> None:
    """Close in the middle of the body."""
    body = exchange.good_text().encode()
    exchange.send(reply_bytes(200, {"content-length": str(len(body))}, body[: len(body) // 2]))
    exchange.hang_up()


@way
def raw(exchange: Exchange, data: bytes) -> None:
    """Send these bytes, whatever they are, and close."""
    exchange.send(data)
    exchange.hang_up()


@way
def nonsense(exchange: Exchange) -> None:
    """Answer something that is no HTTP."""
    exchange.send(b"220 mail.example.test ESMTP\r\n")
    exchange.hang_up()


# -- an answer whose frame is wrong ---------------------------------------------------------------------


@way
def long_length(exchange: Exchange) -> None:
    """Promise more bytes than there are, and keep the connection."""
    body = exchange.good_text().encode()
    exchange.send(reply_bytes(200, {"content-length": str(len(body) + 10)}, body))


@way
def short_length(exchange: Exchange) -> None:
    """Send more bytes than were promised."""
    body = exchange.good_text().encode()
    exchange.send(reply_bytes(200, {"content-length": str(len(body) - 5)}, body))


@way
def bad_chunks(exchange: Exchange, size: str = "zz") -> None:
    """Send chunks whose size is none."""
    exchange.send(_chunked_head() + f"{size}\r\n".encode() + exchange.good_text().encode() + b"\r\n0\r\n\r\n")
    exchange.hang_up()


@way
def endless_chunk(exchange: Exchange) -> None:
    """Send a chunk of -1 bytes, which some take for "read all there is", and do not end."""
    exchange.send(_chunked_head() + b"-1\r\n")
    _pour(exchange)


@way
def endless(exchange: Exchange) -> None:
    """Send a body without an end."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    _pour(exchange)


@way
def endless_headers(exchange: Exchange) -> None:
    """Send one header after the other."""
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        exchange.send(b"x-more: 1\r\n" * 1000)


@way
def endless_continue(exchange: Exchange) -> None:
    """Say again and again that the answer is about to come."""
    while True:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@way
def two_answers(exchange: Exchange, later: float = 0.05) -> None:
    """Send a hint first (103) and then the answer, so many seconds later."""
    exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    exchange.wait(later)
    exchange.reply(exchange.good_text())


@way
def huge(exchange: Exchange) -> None:
    """Send more than anybody wants to have."""
    exchange.send(reply_bytes(200, {"content-length": str(HUGE)}, b""))
    _pour(exchange)


@way
def bomb(exchange: Exchange) -> None:
    """Send little that unpacks to much."""
    exchange.reply(_bomb(), content_encoding="gzip")


@way
def bad_coding(exchange: Exchange, coding: str = "gzip") -> None:
    """Say that it is packed, and it is not."""
    exchange.reply(exchange.good_text(), content_encoding=coding)


# -- a status -------------------------------------------------------------------------------------------


@way
def status(exchange: Exchange, code: int, headers: Mapping[str, str] | None = None, body: str = "") -> None:
    """Answer with this status."""
    exchange.send(reply_bytes(code, headers or {}, (body or '{"error": "told to"}').encode()))


@way
def redirect(exchange: Exchange, to: str, code: int = 302) -> None:
    """Send the client elsewhere."""
    exchange.send(reply_bytes(code, {"location": to}, b""))


# -- an answer that is not what was promised --------------------------------------------------------------


@way
def html(exchange: Exchange, kind: str = "text/html; charset=utf-8") -> None:
    """Answer with a page."""
    exchange.reply("<html><body>Down for maintenance</body></html>", content_type=kind)


@way
def empty(exchange: Exchange) -> None:
    """Answer with nothing."""
    exchange.reply("")


@way
def truncated(exchange: Exchange) -> None:
    """Answer with the first half of the JSON, as if it were whole."""
    text = exchange.good_text()
    exchange.reply(text[: len(text) // 2])


@way
def value(exchange: Exchange, instead: Any) -> None:
    """Answer with this JSON value in place of the good one."""
    exchange.reply(json.dumps(instead))


@way
def text(exchange: Exchange, instead: str) -> None:
    """Answer with this text in place of the good JSON."""
    exchange.reply(instead)


@way
def wrong_types(exchange: Exchange) -> None:
    """Answer with another type for each value: a list for a text, a text for a number."""
    exchange.reply(json.dumps(_with_values(exchange.good[2], lambda value: [value])))


@way
def no_field(exchange: Exchange, *names: str) -> None:
    """Leave these fields out of every object ("id" if none is named)."""
    exchange.reply(json.dumps(_without(exchange.good[2], set(names or ("id",)))))


@way
def no_list(exchange: Exchange) -> None:
    """Answer with an object where a list was promised, and with a list where an object was."""
    exchange.reply(json.dumps(_swapped(exchange.good[2])))


@way
def poison(exchange: Exchange) -> None:
    """Put NUL and halves of surrogate pairs into every text and name."""
    exchange.reply(json.dumps(_poisoned(exchange.good[2])))


@way
def nan(exchange: Exchange, constant: str = "NaN") -> None:
    """Answer with a number that is none."""
    exchange.reply(f'{{"value": {constant}, "more": {exchange.good_text()}}}')


@way
def too_deep(exchange: Exchange, levels: int = 5_000) -> None:
    """Answer with lists in lists in lists."""
    exchange.reply("[" * levels + "]" * levels)


@way
def too_many(exchange: Exchange, values: int = 60_000) -> None:
    """Answer with more values than anybody can want."""
    exchange.reply(f"[{','.join(['1'] * values)}]")


@way
def bad_utf8(exchange: Exchange) -> None:
    """Answer with bytes that are no text."""
    exchange.reply(exchange.good_text().encode().replace(b'"', b'"\xff', 1))


@way
def big_number(exchange: Exchange, digits: int = 5_000) -> None:
    """Answer with a number of very many digits."""
    exchange.reply(f'{{"value": {"9" * digits}}}')


# -- parts of these ---------------------------------------------------------------------------------------


def _chunked_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def _pour(exchange: Exchange) -> None:
    while True:
        exchange.send(b" " * 65536)


_packed: list[bytes] = []


def _bomb() -> bytes:
    """Return 50 MB of spaces, packed into 220 KB; packed once."""
    if not _packed:
        _packed.append(gzip.compress(b" " * 50_000_000, 1))
    return _packed[0]


def _with_values(found: Any, change: Callable[[Any], Any]) -> Any:
    """Return the value with every part that is neither object nor list changed."""
    if isinstance(found, dict):
        return {name: _with_values(part, change) for name, part in found.items()}
    if isinstance(found, list):
        return [_with_values(part, change) for part in found]
    return change(found)


def _without(found: Any, names: set[str]) -> Any:
    if isinstance(found, dict):
        return {name: _without(part, names) for name, part in found.items() if name not in names}
    return [_without(part, names) for part in found] if isinstance(found, list) else found


def _swapped(found: Any) -> Any:
    """Return objects for lists, and lists for the objects in which there is no list."""
    if isinstance(found, list):
        return {"0": "not a list"}
    if not isinstance(found, dict):
        return found
    swapped = {name: _swapped(part) for name, part in found.items()}
    return swapped if swapped != found else [found]


def _poisoned(found: Any) -> Any:
    if isinstance(found, dict):
        return {f"{name}\0": _poisoned(part) for name, part in found.items()}
    if isinstance(found, list):
        return [_poisoned(part) for part in found]
    return re.sub("$", "\0\ud800", found) if isinstance(found, str) else found
