"""What children bring back to the run that started them."""

from collections.abc import Iterator
from typing import Any

import pytest

from tasks import context, engine
from tasks.models import SopVersion
from tasks.outcome import Child, Done, Outcome, Start, StepRun, handler, handlers
from tasks.sweep import heal_families
from tests.tasks.runs import begun, check_invariants, fresh, published

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _starter() -> Iterator[None]:
    """A step that starts children with the given keys and gathers what their step `mark` says."""

    @handler("t.start", sets=("children",))
    def start(step: StepRun, *, sop: str, ids: list[str], stage: int = 7, gather: str = "mark") -> Outcome:
        """Start."""
        given = [{"crm_customer_id": "c1", "invoice_id": one, "stage": stage} for one in ids]
        children = [Child(sop=sop, inputs=inputs, key=f"{inputs['invoice_id']}") for inputs in given]
        return Start(children, gather=gather)

    @handler("t.rest")
    def rest(step: StepRun) -> Outcome:
        """Do nothing."""
        return Done()

    yield
    handlers.remove("t.start")
    handlers.remove("t.rest")


def child() -> SopVersion:
    marks = {"invoice_id": "{{ invoice_id }}", "stage": "{{ stage }}"}
    rules = [{"when": {"field": "stage", "op": "less", "value": 7}, "to": "complete", "result": "missed"}]
    return published(
        {"key": "check", "handler": "flow.branch", "with": {"rules": rules}},
        {"key": "mark", "handler": "invoices.mark", "with": marks},
        inputs={
            "crm_customer_id": {"type": "string"},
            "invoice_id": {"type": "string"},
            "stage": {"type": "integer"},
        },
    )


def gathered(slug: str, ids: list[str], **more: Any) -> Any:
    """Run a parent of these children up to its hold, and return what its step brought back."""
    patience = {"key": "hold", "handler": "flow.wait", "with": {"duration": "1h"}}
    lists = {"key": "start", "handler": "t.start", "with": {"sop": slug, "ids": ids, **more}}
    task = begun(published(lists, patience))
    engine.drain()
    heal_families()  # a parent whose children were all started before has nobody to wake it but the sweep
    engine.drain()
    row = fresh(task)
    assert row.waiting_for == "time"
    names = engine_names(row)
    check_invariants()
    return names["start"]


def engine_names(row: Any) -> Any:
    return context.merge(row.context, context.unseal(str(row.id), row.sealed))


def test_only_what_was_really_started_comes_back() -> None:
    slug = child().sop.slug
    first = gathered(slug, ["a", "b"])
    assert sorted(row["invoice"] for row in first["rows"]) == ["a", "b"]
    assert {row["crm_customer_id"] for row in first["rows"]} == {"c1"}
    second = gathered(slug, ["a", "b", "c"])
    assert [row["invoice"] for row in second["rows"]] == ["c"]
    assert gathered(slug, ["a"])["rows"] == []


def test_a_child_that_did_not_come_through_the_step_says_nothing() -> None:
    result = gathered(child().sop.slug, ["a"], stage=3)
    assert (result["rows"], result["missed"], result["total"]) == ([], 1, 1)


def test_who_gathers_nothing_has_no_rows() -> None:
    assert "rows" not in gathered(child().sop.slug, ["a"], gather="")
