"""The server that misbehaves plays a whole CRM: in the contract's shape and in the second one."""

from collections.abc import Callable

import pytest

from crm.mock.contract import Contract
from crm.mock.state import MockState
from crm.provider import Connection, providers
from crm.service import CrmService
from sopengine.errors import DataError, StepError, Transient
from tests.crm.conftest import Key, shaped_service
from tests.crm.rogue import Rogue, playing
from tests.crm.shapes.answers import Shape


def rest_service(url: str) -> CrmService:
    return CrmService(providers.get("rest")(Connection(url, Key())), guarded=False)


@pytest.mark.parametrize(("shape", "open_at"), [(Contract, rest_service), (Shape, shaped_service)])
def test_a_write_whose_answer_was_lost_is_replayed(
    shape: Callable[[MockState], Contract | Shape], open_at: Callable[[str], CrmService]
) -> None:
    with Rogue(playing(shape(MockState(customers=12)))) as rogue:
        crm = open_at(rogue.url)
        ada = next(crm.query())
        rogue.does("hang_up", on="POST ", applied=True, times=1)

        with pytest.raises(Transient):
            crm.note(ada.id, "Called, no answer", key="k1")
        crm.note(ada.id, "Called, no answer", key="k1")

        assert crm.calls[-1].status == "replayed"
        assert [seen.did for seen in rogue.seen("POST ")] == ["hang_up", ""]


@pytest.mark.parametrize("open_at", [rest_service, shaped_service])
@pytest.mark.parametrize("name", ["no_field", "no_list", "wrong_types", "truncated", "html", "empty"])
def test_an_answer_that_is_not_the_promised_one_is_a_data_error(
    name: str, open_at: Callable[[str], CrmService]
) -> None:
    shape = Contract if open_at is rest_service else Shape
    with Rogue(playing(shape(MockState(customers=12)))) as rogue:
        rogue.does(name)

        with pytest.raises(StepError) as caught:
            list(open_at(rogue.url).query())

        assert type(caught.value) is DataError
        assert len(rogue.requests) == 1


def test_a_way_that_there_is_not_is_named_with_those_there_are() -> None:
    with Rogue() as rogue, pytest.raises(ValueError, match=r"no such way: explode; there are .*hang_up"):
        rogue.does("explode")
