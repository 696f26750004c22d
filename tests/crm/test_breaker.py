"""What an error says about the line, when to try again, and how a line stands in words. No database."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm import breaker
from crm.breaker import Says, Standing
from sopengine.errors import AuthError, DataError, Permanent, RateLimited, StepError, Transient

NOON = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)  # noon in Chicago, the business' zone of the tests


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Transient(code="timeout"), Says.DOWN),
        (Transient(code="connect_timeout"), Says.DOWN),
        (Transient(code="unreachable"), Says.DOWN),
        (Transient(code="dropped"), Says.DOWN),
        (Transient(code="http_500"), Says.DOWN),
        (Transient(code="http_503"), Says.DOWN),
        (Transient(code="http_408"), Says.NOTHING),
        (Transient(code="http_409"), Says.NOTHING),
        (Transient(code="deadline"), Says.NOTHING),
        (RateLimited(), Says.PAUSE),
        (AuthError(code="auth"), Says.LOGIN),
        (AuthError(code="reauth"), Says.LOGIN),
        (AuthError(code="no_credential"), Says.LOGIN),
        (AuthError(code="credential_unreadable"), Says.LOGIN),
        (AuthError(code="forbidden"), Says.NOTHING),
        (DataError(code="not_json"), Says.NOTHING),
        (Permanent(code="http_422"), Says.NOTHING),
        (StepError(), Says.NOTHING),
    ],
)
def test_an_error_says_of_the_line(error: StepError, expected: Says) -> None:
    assert breaker.says(error) is expected


@pytest.mark.parametrize(
    ("asked", "seconds"), [(None, 60), (7, 7), (0, 1), (0.2, 1), (3_600, 3_600), (90_000, 3_600)]
)
def test_a_pause_lasts_as_asked_from_a_second_to_an_hour(asked: float | None, seconds: float) -> None:
    assert breaker.pause_after(RateLimited(retry_after=asked)) == timedelta(seconds=seconds)


def test_the_waits_double_up_to_a_quarter_of_an_hour() -> None:
    waits = [breaker.wait_before(tries, 0.0).total_seconds() for tries in range(1, 9)]
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_luck_only_shortens_a_wait_and_by_a_sixth_at_most(tries: int, luck: float) -> None:
    whole = breaker.wait_before(tries, 0.0)
    assert whole * 5 / 6 - timedelta(milliseconds=1) <= breaker.wait_before(tries, luck) <= whole
    assert timedelta(seconds=25) <= breaker.wait_before(tries, luck) <= timedelta(minutes=15)


@pytest.mark.parametrize(
    ("standing", "words"),
    [
        (Standing("crm"), "answers"),
        (
            Standing("crm", "silent", until=NOON + timedelta(hours=2, minutes=2)),
            "does not answer, next try 14:02",
        ),
        (
            Standing("crm", "pausing", until=NOON + timedelta(days=1)),
            "asked for a pause until 21 November 12:00",
        ),
        (Standing("crm", "refused", "auth"), "refuses our login"),
        (Standing("crm", "refused", "no_credential"), "has no login stored"),
        (Standing("crm", "refused", "reauth"), "wants our login to be authorised again"),
        (
            Standing("crm", "held", by="Ana", since=NOON, note="they move servers"),
            "is held by Ana since 12:00: they move servers",
        ),
    ],
)
def test_a_line_stands_in_words(standing: Standing, words: str) -> None:
    assert breaker.in_words(standing, NOON) == words
    assert breaker.consequence(standing).endswith(".")


@pytest.mark.parametrize("state", ["silent", "pausing", "refused", "held"])
def test_only_a_line_that_answers_may_be_called(state: str) -> None:
    assert Standing("crm").may_call
    assert not Standing("crm", state).may_call


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("timeout", "it did not answer in time"),
        ("http_503", "it answered with 503"),
        ("not_json", "not json"),
    ],
)
def test_a_code_is_told_in_words(code: str, words: str) -> None:
    assert breaker.why(code) == words
