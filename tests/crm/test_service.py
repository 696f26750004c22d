"""The service: which provider it opens, what it keeps of a customer, and plugins as one file."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from credentials.store import forget
from crm import health
from crm.filters import FILTERS
from crm.mapping import FieldMaps, maps_for
from crm.mock.state import MockState, Refused
from crm.provider import MAX_PAGES, Can, Connection, Provider, Rows, load_providers, providers
from crm.providers.mock import shared_state
from crm.records import ENTITIES, ENTITY_OF, Account, plain
from crm.service import CUSTOMER_FIELDS, CrmService, open_service
from sopengine.errors import (
    AuthError,
    DataError,
    Held,
    Permanent,
    StepError,
    Transient,
    Unclear,
    Unsupported,
)
from tests.crm.conftest import Key, Serve, rest_service, shaped_service
from tests.crm.shapes.answers import Shape


def test_the_provider_is_the_one_that_is_set() -> None:
    crm = open_service()

    assert (crm.provider_name, crm.is_mock) == ("mock", True)


def test_an_unknown_provider_is_refused_with_the_names_there_are(settings: Any) -> None:
    settings.CRM_PROVIDER = "hubspace"

    with pytest.raises(Permanent, match=r"hubspace.*mock.*rest") as caught:
        open_service()
    assert caught.value.reason == "not_configured"


@pytest.mark.django_db
def test_a_real_provider_takes_address_and_key_from_where_they_are_kept(settings: Any, serve: Serve) -> None:
    server = serve(api_key="from-settings")
    settings.CRM_PROVIDER, settings.CRM_BASE_URL, settings.CRM_API_KEY = "rest", server.url, "from-settings"
    forget()

    crm = open_service()

    assert (crm.provider_name, crm.is_mock) == ("rest", False)
    assert crm.find("cus_0001") is not None
    forget()


@pytest.mark.django_db
def test_a_service_of_another_name_has_a_key_of_its_own(settings: Any, serve: Serve) -> None:
    server = serve(api_key="from-settings")
    settings.CRM_PROVIDER, settings.CRM_BASE_URL, settings.CRM_API_KEY = "rest", server.url, "from-settings"
    forget()

    with pytest.raises(AuthError) as caught:
        open_service(service="crm-of-the-other-firm").find("cus_0001")

    assert (caught.value.reason, caught.value.origin) == ("no_credential", "crm-of-the-other-firm")
    assert server.journal.entries() == []
    assert open_service().find("cus_0001") is not None
    forget()


# -- the line to the CRM ---------------------------------------------------------------------------


@pytest.fixture
def line(db: None) -> Any:
    """Return crm.health with nothing kept from another test."""
    health.forget()
    yield health
    health.forget()


@pytest.mark.django_db
def test_no_call_is_made_or_told_while_the_line_is_held(line: Any) -> None:
    line.hold("crm", "eva", "moving house")
    crm = open_service()

    with pytest.raises(Held) as caught:
        crm.find("cus_0001")
    with pytest.raises(Held):
        list(crm.invoices.query())

    assert (crm.calls, shared_state().journal()) == ([], [])
    assert (caught.value.origin, caught.value.sent) == ("crm", "no")
    line.release("crm", "eva")
    assert crm.find("cus_0001") is not None


@pytest.mark.django_db
def test_staff_may_look_while_the_line_is_held_and_change_nothing_about_it(line: Any) -> None:
    line.hold("crm", "eva", "")

    assert open_service(guarded=False).find("cus_0001") is not None
    assert line.standing("crm", fresh=True).state == "held"


@pytest.mark.django_db
def test_failed_calls_silence_the_line_and_none_is_made_then(line: Any, serve: Serve) -> None:
    server = serve(faults=[{"status": 503}])
    crm = CrmService(providers.get("rest")(Connection(server.url, Key())))

    for _ in range(5):
        with pytest.raises(Transient) as caught:
            crm.find("cus_0001")
    with pytest.raises(Held):
        crm.find("cus_0001")

    assert line.standing("crm", fresh=True).state == "silent"
    assert len(server.journal.entries()) == len(crm.calls) == 5
    assert caught.value.origin == "crm"


@pytest.mark.django_db
def test_a_refused_key_stops_the_line_of_its_service_only(line: Any, serve: Serve) -> None:
    server = serve(api_key="right")
    wrong = Connection(server.url, Key("wrong"), service="one")

    with pytest.raises(AuthError):
        CrmService(providers.get("rest")(Connection(server.url, Key(None), service="one"))).find("cus_0001")
    with pytest.raises(Held):
        CrmService(providers.get("rest")(wrong)).find("cus_0001")

    other = Connection(server.url, Key("right"), service="other")
    assert CrmService(providers.get("rest")(other)).find("cus_0001") is not None


@pytest.mark.django_db
def test_what_cannot_be_done_or_is_ill_formed_says_nothing_of_the_line(line: Any) -> None:
    crm = open_service()

    for _ in range(6):
        with pytest.raises(Unsupported):
            crm.invoices.search("x")
        with pytest.raises(DataError):
            crm.find("")

    assert line.standing("crm", fresh=True).last_failed_at is None


@pytest.mark.django_db
def test_a_call_that_went_well_is_noted_with_the_calls_that_are_left(line: Any, serve: Serve) -> None:
    service = shaped_service(serve(contract=Shape).url)

    CrmService(service.provider).find("1")

    found = line.standing("crm", fresh=True)
    assert found.last_ok_at is not None
    assert found.rate_left == 990


def test_a_bug_in_a_provider_is_not_told_as_a_success() -> None:
    class Broken(Provider):
        name = "rest"
        can = providers.get("rest").can

        def find_row(self, entity: str, record_id: str) -> Any:
            raise ZeroDivisionError

    crm = CrmService(Broken(Connection()), guarded=False)
    with pytest.raises(ZeroDivisionError):
        crm.find("c1")

    assert [call.status for call in crm.calls] == ["bug"]


def test_a_task_keeps_six_values_and_a_reference_of_its_customer() -> None:
    crm = open_service(guarded=False)

    fields = crm.customer_fields(crm.find("cus_0002"))

    assert fields == {
        "customer_name": "Berta Bergström",
        "customer_email": "berta.bergstrom.2@example.com",
        "customer_phone": "+16125550002",
        "customer_city": "Saint Paul",
        "customer_services": ["fertilizer"],
        "customer_last_service": fields["customer_last_service"],
        "crm_customer_id": "cus_0002",
    }
    assert len(fields["customer_last_service"]) == len("2026-01-01")


def test_without_a_customer_the_six_values_are_null_and_the_reference_is_left_alone() -> None:
    assert open_service(guarded=False).customer_fields(None) == dict.fromkeys(CUSTOMER_FIELDS)


def test_services_side_by_side_do_not_mix(serve: Serve) -> None:
    server = serve(past=40, latency=0.01)
    wrong: list[str] = []

    def read(first: int) -> None:
        for number in range(first, first + 5):
            record_id = f"cus_{number:04}"
            crm = rest_service(server)
            if (found := crm.find(record_id)) is None or found.id != record_id or len(crm.calls) != 1:
                wrong.append(record_id)

    threads = [threading.Thread(target=read, args=[first]) for first in range(1, 41, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert server.journal.summary()["max_in_flight"] >= 4


def test_every_entity_has_its_records_and_is_served_by_name() -> None:
    crm = open_service(guarded=False)

    assert {getattr(crm, entity).name for entity in ENTITIES} == set(ENTITIES)
    assert {ENTITY_OF[record] for record in ENTITIES.values()} == set(ENTITIES)
    assert set(FILTERS) <= set(ENTITIES)


def test_every_declared_filter_exists() -> None:
    for name in ("mock", "rest"):
        for entity, can in providers.get(name).can.items():
            assert set(can.filters) <= set(FILTERS.get(entity, {}))


PLUGIN = """
from crm.mapping import FieldMap, FieldMaps
from crm.provider import Can, Provider, Rows, providers


@providers.register("acme-test")
class Acme(Provider):
    name = "acme-test"
    can = {"accounts": Can({"query", "find"})}
    words = [FieldMap(field="id", provider="Key", required=True), FieldMap(field="name", provider="Nm")]
    maps = FieldMaps("acme-test", {"accounts": words}, "acme")

    def list_rows(self, entity, filters, cursor):
        if cursor:
            return Rows([{"Key": "1", "Nm": "First"}])
        return Rows([{"Key": "0", "Nm": "None"}], "next")

    def find_row(self, entity, record_id):
        return {"Key": record_id, "Nm": "One"}
"""


def test_a_stranger_adds_a_provider_as_one_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    package = tmp_path / "acme_plugin"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "acme.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    settings.PLUGINS, settings.CRM_PROVIDER = ["acme_plugin"], "acme-test"

    try:
        load_providers()
        load_providers()
        crm = open_service(guarded=False)

        assert [account.name for account in crm.accounts.query()] == ["None", "First"]
        account = crm.accounts.find("7")
        assert isinstance(account, Account)
        assert plain(account)["id"] == "7"
        with pytest.raises(Unsupported, match="acme-test cannot query customers"):
            list(crm.query())
        with pytest.raises(Unsupported, match="filter"):
            list(crm.accounts.query(city="Edina"))
        assert crm.idempotency is None
    finally:
        providers.remove("acme-test")
        del sys.modules["acme_plugin.acme"]


MAPPED = """
from crm.provider import Can, Provider, Rows, providers


@providers.register("acme_mapped")
class Acme(Provider):
    name = "acme_mapped"
    can = {"accounts": Can({"query", "find", "create"})}
    made = []

    def find_row(self, entity, record_id):
        return {"Key": record_id, "Nm": {"long": "One"}}

    def create_row(self, entity, row, key):
        self.made.append(row)
        return {"Key": "7", **row}
"""
ACCOUNTS = (
    "accounts: [{field: id, provider: Key, direction: in, required: true}, {field: name, provider: %s}]"
)


def test_a_plugin_brings_its_map_beside_it_and_a_bad_one_stops_calls_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    package = tmp_path / "acme_mapped_plugin"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "acme.py").write_text(MAPPED)
    (package / "acme_mapped.yaml").write_text(ACCOUNTS % "Nm.long, colour: red")
    monkeypatch.syspath_prepend(tmp_path)
    settings.PLUGINS, settings.CRM_PROVIDER = ["acme_mapped_plugin"], "acme_mapped"

    try:
        load_providers()
        crm = open_service(guarded=False)
        for call in (lambda: crm.accounts.find("7"), lambda: crm.accounts.create({"name": "One"}, key="k")):
            with pytest.raises(DataError, match=r"acme_mapped\.yaml: .*colour") as caught:
                call()
            assert (caught.value.reason, caught.value.sent) == ("field_map", "no")
        assert crm.provider.made == []  # type: ignore[attr-defined]

        (package / "acme_mapped.yaml").write_text(ACCOUNTS % "Nm.long")

        assert crm.accounts.find("7").name == "One"  # type: ignore[union-attr]
        assert crm.accounts.create({"name": "Two"}, key="k").name == "Two"
        assert crm.provider.made == [{"Nm": {"long": "Two"}}]  # type: ignore[attr-defined]
    finally:
        providers.remove("acme_mapped")
        del sys.modules["acme_mapped_plugin.acme"]


def test_a_filter_that_only_this_provider_lacks_is_refused_aloud() -> None:
    class Narrow(providers.get("mock")):  # type: ignore[misc]
        can = {"customers": Can({"query"}, {"status"})}

    crm = CrmService(Narrow(Connection()), guarded=False)

    assert list(crm.query(status="past"))
    assert not crm.customers.can("query", {"status": "past", "city": "Edina"})
    with pytest.raises(Unsupported, match="cannot filter customers by city; it can by: status"):
        list(crm.query(status="past", city="Edina"))


def test_a_verb_that_is_declared_and_not_written_is_refused() -> None:
    class Lazy(Provider):
        name = "rest"
        can = providers.get("rest").can

    crm = CrmService(Lazy(Connection()), guarded=False)

    for call in (
        lambda: crm.find("c1"),
        lambda: crm.search("x"),
        lambda: crm.pages(),
        lambda: crm.create({"name": "x"}, key="k"),
        lambda: crm.update("c1", {"name": "x"}, key="k"),
    ):
        with pytest.raises(Unsupported):
            call()


# -- a customer who is known already ----------------------------------------------------------------


def test_a_field_that_is_bound_for_ever_is_left_as_it_is() -> None:
    rows = maps_for("mock").rows
    bound = [
        item.model_copy(update={"owner": "immutable_after_bind"}) if item.field in ("name", "notes") else item
        for item in rows["customers"]
    ]

    class Bound(providers.get("mock")):  # type: ignore[misc]
        maps = FieldMaps("mock", {**rows, "customers": bound}, "bound.yaml")

    crm = CrmService(Bound(Connection()), guarded=False)
    found, created = crm.get_or_create(
        {"phone": "+16125550002", "name": "Somebody Else", "notes": "new", "city": "Edina"}, key="k"
    )

    assert (found.name, found.notes, found.city, created) == ("Berta Bergström", None, "Edina", False)


def test_a_wish_not_to_be_contacted_is_taken_up_and_never_lifted() -> None:
    crm = open_service(guarded=False)

    silent, _ = crm.get_or_create({"phone": "+16125550006", "do_not_contact": False}, key="k1")
    now_silent, _ = crm.get_or_create({"phone": "+16125550001", "do_not_contact": True}, key="k2")

    assert (silent.id, silent.do_not_contact) == ("cus_0006", True)
    assert (now_silent.id, now_silent.do_not_contact) == ("cus_0001", True)


def test_another_news_has_another_key_and_the_same_news_the_same() -> None:
    for city in ("Edina", "Edina", "Bloomington"):
        open_service(guarded=False).get_or_create({"phone": "+16125550002", "city": city}, key="k")

    written = [entry for entry in shared_state().journal() if entry["operation"] == "update"]
    assert [entry["outcome"] for entry in written] == ["applied", "applied"]
    assert len({entry["key"] for entry in written}) == 2
    assert all(entry["key"].startswith("k:") for entry in written)


def test_what_nobody_knows_is_refused_for_one_who_exists_too() -> None:
    with pytest.raises(Unsupported, match="shoe_size"):
        open_service(guarded=False).get_or_create({"phone": "+16125550002", "shoe_size": 43}, key="k")


def test_a_create_whose_answer_was_lost_is_not_made_twice(serve: Serve) -> None:
    server = serve(ignore_keys=True, faults=[{"on": "POST *", "call": 1, "drop": "after"}])
    attributes = {"name": "Neu Ling", "phone": "612 555 7788"}

    with pytest.raises(Transient):
        rest_service(server).get_or_create(attributes, key="k")
    found, created = rest_service(server).get_or_create(attributes, key="k")

    assert (found.phone, created) == ("+16125557788", False)
    assert [entry["method"] for entry in server.journal.entries()].count("POST") == 1


# -- deals, accounts, contacts, activities -----------------------------------------------------------


@pytest.fixture
def crm() -> CrmService:
    """The mock, which has them."""
    return open_service(guarded=False)


def test_a_deal_goes_from_its_listing_to_its_end(crm: CrmService) -> None:
    open_deals = list(crm.deals.query(stage="open"))
    assert [deal.stage for deal in open_deals] == ["open", "open"]
    assert crm.deals.find(open_deals[0].id) == open_deals[0]

    won = crm.deals.update(open_deals[0].id, {"stage": "won", "amount": "2500.00"}, key="k")

    assert (won.stage, str(won.amount)) == ("won", "2500.00")
    assert [deal.id for deal in crm.deals.query(stage=["won"])] == [won.id]
    assert [deal.id for deal in crm.deals.query(account_id="acc_0001")] == [won.id]
    assert crm.deals.find("dea_9999") is None


def test_an_account_has_its_people(crm: CrmService) -> None:
    (firm,) = crm.accounts.query(segment="business")
    (person,) = crm.contacts.query(account_id=firm.id)

    assert (firm.name, person.name, person.role) == ("Fremont Dental", "Rolf Tveit", "office manager")
    assert crm.accounts.search("fremontdental") == [firm]
    assert crm.contacts.search("(651) 555-0002") == [person]
    made = crm.contacts.create({"name": "Siri Lund", "account_id": firm.id}, key="k")
    assert crm.contacts.create({"name": "Siri Lund", "account_id": firm.id}, key="k") == made
    assert list(crm.contacts.query(account_id=firm.id)) == [person, made]


def test_an_activity_is_written_to_a_customers_file(crm: CrmService) -> None:
    made = crm.activities.create({"customer_id": "cus_0001", "kind": "visit", "text": "Mowed."}, key="k")

    assert list(crm.activities.query(customer_id="cus_0001", kind="visit")) == [made]
    assert {item.kind for item in crm.activities.query()} == {"call", "visit"}


@pytest.mark.parametrize(
    ("entity", "row", "status"),
    [
        ("deals", {"name": "D", "stage": "asleep"}, 422),
        ("deals", {"name": "D", "colour": "red"}, 422),
        ("deals", {"stage": "open"}, 422),
        ("deals", {"name": "D", "stage": "open", "account_id": "acc_9999"}, 404),
        ("deals", {"name": "D", "stage": "open", "customer_id": "cus_9999"}, 404),
        ("contacts", {"name": "C", "account_id": "acc_9999"}, 404),
        ("contacts", {"name": ""}, 422),
        ("accounts", {"name": None}, 422),
        ("activities", {"customer_id": "cus_9999", "kind": "call"}, 404),
        ("activities", {"kind": "call"}, 404),
        ("activities", {"customer_id": "cus_0001"}, 422),
    ],
)
def test_the_mock_is_strict_with_them_too(entity: str, row: dict[str, Any], status: int) -> None:
    state = MockState()
    before = state.rows(entity)

    with pytest.raises(Refused) as caught:
        state.create(entity, row)

    assert caught.value.status == status
    assert state.rows(entity) == before


@pytest.mark.parametrize(
    ("entity", "filters", "error"),
    [
        ("deals", {"status": "open"}, Unsupported),
        ("deals", {"stage": ""}, DataError),
        ("accounts", {"segment": []}, DataError),
        ("contacts", {"account_id": " "}, DataError),
        ("activities", {"from": "2026-01-01"}, Unsupported),
    ],
)
def test_their_filters_are_never_dropped(
    crm: CrmService, entity: str, filters: dict[str, Any], error: type[StepError]
) -> None:
    with pytest.raises(error):
        list(getattr(crm, entity).query(**filters))


# -- ids that would show a customer ------------------------------------------------------------------


@pytest.mark.parametrize("record_id", ["ada.canary@example.org", "+16125550002", "612 555 0002"])
def test_a_mail_address_or_a_phone_number_is_no_id_and_is_not_repeated(
    crm: CrmService, record_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for call in (
        lambda: crm.find(record_id),
        lambda: crm.update(record_id, {"city": "Edina"}, key="k"),
    ):
        with pytest.raises(DataError, match="mail address or a phone number") as caught:
            call()
        assert record_id not in caught.value.message

    assert [(call.id, call.status) for call in crm.calls] == [("…", "data")] * 2
    assert record_id not in caplog.text
    assert shared_state().journal() == []


def test_an_id_of_the_crm_that_looks_like_a_phone_number_is_used_and_not_written_down(
    crm: CrmService, caplog: pytest.LogCaptureFixture
) -> None:
    assert crm.find("612-555-0002") is None
    assert crm.find("16125550002") is None

    assert [call.id for call in crm.calls] == ["…", "16125550002"]
    assert [line.rpartition(" ")[2] for line in caplog.messages] == ["…", "16125550002"]


def test_an_error_does_not_name_ids_that_are_mail_addresses(crm: CrmService) -> None:
    for row_id in ("ada.one@example.org", "ada.two@example.org"):
        row = {"id": row_id, "name": "A", "status": "lead", "email": "two@example.org", "services": []}
        shared_state().load("customers", [row])

    with pytest.raises(Unclear) as caught:
        crm.get_or_create({"email": "two@example.org"}, key="k")
    with pytest.raises(Permanent) as gone:
        crm.recheck("612-555-0002")

    assert "@" not in caught.value.message
    assert "555" not in gone.value.message


# -- listings without an end -------------------------------------------------------------------------


def endless(circle: bool) -> CrmService:
    """Return a CRM whose listings never end: in a circle of two pages, or with ever new ones."""

    class Endless(providers.get("mock")):  # type: ignore[misc]
        asked = 0

        def list_rows(self, entity: str, filters: Any, cursor: str) -> Rows:
            self.asked += 1
            return Rows([], str(self.asked % 2 if circle else self.asked))

        def search_rows(self, entity: str, text: str, cursor: str) -> Rows:
            return self.list_rows(entity, {}, cursor)

    return CrmService(Endless(Connection()), guarded=False)


@pytest.mark.parametrize("read", [lambda crm: list(crm.query()), lambda crm: crm.search("Ada")])
@pytest.mark.parametrize(("circle", "calls"), [(True, 3), (False, MAX_PAGES)])
def test_a_listing_without_an_end_is_a_data_error(
    read: Callable[[CrmService], Any], circle: bool, calls: int
) -> None:
    crm = endless(circle)

    with pytest.raises(DataError, match="customers") as caught:
        read(crm)

    assert crm.provider.asked == calls  # type: ignore[attr-defined]
    assert (caught.value.reason, caught.value.origin) == ("pages", "crm")


# -- what is known is not spoilt ---------------------------------------------------------------------


def test_notes_of_several_lines_are_added_once(crm: CrmService) -> None:
    crm.get_or_create({"phone": "+16125550002", "notes": "Intent: none"}, key="k0")
    for number in range(3):
        again, _ = open_service(guarded=False).get_or_create(
            {"phone": "+16125550002", "notes": "Call summary: x\nIntent: quote\n"}, key=f"k{number}"
        )
    assert str(again.notes).splitlines() == ["Intent: none", "Call summary: x", "Intent: quote"]

    other, _ = crm.get_or_create({"phone": "+16125550002", "notes": "Intent: none\nIntent: quote"}, key="k9")
    assert str(other.notes).splitlines()[3:] == ["Intent: none", "Intent: quote"]


def test_blank_text_and_what_is_no_phone_number_replace_nothing(crm: CrmService) -> None:
    mail = "berta.bergstrom.2@example.com"
    before = crm.find("cus_0002")

    after, created = crm.get_or_create(
        {"email": mail, "name": "   ", "phone": "unknown", "city": "\t", "notes": " \n"}, key="k"
    )

    assert (after, created) == (before, False)


def test_what_is_no_phone_number_fills_an_empty_field_only(crm: CrmService) -> None:
    made = crm.create({"name": "Zed", "status": "lead", "email": "zed@example.org", "phone": " "}, key="k1")
    first, _ = crm.get_or_create({"email": "zed@example.org", "phone": "ask Ann"}, key="k2")
    second, _ = crm.get_or_create({"email": "zed@example.org", "phone": "ask Bo"}, key="k3")
    third, _ = crm.get_or_create({"email": "zed@example.org", "phone": "612 555 0199"}, key="k4")

    assert made.id == first.id == second.id == third.id
    assert (first.phone, second.phone, third.phone) == ("ask Ann", "ask Ann", "+16125550199")


def test_addresses_are_compared_letter_by_letter_whatever_their_case(crm: CrmService) -> None:
    crm.create({"name": "S", "status": "lead", "email": "straße@example.org"}, key="k1")

    other, created = crm.get_or_create(
        {"name": "T", "status": "lead", "email": "STRASSE@example.org"}, key="k2"
    )
    same, created_again = crm.get_or_create({"email": "Straße@Example.org"}, key="k3")

    assert (created, created_again) == (True, False)
    assert other.id != same.id
