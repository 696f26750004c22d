"""Two runs that hear of one new person at the same moment: one lead, whoever comes first."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from crm import newcomers
from crm.mock.server import MockServer
from crm.models import Newcomer
from crm.provider import Connection, providers
from crm.service import CrmService
from sopengine import clock
from sopengine.errors import Transient
from tests.crm.conftest import Key, Serve

# The threads have connections of their own.
pytestmark = pytest.mark.django_db(transaction=True)

MAJA = {"name": "Maja Berg", "email": "maja@example.org", "phone": "612 555 0188"}


class Within:
    """A step that has so many seconds left."""

    def __init__(self, seconds: float) -> None:
        self.ends = clock.monotonic() + seconds

    def remaining(self) -> float:
        return max(0.0, self.ends - clock.monotonic())

    def check(self) -> None:
        assert self.remaining()


@pytest.fixture
def slow(serve: Serve) -> MockServer:
    """A CRM whose answers take long enough for everybody to have asked before the first has created."""
    return serve(latency=0.1)


def service(server: MockServer, seconds: float = 30.0) -> CrmService:
    return CrmService(providers.get("rest")(Connection(server.url, Key(), Within(seconds))))


def side_by_side(*calls: Callable[[], object]) -> None:
    """Make these calls at the same time, each in a thread of its own, and wait for all of them."""
    ready = threading.Barrier(len(calls))

    def begin(call: Callable[[], object]) -> None:
        ready.wait()
        try:
            call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        list(threads.map(begin, calls))


def people(server: MockServer) -> list[dict[str, Any]]:
    return [row for row in server.state.rows("customers") if row["name"] == "Maja Berg"]


def test_runs_that_enter_one_person_at_once_make_one_customer_which_is_new_to_one(slow: MockServer) -> None:
    was: list[bool] = []
    began = clock.now() - timedelta(hours=1)

    def enters(number: int) -> Callable[[], object]:
        # All know the number, every other one the address too: a mail, a form, a call.
        known = {name: value for name, value in MAJA.items() if number % 2 or name != "email"}
        return lambda: was.append(
            service(slow).get_or_create(known, key=f"run-{number}", since=began)[1],
        )

    side_by_side(*[enters(number) for number in range(6)])

    assert len(people(slow)) == 1
    assert sorted(was) == [False] * 5 + [True]


def test_a_repeat_of_the_run_that_created_the_customer_says_so_and_another_run_does_not(
    slow: MockServer,
) -> None:
    began = clock.now() - timedelta(hours=1)
    keys = ("one", "one", "two", "one")
    said = [service(slow).get_or_create(MAJA, key=key, since=began)[1] for key in keys]
    assert said == [True, True, False, True]


def test_a_holder_that_died_keeps_nobody_for_longer_than_its_step_may_take(slow: MockServer) -> None:
    holder = newcomers.turn(["+16125550188"], "died", Within(0.0))
    holder.__enter__()
    Newcomer.objects.update(until=clock.now() + timedelta(seconds=0.3))
    assert Newcomer.objects.exclude(mark="").exists()

    _, created = service(slow).get_or_create(MAJA, key="next")

    assert created
    assert len(people(slow)) == 1


def test_who_cannot_wait_longer_has_sent_nothing_and_leaves_no_turn_taken(slow: MockServer) -> None:
    with newcomers.turn(["+16125550188"], "first", Within(30)):
        with pytest.raises(Transient) as caught:
            service(slow, seconds=0.2).get_or_create(MAJA, key="second")
        assert Newcomer.objects.exclude(mark="").count() == 1

    assert (caught.value.reason, caught.value.sent) == ("entering", "no")
    assert slow.journal.entries() == []
    assert service(slow).get_or_create(MAJA, key="third")[1]


def test_a_create_whose_answer_was_lost_keeps_others_out_and_lets_its_own_repeat_in(serve: Serve) -> None:
    server = serve(faults=[{"on": "POST *", "call": 1, "drop": "after"}])
    with pytest.raises(Transient):
        service(server).get_or_create(MAJA, key="one")
    with pytest.raises(Transient, match="entering the same person"):
        service(server, seconds=0.2).get_or_create(MAJA, key="two")

    service(server).get_or_create(MAJA, key="one")

    assert not service(server).get_or_create(MAJA, key="two")[1]
    assert len(people(server)) == 1


def test_nothing_that_is_kept_names_a_person_and_it_is_forgotten_in_time(slow: MockServer) -> None:
    service(slow).get_or_create(MAJA, key="run-77")
    kept = str(list(Newcomer.objects.values()))
    assert Newcomer.objects.count() == 2
    assert not any(word in kept for word in ("maja", "Maja", "example", "5550188", "run-77"))

    newcomers.prune(clock.now() - timedelta(days=1))
    assert Newcomer.objects.count() == 2
    newcomers.prune(clock.now() + timedelta(seconds=1))
    assert Newcomer.objects.count() == 0


def test_a_known_customer_leaves_nothing_behind(slow: MockServer) -> None:
    service(slow).get_or_create({"phone": "+16125550002", "city": "Edina"}, key="one")
    service(slow).get_or_create({"phone": "+16125550002", "city": "Bloomington"}, key="two")
    assert not Newcomer.objects.exists()
