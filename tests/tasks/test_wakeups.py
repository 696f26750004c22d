"""Laws of wake-ups: many that are asked for at once are few, and none of the last is lost."""

import time
from collections.abc import Callable, Iterator

import pytest
from celery import current_app
from django.db import transaction
from pytest_django import Settings

from tasks import wakeups
from tests.processes import eventually
from tests.servers import Redis

QUEUE = "sop"


@pytest.fixture
def broker(settings: Settings, redis_server: Redis) -> Iterator[Callable[[], int]]:
    """A broker; returns how many wake-ups wait in it."""
    settings.REDIS_URL = redis_server.url
    client = redis_server.client()
    before = current_app.conf.broker_url
    current_app.conf.broker_url = redis_server.url.replace("unix://", "redis+socket://", 1).replace(
        "?db=", "?virtual_host=", 1
    )
    yield lambda: int(client.llen(QUEUE))
    current_app.conf.broker_url = before


@pytest.mark.django_db(transaction=True)
def test_a_hundred_that_ask_at_once_send_few_wake_ups_and_who_asks_later_another(
    broker: Callable[[], int],
) -> None:
    for _ in range(100):
        wakeups.wake_soon()
    eventually(lambda: broker() >= 1, 10)
    time.sleep(4 * wakeups.MOMENT)
    few = broker()
    assert few <= 5
    wakeups.wake_soon()
    eventually(lambda: broker() > few, 10)


@pytest.mark.django_db(transaction=True)
def test_nobody_is_woken_for_what_was_not_committed(settings: Settings) -> None:
    settings.REDIS_URL = ""
    wakeups.wait(0)
    with transaction.atomic():
        wakeups.wake_soon()
        transaction.set_rollback(True)
    assert not wakeups.wait(0)
    with transaction.atomic():
        wakeups.wake_soon()
    assert wakeups.wait(0)
