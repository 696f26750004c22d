"""Laws of the watch: who is missing is missed once, by those who are there, and nobody else is blamed."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery.schedules import schedule
from django.db import OperationalError
from django.test import Client
from django.utils.module_loading import import_string
from pytest_django import Settings

from sopengine import app, clock
from tasks import journal, outbox, watch
from tasks.beat import Beat
from tasks.models import Notification, Pulse
from tasks.sweep import sweep
from tasks.transports import Message, Transport, transports

pytestmark = pytest.mark.django_db
START = 1000.0  # on the watcher's own clock


@pytest.fixture(autouse=True)
def _fresh_eyes(settings: Settings) -> Iterator[None]:
    """Each test is a process that has seen nothing yet."""
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    signs = dict(watch._signs)
    watch._signs.update({name: watch.Sign() for name in signs})
    yield
    watch._signs.update(signs)


@pytest.fixture
def room(settings: Settings) -> Iterator[list[Message]]:
    """A chat that remembers what was posted."""
    posted: list[Message] = []

    class ToRoom(Transport):
        def post(self, message: Message) -> str:
            posted.append(message)
            return "ts-1"

    transports.register("room")(ToRoom)
    settings.CHAT = "room"
    yield posted
    transports.remove("room")


def alarms(severity: str = "critical") -> int:
    """Return how many alarms were raised for the chat."""
    of_chat = Notification.objects.filter(medium=Notification.Medium.CHAT)
    return of_chat.filter(kind="escalation", severity=severity).count()


def swept() -> None:
    Pulse.objects.update_or_create(name="sweep", defaults={"at": journal.database_now()})


# -- how long ----------------------------------------------------------------------------------------


def test_what_counts_is_how_long_the_same_sign_was_the_newest() -> None:
    sign, first = watch.Sign(), clock.now()
    assert sign.age(first, 10.0) == 0
    assert sign.age(first, 70.0) == 60
    assert sign.age(first + timedelta(seconds=1), 75.0) == 0
    assert sign.age(first + timedelta(seconds=1), 80.0) == 5


def test_five_periods_are_too_long_for_beat_and_a_slice_of_work_is_not_for_workers(
    settings: Settings,
) -> None:
    settings.ENGINE_SWEEP = 15.0
    assert watch.patience(watch.BEAT) == 75.0
    assert watch.patience(watch.SWEEP) == settings.CELERY_TASK_SOFT_TIME_LIMIT
    assert watch.patience(watch.SWEEP) > settings.ENGINE_SLICE + settings.ENGINE_DEADLINE
    settings.ENGINE_SWEEP = 0.2
    assert watch.patience(watch.BEAT) == settings.ENGINE_SILENCE
    settings.ENGINE_SWEEP = 600.0
    assert watch.patience(watch.SWEEP) == 3000.0


# -- beat --------------------------------------------------------------------------------------------


def test_a_silent_beat_raises_one_alarm() -> None:
    watch.note_beat()
    late = START + watch.patience(watch.BEAT)
    assert not watch.look_for_beat(START)
    assert not watch.look_for_beat(late - 0.1)
    assert watch.look_for_beat(late)
    assert not watch.look_for_beat(late + 1)
    assert not watch.look_for_beat(late + 1000)
    assert alarms() == 1


def test_another_process_that_sees_it_too_raises_no_second_alarm() -> None:
    watch.note_beat()
    for _ in range(2):
        watch._signs[watch.BEAT] = watch.Sign()
        watch.look_for_beat(START)
        watch.look_for_beat(START + watch.patience(watch.BEAT))
    assert alarms() == 1


def test_a_beat_that_comes_back_is_told_and_missed_again_the_next_time() -> None:
    watch.note_beat()
    watch.look_for_beat(START)
    late = START + watch.patience(watch.BEAT)
    assert watch.look_for_beat(late)
    watch.note_beat()
    assert (alarms(), alarms("info")) == (1, 1)
    watch.note_beat()
    assert alarms("info") == 1
    watch.look_for_beat(late + 1)
    assert watch.look_for_beat(late + 1 + watch.patience(watch.BEAT))
    assert alarms() == 2


def test_a_beat_that_beats_is_never_missed() -> None:
    for seconds in range(0, 600, 15):
        watch.note_beat()
        assert not watch.look_for_beat(START + seconds)
    assert alarms() == 0


def test_where_there_never_was_a_beat_none_is_missed(settings: Settings) -> None:
    for _ in range(2):
        assert not watch.look_for_beat(START)
        assert not watch.look_for_beat(START + 10_000)
    settings.REDIS_URL = ""  # the engine works inside the web's process
    watch.note_beat()
    watch.look_for_beat(START)
    assert not watch.look_for_beat(START + 10_000)
    assert alarms() == 0


def test_a_clock_that_is_moved_raises_no_alarm(settings: Settings) -> None:
    """The demo and the tests jump by weeks, and a machine may wake up from sleep."""
    watch.note_beat()
    swept()
    watch.look_for_beat(START)
    watch.look_for_workers(START)
    settings.CLOCK_OFFSET = 30 * 86_400.0
    assert not watch.look_for_beat(START + 5)
    assert not watch.look_for_workers(START + 5)
    assert alarms() == 0


def test_a_sweep_looks_for_beat() -> None:
    watch.note_beat()
    sweep(force=True)
    watch._signs[watch.BEAT]._since -= watch.patience(watch.BEAT)
    sweep(force=True)
    assert alarms() == 1


# -- workers -----------------------------------------------------------------------------------------


def test_silent_workers_raise_one_alarm_that_is_posted_from_here(room: list[Message]) -> None:
    swept()
    late = START + watch.patience(watch.SWEEP)
    assert not watch.look_for_workers(START)
    assert not watch.look_for_workers(late - 0.1)
    assert room == []
    assert watch.look_for_workers(late)
    assert watch.look_for_workers(late + 60)
    (message,) = room
    assert (message.severity, message.kind) == ("critical", "escalation")
    assert message.text.startswith("The workers are silent")


def test_while_nobody_sweeps_what_could_not_be_posted_is_tried_again_from_here(room: list[Message]) -> None:
    swept()
    watch.look_for_workers(START)
    outbox.post("from before", channel="#office")
    late = START + watch.patience(watch.SWEEP)
    watch.look_for_workers(late)
    assert {message.text.split("\n")[0] for message in room} >= {"from before"}


def test_the_next_sweep_tells_that_the_workers_are_back() -> None:
    swept()
    watch.look_for_workers(START)
    watch.look_for_workers(START + watch.patience(watch.SWEEP))
    sweep(force=True)
    sweep(force=True)
    assert (alarms(), alarms("info")) == (1, 1)


def test_before_the_first_sweep_nobody_is_missed() -> None:
    watch.look_for_workers(START)
    assert not watch.look_for_workers(START + 10_000)
    assert alarms() == 0


def test_whoever_asks_whether_all_is_ready_finds_silent_workers(
    room: list[Message], client: Client, settings: Settings
) -> None:
    settings.REDIS_URL = ""
    swept()
    client.get("/readyz")
    assert room == []
    watch._signs[watch.SWEEP]._since -= watch.patience(watch.SWEEP)
    client.get("/readyz")
    client.get("/readyz")
    assert [message.severity for message in room] == ["critical"]


# -- in beat -----------------------------------------------------------------------------------------


class Scheduler(Beat):
    """Beat's scheduler over a broker that does as the test says."""

    error: Exception | None = None
    sent = 0

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **_: Any) -> None:
        """Take the message, or not."""
        if self.error:
            raise self.error
        self.sent += 1


@pytest.mark.django_db(transaction=True)
def test_beat_leaves_its_sign_whenever_it_has_asked_whether_or_not_the_broker_took_it() -> None:
    beat = Scheduler(app, lazy=True)
    entry = beat.Entry(name="sweep", task="engine.sweep", schedule=schedule(15.0), app=app)
    beat.apply_entry(entry)
    first = Pulse.objects.get(name="beat").at
    beat.error = ConnectionError("no broker")
    beat.apply_entry(entry)
    assert beat.sent == 1
    assert Pulse.objects.get(name="beat").at > first


def test_beat_of_the_settings_is_ours(settings: Settings) -> None:
    assert import_string(settings.CELERY_BEAT_SCHEDULER.replace(":", ".")) is Beat


@pytest.mark.django_db(transaction=True)
def test_the_lookout_goes_on_after_a_look_that_failed(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ENGINE_SWEEP = 0.01
    errors = [OperationalError("host=10.0.0.7"), ValueError("Ann Canary")]
    looks = []

    def look() -> None:
        looks.append(len(looks))
        if errors:
            raise errors.pop(0)
        lookout.stop()

    lookout = watch.Lookout(look)
    lookout.start()
    lookout.join(30)
    assert not lookout.is_alive()
    assert looks == [0, 1, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
