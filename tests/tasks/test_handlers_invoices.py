"""Steps that ask for money: stages, one letter per customer, one list for a person."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from crm.records import Invoice
from sopengine.errors import DataError
from tasks.handlers.invoices import money
from tasks.outcome import Branch, Continue, Done, Start
from tests.tasks.steps import ListedCrm, invoice, run, step_run

STAGES = [7, 14, 21, 30]
TODAY = date(2027, 3, 17)


@pytest.fixture(autouse=True)
def _today(settings: Settings) -> None:
    """It is noon of the day."""
    noon = datetime(2027, 3, 17, 17, 0, tzinfo=UTC)
    settings.CLOCK_OFFSET = (noon - datetime.now(UTC)).total_seconds()


def overdue(number: int, days: int, customer: str = "cus_1", **fields: Any) -> Invoice:
    return invoice(number, customer, due_date=TODAY - timedelta(days=days), **fields)


def stages(*records: Invoice, **more: Any) -> Any:
    return run("invoices.for_each_stage", step_run(records, **more), sop="stage", stages=STAGES)


# -- stages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "reached"),
    [
        (-3, []),
        (0, []),
        (6, []),
        (7, [7]),
        (13, [7]),
        (14, [7, 14]),
        (29, [7, 14, 21]),
        (30, STAGES),
        (400, STAGES),
    ],
)
def test_each_stage_that_was_reached_has_a_run_and_all_but_the_last_are_missed(
    days: int, reached: list[int]
) -> None:
    started = stages(overdue(1, days))
    assert isinstance(started, Start)
    assert [(child.inputs["stage"], child.inputs["missed"]) for child in started.children] == [
        (stage, stage != reached[-1]) for stage in reached
    ]


def test_paid_invoices_come_to_no_stage() -> None:
    assert stages(overdue(1, 10, status="paid")).children == []


def test_the_key_of_a_stage_is_the_same_on_every_day() -> None:
    first = {child.key for child in stages(overdue(1, 9)).children}
    later = {child.key for child in stages(overdue(1, 15)).children}
    assert first < later


def test_a_listing_goes_on_page_by_page() -> None:
    crm = ListedCrm([overdue(number, 8) for number in range(5)], per_page=2)
    started, cursor = [], ""
    while True:
        outcome = run("invoices.for_each_stage", step_run(crm=crm, cursor=cursor), sop="stage", stages=STAGES)
        started += [child.inputs["invoice_id"] for child in outcome.children]  # type: ignore[union-attr]
        if not isinstance(outcome, Continue):
            break
        cursor = outcome.cursor
    assert started == [f"inv_{number}" for number in range(5)]


@pytest.mark.parametrize("ignored", ["status", "due_before"])
def test_a_crm_that_drops_a_filter_starts_nobody(ignored: str) -> None:
    crm = ListedCrm([overdue(1, 3), overdue(2, 9, status="paid")], ignores=frozenset({ignored}))
    with pytest.raises(DataError) as refused:
        run("invoices.for_each_stage", step_run(crm=crm), sop="stage", stages=STAGES)
    assert refused.value.reason == "filter_ignored"


@pytest.mark.parametrize("days", [[], [0, 7], [-1]])
def test_stages_without_days_are_refused(days: list[int]) -> None:
    with pytest.raises(DataError):
        run("invoices.for_each_stage", step_run(), sop="stage", stages=days)


# -- letters and the list ----------------------------------------------------------------------------


def row(number: int, stage: int, customer: str = "cus_1") -> dict[str, Any]:
    return {"crm_customer_id": customer, "invoice": f"inv_{number}", "stage": stage}


def handed_out(rows: list[dict[str, Any]], *records: Invoice) -> Start:
    outcome = run("invoices.hand_out", step_run(records), rows=rows, sop="letter", person_from=30)
    assert isinstance(outcome, Start)
    return outcome


def test_all_news_of_a_customer_are_one_letter_at_the_highest_stage() -> None:
    outcome = handed_out([row(1, 7), row(2, 21), row(3, 14, "cus_2")])
    assert [dict(child.inputs) for child in outcome.children] == [
        {"crm_customer_id": "cus_1", "invoice_ids": ["inv_1", "inv_2"], "stage": 21},
        {"crm_customer_id": "cus_2", "invoice_ids": ["inv_3"], "stage": 14},
    ]
    assert outcome.wait is False
    assert list(outcome.notify) == []


def test_what_is_too_old_for_letters_is_one_list_of_what_is_still_open() -> None:
    records = [overdue(1, 31), overdue(2, 40, status="paid"), overdue(3, 60), overdue(4, 90)]
    outcome = handed_out([row(1, 30), row(2, 30), row(3, 30)], *records)
    (notice,) = outcome.notify
    assert notice.severity == "warning"
    assert notice.text.splitlines() == [
        "2 invoices are 30 days overdue or more, $181.00. No mail is sent any more; please call.",
        "2027-3: $90.50, 60 days overdue (customer cus_1)",
        "2027-1: $90.50, 31 days overdue (customer cus_1)",
    ]
    assert outcome.children == []


def test_a_list_of_paid_invoices_is_none_and_a_long_one_is_cut() -> None:
    assert list(handed_out([row(1, 30)], overdue(1, 31, status="paid")).notify) == []
    many = [overdue(number, 31 + number) for number in range(60)]
    (notice,) = handed_out([row(number, 30) for number in range(60)], *many).notify
    assert len(notice.text.splitlines()) == 52
    assert notice.text.endswith("and 10 more")


# -- the letter ---------------------------------------------------------------------------------------

TONES = [
    {"stage": 7, "template": "invoice-reminder"},
    {"stage": 14, "template": "invoice-second"},
    {"stage": 21, "template": "invoice-final"},
]
ADA = {
    "customer_name": "Ada <Adams>",
    "customer_email": "ada@example.test",
    "business": {"name": "Firm", "address": "1 Lane", "phone": ""},
}


def drafted(*records: Invoice, stage: int = 7, **more: Any) -> Any:
    ids = [record.id for record in records]
    step = step_run([record for record in records if record.amount_due >= 0], context={**ADA, **more})
    return run("invoices.draft", step, invoice_ids=ids, stage=stage, tones=TONES)


def test_a_letter_names_each_open_invoice_its_sum_and_what_it_is_about() -> None:
    outcome = drafted(
        overdue(2, 9, amount_due=Decimal("1000.00")),
        overdue(1, 12),
        overdue(3, 8, status="paid"),
        overdue(4, 8, amount_due=Decimal("-1")),
    )
    assert isinstance(outcome, Done)
    values = outcome.values
    assert (values["to"], values["subject"]) == (
        "ada@example.test",
        "A friendly reminder: $1,090.50 still open",
    )
    assert values["invoice_ids"] == ["inv_1", "inv_2"]
    assert values["amounts"] == ["90.50", "1000.00"]
    assert values["summary"] == "2027-1 $90.50, 2027-2 $1,000.00"
    assert "- 2027-1: $90.50, due March 5, 2027 (12 days ago)\n- 2027-2: $1,000.00" in values["text"]
    assert "In all: $1,090.50" in values["text"]
    assert "Ada &lt;Adams&gt;" in values["html"]


@pytest.mark.parametrize(
    ("stage", "subject"),
    [(7, "A friendly"), (13, "A friendly"), (14, "Second"), (20, "Second"), (21, "Final"), (29, "Final")],
)
def test_the_stage_makes_the_tone(stage: int, subject: str) -> None:
    assert drafted(overdue(1, 30), stage=stage).values["subject"].startswith(subject)


def test_when_all_is_settled_the_run_ends_as_paid() -> None:
    assert drafted(overdue(1, 9, status="paid")) == Branch(to="complete", result="paid", why="settled")


def test_without_an_address_or_a_tone_there_is_no_letter() -> None:
    with pytest.raises(DataError, match="no mail address"):
        drafted(overdue(1, 9), customer_email=None)
    with pytest.raises(DataError, match="No template"):
        drafted(overdue(1, 9), stage=3)


def test_currencies_are_not_added_to_each_other() -> None:
    outcome = drafted(overdue(1, 9), overdue(2, 8, currency="EUR"))
    assert outcome.values["subject"] == "A friendly reminder: $90.50 and 90.50 EUR still open"


@given(st.decimals(min_value=0, max_value=10**9, places=2, allow_nan=False))
def test_an_amount_can_be_read_back(amount: Decimal) -> None:
    assert Decimal(money(amount, "USD").removeprefix("$").replace(",", "")) == amount


# -- who has paid -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([overdue(1, 9)], Branch(to="wait")),
        ([overdue(1, 59)], Branch(to="wait")),
        ([overdue(1, 60)], Branch(to="complete", result="unpaid")),
        (
            [overdue(1, 9, status="paid")],
            Branch(to="complete", result="paid", values={"collected": {"USD": "420.00"}}),
        ),
        (
            [overdue(1, 9, status="paid", currency="eur")],
            Branch(to="complete", result="paid", values={"collected": {"EUR": "420.00"}}),
        ),
        (
            [overdue(1, 9, status="paid", currency="as agreed with ada@example.test")],
            Branch(to="complete", result="paid", values={"collected": {"": "420.00"}}),
        ),
        ([overdue(1, 9, status="void")], Branch(to="complete", result="withdrawn")),
        ([], Branch(to="complete", result="withdrawn")),
    ],
)
def test_a_look_at_an_invoice(records: list[Invoice], expected: Branch) -> None:
    step = step_run(records)
    assert run("invoices.look", step, invoice_id="inv_1", amount="420.00", again="wait") == expected


def test_each_invoice_is_watched_once_for_ever() -> None:
    step = step_run(context={"crm_customer_id": "cus_1"})
    outcome = run(
        "invoices.watch", step, sop="watch", invoice_ids=["inv_1", "inv_2"], amounts=["1.00", "2.00"]
    )
    assert isinstance(outcome, Start)
    assert [child.key for child in outcome.children] == ["watch:inv_1", "watch:inv_2"]
    assert [child.inputs["amount"] for child in outcome.children] == ["1.00", "2.00"]
