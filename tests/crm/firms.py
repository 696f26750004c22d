"""The CRMs that have to keep the same contract, each with what a test may do to it from behind.

mock     in this process            rest     over HTTP, in the shape of our contract
shaped   over HTTP, in a second one served   `manage.py crm serve-mock`, a process of its own
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
import yaml

from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.provider import Connection, providers
from crm.providers.mock import shared_state
from crm.service import CrmService
from tests.crm.conftest import Key, rest_service, shaped_service
from tests.crm.shapes.answers import number_of
from tests.servers import ROOT

Told = list[tuple[str, str]]  # what was asked (read, create, update) and what came of it
VERBS = {"GET": "read", "POST": "create", "PATCH": "update"}


class Firm:
    """One CRM under test."""

    kind = ""

    @cached_property
    def crm(self) -> CrmService:
        """The service of this test's run."""
        return self.again()

    def again(self) -> CrmService:
        """Return a new service, as a repeat or another run would have."""
        raise NotImplementedError

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Put customers into it; services from before are of no use any more."""
        raise NotImplementedError

    def told(self) -> Told:
        """Return what it was asked, in order."""
        raise NotImplementedError

    def move_clock(self, settings: Any, seconds: float) -> None:
        """Move its clock and ours."""
        settings.CLOCK_OFFSET, settings.CLOCK_OFFSET_FILE = seconds, ""

    def id(self, name: str) -> str:
        """Return the id by which it knows a row of the mock."""
        return name


class InProcess(Firm):
    """The mock of this process."""

    kind = "mock"

    def again(self) -> CrmService:
        return CrmService(providers.get("mock")(Connection()), guarded=False)

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        shared_state().load("customers", rows)

    def told(self) -> Told:
        verbs = {"create": "create", "update": "update"}
        return [(verbs.get(one["operation"], "read"), one["outcome"]) for one in shared_state().journal()]


class Served(Firm):
    """A mock that a thread of this process serves, in one shape or the other."""

    def __init__(self, kind: str, server: MockServer) -> None:
        self.kind = kind
        self.server = server
        self.state: MockState = server.state

    def again(self) -> CrmService:
        return rest_service(self.server) if self.kind == "rest" else shaped_service(self.server.url)

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.state.load("customers", rows)

    def told(self) -> Told:
        return _told(self.server.journal.entries())

    def id(self, name: str) -> str:
        return name if self.kind == "rest" else str(number_of(name))


# Loads Django once, then runs one command after the other, each in a process of its own.
LAUNCHER = """
import json, os, sys
import django
from django.core.management import execute_from_command_line
django.setup()
import crm.management.commands.crm
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        print(os.getpid(), flush=True)
        execute_from_command_line(["manage.py", *json.loads(line)])
        sys.stdout.flush()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Process(Firm):
    """`manage.py crm serve-mock`, known by nothing but its address: begun anew once it was changed."""

    kind = "served"

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "offset"
        self._scenario = folder / "scenario.yaml"
        self._offset.write_text("0")
        self._launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER],
            cwd=ROOT,
            env={
                **os.environ,
                "DEBUG": "1",
                "DJANGO_SETTINGS_MODULE": "sopengine.settings",
                "CLOCK_OFFSET_FILE": str(self._offset),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._pid = 0
        self._changed = False
        self.url = ""
        self.begin()

    def begin(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Start the process, with more customers than usual, and wait until it answers."""
        self.end()
        self._offset.write_text("0")
        self._scenario.write_text(yaml.safe_dump({"customers": [dict(row) for row in rows]}))
        self._say(["crm", "serve-mock", "--port", "0", "--scenario", str(self._scenario)])
        self._pid = int(self._hear())
        found = re.search(r"http://127\.0\.0\.1:\d+", self._hear())
        assert found
        self.url = found[0]
        requests.get(f"{self.url}/_journal", timeout=10)

    def end(self) -> None:
        """Stop the process as Ctrl-C does."""
        if self._pid:
            os.kill(self._pid, signal.SIGINT)
            self._pid = 0
            assert "ended" in self._hear()
            assert int(self._hear()) == 0

    def close(self) -> None:
        """Stop everything."""
        self.end()
        self._launcher.communicate(timeout=20)

    def _say(self, command: list[str]) -> None:
        assert self._launcher.stdin is not None
        self._launcher.stdin.write(f"{json.dumps(command)}\n")
        self._launcher.stdin.flush()

    def _hear(self) -> str:
        assert self._launcher.stdout is not None
        return self._launcher.stdout.readline()

    def tidy(self) -> None:
        """Make it as new for the next test."""
        self.__dict__.pop("crm", None)
        if self._changed or any(outcome == "applied" for _, outcome in self.told()):
            self._changed = False
            self.begin()
        else:
            requests.delete(f"{self.url}/_journal", timeout=5)

    def again(self) -> CrmService:
        connection = Connection(self.url, Key())
        return CrmService(providers.get("rest")(connection), guarded=False)

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._changed = True
        self.__dict__.pop("crm", None)
        self.begin(rows)

    def told(self) -> Told:
        return _told(requests.get(f"{self.url}/_journal", timeout=5).json())

    def move_clock(self, settings: Any, seconds: float) -> None:
        super().move_clock(settings, seconds)
        self._changed = True
        self._offset.write_text(str(seconds))
        time.sleep(1.1)  # it reads the file once a second


def _told(entries: Iterable[Mapping[str, Any]]) -> Told:
    return [(VERBS[entry["method"]], entry["outcome"]) for entry in entries]
