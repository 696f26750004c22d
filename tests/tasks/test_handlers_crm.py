"""Laws of the steps that read and write the CRM."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from crm.provider import Connection, providers
from crm.providers.mock import forget_state, shared_state
from sopengine.errors import DataError, Unclear, Unsupported
from tasks.outcome import Branch, Child, Continue, Done, Effect, Outcome, Start, StepRun, handlers
from tests.tasks.steps import NOW, TASK, ListedCrm, customer, invoice, look, run, step_run

CAMPAIGN: dict[str, Any] = {
    "sop": "reactivate-customer",
    "status": "past",
    "services": ["fertilizer", "weed_control"],
    "not_signed_for_season": 2027,
    "once_per": "{{ crm_customer_id }}-{{ season }}",
    "inputs": {"season": "{{ season }}"},
}


def to_the_end(step: StepRun, **params: Any) -> tuple[list[Outcome], list[Child]]:
    """Run crm.for_each again and again, as the engine does with its cursor."""
    outcomes: list[Outcome] = []
    children: list[Child] = []
    while True:
        outcome = run("crm.for_each", step, **params)
        outcomes.append(outcome)
        assert isinstance(outcome, Continue | Start)
        children.extend(outcome.children)
        if isinstance(outcome, Start):
            return outcomes, children
        step = replace(step, cursor=outcome.cursor)


# -- for_each ------------------------------------------------------------------------------------


def test_each_customer_that_passes_the_filters_becomes_one_child_with_its_id_and_the_inputs() -> None:
    step = step_run(
        [customer(1), customer(2, status="active"), customer(3, signed_seasons=(2027,)), customer(4)],
        context={"season": 2027},
    )

    outcome = run("crm.for_each", step, **CAMPAIGN)

    assert isinstance(outcome, Start)
    assert outcome.wait
    assert [(child.sop, child.inputs, child.key) for child in outcome.children] == [
        (
            "reactivate-customer",
            {"crm_customer_id": "cus_1", "season": 2027},
            "reactivate-customer:cus_1-2027",
        ),
        (
            "reactivate-customer",
            {"crm_customer_id": "cus_4", "season": 2027},
            "reactivate-customer:cus_4-2027",
        ),
    ]


def test_the_filters_reach_the_crm_and_those_not_given_do_not() -> None:
    crm = ListedCrm([customer(1)])

    run("crm.for_each", step_run(crm=crm, context={"season": 2027}), **CAMPAIGN)

    asked = {"status": "past", "services": ["fertilizer", "weed_control"], "not_signed_for_season": 2027}
    assert crm.listed == [("customers", asked, "")]


def test_a_listing_of_two_hundred_and_fifty_commits_at_most_a_hundred_children_at_a_time() -> None:
    step = step_run(crm=ListedCrm([customer(n) for n in range(250)], per_page=100))

    outcomes, children = to_the_end(step, sop="greet")

    assert [type(outcome) for outcome in outcomes] == [Continue, Continue, Start]
    assert [len(outcome.children) for outcome in outcomes] == [100, 100, 50]  # type: ignore[union-attr]
    assert [child.inputs["crm_customer_id"] for child in children] == [f"cus_{n}" for n in range(250)]


def test_a_page_larger_than_a_commit_is_taken_in_parts_and_none_is_left_out() -> None:
    step = step_run(crm=ListedCrm([customer(n) for n in range(430)], per_page=230))

    outcomes, children = to_the_end(step, sop="greet")

    assert [len(outcome.children) for outcome in outcomes] == [100, 100, 30, 100, 100]  # type: ignore[union-attr]
    assert len({child.key for child in children}) == 430


def test_the_same_page_gives_the_same_children_when_it_is_read_again_after_a_crash() -> None:
    step = step_run(crm=ListedCrm([customer(n) for n in range(150)]))
    first = run("crm.for_each", step, sop="greet")

    assert run("crm.for_each", step, sop="greet") == first


@pytest.mark.parametrize(
    ("ignored", "fields"),
    [
        ("status", {"status": "active"}),
        ("services", {"services": ("snow",)}),
        ("not_signed_for_season", {"signed_seasons": (2027,)}),
    ],
)
def test_a_crm_that_drops_a_filter_starts_nobody(ignored: str, fields: dict[str, Any]) -> None:
    crm = ListedCrm([customer(1), customer(2, **fields)], ignores=frozenset({ignored}))

    with pytest.raises(DataError, match="cus_2, which does not pass the filters") as caught:
        run("crm.for_each", step_run(crm=crm, context={"season": 2027}), **CAMPAIGN)

    assert caught.value.reason == "filter_ignored"


@pytest.mark.parametrize("empty", [{"status": ""}, {"services": []}, {"city": ""}])
def test_an_empty_filter_is_refused_because_everybody_would_pass(empty: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"filter {next(iter(empty))} is empty"):
        run("crm.for_each", step_run([customer(1)]), sop="greet", **empty)


def test_a_crm_whose_pages_go_round_in_a_circle_is_a_data_error() -> None:
    crm = ListedCrm([customer(n) for n in range(20)], per_page=10)
    step = step_run(crm=crm, cursor='{"page": "10", "skip": 0}')
    crm.records += [customer(n) for n in range(20, 40)]
    crm.page = lambda entity, filters, cursor="": ListedCrm.page(crm, entity, filters, "0")  # type: ignore[method-assign]

    with pytest.raises(DataError, match="never end"):
        run("crm.for_each", step, sop="greet")


def test_pages_that_lead_in_a_circle_end_some_time() -> None:
    crm = ListedCrm([customer(n) for n in range(20)], per_page=10)
    with pytest.raises(DataError, match="circle"):
        run(
            "crm.for_each", step_run(crm=crm, cursor='{"page": "0", "skip": 0, "number": 10000}'), sop="greet"
        )


def test_without_once_per_a_record_is_started_once_by_this_run_of_this_step() -> None:
    outcome = run("crm.for_each", step_run([customer(1)]), sop="greet")

    assert isinstance(outcome, Start)
    assert outcome.children[0].key == f"greet:{TASK}:this:cus_1"


def test_once_per_that_comes_out_empty_is_refused() -> None:
    with pytest.raises(DataError, match="once_per came out empty"):
        run("crm.for_each", step_run([customer(1)], context={"x": " "}), sop="greet", once_per="{{ x }}")


def test_an_invoice_starts_a_child_that_knows_the_invoice_and_its_customer() -> None:
    step = step_run([invoice(7, "cus_1")])

    outcome = run(
        "crm.for_each",
        step,
        sop="remind",
        over="invoices",
        due_before="2027-02-01",
        inputs={"due": "{{ row.due_date }}", "amount": "{{ row.amount_due }}"},
    )

    assert isinstance(outcome, Start)
    assert outcome.children[0].inputs == {
        "crm_customer_id": "cus_1",
        "invoice_id": "inv_7",
        "due": "2027-01-15",
        "amount": "90.50",
    }


def test_invoices_grouped_by_customer_start_one_child_for_each_customer() -> None:
    step = step_run([invoice(1, "cus_1"), invoice(2, "cus_2"), invoice(3, "cus_1")])

    outcome = run("crm.for_each", step, sop="remind", over="invoices", group_by="customer_id")

    assert isinstance(outcome, Start)
    assert [child.inputs for child in outcome.children] == [
        {"crm_customer_id": "cus_1"},
        {"crm_customer_id": "cus_2"},
    ]


def test_a_group_that_spans_two_pages_has_the_same_key_on_both() -> None:
    crm = ListedCrm([invoice(1, "cus_1"), invoice(2, "cus_1")], per_page=1)

    _, children = to_the_end(step_run(crm=crm), sop="remind", over="invoices", group_by="customer_id")

    assert len({child.key for child in children}) == 1


def test_a_row_tells_a_template_nothing_that_says_who_a_person_is() -> None:
    for secret in ("name", "email", "phone", "notes", "address"):
        with pytest.raises(DataError, match=f"row.{secret}"):
            run("crm.for_each", step_run([customer(1)]), sop="greet", inputs={"x": f"{{{{ row.{secret} }}}}"})


def test_group_by_an_unknown_field_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="group_by is no field of customers; it may be one of id, status"):
        run("crm.for_each", step_run([customer(1)]), sop="greet", group_by="colour")


def test_once_per_and_inputs_reach_for_each_unrendered() -> None:
    known = handlers.get("crm.for_each")

    assert known.raw_params == known.row_params == {"once_per", "inputs"}


def test_a_parameter_that_for_each_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        run("crm.for_each", step_run(), sop="greet", colour="green")


# -- find and search -----------------------------------------------------------------------------


def test_find_puts_the_six_values_of_the_customer_on_top_and_codes_under_its_key() -> None:
    outcome = run("crm.find", step_run([customer(1)], context={"crm_customer_id": "cus_1"}))

    assert isinstance(outcome, Done)
    assert outcome.values == {
        "crm_customer_id": "cus_1",
        "customer_name": "Customer 1",
        "customer_email": "c1@example.test",
        "customer_phone": None,
        "customer_city": "Minneapolis",
        "customer_services": ["fertilizer"],
        "customer_last_service": "2026-09-01",
        "found": True,
        "status": "past",
        "do_not_contact": False,
        "signed_seasons": [2026],
    }


def test_find_of_a_customer_who_is_gone_sets_null_keeps_the_id_and_forbids_contact() -> None:
    outcome = run("crm.find", step_run(), customer_id="cus_9")

    assert isinstance(outcome, Done)
    assert outcome.values["found"] is False
    assert outcome.values["do_not_contact"] is True
    assert outcome.values["crm_customer_id"] == "cus_9"
    assert [
        outcome.values[name] for name in handlers.get("crm.find").sets if name.startswith("customer_")
    ] == [None] * 6


def test_find_sets_exactly_the_names_that_it_declares() -> None:
    known = handlers.get("crm.find")
    outcome = run("crm.find", step_run([customer(1)]), customer_id="cus_1")

    assert isinstance(outcome, Done)
    assert known.results is not None
    assert set(outcome.values) == set(known.sets) | set(known.results.model_fields)
    assert known.open_fields == set(known.results.model_fields)


def test_find_without_a_customer_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="give customer_id"):
        run("crm.find", step_run())


def test_search_names_the_one_customer_it_found_and_nobody_when_there_are_two() -> None:
    twins = [customer(1, phone="+1 612 555 0100"), customer(2, phone="+1 612 555 0100")]

    one = run("crm.search", step_run(twins), text="c1@example.test")
    two = run("crm.search", step_run(twins), text="+1 612 555 0100")

    assert isinstance(one, Done)
    assert isinstance(two, Done)
    assert one.values == {"count": 1, "id": "cus_1", "ids": ["cus_1"]}
    assert two.values == {"count": 2, "id": None, "ids": ["cus_1", "cus_2"]}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1@example.test", []),
        ("C1@Example.test", ["cus_1"]),
        ("example.test", ["cus_1", "cus_11"]),
        ("+1 612 555 0100", ["cus_1"]),
    ],
)
def test_a_whole_address_or_number_finds_who_has_it_and_nobody_whose_own_contains_it(
    text: str, ids: list[str]
) -> None:
    people = [customer(1, phone="+1 612 555 0100"), customer(11, phone="+1 612 555 0100 ext. 7")]

    outcome = run("crm.search", step_run(people), text=text)

    assert isinstance(outcome, Done)
    assert outcome.values["ids"] == ids


# -- writing -------------------------------------------------------------------------------------


def test_a_repeated_create_carries_the_same_key_and_makes_one_record() -> None:
    crm = ListedCrm()
    step = step_run(crm=crm)
    attributes = {"name": "New", "email": "new@example.test"}

    first = run("crm.create", step, attributes=attributes)

    assert run("crm.create", step, attributes=attributes) == first
    assert crm.written == [("create", "customers", attributes, f"{TASK}:this:1:create")]


def test_another_visit_of_the_step_is_another_write() -> None:
    crm = ListedCrm()
    run("crm.create", step_run(crm=crm), attributes={"name": "A"})
    run("crm.create", step_run(crm=crm, visit=2), attributes={"name": "A"})

    assert len(crm.written) == 2


def test_a_look_finds_the_customer_that_an_earlier_try_created() -> None:
    step = step_run([customer(1)])

    mine = {"name": customer(1).name.upper(), "email": "c1@example.test"}
    assert look("crm.create", step, attributes=mine) == Done(values={"id": "cus_1"})
    assert look("crm.create", step, attributes={"name": "x", "email": "c2@example.test"}) is None


def test_a_look_takes_nobody_of_another_name_for_the_one_that_was_created() -> None:
    with pytest.raises(Unclear, match="another name"):
        look("crm.create", step_run([customer(1)]), attributes={"name": "Zoe", "email": "c1@example.test"})


def test_a_look_that_cannot_decide_says_so_instead_of_guessing() -> None:
    with pytest.raises(Unsupported, match="Without mail or phone"):
        look("crm.create", step_run(), attributes={"name": "x"})


# -- enter: find or create -----------------------------------------------------------------------

WAYS = {"new": "welcome", "known": "greet", "several": "which"}
ADA = {"name": "Ada", "email": "ada@example.test", "phone": "", "services": [], "status": "lead"}


def enter(crm: ListedCrm, attributes: dict[str, Any] = ADA, **fields: Any) -> Branch:
    outcome = run("crm.upsert", step_run(crm=crm, **fields), attributes=attributes, **WAYS)
    assert isinstance(outcome, Branch)
    return outcome


def test_somebody_new_is_created_without_what_is_not_known() -> None:
    crm = ListedCrm()
    outcome = enter(crm)
    assert (outcome.to, outcome.values["was"]) == ("welcome", "new")
    assert outcome.values["crm_customer_id"] == crm.records[0].id
    ((_, entity, written, key),) = crm.written
    assert (entity, set(written), key) == ("customers", {"name", "email", "status"}, f"{TASK}:this:1:upsert")


@pytest.fixture
def mock() -> Iterator[Any]:
    """The mock CRM, which has field maps: what is merged goes by them."""
    forget_state()
    yield providers.get("mock")(Connection())
    forget_state()


def test_somebody_known_keeps_the_status_and_gets_what_is_new(mock: Any) -> None:
    before = shared_state().find("customers", "cus_0001")
    assert before is not None
    outcome = enter(mock, {**ADA, "email": before["email"].upper(), "services": ["aeration"]})
    assert (outcome.to, outcome.values["was"]) == ("greet", "known")
    assert outcome.values["crm_customer_id"] == "cus_0001"
    after = shared_state().find("customers", "cus_0001")
    assert after is not None
    assert (after["status"], after["phone"]) == ("past", before["phone"])
    assert after["services"] == [*before["services"], "aeration"]


def test_a_mail_changes_neither_name_nor_address_nor_number_of_somebody_known(mock: Any) -> None:
    before = shared_state().find("customers", "cus_0001")
    assert before is not None
    claims = {"name": "Eve", "email": "eve@example.test", "phone": before["phone"], "city": "Edina"}
    assert enter(mock, claims).values["was"] == "known"
    assert enter(mock, {**claims, "email": before["email"], "phone": "+16125559999"}).values["was"] == "known"
    after = shared_state().find("customers", "cus_0001")
    assert after is not None
    assert [after[name] for name in ("name", "email", "phone")] == [
        before[name] for name in ("name", "email", "phone")
    ]
    assert after["city"] == "Edina"


@pytest.mark.parametrize(("seconds", "to"), [(1, "welcome"), (-1, "greet")])
def test_whom_a_lost_try_of_this_step_has_created_is_new(mock: Any, seconds: int, to: str) -> None:
    made = {"id": "cus_0099", "name": "Ada", "email": "ada@example.test"}
    made["created_at"] = (NOW + timedelta(seconds=seconds)).isoformat()
    shared_state().load("customers", [made])
    assert enter(mock, retries=1).to == to


def test_of_several_who_fit_nobody_is_written_to_and_none_is_the_customer() -> None:
    crm = ListedCrm([customer(1, email="ada@example.test"), customer(2, email="ada@example.test")])
    outcome = enter(crm)
    assert (outcome.to, outcome.values) == ("which", {"was": "several"})
    assert crm.written == []


def test_nobody_is_entered_without_mail_or_phone() -> None:
    with pytest.raises(DataError, match="mail or phone"):
        enter(ListedCrm(), {"name": "Ada"})


def test_before_a_repeat_the_step_itself_looks() -> None:
    assert look("crm.upsert", step_run(), attributes=ADA) is None


def test_an_update_goes_to_the_customer_of_the_run_with_a_key() -> None:
    crm = ListedCrm([customer(1)])

    run(
        "crm.update",
        step_run(crm=crm, context={"crm_customer_id": "cus_1"}),
        attributes={"status": "active"},
    )

    assert crm.written == [
        ("update", "customers", {"id": "cus_1", "status": "active"}, f"{TASK}:this:1:update")
    ]


def test_a_look_says_done_when_the_record_already_says_what_the_update_would() -> None:
    step = step_run([customer(1)], context={"crm_customer_id": "cus_1"})
    same = {"status": "past", "last_service_date": "2026-09-01", "signed_seasons": [2026]}

    assert look("crm.update", step, attributes=same) == Done(values={"id": "cus_1"})
    assert look("crm.update", step, attributes={**same, "status": "active"}) is None
    assert look("crm.update", step, attributes={"no_such_field": None}) is None


def test_a_note_carries_a_key_and_a_reference_by_which_a_look_finds_it() -> None:
    crm = ListedCrm([customer(1)])
    step = step_run(crm=crm, context={"crm_customer_id": "cus_1"})
    assert look("crm.note", step, text="Mail sent.") is None

    written = run("crm.note", step, text="Mail sent.")

    operation, entity, attributes, key = crm.written[0]
    assert (operation, entity, key) == ("create", "notes", f"{TASK}:this:1:note")
    assert attributes["customer_id"] == "cus_1"
    assert attributes["text"].startswith("Mail sent. [ref ")
    assert look("crm.note", step, text="Mail sent.") == written
    assert look("crm.note", replace(step, visit=2), text="Mail sent.") is None


@pytest.mark.parametrize("name", ["crm.create", "crm.upsert", "crm.update", "crm.note"])
def test_every_write_is_idempotent_and_can_be_looked_up(name: str) -> None:
    known = handlers.get(name)

    assert known.effect is Effect.IDEMPOTENT
    assert known.look is not None
    assert known.crm
