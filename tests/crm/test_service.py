"""The service: which provider it opens, what it keeps of a customer, and plugins as one file."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from credentials.store import forget
from crm.filters import FILTERS
from crm.provider import Can, Connection, Provider, load_providers, providers
from crm.records import ENTITIES, ENTITY_OF, Account, plain
from crm.service import CUSTOMER_FIELDS, CrmService, open_service
from sopengine.errors import Permanent, Unsupported
from tests.crm.conftest import Serve, rest_service


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


def test_a_task_keeps_six_values_and_a_reference_of_its_customer() -> None:
    crm = open_service()

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
    assert open_service().customer_fields(None) == dict.fromkeys(CUSTOMER_FIELDS)


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
    crm = open_service()

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
        crm = open_service()

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


def test_a_filter_that_only_this_provider_lacks_is_refused_aloud() -> None:
    class Narrow(providers.get("mock")):  # type: ignore[misc]
        can = {"customers": Can({"query"}, {"status"})}

    crm = CrmService(Narrow(Connection()))

    assert list(crm.query(status="past"))
    assert not crm.customers.can("query", {"status": "past", "city": "Edina"})
    with pytest.raises(Unsupported, match="cannot filter customers by city; it can by: status"):
        list(crm.query(status="past", city="Edina"))


def test_a_verb_that_is_declared_and_not_written_is_refused() -> None:
    class Lazy(Provider):
        name = "rest"
        can = providers.get("rest").can

    crm = CrmService(Lazy(Connection()))

    for call in (
        lambda: crm.find("c1"),
        lambda: crm.search("x"),
        lambda: crm.pages(),
        lambda: crm.create({"name": "x"}, key="k"),
        lambda: crm.update("c1", {"name": "x"}, key="k"),
    ):
        with pytest.raises(Unsupported):
            call()
