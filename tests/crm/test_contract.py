"""What every provider must do, asked of each in the same words."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from crm.mock.cast import OVERDUE_DAYS
from crm.mock.state import MockState
from crm.provider import Connection, providers
from crm.providers.mock import shared_state
from crm.records import Customer, plain
from crm.service import CrmCall, CrmService
from sopengine import clock
from sopengine.errors import DataError, Permanent, StepError, Transient, Unsupported
from tests.crm.conftest import Serve, rest_service


@dataclass
class Firm:
    """One CRM under test: the service to call and the state behind it."""

    crm: CrmService
    state: MockState
    again: Callable[[], CrmService]


@pytest.fixture(params=["mock", "rest"])
def firm(request: pytest.FixtureRequest, serve: Serve) -> Firm:
    if request.param == "mock":
        mock = providers.get("mock")
        return Firm(CrmService(mock(Connection())), shared_state(), lambda: CrmService(mock(Connection())))
    server = serve()
    return Firm(rest_service(server), server.state, lambda: rest_service(server))


@pytest.fixture
def crm(firm: Firm) -> CrmService:
    return firm.crm


def this_year() -> int:
    return timezone.localdate(clock.now()).year


def today() -> date:
    return timezone.localdate(clock.now())


# -- reading ---------------------------------------------------------------------------------------


def test_a_customer_is_found_by_id_with_every_field(crm: CrmService) -> None:
    customer = crm.find("cus_0002")

    assert isinstance(customer, Customer)
    assert customer.id == customer.crm_ref == "cus_0002"
    assert customer.source_provider == crm.provider_name
    assert customer.name == "Berta Bergström"
    assert customer.email == "berta.bergstrom.2@example.com"
    assert customer.services == ("fertilizer",)
    assert customer.signed_seasons == (this_year() - 1,)
    assert customer.do_not_contact is False
    assert customer.last_service_date == today() - timedelta(days=117)
    assert customer.created_at is not None
    assert customer.created_at.tzinfo == UTC


def test_a_customer_that_is_not_there_is_none_and_noted(crm: CrmService) -> None:
    assert crm.find("cus_9999") is None
    assert crm.calls[-1].status == "not_found"


def test_the_campaign_finds_seven_of_whom_five_can_be_written_to(crm: CrmService) -> None:
    past = list(crm.query(status="past"))
    treated = list(crm.query(status="past", services=["fertilizer", "weed_control"]))
    found = list(
        crm.query(status="past", services=["fertilizer", "weed_control"], not_signed_for_season=this_year())
    )

    assert (len(past), len(treated), len(found)) == (12, 9, 7)
    assert sum(customer.do_not_contact for customer in found) == 1
    assert sum(customer.email is None for customer in found) == 1
    assert sum(customer.email is not None and not customer.do_not_contact for customer in found) == 5


@pytest.mark.parametrize(
    "filters",
    [
        {"status": "past"},
        {"status": ["lead", "cold"]},
        {"status": "lead,cold"},
        {"services": ["mowing"]},
        {"services": ["mowing", "snow_removal"]},
        {"not_signed_for_season": 2000},
        {"last_service_before": "2100-01-01"},
        {"last_service_before": date(2100, 1, 1)},
        {"city": "Saint Paul"},
        {"city": "saint paul", "status": "past"},
    ],
)
def test_each_filter_of_customers_filters(firm: Firm, filters: dict[str, Any]) -> None:
    found = list(firm.crm.query(**filters))
    everybody = list(firm.again().query())

    assert found == [customer for customer in everybody if firm.crm.matches(customer, filters)]
    assert found
    assert len(found) < len(everybody) or "not_signed_for_season" in filters


@pytest.mark.parametrize(
    ("filters", "error"),
    [
        ({"stauts": "past"}, Unsupported),
        ({"due_before": "2026-01-01"}, Unsupported),
        ({"status": "asleep"}, DataError),
        ({"status": ""}, DataError),
        ({"status": []}, DataError),
        ({"services": []}, DataError),
        ({"services": [""]}, DataError),
        ({"services": None}, DataError),
        ({"not_signed_for_season": "soon"}, DataError),
        ({"not_signed_for_season": None}, DataError),
        ({"not_signed_for_season": True}, DataError),
        ({"last_service_before": "yesterday"}, DataError),
        ({"city": " "}, DataError),
    ],
)
def test_a_filter_that_cannot_be_served_is_refused_before_anybody_is_listed(
    firm: Firm, filters: dict[str, Any], error: type[StepError]
) -> None:
    with pytest.raises(error) as caught:
        list(firm.crm.query(**filters))

    assert next(iter(filters)) in str(caught.value)
    assert firm.state.journal() == []


def test_a_listing_comes_page_by_page_as_it_is_read(firm: Firm) -> None:
    firm.state.load(
        "customers", [{"id": f"x{number:03}", "name": "X", "city": "Xtown"} for number in range(205)]
    )
    listing = firm.crm.query(city="Xtown")

    first = next(listing)
    assert len(firm.crm.calls) == 1
    ids = [first.id, *(customer.id for customer in listing)]

    assert ids == [f"x{number:03}" for number in range(205)]
    assert [call.operation for call in firm.crm.calls] == ["query"] * 3


def test_a_listing_goes_on_at_a_cursor(firm: Firm) -> None:
    firm.state.load(
        "customers", [{"id": f"x{number:03}", "name": "X", "city": "Xtown"} for number in range(150)]
    )
    first = firm.crm.pages(city="Xtown")

    second = firm.again().pages(first.next_cursor, city="Xtown")

    assert [record.id for record in second.records] == [f"x{number:03}" for number in range(100, 150)]
    assert second.next_cursor == ""


def test_a_listing_of_exactly_one_page_has_no_second(firm: Firm) -> None:
    firm.state.load(
        "customers", [{"id": f"x{number:03}", "name": "X", "city": "Xtown"} for number in range(100)]
    )

    assert firm.crm.pages(city="Xtown").next_cursor == ""


def test_nobody_found_is_an_empty_listing(crm: CrmService) -> None:
    assert list(crm.query(city="Nowhere")) == []


@pytest.mark.parametrize("cursor", ["x", "-1", "0", "1.5", "99999999999"])
def test_a_cursor_of_somewhere_else_is_refused(crm: CrmService, cursor: str) -> None:
    with pytest.raises(DataError):
        crm.pages(cursor)


@pytest.mark.parametrize(
    "text", ["Bergström", "bergstrom.2@EXAMPLE", "+16125550002", "612 555 0002", "102 Cedar"]
)
def test_a_search_finds_by_name_mail_phone_or_address(crm: CrmService, text: str) -> None:
    assert [customer.id for customer in crm.search(text)] == ["cus_0002"]


def test_a_search_that_fits_nobody_is_empty_and_one_for_nothing_is_refused(crm: CrmService) -> None:
    assert crm.search("Rumpelstiltskin & Söhne?") == []
    with pytest.raises(DataError):
        crm.search("  ")


def test_a_search_reads_every_page_up_to_a_thousand(firm: Firm) -> None:
    firm.state.load("customers", [{"id": f"x{number:04}", "name": "Doppel Gänger"} for number in range(150)])
    assert len(firm.crm.search("Doppel")) == 150

    firm.state.load("customers", [{"id": f"x{number:04}", "name": "Doppel Gänger"} for number in range(1001)])
    with pytest.raises(DataError):
        firm.crm.search("Doppel")


def test_one_invoice_is_overdue_by_each_step_of_dunning(crm: CrmService) -> None:
    overdue = list(crm.invoices.query(status="open", due_before=today()))

    assert [(today() - invoice.due_date).days for invoice in overdue] == list(OVERDUE_DAYS)
    assert all(invoice.amount_due > Decimal(0) and invoice.currency == "USD" for invoice in overdue)
    assert {invoice.id for invoice in crm.invoices.query(customer_id=overdue[0].customer_id)} >= {
        overdue[0].id
    }


def test_one_quote_waits_for_three_days(crm: CrmService) -> None:
    (quote,) = crm.quotes.query(status="sent")

    assert quote.sent_at is not None
    assert timedelta(days=3) <= clock.now() - quote.sent_at < timedelta(days=3, hours=1)
    assert (quote.version, quote.responded_at) == (1, None)
    assert crm.quotes.find(quote.id) == quote


def test_dates_stay_offsets_from_today_when_the_clock_moves(firm: Firm, settings: Any) -> None:
    before = firm.crm.invoices.find("inv_0001")
    listed = list(firm.crm.invoices.query())
    settings.CLOCK_OFFSET = 86400.0 * 40
    settings.CLOCK_OFFSET_FILE = ""

    after = firm.again().invoices.find("inv_0001")

    assert before is not None
    assert after is not None
    assert after.due_date - before.due_date == timedelta(days=40)
    later = list(firm.again().invoices.query())
    assert {new.due_date - old.due_date for new, old in zip(later, listed, strict=True)} == {
        timedelta(days=40)
    }


def test_the_same_customer_is_read_once_by_one_service_and_anew_by_the_next(firm: Firm) -> None:
    assert firm.crm.find("cus_0001") is firm.crm.find("cus_0001")
    assert len(firm.crm.calls) == 1

    firm.again().update("cus_0001", {"city": "Edina"}, key="k")

    assert firm.crm.find("cus_0001").city == "Minneapolis"  # type: ignore[union-attr]
    assert firm.crm.find("cus_0001", fresh=True).city == "Edina"  # type: ignore[union-attr]
    assert firm.again().find("cus_0001").city == "Edina"  # type: ignore[union-attr]


def test_what_a_service_writes_it_reads(firm: Firm) -> None:
    firm.crm.find("cus_0001")

    written = firm.crm.update("cus_0001", {"city": "Edina"}, key="k")

    assert firm.crm.find("cus_0001") == written


# -- writing ---------------------------------------------------------------------------------------


def test_a_customer_is_created_once_per_key(firm: Firm) -> None:
    attributes = {"name": "Neu Ling", "email": "neu@example.com", "services": ["mowing"], "status": "lead"}

    made = firm.crm.create(attributes, key="t:create:1")
    again = firm.again().create(attributes, key="t:create:1")

    assert again == made
    assert (made.name, made.services, made.status) == ("Neu Ling", ("mowing",), "lead")
    assert firm.again().find(made.id) is not None
    assert [entry["outcome"] for entry in firm.state.journal() if entry["operation"] == "create"] == [
        "applied",
        "replayed",
    ]


def test_another_key_creates_another_customer(crm: CrmService) -> None:
    assert crm.create({"name": "A"}, key="k1").id != crm.create({"name": "A"}, key="k2").id


def test_a_key_used_for_something_else_is_refused(firm: Firm) -> None:
    firm.crm.create({"name": "A"}, key="k1")

    with pytest.raises(Permanent) as caught:
        firm.crm.create({"name": "B"}, key="k1")
    with pytest.raises(Permanent):
        firm.crm.note("cus_0001", "A", key="k1")

    assert caught.value.reason == "http_422"
    assert [entry for entry in firm.state.journal() if entry["outcome"] == "applied"][1:] == []
    assert firm.state.rows("notes") == []


def test_a_key_is_kept_for_a_day(firm: Firm, settings: Any) -> None:
    first = firm.crm.create({"name": "A"}, key="k1")
    settings.CLOCK_OFFSET_FILE = ""
    settings.CLOCK_OFFSET = 23 * 3600.0
    assert firm.crm.create({"name": "A"}, key="k1").id == first.id

    settings.CLOCK_OFFSET = 25 * 3600.0
    assert firm.crm.create({"name": "A"}, key="k1").id != first.id


def test_an_update_changes_the_named_fields_and_nothing_else(firm: Firm) -> None:
    before = firm.crm.find("cus_0003")

    after = firm.crm.update(
        "cus_0003", {"phone": None, "signed_seasons": [2026], "do_not_contact": True}, key="k"
    )

    assert before is not None
    assert (after.phone, after.signed_seasons, after.do_not_contact) == (None, (2026,), True)
    assert after.source_ts is not None
    changed = {"phone", "signed_seasons", "do_not_contact", "source_ts", "diagnostics"}
    assert {name: value for name, value in plain(after).items() if name not in changed} == {
        name: value for name, value in plain(before).items() if name not in changed
    }
    assert firm.again().find("cus_0003") == after


def test_an_update_of_nobody_is_refused(crm: CrmService) -> None:
    with pytest.raises(Permanent) as caught:
        crm.update("cus_9999", {"city": "Edina"}, key="k")

    assert caught.value.reason == "not_found"


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"favourite_colour": "blue"}, Unsupported),
        ({"id": "cus_0002"}, Unsupported),
        ({"created_at": "2026-01-01"}, Unsupported),
        ({"name": ""}, DataError),
        ({"name": None}, DataError),
        ({"status": "asleep"}, DataError),
        ({"services": "mowing"}, DataError),
        ({"signed_seasons": ["soon"]}, DataError),
        ({"do_not_contact": "yes"}, DataError),
        ({"last_service_date": "2026-02-30"}, DataError),
        ({}, DataError),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_changes(
    firm: Firm, attributes: dict[str, Any], error: type[StepError]
) -> None:
    with pytest.raises(error):
        firm.crm.update("cus_0001", attributes, key="k")

    assert firm.state.journal() == []


def test_a_new_customer_needs_a_name(crm: CrmService) -> None:
    with pytest.raises(DataError, match="name"):
        crm.create({"email": "neu@example.com"}, key="k")


def test_a_note_is_put_on_the_customer_once_per_key(firm: Firm) -> None:
    note = firm.crm.note("cus_0001", "Called; wants the „full“ season", key="k1")
    again = firm.again().note("cus_0001", "Called; wants the „full“ season", key="k1")

    assert again == note
    assert (note.customer_id, note.text) == ("cus_0001", "Called; wants the „full“ season")
    assert [row["id"] for row in firm.state.rows("notes")] == [note.id]


def test_a_note_on_nobody_is_refused(firm: Firm) -> None:
    with pytest.raises(Permanent) as caught:
        firm.crm.note("cus_9999", "hello", key="k")

    assert caught.value.reason == "not_found"
    assert firm.state.rows("notes") == []


def test_the_notes_of_a_customer_are_listed_and_nobody_elses(firm: Firm) -> None:
    ours = [firm.crm.note("cus_0001", f"Call {number}", key=f"k{number}") for number in range(103)]
    firm.crm.note("cus_0002", "Another one's", key="other")

    assert list(firm.again().notes.query(customer_id="cus_0001")) == ours
    assert [note.text for note in firm.again().notes.query(customer_id="cus_0002")] == ["Another one's"]
    assert list(firm.again().notes.query(customer_id="cus_0003")) == []
    assert firm.crm.matches(ours[0], {"customer_id": "cus_0001"})
    assert not firm.crm.matches(ours[0], {"customer_id": "cus_0002"})


def test_the_notes_of_nobody_are_refused_and_not_empty(crm: CrmService) -> None:
    with pytest.raises(Permanent) as caught:
        list(crm.notes.query(customer_id="cus_9999"))

    assert caught.value.reason == "http_404"


def test_notes_are_listed_for_one_customer_only_and_the_provider_says_so(firm: Firm) -> None:
    with pytest.raises(Unsupported, match="can query notes only by customer_id"):
        list(firm.crm.notes.query())
    with pytest.raises(DataError):
        list(firm.crm.notes.query(customer_id=" "))

    assert firm.crm.notes.can("query", {"customer_id": "cus_0001"})
    assert not firm.crm.notes.can("query")
    assert firm.state.journal() == []


def test_an_appointment_is_made_listed_and_cancelled(crm: CrmService) -> None:
    start = datetime(2030, 3, 1, 15, tzinfo=UTC)
    attributes = {
        "customer_id": "cus_0001",
        "start": start,
        "end": start + timedelta(hours=1),
        "type": "visit",
    }

    made = crm.appointments.create(attributes, key="k1")
    listed = list(crm.appointments.query(**{"from": start, "to": start + timedelta(minutes=1)}))
    cancelled = crm.appointments.update(made.id, {"status": "cancelled"}, key="k2")

    assert [item.id for item in listed] == [made.id]
    assert (made.start, made.status) == (start, "booked")
    assert (cancelled.id, cancelled.status) == (made.id, "cancelled")


# -- what cannot be done, and what is told -----------------------------------------------------------


@pytest.mark.parametrize(
    ("entity", "verb", "arguments"),
    [
        ("deals", "find", ["d1"]),
        ("accounts", "search", ["x"]),
        ("contacts", "create", [{"name": "x"}]),
        ("activities", "find", ["a1"]),
        ("invoices", "create", [{"number": "x"}]),
        ("invoices", "update", ["inv_0001", {"status": "paid"}]),
        ("invoices", "search", ["x"]),
        ("quotes", "update", ["quo_0001", {"status": "accepted"}]),
        ("notes", "find", ["n1"]),
        ("appointments", "find", ["app_0001"]),
    ],
)
def test_a_verb_that_the_provider_lacks_is_refused_aloud(
    firm: Firm, entity: str, verb: str, arguments: list[Any]
) -> None:
    keys = {"key": "k"} if verb in ("create", "update") else {}

    with pytest.raises(Unsupported, match=entity):
        getattr(getattr(firm.crm, entity), verb)(*arguments, **keys)

    assert not getattr(firm.crm, entity).can(verb)
    assert firm.state.journal() == []


@pytest.mark.parametrize("entity", ["deals", "accounts", "contacts", "notes", "activities"])
def test_an_entity_that_cannot_be_listed_is_refused_aloud(crm: CrmService, entity: str) -> None:
    with pytest.raises(Unsupported, match=entity):
        next(getattr(crm, entity).query())


@pytest.mark.parametrize("record_id", ["", ".", "..", " ", "a" * 201, "a\nb"])
def test_an_id_that_is_none_is_refused(firm: Firm, record_id: str) -> None:
    with pytest.raises(DataError):
        firm.crm.find(record_id)

    assert firm.state.journal() == []


@pytest.mark.parametrize(
    "record_id", ["a/b", "a?b", "%2e%2e", "ä", "cus_0001/notes", "a#b", "a b", "../quotes"]
)
def test_an_odd_id_asks_for_that_id_and_no_other_address(firm: Firm, record_id: str) -> None:
    assert firm.crm.find(record_id) is None

    firm.state.load("customers", [{"id": record_id, "name": "Odd"}])

    assert firm.again().find(record_id).name == "Odd"  # type: ignore[union-attr]


def test_every_call_is_told_with_names_and_codes_only(crm: CrmService) -> None:
    crm.find("cus_0001")
    crm.search("Bergström")
    crm.note("cus_0001", "secret remark", key="k")
    with pytest.raises(Unsupported):
        crm.deals.find("d1")

    told = [(call.operation, call.entity, call.id, call.status) for call in crm.calls]
    assert told == [
        ("find", "customers", "cus_0001", "ok"),
        ("search", "customers", "", "ok"),
        ("create", "notes", "not_0001", "ok"),
        ("find", "deals", "d1", "unsupported"),
    ]
    assert all(isinstance(call, CrmCall) and call.ms >= 0 for call in crm.calls)


def test_no_call_begins_after_the_deadline(firm: Firm) -> None:
    class Over:
        def remaining(self) -> float:
            return 0.0

        def check(self) -> None:
            raise Transient("over", code="deadline", sent="no")

    connection = firm.crm.provider.connection
    late = type(firm.crm.provider)(Connection(connection.base_url, connection.secret, Over()))

    with pytest.raises(Transient):
        CrmService(late).note("cus_0001", "late", key="k")
    assert firm.state.journal() == []


def test_the_keys_of_writes_are_kept_for_a_day(crm: CrmService) -> None:
    assert crm.idempotency == 24.0


def test_a_ping_is_a_call_that_is_answered(firm: Firm) -> None:
    firm.crm.ping()

    assert [entry["operation"] for entry in firm.state.journal()] == ["query"]


def test_the_cast_is_the_same_each_time(crm: CrmService) -> None:
    everybody = [(customer.id, customer.name, customer.status) for customer in crm.query()]

    assert everybody[0] == ("cus_0001", "Ada Anderson", "past")
    assert [status for *_, status in everybody] == ["past"] * 12 + ["active", "active", "lead", "cold"]
