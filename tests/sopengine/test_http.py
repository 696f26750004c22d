"""Every end of an outgoing call is a value or a StepError: shown against real sockets."""

import gzip
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import requests
import responses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sopengine.connections import IDLE_SECONDS
from sopengine.errors import (
    AuthError,
    DataError,
    Permanent,
    RateLimited,
    StepError,
    Transient,
)
from sopengine.http import Answer, Client, as_sent, clean_text, read_json, retry_after

Script = Callable[[socket.socket], None]


class Wire:
    """A server that reads each request and then does what the test says with the naked socket."""

    def __init__(self) -> None:
        self.script: Script = lambda sock: sock.sendall(reply(b'{"ok": true}'))
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._open.append(sock)
                threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError):
            while request := self._read(sock):
                self.requests.append(request)
                self.script(sock)

    @staticmethod
    def _read(sock: socket.socket) -> bytes:
        found = b""
        while b"\r\n\r\n" not in found:
            piece = sock.recv(65536)
            if not piece:
                return b""
            found += piece
        head, _, body = found.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                while len(body) < int(line.split(b":")[1]):
                    body += sock.recv(65536)
        return head + b"\r\n\r\n" + body


class Left:
    """A deadline with so many seconds left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def remaining(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def check(self) -> None:
        if not self.remaining():
            raise Transient("over", code="deadline", sent="no")


def reply(body: bytes, status: str = "200 OK", *headers: str, kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Content-Type: {kind}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def hang_up(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire() -> Iterator[Wire]:
    server = Wire()
    yield server
    server.close()


def call(wire: Wire, method: str = "GET", path: str = "/x", **options: object) -> object:
    seconds = float(str(options.pop("seconds", 5.0)))
    size = int(str(options.pop("max_bytes", 1_000_000)))
    client = Client("crm", wire.url, total_seconds=seconds, max_bytes=size)
    return client.call(method, path, label="x.find", **options)  # type: ignore[arg-type]


def error_of(wire: Wire, *args: str, **options: object) -> StepError:
    with pytest.raises(StepError) as caught:
        call(wire, *args, **options)
    return caught.value


# -- a good call -----------------------------------------------------------------------------------


def test_an_answer_is_the_json_value(wire: Wire) -> None:
    answer = Client("crm", wire.url).call("GET", "/x", label="x.find")

    assert (answer.status, answer.value, answer.found) == (200, {"ok": True}, True)


def test_a_request_carries_what_was_given_and_nothing_of_the_environment(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    client = Client("crm", f"{wire.url}/firm/")

    client.call(
        "POST",
        "/a%2Fb",
        label="x.create",
        params=[("q", "Zoë & co")],
        body={"name": "Zoë"},
        headers={"Authorization": "Bearer s3cret"},
    )

    head, _, body = wire.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /firm/a%2Fb?q=Zo%C3%AB+%26+co HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer s3cret" in head
    assert b"\r\nAccept: application/json" in head
    assert json.loads(body) == {"name": "Zoë"}


def test_a_thread_keeps_its_connection_and_shares_it_with_nobody(wire: Wire) -> None:
    call(wire)
    call(wire)
    other = threading.Thread(target=call, args=[wire])
    other.start()
    other.join()

    assert len(wire.requests) == 3
    assert wire.connections == 2


def test_the_connection_is_kept_after_a_404_and_after_an_error(wire: Wire) -> None:
    wire.script = lambda sock: sock.sendall(reply(b"<html>", "404 Not Found", kind="text/html"))
    call(wire)
    wire.script = lambda sock: sock.sendall(reply(b"{}", "500 Broken"))
    error_of(wire)
    error_of(wire)

    assert wire.connections == 1


def test_cookies_are_never_kept(wire: Wire) -> None:
    wire.script = lambda sock: sock.sendall(reply(b"{}", "200 OK", "Set-Cookie: id=1; Path=/"))

    call(wire)
    call(wire)

    assert b"cookie" not in wire.requests[1].lower()


def test_packed_answers_are_unpacked(wire: Wire) -> None:
    packed = gzip.compress(b'{"ok": 1}')
    wire.script = lambda sock: sock.sendall(reply(packed, "200 OK", "Content-Encoding: gzip"))

    assert Client("crm", wire.url).call("GET", "/x", label="x").value == {"ok": 1}


def test_an_answer_of_204_has_no_value(wire: Wire) -> None:
    wire.script = lambda sock: sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert Client("crm", wire.url).call("PATCH", "/x", label="x").value is None


# -- the status table ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_no_error(wire: Wire, status: int) -> None:
    wire.script = lambda sock: sock.sendall(reply(b"<html>no</html>", f"{status} Gone", kind="text/html"))

    answer = Client("crm", wire.url).call("GET", "/x", label="x")

    assert (answer.found, answer.value) == (False, None)


@pytest.mark.parametrize(
    ("status", "kind", "code", "sent"),
    [
        (401, AuthError, "auth", "no"),
        (403, AuthError, "forbidden", "no"),
        (429, RateLimited, "rate_limited", "no"),
        (400, Permanent, "http_400", "no"),
        (409, Permanent, "http_409", "no"),
        (422, Permanent, "http_422", "no"),
        (408, Transient, "http_408", "maybe"),
        (500, Transient, "http_500", "maybe"),
        (503, Transient, "http_503", "maybe"),
        (301, Permanent, "redirect", "no"),
        (302, Permanent, "redirect", "maybe"),
        (303, Permanent, "redirect", "maybe"),
        (307, Permanent, "redirect", "no"),
    ],
)
def test_each_status_has_its_error(
    wire: Wire, status: int, kind: type[StepError], code: str, sent: str
) -> None:
    wire.script = lambda sock: sock.sendall(reply(b'{"error": "CANARY"}', f"{status} No"))

    error = error_of(wire, "POST")

    assert (type(error), error.reason, error.sent) == (kind, code, sent)
    assert "CANARY" not in str(error)
    assert len(wire.requests) == 1


def test_a_redirect_is_never_followed(wire: Wire) -> None:
    other = Wire()
    wire.script = lambda sock: sock.sendall(reply(b"", "302 Found", f"Location: {other.url}/y"))

    error = error_of(wire, headers={"Authorization": "Bearer s3cret"})

    assert error.reason == "redirect"
    assert other.connections == 0
    other.close()


# -- Retry-After -----------------------------------------------------------------------------------

patient = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
DATE = "Sat, 21 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("0", 1.0),
        ("-30", 1.0),
        ("999999999", 3600.0),
        ("9" * 5000, None),
        ("9" * 12, 3600.0),
        ("-0", 1.0),
        ("1e3", None),
        ("nan", None),
        ("Infinity", None),
        ("7, 8", None),
        ("\u0667", None),  # a seven in another script
        ("Sat, 21 Nov 2026 12:02:00 +0100", 1.0),
        ("Sat, 21 Nov 2026 12:02:00 +9999", None),
        ("Sat, 21 Nov 2026 12:02:00 -0000", 120.0),
        ("Fri, 31 Dec 9999 23:59:59 -2300", 3600.0),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 1.0),
        ("soon", None),
        ("", None),
        (None, None),
        ("Sat, 21 Nov 2026 12:02:00 GMT", 120.0),
        ("Saturday, 21-Nov-26 12:02:00 GMT", 120.0),
        ("Sat Nov 21 12:02:00 2026", 120.0),
        ("Sat, 21 Nov 2020 12:02:00 GMT", 1.0),
        ("Sat, 21 Nov 2099 12:02:00 GMT", 3600.0),
        ("Sat, 99 Nov 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_in_every_form(asked: str | None, seconds: float | None) -> None:
    assert retry_after(asked, DATE) == seconds


def test_a_429_without_retry_after_waits_a_minute(wire: Wire) -> None:
    wire.script = lambda sock: sock.sendall(reply(b"", "429 Too Many Requests"))
    assert error_of(wire).retry_after == 60.0


def test_a_429_and_a_503_obey_retry_after(wire: Wire) -> None:
    for status in ("429 Too Many Requests", "503 Unavailable"):
        answer = reply(b"", status, f"Date: {DATE}", "Retry-After: Sat, 21 Nov 2026 12:00:09 GMT")
        wire.script = lambda sock, answer=answer: sock.sendall(answer)  # type: ignore[misc]
        assert error_of(wire).retry_after == 9.0


dates = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Sat", "Saturday", "x"]),
    st.integers(-1, 40),
    st.sampled_from(["Nov", "Feb", "Foo", "11"]),
    st.integers(-1, 10_000),
    *(st.integers(-1, 99) for _ in range(3)),
    st.sampled_from(["GMT", "+0000", "-0000", "+2359", "-2359", "+9999", "EST", "Z", ""]),
)


@patient
@given(
    st.text() | st.integers().map(str) | st.floats().map(str) | dates,
    st.none() | st.text() | dates,
)
def test_any_retry_after_is_none_or_within_the_hour(asked: str, date: str | None) -> None:
    seconds = retry_after(asked, date)

    assert seconds is None or 1.0 <= seconds <= 3600.0


# -- no answer -------------------------------------------------------------------------------------


def test_a_refused_connection_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(Transient) as caught:
        Client("crm", f"http://127.0.0.1:{port}").call("POST", "/x", label="x", body={})

    assert (caught.value.reason, caught.value.sent) == ("unreachable", "no")


@pytest.fixture
def unreached() -> Iterator[Client]:
    """Return a client of a server whose queue is full: no connection to it comes about."""
    with socket.socket() as full, ExitStack() as fillers:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield Client("crm", f"http://127.0.0.1:{full.getsockname()[1]}", connect_seconds=0.2)


def test_a_connection_that_does_not_come_about_in_time_sent_nothing(unreached: Client) -> None:
    started = time.monotonic()

    with pytest.raises(Transient) as caught:
        unreached.call("POST", "/x", label="x", body={})

    assert (caught.value.reason, caught.value.sent) == ("connect_timeout", "no")
    assert time.monotonic() - started < 2


def drip(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        sock.sendall(bytes([byte]))
        time.sleep(0.03)


@pytest.mark.parametrize(
    "script",
    [
        lambda sock: time.sleep(1.5),
        lambda sock: drip(sock, reply(b"{}", "200 OK", f"X: {'x' * 500}")),
        lambda sock: (sock.sendall(reply(b" " * 500)[:-500]), drip(sock, b" " * 500)),
    ],
    ids=["silence", "dripping headers", "dripping body"],
)
def test_a_slow_answer_ends_at_the_total_time_and_may_have_been_sent(wire: Wire, script: Script) -> None:
    wire.script = script
    started = time.monotonic()

    error = error_of(wire, "POST", seconds=0.3)

    assert (type(error), error.reason, error.sent) == (Transient, "timeout", "maybe")
    assert 0.25 <= time.monotonic() - started < 1.2


@pytest.mark.parametrize("rest", [lambda sock: drip(sock, b" " * 500), hang_up, lambda sock: time.sleep(4)])
def test_a_status_that_says_it_all_is_believed_whatever_becomes_of_its_body(wire: Wire, rest: Script) -> None:
    for status, retry in (("404 No", ""), ("429 Slower", "Retry-After: 7"), ("503 Down", "")):
        head = reply(b" " * 500, status, *([retry] if retry else []))[:-500]
        wire.script = lambda sock, head=head: (sock.sendall(head), rest(sock))  # type: ignore[misc]
        started = time.monotonic()

        if status == "404 No":
            assert Client("crm", wire.url).call("GET", "/x", label="x").found is False
        else:
            error = error_of(wire)
            assert (error.reason, error.retry_after) in (("rate_limited", 7.0), ("http_503", None))
        assert time.monotonic() - started < 3
    wire.script = lambda sock: sock.sendall(reply(b"{}"))
    call(wire)
    assert wire.connections == 4  # none of them was kept


def test_the_time_before_a_first_byte_is_not_given_again_after_it(wire: Wire) -> None:
    wire.script = lambda sock: (time.sleep(0.8), sock.sendall(b"HTTP/1.1 200 OK"), time.sleep(2))
    started = time.monotonic()

    assert error_of(wire, seconds=1.0).reason == "timeout"
    assert time.monotonic() - started < 1.6


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nContent-Type: appl",
        b"HTTP/1.1 404 Not Found\r\n",
        reply(b'{"ok": true}')[:-5],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_connection_that_breaks_in_the_middle_may_have_been_sent(wire: Wire, start: bytes) -> None:
    wire.script = lambda sock: (sock.sendall(start), hang_up(sock))[1]

    error = error_of(wire, "POST", body={})

    assert (type(error), error.reason, error.sent) == (Transient, "dropped", "maybe")
    assert len(wire.requests) == 1


def test_a_kept_connection_that_is_cut_as_it_is_used_may_have_been_sent(wire: Wire) -> None:
    call(wire)
    wire.script = hang_up

    assert error_of(wire, "POST", body={}).sent == "maybe"


def test_a_connection_that_was_idle_for_long_is_not_used_again(wire: Wire) -> None:
    call(wire, "POST", body={})
    time.sleep(IDLE_SECONDS + 0.1)
    call(wire, "POST", body={})

    assert wire.connections == 2


def test_after_a_break_the_next_call_connects_anew(wire: Wire) -> None:
    wire.script = hang_up
    error_of(wire)
    wire.script = lambda sock: sock.sendall(reply(b"{}"))

    call(wire)

    assert wire.connections == 2


# -- answers that are not what was promised ----------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply(b"<html>hello</html>", kind="text/html"), "not_json"),
        (reply(b"{}", kind="text/plain"), "not_json"),
        (reply(b'{"customers": [{"id": "c'), "bad_json"),
        (reply(b""), "bad_json"),
        (reply(b'{"a": NaN}'), "bad_json"),
        (reply(b'{"a": -Infinity}'), "bad_json"),
        (reply(b'{"a": 1e999}'), "bad_json"),
        (reply(b'{"a": "\xff"}'), "bad_json"),
        (reply(b'{"a": ' + b"9" * 5000 + b"}"), "bad_json"),
        (reply(b"[" * 51 + b"]" * 51), "bad_json"),
        (reply(b"[" * 100_000 + b"]" * 100_000), "bad_json"),
        (reply(b"[" + b"1," * 60_000 + b"1]"), "bad_json"),
        (reply(b"no gzip", "200 OK", "Content-Encoding: gzip"), "bad_coding"),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_data_error_that_may_have_been_applied(
    wire: Wire, answer: bytes, code: str
) -> None:
    wire.script = lambda sock: sock.sendall(answer)

    error = error_of(wire, "POST", body={})

    assert (type(error), error.reason, error.sent) == (DataError, code, "maybe")


def endless(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        sock.sendall(b" " * 65536)


def bomb(sock: socket.socket) -> None:
    packed = gzip.compress(b" " * 20_000_000)
    sock.sendall(reply(packed, "200 OK", "Content-Encoding: gzip"))


@pytest.mark.parametrize("script", [endless, bomb, lambda sock: sock.sendall(reply(b" " * 1_000_001))])
def test_an_answer_larger_than_allowed_is_refused_once_decoded(wire: Wire, script: Script) -> None:
    wire.script = script

    assert error_of(wire).reason == "too_large"


def test_an_answer_of_exactly_the_limit_is_read(wire: Wire) -> None:
    wire.script = lambda sock: sock.sendall(reply(b'"' + b"a" * 998 + b'"'))

    call(wire, max_bytes=1000)

    assert error_of(wire, max_bytes=999).reason == "too_large"


def test_an_endless_error_page_is_left_alone(wire: Wire) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 500 Broken\r\n\r\n")
        while True:
            sock.sendall(b" " * 65536)

    wire.script = script

    assert error_of(wire).reason == "http_500"


# -- values on entry ---------------------------------------------------------------------------------


def test_nul_and_lone_surrogates_do_not_come_in() -> None:
    raw = rb'{"a\u0000b": ["x\u0000y", "\ud800", "\ud83d\ude00", "\udc00\ud800", "caf\u00e9"]}'

    assert read_json(raw) == {"ab": ["xy", "�", "😀", "��", "café"]}


@pytest.mark.parametrize("half", ["d800", "DBFF", "dc00", "DfFf"])
def test_each_half_of_a_pair_is_found_in_texts_and_names(half: str) -> None:
    assert read_json(f'{{"a\\u{half}": "\\u{half}b"}}'.encode()) == {"a\ufffd": "\ufffdb"}


def test_names_that_become_one_when_they_are_cleaned_are_refused() -> None:
    with pytest.raises(ValueError, match="two of its names are one"):
        read_json(rb'{"name": "Ada", "na\u0000me": "Eve"}')


def test_of_a_name_that_comes_twice_the_last_value_counts() -> None:
    assert read_json(b'{"a": 1, "a": 2}') == {"a": 2}


def test_whole_numbers_are_read_up_to_forty_digits_and_texts_of_any() -> None:
    assert read_json(b"[" + b"9" * 40 + b", -" + b"9" * 40 + b"]") == [10**40 - 1, 1 - 10**40]
    assert read_json(b'["' + b"9" * 5000 + b'", 5]') == ["9" * 5000, 5]
    for digits in (41, 5000):
        for sign in (b"", b"-"):
            with pytest.raises(ValueError, match="a number is too large"):
                read_json(b'{"a": ' + sign + b"9" * digits + b"}")


def test_depth_and_size_are_allowed_up_to_their_limits() -> None:
    assert read_json(b"[" * 50 + b"]" * 50)
    assert len(read_json(b"[" + b"1," * 49_997 + b"1]")) == 49_998
    assert read_json(json.dumps([{"text": "[[{{,,"}] * 100).encode())


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@patient
@given(values)
def test_a_clean_value_comes_in_as_it_was(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False).replace("\\u0000", "")

    with suppress(UnicodeEncodeError):
        assert read_json(text.encode()) == json.loads(text)


@patient
@given(st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_value_that_databases_take_or_a_value_error(raw: bytes) -> None:
    with suppress(ValueError):
        stored = json.dumps(read_json(raw), ensure_ascii=False, allow_nan=False)
        assert "\\u0000" not in stored
        stored.encode()  # a lone surrogate would not encode


@patient
@given(st.text(st.characters()))
def test_cleaning_is_done_once_and_for_all(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


# -- what does not go out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "a\r\nX-Evil: 1"},
        {"X-A": "a\nb"},
        {"X-A": "a\0b"},
        {"X-A": "naïve"},
        {"X-A": " a"},
        {"X-A": ""},
        {"X-A": "a" * 8001},
        {"X A": "a"},
        {"X:A": "a"},
        {"": "a"},
        {"Host": "evil.example.com"},
        {"content-length": "5"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_a_header_that_could_break_its_line_is_refused_and_nothing_sent(
    wire: Wire, headers: dict[str, str]
) -> None:
    error = error_of(wire, headers=headers)

    assert (type(error), error.reason, error.sent) == (DataError, "bad_header", "no")
    assert wire.connections == 0


@pytest.mark.parametrize(
    "address",
    [
        "",
        "crm.example.com",
        "ftp://crm.example.com",
        "http://",
        "http://user:pw@crm.example.com",
        "http://crm.example.com?x=1",
        "http://crm.example.com#x",
        "http://crm.example.com:99999",
        "http://crm example.com",
        "http://[::1",
        "http://[fe80::1%25eth0]",
        "http://crm.example.com:0",
        "http://crm..example.com",
        f"http://{'a' * 64}.example.com",
        "http://crm*.example.com",
        "http://crm.example.com\\@evil.example.com",
    ],
)
def test_an_address_that_is_none_is_refused_in_words(address: str) -> None:
    with pytest.raises(Permanent) as caught:
        Client("crm", address)

    assert caught.value.reason == "not_configured"
    assert "pw" not in str(caught.value)


def test_no_call_begins_after_its_deadline(wire: Wire) -> None:
    error = error_of(wire, deadline=Left(0))

    assert (type(error), error.sent) == (Transient, "no")
    assert wire.connections == 0


def test_the_deadline_caps_the_total_time(wire: Wire) -> None:
    wire.script = lambda sock: time.sleep(1.5)
    started = time.monotonic()

    error = error_of(wire, deadline=Left(0.2))

    # It was our time that was over: of the other side this says nothing.
    assert (type(error), error.reason, error.sent) == (Transient, "deadline", "maybe")
    assert time.monotonic() - started < 1.2


def test_a_connection_that_the_deadline_cut_off_says_nothing_of_the_other_side(unreached: Client) -> None:
    found = []
    for deadline in (Left(0.1), Left(9)):
        with pytest.raises(Transient) as caught:
            unreached.call("POST", "/x", label="x", body={}, deadline=deadline)
        found.append((caught.value.reason, caught.value.sent))

    assert found == [("deadline", "no"), ("connect_timeout", "no")]


def test_no_call_takes_longer_than_the_engine_allows(wire: Wire, settings: Any) -> None:
    settings.ENGINE_CALL_TIMEOUT = 0.4
    wire.script = lambda sock: time.sleep(3)
    for deadline in (None, Left(30)):
        started = time.monotonic()

        # On a busy machine the time may be over before the other side has taken the call.
        assert error_of(wire, seconds=5.0, deadline=deadline).reason in ("timeout", "connect_timeout")
        assert time.monotonic() - started < 2.5
    with pytest.raises(Transient):
        Client("crm", wire.url).post("/x", b"{}", label="x")
    assert time.monotonic() - started < 2.5


# -- what is sent, and signed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/a/b?c=d", "/a/b?c=d"),
        ("/a%2fb", "/a%2Fb"),
        ("/ä b", "/%C3%A4%20b"),
        ("/a%zz", "/a%25zz"),
        ("/a%2Fb?c=%&d={e|f}", "/a%2Fb?c=%25&d=%7Be%7Cf%7D"),
        ("/a#b", "/a%23b"),
        ("/a?", "/a"),
        ("", "/"),
        ("@evil.example.com/x", "/@evil.example.com/x"),
        ("/a\r\nX-Evil: 1", "/a%0D%0AX-Evil:%201"),
        ("//evil.example.com/x", "//evil.example.com/x"),
    ],
)
def test_what_is_signed_is_what_goes_over_the_line(wire: Wire, path: str, target: str) -> None:
    signed: list[tuple[str, str, bytes]] = []

    def sign(method: str, target: str, body: bytes) -> dict[str, str]:
        signed.append((method, target, body))
        return {"x-signature": "abc"}

    call(wire, "POST", path, body={"a": 1}, sign=sign)

    head, _, body = wire.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {target} HTTP/1.1\r\n".encode())
    assert b"\r\nx-signature: abc" in head
    assert signed == [("POST", target, body)]


@patient
@given(st.text(max_size=30))
def test_any_path_is_signed_as_it_is_sent(path: str) -> None:
    sent = as_sent(path)

    assert as_sent(sent) == sent
    assert re.fullmatch(r"/[!-~]*", sent)


def test_a_signature_replaces_a_header_whatever_its_case(wire: Wire) -> None:
    call(wire, headers={"authorization": "old"}, sign=lambda *_: {"Authorization": "new"})

    assert wire.requests[0].lower().count(b"authorization:") == 1
    assert b"Authorization: new" in wire.requests[0]


def test_a_signature_that_could_break_its_line_is_refused(wire: Wire) -> None:
    assert error_of(wire, sign=lambda *_: {"X-A": "a\nb"}).reason == "bad_header"
    assert wire.connections == 0


@pytest.mark.parametrize("body", [{"a": float("nan")}, {"a": float("inf")}])
def test_a_body_that_is_no_json_is_refused_and_nothing_sent(wire: Wire, body: object) -> None:
    error = error_of(wire, "POST", body=body)

    assert (type(error), error.reason, error.sent) == (DataError, "bad_request", "no")
    assert wire.connections == 0


def test_parameters_that_are_no_text_are_refused_and_nothing_sent(wire: Wire) -> None:
    assert error_of(wire, params=[("q", "\ud800")]).reason == "bad_request"
    assert wire.connections == 0


# -- what an answer says beside its value --------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "left"),
    [
        ("X-RateLimit-Remaining: 17", 17),
        ("x-ratelimit-remaining:  0 ", 0),
        ("RateLimit-Remaining: 5", 5),
        ("X-RateLimit-Remaining: -1", None),
        ("X-RateLimit-Remaining: many", None),
        ("X-RateLimit-Remaining: 99999999999999", None),
        ("X-Other: 5", None),
    ],
)
def test_an_answer_says_how_many_calls_are_left(wire: Wire, header: str, left: int | None) -> None:
    wire.script = lambda sock: sock.sendall(reply(b"{}", "200 OK", header))

    assert Client("crm", wire.url).call("GET", "/x", label="x").rate_left == left


@pytest.mark.parametrize(
    ("told", "replayed"), [("true", True), ("True", True), ("false", False), ("", False)]
)
def test_an_answer_says_whether_it_is_a_replay(wire: Wire, told: str, replayed: bool) -> None:
    wire.script = lambda sock: sock.sendall(reply(b"{}", "200 OK", f"Idempotency-Replayed: {told}"))

    assert Client("crm", wire.url).call("POST", "/x", label="x", body={}).replayed is replayed


def test_an_answer_does_not_show_its_value() -> None:
    assert "CANARY" not in repr(Answer(200, {"name": "CANARY"}))


# -- token endpoints -----------------------------------------------------------------------------------


def form(wire: Wire) -> Answer:
    fields = {"grant_type": "refresh_token", "refresh_token": "a b&c"}
    return Client("crm", wire.url, total_seconds=5).form("/token", fields, label="oauth.refresh")


def test_a_form_is_sent_as_one(wire: Wire) -> None:
    wire.script = lambda sock: sock.sendall(reply(b'{"access_token": "t"}'))

    assert form(wire).value == {"access_token": "t"}
    head, _, body = wire.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /token HTTP/1.1")
    assert b"\r\nContent-Type: application/x-www-form-urlencoded" in head
    assert body == b"grant_type=refresh_token&refresh_token=a+b%26c"


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_that_says_why_is_an_answer(wire: Wire, status: int) -> None:
    wire.script = lambda sock: sock.sendall(reply(b'{"error": "invalid_grant"}', f"{status} No"))

    answer = form(wire)

    assert (answer.status, answer.value) == (status, {"error": "invalid_grant"})


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b"<html>", "http_400"),
        (400, b'["error"]', "http_400"),
        (401, b"", "auth"),
        (403, b"no", "forbidden"),
        (404, b'{"error": "x"}', "http_404"),
        (410, b'{"error": "x"}', "http_410"),
        (429, b'{"error": "x"}', "rate_limited"),
        (500, b'{"error": "x"}', "http_500"),
        (302, b'{"error": "x"}', "redirect"),
        (200, b"<html>", "bad_json"),
    ],
)
def test_a_token_endpoint_that_says_nothing_of_use_is_an_error(
    wire: Wire, status: int, body: bytes, code: str
) -> None:
    wire.script = lambda sock: sock.sendall(reply(body, f"{status} No"))

    with pytest.raises(StepError) as caught:
        form(wire)

    assert caught.value.reason == code


# -- posts of bytes ----------------------------------------------------------------------------------


def test_a_post_sends_the_very_bytes_and_takes_any_answer_of_two_hundred(wire: Wire) -> None:
    raw = b'{ "a":\n1.0, "b": "\xc3\xa9" }'
    for answer in (reply(b"<html>", "201 Created", kind="text/html"), b"HTTP/1.1 204 No Content\r\n\r\n"):
        wire.script = lambda sock, answer=answer: sock.sendall(answer)  # type: ignore[misc]

        status = Client("chat", wire.url).post("/h/?a=1", raw, label="x", headers={"webhook-id": "m1"})

        head, _, body = wire.requests[-1].partition(b"\r\n\r\n")
        assert status == int(answer.split()[1])
        assert head.startswith(b"POST /h/?a=1 HTTP/1.1\r\n")
        assert b"\r\nContent-Type: application/json" in head
        assert b"\r\nwebhook-id: m1" in head
        assert body == raw


def test_a_post_does_not_wait_for_the_rest_of_an_answer(wire: Wire) -> None:
    wire.script = lambda sock: (sock.sendall(reply(b" " * 500)[:-500]), time.sleep(1.5))
    started = time.monotonic()

    assert Client("chat", wire.url).post("/h", b"{}", label="x") == 200
    assert time.monotonic() - started < 1.2


@pytest.mark.parametrize("status", [404, 410])
def test_a_post_to_nothing_is_refused_for_good(
    wire: Wire, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wire.script = lambda sock: sock.sendall(reply(b"CANARY", f"{status} Gone"))

    with pytest.raises(Permanent) as caught:
        Client("chat", wire.url).post("/CANARY", b"CANARY", label="messages.post")

    assert caught.value.reason == f"http_{status}"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "sopengine.http"]
    assert line.startswith(f"chat POST messages.post -> http_{status} in ")


def test_the_log_has_one_line_per_call_without_secret_address_or_body(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wire.script = lambda sock: sock.sendall(reply(b'{"name": "CANARY"}'))

    call(wire, path="/CANARY", params=[("q", "CANARY")], headers={"Authorization": "Bearer CANARY"})
    wire.script = lambda sock: sock.sendall(reply(b"CANARY", "500 CANARY"))
    error_of(wire, "POST", path="/CANARY", body={"name": "CANARY"})

    ours = [record.getMessage() for record in caplog.records if record.name == "sopengine.http"]
    assert [line.rpartition(" in ")[0] for line in ours] == [
        "crm GET x.find -> 200",
        "crm POST x.find -> http_500",
    ]
    assert "CANARY" not in "".join(record.getMessage() for record in caplog.records)


def test_an_answer_with_a_line_that_is_no_header_puts_no_address_into_the_log(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """The library warns of it, and quotes the whole address: a search has a customer there."""
    caplog.set_level(logging.DEBUG)
    wire.script = lambda sock: sock.sendall(reply(b'{"ok": true}', "200 OK", "this is no header"))

    call(wire, path="/search", params=[("q", "CANARY@example.test")])

    assert [record.name for record in caplog.records] == ["sopengine.http"]
    assert "CANARY" not in caplog.text


# -- single calls without a socket -------------------------------------------------------------------


@responses.activate
def test_a_secure_address_is_called_as_it_is_written() -> None:
    responses.get("https://crm.example.com:8443/v1/x?a=1", json={"ok": True})

    answer = Client("crm", "https://crm.example.com:8443/v1/").call(
        "GET", "/x", label="x", params=[("a", "1")]
    )

    assert answer.value == {"ok": True}


@responses.activate
def test_a_failed_handshake_sent_nothing() -> None:
    responses.get("https://crm.example.com/x", body=requests.exceptions.SSLError("no"))

    with pytest.raises(Transient) as caught:
        Client("crm", "https://crm.example.com").call("GET", "/x", label="x")

    assert caught.value.sent == "no"
