"""All six procedures with canaries for customers: from webhook, mail and clock to questions and ends.

Somebody looks all the time: no mark stands in clear in the database, in Redis or in any log, neither
while deliveries wait to be read, nor while questions wait for an answer, nor while chat, mail or CRM
fail. And no link of any message that left in these weeks decides anything when it is fetched.
"""

import hashlib
import hmac
import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tasks.mock.slack import Request
from tests.browser import Browser, Page
from tests.processes import Process
from tests.servers import Postgres, Redis
from tests.stories.canaries import MARK, WORDS, Watch, person
from tests.stories.firm import HOOK_SECRET, Firm, reply_to
from tests.stories.stage import Row

SHIPPED = {path.stem for path in Path("tasks/sops").glob("*.yaml")}
OURS = "http://127.0.0.1:8000/"
ASKING = {  # what asks first, of each of the six procedures
    *("reactivate-customer", "new-lead-response", "quote-follow-up"),
    *("review-request", "invoice-letter", "after-call"),
}
PARTNER = "partner@kanari.example"  # of the firm's own people; she has no account in the chat
PASSWORD = "of-the-owner"
MORE_PEOPLE = f"""
from django.contrib.auth.models import User
from credentials import store
from credentials.models import Credential
User.objects.create_superuser("partner", "partner@story.example.com")
owner = User.objects.get(username="owner")
owner.set_password({PASSWORD!r})
owner.save()
credential = Credential(service="site", kind="webhook_secret")
credential.set_secret({HOOK_SECRET!r})
store.put(credential)
"""
FAULTS = [
    {"on": "GET */customers/cus_12*", "call": 1, "status": 422, "body": WORDS},
    {"on": "GET */customers*", "call": "3-4", "status": 500, "body": WORDS},
    {"on": "POST */appointments", "call": 1, "status": 503, "body": WORDS},
    {"on": "POST *notes", "call": 1, "drop": "after"},
    {"on": "GET */quotes/quo_11*", "call": 1, "body": f"<html>{WORDS}</html>"},
    {"on": "GET */invoices*", "call": 2, "status": 500, "body": WORDS},
]


@pytest.fixture(scope="module")
def watch(firm: Firm, postgres: Postgres, request: pytest.FixtureRequest) -> Watch:
    """The firm on Thursday 11 March 2027 at four, all procedures published, and a watch over it."""
    firm.environment["ESCALATIONS_EMAIL"] = "owner@story.example.com"
    firm.environment["HOOKS"] += ",site=hmac:form"
    firm.opens("2027-03-11", "16:00", customers=0)
    firm.desk.manage("shell", "-v", "0", "-c", MORE_PEOPLE)
    firm.state.load("customers", [person(number, status) for number, status in PEOPLE.items()])
    firm.state.load("quotes", [quote(number) for number in (111, 112, 113)])
    firm.state.load("invoices", [invoice(number) for number in (131, 132)])
    broker: Redis = request.getfixturevalue("_redis_server")
    return Watch(firm, postgres, broker, *(person(number, "")["email"] for number in PEOPLE))


# -- who there is, and what they write -------------------------------------------------------------

# Three past customers, three leads with quotes, two with jobs, two who owe, one who calls, one who complains.
PEOPLE = {
    **dict.fromkeys((101, 102, 103), "past"),
    **dict.fromkeys((111, 112, 113), "lead"),
    **dict.fromkeys((121, 122, 131, 132, 142), "active"),
    141: "lead",
}


def quote(number: int) -> Row:
    money = {"total": 400.0, "currency": "USD", "version": 1, "status": "sent", "responded_at": None}
    times = {"sent_at": "2027-03-11T15:30:00-06:00", "valid_until": "2027-04-10"}
    return {"id": f"quo_{number}", "number": f"Q-{number}", "customer_id": f"cus_{number}", **money, **times}


def invoice(number: int) -> Row:
    money = {"amount_due": 420.0, "currency": "USD", "status": "open", "paid_at": None}
    said = {"due_date": "2027-03-08", "notes": "Vogelheim zahlt, wenn es pfeift"}
    return {"id": f"inv_{number}", "number": f"INV-{number}", "customer_id": f"cus_{number}", **money, **said}


def call(id_: str, **more: str) -> Row:
    return {
        "call_id": id_,
        "direction": "inbound",
        "duration_seconds": 192,
        "summary": "Kanari Zwitscher of 7 Vogelheim Road wants an estimate and pfeift.",
        "intent": "booking_request",
        "caller_name": "Kanari Zwitscher",
        **more,
    }


def letter(number: int, subject: str, text: str) -> EmailMessage:
    """Return a mail of somebody with this number to the firm; a customer if there is one with it."""
    writer, mail = person(number, ""), EmailMessage()
    mail["From"], mail["To"] = f"{writer['name']} <{writer['email']}>", "office@story.example.com"
    mail["Subject"], mail["Message-ID"] = subject, f"<letter-{number}@kanari.example>"
    mail.set_content(f"{text}\n\n{writer['name']}, {writer['phone']}, {writer['address']}\n")
    return mail


LETTERS = (
    letter(201, "Vogelheim", "Kanari sings. What now?"),  # fits no rule
    letter(202, "A quote for Vogelheim", "How much is mowing at Vogelheim Road?"),
    letter(203, "Backlinks for Kanari", "We rank your website on Google, and Zwitscher too."),
    letter(142, "Kanari is very disappointed", "Your crew ruined my Vogelheim lawn."),
)
NO_MAIL = b"Subject: Kanari Zwitscher\r\n\r\nzwitscher@kanari.example pfeift at nobody.\r\n"


def signed(body: bytes, kind: str, secret: str = HOOK_SECRET) -> Request:
    proof = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    agent = "Kanari/1.0 (zwitscher@kanari.example)"
    return Request(body, {"Content-Type": kind, "X-Signature": proof, "User-Agent": agent})


def event(name: str, id_: str, data: Row) -> Request:
    return signed(json.dumps({"event": name, "event_id": id_, "data": data}).encode(), "application/json")


def mail(message: EmailMessage) -> Request:
    return signed(message.as_bytes(), "message/rfc822")


def form(**fields: str) -> Request:
    return signed(json.dumps(fields).encode(), "application/json")


@contextmanager
def asleep(*processes: Process) -> Iterator[None]:
    """Let these processes, and those that they began, stand still."""
    for process in processes:
        process.signal(signal.SIGSTOP, everyone=True)
    try:
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT, everyone=True)


def engine_of(firm: Firm) -> list[Process]:
    return [process for process in firm.processes if process.name in ("worker1", "beat")]


# -- the weeks -------------------------------------------------------------------------------------


def test_what_has_come_in_and_was_read_by_nobody_is_sealed(firm: Firm, watch: Watch) -> None:
    done = "2027-03-11T15:00:00-06:00"
    good = [
        *[("jobs", event("quote.sent", f"evt-q{n}", {"quote_id": f"quo_{n}"})) for n in (111, 112, 113)],
        *[
            (
                "jobs",
                event(
                    "job.completed",
                    f"evt-j{n}",
                    {"job_id": f"job_{n}", "crm_customer_id": f"cus_{n}", "completed_at": done},
                ),
            )
            for n in (121, 122)
        ],
        ("jobs", event("call_ended", "evt-c1", call("call_1"))),
        ("jobs", event("call_ended", "evt-c2", call("call_2"))),
        ("jobs", event("call_ended", "evt-c3", call("call_3", **CALLER))),
        *[("mail", mail(message)) for message in LETTERS],
        (
            "site",
            form(
                name="Kanari204 Zwitscher",
                email="zwitscher204@kanari.example",
                message="A quote for Vogelheim?",
            ),
        ),
        ("jobs", event("Kanari pfeift!", "evt-x1", {"name": "Zwitscher"})),  # no name of an event
        ("mail", signed(NO_MAIL, "message/rfc822")),
    ]
    bad = [
        ("jobs", signed(b'{"event": "call_ended", "name": "Kanari"}', "application/json", "forged")),
        ("jobs", signed(b'{"event": "call_ended", "name": "Kanari', "application/json")),
        ("site?name=Kanari", signed(b"Zwitscher", "text/html")),
        ("nobody?name=Kanari", form(name="Kanari")),
        ("slack", signed(b"payload=Kanari", "application/x-www-form-urlencoded")),
    ]
    with asleep(*engine_of(firm)):
        assert {firm.posts_to(f"/hooks/{source}", request) for source, request in good} == {202}
        assert all(firm.posts_to(f"/hooks/{source}", request) in range(400, 500) for source, request in bad)
        unread = "SELECT count(*) AS n FROM sopengine_delivery WHERE state = 'received' AND body LIKE 'v1|%'"
        assert firm.desk.sql(unread)[0]["n"] == len(good)
        watch.look()
    with watch.all_the_time():
        firm.rests()
    failed = "SELECT count(*) AS n FROM sopengine_delivery WHERE state = 'failed' AND body LIKE 'v1|%'"
    assert firm.desk.sql(failed)[0]["n"] == 2
    assert (
        firm.desk.sql("SELECT 1 FROM sopengine_delivery WHERE body IS NOT NULL AND state = 'processed'") == []
    )
    assert {row["sop"] for row in firm.questions()} == {"new-lead-response", "after-call"}
    assert any(MARK.search(str(mail["To"])) for mail in firm.mails()), "the acknowledgement has left"


CALLER = {
    "from_number": "+447700900141",
    "caller_email": "zwitscher141@kanari.example",
    "appointment_start": "2027-03-16T12:00",
    "appointment_type": "estimate",
}


def test_all_six_procedures_ask_on_monday(firm: Firm, watch: Watch) -> None:
    with watch.all_the_time():
        firm.at("2027-03-15", "09:01")
        for number in (4, 5):
            firm.posts_to("/hooks/jobs", event("call_ended", f"evt-c{number}", call(f"call_{number}")))
            firm.posts_to("/hooks/mail", mail(letter(204 + number, "Vogelheim", "Kanari sings. What now?")))
        firm.rests()
    asked = Counter(row["sop"] for row in firm.questions())
    assert asked == {**dict.fromkeys(ASKING, 2), "reactivate-customer": 3, "quote-follow-up": 3}
    assert any(MARK.search(f"{said.text}{said.words}") for said in firm.slack.messages), "the chat may know"


def test_answers_of_every_kind_leave_nothing_in_clear(firm: Firm, watch: Watch) -> None:
    owner = Browser(firm.web.url).logs_in("owner", PASSWORD)
    with watch.all_the_time():
        # In Slack: a modal out of the list, with other words; a button; a number instead of a note.
        firm.edits("#marketing", button="Open", choice="edit", subject="Kanari!", text="Vogelheim pfeift.")
        clicked(firm, "Send as is", "Send as is", "A new lead")
        firm.edits("#leads-incoming", button="Give the number", text="+44 7700 900207")
        # In the admin: with other words, and one handed over, which comes to the partner by mail.
        ours, theirs = questions(firm, "invoice-letter")
        answered_in_admin(owner, ours, choice="edit", subject="Kanari owes", text="Zwitscher, please.")
        handed_over(owner, questions(firm, "review-request")[0], "partner")
        handed_over(owner, theirs, "colleague")
        firm.rests()
        # On the signed page: with other words.
        page = Browser(firm.web.url)
        shown = page.get(at_our_site(firm, links_of_mail(firm.mails("partner@story.example.com")[-1])[0]))
        assert "Kanari" in shown.words
        assert page.sends(shown, choice="edit", subject="Kanari?", text="Vogelheim?").status == 200
        # At the command line, of a customer whom the mail server refuses.
        refused = questions(firm, "reactivate-customer")[0]
        firm.post.refuses.add(refused["draft"]["to"])
        firm.desk.answer(refused["id"], "approve")
        firm.rests()
    assert {str(mail["Subject"]) for mail in firm.mails()} >= {"Kanari!", "Kanari owes", "Kanari?"}
    assert firm.post.refused.total() == 1


def clicked(firm: Firm, *labels: str) -> None:
    """Let the owner press these buttons in the channel of the leads, each of another message."""
    messages = list(reversed(firm.said_in("#leads-incoming")))
    for label in labels:
        said = next(said for said in messages if label in said.buttons)
        messages.remove(said)
        assert firm.posts_to("/hooks/slack", firm.slack.click(said, label, "U1")) == 200


def questions(firm: Firm, slug: str) -> list[Row]:
    return [row for row in firm.questions() if row["sop"] == slug]


def answered_in_admin(browser: Browser, question: Row, **fields: str) -> None:
    address = f"/admin/tasks/approval/{question['id']}"
    after = browser.sends(browser.get(f"{address}/change/"), f"{address}/answer/", **fields)
    assert "Not taken" not in after.words


def handed_over(browser: Browser, question: Row, to: str) -> None:
    address = f"/admin/tasks/approval/{question['id']}"
    after = browser.sends(browser.get(f"{address}/change/"), f"{address}/hand-over/", to=to)
    assert "Handed over" in after.words


def test_while_chat_and_crm_fail_nothing_is_written_of_whom_it_is_about(
    firm: Firm, watch: Watch, tmp_path: Path
) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(yaml.safe_dump({"faults": FAULTS}))
    waiting = "SELECT count(*) AS n FROM tasks_notification WHERE state = 'pending' AND sealed LIKE 'v1|%'"
    with watch.all_the_time():
        firm.slack.fail(status=503)
        firm.crm_ends()
        firm.posts_to("/hooks/mail", mail(letter(301, "A quote for Vogelheim", "How much is mowing?")))
        firm.posts_to("/hooks/mail", mail(letter(302, "Kanari is unhappy", "A very poor job at Vogelheim.")))
        firm.posts_to("/hooks/mail", mail(reply_to(mail_to(firm, 121, 122), "Kanari says yes.")))
        firm.posts_to("/hooks/mail", mail(stranger_to(mail_to(firm, 111, 112, 113))))
        firm.posts_to(
            "/hooks/jobs",
            event("call_ended", "evt-c6", call("call_6", **{**CALLER, "from_number": "+447700900303"})),
        )
        firm.posts_to("/hooks/slack", firm.slack.command(COMMAND, "U1"))
        firm.rests()
        assert firm.desk.sql(waiting)[0]["n"] > 0
        watch.look()
        firm.crm_begins("--scenario", str(scenario))
        firm.slack.fail(1, drop="after")
        firm.slack.recover()
        firm.at("2027-03-15", "12:05")
    assert firm.desk.sql(waiting)[0]["n"] == 0


def mail_to(firm: Firm, *numbers: int) -> EmailMessage:
    """Return the first mail to one of these people."""
    addresses = {person(number, "")["email"] for number in numbers}
    return next(mail for mail in firm.mails() if str(mail["To"]) in addresses)


def stranger_to(mail: EmailMessage) -> EmailMessage:
    """Return an answer to a mail from an address that nobody knows."""
    answer = reply_to(mail, "Kanari asks from elsewhere.")
    answer.replace_header("From", "Zwitscher <zwitscher999@kanari.example>")
    return answer


COMMAND = (
    "run appointment-confirmation customer_email=zwitscher304@kanari.example customer_name=Kanari "
    "appointment_when=Vogelheim"
)


def test_no_link_of_any_message_decides_anything_when_it_is_fetched(firm: Firm, watch: Watch) -> None:
    with watch.all_the_time():
        firm.at("2027-03-16", "11:05")
        firm.wait_for("waiting_for LIKE 'provider:%'", 0)  # the CRM is back, and those it held go on
        firm.rests()
    assert {row["sop"] for row in firm.questions()} == {*ASKING, "mail-reply"}
    found = links(firm)
    assert {link for link in found if not link.startswith(OURS)} <= {firm.environment["REVIEW_LINK"]}
    ours = {at_our_site(firm, link) for link in found if link.startswith(OURS)}
    assert {kind_of(link) for link in ours} >= KINDS
    assert set() < in_headers(firm) <= found
    open_pages = {link for link in ours if "/approvals/" in link and Browser(link).get(link).hidden}

    owner, nobody = Browser(firm.web.url).logs_in("owner", PASSWORD), Browser(firm.web.url)
    with asleep(*engine_of(firm)):
        before = everything(firm, watch)
        for link in sorted(ours):
            reader = owner if "/admin/" in link else nobody
            for fetched in (reader.head(link), reader.get(link)):
                assert fetched.status in (200, 405), (fetched.status, link)
            if "/approvals/" in link:
                assert nobody.get(f"{link}/preview").status == nobody.head(f"{link}/preview").status == 200
        assert changes(before, everything(firm, watch)) == []

        page = min(open_pages)
        assert nobody.sends(nobody.get(page), choice="decline").status == 200
        assert changes(before, everything(firm, watch)), (
            "what a GET leaves alone, the POST of the same page decides"
        )


def kind_of(link: str) -> str:
    """Return what kind of page it is: the address without what is different each time."""
    path = urlsplit(link).path
    return re.sub(r"(?<=/)([0-9a-f-]{36}|[\w-]+[.~:][\w.~:-]+|[\w-]{40,})(?=/|$)", "…", path)


KINDS = {
    "/approvals/…",
    "/unsubscribe/…",
    "/admin/",
    "/admin/tasks/approval/",
    "/admin/tasks/approval/…/change/",
    "/admin/tasks/task/…/change/",
}


def test_when_it_is_over_nothing_is_kept_of_anybody(firm: Firm, watch: Watch) -> None:
    leaving = str(mail_to(firm, 121, 122)["List-Unsubscribe"]).strip(" <>")
    with watch.all_the_time():
        page = Page(200, at_our_site(firm, leaving), "")
        assert Browser(firm.web.url).sends(page, **{"List-Unsubscribe": "One-Click"}).status == 200
        firm.at("2027-03-17", "12:05")
        firm.at("2027-03-22", "09:01")
        assert {row["sop"] for row in firm.questions()} >= {
            "quote-second-follow-up",
            "reactivation-follow-up",
        }
        firm.answer("approve", of="quote-second-follow-up")
        firm.at("2027-03-29", "12:00")
    ran = firm.desk.sql(
        "SELECT DISTINCT slug FROM tasks_sop s JOIN tasks_sopversion v ON v.sop_id = s.id "
        "JOIN tasks_task t ON t.version_id = v.id"
    )
    assert {row["slug"] for row in ran} == SHIPPED
    over = "SELECT id FROM tasks_task WHERE status IN ('completed', 'cancelled')"
    assert firm.count(f"id IN ({over})") > 30
    assert firm.count(f"id IN ({over}) AND (sealed IS NOT NULL OR request IS NOT NULL)") == 0
    # What is not posted yet may still say it: an equal alert is told again after a while.
    for table, unless in (("approval", "false"), ("notification", "state = 'pending'")):
        kept = (
            f"SELECT * FROM tasks_{table} WHERE sealed IS NOT NULL AND NOT ({unless}) AND task_id IN ({over})"
        )
        assert firm.desk.sql(kept) == [], table
    assert watch.looks > 20
    assert watch.with_sealed > 20


def links(firm: Firm) -> set[str]:
    """Return every link of every message to staff and to customers, wherever in it the link stands."""
    messages = [json.dumps([said.text, said.blocks]) for said in firm.slack.messages]
    messages += [json.dumps(view) for view in firm.slack.views]
    in_chat = {link for text in messages for link in re.findall(r"https?://[^\s\"<>|\\]+", text)}
    return in_chat | {link for mail in firm.mails() for link in links_of_mail(mail)}


def links_of_mail(mail: EmailMessage) -> list[str]:
    """Return the links of a mail: of its texts and of its headers."""
    texts = [str(part.get_content()) for part in mail.walk() if part.get_content_maintype() == "text"]
    headers = [str(value) for value in mail.values()]
    return [
        unescape(link) for text in [*headers, *texts] for link in re.findall(r"https?://[^\s\"'<>]+", text)
    ]


def in_headers(firm: Firm) -> set[str]:
    """Return the links by which a mail program lets somebody leave."""
    return {str(mail["List-Unsubscribe"]).strip(" <>") for mail in firm.mails() if mail["List-Unsubscribe"]}


def at_our_site(firm: Firm, link: str) -> str:
    """Return where the link leads on the site as it is served here."""
    assert link.startswith(OURS), link
    return f"{firm.web.url}/{link.removeprefix(OURS)}"


def everything(firm: Firm, watch: Watch) -> Counter[str]:
    """Return all that is kept anywhere, line by line, but for who is logged in."""
    database = urlsplit(firm.database).path.strip("/")
    rows = [line for line in watch.postgres.dump(database).splitlines() if line.startswith("INSERT INTO")]
    crm = [str(row) for row in firm.state.journal() if row["outcome"] != "read"]
    left = [f"{len(firm.post.letters)} mails", f"{len(firm.slack.calls)} calls of Slack"]
    kept = [line for line in rows if "django_session" not in line]
    return Counter([*kept, *watch.redis.dump().splitlines(), *crm, *left])


def changes(before: Counter[str], after: Counter[str]) -> list[str]:
    """Return the lines that have gone and those that have come."""
    return [*(before - after), *(after - before)]
