"""The row behind a line: when it closes, who probes it, what brings it back. Real rows, real sockets."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from credentials import store
from credentials.models import Credential
from crm import health
from crm.access import access_for
from crm.breaker import RAMP
from crm.health import PROBE_SECONDS, Standing
from crm.mock.scenario import fault_named
from crm.mock.server import MockServer
from crm.models import Health
from sopengine import clock
from sopengine.errors import AuthError, DataError, Held, Permanent, RateLimited, StepError, Transient

pytestmark = pytest.mark.django_db
REAL = pytest.mark.django_db(transaction=True)  # rows that every thread sees

TIMEOUT = Transient(code="timeout")
Later = Callable[[float], None]


@pytest.fixture
def later(settings: Any) -> Later:
    """Return a function that moves every clock by so many seconds."""

    def move(seconds: float) -> None:
        settings.CLOCK_OFFSET += seconds
        health.forget()

    return move


def now() -> Standing:
    """Return how the line stands, by its row."""
    return health.standing(fresh=True)


def fail(times: int = 1, error: StepError = TIMEOUT) -> None:
    """Report so many failures."""
    for _ in range(times):
        health.failed("crm", error)


def misbehave(server: MockServer, *names: str) -> None:
    """Let the CRM answer with these faults from now on; without any it is well."""
    server.scenario.faults = [fault_named(name) for name in names]


def calls(server: MockServer) -> int:
    """Return how many requests the CRM has had."""
    return len(server.journal.entries())


def seconds_until(found: Standing) -> float:
    """Return the seconds to the next try."""
    assert found.until is not None
    return (found.until - clock.now()).total_seconds()


def together(count: int, work: Callable[[], Any]) -> list[Any]:
    """Do the work in so many threads at one time, each with a connection of its own."""
    start, results = threading.Barrier(count), []

    def run() -> None:
        start.wait()
        try:
            results.append(work())
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# -- opening ---------------------------------------------------------------------------------------


def test_a_line_that_nobody_called_may_be_called_and_has_no_row() -> None:
    health.demand("crm")
    assert now() == Standing("crm")
    assert not Health.objects.exists()


def test_five_failures_within_a_minute_make_it_silent_and_four_do_not(later: Later) -> None:
    for _ in range(4):
        fail()
        later(13)
    assert (now().state, now().generation, now().failures) == ("answers", 0, 4)
    fail()
    found = now()
    assert (found.state, found.reason, found.generation) == ("silent", "timeout", 1)
    assert 25 <= seconds_until(found) <= 30.5
    with pytest.raises(Held, match=r"The CRM does not answer, next try \d\d:\d\d") as held:
        health.demand("crm")
    assert (held.value.until, held.value.sent) == (found.until, "no")


def test_a_success_between_begins_the_count_anew() -> None:
    fail(4)
    health.worked("crm")
    fail(4)
    assert now().state == "answers"
    fail()
    assert now().state == "silent"


def test_failures_older_than_a_minute_do_not_count(later: Later) -> None:
    fail(4)
    later(61)
    fail(4)
    assert now().state == "answers"


@pytest.mark.parametrize(
    "error",
    [
        AuthError(code="forbidden"),
        DataError(code="not_json"),
        Permanent(code="http_422"),
        Transient(code="deadline"),
    ],
)
def test_what_says_nothing_about_the_line_leaves_it_open_and_is_noted(error: StepError) -> None:
    fail(6, error)
    assert (now().state, now().failures, now().last_code) == ("answers", 0, error.reason)


STEP = 7  # seconds; no sum of it is a minute


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["failure", "failure", "failure", "success"]), st.integers(0, 4))))
def test_it_falls_silent_exactly_when_the_rule_says_so(settings: Any, story: list[tuple[str, int]]) -> None:
    Health.objects.all().delete()
    settings.CLOCK_OFFSET = 0
    times: list[int] = []
    for what, gap in story:
        settings.CLOCK_OFFSET += STEP * gap
        health.forget()
        if what == "success":
            health.worked("crm")
            times = []
        else:
            fail()
            times.append(int(settings.CLOCK_OFFSET))
        expected = len(times) >= 5 and times[-1] - times[-5] < 60
        assert (now().state == "silent") is expected
        if expected:
            return


def test_a_step_that_used_up_its_retries_makes_it_silent_at_once() -> None:
    health.used_up("crm", "http_503")
    assert (now().state, now().reason, now().last_code) == ("silent", "http_503", "http_503")
    health.used_up("crm", "http_503")
    assert now().generation == 1


def test_failures_of_calls_that_were_under_way_change_nothing_more() -> None:
    fail(5)
    before = now()
    fail(5)
    assert (now().generation, now().until) == (before.generation, before.until)


def test_one_service_does_not_close_another() -> None:
    fail(5)
    health.demand("other")
    assert health.standing("other").state == "answers"


@REAL
def test_failures_of_many_processes_at_once_open_it_once() -> None:
    together(8, lambda: health.failed("crm", TIMEOUT))
    row = Health.objects.get()
    assert (row.state, row.generation, row.tries) == ("silent", 1, 1)
    assert row.failure_5 is not None


@REAL
def test_failures_of_many_processes_are_all_counted() -> None:
    together(4, lambda: health.failed("crm", TIMEOUT))
    assert (now().state, now().failures) == ("answers", 4)


# -- pauses ----------------------------------------------------------------------------------------


def test_a_pause_holds_until_its_end_and_ends_by_itself(later: Later, server: MockServer) -> None:
    fail(1, RateLimited(retry_after=40))
    found = now()
    assert (found.state, found.generation) == ("pausing", 1)
    assert 39 < seconds_until(found) <= 40
    assert health.probe() is None
    later(41)
    health.demand("crm")
    assert (now().state, now().answering_since) == ("answers", found.until)
    assert health.probe() is True
    assert (now().state, now().generation, Health.objects.get().state) == ("answers", 2, "answers")
    assert calls(server) == 0


@pytest.mark.parametrize(("first", "second", "wins"), [(30, 90, 90), (90, 30, 90), (20, 86_400, 3_600)])
def test_of_two_pauses_the_later_end_wins(first: float, second: float, wins: float) -> None:
    fail(1, RateLimited(retry_after=first))
    fail(1, RateLimited(retry_after=second))
    assert wins - 2 < seconds_until(now()) <= wins
    assert now().generation == 1


def test_a_pause_that_names_no_time_lasts_a_minute() -> None:
    fail(1, RateLimited())
    assert 58 < seconds_until(now()) <= 60


def test_a_pause_after_a_pause_is_a_new_one(later: Later) -> None:
    fail(1, RateLimited(retry_after=10))
    later(11)
    fail(1, RateLimited(retry_after=10))
    assert (now().state, now().generation) == ("pausing", 2)


def test_a_silent_line_that_asks_for_a_pause_is_not_tried_before_its_end() -> None:
    fail(5)
    fail(1, RateLimited(retry_after=600))
    assert now().state == "silent"
    assert seconds_until(now()) > 590


def test_after_a_pause_five_failures_close_it_as_ever(later: Later) -> None:
    fail(1, RateLimited(retry_after=10))
    later(11)
    fail(5)
    assert (now().state, now().generation, Health.objects.get().tries) == ("silent", 2, 1)


# -- logins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["auth", "reauth", "no_credential", "credential_unreadable"])
def test_a_login_that_is_not_accepted_makes_it_refused_at_once(code: str) -> None:
    fail(1, AuthError(code=code))
    assert (now().state, now().reason, now().until) == ("refused", code, None)
    with pytest.raises(Held):
        health.demand("crm")


def test_a_refused_line_is_tried_only_with_another_login(
    server: MockServer, settings: Any, later: Later
) -> None:
    misbehave(server, "401")
    health.failed("crm", AuthError(code="auth"), fingerprint=access_for("crm").fingerprint())
    later(3_600)
    assert health.probe() is None
    assert calls(server) == 0

    settings.CRM_API_KEY = "key-number-two"
    store.forget()
    assert health.probe() is False
    assert (now().state, now().generation, calls(server)) == ("refused", 2, 1)
    assert health.probe() is None
    assert calls(server) == 1

    settings.CRM_API_KEY = "key-number-three"
    store.forget()
    misbehave(server)
    assert health.probe() is True
    assert (now().state, now().generation, calls(server)) == ("answers", 3, 2)


def test_the_same_refusal_of_many_calls_is_one_change() -> None:
    for _ in range(3):
        health.failed("crm", AuthError(code="auth"), fingerprint="one")
    assert now().generation == 1
    health.failed("crm", AuthError(code="auth"), fingerprint="two")
    assert now().generation == 2


def test_a_silent_line_that_refuses_our_login_when_it_is_back_is_refused(
    server: MockServer, later: Later
) -> None:
    fail(5)
    misbehave(server, "401")
    later(31)
    assert health.probe() is False
    assert (now().state, now().reason) == ("refused", "auth")
    later(3_600)
    assert health.probe() is None
    assert calls(server) == 1


def test_a_new_login_is_tried_with_growing_waits_while_nobody_answers(
    server: MockServer, settings: Any, later: Later
) -> None:
    health.failed("crm", AuthError(code="auth"), fingerprint="another")
    misbehave(server, "503")
    assert health.probe() is False
    assert (now().state, calls(server)) == ("refused", 1)
    assert health.probe() is None
    later(31)
    assert health.probe() is False
    later(31)
    assert health.probe() is None
    misbehave(server)
    later(30)
    assert health.probe() is True


# -- probes ----------------------------------------------------------------------------------------


def test_a_silent_line_is_tried_when_its_time_has_come_and_answers_again(
    server: MockServer, later: Later
) -> None:
    fail(5)
    assert health.probe() is None
    assert calls(server) == 0
    later(31)
    assert health.probe() is True
    found = now()
    assert (found.state, found.generation, found.failures, found.until) == ("answers", 2, 0, None)
    assert found.answering_since is not None
    assert abs((clock.now() - found.answering_since).total_seconds()) < 5
    assert health.ramp() == found.answering_since
    assert health.probe() is None
    assert calls(server) == 1


def test_an_hour_of_silence_has_one_call_per_period(server: MockServer, later: Later) -> None:
    misbehave(server, "503")
    fail(5)
    waits, passed = [seconds_until(now())], 0
    while passed < 3_600:
        later(15)
        passed += 15
        if health.probe() is False:
            waits.append(seconds_until(now()))
    periods = [30, 60, 120, 240, 480, 900, 900, 900, 900]
    assert calls(server) == len(waits) - 1
    assert 7 <= calls(server) <= 8
    for wait, period in zip(waits, periods, strict=False):
        assert period * 5 / 6 - 1 <= wait <= period + 1
    misbehave(server)
    later(901)
    assert health.probe() is True


@REAL
def test_of_many_processes_one_makes_the_probe(server: MockServer, later: Later) -> None:
    server.latency = 0.3
    fail(5)
    later(31)
    results = together(8, health.probe)
    assert sorted(results, key=str) == [None] * 7 + [True]
    assert calls(server) == 1
    assert now().generation == 2


def test_a_prober_that_died_leaves_its_turn_to_another_after_a_minute(
    server: MockServer, later: Later
) -> None:
    fail(5)
    later(31)
    Health.objects.update(probe="a process that died", probe_until=clock.now() + timedelta(seconds=60))
    assert health.probe() is None
    later(61)
    assert health.probe() is True


@REAL
@pytest.mark.parametrize("meanwhile", ["opened again", "held by staff"])
def test_a_success_of_an_older_generation_opens_nothing(
    server: MockServer, later: Later, meanwhile: str
) -> None:
    server.latency = 0.8
    fail(5)
    later(31)
    results: list[bool | None] = []

    def probe() -> None:
        try:
            results.append(health.probe())
        finally:
            connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    while not calls(server):
        thread.join(0.01)
    if meanwhile == "held by staff":
        health.hold("crm", "Ana")
    else:
        health.release("crm", "Ana")
        health.used_up("crm", "timeout")
    before = now()
    thread.join()
    assert results == [False]
    assert now().state == ("held" if meanwhile == "held by staff" else "silent")
    assert (now().generation, now().until) == (before.generation, before.until)


def test_a_late_success_opens_no_line_that_fell_silent() -> None:
    fail(5)
    health.worked("crm")
    assert (now().state, now().generation) == ("silent", 1)


def test_it_waits_longer_when_it_falls_silent_within_its_slow_start(server: MockServer, later: Later) -> None:
    fail(5)
    later(31)
    assert health.probe() is True
    fail(5)
    assert 50 <= seconds_until(now()) <= 60
    later(61)
    assert health.probe() is True
    later(RAMP.total_seconds() + 1)
    fail(5)
    assert 25 <= seconds_until(now()) <= 30


@pytest.mark.parametrize("end", ["released by staff", "a pause that ended"])
def test_what_was_no_outage_does_not_lengthen_the_waits(server: MockServer, later: Later, end: str) -> None:
    fail(5)
    if end == "released by staff":
        health.release("crm", "Ana")
    else:
        later(31)
        assert health.probe() is True
        later(RAMP.total_seconds() + 1)
        fail(1, RateLimited(retry_after=10))
        later(11)
        assert health.probe() is True
    fail(5)
    assert 25 <= seconds_until(now()) <= 30


def test_a_page_for_people_is_no_answer_to_a_probe(server: MockServer, later: Later) -> None:
    fail(5)
    misbehave(server, "html")
    later(31)
    assert health.probe() is False
    assert now().state == "silent"


def test_a_probe_that_is_asked_to_wait_makes_it_a_pause(server: MockServer, later: Later) -> None:
    fail(5)
    misbehave(server, "429=50")
    later(31)
    assert health.probe() is False
    assert now().state == "pausing"
    assert 48 < seconds_until(now()) <= 50


def test_a_crm_that_is_slow_and_well_comes_back_at_the_second_probe(server: MockServer, later: Later) -> None:
    """The first probe is short, since whoever sweeps has other work; the next may take as long as a call."""
    fail(5)
    misbehave(server, "503")
    later(31)
    assert health.probe() is False

    misbehave(server)
    server.latency = PROBE_SECONDS + 0.3
    later(61)
    assert health.probe() is True


@pytest.mark.parametrize("before", ["silent", "refused"])
def test_a_crm_that_forbids_the_probe_answers(
    server: MockServer, settings: Any, later: Later, before: str
) -> None:
    """It knows our login: what the runs need may well be allowed."""
    credential = Credential(service="crm")
    credential.set_secret("key-number-two")
    store.put(credential)
    if before == "silent":
        fail(5)
    else:
        health.failed("crm", AuthError(code="auth"), fingerprint="another")
    misbehave(server, "403")
    later(31)

    assert health.probe() is True

    assert (now().state, calls(server)) == ("answers", 1)
    credential.refresh_from_db()
    assert credential.refused_code == "forbidden"


def test_a_probe_that_takes_too_long_says_that_it_did_not_answer_in_time(
    server: MockServer, settings: Any, later: Later
) -> None:
    server.latency = 0.5
    fail(5)
    later(31)
    for call_timeout in (0.2, 0.2):
        settings.ENGINE_CALL_TIMEOUT = call_timeout
        assert health.probe() is False
        assert now().last_code == "timeout"
        later(61)


def test_a_provider_that_is_not_there_ends_as_a_probe_in_vain(settings: Any, later: Later) -> None:
    settings.CRM_PROVIDER = "gone"
    fail(5)
    later(31)
    assert health.probe() is False
    assert (now().state, now().last_code) == ("silent", "bug")


# -- staff -----------------------------------------------------------------------------------------


def silent() -> None:
    fail(5)


def pausing() -> None:
    fail(1, RateLimited(retry_after=5))


def refused() -> None:
    fail(1, AuthError(code="auth"))


@pytest.mark.parametrize("before", [lambda: None, silent, pausing, refused])
def test_a_hold_wins_over_everything_and_is_never_tried(
    before: Callable[[], None], server: MockServer, later: Later
) -> None:
    before()
    assert health.hold("crm", "Ana", "they move servers")
    held = now()
    assert (held.state, held.by, held.note, held.until) == ("held", "Ana", "they move servers", None)
    with pytest.raises(Held, match="held by Ana"):
        health.demand("crm")
    for change in (silent, pausing, refused):
        change()
    health.worked("crm")
    health.used_up("crm", "timeout")
    later(7_200)
    assert health.probe() is None
    assert calls(server) == 0
    assert (now().state, now().generation) == ("held", held.generation)
    assert not health.hold("crm", "Bo")
    assert now().by == "Ana"


@pytest.mark.parametrize("before", [silent, pausing, refused, lambda: health.hold("crm", "Ana", "why")])
def test_a_release_lets_calls_through_and_begins_a_slow_start(before: Callable[[], Any]) -> None:
    before()
    assert health.release("crm", "Bo")
    found = now()
    assert (found.state, found.generation, found.failures) == ("answers", 2, 0)
    assert (found.by, found.note) == ("Bo", "")
    assert found.answering_since is not None
    assert abs((clock.now() - found.answering_since).total_seconds()) < 5
    assert not health.release("crm", "Bo")
    fail(4)
    assert now().state == "answers"


def test_the_note_of_a_hold_is_one_line() -> None:
    """It stands in a message to staff, where a line of its own could pass for ours."""
    health.hold("crm", "Ana", " repairs\r\nWhat you can do:\tnothing\u2028or not ")
    assert now().note == "repairs What you can do: nothing or not"


# -- what staff are told ---------------------------------------------------------------------------


def test_each_change_is_news_until_somebody_has_told_it() -> None:
    assert health.news() == []
    health.worked("crm")
    assert health.news() == []
    fail(5)
    (change,) = health.news()
    assert (change.service, change.state, change.generation) == ("crm", "silent", 1)
    assert health.told(change)
    assert not health.told(change)
    assert health.news() == []


def test_a_change_after_the_one_that_is_told_stays_news() -> None:
    fail(5)
    (change,) = health.news()
    health.release("crm", "Bo")
    assert health.told(change)
    assert [found.state for found in health.news()] == ["answers"]


def test_every_line_that_does_not_answer_is_listed() -> None:
    health.worked("crm")
    health.hold("other", "Ana")
    assert health.not_answering() == ["other"]


# -- what is kept, and what calls cost ----------------------------------------------------------------


@REAL
def test_a_standing_is_kept_for_a_second_and_own_results_are_seen_at_once() -> None:
    assert health.standing().state == "answers"
    Health.objects.create(service="crm", state="held")  # as another process does it
    assert health.standing().state == "answers"
    assert health.standing(fresh=True).state == "held"
    Health.objects.update(state="answers")
    health.forget()
    assert health.standing().state == "answers"
    health.used_up("crm", "timeout")
    assert health.standing().state == "silent"


@REAL
def test_successes_of_a_line_that_is_well_do_not_write(django_assert_num_queries: Any) -> None:
    health.worked("crm", rate_left=5)
    assert (now().rate_left, now().last_ok_at is not None) == (5, True)
    with django_assert_num_queries(0):
        for _ in range(50):
            health.demand("crm")
            health.worked("crm", rate_left=4)


@REAL
def test_a_success_after_a_failure_is_written_at_once() -> None:
    health.worked("crm")
    fail(4)
    health.worked("crm")
    assert now().failures == 0


@REAL
def test_a_database_that_is_away_costs_the_note_and_not_the_result() -> None:
    def away(*_: Any) -> None:
        raise OperationalError("the connection is lost")

    fail(5)
    assert not health.standing().may_call
    with connection.execute_wrapper(away):
        health.failed("crm", TIMEOUT)
        health.worked("crm")
        health.used_up("crm", "timeout")
        health.forget()
        assert health.standing("crm").may_call
    health.forget()
    assert not health.standing().may_call


def test_times_are_those_of_the_moved_clock(settings: Any) -> None:
    settings.CLOCK_OFFSET = 40 * 24 * 3600
    fail(5)
    found = now()
    for moment in (found.since, found.last_failed_at):
        assert isinstance(moment, datetime)
        assert abs((clock.now() - moment).total_seconds()) < 5
