"""Slack as our own processes meet it: away for a while (row S1), pressed by many at once (row S2).

And who answers in Slack meets those who answer in the admin and on signed pages.
"""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from tasks.mock.slack import SECRET, TOKEN, FakeSlack, Request, Said
from tests.browser import Browser, Page
from tests.faults.procedures import sop, step
from tests.faults.scene import NO_HURRY, RECOVERY, Scene
from tests.processes import WebServer, eventually, manage

CHANNELS = 5
POSTS = sop(
    "posts", step("tell", "chat.post", params={"text": "Gate {{ customer_email }}", "channel": "#c{{ n }}"})
)
POSTS["inputs"] = {"customer_email": {"type": "string"}, "n": {"type": "integer"}}
ASKS = sop(
    "asks",
    step(
        "ask",
        "human.ask",
        params={"question": "Send?", "draft": {"to": "a@example.test", "subject": "Spring", "text": "Near."}},
    ),
    channel="#marketing",
)
PEOPLE = """
from django.contrib.auth.models import Permission, User
from tasks.models import ChatAccount
for number in range(10):
    user = User.objects.create_user(f"p{number}")
    user.user_permissions.add(Permission.objects.get(codename="answer_approval"))
    ChatAccount.objects.create(user=user, chat_id=f"U{number}")
"""

# Seven in Slack, seven who have logged in, six with a link of their own; what is printed are the sessions.
TWENTY = """
import json
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, BACKEND_SESSION_KEY
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.backends.db import SessionStore
from tasks.models import ChatAccount
rights = Permission.objects.filter(codename__in=["answer_approval", "view_approval"])
sessions = []
for way, count in [("chat", 7), ("desk", 7), ("page", 6)]:
    for number in range(count):
        user = User.objects.create_user(f"{way}{number}", is_staff=True)
        user.user_permissions.set(rights)
        if way == "chat":
            ChatAccount.objects.create(user=user, chat_id=f"U{number}")
        if way == "desk":
            session = SessionStore()
            session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
            session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
            session.save()
            sessions.append(session.session_key)
print(json.dumps(sessions))
"""
LINKS = """
import json
from django.contrib.auth.models import User
from tasks import signed
from tasks.models import Approval
question = Approval.objects.get()
people = User.objects.filter(username__startswith="page").order_by("username")
print(json.dumps([signed.token(question, person) for person in people]))
"""


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    with FakeSlack() as served:
        yield served


def settings_for(slack: FakeSlack) -> dict[str, str]:
    return {
        "CHAT": "slack",
        "SLACK_API_URL": slack.url,
        "SLACK_BOT_TOKEN": TOKEN,
        "SLACK_SIGNING_SECRET": SECRET,
        **NO_HURRY,
    }


def test_s1_while_slack_is_away_every_run_goes_on_and_every_message_arrives_afterwards(
    stage: Callable[..., Scene], slack: FakeSlack, report: Callable[[str], None]
) -> None:
    scene = stage(**settings_for(slack))
    slack.fail(status=503)
    scene.worker()
    scene.beat()
    given = [{"customer_email": f"g{n}", "n": n % CHANNELS} for n in range(30)]
    scene.desk.start(scene.desk.publish(POSTS), given)
    eventually(lambda: scene.desk.counts() == {"completed": 30}, RECOVERY, what=scene.said)
    eventually(lambda: slack.calls, RECOVERY, what=scene.said)
    assert slack.messages == []
    tried = len(slack.calls)
    assert tried <= 5, "each message was tried by itself"

    slack.recover()
    slack.fail(1, drop="after")  # the first one that is taken again: its answer is lost
    eventually(lambda: len({said.text for said in slack.messages}) == 30, 2 * RECOVERY, what=scene.said)
    eventually(lambda: not pending(scene), RECOVERY, what=scene.said)

    seen = Counter(said.text for said in slack.messages)
    assert sum(seen.values()) - 30 <= 1, seen
    assert {row["state"] for row in scene.desk.facts()["notifications"]} == {"sent"}
    twice = sum(seen.values()) - 30
    report(f"Slack away for 30 runs: {tried} tries meanwhile, 30 messages afterwards, {twice} of them twice")


def pending(scene: Scene) -> int:
    return sum(row["state"] == "pending" for row in scene.desk.facts()["notifications"])


def test_s2_twenty_presses_at_once_are_one_decision_and_nineteen_polite_refusals(
    stage: Callable[..., Scene], slack: FakeSlack
) -> None:
    scene = stage(**settings_for(slack))
    manage(scene.environment, "shell", "-v", "0", "-c", PEOPLE)
    scene.worker()
    scene.beat()
    web = scene.begun(WebServer(scene.environment, log=scene.folder / "web.log"))
    web.ready()
    (task,) = scene.desk.start(scene.desk.publish(ASKS), [{}])
    (said,) = eventually(lambda: slack.messages, RECOVERY, what=scene.said)
    presses = [slack.click(said, label, f"U{n}") for n in range(10) for label in ("Send as is", "Don't send")]

    assert at_once([lambda press=press: posted(web, press) for press in presses]) == [200] * 20  # type: ignore[misc]

    eventually(lambda: scene.desk.counts() == {"completed": 1}, RECOVERY, what=scene.said)
    eventually(lambda: len(refusals(slack)) == 19, RECOVERY, what=lambda: (refusals(slack), scene.said()))
    eventually(lambda: not said.buttons, RECOVERY, what=scene.said)
    events = [event["kind"] for event in scene.desk.facts()["events"] if str(event["task_id"]) == task]
    assert events.count("answered") == 1
    assert "chose" in said.words
    # A delivery is over a moment after what it led to can be seen.
    unread = "SELECT 1 FROM sopengine_delivery WHERE state <> 'processed' OR body IS NOT NULL"
    eventually(lambda: not scene.desk.sql(unread), RECOVERY, what=scene.said)


def test_twenty_answers_from_chat_admin_and_page_at_once_are_one_decision_and_nineteen_polite_refusals(
    stage: Callable[..., Scene], slack: FakeSlack
) -> None:
    scene = stage(**settings_for(slack))
    sessions = json.loads(scene.desk.manage("shell", "-v", "0", "-c", TWENTY))
    scene.worker()
    scene.beat()
    web = scene.begun(WebServer(scene.environment, log=scene.folder / "web.log"))
    web.ready()
    (task,) = scene.desk.start(scene.desk.publish(ASKS), [{}])
    (said,) = eventually(lambda: slack.messages, RECOVERY, what=scene.said)
    (question,) = scene.desk.facts()["approvals"]
    told: list[str] = []  # what the browsers of those at the admin and on the pages have shown afterwards
    answers = [
        *in_slack(web, slack, said),
        *in_the_admin(web, sessions, f"/admin/tasks/approval/{question['id']}", told),
        *on_signed_pages(web, json.loads(scene.desk.manage("shell", "-v", "0", "-c", LINKS)), told),
    ]
    assert len(answers) == 20

    statuses = at_once(answers)

    assert Counter(statuses) <= Counter({200: 20, 409: 6}), "a page refuses with 409, the others in words"
    eventually(lambda: scene.desk.counts() == {"completed": 1}, RECOVERY, what=scene.said)
    (decided,) = scene.desk.facts()["approvals"]
    winner = scene.desk.sql(f"SELECT username FROM auth_user WHERE id = {int(decided['answered_by_id'])}")[0][
        "username"
    ]
    label = "Send as is" if decided["choice"] == "approve" else "Don't send"
    polite = f"{winner} chose “{label}”"
    eventually(
        lambda: len(refusals(slack, "")) + sum(polite in one for one in told) == 19,
        RECOVERY,
        what=lambda: (winner, refusals(slack, ""), told, scene.said()),
    )
    assert [one for one in refusals(slack, "") if polite not in one] == []
    assert sum(polite not in one for one in told) == (not winner.startswith("chat"))
    events = [event["kind"] for event in scene.desk.facts()["events"] if str(event["task_id"]) == task]
    assert events.count("answered") == 1
    eventually(lambda: not said.buttons and polite in said.words, RECOVERY, what=scene.said)


def in_slack(web: WebServer, slack: FakeSlack, said: Said) -> list[Callable[[], int]]:
    """Return the presses of seven people in Slack, some of them yes, some no."""
    presses = [slack.click(said, ("Send as is", "Don't send")[n % 2], f"U{n}") for n in range(7)]
    return [lambda press=press: posted(web, press) for press in presses]  # type: ignore[misc]


def in_the_admin(
    web: WebServer, sessions: Sequence[str], question: str, told: list[str]
) -> list[Callable[[], int]]:
    """Return the answers of those who have logged in, and have opened the question."""
    found: list[Callable[[], int]] = []
    for number, session in enumerate(sessions):
        browser = Browser(web.url).resumes(session)
        shown = browser.get(f"{question}/change/")

        def give(browser: Browser = browser, shown: Page = shown, choice: str = choice_of(number)) -> int:
            after = browser.sends(shown, f"{question}/answer/", choice=choice)
            told.append(after.words)
            return after.status

        found.append(give)
    return found


def on_signed_pages(web: WebServer, tokens: Sequence[str], told: list[str]) -> list[Callable[[], int]]:
    """Return the answers of those who have opened the page of a link of their own."""
    found: list[Callable[[], int]] = []
    for number, token in enumerate(tokens):
        browser = Browser(web.url)
        shown = browser.get(f"/approvals/{token}")

        def give(browser: Browser = browser, shown: Page = shown, choice: str = choice_of(number)) -> int:
            after = browser.sends(shown, choice=choice)
            told.append(after.words)
            return after.status

        found.append(give)
    return found


def choice_of(number: int) -> str:
    return ("approve", "decline")[number % 2]


def at_once(works: Sequence[Callable[[], int]]) -> list[int]:
    """Begin all of them together; return what they returned when all are done."""
    gate, found = threading.Barrier(len(works)), []

    def run(work: Callable[[], int]) -> None:
        gate.wait(30)
        found.append(work())

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def refusals(slack: FakeSlack, by: str = "p") -> list[str]:
    return [
        said.text for said in slack.messages if said.only_for and said.text.startswith(f"Not taken: {by}")
    ]


def posted(web: WebServer, request: Request) -> int:
    post = urllib.request.Request(f"{web.url}/hooks/slack", request.body, request.headers, method="POST")
    with urllib.request.urlopen(post, timeout=20) as answer:
        return int(answer.status)
