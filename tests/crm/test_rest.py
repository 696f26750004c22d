"""The REST provider: what it sends, and what it makes of answers that are not what was promised."""

import json
from typing import Any

import pytest
import responses

from crm.provider import Connection, providers
from crm.service import CrmService
from sopengine.errors import AuthError, DataError, Permanent, StepError, Transient, Unsupported
from tests.crm.conftest import Key

BASE = "https://crm.example.com"
CUSTOMERS = f"{BASE}/api/v1/customers"
ADA = {"id": "c1", "name": "Ada", "status": "past"}
META = {"total": 1, "page": 1, "per_page": 25}


def service(base_url: str = BASE, key: str | None = "s3cret") -> CrmService:
    return CrmService(providers.get("rest")(Connection(base_url, Key(key))), guarded=False)


def sent() -> Any:
    return responses.calls[0].request


@responses.activate
@pytest.mark.parametrize("base_url", [BASE, f"{BASE}/", f"{BASE}/api/v1", f"{BASE}/api/v1/"])
def test_the_address_may_be_given_with_or_without_its_root(base_url: str) -> None:
    responses.get(f"{CUSTOMERS}/c1", json={"customer": ADA})

    assert service(base_url).find("c1").name == "Ada"  # type: ignore[union-attr]
    assert sent().headers["Authorization"] == "Bearer s3cret"


@responses.activate
def test_filters_go_out_in_the_contracts_words() -> None:
    responses.get(CUSTOMERS, json={"customers": [ADA], "meta": META})

    list(
        service().query(
            status="past",
            services=["fertilizer", "weed_control"],
            not_signed_for_season="2026",
            last_service_before="2026-01-31",
            city="St. Paul & Co",
        )
    )

    assert sent().params == {
        "status": "past",
        "services": "fertilizer,weed_control",
        "not_signed_for_season": "2026",
        "last_service_before": "2026-01-31",
        "city": "St. Paul & Co",
        "page": "1",
        "per_page": "100",
    }


@responses.activate
def test_a_write_wraps_its_record_and_carries_its_key() -> None:
    responses.post(f"{CUSTOMERS}/c1/notes", json={"note": {"id": "n1", "customer_id": "c1", "text": "hi"}})

    service().note("c1", "hi", key="task:note:1")

    assert json.loads(sent().body) == {"note": {"text": "hi"}}
    assert sent().headers["Idempotency-Key"] == "task:note:1"


@responses.activate
def test_notes_are_asked_for_at_the_customer_they_belong_to() -> None:
    responses.get(
        f"{CUSTOMERS}/c%2F1/notes",
        json={"notes": [{"id": "n1", "customer_id": "c/1", "text": "hi"}], "meta": META},
    )

    (note,) = service().notes.query(customer_id="c/1")

    assert (note.id, note.customer_id, note.text) == ("n1", "c/1", "hi")
    assert sent().params == {"page": "1", "per_page": "100"}


@responses.activate
@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_crm_without_a_list_of_notes_is_no_empty_list(status: int) -> None:
    responses.get(f"{CUSTOMERS}/c1/notes", status=status)

    with pytest.raises(StepError):
        list(service().notes.query(customer_id="c1"))


@pytest.mark.parametrize("customer_id", ["..", "a\nb", "a" * 201])
def test_the_notes_of_no_id_are_never_asked_for(customer_id: str) -> None:
    with pytest.raises(DataError):
        list(service().notes.query(customer_id=customer_id))


@responses.activate
def test_pages_go_on_at_the_size_that_the_crm_allows() -> None:
    for page in (1, 2, 3):
        rows = [{**ADA, "id": f"c{page}{place}"} for place in range(25 if page < 3 else 5)]
        responses.get(
            CUSTOMERS,
            json={"customers": rows, "meta": {"total": 55, "page": page, "per_page": 25}},
            match=[responses.matchers.query_param_matcher({"page": page, "per_page": 100})],
        )

    assert len(list(service().query())) == 55


def paged(page: int, rows: int, total: int) -> None:
    """Let the CRM have this page of 25 rows at most."""
    responses.get(
        CUSTOMERS,
        json={
            "customers": [{**ADA, "id": f"c{page}-{place}"} for place in range(rows)],
            "meta": {"total": total, "page": page, "per_page": 25},
        },
        match=[responses.matchers.query_param_matcher({"page": page, "per_page": 100})],
    )


@responses.activate
@pytest.mark.parametrize("last", [(5, 30), (3, 30), (0, 20)])
def test_rows_may_vanish_while_pages_are_read(last: tuple[int, int]) -> None:
    paged(1, 25, 30)
    paged(2, *last)

    assert len(list(service().query())) == 25 + last[0]


@responses.activate
@pytest.mark.parametrize(("rows", "total"), [(10, 80), (6, 30), (1, 25)])
def test_a_later_page_with_fewer_or_more_rows_than_it_promises_is_a_data_error(rows: int, total: int) -> None:
    paged(1, 25, max(total, 30))
    paged(2, rows, total)

    with pytest.raises(DataError, match="page 2 of customers has not the rows it promises"):
        list(service().query())


@responses.activate
def test_each_page_of_a_search_is_a_call_of_its_own_and_called_a_search(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for page, rows in ((1, 25), (2, 5)):
        responses.get(
            f"{CUSTOMERS}/search",
            json={
                "customers": [{**ADA, "id": f"c{page}-{place}"} for place in range(rows)],
                "meta": {"total": 30, "page": page, "per_page": 25},
            },
            match=[responses.matchers.query_param_matcher({"q": "Ada", "page": page, "per_page": 100})],
        )
    crm = service()

    assert len(crm.search("Ada")) == 30
    assert [(call.operation, call.status) for call in crm.calls] == [("search", "ok")] * 2
    assert [line.partition(" -> ")[0] for line in caplog.messages] == ["crm GET customers.search"] * 2


@responses.activate
@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "customers",
        None,
        {"customers": None, "meta": META},
        {"customers": {"c1": ADA}, "meta": META},
        {"customers": [ADA]},
        {"customers": [ADA], "meta": None},
        {"customers": [ADA], "meta": {"total": 1}},
        {"customers": [ADA], "meta": {**META, "total": "1"}},
        {"customers": [ADA], "meta": {**META, "total": -1}},
        {"customers": [ADA], "meta": {**META, "total": True}},
        {"customers": [ADA], "meta": {**META, "page": 2}},
        {"customers": [ADA, ADA], "meta": {**META, "per_page": 1}},
        {"customers": [], "meta": META},
        {"customers": [ADA], "meta": {**META, "total": 0}},
        {"customers": [ADA, ADA], "meta": META},
        {"customers": [ADA] * 25, "meta": {"total": 60, "page": 1, "per_page": 100}},
        {"customers": [ADA] * 25, "meta": {"total": 600, "page": 1, "per_page": 100}},
        {"customers": [ADA, "c2"], "meta": META},
        {"customers": [{"id": "c1"}], "meta": META},
    ],
)
def test_a_page_that_is_not_what_was_promised_is_a_data_error(value: Any) -> None:
    responses.get(CUSTOMERS, json=value)

    with pytest.raises(DataError):
        list(service().query())


@responses.activate
@pytest.mark.parametrize(
    "value", [{}, [], {"customer": None}, {"customer": [ADA]}, ADA, {"customer": {"id": "c1"}}]
)
def test_a_record_that_is_not_what_was_promised_is_a_data_error(value: Any) -> None:
    responses.get(f"{CUSTOMERS}/c1", json=value)

    with pytest.raises(DataError):
        service().find("c1")


@responses.activate
@pytest.mark.parametrize(
    "value", [{}, {"customer": None}, {"customer": {"id": "c1"}}, {"customer": {**ADA, "id": "c2"}}]
)
def test_a_write_whose_answer_cannot_be_read_may_have_been_applied(value: Any) -> None:
    responses.patch(f"{CUSTOMERS}/c1", json=value)

    with pytest.raises(DataError) as caught:
        service().update("c1", {"city": "Edina"}, key="k")

    assert caught.value.sent == "maybe"


@responses.activate
def test_another_customer_than_the_one_asked_for_is_a_data_error() -> None:
    responses.get(f"{CUSTOMERS}/c1", json={"customer": {**ADA, "id": "c2"}})

    with pytest.raises(DataError, match="another"):
        service().find("c1")


@responses.activate
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, AuthError, "auth"),
        (422, Permanent, "http_422"),
        (500, Transient, "http_500"),
        (409, Transient, "http_409"),
    ],
)
def test_a_refused_write_is_told_by_its_status(status: int, kind: type[StepError], code: str) -> None:
    responses.post(CUSTOMERS, status=status, json={"error": "CANARY"})
    crm = service()

    with pytest.raises(kind) as caught:
        crm.create({"name": "Ada"}, key="k")

    assert caught.value.reason == crm.calls[0].status == code
    assert "CANARY" not in str(caught.value)
    assert len(responses.calls) == 1


@responses.activate
def test_a_list_that_is_not_there_is_no_empty_list() -> None:
    responses.get(CUSTOMERS, status=404)

    with pytest.raises(Permanent):
        list(service().query())


@responses.activate
@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_nothing_is_called(key: str | None) -> None:
    with pytest.raises(AuthError) as caught:
        service(key=key).find("c1")

    assert caught.value.reason == "no_credential"
    assert len(responses.calls) == 0


@responses.activate
def test_a_key_that_was_replaced_is_tried_once_more_and_no_oftener() -> None:
    responses.get(f"{CUSTOMERS}/c1", status=401)
    responses.get(f"{CUSTOMERS}/c1", json={"customer": ADA})
    responses.get(f"{CUSTOMERS}/c2", status=401)
    access = Key("old", next="new")
    crm = CrmService(providers.get("rest")(Connection(BASE, access)), guarded=False)

    assert crm.find("c1") is not None
    with pytest.raises(AuthError):
        crm.find("c2")

    assert [call.request.headers["Authorization"] for call in responses.calls] == [
        "Bearer old",
        "Bearer new",
        "Bearer new",
    ]
    assert [call.status for call in crm.calls] == ["ok", "auth"]


@responses.activate
def test_a_key_that_may_not_do_this_is_not_tried_again() -> None:
    responses.get(f"{CUSTOMERS}/c1", status=403)
    access = Key("old", next="new")

    with pytest.raises(AuthError) as caught:
        CrmService(providers.get("rest")(Connection(BASE, access)), guarded=False).find("c1")

    assert (caught.value.reason, len(responses.calls)) == ("forbidden", 1)


@responses.activate
def test_what_the_crm_says_of_repeats_and_of_calls_left_is_kept() -> None:
    responses.post(
        CUSTOMERS,
        json={"customer": ADA},
        headers={"Idempotency-Replayed": "true", "X-RateLimit-Remaining": "17"},
    )
    responses.get(f"{CUSTOMERS}/c1", json={"customer": ADA}, headers={"X-RateLimit-Remaining": "16"})
    crm = service()

    crm.create({"name": "Ada"}, key="k")
    assert (crm.provider.replayed, crm.provider.rate_left) == (True, 17)
    crm.find("c1")

    assert (crm.provider.replayed, crm.provider.rate_left) == (False, 16)
    assert [call.status for call in crm.calls] == ["replayed", "ok"]


@pytest.mark.parametrize(("hours", "kept"), [(24.0, 24.0), (0.5, 0.5), (0.0, None)])
def test_for_how_long_keys_are_kept_is_what_the_setting_says(
    settings: Any, hours: float, kept: float | None
) -> None:
    settings.CRM_IDEMPOTENCY_HOURS = hours

    assert service().idempotency == kept


@responses.activate
def test_a_key_that_would_break_its_header_never_leaves_and_is_not_told() -> None:
    with pytest.raises(DataError) as caught:
        service(key="s3cret\r\nX-Evil: 1").find("c1")

    assert "s3cret" not in str(caught.value)


def test_an_address_that_is_missing_is_said_in_words() -> None:
    with pytest.raises(Permanent, match="address"):
        service("").find("c1")


@responses.activate
def test_a_crm_that_does_not_say_who_has_signed_is_not_asked_who_has_not() -> None:
    responses.get(CUSTOMERS, json={"customers": [ADA], "meta": META})
    crm = service()

    (ada,) = crm.query(not_signed_for_season=2026)

    with pytest.raises(Unsupported, match="season"):
        crm.matches(ada, {"not_signed_for_season": 2026})
    assert crm.matches(ada, {"status": "past"})
