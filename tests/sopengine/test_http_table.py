"""Every way in which the other side can misbehave ends in a value or in one named error."""

import gc
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sopengine.errors import AuthError, DataError, Permanent, RateLimited, StepError, Transient
from sopengine.http import Answer, Client
from tests.crm.rogue import WAYS, Rogue, reply_bytes

TWO_LENGTHS = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"
PAUSE = {"Retry-After": "7"}
GOOD = {"id": "c1", "name": "Ada", "visits": 3, "tags": ["a", "b"]}
ERRORS: list[tuple[str, tuple[object, ...], type[StepError], str, str]] = [
    ("silence", (), Transient, "timeout", "maybe"),
    ("drip", (0.2,), Transient, "timeout", "maybe"),
    ("drip_body", (0.2,), Transient, "timeout", "maybe"),
    ("hang_up", (), Transient, "dropped", "maybe"),
    ("reset", (), Transient, "dropped", "maybe"),
    ("break_headers", (), Transient, "dropped", "maybe"),
    ("break_body", (), Transient, "dropped", "maybe"),
    ("raw", (b"HTTP/1.1 2",), Transient, "dropped", "maybe"),
    ("raw", (TWO_LENGTHS,), Transient, "dropped", "maybe"),
    ("nonsense", (), Transient, "dropped", "maybe"),
    ("long_length", (), Transient, "timeout", "maybe"),
    ("short_length", (), DataError, "bad_json", "maybe"),
    ("bad_chunks", (), Transient, "dropped", "maybe"),
    ("bad_chunks", ("-5",), Transient, "dropped", "maybe"),
    ("bad_chunks", ("fffffffff",), Transient, "dropped", "maybe"),
    ("endless_chunk", (), DataError, "too_large", "maybe"),
    ("endless", (), DataError, "too_large", "maybe"),
    ("endless_headers", (), Transient, "dropped", "maybe"),
    ("endless_continue", (), DataError, "too_large", "maybe"),
    ("two_answers", (), Transient, "dropped", "maybe"),
    ("huge", (), DataError, "too_large", "maybe"),
    ("bomb", (), DataError, "too_large", "maybe"),
    ("bad_coding", (), DataError, "bad_coding", "maybe"),
    ("bad_coding", ("br",), DataError, "bad_coding", "maybe"),
    ("status", (400,), Permanent, "http_400", "no"),
    ("status", (401,), AuthError, "auth", "no"),
    ("status", (403,), AuthError, "forbidden", "no"),
    ("status", (408,), Transient, "http_408", "maybe"),
    ("status", (418,), Permanent, "http_418", "no"),
    ("status", (429,), RateLimited, "rate_limited", "no"),
    ("status", (429, PAUSE), RateLimited, "rate_limited", "no"),
    ("status", (500,), Transient, "http_500", "maybe"),
    ("status", (502, {"Content-Type": "text/html"}, "<html>"), Transient, "http_502", "maybe"),
    ("status", (503, PAUSE), Transient, "http_503", "maybe"),
    ("status", (999,), Transient, "http_999", "maybe"),
    ("redirect", ("http://127.0.0.1:9/",), Permanent, "redirect", "maybe"),
    ("redirect", ("http://127.0.0.1:9/", 308), Permanent, "redirect", "no"),
    ("html", (), DataError, "not_json", "maybe"),
    ("html", ("application/json",), DataError, "bad_json", "maybe"),
    ("html", ("application/jsonp",), DataError, "not_json", "maybe"),
    ("empty", (), DataError, "bad_json", "maybe"),
    ("truncated", (), DataError, "bad_json", "maybe"),
    ("text", ('{"id": 1} {"id": 2}',), DataError, "bad_json", "maybe"),
    ("text", ("{'id': 1}",), DataError, "bad_json", "maybe"),
    ("text", ('{"a": 1e999}',), DataError, "bad_json", "maybe"),
    ("nan", (), DataError, "bad_json", "maybe"),
    ("nan", ("-Infinity",), DataError, "bad_json", "maybe"),
    ("too_deep", (), DataError, "bad_json", "maybe"),
    ("too_deep", (100_000,), DataError, "bad_json", "maybe"),
    ("too_many", (), DataError, "bad_json", "maybe"),
    ("bad_utf8", (), DataError, "bad_json", "maybe"),
    ("big_number", (), DataError, "bad_json", "maybe"),
    ("big_number", (41,), DataError, "bad_json", "maybe"),
]  # fmt: skip
VALUES: list[tuple[str, tuple[object, ...], object]] = [
    ("status", (404,), None),
    ("value", ("words",), "words"),
    ("wrong_types", (), {"id": ["c1"], "name": ["Ada"], "visits": [3], "tags": [["a"], ["b"]]}),
    ("no_field", ("id", "tags"), {"name": "Ada", "visits": 3}),
    ("no_list", (), {**GOOD, "tags": {"0": "not a list"}}),
    ("poison", (), {"id": "c1\ufffd", "name": "Ada\ufffd", "visits": 3, "tags": ["a\ufffd", "b\ufffd"]}),
]
MEMORY = 8_000_000  # bytes; an answer may have one million
patient = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    with Rogue() as server:
        yield server


def call(rogue: Rogue, method: str = "POST", seconds: float = 5.0) -> Answer:
    return Client("crm", rogue.url, total_seconds=seconds).call(method, "/x", label="x.do", body={"a": 1})


def test_every_way_to_misbehave_has_its_row() -> None:
    assert {row[0] for row in ERRORS} | {row[0] for row in VALUES} == set(WAYS)


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "code", "sent"),
    ERRORS,
    ids=[f"{row[0]}-{row[3]}-{place}" for place, row in enumerate(ERRORS)],
)
def test_each_misbehaviour_is_one_call_and_one_named_error(
    rogue: Rogue, name: str, arguments: tuple[object, ...], kind: type[StepError], code: str, sent: str
) -> None:
    rogue.does(name, *arguments)
    started = time.monotonic()

    with pytest.raises(StepError) as caught:
        call(rogue, seconds=1.0 if code == "timeout" else 8.0)

    error = caught.value
    assert (type(error), error.reason, error.sent) == (kind, code, sent)
    assert [seen.did for seen in rogue.requests] == [name]
    assert time.monotonic() - started < 6
    assert "told to" not in str(error)


@pytest.mark.parametrize(("name", "arguments", "value"), VALUES, ids=[row[0] for row in VALUES])
def test_what_is_json_comes_in_as_it_is_but_clean(
    rogue: Rogue, name: str, arguments: tuple[object, ...], value: object
) -> None:
    rogue.does(name, *arguments)

    assert call(rogue).value == value


@pytest.mark.parametrize("name", sorted({row[0] for row in ERRORS} - {"silence", "drip", "drip_body"}))
def test_the_call_after_a_misbehaviour_gets_its_own_answer(rogue: Rogue, name: str) -> None:
    _, arguments, _, code, _ = next(row for row in ERRORS if row[0] == name)
    rogue.does(name, *arguments, times=1)
    with pytest.raises(StepError):
        call(rogue, seconds=1.0 if code == "timeout" else 5.0)

    assert call(rogue).value == GOOD
    assert (rogue.connections == 1) == (name in ("status", "redirect"))


def test_an_answer_that_comes_after_a_hint_is_never_taken_for_the_next_one(rogue: Rogue) -> None:
    rogue.does("two_answers", 1.0, times=1)
    with pytest.raises(Transient):
        call(rogue)

    assert call(rogue).value == GOOD  # at once, while the first answer is on its way
    assert [seen.connection for seen in rogue.requests] == [1, 2]


@pytest.mark.parametrize("name", ["bomb", "endless_chunk", "endless", "huge"])
def test_no_answer_takes_more_memory_than_a_few_times_its_limit(rogue: Rogue, name: str) -> None:
    rogue.does(name)
    with pytest.raises(StepError):
        call(rogue)  # also packs the bomb
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(StepError):
            call(rogue)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def test_a_server_that_is_away_is_unreachable_and_back_when_it_is(rogue: Rogue) -> None:
    call(rogue)
    with rogue.away(), pytest.raises(Transient) as caught:
        call(rogue)

    assert (caught.value.reason, caught.value.sent) == ("unreachable", "no")
    assert call(rogue).value == GOOD


def test_orders_hold_for_their_times_and_their_requests(rogue: Rogue) -> None:
    rogue.does("status", 503, on="GET ", times=1)
    rogue.does("status", 429, PAUSE, on="POST ")

    assert call(rogue, "PATCH").value == GOOD
    for method, code in (("GET", "http_503"), ("POST", "rate_limited"), ("POST", "rate_limited")):
        with pytest.raises(StepError) as caught:
            call(rogue, method)
        assert caught.value.reason == code
    assert call(rogue, "GET").value == GOOD
    rogue.behaves()
    assert call(rogue).value == GOOD
    assert [seen.did for seen in rogue.requests] == ["", "status", "status", "status", "", ""]
    assert [seen.at for seen in rogue.requests] == sorted(seen.at for seen in rogue.requests)
    assert (rogue.requests[0].method, rogue.requests[0].json) == ("PATCH", {"a": 1})
    assert len(rogue.seen("POST ")) == 3


# -- any bytes ------------------------------------------------------------------------------------------

STATUS_LINES = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 404 No\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 -200 OK\r\n",
    b"HTTP/1.1 204 No\r\n",
    b"HTTP/9 200\r\n",
]
HEADERS = [
    b"Content-Type: application/json\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: -2\r\n",
    b"Content-Length: 1e9\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: deflate\r\n",
    b"Content-Encoding: gzip, gzip, gzip\r\n",
    b"Connection: close\r\n",
    b"Retry-After: \xff\r\n",
    b"X-RateLimit-Remaining: \xb2\r\n",
    b" folded\r\n",
    b": none\r\n",
]
BODIES = [b"\r\n", b"{}", b"[1]", b"2\r\n{}\r\n", b"0\r\n\r\n", b"-1\r\n", b"0x2\r\n", b"\0", b"\x1f\x8b"]
WORDS = st.sampled_from([*STATUS_LINES, *HEADERS, *BODIES])
ANY_ANSWER = st.lists(WORDS | st.binary(max_size=8), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def endless_rogue() -> Iterator[Rogue]:
    with Rogue() as server:
        yield server


def end_of(rogue: Rogue) -> str:
    """Return the reason of the error, or which kind of answer there was."""
    try:
        return "value" if call(rogue, seconds=2.0).found else "none"
    except StepError as error:
        return error.reason


@patient
@given(st.booleans(), ANY_ANSWER)
@example(True, reply_bytes(200, {}, b"{}"))
@example(True, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}")
def test_any_bytes_end_in_an_answer_or_a_named_error(endless_rogue: Rogue, begun: bool, data: bytes) -> None:
    endless_rogue.behaves()
    endless_rogue.does("raw", b"HTTP/1.1 200 OK\r\n" + data if begun else data)

    ending = end_of(endless_rogue)

    assert ending in {"value", "none", "dropped", "bad_json", "not_json", "bad_coding"} or "http" in ending
