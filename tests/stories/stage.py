"""A stage: the whole machine of a firm, as real processes, and the firm's own CRM and mail server.

PostgreSQL, Redis, workers and beat; `crm serve-mock` over real HTTP; an SMTP server. The clock of
all of them stands before a Monday in season until the test lets the hour come.
"""

import json
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

from tests.faults.desk import Desk
from tests.faults.postoffice import PostOffice
from tests.processes import (
    OFFICE_HOURS,
    Beat,
    Command,
    Process,
    Worker,
    eventually,
    manage,
    product_environment,
)
from tests.servers import free_port

P = TypeVar("P", bound=Process)
Row = dict[str, Any]
MONDAY = datetime(2027, 3, 1, 9, 0, tzinfo=ZoneInfo("America/Chicago"))
CAMPAIGN = "past-customer-reactivation"
CHILD = "reactivate-customer"
API_KEY = "story-key-1"
PATIENCE = 90.0  # seconds; a slow machine is no failure


class Stage:
    """Everything one story needs; what it started ends with it."""

    def __init__(
        self, folder: Path, database: str, broker: str, post: PostOffice | None = None, **more: str
    ) -> None:
        self.folder, self.database = folder, database
        self.post = post or PostOffice()
        self.port = free_port()
        self.processes: list[Process] = []
        self._clock = folder / "clock"
        self.stand_at(MONDAY - timedelta(minutes=30))
        self.environment = product_environment(
            database,
            broker,
            **{
                "DJANGO_SETTINGS_MODULE": "sopengine.settings",
                "CLOCK_OFFSET_FILE": str(self._clock),
                "CRM_PROVIDER": "rest",
                "CRM_BASE_URL": f"http://127.0.0.1:{self.port}",
                "CRM_API_KEY": API_KEY,
                "EMAIL_URL": self.post.url,
                "BUSINESS_NAME": "Story Lawns",
                "BUSINESS_ADDRESS": "1 Story Lane, Minneapolis, MN 55401",
                "REVIEW_LINK": "https://reviews.example.com/story-lawns",
                **OFFICE_HOURS,
                "ENGINE_SWEEP": "1",
                "ENGINE_RETRY_WAITS": "0.2,0.4,0.8",
                **more,
            },
        )
        self._ends = ExitStack()
        self._ends.enter_context(self.post)
        self.desk = Desk(self.environment, folder)
        self._ends.callback(self.desk.close)

    # -- processes -----------------------------------------------------------------------------

    def crm(self, *arguments: str) -> Command:
        """Serve the mock CRM over HTTP, and wait until it answers."""
        command = ["crm", "serve-mock", "--port", str(self.port), *arguments]
        served = self._begun(Command(self.environment, *command, log=self.folder / "crm.log"))
        eventually(lambda: "listens on" in served.output_of_this_start(), PATIENCE, what=served.output)
        return served

    def machine(self, workers: int = 2) -> None:
        """Start workers with two processes each, and a beat; wait until they take messages."""
        names = [f"worker{number}" for number in range(1, workers + 1)]
        started = [
            self._begun(Worker(self.environment, log=self.folder / f"{name}.log", name=name))
            for name in names
        ]
        self.beat("beat")
        for worker in started:
            worker.ready(PATIENCE)

    def beat(self, name: str) -> Beat:
        """Start a beat."""
        return self._begun(Beat(self.environment, log=self.folder / f"{name}.log", name=name))

    def manage(self, *arguments: str, ok: bool = True, **more: str) -> str:
        """Run a management command of the product and return what it printed."""
        return manage({**self.environment, **more}, *arguments, ok=ok)

    # -- the firm ------------------------------------------------------------------------------

    def stand_at(self, moment: datetime) -> None:
        """Let every clock show this moment, within a second."""
        offset = (moment - datetime.now(UTC)).total_seconds()
        draft = self._clock.with_suffix(".new")
        draft.write_text(f"{offset:.3f}\n")
        draft.replace(self._clock)

    def publish_shipped(self) -> None:
        """Import the shipped procedures and let them run."""
        self.manage("sop", "import", "--publish")

    def let_monday_come(self) -> None:
        """It is Monday, nine o'clock."""
        self.stand_at(MONDAY + timedelta(seconds=1))

    def journal(self) -> list[Row]:
        """Return every request that the CRM has had."""
        with urllib.request.urlopen(f"{self.environment['CRM_BASE_URL']}/_journal") as answer:
            entries: list[Row] = json.loads(answer.read())
        return entries

    def questions(self) -> list[Row]:
        """Return the open questions with their drafts, as the office reads them."""
        listed: list[Row] = json.loads(
            self.manage("approval", "list", "--drafts", "--json", "--limit", "10000")
        )
        return listed

    def count(self, where: str) -> int:
        """Return how many tasks there are that fit an SQL condition."""
        return int(self.desk.sql(f"SELECT count(*) AS n FROM tasks_task WHERE {where}")[0]["n"])

    def wait_for(self, where: str, count: int, within: float = 60.0) -> None:
        """Wait until so many tasks fit an SQL condition."""
        eventually(
            lambda: self.count(where) == count, within, every=0.2, what=lambda: f"{where}\n{self.said()}"
        )

    def said(self) -> str:
        """Return the counts and the ends of all logs, for a failure."""
        ends = [f"--- {p.name}\n{p.output()[-1500:]}" for p in self.processes]
        return "\n".join([f"runs: {self.desk.counts()}", *ends])

    def logs(self) -> str:
        """Return all that any process has written."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    # -- the end -------------------------------------------------------------------------------

    def _begun(self, process: P) -> P:
        self.processes.append(process)
        self._ends.enter_context(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()


def letter_text(letter: Any, kind: str) -> str:
    """Return the text/plain or text/html part of a letter that arrived, decoded."""
    part = next(part for part in letter.walk() if part.get_content_type() == kind)
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode(part.get_content_charset() or "utf-8").replace("\r\n", "\n")


def both_texts(letter: Any) -> tuple[str, str]:
    """Return text and HTML of a letter that arrived."""
    return letter_text(letter, "text/plain"), letter_text(letter, "text/html")


def notes_written(journal: list[Row]) -> list[str]:
    """Return the ids of the customers that got a note, once for each time that one was applied."""
    return [
        str(entry["path"]).split("/")[4]
        for entry in journal
        if entry["method"] == "POST" and entry["path"].endswith("/notes") and entry["outcome"] == "applied"
    ]


def as_dict(rows: list[Row], key: str) -> Mapping[str, Row]:
    """Return rows by one of their columns."""
    return {str(row[key]): row for row in rows}
