"""Requests out: one try, bounded in time and size, whose every end is a value or a StepError.

    crm = Client("crm", "https://crm.example.com")
    answer = crm.call("GET", "/api/v1/customers/c1", label="customers.find", deadline=deadline)
    answer.found, answer.value

What cannot happen here: a retry, a redirect followed, a cookie kept, a proxy or a password taken from
the environment, more than the allowed bytes in memory, a call past its deadline or longer than
settings.ENGINE_CALL_TIMEOUT, a secret or a body in a log. There is one connection per thread and
host (`connections`); a Session above it would read redirects whole and merge the environment into
each call. Where an address was typed by staff, `guarded` keeps the call out of private networks
(`addresses`).

The status table (`status_error`):
    2xx a value · 404, 410 not found · 401 AuthError "auth" · 403 AuthError "forbidden"
    429 RateLimited · 408, 425, 5xx Transient "http_<status>" · 1xx Transient "dropped"
    3xx Permanent "redirect" · other 4xx Permanent "http_<status>"
"""

import http.client
import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import requests
import urllib3
from django.conf import settings
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from sopengine import clock, connections
from sopengine.addresses import INTERNET, Network, is_allowed
from sopengine.errors import (
    AuthError,
    DataError,
    Permanent,
    RateLimited,
    Sent,
    StepError,
    Transient,
)
from sopengine.headers import MAX_HEADER, is_header_value

log = logging.getLogger("sopengine.http")

CONNECT_SECONDS = 5.0
MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 50_000
MAX_DIGITS = 40  # of a whole number
MAX_WAIT = 3_600.0
WAIT_UNSAID = 60.0  # the pause after a 429 that names none
DRAIN_BYTES = 65_536  # of an answer whose body nobody reads
DRAIN_SECONDS = 0.5
FRAMING_BYTES = 200_000  # that headers and the framing of chunks may take beside twice the body

USER_AGENT = "sop-engine"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

Sign = Callable[[str, str, bytes], Mapping[str, str]]
T = TypeVar("T", bound="Answer | int | bytes")


class Deadline(Protocol):
    """How long the caller may still take."""

    def remaining(self) -> float:
        """Return the seconds left, never negative."""

    def check(self) -> None:
        """Raise Transient (nothing sent) when the time is over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a JSON value, or None with `found` False for a 404 or 410.

    `replayed` says that the other side had done this before, under the same key (Idempotency-Replayed);
    `rate_left` is how many calls it still allows (X-RateLimit-Remaining), None where it does not say.
    """

    status: int
    value: Any = field(repr=False)
    replayed: bool = False
    rate_left: int | None = None

    @property
    def found(self) -> bool:
        """Say whether the thing asked for exists."""
        return self.status not in (404, 410)


class Client:
    """Calls to one service at one address. Cheap to build; may be used by any thread.

    `guarded`: staff typed the address. It must be https and lead to public addresses only, unless
    settings.HTTP_ALLOWED_HOSTS names its host; Permanent "address_refused" says that it is not so.
    `authorities` is a file with the only certificates to trust, "" for those the world trusts.
    """

    def __init__(
        self,
        service: str,
        base_url: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        total_seconds: float = math.inf,
        max_bytes: int = MAX_BYTES,
        guarded: bool = False,
        network: Network = INTERNET,
        authorities: str = "",
    ) -> None:
        self.service = service
        self.origin, self.prefix = checked_address(service, base_url)
        self.connect_seconds = connect_seconds
        self.total_seconds = total_seconds
        self.max_bytes = max_bytes
        self.guarded = guarded and not is_allowed(*_host_and_port(self.origin))
        self.network = network
        self.authorities = authorities
        if self.guarded and not self.origin.startswith("https://"):
            raise Permanent(f"{service}: the address must begin with https://", code="address_refused")

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
        sign: Sign | None = None,
    ) -> Answer:
        """Make one call and return its answer, or raise a StepError.

        `path` begins with a slash and is quoted already; `label` stands for it in the log, where
        neither address nor parameters appear; `body` is sent as JSON. `sign` gets the method, the path
        with its query and the body, each as they are sent, and returns more headers.
        """
        try:
            content = None if body is None else json.dumps(body, allow_nan=False).encode()
            query = urlencode(list(params))
        except ValueError:
            raise DataError(f"{self.service}: the values cannot be sent", code="bad_request") from None
        target = f"{path}{'?' if query else ''}{query}"
        request = self._prepared(method, target, content, JSON, headers, sign)
        return self._told(label, request, lambda: self._exchange(request, deadline, self._read))

    def form(
        self,
        path: str,
        fields: Mapping[str, str],
        *,
        label: str,
        headers: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> Answer:
        """Post a form to a token endpoint and return its answer, or raise a StepError.

        A refusal with 400, 401 or 403 that says in JSON why (RFC 6749, 5.2) is an Answer too: look at its
        status or for what was asked. Nothing at this address (404, 410) is Permanent "http_<status>".
        """
        try:
            content = urlencode(list(fields.items())).encode()
        except ValueError:
            raise DataError(f"{self.service}: the values cannot be sent", code="bad_request") from None
        request = self._prepared("POST", path, content, FORM, headers)
        return self._told(label, request, lambda: self._exchange(request, deadline, self._read_token))

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
        request = self._prepared("POST", path, content, JSON, headers)
        return self._told(label, request, lambda: self._exchange(request, deadline, self._taken))

    def fetch(self, path: str, *, label: str, params: Iterable[tuple[str, str]] = ()) -> bytes:
        """Read something that is no JSON, such as a certificate; what is not a 2xx is a StepError."""
        query = urlencode(list(params))
        request = self._prepared("GET", f"{path}{'?' if query else ''}{query}", None, JSON, {"Accept": "*/*"})
        return self._told(label, request, lambda: self._exchange(request, None, self._raw))

    def _raw(self, response: requests.Response) -> bytes:
        if not 200 <= response.status_code < 300:
            response.raw.close()
            raise status_error(self.service, response.status_code, response.headers)
        raw = _bytes(response, self.max_bytes + 1, unpack=True)
        response.raw.close()
        if len(raw) > self.max_bytes:
            raise self._bad("too_large", f"answered with more than {self.max_bytes} bytes")
        return raw

    def _told(self, label: str, request: requests.PreparedRequest, exchange: Callable[[], T]) -> T:
        """Make the exchange and write one line on how it ended."""
        started = time.monotonic()
        status = "error"
        try:
            answer = exchange()
            status = {int: str(answer), bytes: "200"}.get(type(answer)) or str(getattr(answer, "status", ""))
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
        call = self._begun(total)
        try:
            response = connections.adapter_for(self.origin, call).send(
                request,
                stream=True,
                timeout=(min(self.connect_seconds, total), total),
                verify=self.authorities or True,
            )
            return read(response)
        except DataError:
            connections.drop(self.origin, call)
            raise
        except (requests.RequestException, HTTPError, OSError, http.client.HTTPException) as error:
            connections.drop(self.origin, call)
            raise self._judged(transport_error(self.service, error, call.sent), total) from None

    def _judged(self, error: StepError, total: float) -> StepError:
        """Return the error of a call of so many seconds, as "deadline" where only the step's time was over.

        Of the other side that says nothing: it may be well, and was not given the time to show it.
        """
        limit = {"timeout": self._longest(), "connect_timeout": min(self.connect_seconds, self._longest())}
        if total < limit.get(error.reason, 0.0):
            return Transient(error.message, code="deadline", sent=error.sent)
        return error

    def _begun(self, total: float) -> connections.Call:
        """Begin a call of so many seconds in this thread."""
        now = time.monotonic()
        return connections.begin(
            connections.Call(
                service=self.service,
                until=now + total,
                connect_until=now + min(self.connect_seconds, total),
                bytes_left=2 * self.max_bytes + FRAMING_BYTES,
                network=self.network,
                guarded=self.guarded,
                authorities=self.authorities,
            )
        )

    def _prepared(
        self,
        method: str,
        path: str,
        content: bytes | None,
        kind: str,
        headers: Mapping[str, str] | None,
        sign: Sign | None = None,
    ) -> requests.PreparedRequest:
        """Return the request, built by hand: every part of it is checked or quoted already."""
        target = as_sent(self.prefix + path)
        request = requests.PreparedRequest()
        request.method = method
        request.url = self.origin + target
        request.headers = CaseInsensitiveDict(checked_headers(headers or {}))
        request.headers["Accept"] = JSON
        request.headers["Accept-Encoding"] = "gzip"
        request.headers.setdefault("User-Agent", USER_AGENT)
        if content is not None:
            request.body = content
            request.headers["Content-Type"] = kind
            request.headers["Content-Length"] = str(len(content))
        elif method not in ("GET", "HEAD"):
            request.headers["Content-Length"] = "0"
        if sign is not None:
            request.headers.update(checked_headers(sign(method, target, content or b"")))
        return request

    def _allowed(self, deadline: Deadline | None) -> float:
        """Return the seconds this call may take; Transient when there are none."""
        most = self._longest()
        if deadline is None:
            return most
        deadline.check()
        left = min(most, deadline.remaining())
        if left <= 0:
            raise Transient(f"{self.service}: no time left for the call", code="deadline", sent="no")
        return left

    def _longest(self) -> float:
        """Return the seconds that a call may take where no deadline is nearer."""
        return min(self.total_seconds, float(settings.ENGINE_CALL_TIMEOUT))

    def _read(self, response: requests.Response) -> Answer:
        """Return the answer, or raise what its status means."""
        status = response.status_code
        if 200 <= status < 300:
            return self._answer(response)
        _drain(response)
        if status in (404, 410):
            return Answer(status, None)
        raise status_error(self.service, status, response.headers)

    def _read_token(self, response: requests.Response) -> Answer:
        """Return the answer of a token endpoint: a token, or the object that says why there is none."""
        status = response.status_code
        if 200 <= status < 300:
            return self._answer(response)
        if status in (400, 401, 403):
            with suppress(DataError):
                answer = self._answer(response)
                if isinstance(answer.value, dict):
                    return answer
        response.raw.close()
        raise status_error(self.service, status, response.headers)

    def _answer(self, response: requests.Response) -> Answer:
        """Return the answer, read whole and let go; a DataError says that its connection is of no use."""
        status, headers, whole = response.status_code, response.headers, False
        try:
            raw = _bytes(response, self.max_bytes + 1, unpack=True)
            whole = len(raw) <= self.max_bytes
        finally:
            if whole:
                response.raw.release_conn()
            else:
                response.raw.close()
        if not whole:
            raise self._bad("too_large", f"answered with more than {self.max_bytes} bytes")
        value = self._value(raw, headers) if raw or status not in (204, 205) else None
        replayed = headers.get("Idempotency-Replayed", "").strip().lower() == "true"
        return Answer(status, value, replayed, rate_left(headers))

    def _taken(self, response: requests.Response) -> int:
        """Return a 2xx status or raise what another one means; the rest of the answer is not waited for."""
        response.raw.close()
        if not 200 <= response.status_code < 300:
            raise status_error(self.service, response.status_code, response.headers)
        return response.status_code

    def _value(self, raw: bytes, headers: Mapping[str, str]) -> Any:
        coding = headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise self._bad("bad_coding", "answered in a coding that was not asked for")
        kind = headers.get("Content-Type", "").split(";")[0].strip().lower()
        if kind and kind != JSON and not kind.endswith("+json"):
            raise self._bad("not_json", "answered with something else than JSON")
        try:
            return read_json(raw)
        except ValueError as error:
            raise self._bad("bad_json", f"answered with JSON that cannot be taken: {error}") from None

    def _bad(self, code: str, what: str) -> DataError:
        # The request was taken, so a write may have been applied.
        return DataError(f"{self.service} {what}", code=code, sent="maybe")


def _bytes(response: requests.Response, most: int, *, unpack: bool) -> bytes:
    """Return at most so many bytes of the answer's body."""
    try:
        raw: bytes = response.raw.read(most, decode_content=unpack)
        return raw
    except ValueError:  # the library means to read a chunk of -5 bytes
        raise http.client.IncompleteRead(b"") from None


def _drain(response: requests.Response) -> None:
    """Read what is left of an answer whose status says it all, so that its connection can be kept.

    Where that takes long, or fails, or another answer is to follow (1xx), the connection is closed.
    """
    if response.status_code < 200:
        response.raw.close()  # before it is read: the library keeps what was read to its end
        return
    whole = False
    connections.hurry(DRAIN_SECONDS)
    with suppress(HTTPError, OSError, http.client.HTTPException, DataError):
        whole = len(_bytes(response, DRAIN_BYTES, unpack=False)) < DRAIN_BYTES
    if whole:
        response.raw.release_conn()
    else:
        response.raw.close()


# -- what an end means -----------------------------------------------------------------------------


def status_error(service: str, status: int, headers: Mapping[str, str]) -> StepError:
    """Return the StepError of an answer whose status is not 2xx; for `call`, 404 and 410 are answers."""
    asked = headers.get("Retry-After")
    if status == 401:
        return AuthError(f"{service} does not accept our credential (401)", code="auth")
    if status == 403:
        return AuthError(f"{service} does not allow this with our credential (403)", code="forbidden")
    if status == 429:
        wait = retry_after(asked, headers.get("Date"))
        return RateLimited(
            f"{service} asked for a pause", retry_after=WAIT_UNSAID if wait is None else wait, sent="no"
        )
    if status >= 500 or status in (408, 425):
        wait = retry_after(asked, headers.get("Date"))
        return Transient(f"{service} failed ({status})", code=f"http_{status}", retry_after=wait)
    if 300 <= status < 400:
        # After a write, "go and look there" (302, 303) mostly means that it was done.
        return Permanent(
            f"{service} answered with a redirect, which is not followed",
            code="redirect",
            sent="maybe" if status in (302, 303) else "no",
        )
    if status < 200:
        return Transient(f"{service} announced an answer that is not waited for", code="dropped")
    return Permanent(f"{service} refused the request ({status})", code=f"http_{status}")


def transport_error(service: str, error: Exception, sent: Sent) -> StepError:
    """Return the StepError of a call without an answer; `sent` is "no" until its first byte left."""
    if isinstance(error, requests.exceptions.ContentDecodingError | urllib3.exceptions.DecodeError):
        return DataError(f"{service} answered with unreadable bytes", code="bad_coding", sent="maybe")
    unsendable = isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader)
    if unsendable and sent == "no":  # the header that is invalid may also be one of the answer
        return DataError(f"{service}: the request cannot be sent", code="bad_request", sent="no")
    slow = _is_slow(error)
    if sent == "no" and isinstance(error, requests.exceptions.SSLError):
        words = f"{service} cannot be reached: no certificate that we trust"
        return Transient(words, code="unreachable", sent="no")
    if sent == "no":
        code = "connect_timeout" if slow else "unreachable"
        return Transient(f"{service} cannot be reached", code=code, sent="no")
    if slow:
        return Transient(f"{service} did not answer in time", code="timeout", sent="maybe")
    return Transient(f"{service} broke the connection", code="dropped", sent="maybe")


def _is_slow(error: BaseException) -> bool:
    """Say whether the time was over: the libraries wrap that in errors with other names."""
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return True
    return any(_is_slow(inner) for inner in error.args if isinstance(inner, BaseException))


def rate_left(headers: Mapping[str, str]) -> int | None:
    """Return how many calls the other side says that it still allows; None for none or nonsense."""
    told = headers.get("X-RateLimit-Remaining") or headers.get("RateLimit-Remaining") or ""
    return int(told) if re.fullmatch(r"\s*\d{1,9}\s*", told, re.ASCII) else None


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
    name = parts.hostname or ""
    usable = parts.scheme in ("http", "https") and port != 0 and _is_host(name)
    if not usable or not plain:
        raise Permanent(
            f"{service}: the address must look like https://host or https://host/path", code="not_configured"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Permanent(
            f"{service}: the address must have no password, query or fragment", code="not_configured"
        )
    host = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}", parts.path.rstrip("/")


_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63}){0,60}\.?")


def _is_host(name: str) -> bool:
    """Say whether this is a host's name or IP address."""
    if ":" not in name:
        return len(name) <= 253 and _HOST.fullmatch(name) is not None
    try:
        return IPv6Address(name).scope_id is None
    except ValueError:
        return False


def _host_and_port(origin: str) -> tuple[str, int]:
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


_PLAIN_TARGET = re.compile(r"/([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2})*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")


def as_sent(target: str) -> str:
    """Return a path with its query just as it goes over the line, so that it can be signed.

    What is quoted stays so, what must be and is not becomes so.
    """
    if not _PLAIN_TARGET.fullmatch(target):
        escaped = _ESCAPE.sub(lambda escape: escape[0].upper() if escape[1] else "%25", target)
        quoted = quote(escaped, safe="%!$&'()*+,;=:@/?", errors="replace")
        target = quoted if quoted.startswith("/") else f"/{quoted}"
    path, mark, query = target.partition("?")
    return f"{path}{mark}{query}" if query else path


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OUR_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te"}
)


def checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers, or raise DataError for a name or value that could break out of its line."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise DataError("a header's name must be letters, digits and hyphens", code="bad_header")
        if name.lower() in _OUR_HEADERS:
            raise DataError(f"the header {name} is set by the connection itself", code="bad_header")
        if not is_header_value(value):
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


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_WARY_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
_UNCLEAN = re.compile(rb"\\u(0000|[dD][89a-fA-F])")
_LONG_NUMBER = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))


def read_json(raw: bytes) -> Any:
    """Return the JSON value of UTF-8 bytes in a form that every database takes, or raise ValueError.

    NaN, infinities, whole numbers of more than 40 digits and a value that is too deep (50) or too
    large (50,000 nodes) are refused; NUL is dropped from texts and a lone surrogate becomes the
    replacement character, in names too. Of a name that comes twice the last value counts. The
    errors say nothing of the content.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    try:
        value = (_WARY_DECODER if _LONG_NUMBER.search(raw) else _DECODER).decode(text)
    except RecursionError:
        raise ValueError("it is too deep") from None
    except json.JSONDecodeError:
        raise ValueError("it is no JSON, or not the whole of it") from None
    # Brackets and commas bound depth and size from above, so that most answers need no walk.
    nested = raw.count(b"[") + raw.count(b"{")
    if nested > MAX_DEPTH or nested + raw.count(b",") >= MAX_NODES:
        _check_shape(value)
    # Only an escape can bring NUL or a surrogate: the decoder refuses them raw.
    return _clean(value) if _UNCLEAN.search(raw) else value


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
        cleaned = {clean_text(name): _clean(item) for name, item in value.items()}
        if len(cleaned) < len(value):
            raise ValueError("two of its names are one")
        return cleaned
    return value


def clean_text(text: str) -> str:
    """Return the text without NUL and with the replacement character for each lone surrogate."""
    if text.isascii():
        return text.replace("\0", "")
    # Pairs were joined by the decoder; what is left of U+D800 to U+DFFF stands alone.
    return text.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
