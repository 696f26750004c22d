"""Slack as our own processes meet it: away for a while (row S1), pressed by many at once (row S2)."""

import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tasks.mock.slack import SECRET, TOKEN, FakeSlack, Request
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

    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda press=press: statuses.append(posted(web, press)))  # type: ignore[misc]
        for press in presses
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 20

    eventually(lambda: scene.desk.counts() == {"completed": 1}, RECOVERY, what=scene.said)
    eventually(lambda: len(refusals(slack)) == 19, RECOVERY, what=lambda: (refusals(slack), scene.said()))
    eventually(lambda: not said.buttons, RECOVERY, what=scene.said)
    events = [event["kind"] for event in scene.desk.facts()["events"] if str(event["task_id"]) == task]
    assert events.count("answered") == 1
    assert "chose" in said.words
    left = scene.desk.sql(
        "SELECT count(*) AS n FROM sopengine_delivery WHERE state <> 'processed' OR body IS NOT NULL"
    )
    assert left[0]["n"] == 0


def refusals(slack: FakeSlack) -> list[str]:
    return [said.text for said in slack.messages if said.only_for and said.text.startswith("Not taken: p")]


def posted(web: WebServer, request: Request) -> int:
    post = urllib.request.Request(f"{web.url}/hooks/slack", request.body, request.headers, method="POST")
    with urllib.request.urlopen(post, timeout=20) as answer:
        return int(answer.status)
