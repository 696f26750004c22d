"""Laws of chat by webhook: signed as Standard Webhooks 1.0 says, against a server that listens."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pytest_django import Settings

from credentials import store
from credentials.models import Credential
from sopengine.errors import AuthError, Permanent, RateLimited, StepError, Transient
from tasks import journal, outbox
from tasks.models import Notification
from tasks.transports import Message, load_transports, open_transport, transports
from tasks.transports.webhook import Webhook, signed

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


@dataclass(frozen=True)
class Post:
    """One request as it came."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def signature(self) -> str:
        """What the signature must be, reckoned here from the raw bytes."""
        text = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        return "v1," + base64.b64encode(hmac.digest(KEY, text, hashlib.sha256)).decode()


class Chat(ThreadingHTTPServer):
    """A chat product on loopback; `answers` are (status, headers, body), the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = [(200, {}, b"ok")]
        super().__init__(("127.0.0.1", 0), _Handler)

    def says(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer so from now on."""
        self.answers = [(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.posts.append(Post(self.path, headers, body))
        answers = self.server.answers
        status, extra, text = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args: object) -> None:
        """Write nothing."""


@pytest.fixture
def chat(settings: Settings) -> Iterator[Chat]:
    """A chat product that listens, and the settings that lead to it."""
    server = Chat()
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    load_transports()
    settings.CHAT = "webhook"
    settings.CHAT_WEBHOOK_URL = f"{server.url}/hooks/1/?key=a%2Fb"
    settings.CHAT_WEBHOOK_SECRET = SECRET
    store.forget()
    yield server
    store.forget()
    server.shutdown()
    server.server_close()


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


def test_a_message_arrives_signed_at_the_whole_address(chat: Chat) -> None:
    assert open_transport().post(MESSAGE) == ""

    (post,) = chat.posts
    assert post.target == "/hooks/1/?key=a%2Fb"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["webhook-id"] == MESSAGE.id
    assert abs(int(post.headers["webhook-timestamp"]) - time.time()) < 30
    assert post.headers["webhook-signature"] == post.signature


def test_the_body_says_what_the_message_says_and_nothing_else(chat: Chat) -> None:
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
        },
    }
    assert {item.name for item in fields(Message)} == {
        *("id", "at", "text", "channel", "kind", "severity", "link", "reference")
    }


def test_a_moved_clock_does_not_move_the_time_of_the_signature(chat: Chat, settings: Settings) -> None:
    settings.CLOCK_OFFSET, settings.CLOCK_OFFSET_FILE = 86_400.0 * 60, ""

    Webhook().post(MESSAGE)

    assert abs(int(chat.posts[0].headers["webhook-timestamp"]) - time.time()) < 30


def test_every_try_has_the_same_id_and_the_same_body(chat: Chat) -> None:
    chat.answers = [(503, {}, b""), (200, {}, b"")]
    outbox.post("Look at this.")

    assert outbox.pump() == 0
    Notification.objects.update(wake_at=journal.database_now())
    assert outbox.pump() == 1

    first, second = chat.posts
    row = Notification.objects.get()
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == str(row.pk)
    assert first.body == second.body
    assert second.headers["webhook-signature"] == second.signature
    assert row.state == State.SENT


# -- what the answer means -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"ok"), (202, b"<html>thanks</html>"), (204, b""), (200, b"x" * 3_000_000)]
)
def test_any_answer_of_two_hundred_means_posted_whatever_it_says(
    chat: Chat, status: int, body: bytes
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
    chat: Chat, status: int, kind: type[StepError], code: str
) -> None:
    chat.says(status, b"CANARY")

    error = refused()

    assert (type(error), error.reason) == (kind, code)
    assert "CANARY" not in str(error)


def test_a_redirect_is_a_refusal_and_not_followed(chat: Chat) -> None:
    chat.says(307, Location=f"{chat.url}/elsewhere")

    assert (type(refused()), len(chat.posts)) == (Permanent, 1)


def test_a_hook_that_is_gone_ends_the_message_and_one_that_is_busy_puts_it_off(chat: Chat) -> None:
    chat.says(429, Retry_After="120")
    outbox.post("Look at this.")
    outbox.pump()
    row = Notification.objects.get()
    assert row.wake_at is not None
    assert (row.state, row.reason) == (State.PENDING, "rate_limited")
    assert 100 < (row.wake_at - journal.database_now()).total_seconds() <= 120

    chat.says(410)
    Notification.objects.update(wake_at=journal.database_now())
    outbox.pump()

    row.refresh_from_db()
    assert (row.state, row.reason, row.wake_at) == (State.DEAD, "http_410", None)


def test_a_hook_that_nobody_listens_at_is_tried_again(chat: Chat, settings: Settings) -> None:
    settings.CHAT_WEBHOOK_URL = "http://127.0.0.1:1/"

    assert (type(error := refused()), error.reason) == (Transient, "unreachable")


# -- what it needs ---------------------------------------------------------------------------------


def test_a_stored_secret_goes_before_that_of_the_environment(chat: Chat, settings: Settings) -> None:
    settings.CHAT_WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"\1" * 32).decode()
    credential = Credential(service="chat", kind=Credential.Kind.WEBHOOK_SECRET)
    credential.set_secret(SECRET)
    store.put(credential)
    store.forget()

    Webhook().post(MESSAGE)

    assert chat.posts[0].headers["webhook-signature"] == chat.posts[0].signature


@pytest.mark.parametrize("secret", [SECRET.rstrip("="), SECRET.removeprefix("whsec_")])
def test_a_secret_may_come_without_prefix_or_padding(chat: Chat, settings: Settings, secret: str) -> None:
    settings.CHAT_WEBHOOK_SECRET = secret

    Webhook().post(MESSAGE)

    assert chat.posts[0].headers["webhook-signature"] == chat.posts[0].signature


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
    chat: Chat, settings: Settings, name: str, value: str, said: str
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
