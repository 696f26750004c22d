"""An hour without the CRM, and ten thousand runs that need it: held, probed for, released, all done."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from django.db.models import Sum
from pytest_django import Settings

from crm import breaker, health
from crm.mock.contract import Contract
from crm.mock.state import MockState
from crm.providers.rest import Rest
from sopengine import clock
from tasks import children, crm_line, engine, journal
from tasks.models import Notification, SopVersion, Task
from tasks.outcome import Done, Outcome, StepRun
from tasks.sweep import sweep
from tests.crm.rogue import Rogue, playing
from tests.tasks.runs import Probe, published

pytestmark = pytest.mark.django_db(transaction=True)

RUNS = 10_000
CUSTOMER = "cus_0001"
SWEEP = 30.0  # seconds between two sweeps
SLICE = 10.0  # seconds between two drains once the CRM is back


@pytest.fixture
def rogue(settings: Settings) -> Iterator[Rogue]:
    """A CRM over HTTP that answers until it is told not to."""
    health.forget()
    with Rogue(playing(Contract(MockState(), "", False))) as server:
        settings.CRM_PROVIDER, settings.CRM_BASE_URL, settings.CRM_API_KEY = "rest", server.url, "outage-key"
        yield server
    health.forget()


def due(version: SopVersion, count: int) -> None:
    """Start so many runs at once."""
    now = journal.database_now()
    for _ in range(count // 1000):
        rows = [children.task_row(version.pk, {}, slot=now, now=now, key=None) for _ in range(1000)]
        journal.insert_tasks(rows)


def retries_used() -> int:
    return int(Task.objects.aggregate(used=Sum("retries"))["used"])


@pytest.mark.long
def test_an_hour_without_the_crm_costs_ten_thousand_runs_nothing(
    probe: Probe, rogue: Rogue, settings: Settings, on_postgres: None
) -> None:
    def move(seconds: float) -> None:
        settings.CLOCK_OFFSET = settings.CLOCK_OFFSET + seconds
        health.forget()

    def asked() -> int:
        return len(rogue.requests)

    went_on: list[datetime] = []

    def ask(step: StepRun) -> Outcome:
        """Ask the CRM; once it is back only each twentieth does, as ten thousand answers take their time."""
        if len(went_on) % 20 == 0:
            step.crm.find(CUSTOMER)
        went_on.append(clock.now())
        return Done()

    probe.told["s1"] = ask
    due(published("probe.crm"), RUNS)
    rogue.does("hang_up")
    engine.drain()
    before_it_fell_silent = asked()
    assert 5 <= before_it_fell_silent <= 5 + settings.ENGINE_THREADS
    assert health.standing(fresh=True).state == breaker.SILENT

    # An hour: one probe when its time has come, however often it is looked after, and no other call.
    move(SWEEP)  # those whose call failed have their retry behind them, and are held
    engine.drain()
    used = retries_used()
    assert 0 < used <= before_it_fell_silent
    probes = 0
    for _ in range(int(3600 / SWEEP)):
        until = health.standing(fresh=True).until
        assert until is not None
        time_has_come = until <= journal.database_now()
        seen = asked()
        sweep(force=True)
        crm_line.mind()
        engine.drain()
        assert asked() - seen == int(time_has_come)
        probes += asked() - seen
        move(SWEEP)
    waits = 3600 / breaker.LONGEST_WAIT
    assert waits <= probes <= 2 * waits + 10
    held = Task.objects.filter(waiting_for=crm_line.LINE, wake_at__isnull=True, status="waiting")
    assert held.count() == RUNS
    assert retries_used() == used
    assert Task.objects.filter(crashes__gt=0).count() == 0

    # It is back: a probe finds out, and all go on, slowly at first and never faster than it takes them.
    rogue.behaves()
    while health.standing(fresh=True).state != breaker.ANSWERS:
        move(SWEEP)
        sweep(force=True)
    began = health.ramp()
    assert began is not None
    while Task.objects.filter(status="waiting").exists():
        engine.drain()
        move(SLICE)
    assert len(went_on) == RUNS
    for number, moment in enumerate(sorted(went_on), 1):
        assert number <= most_by((moment - began).total_seconds()) + 2
    assert Task.objects.filter(status="completed").count() == RUNS
    crm_line.mind()
    names = Notification.objects.filter(kind="escalation").order_by("created_at")
    told = [str(name).rpartition(":")[2] for name in names.values_list("dedupe", flat=True)]
    assert told == ["silent", "answers"]


def most_by(seconds: float) -> float:
    """Return how many runs may have gone on so long after the CRM began to answer again."""
    ramp = breaker.RAMP.total_seconds()
    if seconds <= ramp:
        return max(seconds, Rest.rate * seconds**2 / (2 * ramp))
    return Rest.rate * (ramp / 2 + seconds - ramp)
