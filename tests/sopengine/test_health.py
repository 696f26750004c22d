"""What monitors get to see."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from sopengine import health
from tasks.models import Pulse, Sop, SopVersion, Task
from tests.servers import Redis

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_redis(settings: Settings) -> Iterator[None]:
    settings.REDIS_URL = ""
    health._redis_client.cache_clear()
    yield
    health._redis_client.cache_clear()


@pytest.fixture
def swept() -> None:
    Pulse.objects.create(name="sweep", at=timezone.now() - timedelta(seconds=5))


def task(wake_in: float | None, *, crashes: int = 0, priority: int = 1) -> Task:
    """Write one open run that must be looked at in so many seconds."""
    sop, _ = Sop.objects.get_or_create(slug="s", name="S")
    version, _ = SopVersion.objects.get_or_create(
        sop=sop, number=1, defaults={"definition": {}, "published_at": timezone.now()}
    )
    now = timezone.now()
    wake_at = None if wake_in is None else now + timedelta(seconds=wake_in)
    return Task.objects.create(
        version=version, step="a", created_at=now, wake_at=wake_at, crashes=crashes, priority=priority
    )


def test_healthz_answers_whoever_asks_however(client: Client, settings: Settings) -> None:
    """A monitor comes without TLS and under any host name; the process is alive all the same."""
    settings.SECURE_SSL_REDIRECT = True
    answer = client.get("/healthz", headers={"host": "10.0.0.7"})
    assert (answer.status_code, answer.content) == (200, b"ok\n")


def test_healthz_does_not_ask_the_database(
    client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(0):
        client.get("/healthz")


@pytest.mark.usefixtures("swept")
def test_ready_when_swept_and_nothing_is_overdue(client: Client) -> None:
    task(600), task(None)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["ready"], found["wrong"], found["database"], found["redis"]) == (True, [], "ok", "not used")
    assert 5 <= found["last_sweep_seconds"] < 60
    assert found["oldest_overdue_seconds"] == 0


def test_not_ready_without_a_sweep(client: Client) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["wrong"] == ["sweep: never; expected a worker, beat or manage.py engine sweep"]


def test_not_ready_when_the_last_sweep_is_old(client: Client, settings: Settings) -> None:
    settings.READY_SWEEP_AGE = 60
    Pulse.objects.create(name="sweep", at=timezone.now() - timedelta(seconds=100))
    (wrong,) = client.get("/readyz").json()["wrong"]
    assert wrong.startswith("sweep: 10")
    assert wrong.endswith("expected at most 60 s")


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize(("crashes", "priority"), [(0, 0), (0, 1), (0, 2), (1, 1)])
def test_not_ready_when_a_task_waits_too_long_whatever_its_kind(
    client: Client, crashes: int, priority: int
) -> None:
    task(-20), task(-1000, crashes=crashes, priority=priority)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    (wrong,) = answer.json()["wrong"]
    assert wrong.startswith("tasks: one is overdue for 100")
    assert 1000 <= answer.json()["oldest_overdue_seconds"] < 1060


@pytest.mark.usefixtures("swept")
def test_a_dead_redis_is_named(client: Client, settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["redis"]) == (503, "no answer")
    assert answer.json()["wrong"] == ["redis: no answer; work goes on at the pace of the sweep"]


@pytest.mark.usefixtures("swept")
def test_a_living_redis_is_ok(client: Client, settings: Settings, redis_server: Redis) -> None:
    settings.REDIS_URL = redis_server.url
    assert client.get("/readyz").json()["redis"] == "ok"


def test_metrics_need_their_token(client: Client, settings: Settings) -> None:
    settings.DEBUG, settings.METRICS_TOKEN = False, ""
    assert client.get("/metrics").status_code == 401
    settings.METRICS_TOKEN = "metrics-token"
    assert client.get("/metrics", headers={"authorization": "Bearer metrics-tokem"}).status_code == 401
    assert client.get("/metrics", headers={"authorization": "Bearer \xfc"}).status_code == 401
    assert client.get("/metrics", headers={"authorization": "Bearer metrics-token"}).status_code == 200


def test_metrics_count_what_is_there(client: Client, settings: Settings) -> None:
    settings.DEBUG, settings.METRICS_TOKEN = True, ""
    task(-50), task(600), task(None)
    lines = client.get("/metrics").content.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['sop_tasks{status="ready"}'] == "3"
    assert values['sop_tasks{status="failed"}'] == "0"
    assert values["sop_tasks_due"] == "1"
    assert 50 <= float(values["sop_oldest_overdue_seconds"]) < 110
    assert values["sop_last_sweep_seconds"] == "-1"
    assert len([line for line in lines if line.startswith("# TYPE")]) == len(
        {key.split("{")[0] for key in values}
    )
