"""One contract for all chat products: what each transport must do with a message, against a real server."""

import base64
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pytest_django import Settings

from credentials import store
from sopengine.errors import AuthError, Permanent, RateLimited, Transient
from tasks.mock.slack import SECRET, TOKEN, FakeSlack
from tasks.transports import Card, Choice, Message, Transport, load_transports, slack, transports
from tests.tasks.chat_by_hook import HookChat

pytestmark = pytest.mark.django_db

OPTIONS = (
    Choice("approve", "Send as is", "approve"),
    Choice("edit", "Edit first", "edit"),
    Choice("decline", "Don't send", "decline"),
)
SMUGGLED = "<!channel> <@U1> @here <https://evil.example|your invoice> http://evil.example evil.example & Zoë"


def card(number: int = 1, decided: str = "", title: str = "Ann Bird", line: str = "Spring is near") -> Card:
    return Card(str(uuid4()), title, (line,), OPTIONS, f"https://sop.test/admin/{number}/", decided)


def message(**fields: Any) -> Message:
    usual: dict[str, Any] = {
        "id": str(uuid4()),
        "text": "5 sent, 1 declined",
        "channel": "#marketing",
        "kind": "info",
        "severity": "info",
        "link": "https://sop.test/admin/tasks/task/1/change/",
        "reference": "1a2b3c4d",
        "at": datetime(2027, 2, 15, 15, 0, tzinfo=UTC),
    }
    return Message(**{**usual, **fields})


class Place(ABC):
    """A chat product under test, seen from the side of its readers."""

    name: str
    remote = True

    @property
    def transport(self) -> Transport:
        return transports.get(self.name)()

    @abstractmethod
    def seen(self) -> list[str]:
        """What stands there now, one text for each message, with its links."""

    def fails(self, how: str) -> None:
        """Let every call go wrong: down, limited, stranger, nowhere, lost, slow."""
        pytest.skip("a terminal does not fail")

    @abstractmethod
    def unset(self, settings: Settings) -> None:
        """Take away what the transport needs."""


class OnConsole(Place):
    name = "console"
    remote = False

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.lines = capsys, list[str]()

    def seen(self) -> list[str]:
        self.lines += self.capsys.readouterr().err.splitlines()
        return self.lines

    def unset(self, settings: Settings) -> None:
        pytest.skip("a terminal needs nothing")


class ByHook(Place):
    name = "webhook"

    def __init__(self, settings: Settings) -> None:
        self.server = HookChat()
        settings.CHAT_WEBHOOK_URL = f"{self.server.url}/hook"
        settings.CHAT_WEBHOOK_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

    def seen(self) -> list[str]:
        return [post.body.decode() for post in self.server.posts]

    def fails(self, how: str) -> None:
        answers: dict[str, tuple[int, dict[str, str]]] = {
            "down": (503, {}),
            "limited": (429, {"Retry_After": "7"}),
            "stranger": (401, {}),
            "nowhere": (404, {}),
        }
        if how in ("lost", "slow"):
            self.server.misbehave = how
        else:
            status, headers = answers[how]
            self.server.says(status, b"CANARY", **headers)

    def unset(self, settings: Settings) -> None:
        settings.CHAT_WEBHOOK_URL = ""


class InSlack(Place):
    name = "slack"

    def __init__(self, settings: Settings) -> None:
        self.server = FakeSlack()
        settings.SLACK_API_URL, settings.SLACK_BOT_TOKEN = self.server.url, TOKEN
        settings.SLACK_SIGNING_SECRET = SECRET

    def seen(self) -> list[str]:
        return [f"{said.name} {said.words} {said.links}" for said in self.server.messages]

    def fails(self, how: str) -> None:
        faults: dict[str, dict[str, Any]] = {
            "down": {"status": 503},
            "limited": {"status": 429, "retry_after": 7},
            "stranger": {"error": "invalid_auth"},
            "nowhere": {"error": "channel_not_found"},
            "lost": {"drop": "after"},
            "slow": {"seconds": 1.0},
        }
        self.server.fail(**faults[how])

    def unset(self, settings: Settings) -> None:
        settings.SLACK_BOT_TOKEN = ""


@pytest.fixture(params=["console", "webhook", "slack"])
def place(
    request: pytest.FixtureRequest, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    load_transports()
    store.forget()
    if request.param == "console":
        yield OnConsole(capsys)
    else:
        made: ByHook | InSlack = ByHook(settings) if request.param == "webhook" else InSlack(settings)
        with made.server:
            yield made
    store.forget()


@pytest.fixture
def away(place: Place) -> Place:
    if not place.remote:
        pytest.skip("a terminal does not fail")
    return place


def test_a_message_arrives_with_its_channel_its_words_and_its_link(place: Place) -> None:
    reference = place.transport.post(message())

    (seen,) = place.seen()
    assert "#marketing" in seen
    assert "5 sent, 1 declined" in seen
    assert "https://sop.test/admin/tasks/task/1/change/" in seen
    assert "1a2b3c4d" in seen
    assert len(reference) <= 120
    assert reference.isprintable()


@pytest.mark.parametrize("severity", ["warning", "error", "critical"])
def test_how_bad_it_is_can_be_seen(place: Place, severity: str) -> None:
    place.transport.post(message(severity=severity))

    assert severity in place.seen()[0].lower()


def test_a_batch_of_twenty_five_questions_is_one_message(place: Place) -> None:
    cards = tuple(card(number, title=f"Customer {number:02}") for number in range(25))

    place.transport.post(message(kind="approval", text="25 questions wait", batch=cards))

    (seen,) = place.seen()
    assert "25 questions wait" in seen
    if place.remote:
        assert all(f"Customer {number:02}" in seen for number in range(25))


def test_a_question_can_be_shown_anew_once_it_is_decided(place: Place) -> None:
    asked = message(kind="approval", batch=(card(),))
    reference = place.transport.post(asked)

    done = message(kind="update", batch=(card(decided="maria chose “Send as is”."),))
    place.transport.update(reference, done)

    if place.remote:
        assert "maria chose" in place.seen()[-1]


def test_a_text_of_any_length_and_kind_is_taken(place: Place) -> None:
    for text in (
        "x" * 60_000,
        "one\ntwo\r\n\r\nthree",
        "\u202egnp.exe\u0000\u0007",
        " ",
        "*_`~|\\",
        "😀" * 5_000,
    ):
        place.transport.post(message(text=text, batch=(card(title=text[:500] or "-", line=text[:500]),)))

    assert len(place.seen()) == 6


def test_words_of_customers_mention_nobody_and_lead_nowhere(place: Place) -> None:
    if not isinstance(place, InSlack):
        pytest.skip("only Slack makes calls and links of words")
    place.transport.post(message(text=SMUGGLED, batch=(card(title=SMUGGLED, line=SMUGGLED),)))
    place.transport.post(message(text=SMUGGLED, batch=(card(title=SMUGGLED), card(line=SMUGGLED))))

    for said in place.server.messages:
        assert said.pings == []
        assert [link for link in said.links if "sop.test" not in link] == []
        assert not re.search(r"@(here|channel|everyone)", said.words)
        assert "&amp; Zoë" in said.words


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("down", Transient),
        ("limited", RateLimited),
        ("stranger", AuthError),
        ("nowhere", Permanent),
        ("lost", Transient),
    ],
)
def test_each_failure_has_its_error_and_none_of_its_words(
    away: Place, how: str, kind: type[Exception]
) -> None:
    away.fails(how)

    with pytest.raises(kind) as caught:
        away.transport.post(message())

    assert type(caught.value) is kind
    assert "CANARY" not in str(caught.value)
    if how == "limited":
        assert caught.value.retry_after == 7  # type: ignore[attr-defined]
    if how == "lost":
        assert caught.value.sent == "maybe"  # type: ignore[attr-defined]


def test_a_product_that_is_slow_is_given_up_in_time(away: Place, settings: Settings) -> None:
    settings.ENGINE_CALL_TIMEOUT = 0.1
    away.fails("slow")

    with pytest.raises(Transient, match="did not answer in time"):
        away.transport.post(message())


def test_a_call_that_somebody_waits_for_is_given_up_sooner(place: Place) -> None:
    if not isinstance(place, InSlack):
        pytest.skip("only Slack waits for us")
    place.fails("slow")

    with pytest.raises(Transient, match="did not answer in time"):
        slack.call("auth.test", {}, 0.1)


def test_what_is_missing_is_named_before_anything_is_posted(place: Place, settings: Settings) -> None:
    assert place.transport.problem() == ""
    place.unset(settings)
    store.forget()

    assert place.transport.problem() != ""
    with pytest.raises(AuthError, match=re.escape(place.transport.problem()[:20])):
        place.transport.post(message())
    assert place.seen() == []


def test_equal_messages_are_told_apart_by_their_ids_alone(place: Place) -> None:
    one = message()

    place.transport.post(one)
    place.transport.post(replace(one, id=str(uuid4())))

    assert len(place.seen()) == 2
