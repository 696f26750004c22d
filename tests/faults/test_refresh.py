"""One login, many processes: one of them renews it, whatever happens to the others.

The token server is a real one on loopback that rotates refresh tokens and takes the whole login back
when a spent one is used again.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crm.mock.oauth import OAuthServer, running
from crm.mock.scenario import Scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from tests.length import AT_FULL_LENGTH, SOAK
from tests.processes import Process, eventually, manage, product_environment
from tests.servers import ROOT

EIGHT = 8
SECRETS = 300 if SOAK else 100
PATIENCE = 180.0  # seconds; eight processes begin at once, on a machine that may be busy
STORE = ("credential", "set", "crm", "--kind", "oauth_token", "--refresh-token")
QUERY = ("crm", "query", "--limit", "1", "--json")
KEYS = {"k1": "k1:" + "A" * 42 + "E=", "k2": "k2:" + "B" * 42 + "E="}


@pytest.fixture(params=["postgresql", pytest.param("sqlite", marks=AT_FULL_LENGTH)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a migrated database, on each of the two."""
    if request.param == "postgresql":
        address: str = request.getfixturevalue("database_url")
        return address
    address = f"sqlite:///{tmp_path / 'engine.sqlite3'}"
    manage(product_environment(address), "migrate", "--verbosity", "0")
    return address


@pytest.fixture
def server() -> Iterator[OAuthServer]:
    """A token server whose answers take a while, so that all ask before the first has one."""
    with running(OAuthServer(latency=0.5)) as server:
        yield server


def environment_of(database: str, server: OAuthServer, **more: str) -> dict[str, str]:
    """Return the settings of a process that logs in at this server."""
    settings = {
        "DJANGO_SETTINGS_MODULE": "sopengine.settings",
        "CRM_PROVIDER": "rest",
        "CRM_BASE_URL": server.url,
        "CRM_AUTH": "oauth",
        "CRM_OAUTH_AUTHORIZE_URL": server.authorize_url,
        "CRM_OAUTH_TOKEN_URL": server.token_url,
        "CRM_OAUTH_CLIENT_ID": server.client_id,
        "CRM_OAUTH_CLIENT_SECRET": server.client_secret,
        "VAULT_KEYS": KEYS["k1"],
        "ENGINE_CALL_TIMEOUT": "30",
        **more,
    }
    return product_environment(database, **settings)


def log_in(environment: dict[str, str], server: OAuthServer) -> None:
    """Store a login that was made elsewhere, as staff do it."""
    subprocess.run(
        [sys.executable, "manage.py", *STORE],
        cwd=ROOT,
        env=environment,
        input=server.new_login(),
        text=True,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )


class Refresher(Process):
    """One of the processes that ask for the token (see `refresher`)."""

    def __init__(self, environment: dict[str, str], log: Path, verb: str, *more: str) -> None:
        command = [sys.executable, "-m", "tests.faults.run", "refresher", verb, str(log.parent), *more]
        super().__init__(command, environment, log=log)

    def ready(self, times: int = 1) -> None:
        """Wait until it has said so many times that it is ready."""
        eventually(lambda: self.output().count("ready") >= times, PATIENCE, what=self.output)

    def result(self) -> dict[str, Any]:
        """Wait for its end; return what came of it."""
        eventually(lambda: not self.alive, PATIENCE, what=self.output)
        assert self.exit_code == 0, self.output()
        found: dict[str, Any] = json.loads(self.output().splitlines()[-1])
        return found


def test_eight_processes_renew_one_login_with_one_call(
    database: str, server: OAuthServer, tmp_path: Path
) -> None:
    environment = environment_of(database, server)
    log_in(environment, server)
    eight = [Refresher(environment, tmp_path / f"refresher-{n}.log", "twice") for n in range(EIGHT)]
    try:
        for process in eight:
            process.ready()
        (tmp_path / "first").touch()
        for process in eight:
            process.ready(times=2)
        assert [call.grant for call in server.calls] == ["refresh_token"]
        (tmp_path / "second").touch()  # as after a 401 that all of them got
        results = [process.result() for process in eight]
    finally:
        for process in eight:
            process.kill()
    assert [name for found in results for name in ("first", "second") if "error" in found[name]] == []
    assert len({found["first"]["hash"] for found in results}) == 1
    assert len({found["second"]["hash"] for found in results}) == 1
    assert results[0]["first"] != results[0]["second"]
    assert [call.said for call in server.calls] == ["", ""]
    assert called_by_another_process(environment, server) == {"calls": 2, "customers": 1}


def called_by_another_process(environment: dict[str, str], server: OAuthServer) -> dict[str, int]:
    """Let a process of its own make its first CRM call; return what it read, and the calls for tokens."""
    (access,) = server.access_tokens()
    crm = MockServer(MockState(customers=3), scenario=Scenario(api_key=access))
    thread = threading.Thread(target=crm.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        printed = manage({**environment, "CRM_BASE_URL": crm.url}, *QUERY, within=PATIENCE)
    finally:
        crm.shutdown()
        thread.join()
        crm.server_close()
    answer = json.loads(printed[printed.index("{\n") :])  # behind the lines of the log
    return {"calls": len(server.calls), "customers": len(answer["customers"])}


def test_the_lease_of_a_process_that_died_runs_out(
    database: str, server: OAuthServer, tmp_path: Path
) -> None:
    """With a server that does not rotate: where it does, its answer to the dead process is lost for ever."""
    server.rotate, server.latency = False, 3.0
    environment = environment_of(database, server, ENGINE_CALL_TIMEOUT="4")
    log_in(environment, server)
    first = Refresher(environment, tmp_path / "first.log", "twice")
    first.ready()
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    eventually(lambda: len(server.calls) + server.under_way > 0, PATIENCE)
    first.kill()
    server.latency = 0.0
    heir = Refresher(
        {**environment, "ENGINE_CALL_TIMEOUT": "30"}, tmp_path / "heir.log", "twice"
    )  # which waits for longer than the lease of the dead one lasts
    assert "error" not in heir.result()["first"]


def test_keys_are_rotated_while_a_login_is_renewed(
    database: str, server: OAuthServer, tmp_path: Path
) -> None:
    """As operators do it: the new key is added, then put first; the rotation is killed, and run again."""
    server.latency = 0.0
    both, turned = ",".join([KEYS["k1"], KEYS["k2"]]), ",".join([KEYS["k2"], KEYS["k1"]])
    environment = environment_of(database, server)
    log_in(environment, server)
    Refresher(environment, tmp_path / "fill.log", "fill", str(SECRETS)).result()

    renewing = Refresher({**environment, "VAULT_KEYS": both}, tmp_path / "old.log", "again")
    renewing.ready()
    command = [sys.executable, "manage.py", "credential", "rotate-keys", "--batch", "5"]
    rotation = Process(command, {**environment, "VAULT_KEYS": turned}, log=tmp_path / "rotation.log")
    eventually(lambda: rotation.output().count("so far") > 3, PATIENCE, every=0.005, what=rotation.output)
    rotation.kill()
    manage({**environment, "VAULT_KEYS": turned}, "credential", "rotate-keys", within=PATIENCE, ok=False)
    (tmp_path / "stop").touch()
    found = renewing.result()
    assert (found["errors"], found["count"] > 5) == ([], True)

    (tmp_path / "stop").unlink()
    renewing = Refresher({**environment, "VAULT_KEYS": turned}, tmp_path / "new.log", "again")
    renewing.ready()
    printed = manage({**environment, "VAULT_KEYS": turned}, "credential", "rotate-keys", within=PATIENCE)
    assert "Everything is sealed with the key 'k2'" in printed
    (tmp_path / "stop").touch()
    found = renewing.result()
    assert (found["errors"], found["count"] > 5) == ([], True)

    alone = {**environment, "VAULT_KEYS": KEYS["k2"]}
    assert Refresher(alone, tmp_path / "opened.log", "opened").result() == {
        "count": SECRETS + 1,
        "keys": ["k2"],
    }
    assert {call.said for call in server.calls} == {""}
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    assert "error" not in Refresher(alone, tmp_path / "after.log", "twice").result()["second"]
