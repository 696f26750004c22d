"""Laws of chat by webhook: signed as Standard Webhooks 1.0 says, against a server that listens."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from pytest_django import Settings

from credentials import store
from credentials.models import Credential
from sopengine.errors import AuthError, Permanent, RateLimited, StepError, Transient
from tasks import journal, outbox
from tasks.models import Notification, Pace, Pulse
from tasks.transports import Card, Choice, Message, load_transports, open_transport, transports
from tasks.transports.webhook import Webhook, signed
from tests.tasks.chat_by_hook import HookChat, Post

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
MESSAGE = Message(
    id="3c8f7e0a-0000-4000-8000-000000000001",
    text="Reactivation: 5 sent, 1 declined, Zoë skipped",
    channel="#marketing",
    kind="info",
    severity="warning",
    link="https://sop.example.com/admin/tasks/task/1/change/",
    reference="1a2b3c4d",
    at=datetime(2027, 2, 15, 15, 0, tzinfo=UTC),
)
State = Notification.State


def signature_of(post: Post) -> str:
    """Return what the signature must be, reckoned here from the raw bytes."""
    text = f"{post.headers['webhook-id']}.{post.headers['webhook-timestamp']}.".encode() + post.body
    return "v1," + base64.b64encode(hmac.digest(KEY, text, hashlib.sha256)).decode()


@pytest.fixture
def chat(settings: Settings) -> Iterator[HookChat]:
    """A chat product that listens, and the settings that lead to it."""
    load_transports()
    settings.CHAT = "webhook"
    settings.CHAT_WEBHOOK_SECRET = SECRET
    store.forget()
    with HookChat() as server:
        settings.CHAT_WEBHOOK_URL = f"{server.url}/hooks/1/?key=a%2Fb"
        yield server
    store.forget()


pytestmark = pytest.mark.django_db


def refused() -> StepError:
    """Post what must be refused, and return why."""
    with pytest.raises(StepError) as caught:
        Webhook().post(MESSAGE)
    return caught.value


# -- what is posted --------------------------------------------------------------------------------


def test_the_signature_is_that_of_the_published_example() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    headers = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_message_arrives_signed_at_the_whole_address(chat: HookChat) -> None:
    assert open_transport().post(MESSAGE) == ""

    (post,) = chat.posts
    assert post.target == "/hooks/1/?key=a%2Fb"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["webhook-id"] == MESSAGE.id
    assert abs(int(post.headers["webhook-timestamp"]) - time.time()) < 30
    assert post.headers["webhook-signature"] == signature_of(post)


def test_the_body_says_what_the_message_says_and_nothing_else(chat: HookChat) -> None:
    Webhook().post(MESSAGE)

    assert json.loads(chat.posts[0].body) == {
        "type": "staff.message",
        "timestamp": "2027-02-15T15:00:00+00:00",
        "data": {
            "text": "Reactivation: 5 sent, 1 declined, Zoë skipped",
            "channel": "#marketing",
            "kind": "info",
            "severity": "warning",
            "link": "https://sop.example.com/admin/tasks/task/1/change/",
            "reference": "1a2b3c4d",
            "task_thread": "",
            "count": 1,
            "batch": [],
            "recipient": "",
            "replaces": "",
        },
    }
    assert {item.name for item in fields(Message)} == {
        *("id", "at", "text", "channel", "kind", "severity", "link", "reference"),
        *("task_thread", "count", "batch", "recipient", "replaces"),
    }


def test_the_questions_of_a_message_are_told_with_their_answers(chat: HookChat) -> None:
    card = Card("a-1", "Ann", ("Spring is near",), (Choice("approve", "Send", "approve"),), "https://x/1", "")

    Webhook().post(replace(MESSAGE, kind="approval", batch=(card,)))

    assert json.loads(chat.posts[0].body)["data"]["batch"] == [
        {
            "approval_id": "a-1",
            "title": "Ann",
            "lines": ["Spring is near"],
            "options": [{"key": "approve", "label": "Send", "style": "approve"}],
            "link": "https://x/1",
            "decided": "",
        }
    ]


def test_a_moved_clock_does_not_move_the_time_of_the_signature(chat: HookChat, settings: Settings) -> None:
    settings.CLOCK_OFFSET, settings.CLOCK_OFFSET_FILE = 86_400.0 * 60, ""

    Webhook().post(MESSAGE)

    assert abs(int(chat.posts[0].headers["webhook-timestamp"]) - time.time()) < 30


def test_every_try_has_the_same_id_and_the_same_body(chat: HookChat) -> None:
    chat.answers = [(503, {}, b""), (200, {}, b"")]
    outbox.post("Look at this.")

    assert outbox.pump() == 0
    Notification.objects.update(wake_at=journal.database_now())
    Pulse.objects.all().delete()
    Pace.objects.all().delete()
    assert outbox.pump() == 1

    first, second = chat.posts
    row = Notification.objects.get()
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == str(row.pk)
    assert first.body == second.body
    assert second.headers["webhook-signature"] == signature_of(second)
    assert row.state == State.SENT


# -- what the answer means -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"ok"), (202, b"<html>thanks</html>"), (204, b""), (200, b"x" * 3_000_000)]
)
def test_any_answer_of_two_hundred_means_posted_whatever_it_says(
    chat: HookChat, status: int, body: bytes
) -> None:
    chat.says(status, body)

    assert Webhook().post(MESSAGE) == ""
    assert Webhook().post(MESSAGE) == ""
    assert len(chat.posts) == 2


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, Permanent, "http_400"),
        (401, AuthError, "auth"),
        (403, AuthError, "forbidden"),
        (404, Permanent, "http_404"),
        (410, Permanent, "http_410"),
        (429, RateLimited, "rate_limited"),
        (500, Transient, "http_500"),
        (502, Transient, "http_502"),
    ],
)
def test_each_refusal_has_its_error_and_none_of_its_words(
    chat: HookChat, status: int, kind: type[StepError], code: str
) -> None:
    chat.says(status, b"CANARY")

    error = refused()

    assert (type(error), error.reason) == (kind, code)
    assert "CANARY" not in str(error)


def test_a_redirect_is_a_refusal_and_not_followed(chat: HookChat) -> None:
    chat.says(307, Location=f"{chat.url}/elsewhere")

    assert (type(refused()), len(chat.posts)) == (Permanent, 1)


def test_a_hook_that_is_gone_ends_the_message_and_one_that_is_busy_puts_it_off(chat: HookChat) -> None:
    chat.says(429, Retry_After="120")
    outbox.post("Look at this.")
    outbox.pump()
    row = Notification.objects.get()
    assert row.wake_at is not None
    assert (row.state, row.reason) == (State.PENDING, "rate_limited")
    assert 100 < (row.wake_at - journal.database_now()).total_seconds() <= 120

    chat.says(410)
    Notification.objects.update(wake_at=journal.database_now())
    Pulse.objects.all().delete()
    Pace.objects.all().delete()
    outbox.pump()

    row.refresh_from_db()
    assert (row.state, row.reason, row.wake_at) == (State.DEAD, "http_410", None)


def test_a_hook_that_nobody_listens_at_is_tried_again(chat: HookChat, settings: Settings) -> None:
    settings.CHAT_WEBHOOK_URL = "http://127.0.0.1:1/"

    assert (type(error := refused()), error.reason) == (Transient, "unreachable")


# -- what it needs ---------------------------------------------------------------------------------


def test_a_stored_secret_goes_before_that_of_the_environment(chat: HookChat, settings: Settings) -> None:
    settings.CHAT_WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"\1" * 32).decode()
    credential = Credential(service="chat", kind=Credential.Kind.WEBHOOK_SECRET)
    credential.set_secret(SECRET)
    store.put(credential)
    store.forget()

    Webhook().post(MESSAGE)

    assert chat.posts[0].headers["webhook-signature"] == signature_of(chat.posts[0])


@pytest.mark.parametrize("secret", [SECRET.rstrip("="), SECRET.removeprefix("whsec_")])
def test_a_secret_may_come_without_prefix_or_padding(chat: HookChat, settings: Settings, secret: str) -> None:
    settings.CHAT_WEBHOOK_SECRET = secret

    Webhook().post(MESSAGE)

    assert chat.posts[0].headers["webhook-signature"] == signature_of(chat.posts[0])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CHAT_WEBHOOK_URL", "", "CHAT_WEBHOOK_URL is not set"),
        ("CHAT_WEBHOOK_SECRET", "", "set CHAT_WEBHOOK_SECRET"),
        ("CHAT_WEBHOOK_SECRET", "whsec_short", "must be whsec_ and base64 of 24 to 64"),
        ("CHAT_WEBHOOK_SECRET", "whsec_" + "é" * 40, "must be whsec_ and base64 of 24 to 64"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_posted(
    chat: HookChat, settings: Settings, name: str, value: str, said: str
) -> None:
    assert Webhook().problem() == ""
    setattr(settings, name, value)
    store.forget()

    error = refused()

    assert (type(error), error.reason) == (AuthError, "not_configured")
    assert said in error.message
    assert said in Webhook().problem()
    assert "short" not in error.message
    assert chat.posts == []


def test_the_registry_knows_it_by_its_name() -> None:
    load_transports()

    assert transports.get("webhook") is Webhook
