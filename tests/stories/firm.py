"""A firm with its doors open: what a stage has, and a Slack, a web server, mail and webhooks that come in.

    with Firm(folder, database, broker) as firm:
        firm.opens("2027-02-14", "12:00", "reactivate-customer", ...)   # begins, and publishes these SOPs
        firm.at("2027-02-15", "09:00")                                  # moves every clock, and comes to rest

Its hours are those of the wall clock in Chicago, and only ever move forward. Its CRM keeps its rows in
a file, so the test can read and change them (`firm.state`) as somebody at the CRM's own screen would,
and so the CRM can end (`crm_ends`) and come back (`crm_begins`) with what it had.
"""

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from crm.mock.state import MockState
from tasks.mock.slack import SECRET, TOKEN, FakeSlack, Request, Said
from tests.faults.postoffice import PostOffice
from tests.processes import Command, WebServer, eventually
from tests.stories.rest import due
from tests.stories.stage import PATIENCE, Row, Stage

CHICAGO = ZoneInfo("America/Chicago")
HOOK_SECRET = "secret-of-the-senders"  # it opens nothing but this
SWEEP, BETWEEN_LOOKS = 0.5, 0.1  # seconds
CLOCK_KEPT = 1.1  # seconds; a process may show an hour for so long after it was moved
HOOKS = "jobs=hmac,mail=hmac:mail"
OWNER, COLLEAGUE = "U1", "U2"  # in Slack; "owner" and "colleague" in the admin
OVER = ("completed", "cancelled")
PEOPLE = """
from django.contrib.auth.models import User
from tasks.models import ChatAccount
for name, chat in [("owner", "U1"), ("colleague", "U2")]:
    user = User.objects.create_superuser(name, f"{name}@story.example.com")
    ChatAccount.objects.create(user=user, chat_id=chat)
"""
OF_SOP = """FROM tasks_task t JOIN tasks_sopversion v ON v.id = t.version_id
    JOIN tasks_sop s ON s.id = v.sop_id
    WHERE s.slug = '{slug}'"""


class Firm(Stage):
    """The stage of one story: one worker with two processes, a beat, a web server, a CRM, a mail server."""

    def __init__(self, folder: Path, database: str, broker: str, **more: str) -> None:
        self.slack = FakeSlack(now=lambda: self.now().timestamp())
        self.rows = folder / "crm.sqlite3"
        super().__init__(
            folder,
            database,
            broker,
            PostOffice(),
            **{
                "BUSINESS_NAME": "Story Lawns",
                "TIME_ZONE": "America/Chicago",
                "CHAT": "slack",
                "SLACK_API_URL": self.slack.url,
                "SLACK_BOT_TOKEN": TOKEN,
                "SLACK_SIGNING_SECRET": SECRET,
                "HOOKS": HOOKS,
                "MAIL_IN": "1",
                "REPLY_DOMAIN": "reply.story.example.com",
                "ENGINE_SWEEP": str(SWEEP),
                **more,
            },
        )
        self._ends.enter_context(self.slack)
        self._crm: Command | None = None
        self.web: WebServer
        self.state: MockState

    # -- processes -----------------------------------------------------------------------------

    def opens(self, day: str, hour: str, *slugs: str, customers: int = 12) -> Self:
        """Begin everything at this hour, with these shipped SOPs published in this order (none: all)."""
        self.web = self._begun(WebServer(self.environment, log=self.folder / "web.log"))
        self.prepares(day, hour, *slugs, customers=customers)
        self.machine(workers=1)
        self.web.ready(PATIENCE)
        return self

    def prepares(self, day: str, hour: str, *slugs: str, customers: int = 12) -> Self:
        """Publish these SOPs at this hour with a CRM that serves; no worker and no beat runs yet."""
        self.stand_at(moment(day, hour))
        self.state = MockState(str(self.rows), customers=customers)
        self.crm_begins()
        self.desk.manage("shell", "-v", "0", "-c", PEOPLE + _secrets_of("jobs", "mail"))
        self.desk.manage("sop", "import", "--publish", *(f"tasks/sops/{slug}.yaml" for slug in slugs))
        return self

    def crm_begins(self, *arguments: str) -> None:
        """Let the CRM serve, with what it had."""
        self._crm = self.crm("--rows", str(self.rows), *arguments)

    def crm_ends(self) -> None:
        """Let the CRM be away: whoever calls it is refused."""
        assert self._crm is not None
        self._crm.kill()
        self.processes.remove(self._crm)

    # -- the clock -----------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return what the clocks of the processes show."""
        return datetime.now(UTC) + timedelta(seconds=self.offset())

    def offset(self) -> float:
        """Return by how many seconds the clocks of the processes are ahead."""
        return float(self._clock.read_text())

    def at(self, day: str, hour: str = "09:00") -> Self:
        """Move every clock to this hour, and wait until all that is due then is done."""
        self.stand_at(moment(day, hour) + timedelta(seconds=0.5))
        time.sleep(CLOCK_KEPT)
        return self.rests()

    def rests(self) -> Self:
        """Wait until nothing is left to do at this hour, down to the last message to chat."""
        eventually(
            lambda: not self._due(),
            PATIENCE,
            every=BETWEEN_LOOKS,
            what=lambda: f"left to do: {self._due()}\n{self.said()}",
        )
        return self

    def _due(self) -> Counter[str]:
        return due(self.desk.sql, self.offset(), down="chat" if self.slack.is_down else "")

    # -- what happens outside -------------------------------------------------------------------

    def hears(self, name: str, id_: str, times: int = 1, *, rests: bool = True, **data: Any) -> list[int]:
        """Let another system post an event to /hooks/jobs, so many times; return the statuses."""
        body = json.dumps({"event": name, "event_id": id_, "data": data}).encode()
        statuses = [self._post_signed("jobs", body, "application/json") for _ in range(times)]
        if rests:
            self.rests()
        return statuses

    def hears_all(self, name: str, *several: Mapping[str, Any]) -> list[int]:
        """Let another system post an event for each of these, at once; return the statuses."""
        bodies = [{"event": name, "event_id": f"{name}-{n}", "data": data} for n, data in enumerate(several)]
        statuses = [
            self._post_signed("jobs", json.dumps(body).encode(), "application/json") for body in bodies
        ]
        self.rests()
        return statuses

    def mail_comes(self, *mails: EmailMessage, times: int = 1) -> list[int]:
        """Let the mail service post mails to /hooks/mail, each so many times; return the statuses."""
        bodies = [mail.as_bytes(policy=policy.SMTP) for mail in mails for _ in range(times)]
        statuses = [self._post_signed("mail", body, "message/rfc822") for body in bodies]
        self.rests()
        return statuses

    def _post_signed(self, source: str, body: bytes, kind: str) -> int:
        proof = hmac.new(HOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
        return self.posts_to(f"/hooks/{source}", Request(body, {"Content-Type": kind, "X-Signature": proof}))

    def posts_to(self, path: str, request: Request) -> int:
        """Post to the web server; return the status."""
        post = urllib.request.Request(self.web.url + path, request.body, request.headers, method="POST")
        try:
            with urllib.request.urlopen(post, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    # -- people --------------------------------------------------------------------------------

    def presses(
        self, label: str, channel: str = "", by: str = OWNER, nth: int = 0, *, on: Said | None = None
    ) -> None:
        """Let somebody press a button in Slack: `on` a message, else on the newest of the channel with it."""
        said = on or next(said for said in reversed(self.said_in(channel)) if label in said.buttons)
        assert self.posts_to("/hooks/slack", self.slack.click(said, label, by, nth)) == 200
        self.rests()

    def edits(
        self,
        channel: str = "",
        by: str = OWNER,
        button: str = "Edit first",
        *,
        nth: int = 0,
        on: Said | None = None,
        **changes: str,
    ) -> None:
        """Let somebody open a draft in Slack, change these fields and send it."""
        shown = len(self.slack.views)

        def window_opens() -> bool:
            self.presses(button, channel, by, nth, on=on)
            return len(self.slack.views) > shown

        # A trigger is good for three seconds; whose window a slow machine opens too late presses again.
        eventually(window_opens, PATIENCE, what=self.said)
        assert self.posts_to("/hooks/slack", self.slack.submit(self.slack.views[-1], by, **changes)) == 200
        self.rests()

    def decides(self, name: str, channel: str, **fields: str) -> None:
        """Let the owner open the draft for this customer, in a list or where it stands alone, and decide."""
        said = next(
            said for said in reversed(self.said_in(channel, name)) if {"Open", "Edit first"} & {*said.buttons}
        )
        listed = [block["text"]["text"] for block in said.blocks if "accessory" in block]
        nth = next((place for place, text in enumerate(listed) if name in text), 0)
        self.edits(button="Open" if listed else "Edit first", nth=nth, on=said, **fields)

    def questions(self) -> list[Row]:
        """Return the open questions with their drafts, as the office reads them."""
        listed = self.desk.manage("approval", "list", "--drafts", "--json", "--limit", "10000")
        rows: list[Row] = json.loads(listed)
        return rows

    def answer(self, choice: str, *, of: str = "") -> int:
        """Give this answer to every open question, or to those of one SOP; return how many there were."""
        rows = [row for row in self.questions() if of in ("", row["sop"])]
        for row in rows:
            self.desk.answer(row["id"], choice)
        self.rests()
        return len(rows)

    # -- what can be seen ----------------------------------------------------------------------

    def said_in(self, channel: str = "", words: str = "") -> list[Said]:
        """Return the messages that stand in a channel of Slack, oldest first, those with these words."""
        found = [said for said in self.slack.messages if channel in ("", said.name)]
        return [said for said in found if words in f"{said.text}\n{said.words}"]

    def card(self, channel: str, words: str) -> Said:
        """Return the newest message of a channel with these words."""
        return self.said_in(channel, words)[-1]

    def runs(self, slug: str) -> list[Row]:
        """Return the runs of a SOP, oldest first: id, status, result, reason, step, wake_at, context."""
        return self.desk.sql(f"SELECT t.* {OF_SOP.format(slug=slug)} ORDER BY t.created_at, t.id")

    def run(self, slug: str, **context: Any) -> Row:
        """Return the only run of a SOP, of those whose open context has these values."""
        rows = [row for row in self.runs(slug) if context.items() <= opened(row["context"]).items()]
        assert len(rows) == 1, [(row["status"], row["result"], row["context"]) for row in rows]
        return rows[0]

    def results(self, slug: str) -> Counter[str]:
        """Return what the runs of a SOP have come to; one that goes on counts as its status."""
        return Counter(row["result"] if row["status"] in OVER else row["status"] for row in self.runs(slug))

    def wakes(self, run: Row) -> str:
        """Return when a run goes on, on the wall clock: "Mon 22 Feb 09:00 CST"."""
        hour = self.desk.sql(f"SELECT wake_at FROM tasks_task WHERE id = '{run['id']}'")[0]["wake_at"]
        assert hour is not None, "the run has no hour"
        at = hour if isinstance(hour, datetime) else datetime.fromisoformat(hour)
        local = (at + timedelta(milliseconds=1)).astimezone(CHICAGO)
        return f"{local:%a} {local.day} {local:%b %H:%M %Z}"

    def story(self, run: Row) -> str:
        """Return what staff read of a run."""
        return json.dumps(json.loads(self.desk.manage("task", "show", str(run["id"]), "--json"))["timeline"])

    def events(self, run: Row) -> list[Row]:
        """Return the events of a run, oldest first: seq, kind, step, status, at, data."""
        return self.desk.sql(f"SELECT * FROM tasks_taskevent WHERE task_id = '{run['id']}' ORDER BY seq")

    def mails(self, to: str = "") -> list[EmailMessage]:
        """Return the mails that have arrived, oldest first, those to one address if it is named."""
        parsed = [message_from_bytes(mail.as_bytes(), policy=policy.default) for mail in self.post.letters]
        return [mail for mail in parsed if to in ("", str(mail["To"]))]

    def customer(self, id_: str) -> Row:
        """Return a customer as the CRM has it now."""
        found = self.state.find("customers", id_)
        assert found is not None
        return found

    def notes(self, customer: str) -> list[str]:
        """Return the notes in a customer's file."""
        return [str(row["text"]) for row in self.state.rows("notes") if row["customer_id"] == customer]


def moment(day: str, hour: str) -> datetime:
    """Return an hour of the wall clock in Chicago."""
    return datetime.fromisoformat(f"{day}T{hour}").replace(tzinfo=CHICAGO)


def opened(context: Any) -> Mapping[str, Any]:
    """Return an open context, as a mapping."""
    found: Mapping[str, Any] = json.loads(context) if isinstance(context, str) else context
    return found


def end_of(run: Row) -> tuple[str, str]:
    """Return where a run stands, and what it has come to."""
    return run["status"], run["result"]


def reply_to(mail: EmailMessage, text: str, *, id_: str = "") -> EmailMessage:
    """Return the answer that the reader of a mail would send."""
    answer = EmailMessage()
    answer["From"], answer["To"] = str(mail["To"]), str(mail["Reply-To"])
    answer["Subject"], answer["Message-ID"] = f"Re: {mail['Subject']}", id_ or f"<re-{mail['Message-ID'][1:]}"
    answer["In-Reply-To"] = mail["Message-ID"]
    answer.set_content(text)
    return answer


def _secrets_of(*sources: str) -> str:
    """Return Python that stores the secret of these senders."""
    return f"""
from credentials import store
from credentials.models import Credential
for source in {list(sources)!r}:
    credential = Credential(service=source, kind="webhook_secret")
    credential.set_secret({HOOK_SECRET!r})
    store.put(credential)
"""
