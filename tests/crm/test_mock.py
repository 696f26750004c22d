"""The mock: its cast in proportion, its state shared between processes, its HTTP server."""

import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.management import call_command
from django.core.management.base import CommandError

from crm.mock.cast import cast_of, customers_for, settled
from crm.mock.scenario import ScenarioError, read_scenario
from crm.mock.state import MockState, Refused
from crm.providers.mock import forget_state, shared_state
from crm.service import open_service
from sopengine import clock
from sopengine.errors import DataError, RateLimited, Transient
from tests.crm.conftest import Serve, rest_service

ROOT = Path(__file__).resolve().parents[2]
AUTH = {"Authorization": "Bearer any"}


# -- the cast ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("past", [12, 24, 120, 1200])
def test_the_cast_keeps_its_proportions(past: int) -> None:
    now = clock.now()
    rows = [settled(row, now) for row in customers_for(past)]
    year = settled({"$year": 0}, now)
    former = [row for row in rows if row["status"] == "past"]
    treated = [row for row in former if {"fertilizer", "weed_control"} & set(row["services"])]
    found = [row for row in treated if year not in row["signed_seasons"]]

    assert len(former) == past
    assert len(treated) == past * 9 // 12
    assert len(found) == past * 7 // 12
    assert sum(row["do_not_contact"] for row in found) == past // 12
    assert sum(row["email"] is None for row in found) == past // 12
    assert Counter(row["status"] for row in rows)["active"] >= 2


def test_ids_mails_and_phones_are_each_customers_own() -> None:
    rows = customers_for(1500)

    for name in ("id", "phone", "email"):
        values = [row[name] for row in rows if row[name]]
        assert len(values) == len(set(values))
    assert all(row["email"].isascii() and row["email"].count("@") == 1 for row in rows if row["email"])


def test_few_customers_still_have_invoices_and_none_have_nothing() -> None:
    assert len(cast_of(1)["invoices"]) == 6
    assert cast_of(0) == {}


# -- the state ---------------------------------------------------------------------------------------


def test_a_file_is_shared_by_threads_and_reopened_as_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "crm.sqlite3")
    state = MockState(path)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda n: state.create("notes", {"customer_id": "cus_0001", "text": f"{n}"}, f"k{n}"),
                range(40),
            )
        )

    again = MockState(path, customers=500)

    assert sorted(row["text"] for row in again.rows("notes")) == sorted(str(n) for n in range(40))
    assert len(again.rows("customers")) == 16
    assert [entry["seq"] for entry in again.journal()] == list(range(1, 41))


WRITER = """
import sys
from django.conf import settings
settings.configure(CLOCK_OFFSET=0.0, CLOCK_OFFSET_FILE="", USE_TZ=True, TIME_ZONE="America/Chicago")
from crm.mock.state import MockState
state = MockState(sys.argv[1])
for number in range(30):
    state.create("notes", {"customer_id": "cus_0001", "text": f"note {number}"}, f"k{number}")
    assert state.find("customers", "cus_0002")["id"] == "cus_0002"
"""


def test_processes_side_by_side_apply_each_key_once(tmp_path: Path) -> None:
    path = str(tmp_path / "crm.sqlite3")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]

    state = MockState(path)
    assert len(state.rows("notes")) == 30
    outcomes = Counter(entry["outcome"] for entry in state.journal() if entry["operation"] == "create")
    assert outcomes == {"applied": 30, "replayed": 60}


def test_a_changed_file_is_seen_by_whoever_has_read_it_before(tmp_path: Path) -> None:
    path = str(tmp_path / "crm.sqlite3")
    one, other = MockState(path), MockState(path)
    assert one.query("customers", {"city": "Nowhere"})[1] == 0

    other.update("customers", "cus_0001", {"city": "Nowhere"}, "k")

    assert one.query("customers", {"city": "Nowhere"})[1] == 1


def test_an_answer_that_is_changed_does_not_change_the_state() -> None:
    state = MockState()
    found = state.find("customers", "cus_0001")
    assert found is not None
    found["services"].append("everything")
    state.rows("customers")[0]["name"] = "Nobody"

    assert state.find("customers", "cus_0001") != found
    assert state.rows("customers")[0]["name"] == "Ada Anderson"


@pytest.mark.parametrize(
    "row", [{"shoe_size": 43}, {"status": "asleep"}, {"services": "mowing"}, {"name": ""}, {"id": "x"}]
)
def test_a_malformed_write_is_refused_and_journalled(row: dict[str, Any]) -> None:
    state = MockState()

    with pytest.raises(Refused) as caught:
        state.update("customers", "cus_0001", row)

    assert caught.value.status == 422
    assert [entry["outcome"] for entry in state.journal()] == ["refused"]
    assert state.find("customers", "cus_0001") == MockState().find("customers", "cus_0001")


def test_the_notes_of_a_run_can_be_read_back() -> None:
    open_service(guarded=False).note("cus_0001", "Wrote on Monday", key="k")
    open_service(guarded=False).note("cus_0001", "Wrote on Monday", key="k")

    assert [(row["customer_id"], row["text"]) for row in shared_state().rows("notes")] == [
        ("cus_0001", "Wrote on Monday")
    ]
    forget_state()
    assert shared_state().rows("notes") == []


# -- the server --------------------------------------------------------------------------------------


def test_the_journal_tells_every_request_and_what_came_of_it(serve: Serve) -> None:
    server = serve()
    crm = rest_service(server)
    crm.find("cus_0001")
    crm.find("cus_9999")
    crm.note("cus_0001", "CANARY", key="k1")
    crm.note("cus_0001", "CANARY", key="k1")

    entries = requests.get(f"{server.url}/_journal", timeout=5).json()

    told = [(e["number"], e["method"], e["path"], e["status"], e["key"], e["outcome"]) for e in entries]
    assert told == [
        (1, "GET", "/api/v1/customers/cus_0001", 200, "", "read"),
        (2, "GET", "/api/v1/customers/cus_9999", 404, "", "not_found"),
        (3, "POST", "/api/v1/customers/cus_0001/notes", 201, "k1", "applied"),
        (4, "POST", "/api/v1/customers/cus_0001/notes", 201, "k1", "replayed"),
    ]
    assert "CANARY" not in json.dumps(entries)
    summary = requests.get(f"{server.url}/_journal?summary=1", timeout=5).json()
    assert summary["requests"] == 4
    assert summary["outcome"] == {"read": 1, "not_found": 1, "applied": 1, "replayed": 1}
    assert summary["status"] == {"200": 1, "404": 1, "201": 2}
    assert requests.delete(f"{server.url}/_journal", timeout=5).ok
    assert requests.get(f"{server.url}/_journal", timeout=5).json() == []


def test_the_summary_says_how_many_calls_were_in_flight(serve: Serve) -> None:
    server = serve(latency=0.2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: rest_service(server).find("cus_0001"), range(24)))

    summary = server.journal.summary()

    assert summary["in_flight"] == 0
    assert summary["max_in_flight"] == 8
    assert 5 < summary["average_in_flight"] <= 8
    assert max(entry["in_flight"] for entry in server.journal.entries()) == 8


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/customers?page=0", None, 422),
        ("GET", "/api/v1/customers?per_page=101", None, 422),
        ("GET", "/api/v1/customers?page=x", None, 422),
        ("GET", "/api/v1/customers?stauts=past", None, 422),
        ("GET", "/api/v1/customers?status=asleep", None, 422),
        ("GET", "/api/v1/customers?city=a&city=b", None, 422),
        ("GET", "/api/v1/customers?status=past&status=lead", None, 200),
        ("GET", "/api/v1/customers?services=mowing,fertilizer", None, 200),
        ("GET", "/api/v1/customers/search", None, 422),
        ("GET", "/api/v1/customers/search?q=a&colour=red", None, 422),
        ("GET", "/api/v1/customers/cus_0001/notes", None, 200),
        ("GET", "/api/v1/customers/cus_0001/notes?customer_id=cus_0002", None, 422),
        ("GET", "/api/v1/customers/cus_0001/notes?colour=red", None, 422),
        ("GET", "/api/v1/customers/cus_9999/notes", None, 404),
        ("GET", "/api/v1/notes", None, 404),
        ("GET", "/api/v1/deals", None, 404),
        ("GET", "/elsewhere", None, 404),
        ("PUT", "/api/v1/customers/cus_0001", "{}", 405),
        ("DELETE", "/api/v1/customers/cus_0001", None, 405),
        ("POST", "/api/v1/invoices", "{}", 405),
        ("POST", "/api/v1/customers", "no json", 400),
        ("POST", "/api/v1/customers", '{"name": "Ada"}', 422),
        ("POST", "/api/v1/customers", '{"customer": {"nmae": "Ada"}}', 422),
        ("PATCH", "/api/v1/customers/cus_9999", '{"customer": {"city": "Edina"}}', 404),
    ],
)
def test_the_server_is_as_strict_as_its_contract(
    serve: Serve, method: str, path: str, body: str | None, status: int
) -> None:
    answer = requests.request(method, serve().url + path, data=body, headers=AUTH, timeout=5)

    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()


def test_a_list_has_25_rows_and_says_how_many_there_are(serve: Serve) -> None:
    answer = requests.get(f"{serve(past=60).url}/api/v1/customers", headers=AUTH, timeout=5).json()

    assert len(answer["customers"]) == 25
    assert answer["meta"] == {"total": 80, "page": 1, "per_page": 25}


def test_a_body_without_a_sane_length_is_refused(serve: Serve) -> None:
    url = f"{serve().url}/api/v1/customers"

    assert requests.post(url, data=iter([b"{}"]), headers=AUTH, timeout=5).status_code == 413
    assert requests.post(url, data=b" " * 1_000_001, headers=AUTH, timeout=5).status_code == 413


def test_a_key_is_needed_and_a_scenario_can_name_it(serve: Serve) -> None:
    server = serve(api_key="right")
    url = f"{server.url}/api/v1/customers"

    assert requests.get(url, timeout=5).status_code == 401
    assert requests.get(url, headers={"Authorization": "Basic right"}, timeout=5).status_code == 401
    assert requests.get(url, headers=AUTH, timeout=5).status_code == 401
    assert rest_service(server, "right").find("cus_0001") is not None


def test_a_scenario_brings_rows_of_its_own(serve: Serve) -> None:
    server = serve(past=0, customers=[{"id": "x1", "name": "Eva", "last_service_date": {"$days": -3}}])

    (only,) = rest_service(server).query()

    assert (only.id, only.status, only.do_not_contact) == ("x1", "lead", False)


def test_a_fault_strikes_the_calls_it_names(serve: Serve) -> None:
    server = serve(
        faults=[
            {"call": 1, "status": 503, "retry_after": 9},
            {"on": "GET */cus_0002", "call": "1-2", "status": 429, "retry_after": 7},
            {"on": "GET */cus_0003", "body": "<html>"},
            {"on": "GET */cus_0004", "call": "2-", "drop": "before"},
        ]
    )
    crm = rest_service(server)

    with pytest.raises(Transient) as down:
        crm.find("cus_0001")
    for _ in range(2):
        with pytest.raises(RateLimited) as busy:
            crm.find("cus_0002")
    with pytest.raises(DataError) as html:
        crm.find("cus_0003")
    assert crm.find("cus_0001") is not None
    assert crm.find("cus_0002") is not None
    assert crm.find("cus_0004") is not None
    with pytest.raises(Transient) as dropped:
        crm.find("cus_0004", fresh=True)

    assert (down.value.retry_after, busy.value.retry_after) == (9.0, 7.0)
    assert (html.value.reason, dropped.value.reason) == ("not_json", "dropped")


def test_a_write_that_was_applied_and_not_answered_is_found_by_its_key(serve: Serve) -> None:
    server = serve(faults=[{"on": "POST */notes", "call": 1, "drop": "after"}])

    with pytest.raises(Transient) as caught:
        rest_service(server).note("cus_0001", "once", key="k1")
    note = rest_service(server).note("cus_0001", "once", key="k1")

    assert caught.value.sent == "maybe"
    assert [row["id"] for row in server.state.rows("notes")] == [note.id]
    assert [entry["outcome"] for entry in server.journal.entries()] == ["applied", "replayed"]


def test_a_crm_that_ignores_keys_writes_twice(serve: Serve) -> None:
    server = serve(ignore_keys=True)

    for _ in range(2):
        rest_service(server).note("cus_0001", "twice", key="k1")

    assert len(server.state.rows("notes")) == 2


def test_a_delay_makes_the_call_wait(serve: Serve) -> None:
    server = serve(faults=[{"on": "GET */cus_0002", "delay": 0.2}])
    started = time.monotonic()

    rest_service(server).find("cus_0002")

    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("faults: [", "not YAML in line"),
        ("colour: red", "colour"),
        ("faults: [{call: soon}]", "call"),
        ("faults: [{status: 99}]", "status"),
        ("faults: [{drop: sometimes}]", "drop"),
        ("customers: 12", "customers"),
    ],
)
def test_a_scenario_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)

    with pytest.raises(ScenarioError, match=said):
        read_scenario(path)
    with pytest.raises(CommandError, match=said):
        call_command("crm", "serve-mock", "--port", "0", "--scenario", str(path))
