"""What every provider must do, asked of each in the same words."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from crm.mock.cast import OVERDUE_DAYS
from crm.records import Customer, plain
from crm.service import CrmCall, CrmService
from sopengine import clock
from sopengine.errors import DataError, Outdated, Permanent, StepError, Transient, Unclear, Unsupported
from tests.crm.conftest import Serve
from tests.crm.firms import Firm, InProcess, Process, Served
from tests.crm.shapes.answers import RATE_LEFT, Shape
from tests.length import AT_FULL_LENGTH


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Run the mock as a process of its own."""
    running = Process(tmp_path_factory.mktemp("served"))
    yield running
    running.close()


@pytest.fixture(params=["mock", "rest", "shaped", pytest.param("served", marks=AT_FULL_LENGTH)])
def firm(request: pytest.FixtureRequest, serve: Serve) -> Iterator[Firm]:
    """One CRM after the other."""
    if request.param == "served":
        process: Process = request.getfixturevalue("process")
        yield process
        process.tidy()
    elif request.param == "mock":
        yield InProcess()
    else:
        yield Served(request.param, serve() if request.param == "rest" else serve(contract=Shape))


@pytest.fixture
def crm(firm: Firm) -> CrmService:
    return firm.crm


def many(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Return rows of customers, the first of them cus_1000."""
    return [{"id": f"cus_{1000 + number}", **fields} for number in range(count)]


def this_year() -> int:
    return timezone.localdate(clock.now()).year


def today() -> date:
    return timezone.localdate(clock.now())


# -- reading ---------------------------------------------------------------------------------------


def test_a_customer_is_found_by_id_with_every_field(firm: Firm) -> None:
    customer = firm.crm.find(firm.id("cus_0002"))

    assert isinstance(customer, Customer)
    assert customer.id == customer.crm_ref == firm.id("cus_0002")
    assert customer.source_provider == firm.crm.provider_name
    assert customer.name == "Berta Bergström"
    assert customer.email == "berta.bergstrom.2@example.com"
    assert (customer.phone, customer.address) == ("+16125550002", "102 Cedar Avenue")
    assert (customer.city, customer.state, customer.zip) == ("Saint Paul", "MN", "55104")
    assert customer.services == ("fertilizer",)
    assert customer.signed_seasons == (this_year() - 1,)
    assert customer.do_not_contact is False
    assert customer.last_service_date == today() - timedelta(days=117)
    assert customer.created_at is not None
    assert customer.created_at.tzinfo == UTC


def test_a_customer_that_is_not_there_is_none_and_noted(firm: Firm) -> None:
    assert firm.crm.find(firm.id("cus_9999")) is None
    assert [(call.operation, call.id, call.status) for call in firm.crm.calls] == [
        ("find", firm.id("cus_9999"), "not_found")
    ]
    assert firm.told() == [("read", "not_found")]


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
    assert firm.told() == []


def test_a_listing_comes_page_by_page_as_it_is_read(firm: Firm) -> None:
    rows = many(205, name="X", city="Xtown")
    firm.load(rows)
    listing = firm.crm.query(city="Xtown")

    first = next(listing)
    assert len(firm.crm.calls) == 1
    ids = [first.id, *(customer.id for customer in listing)]

    assert ids == [firm.id(row["id"]) for row in rows]
    assert [call.operation for call in firm.crm.calls] == ["query"] * 3


def test_a_listing_goes_on_at_a_cursor(firm: Firm) -> None:
    rows = many(150, name="X", city="Xtown")
    firm.load(rows)
    first = firm.crm.pages(city="Xtown")

    second = firm.again().pages(first.next_cursor, city="Xtown")

    assert [record.id for record in second.records] == [firm.id(row["id"]) for row in rows[100:]]
    assert second.next_cursor == ""


def test_a_listing_of_exactly_one_page_has_no_second(firm: Firm) -> None:
    firm.load(many(100, name="X", city="Xtown"))

    assert firm.crm.pages(city="Xtown").next_cursor == ""


def test_nobody_found_is_an_empty_listing(crm: CrmService) -> None:
    assert list(crm.query(city="Nowhere")) == []


@pytest.mark.parametrize("cursor", ["x", "-1", "0", "1.5", "99999999999"])
def test_a_cursor_of_somewhere_else_is_refused(crm: CrmService, cursor: str) -> None:
    with pytest.raises((DataError, Permanent)):
        crm.pages(cursor)


@pytest.mark.parametrize(
    "text", ["Bergström", "bergstrom.2@EXAMPLE", "+16125550002", "612 555 0002", "102 Cedar"]
)
def test_a_search_finds_by_name_mail_phone_or_address(firm: Firm, text: str) -> None:
    assert [customer.id for customer in firm.crm.search(text)] == [firm.id("cus_0002")]


def test_a_search_that_fits_nobody_is_empty_and_one_for_nothing_is_refused(crm: CrmService) -> None:
    assert crm.search("Rumpelstiltskin & Söhne?") == []
    with pytest.raises(DataError):
        crm.search("  ")


def test_a_search_reads_every_page_up_to_a_thousand(firm: Firm) -> None:
    firm.load(many(150, name="Doppel Gänger"))
    assert len(firm.again().search("Doppel")) == 150

    firm.load(many(1001, name="Doppel Gänger"))
    with pytest.raises(DataError):
        firm.again().search("Doppel")


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
    before = firm.crm.invoices.find(firm.id("inv_0001"))
    listed = list(firm.crm.invoices.query())
    firm.move_clock(settings, 86400.0 * 40)

    after = firm.again().invoices.find(firm.id("inv_0001"))

    assert before is not None
    assert after is not None
    assert after.due_date - before.due_date == timedelta(days=40)
    later = list(firm.again().invoices.query())
    assert {new.due_date - old.due_date for new, old in zip(later, listed, strict=True)} == {
        timedelta(days=40)
    }


def test_the_same_customer_is_read_once_by_one_service_and_anew_by_the_next(firm: Firm) -> None:
    ada = firm.id("cus_0001")
    assert firm.crm.find(ada) is firm.crm.find(ada)
    assert len(firm.crm.calls) == 1

    firm.again().update(ada, {"city": "Edina"}, key="k")

    assert firm.crm.find(ada).city == "Minneapolis"  # type: ignore[union-attr]
    assert firm.crm.find(ada, fresh=True).city == "Edina"  # type: ignore[union-attr]
    assert firm.again().find(ada).city == "Edina"  # type: ignore[union-attr]


def test_what_a_service_writes_it_reads(firm: Firm) -> None:
    ada = firm.id("cus_0001")
    firm.crm.find(ada)

    written = firm.crm.update(ada, {"city": "Edina"}, key="k")

    assert firm.crm.find(ada) == written


# -- writing ---------------------------------------------------------------------------------------


def test_a_customer_is_created_once_per_key(firm: Firm) -> None:
    attributes = {"name": "Neu Ling", "email": "neu@example.com", "services": ["mowing"], "status": "lead"}

    made = firm.crm.create(attributes, key="t:create:1")
    again = firm.again().create(attributes, key="t:create:1")

    assert again == made
    assert (made.name, made.services, made.status) == ("Neu Ling", ("mowing",), "lead")
    assert firm.again().find(made.id) is not None
    assert [told for told in firm.told() if told[0] == "create"] == [
        ("create", "applied"),
        ("create", "replayed"),
    ]


def test_a_write_that_was_done_before_is_told_as_a_repeat(firm: Firm) -> None:
    ada, crm = firm.id("cus_0001"), firm.crm
    for _ in range(2):
        crm.create({"name": "A"}, key="k1")
        crm.update(ada, {"city": "Edina"}, key="k2")
    crm.find(ada)

    assert [call.status for call in crm.calls] == ["ok", "ok", "replayed", "replayed", "ok"]


def test_another_key_creates_another_customer(crm: CrmService) -> None:
    assert crm.create({"name": "A"}, key="k1").id != crm.create({"name": "A"}, key="k2").id


def test_a_key_used_for_something_else_is_refused(firm: Firm) -> None:
    firm.crm.create({"name": "A"}, key="k1")

    with pytest.raises(Permanent) as caught:
        firm.crm.create({"name": "B"}, key="k1")
    with pytest.raises(Permanent):
        firm.crm.note(firm.id("cus_0001"), "A", key="k1")

    assert caught.value.reason == "http_422"
    assert firm.told() == [("create", "applied"), ("create", "refused"), ("create", "refused")]


def test_a_key_is_kept_for_a_day(firm: Firm, settings: Any) -> None:
    first = firm.crm.create({"name": "A"}, key="k1")
    firm.move_clock(settings, 23 * 3600.0)
    assert firm.crm.create({"name": "A"}, key="k1").id == first.id

    firm.move_clock(settings, 25 * 3600.0)
    assert firm.crm.create({"name": "A"}, key="k1").id != first.id


def test_an_update_changes_the_named_fields_and_nothing_else(firm: Firm) -> None:
    carl = firm.id("cus_0003")
    before = firm.crm.find(carl)

    after = firm.crm.update(carl, {"phone": None, "signed_seasons": [2026], "do_not_contact": True}, key="k")

    assert before is not None
    assert (after.phone, after.signed_seasons, after.do_not_contact) == (None, (2026,), True)
    assert after.source_ts is not None
    changed = {"phone", "signed_seasons", "do_not_contact", "source_ts", "diagnostics"}
    assert {name: value for name, value in plain(after).items() if name not in changed} == {
        name: value for name, value in plain(before).items() if name not in changed
    }
    assert firm.again().find(carl) == after


def test_an_update_of_nobody_is_refused(firm: Firm) -> None:
    with pytest.raises(Permanent) as caught:
        firm.crm.update(firm.id("cus_9999"), {"city": "Edina"}, key="k")

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
        firm.crm.update(firm.id("cus_0001"), attributes, key="k")

    assert firm.told() == []


def test_a_new_customer_needs_a_name(crm: CrmService) -> None:
    with pytest.raises(DataError, match="name"):
        crm.create({"email": "neu@example.com"}, key="k")


def test_a_note_is_put_on_the_customer_once_per_key(firm: Firm) -> None:
    ada, text = firm.id("cus_0001"), "Called; wants the „full“ season"
    note = firm.crm.note(ada, text, key="k1")
    again = firm.again().note(ada, text, key="k1")

    assert again == note
    assert (note.customer_id, note.text) == (ada, text)
    assert list(firm.again().notes.query(customer_id=ada)) == [note]


def test_a_note_on_nobody_is_refused(firm: Firm) -> None:
    with pytest.raises(Permanent) as caught:
        firm.crm.note(firm.id("cus_9999"), "hello", key="k")

    assert caught.value.reason == "not_found"
    assert [verb for verb, outcome in firm.told() if outcome == "applied"] == []


def test_the_notes_of_a_customer_are_listed_and_nobody_elses(firm: Firm) -> None:
    ada, berta, carl = (firm.id(name) for name in ("cus_0001", "cus_0002", "cus_0003"))
    ours = [firm.crm.note(ada, f"Call {number}", key=f"k{number}") for number in range(103)]
    firm.crm.note(berta, "Another one's", key="other")

    assert list(firm.again().notes.query(customer_id=ada)) == ours
    assert [note.text for note in firm.again().notes.query(customer_id=berta)] == ["Another one's"]
    assert list(firm.again().notes.query(customer_id=carl)) == []
    assert firm.crm.matches(ours[0], {"customer_id": ada})
    assert not firm.crm.matches(ours[0], {"customer_id": berta})


def test_the_notes_of_nobody_are_refused_and_not_empty(firm: Firm) -> None:
    with pytest.raises(Permanent) as caught:
        list(firm.crm.notes.query(customer_id=firm.id("cus_9999")))

    assert caught.value.reason == "http_404"


def test_notes_are_listed_for_one_customer_only_and_the_provider_says_so(firm: Firm) -> None:
    with pytest.raises(Unsupported, match="can query notes only by customer_id"):
        list(firm.crm.notes.query())
    with pytest.raises(DataError):
        list(firm.crm.notes.query(customer_id=" "))

    assert firm.crm.notes.can("query", {"customer_id": "cus_0001"})
    assert not firm.crm.notes.can("query")
    assert firm.told() == []


def test_an_appointment_is_made_listed_and_cancelled(firm: Firm) -> None:
    crm = firm.crm
    start = datetime(2030, 3, 1, 15, tzinfo=UTC)
    attributes = {
        "customer_id": firm.id("cus_0001"),
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


# -- a customer by mail or phone ------------------------------------------------------------------


@pytest.mark.parametrize(
    "known",
    [
        {"email": "Berta.BERGSTROM.2@example.com "},
        {"phone": "(612) 555-0002"},
        {"phone": "612.555.0002", "email": ""},
        {"phone": "+1 612-555-0002", "email": "new.address@example.com"},
    ],
)
def test_who_is_known_by_mail_or_phone_is_not_created_again(firm: Firm, known: dict[str, str]) -> None:
    customer, created = firm.crm.get_or_create({"name": "Berta Bergström", **known}, key="k")

    assert (customer.id, created) == (firm.id("cus_0002"), False)
    assert customer.phone == "+16125550002"
    assert customer.email == (known.get("email", "").strip().lower() or "berta.bergstrom.2@example.com")
    assert [verb for verb, _ in firm.told() if verb == "create"] == []


def test_who_is_not_known_is_created_once(firm: Firm) -> None:
    attributes = {"name": "Neu Ling", "phone": "612 555 7788", "email": "neu@example.com", "source": "phone"}

    made, created = firm.crm.get_or_create(attributes, key="k")
    again, created_again = firm.again().get_or_create(attributes, key="k")

    assert (created, created_again) == (True, False)
    assert again == made
    assert (made.phone, made.status, made.source) == ("+16125557788", "lead", "phone")
    assert [told for told in firm.told() if told[0] != "read"] == [("create", "applied")]


def test_who_is_known_gets_what_is_new_and_loses_nothing(firm: Firm) -> None:
    before = firm.crm.find(firm.id("cus_0002"))
    assert before is not None

    after, created = firm.crm.get_or_create(
        {
            "phone": "612-555-0002",
            "name": "",
            "status": "lead",
            "source": "website",
            "city": None,
            "address": "9 New Street",
            "services": ["mowing"],
            "notes": "Asked for a quote.",
            "do_not_contact": False,
        },
        key="k",
    )

    assert not created
    changed = {"address": "9 New Street", "services": ["fertilizer", "mowing"], "notes": "Asked for a quote."}
    assert {name: value for name, value in plain(after).items() if value != plain(before)[name]} == {
        **changed,
        "source_ts": plain(after)["source_ts"],
        "diagnostics": plain(after)["diagnostics"],
    }
    once_more, _ = firm.again().get_or_create({"phone": "6125550002", "notes": "Called again."}, key="k2")
    assert once_more.notes == "Asked for a quote.\nCalled again."


def test_nothing_is_written_where_nothing_is_new(firm: Firm) -> None:
    attributes = {
        "email": "BERTA.bergstrom.2@example.com",
        "phone": "612 555 0002",
        "services": ["fertilizer"],
    }

    firm.crm.get_or_create(attributes, key="k")

    assert {verb for verb, _ in firm.told()} == {"read"}


def test_two_who_fit_are_put_before_a_person(firm: Firm) -> None:
    firm.load([{"id": "cus_1000", "name": "Berta's husband", "phone": "(612) 555-0002"}])

    with pytest.raises(Unclear) as caught:
        firm.again().get_or_create({"name": "B. Bergström", "phone": "+16125550002"}, key="k")

    assert firm.id("cus_0002") in caught.value.message
    assert firm.id("cus_1000") in caught.value.message
    assert {verb for verb, _ in firm.told()} == {"read"}


def test_somebody_without_mail_and_phone_cannot_be_looked_up(firm: Firm) -> None:
    with pytest.raises(DataError, match="mail or phone"):
        firm.crm.get_or_create({"name": "Nobody", "phone": "call me"}, key="k")

    assert firm.told() == []


# -- the look before a message leaves --------------------------------------------------------------


def test_a_recheck_goes_past_the_cache_and_returns_the_customer(firm: Firm) -> None:
    ada = firm.id("cus_0001")
    firm.crm.find(ada)
    firm.again().update(ada, {"city": "Edina"}, key="k")

    found = firm.crm.recheck(ada, filters={"status": "past"}, address=" ADA.anderson.1@example.com")

    assert found.city == "Edina"


def test_a_recheck_refuses_who_is_gone_silent_or_outside(firm: Firm) -> None:
    ada = firm.id("cus_0001")
    for customer_id, filters, code in [
        (firm.id("cus_9999"), None, "customer_gone"),
        (firm.id("cus_0006"), None, "do_not_contact"),
        (ada, {"status": ["active", "lead"]}, "outside_filter"),
        (ada, {"not_signed_for_season": this_year() - 1}, "outside_filter"),
    ]:
        with pytest.raises(Permanent) as caught:
            firm.again().recheck(customer_id, filters=filters)
        assert (caught.value.reason, caught.value.sent) == (code, "no")


def test_a_recheck_tells_an_address_that_changed_and_the_values_of_now(firm: Firm) -> None:
    ada = firm.id("cus_0001")
    firm.again().update(ada, {"email": "ada@new.example.com"}, key="k")

    with pytest.raises(Outdated) as caught:
        firm.crm.recheck(ada, address="ada.anderson.1@example.com")

    assert caught.value.reason == "address_changed"
    assert caught.value.values["customer_email"] == "ada@new.example.com"
    assert "ada@new" not in str(caught.value)


# -- what cannot be done, and what is told -----------------------------------------------------------


LACKING: list[tuple[str, str, list[Any]]] = [
    ("invoices", "create", [{"number": "x"}]),
    ("invoices", "update", ["inv_0001", {"status": "paid"}]),
    ("invoices", "search", ["x"]),
    ("quotes", "update", ["quo_0001", {"status": "accepted"}]),
    ("notes", "find", ["n1"]),
    ("appointments", "find", ["app_0001"]),
]
LACKING_OVER_HTTP: list[tuple[str, str, list[Any]]] = [
    ("deals", "find", ["d1"]),
    ("accounts", "search", ["x"]),
    ("contacts", "create", [{"name": "x"}]),
    ("activities", "find", ["a1"]),
]


def test_a_verb_that_the_provider_lacks_is_refused_aloud(firm: Firm) -> None:
    for entity, verb, arguments in LACKING + (LACKING_OVER_HTTP if firm.kind != "mock" else []):
        keys = {"key": "k"} if verb in ("create", "update") else {}

        with pytest.raises(Unsupported, match=entity) as caught:
            getattr(getattr(firm.crm, entity), verb)(*arguments, **keys)

        assert caught.value.sent == "no"
        assert not getattr(firm.crm, entity).can(verb)
    assert {call.status for call in firm.crm.calls} == {"unsupported"}
    assert firm.told() == []


def test_an_entity_that_cannot_be_listed_is_refused_aloud(firm: Firm) -> None:
    missing = [] if firm.kind == "mock" else ["deals", "accounts", "contacts", "activities"]
    for entity in ["notes", *missing]:
        with pytest.raises(Unsupported, match=entity):
            next(getattr(firm.crm, entity).query())
    assert firm.told() == []


@pytest.mark.parametrize("record_id", ["", ".", "..", " ", "a" * 201, "a\nb"])
def test_an_id_that_is_none_is_refused(firm: Firm, record_id: str) -> None:
    with pytest.raises(DataError):
        firm.crm.find(record_id)

    assert firm.told() == []


ODD_IDS = ["a/b", "a?b", "%2e%2e", "ä", "cus_0001/notes", "a#b", "a b", "../quotes", "²"]


def test_an_odd_id_asks_for_that_id_and_no_other_address(firm: Firm) -> None:
    for record_id in ODD_IDS:
        assert firm.crm.find(record_id) is None

    if firm.kind != "shaped":  # its ids are numbers
        firm.load([{"id": record_id, "name": f"Odd {record_id}"} for record_id in ODD_IDS])
        for record_id in ODD_IDS:
            assert firm.again().find(record_id).name == f"Odd {record_id}"  # type: ignore[union-attr]


def test_every_call_is_told_with_names_and_codes_only(firm: Firm) -> None:
    crm = firm.crm
    crm.find(firm.id("cus_0001"))
    crm.search("Bergström")
    crm.note(firm.id("cus_0001"), "secret remark", key="k")
    with pytest.raises(Unsupported):
        crm.invoices.search("secret remark")

    told = [(call.operation, call.entity, call.id, call.status) for call in crm.calls]
    assert told == [
        ("find", "customers", firm.id("cus_0001"), "ok"),
        ("search", "customers", "", "ok"),
        ("create", "notes", firm.id("not_0001"), "ok"),
        ("search", "invoices", "", "unsupported"),
    ]
    assert all(isinstance(call, CrmCall) and call.ms >= 0 for call in crm.calls)


def test_no_call_begins_after_the_deadline(firm: Firm) -> None:
    class Over:
        def remaining(self) -> float:
            return 0.0

        def check(self) -> None:
            raise Transient("over", code="deadline", sent="no")

    late = type(firm.crm.provider)(replace(firm.crm.provider.connection, deadline=Over()))

    with pytest.raises(Transient):
        CrmService(late, guarded=False).note(firm.id("cus_0001"), "late", key="k")
    assert firm.told() == []


def test_the_keys_of_writes_are_kept_for_a_day(crm: CrmService) -> None:
    assert crm.idempotency == 24.0


def test_a_ping_is_a_call_that_is_answered(firm: Firm) -> None:
    firm.crm.ping()

    assert firm.told() == [("read", "read")]


def test_how_many_calls_are_left_is_kept_where_the_crm_says_so(firm: Firm) -> None:
    assert firm.crm.provider.rate_left is None

    firm.crm.ping()

    assert firm.crm.provider.rate_left == (int(RATE_LEFT) if firm.kind == "shaped" else None)


def test_the_cast_is_the_same_each_time(firm: Firm) -> None:
    everybody = [(customer.id, customer.name, customer.status) for customer in firm.crm.query()]

    assert everybody[0] == (firm.id("cus_0001"), "Ada Anderson", "past")
    assert [status for *_, status in everybody] == ["past"] * 12 + ["active", "active", "lead", "cold"]
