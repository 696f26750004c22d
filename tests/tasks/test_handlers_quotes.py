"""Laws of the steps that look at quotes."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from crm.records import Quote
from sopengine.errors import DataError
from tasks.outcome import Done, handlers
from tests.tasks.steps import run, step_run

SENT = datetime(2027, 3, 12, 1, 30, tzinfo=UTC)  # Thursday evening in Chicago
USUAL: dict[str, Any] = {
    "id": "quo_1",
    "crm_ref": "quo_1",
    "source_provider": "listed",
    "number": "2027-001234",
    "customer_id": "cus_1",
    "version": 1,
    "status": "sent",
    "total": Decimal("12345.00"),
    "currency": "USD",
    "sent_at": SENT,
}


def quote(**fields: Any) -> Quote:
    return Quote(**{**USUAL, **fields})


def find(*quotes: Quote, **params: Any) -> dict[str, Any]:
    outcome = run("quotes.find", step_run(quotes), **{"quote_id": "quo_1", **params})
    assert isinstance(outcome, Done)
    return dict(outcome.values)


def test_a_quote_that_was_sent_and_not_answered_waits_for_its_customer() -> None:
    seen = find(quote())
    assert (seen["found"], seen["waits"], seen["crm_customer_id"]) == (True, True, "cus_1")
    assert seen["sent_at"] == "2027-03-11T19:30:00-06:00", "a day is one on the business's clock"


@pytest.mark.parametrize(
    "fields",
    [{"status": "accepted"}, {"status": "draft"}, {"sent_at": None}, {"responded_at": SENT}],
    ids=str,
)
def test_a_quote_that_is_answered_or_never_went_out_does_not(fields: dict[str, Any]) -> None:
    assert find(quote(**fields))["waits"] is False


def test_a_crm_may_call_it_otherwise() -> None:
    assert find(quote(status="out"), waits_as=["out"])["waits"] is True
    assert find(quote(), waits_as=["out"])["waits"] is False


def test_a_quote_that_is_gone_leaves_the_customer_as_it_is() -> None:
    outcome = run("quotes.find", step_run(context={"crm_customer_id": "cus_7"}), quote_id="quo_9")
    assert isinstance(outcome, Done)
    assert (outcome.values["found"], outcome.values["waits"]) == (False, False)
    assert outcome.values["crm_customer_id"] == "cus_7"
    assert set(outcome.values) == {*handlers.get("quotes.find").results.model_fields, "crm_customer_id"}  # type: ignore[union-attr]


def test_number_and_amount_are_sealed_because_they_look_like_phone_numbers() -> None:
    assert handlers.get("quotes.find").open_fields.isdisjoint({"number", "total"})


def test_no_quote_is_an_error_of_the_procedure() -> None:
    with pytest.raises(DataError, match="quote_id"):
        find(quote_id=" ")


def sent(*quotes: Quote, **params: Any) -> dict[str, Any]:
    step = step_run(quotes, context={"crm_customer_id": "cus_1"})
    outcome = run("quotes.sent", step, **{"since": "2027-03-11T19:30:00-06:00", **params})
    assert isinstance(outcome, Done)
    return dict(outcome.values)


def test_a_quote_counts_from_the_moment_on() -> None:
    assert sent(quote()) == {"sent": True, "id": "quo_1"}
    assert sent(quote(), since="2027-03-11T19:30:01-06:00") == {"sent": False, "id": None}


@pytest.mark.parametrize(
    "fields", [{"customer_id": "cus_2"}, {"status": "draft"}, {"sent_at": None}], ids=str
)
def test_that_of_another_or_one_that_never_went_out_does_not(fields: dict[str, Any]) -> None:
    assert sent(quote(**fields))["sent"] is False


def test_whose_quote_and_since_when_must_be_said() -> None:
    with pytest.raises(DataError, match="No customer"):
        run("quotes.sent", step_run(), since="2027-03-11T19:30:00-06:00")
    with pytest.raises(DataError, match="time zone"):
        sent(since="2027-03-11T19:30:00")
