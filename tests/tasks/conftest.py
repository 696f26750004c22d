"""What the engine's tests share."""

from collections.abc import Iterator

import pytest

from crm import health
from crm.providers.mock import forget_state
from crm.service import open_service
from tasks import plan
from tests.tasks.runs import Probe, probe_handlers


@pytest.fixture
def probe() -> Iterator[Probe]:
    """A handler of each effect class that does what the test tells it."""
    yield from probe_handlers()


@pytest.fixture(autouse=True)
def _new_versions() -> None:
    """A version never changes, so it is cached; a test that is rolled back gives its number to another."""
    plan.definition_of.cache_clear()
    plan._plan.cache_clear()


@pytest.fixture(autouse=True)
def _known_health() -> None:
    """How a CRM stands is remembered for a second, and the next test has another database."""
    health.forget()


@pytest.fixture
def crm_customer() -> str:
    """The id of a customer that the mock CRM has."""
    forget_state()
    customer = next(iter(open_service(guarded=False).customers.query(status="past")))
    return str(customer.id)
