"""The watch over what tests write: it must itself notice."""

import re
import subprocess
import sys
from pathlib import Path

from tests.leaks import leaks, secrets_in
from tests.servers import ROOT, bare_environment

OPTIONS = ["-p", "no:cacheprovider", "-rA", "--show-capture=no"]
LEAKY = """
import logging

import pytest

from credentials.models import Credential
from sopengine import clock
from tasks.models import TaskEvent
from tests.tasks.runs import begun, published

STORED = "stored-secret-4711"


@pytest.fixture
def stored(db):
    row = Credential(service="crm", kind="api_key")
    row.set_secret(STORED)
    row.save()


def test_that_logs_a_setting(settings):
    settings.CRM_API_KEY = "secret-of-settings"
    logging.getLogger("crm").warning("we used %s", settings.CRM_API_KEY)


def test_that_prints_what_is_stored(stored):
    print(f"the key is {STORED}")


def test_that_logs_a_customer():
    logging.getLogger("crm").warning("found ada.anderson.1@example.com")


def test_that_keeps_a_secret_in_an_event(stored):
    task = begun(published("flow.wait"))
    data = {"code": STORED}
    TaskEvent.objects.create(task=task, seq=2, kind="x", status="ready", at=clock.now(), data=data)


def test_that_says_nothing(stored, settings):
    settings.CRM_API_KEY = "secret-of-settings"
    logging.getLogger("crm").warning("we used a key")
    print("the key ends in 4711")
"""


def test_a_test_that_writes_a_secret_or_a_customer_fails_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    watch = "_watched, pytest_collection_modifyitems, pytest_runtest_makereport"
    (tmp_path / "conftest.py").write_text(f"from tests.conftest import {watch}\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            "pyproject.toml",
            f"--rootdir={ROOT}",
            *OPTIONS,
            tmp_path,
        ],
        cwd=ROOT,
        env=bare_environment(DEBUG="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    said = {
        name: verdict
        for verdict, name in re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
        if verdict != "PASSED" or name == "test_that_says_nothing"
    }
    assert set(said) == set(re.findall(r"def (test_\w+)", LEAKY)), done.stdout + done.stderr
    assert said.pop("test_that_says_nothing") == "PASSED"
    assert "PASSED" not in said.values()


def test_secrets_are_known_by_the_names_of_what_holds_them() -> None:
    named = {
        "CRM_API_KEY": "a-long-key",
        "SLACK_SIGNING_SECRET": "8f742231b10e8888",
        "VAULT_KEYS": "new:QUJDREVGR0hJSktM,old:TU5PUFFSU1RVVldY",
        "CRM_OAUTH_TOKEN_URL": "https://login.example.com/token",
        "CRM_API_KEY_HEADER": "Authorization: Bearer",
        "METRICS_TOKEN": "short",
        "DEBUG": "1234567890",
    }
    assert secrets_in(named) == {"a-long-key", "8f742231b10e8888", "QUJDREVGR0hJSktM", "TU5PUFFSU1RVVldY"}


def test_tokens_and_people_are_known_by_their_looks() -> None:
    token = "access-" + "aB3_" * 8
    assert leaks([f"got {token} for it"])
    assert leaks(["to +16125550134"], people=True)
    assert not leaks(["to +16125550134"])
    assert not leaks(["access-denied for office@example.com"], people=True)
