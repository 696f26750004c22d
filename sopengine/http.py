"""Requests out: one try, bounded in time and size, whose every end is a value or a StepError.

    crm = Client("crm", "https://crm.example.com")
    answer = crm.call("GET", "/api/v1/customers/c1", label="customers.find", deadline=deadline)
    answer.found, answer.value

What cannot happen here: a retry, a redirect followed, a cookie kept, a proxy or a password taken from
the environment, more than the allowed bytes in memory, a call past its deadline or longer than
settings.ENGINE_CALL_TIMEOUT, a secret or a body in a log. There is one connection pool per thread and
host; a Session above it would read redirects whole and merge the environment into each call.

The status table (`status_error`):
    2xx a value · 404, 410 not found · 401, 403 AuthError · 429 RateLimited · 408, 425, 5xx Transient
    3xx Permanent "redirect" · other 4xx Permanent "http_<status>"
"""

import http.client
import io
import json
import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import requests
import urllib3
from django.conf import settings
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from sopengine import clock
from sopengine.errors import (
    AuthError,
    DataError,
    Permanent,
    RateLimited,
    Sent,
    StepError,
    Transient,
)

log = logging.getLogger("sopengine.http")

CONNECT_SECONDS = 5.0
MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 50_000
MAX_HEADER = 8_000
MAX_WAIT = 3_600.0
WAIT_UNSAID = 60.0  # the pause after a 429 that names none
DRAIN_BYTES = 65_536  # of an answer whose body nobody reads

USER_AGENT = "sop-engine"

T = TypeVar("T", bound="Answer | int")


class Deadline(Protocol):
    """How long the caller may still take."""

    def remaining(self) -> float:
        """Return the seconds left, never negative."""

    def check(self) -> None:
        """Raise Transient (nothing sent) when the time is over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a JSON value, or None with `found` False for a 404 or 410."""

    status: int
    value: Any

    @property
    def found(self) -> bool:
        """Say whether the thing asked for exists."""
        return self.status not in (404, 410)


class Client:
    """Calls to one service at one address. Cheap to build; may be used by any thread."""

    def __init__(
        self,
        service: str,
        base_url: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        total_seconds: float = math.inf,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.service = service
        self.origin, self.prefix = checked_address(service, base_url)
        self.connect_seconds = connect_seconds
        self.total_seconds = total_seconds
        self.max_bytes = max_bytes

    def call(
        self,
        method: str,
        path: str,
        *,
        label: str,
        params: Iterable[tuple[str, str]] = (),
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> Answer:
        """Make one call and return its answer, or raise a StepError.

        `path` begins with a slash and is quoted already; `label` stands for it in the log, where
        neither address nor parameters appear; `body` is sent as JSON.
        """
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        request = self._prepared(method, path, params, content, headers)
        return self._told(label, request, lambda: self._exchange(request, deadline, self._read))

    def post(
        self,
        path: str,
        content: bytes,
        *,
        label: str,
        headers: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> int:
        """Post JSON that is bytes already, as they were signed; return the 2xx status or raise a StepError.

        What the answer says beside its status is not read. Nothing at this address (404, 410) is
        Permanent "http_<status>", since what was to take the post is not there.
        """
        request = self._prepared("POST", path, (), content, headers)
        return self._told(label, request, lambda: self._exchange(request, deadline, self._taken))

    def _told(self, label: str, request: requests.PreparedRequest, exchange: Callable[[], T]) -> T:
        """Make the exchange and write one line on how it ended."""
        started = time.monotonic()
        status = "error"
        try:
            answer = exchange()
            status = str(answer if isinstance(answer, int) else answer.status)
            return answer
        except StepError as error:
            status = error.reason
            raise
        finally:
            ms = round((time.monotonic() - started) * 1000)
            log.info("%s %s %s -> %s in %d ms", self.service, request.method, label, status, ms)

    def _exchange(
        self,
        request: requests.PreparedRequest,
        deadline: Deadline | None,
        read: Callable[[requests.Response], T],
    ) -> T:
        total = self._allowed(deadline)
        _line.until, _line.sent = time.monotonic() + total, "no"
        try:
            response = _adapter(self.origin).send(
                request, stream=True, timeout=(min(self.connect_seconds, total), total), verify=True
            )
            return read(response)
        except (requests.RequestException, HTTPError, OSError, http.client.HTTPException) as error:
            raise transport_error(self.service, error, _line.sent) from None

    def _prepared(
        self,
        method: str,
        path: str,
        params: Iterable[tuple[str, str]],
        content: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> requests.PreparedRequest:
        """Return the request, built by hand: every part of it is checked or quoted already."""
        query = urlencode(list(params))
        request = requests.PreparedRequest()
        request.method = method
        request.url = f"{self.origin}{self.prefix}{path}{'?' if query else ''}{query}"
        request.headers = CaseInsensitiveDict(checked_headers(headers or {}))
        request.headers["Accept"] = "application/json"
        request.headers["Accept-Encoding"] = "gzip"
        request.headers.setdefault("User-Agent", USER_AGENT)
        if content is not None:
            request.body = content
            request.headers["Content-Type"] = "application/json"
            request.headers["Content-Length"] = str(len(content))
        elif method not in ("GET", "HEAD"):
            request.headers["Content-Length"] = "0"
        return request

    def _allowed(self, deadline: Deadline | None) -> float:
        """Return the seconds this call may take; Transient when there are none."""
        most: float = min(self.total_seconds, settings.ENGINE_CALL_TIMEOUT)
        if deadline is None:
            return most
        deadline.check()
        left = min(most, deadline.remaining())
        if left <= 0:
            raise Transient(f"{self.service}: no time left for the call", code="deadline", sent="no")
        return left

    def _read(self, response: requests.Response) -> Answer:
        """Return the answer's value or raise what its status means; the connection is left clean."""
        status = response.status_code
        whole = False
        try:
            if not 200 <= status < 300:
                whole = len(response.raw.read(DRAIN_BYTES, decode_content=False)) < DRAIN_BYTES
                if status in (404, 410):
                    return Answer(status, None)
                raise status_error(self.service, status, response.headers)
            raw = response.raw.read(self.max_bytes + 1, decode_content=True)
            whole = len(raw) <= self.max_bytes
            if not whole:
                raise self._bad("too_large", f"answered with more than {self.max_bytes} bytes")
            return Answer(status, self._value(raw, response.headers) if raw or status != 204 else None)
        finally:
            if whole:
                response.raw.release_conn()
            else:
                response.raw.close()

    def _taken(self, response: requests.Response) -> int:
        """Return a 2xx status or raise what another one means; the rest of the answer is not waited for."""
        response.raw.close()
        if not 200 <= response.status_code < 300:
            raise status_error(self.service, response.status_code, response.headers)
        return response.status_code

    def _value(self, raw: bytes, headers: Mapping[str, str]) -> Any:
        kind = headers.get("Content-Type", "").split(";")[0].strip().lower()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            raise self._bad("not_json", "answered with something else than JSON")
        try:
            return read_json(raw)
        except ValueError as error:
            raise self._bad("bad_json", f"answered with JSON that cannot be taken: {error}") from None

    def _bad(self, code: str, what: str) -> DataError:
        # The request was taken, so a write may have been applied.
        return DataError(f"{self.service} {what}", code=code, sent="maybe")


# -- what an end means -----------------------------------------------------------------------------


def status_error(service: str, status: int, headers: Mapping[str, str]) -> StepError:
    """Return the StepError of an answer whose status is not 2xx; for `call`, 404 and 410 are answers."""
    asked = headers.get("Retry-After")
    if status in (401, 403):
        return AuthError(f"{service} refused our credential ({status})")
    if status == 429:
        wait = retry_after(asked, headers.get("Date"))
        return RateLimited(
            f"{service} asked for a pause", retry_after=WAIT_UNSAID if wait is None else wait, sent="no"
        )
    if status >= 500 or status in (408, 425):
        wait = retry_after(asked, headers.get("Date"))
        return Transient(f"{service} failed ({status})", code=f"http_{status}", retry_after=wait)
    if 300 <= status < 400:
        return Permanent(f"{service} answered with a redirect, which is not followed", code="redirect")
    return Permanent(f"{service} refused the request ({status})", code=f"http_{status}")


def transport_error(service: str, error: Exception, sent: Sent) -> StepError:
    """Return the StepError of a call without an answer; `sent` is "no" until its first byte left."""
    if isinstance(error, requests.exceptions.ContentDecodingError | urllib3.exceptions.DecodeError):
        return DataError(f"{service} answered with unreadable bytes", code="bad_coding", sent="maybe")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
        return DataError(f"{service}: the request cannot be sent", code="bad_request", sent="no")
    slow = isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)
    unread = isinstance(error, requests.exceptions.ReadTimeout | urllib3.exceptions.ReadTimeoutError)
    if sent == "no" and not unread:
        code = "connect_timeout" if slow else "unreachable"
        return Transient(f"{service} cannot be reached", code=code, sent="no")
    if slow:
        return Transient(f"{service} did not answer in time", code="timeout", sent="maybe")
    return Transient(f"{service} broke the connection", code="dropped", sent="maybe")


_SECONDS = re.compile(r"\s*(-?)(\d{1,12})(\.\d{1,9})?\s*", re.ASCII)


def retry_after(asked: str | None, date: str | None = None) -> float | None:
    """Return the seconds that a Retry-After asks for, from 1 to 3,600; None for none or nonsense.

    A date is counted from the answer's own `date`, so that neither side's clock matters. Zero and
    the past mean one second: a pause costs no retry, so it must never be none at all.
    """
    if asked is None:
        return None
    if number := _SECONDS.fullmatch(asked):
        seconds = 0.0 if number[1] else float(number[2] + (number[3] or ""))
    else:
        until = _http_date(asked)
        if until is None:
            return None
        seconds = (until - (_http_date(date or "") or clock.now())).total_seconds()
    return min(max(seconds, 1.0), MAX_WAIT)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# -- what goes out -----------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def checked_address(service: str, base_url: str) -> tuple[str, str]:
    """Return origin and path prefix of a service's address, or raise Permanent for a bad one."""
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise Permanent(
            f"{service}: the address must look like https://host or https://host/path", code="not_configured"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Permanent(
            f"{service}: the address must have no password, query or fragment", code="not_configured"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}", parts.path.rstrip("/")


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")


def checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers, or raise DataError for a name or value that could break out of its line."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise DataError("a header's name must be letters, digits and hyphens", code="bad_header")
        if len(value) > MAX_HEADER or not _HEADER_VALUE.fullmatch(value):
            raise DataError(
                f"the header {name} must be printable ASCII of at most {MAX_HEADER} characters",
                code="bad_header",
            )
    return headers


# -- what comes in -----------------------------------------------------------------------------------


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def read_json(raw: bytes) -> Any:
    """Return the JSON value of UTF-8 bytes in a form that every database takes, or raise ValueError.

    NaN, infinities and a value that is too deep (50) or too large (50,000 nodes) are refused; NUL is
    dropped from texts and a lone surrogate becomes the replacement character. The errors say
    nothing of the content.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is too deep") from None
    except json.JSONDecodeError:
        raise ValueError("it is no JSON, or not the whole of it") from None
    # Brackets and commas bound depth and size from above, so that most answers need no walk.
    nested = raw.count(b"[") + raw.count(b"{")
    if nested > MAX_DEPTH or nested + raw.count(b",") >= MAX_NODES:
        _check_shape(value)
    # Only an escape can bring NUL or a surrogate: the decoder refuses them raw.
    return _clean(value) if b"\\u" in raw else value


def _check_shape(value: Any) -> None:
    """Raise ValueError when the value is too deep or has too many nodes."""
    nodes = 0
    level, depth = [value], 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_DEPTH:
            raise ValueError("it is too deep")
        if nodes > MAX_NODES:
            raise ValueError("it has too many values")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(name): _clean(item) for name, item in value.items()}
    return value


def clean_text(text: str) -> str:
    """Return the text without NUL and with the replacement character for each lone surrogate."""
    if text.isascii():
        return text.replace("\0", "")
    # Pairs were joined by the decoder; what is left of U+D800 to U+DFFF stands alone.
    return text.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# -- the line ------------------------------------------------------------------------------------------


class _Line(threading.local):
    """This thread's pools, and the state of the call it is making."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.adapters: dict[str, HTTPAdapter] = {}
        self.until = 0.0
        self.sent: Sent = "no"


_line = _Line()


def _adapter(origin: str) -> HTTPAdapter:
    """Return this thread's pool for the origin; a forked process never uses its parent's sockets."""
    if _line.pid != os.getpid():
        _line.pid, _line.adapters = os.getpid(), {}
    found = _line.adapters.get(origin)
    if found is None:
        found = _line.adapters[origin] = _Adapter(pool_connections=1, pool_maxsize=1, max_retries=0)
    return found


class _TimedReader(io.RawIOBase):
    """Reads from a socket until the call's own end, however slowly the bytes drip."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self.ended = False

    def readable(self) -> bool:
        """Say that this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there; TimeoutError when the call's time is over."""
        left = _line.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the call's time is over")
        self._sock.settimeout(left)
        count = cast("io.RawIOBase", self._raw).readinto(buffer)
        self.ended = count == 0
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


def _begin_sending(connection: urllib3.connection.HTTPConnection) -> None:
    """Connect if need be, and only then count the request as sent: before that, nothing left."""
    if connection.sock is None:
        connection.connect()
    _line.sent = "maybe"


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _TimedResponse

    def send(self, data: Any) -> None:
        """Send a part of the request."""
        _begin_sending(self)
        super().send(data)


class _SecureConnection(urllib3.connection.HTTPSConnection):
    response_class = _TimedResponse

    def send(self, data: Any) -> None:
        """Send a part of the request."""
        _begin_sending(self)
        super().send(data)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """Hands out our connections; a guard for addresses that staff type belongs in these classes."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Build the pool from our connection classes."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
