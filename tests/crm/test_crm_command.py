"""`manage.py crm`: what each verb prints, what it refuses, and how the served mock misbehaves on demand."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.management import call_command
from django.core.management.base import CommandError

from credentials import store
from credentials.models import Credential
from crm import health
from crm.check import Check, Step, login_in_force
from crm.management.commands.crm import Command
from crm.mock.scenario import FAULTS, ScenarioError, fault_named
from crm.mock.server import MockServer, spoilt
from crm.providers.mock import shared_state
from sopengine.errors import AuthError, Transient
from tests.crm.conftest import SECRET, Serve
from tests.servers import ROOT

pytestmark = pytest.mark.django_db

AUTH = {"Authorization": "Bearer any"}


def output(*arguments: str) -> str:
    """Return what the command prints."""
    out = StringIO()
    call_command("crm", *arguments, stdout=out)
    return out.getvalue()


def refused(*arguments: str) -> tuple[str, str]:
    """Return what the command prints, and the sentence with which it fails."""
    out = StringIO()
    with pytest.raises(CommandError) as error:
        call_command("crm", *arguments, stdout=out)
    return out.getvalue(), str(error.value)


def misbehave(server: MockServer, *names: str) -> None:
    """Let the CRM answer with these faults from now on."""
    server.scenario.faults = [fault_named(name) for name in names]


def results(steps: list[Step]) -> dict[str, str]:
    """Return what came of each step."""
    return {step.name: step.result for step in steps}


# -- query -------------------------------------------------------------------------------------------


def test_query_lists_what_the_filters_let_through_and_says_mock() -> None:
    text = output("query", "customers", "status=past", "services=fertilizer,weed_control", "--limit", "3")

    assert "mock" in text.splitlines()[0]
    assert len([line for line in text.splitlines() if line.startswith("  cus_")]) == 3
    assert "limit of 3" in text


def test_query_prints_json() -> None:
    value = json.loads(output("query", "invoices", "status=open", "--json"))

    assert (value["provider"], value["mock"], len(value["invoices"])) == ("mock", True, 5)
    assert value["invoices"][0]["id"] == "inv_0001"


def test_query_means_customers_where_nothing_else_is_named() -> None:
    assert "4 customers" in output("query", "status=active,lead,cold")
    with pytest.raises(CommandError, match=r"'dogs'.*customers, invoices"):
        output("query", "dogs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status"], "name=value"),
        (["=past"], "name=value"),
        (["status=past", "status=lead"], "twice"),
        (["colour=red"], "colour"),
        (["status=asleep"], "past, active, lead, cold"),
    ],
)
def test_query_refuses_a_filter_that_is_none(arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        output("query", "customers", *arguments)


# -- status ------------------------------------------------------------------------------------------


def test_status_says_which_crm_and_what_it_can() -> None:
    text = output("status")

    assert "mock" in text.splitlines()[0]
    assert "answers in" in text
    assert re.search(r"customers: create, find, query, search, update", text)
    assert "Calls: made as usual" in text
    report = json.loads(output("status", "--json"))
    assert (report["mock"], report["answers"], report["problem"]) == (True, True, None)
    assert (report["health"]["state"], report["health"]["may_call"], report["login"]) == (
        "answers",
        True,
        None,
    )


def test_status_tells_the_breaker_the_last_calls_and_the_limit(server: MockServer) -> None:
    health.worked("crm", rate_left=17)
    for _ in range(5):
        health.failed("crm", Transient(code="http_503"))

    text = output("status")

    assert re.search(r"Calls: none are made: the CRM does not answer, next try \d\d:\d\d", text)
    assert re.search(
        r"Last answer 20.*; last failure 20.*: it answered with 503; 17 calls left of its limit\.", text
    )
    report = json.loads(output("status", "--json"))["health"]
    assert (report["state"], report["generation"], report["rate_left"]) == ("silent", 1, 17)
    assert report["until"] > report["since"]


def test_status_tells_the_login_without_showing_it(server: MockServer) -> None:
    assert "The login comes from the setting CRM_API_KEY." in output("status")
    credential = Credential(service="crm")
    credential.set_secret("another-secret-9876")
    store.put(credential)
    store.forget()

    text = output("status")

    assert "The login in force is api_key ····9876, active." in text
    assert json.loads(output("status", "--json"))["login"]["last4"] == "9876"
    assert SECRET not in text
    assert "another-secret" not in text + output("status", "--json")


def test_status_and_check_say_that_no_setting_stands_in_for_a_key_that_is_over(server: MockServer) -> None:
    credential = Credential(service="crm")
    credential.set_secret("another-secret-9876")
    store.put(credential)
    store.revoke(credential)
    store.forget()

    printed, said = refused("status")
    checked, _ = refused("check")

    assert "CRM_API_KEY is not used instead of it" in said
    assert "The API key that was stored for crm was revoked" in printed
    assert "3. token stored: failed. The API key that was stored for crm was revoked" in checked
    assert login_in_force() is None
    assert server.journal.entries() == []


def test_a_sentence_of_a_failed_step_calls_the_crm_by_its_name(settings: Any) -> None:
    settings.CRM_PROVIDER, settings.CRM_API_KEY = "rest", SECRET
    settings.CRM_BASE_URL = "http://127.0.0.1:9"

    steps = {step.name: step.text for step in Check().steps()}

    assert steps["authenticated"] == "CRM cannot be reached."


@pytest.mark.parametrize("latency", ["nan", "inf", "-1", "600001", "soon"])
def test_serve_mock_refuses_a_latency_that_cannot_be_waited(latency: str) -> None:
    _, said = refused("serve-mock", "--port", "0", "--latency", latency)
    assert "expected a number from 0 to 600000" in said


def test_status_fails_when_the_crm_does_not_answer(settings: Any) -> None:
    settings.CRM_PROVIDER, settings.CRM_API_KEY = "rest", SECRET
    settings.CRM_BASE_URL = "http://127.0.0.1:9"

    printed, said = refused("status")

    assert "unreachable" in said
    assert "does not answer" in printed
    assert SECRET not in printed + said


# -- hold and release --------------------------------------------------------------------------------


def test_hold_and_release_change_the_line_once() -> None:
    assert "Held: no call is made" in output("hold", "--by", "Ana", "--note", "they move servers")
    found = health.standing()
    assert (found.state, found.by, found.note) == ("held", "Ana", "they move servers")
    assert re.search(r"is held by Ana since .*: they move servers already", refused("hold")[1])
    assert "none are made: the CRM is held by Ana" in output("status")

    assert "Released" in output("release", "--by", "Bo")
    assert (health.standing().state, health.standing().by) == ("answers", "Bo")
    assert "nothing to release" in refused("release")[1]


def test_a_hold_without_a_name_has_that_of_the_login_here() -> None:
    output("hold")
    assert health.standing().by


# -- check -------------------------------------------------------------------------------------------


def test_check_passes_with_the_mock_and_says_so() -> None:
    text = output("check")

    assert "mock" in text.splitlines()[0]
    assert [line.split(". ")[:2] for line in text.splitlines()[1:6]] == [
        ["1", "configured: ok"],
        ["2", "authenticated: ok"],
        ["3", "token stored: skipped"],
        ["4", "list: ok"],
        ["5", "find: ok"],
    ]
    assert "The mock needs no login." in text


def test_check_passes_over_http_with_one_sentence_for_each_step(server: MockServer) -> None:
    text = output("check")

    assert "CRM_PROVIDER is rest, at 127.0.0.1." in text
    assert "The login comes from the setting CRM_API_KEY; none is stored." in text
    assert "found by its id, cus_0001." in text
    assert all(line.endswith(".") for line in text.splitlines())
    assert {entry["method"] for entry in server.journal.entries()} == {"GET"}
    report = json.loads(output("check", "--json"))
    assert (report["ok"], report["provider"], [step["number"] for step in report["steps"]]) == (
        True,
        "rest",
        [1, 2, 3, 4, 5],
    )


def test_check_with_write_makes_one_record_and_uses_it_again(server: MockServer) -> None:
    first, second = output("check", "--write"), output("check", "--write")

    made = [row for row in server.state.rows("customers") if row["name"] == "Self-test of the SOP engine"]
    assert len(made) == 1
    assert f"The self-test record {made[0]['id']} was created." in first
    assert f"The self-test record {made[0]['id']} was there already and is used again." in second
    assert made[0]["do_not_contact"] is True
    assert made[0]["source"].startswith("Self-test at 20")
    assert len([row for row in server.state.rows("notes") if row["customer_id"] == made[0]["id"]]) == 2


def test_check_without_write_writes_nothing() -> None:
    output("check")
    assert {entry["operation"] for entry in shared_state().journal()} <= {"query", "find"}


@pytest.mark.parametrize(
    ("fault", "failed", "skipped"),
    [
        ("401", {"authenticated"}, {"list", "find", "record", "note", "update"}),
        ("503", {"authenticated"}, {"list", "find", "record", "note", "update"}),
        ("html", {"authenticated"}, {"list", "find", "record", "note", "update"}),
        ("404@GET */customers/cus_*", {"find"}, set()),
        ("500@POST */customers", {"record"}, {"note", "update"}),
        ("403@POST */notes", {"note"}, set()),
        ("drop@PATCH *", {"update"}, set()),
    ],
)
def test_a_step_that_fails_skips_what_needs_it_and_the_command_fails(
    server: MockServer, fault: str, failed: set[str], skipped: set[str]
) -> None:
    misbehave(server, fault)

    found = results(list(Check(write=True).steps()))

    assert {name for name, result in found.items() if result == "failed"} == failed
    assert {name for name, result in found.items() if result == "skipped"} == skipped
    printed, said = refused("check", "--write")
    assert f"{', '.join(sorted(failed))} failed" in said
    for name in skipped:
        assert re.search(rf"\. {name}: skipped\. It needs the step “", printed)
    assert SECRET not in printed + said


def test_check_without_a_login_says_what_to_do(server: MockServer, settings: Any) -> None:
    settings.CRM_API_KEY = ""
    store.forget()

    found = {step.name: step for step in Check().steps()}

    assert (found["authenticated"].result, found["authenticated"].code) == ("failed", "no_credential")
    assert (found["token stored"].result, found["token stored"].code) == ("failed", "no_credential")
    assert "credential set crm" in found["token stored"].text
    assert login_in_force() is None
    assert server.journal.entries() == []


def test_check_with_an_unknown_provider_fails_at_its_first_step(settings: Any) -> None:
    settings.CRM_PROVIDER = "hubspace"
    steps = list(Check(write=True).steps())
    assert [step.result for step in steps] == ["failed"] + ["skipped"] * 7
    assert (steps[0].code, "mock, rest" in steps[0].text) == ("not_configured", True)


def test_check_of_an_empty_crm_has_nobody_to_find(settings: Any, serve: Serve) -> None:
    server = serve(past=0)
    settings.CRM_PROVIDER, settings.CRM_BASE_URL, settings.CRM_API_KEY = "rest", server.url, SECRET
    assert "4. list: ok. The first page of customers has 0 records." in output("check")
    assert "5. find: skipped. The list is empty" in output("check")


@pytest.mark.parametrize("state", ["held", "refused"])
def test_staff_check_a_line_that_is_closed_too(server: MockServer, state: str) -> None:
    if state == "held":
        health.hold("crm", "Ana")
    else:
        health.failed("crm", AuthError(code="auth"))
    assert set(results(list(Check().steps())).values()) == {"ok"}
    assert health.standing().state == state


# -- faults on demand --------------------------------------------------------------------------------

CUSTOMERS, ONE = "/api/v1/customers", "/api/v1/customers/cus_0001"


def ask(server: MockServer, path: str = CUSTOMERS, seconds: float = 5) -> requests.Response:
    """Make one GET."""
    return requests.get(f"{server.url}{path}", headers=AUTH, timeout=seconds)


@pytest.mark.parametrize("name", ["500", "503", "404", "401", "403", "429"])
def test_a_status_on_demand_is_answered(serve: Serve, name: str) -> None:
    server = serve()
    misbehave(server, name)
    assert (ask(server).status_code, "Retry-After" in ask(server).headers) == (int(name), False)


@pytest.mark.parametrize("value", ["7", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "soon"])
def test_a_pause_on_demand_says_what_it_is_told_to(serve: Serve, value: str) -> None:
    server = serve()
    misbehave(server, f"429={value}")
    assert ask(server).headers["Retry-After"] == value


@pytest.mark.parametrize(("name", "outcome"), [("drop", "dropped"), ("drop-after", "read")])
def test_a_line_on_demand_is_cut(serve: Serve, name: str, outcome: str) -> None:
    server = serve()
    misbehave(server, name)
    with pytest.raises(requests.ConnectionError):
        ask(server)
    (entry,) = server.journal.entries()
    assert (entry["status"], entry["outcome"]) == (None, outcome)


def test_silence_on_demand_outlasts_whoever_waits(serve: Serve) -> None:
    server = serve()
    misbehave(server, "timeout")
    with pytest.raises(requests.ReadTimeout):
        ask(server, seconds=0.3)
    misbehave(server, "slow=0.3")
    assert ask(server).elapsed.total_seconds() >= 0.3


def test_a_page_for_people_on_demand_is_no_json(serve: Serve) -> None:
    server = serve()
    misbehave(server, "html")
    assert ask(server).headers["Content-Type"] == "text/html"
    assert ask(server).text.startswith("<!doctype html>")


def test_a_truncated_answer_on_demand_breaks_off(serve: Serve) -> None:
    server = serve()
    misbehave(server, "truncated")
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        ask(server)
    assert server.journal.entries()[0]["status"] == 200


def test_records_on_demand_are_spoilt(serve: Serve) -> None:
    server = serve()
    misbehave(server, "wrong-type=services")
    assert ask(server).json()["customers"][0]["services"] == {"wrong": "type"}
    assert ask(server, ONE).json()["customer"]["services"] == {"wrong": "type"}
    misbehave(server, "wrong-type")
    assert ask(server, ONE).json()["customer"]["name"] == {"wrong": "type"}
    misbehave(server, "missing-field")
    assert "id" not in ask(server, ONE).json()["customer"]
    misbehave(server, "missing-field=name")
    assert all("name" not in row for row in ask(server).json()["customers"])
    misbehave(server, "not-a-list")
    assert ask(server).json()["customers"] == {}
    assert ask(server).json()["meta"]["page"] == 1
    assert ask(server, ONE).json() == {"customer": []}


def test_a_refusal_is_not_spoilt() -> None:
    told = {"error": "there is no customer with this id"}
    assert spoilt(told, "not_a_list", "") == spoilt(told, "missing_field", "id") == told


def test_a_pattern_says_which_calls_go_wrong(serve: Serve) -> None:
    server = serve()
    misbehave(server, "500@GET */customers/*", "404@* */customers")
    assert (ask(server, ONE).status_code, ask(server).status_code) == (500, 404)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fire", "there is no fault 'fire'; there are: timeout, slow"),
        ("", "there is no fault ''"),
        ("slow", "needs a value; expected such as --fault slow=2.5"),
        ("slow=soon", "not usable; expected such as --fault slow=2.5"),
        ("slow=-1", "not usable"),
        ("slow=inf", "not usable"),
        ("timeout=nan", "not usable"),
        ("500=7", "not usable; expected such as --fault 500"),
        ("429=", "not usable"),
        ("drop@", "after @ belongs a pattern"),
    ],
)
def test_a_fault_that_is_none_is_refused_with_what_is_expected(text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as error:
        fault_named(text)
    assert said in str(error.value)
    with pytest.raises(CommandError) as told:
        call_command("crm", "serve-mock", "--port", "0", "--fault", text)
    assert said in str(told.value)


def test_the_help_tells_each_fault_with_an_example_that_works() -> None:
    parser = Command().create_parser("manage.py", "crm")
    (verbs,) = [action.choices for action in parser._actions if action.dest == "verb"]
    told = verbs["serve-mock"].format_help()
    examples = re.findall(r"^ +--fault '?([a-z0-9][^'\n]+)'?$", told, re.MULTILINE)
    assert [re.split("[=@]", example)[0] for example in examples] == list(FAULTS)
    for example in examples:
        fault_named(example)


# -- the served mock as a process ----------------------------------------------------------------------


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, str]]:
    """Run the real command; yield the address that it prints last, and what it printed before that."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "crm", "serve-mock", "--port", "0", *arguments],
        cwd=ROOT,
        env={**os.environ, "DEBUG": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said, found = "", None
    while not found:
        line = process.stdout.readline()
        assert line, f"it ended: {said}"
        found = re.search(r"mock .* (http://127\.0\.0\.1:\d+)", line)
        said += "" if found else line
    yield found[1], said
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(60) == 0  # a busy machine takes its time
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve a mock with rows of its own, and with faults from a file and from the command line."""
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("customers: [{id: eva, name: Eva Probe}]\nfaults: [{on: '* */eva', status: 500}]\n")
    faults = ["--fault", "503@* */eva", "--fault", "401@POST *"]
    with serving("--customers", "24", "--scenario", str(scenario), *faults) as (url, _):
        yield url


def test_serve_mock_serves_misbehaves_and_ends_when_interrupted(served: str) -> None:
    answer = requests.get(f"{served}{CUSTOMERS}", headers=AUTH, timeout=5).json()

    assert answer["meta"]["total"] == 24 + 8 + 1
    assert requests.get(f"{served}{CUSTOMERS}/eva", headers=AUTH, timeout=5).status_code == 503
    assert requests.post(f"{served}{CUSTOMERS}", headers=AUTH, json={}, timeout=5).status_code == 401


def test_serve_mock_with_a_login_server_takes_its_tokens_only() -> None:
    with serving("--oauth") as (url, said):
        given = dict(re.findall(r"^  (CRM_OAUTH_\w+)=(\S+)$", said, re.MULTILINE))
        form = {
            "client_id": given["CRM_OAUTH_CLIENT_ID"],
            "client_secret": given["CRM_OAUTH_CLIENT_SECRET"],
            "grant_type": "client_credentials",
        }
        token = requests.post(given["CRM_OAUTH_TOKEN_URL"], data=form, timeout=5).json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}

        assert requests.get(f"{url}{CUSTOMERS}", headers=bearer, timeout=5).status_code == 200
        assert requests.get(f"{url}{CUSTOMERS}", headers=AUTH, timeout=5).status_code == 401
        assert given["CRM_OAUTH_AUTHORIZE_URL"].startswith("http://127.0.0.1:")
