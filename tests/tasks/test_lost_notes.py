"""A note whose answer was lost, at a served CRM that ignores keys: it is looked for, not written twice."""

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from pytest_django import Settings

from credentials import store
from crm.mock.scenario import Scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.provider import Can, load_providers, providers
from tasks import engine
from tasks.models import Task
from tests.tasks.runs import begun, check_invariants, fresh, kinds, make_due, published

pytestmark = pytest.mark.django_db

LOST = {"on": "POST *", "call": 1, "drop": "after"}
NEVER_CAME = {"on": "POST *", "call": 1, "drop": "before"}


@pytest.fixture
def crm(settings: Settings) -> Iterator[MockServer]:
    """A served CRM that ignores keys; the provider says so."""
    load_providers()
    rest = providers.get("rest")

    class Keyless(rest):  # type: ignore[misc, valid-type]
        """The REST contract without its keys."""

        idempotency = None

    class Blind(Keyless):
        """And without a list of notes."""

        can: ClassVar[Any] = {**rest.can, "notes": Can({"create"})}

    server = MockServer(MockState(), 0, 0.0, Scenario(ignore_keys=True))
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    providers.register("keyless")(Keyless)
    providers.register("blind")(Blind)
    settings.CRM_PROVIDER, settings.CRM_BASE_URL, settings.CRM_API_KEY = "keyless", server.url, "any"
    store.forget()
    yield server
    store.forget()
    providers.remove("keyless")
    providers.remove("blind")
    server.shutdown()
    server.server_close()


def goes_wrong(crm: MockServer, *faults: dict[str, Any]) -> None:
    crm.scenario = Scenario.model_validate({"ignore_keys": True, "faults": list(faults)})


def noted() -> Task:
    """Start a run that writes one note, and let it make its first try."""
    note = {"handler": "crm.note", "with": {"customer_id": "cus_0001", "text": "Called at {{ now }}."}}
    task = begun(published(note))
    engine.drain(seconds=20)
    return task


def again(task: Task) -> Task:
    """Let the hour of the next try come."""
    make_due(task)
    engine.drain(seconds=20)
    return fresh(task)


def calls(crm: MockServer) -> list[str]:
    return [f"{entry['method']} {entry['outcome']}" for entry in crm.journal.entries()]


def test_a_note_whose_answer_was_lost_is_found_and_not_written_again(crm: MockServer) -> None:
    crm.state.create("notes", {"customer_id": "cus_0001", "text": "Somebody else's. [ref 0123456789ab]"})
    goes_wrong(crm, LOST)

    task = noted()
    assert fresh(task).status == Task.Status.READY
    task = again(task)

    assert task.status == Task.Status.COMPLETED
    assert calls(crm) == ["POST applied", "GET read"]
    _, written = crm.state.rows("notes")
    assert task.context["s1"]["id"] == written["id"]
    assert "retry_later" in kinds(task)
    check_invariants([task])


def test_a_note_that_never_arrived_is_written_after_the_look(crm: MockServer) -> None:
    goes_wrong(crm, NEVER_CAME)

    task = again(noted())

    assert task.status == Task.Status.COMPLETED
    assert calls(crm) == ["POST dropped", "GET read", "POST applied"]
    assert len(crm.state.rows("notes")) == 1


def test_a_look_that_fails_is_made_again_before_anything_is_written(crm: MockServer) -> None:
    goes_wrong(crm, LOST, {"on": "GET */notes", "call": 1, "status": 503})

    task = again(again(noted()))

    assert task.status == Task.Status.COMPLETED
    assert calls(crm) == ["POST applied", "GET fault", "GET read"]
    assert len(crm.state.rows("notes")) == 1


def test_at_a_crm_that_honours_keys_the_key_is_enough(crm: MockServer, settings: Settings) -> None:
    settings.CRM_PROVIDER, crm.contract.ignore_keys = "rest", False
    goes_wrong(crm, LOST)

    task = again(noted())

    assert task.status == Task.Status.COMPLETED
    assert calls(crm) == ["POST applied", "POST replayed"]
    assert len(crm.state.rows("notes")) == 1


def test_a_crm_without_a_list_of_notes_leaves_the_repeat_to_a_person(
    crm: MockServer, settings: Settings
) -> None:
    settings.CRM_PROVIDER = "blind"
    goes_wrong(crm, LOST)

    task = again(noted())

    assert (task.status, task.reason) == (Task.Status.PAUSED, "outcome_unknown")
    assert task.approvals.get().state == "open"
    assert calls(crm) == ["POST applied"]
