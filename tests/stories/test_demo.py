"""`manage.py demo` as a newcomer runs it: no settings, one command, a summary that adds up."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.length import AT_FULL_LENGTH
from tests.processes import Process, eventually, manage, product_environment
from tests.servers import ROOT, free_port

SECONDS = 60  # until the summary, on two cores
ASKED = {"found": 7, "skipped": 2}
# What a developer's shell may hold; the demo must obey none of it.
HOSTILE = {
    "DEBUG": "0",
    "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "EMAIL_URL": "smtp://127.0.0.1:1",
    "CRM_PROVIDER": "rest",
    "CRM_BASE_URL": "http://127.0.0.1:1",
    "CHAT": "slack",
    "PLUGINS": "nothing",
    "CLOCK_OFFSET": "nonsense",
}


def run_demo(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, dict[str, int]]:
    """Run the demo to its end in an environment that has nothing else; return code, output and numbers."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "manage.py", "demo", "--no-serve", *arguments],
        cwd=ROOT,
        env={"DEMO_FOLDER": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        check=False,
    )
    assert time.monotonic() - began < SECONDS, done.stdout
    numbers = {
        name: int(number) for name, number in re.findall(r"^  (\w+) +(\d+)\b", done.stdout, re.MULTILINE)
    }
    return done.returncode, done.stdout + done.stderr, numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all demos of this file: each begins anew in what the one before has left."""
    return tmp_path_factory.mktemp("demo")


@pytest.mark.parametrize(
    ("arguments", "environment", "answered", "sent"),
    [
        ([], {}, (4, 0, 1), 4),
        (["--answer", "approve"], HOSTILE, (5, 0, 0), 5),
        pytest.param(["--answer", "decline"], {}, (0, 5, 0), 0, marks=AT_FULL_LENGTH),
        pytest.param(["--answer", "leave"], {}, (0, 0, 5), 0, marks=AT_FULL_LENGTH),
    ],
    ids=["all but one, no environment", "approve, a hostile environment", "decline", "leave"],
)
def test_the_summary_adds_up_for_every_answer(
    folder: Path,
    arguments: list[str],
    environment: dict[str, str],
    answered: tuple[int, int, int],
    sent: int,
) -> None:
    code, said, numbers = run_demo(folder, *arguments, **environment)
    assert code == 0, said
    names = ("approved", "declined", "waiting")
    assert numbers == {**ASKED, **dict(zip(names, answered, strict=True)), "sent": sent, "noted": sent}
    assert len(list((folder / "mail").glob("*.eml"))) == sent
    assert "mock" in said
    assert "does not add up" not in said
    assert "Traceback" not in said


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Process]:
    """A demo that stays."""
    command = [sys.executable, "manage.py", "demo", "--port", str(free_port())]
    with Process(command, {"DEMO_FOLDER": str(tmp_path)}, log=tmp_path / "output.log") as process:
        yield process


def test_the_demo_stays_goes_on_working_and_ends_with_ctrl_c(tmp_path: Path, demo: Process) -> None:
    eventually(lambda: "Ctrl-C ends" in demo.output(), SECONDS, what=demo.output)
    said = demo.output()
    address = said_after("The site", said)
    with requests.Session() as browser:
        log_in(browser, address, said)
        draft = re.findall(r"(http://127\.0\.0\.1:\d+/admin/tasks/approval/\S+)", said)[-1]
        assert browser.get(draft).status_code == 200

    code, refused, _ = run_demo(tmp_path)
    assert code == 1
    assert "Another demo is running" in refused

    approval = urlsplit(draft).path.split("/")[4]
    by_hand = product_environment(
        f"sqlite:///{tmp_path / 'demo.sqlite3'}",
        CLOCK_OFFSET_FILE=str(tmp_path / "clock"),
        EMAIL_FOLDER=str(tmp_path / "mail"),
        CRM_MOCK_FILE=str(tmp_path / "crm-mock.sqlite3"),
    )
    manage(by_hand, "approval", "answer", approval, "--choose", "approve")
    eventually(lambda: len(list((tmp_path / "mail").glob("*.eml"))) == 5, 20, what="the fifth mail")

    demo.signal(signal.SIGINT)
    eventually(lambda: not demo.alive, 20, what=demo.output)
    assert demo.exit_code == 0
    assert demo.output().rstrip().endswith("The demo has ended.")
    assert "Traceback" not in demo.output()


def said_after(label: str, said: str) -> str:
    """Return the word behind a label at the beginning of a line."""
    return re.search(rf"^{label} +(\S+)", said, re.MULTILINE)[1]  # type: ignore[index]


def log_in(browser: requests.Session, address: str, said: str) -> None:
    """Log in as the output says."""
    user, password = re.search(r"^Log in as +(\S+) +with the password +(\S+)$", said, re.MULTILINE).groups()  # type: ignore[union-attr]
    page = browser.get(address)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]  # type: ignore[index]
    answer = browser.post(
        page.url,
        {"username": user, "password": password, "csrfmiddlewaretoken": token},
        headers={"Referer": page.url},
    )
    assert answer.status_code == 200
    assert "/login/" not in answer.url
