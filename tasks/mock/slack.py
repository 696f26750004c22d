"""A Slack on loopback: the methods of the Web API that we call, and people who click.

    slack = FakeSlack()                      # serves on a free port; SLACK_API_URL = slack.url
    slack.messages                           # what stands in the channels now
    slack.click(message, "Send as is", "U1") # what Slack would post to the request URL: body and headers

It is as strict as Slack: a wrong token, an unknown method, a block that is too long, a second button
with the same action_id, a modal for a spent trigger, are refused with Slack's own codes. It can be
told to fail: see `fail`.
"""

import hashlib
import hmac
import itertools
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

Json = dict[str, Any]

TOKEN = "xoxb-fake-token"  # noqa: S105 - it opens nothing but this
SECRET = "fake-signing-secret"  # noqa: S105
TRIGGER_SECONDS = 3.0
MOST_BLOCKS = 50
MOST_MODAL_BLOCKS = 100
MOST_BODY = 1_000_000
PINGS = re.compile(r"<[!@#][^>]*>")
LINKS = re.compile(
    r"<(?:https?|mailto):[^>]*>|https?://[^\s<>|]+|(?<![@\w.])(?:[a-z0-9-]+\.)+[a-z]{2,}\b", re.I
)


class Refused(Exception):
    """What Slack answers as {"ok": false, "error": code}."""

    def __init__(self, code: str, *messages: str) -> None:
        self.code, self.messages = code, messages
        super().__init__(code)


@dataclass(slots=True)
class Said:
    """One message as it stands in a channel now; `versions` is how often it was shown anew."""

    channel: str
    name: str
    ts: str
    text: str
    blocks: list[Json]
    thread: str = ""
    broadcast: bool = False
    only_for: str = ""
    versions: int = 1

    @property
    def words(self) -> str:
        """Return all that a reader sees, without the labels of buttons."""
        return "\n".join(text["text"] for text in _texts(self.blocks) if "text" in text)

    @property
    def buttons(self) -> dict[str, Json]:
        """Return the buttons by their labels; of equal labels the first."""
        found: dict[str, Json] = {}
        for element in _elements(self.blocks):
            if element["type"] == "button":
                found.setdefault(element["text"]["text"], element)
        return found

    @property
    def links(self) -> list[str]:
        """Return what a reader could follow: links, and what Slack would make into one."""
        return [link for text in [self.text, self.words] for link in LINKS.findall(text)]

    @property
    def pings(self) -> list[str]:
        """Return whom and what it mentions."""
        return PINGS.findall(f"{self.text}\n{self.words}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the Web API, and what was answered: ok, an error, or the HTTP status of a failure."""

    method: str
    body: Json
    answer: str


@dataclass(frozen=True, slots=True)
class Request:
    """What Slack posts to the request URL of an app."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """How a call goes wrong: see `FakeSlack.fail`."""

    status: int = 200
    error: str = ""
    retry_after: float | None = None
    seconds: float = 0.0
    drop: str = ""


@dataclass(slots=True)
class _Trigger:
    at: float
    spent: bool = False


class FakeSlack(ThreadingHTTPServer):
    """One workspace. Channels begin with their first message, but for those in `closed`; all people exist.

    `now` is the clock that requests are signed with: that of the app under test.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0, now: Callable[[], float] = time.time) -> None:
        self.token, self.secret, self.now = TOKEN, SECRET, now
        self.calls: list[Call] = []
        self.views: list[Json] = []
        self.closed: set[str] = set()
        self._said: dict[tuple[str, str], Said] = {}
        self._triggers: dict[str, _Trigger] = {}
        self._faults: deque[Fault] = deque()
        self._for_ever: Fault | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Return the address to set as SLACK_API_URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/api"

    @property
    def messages(self) -> list[Said]:
        """Return what stands in all channels, in the order of its first posting."""
        with self._lock:
            return list(self._said.values())

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=[0.02], name="fake-slack", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client goes away."""

    # -- misbehaving -------------------------------------------------------------------------------

    def fail(
        self,
        times: int | None = None,
        *,
        status: int = 200,
        error: str = "",
        retry_after: float | None = None,
        seconds: float = 0.0,
        drop: str = "",
    ) -> None:
        """Let the next so many calls go wrong, None for all from now on.

        `status` is answered without doing anything, `error` is Slack's own code, `seconds` pass before
        the answer, `drop` breaks the connection "before" or "after" the call is done.
        """
        fault = Fault(status, error, retry_after, seconds, drop)
        if times is None:
            self._for_ever = fault
        else:
            self._faults.extend([fault] * times)

    def recover(self) -> None:
        """Let everything go right from now on, but for what `fail` is told afterwards."""
        self._faults.clear()
        self._for_ever = None

    @property
    def is_down(self) -> bool:
        """Return whether every call goes wrong until it recovers."""
        return self._for_ever is not None

    def fault(self) -> Fault:
        """Return how the next call goes."""
        with self._lock:
            return self._faults.popleft() if self._faults else self._for_ever or Fault()

    # -- the Web API -------------------------------------------------------------------------------

    def answer(self, method: str, token: str, body: Json) -> Json:
        """Do what the method does and return what Slack answers."""
        with self._lock:
            try:
                if token != self.token:
                    raise Refused("invalid_auth" if token else "not_authed")
                if method not in _METHODS:
                    raise Refused("unknown_method")
                return {"ok": True, **_METHODS[method](self, body)}
            except Refused as refusal:
                told = {"response_metadata": {"messages": refusal.messages}} if refusal.messages else {}
                return {"ok": False, "error": refusal.code, **told}

    def note(self, method: str, body: Json, answer: str) -> None:
        """Keep one call."""
        self.calls.append(Call(method, body, answer))

    def _post(self, body: Json) -> Json:
        channel, name = self._channel(body)
        _check_message(body)
        thread = body.get("thread_ts") or ""
        if thread and (channel, thread) not in self._said:
            raise Refused("thread_not_found")
        said = self._say(channel, name, body, thread=thread)
        return {"channel": channel, "ts": said.ts, "message": {"text": said.text, "ts": said.ts}}

    def _ephemeral(self, body: Json) -> Json:
        channel, name = self._channel(body)
        _check_message(body)
        if not str(body.get("user", "")).startswith("U"):
            raise Refused("user_not_in_channel")
        said = self._say(channel, name, body, only_for=body["user"])
        return {"message_ts": said.ts}

    def _update(self, body: Json) -> Json:
        said = self._said.get((str(body.get("channel")), str(body.get("ts"))))
        if said is None or said.only_for:
            raise Refused("message_not_found")
        _check_message(body)
        said.text, said.blocks = body.get("text", ""), body.get("blocks", [])
        said.versions += 1
        return {"channel": said.channel, "ts": said.ts, "text": said.text}

    def _open_conversation(self, body: Json) -> Json:
        user = str(body.get("users", ""))
        if not re.fullmatch(r"[UW][A-Z0-9]+", user):
            raise Refused("user_not_found")
        return {"channel": {"id": f"D{user[1:]}"}}

    def _open_view(self, body: Json) -> Json:
        trigger = self._triggers.get(str(body.get("trigger_id")))
        if trigger is None:
            raise Refused("invalid_trigger_id")
        if time.monotonic() - trigger.at > TRIGGER_SECONDS:
            raise Refused("expired_trigger_id")
        if trigger.spent:
            raise Refused("exchanged_trigger_id")
        trigger.spent = True
        view = body.get("view")
        _check_view(view)
        assert isinstance(view, dict)
        shown = {**view, "id": f"V{next(self._numbers)}"}
        self.views.append(shown)
        return {"view": shown}

    def _channel(self, body: Json) -> tuple[str, str]:
        """Return id and name of the channel; a name stands with # in front, an id begins with C or D."""
        wanted = str(body.get("channel") or "")
        if not wanted or wanted in self.closed or not re.fullmatch(r"#[^\s#]{1,80}|[CDG][A-Z0-9]+", wanted):
            raise Refused("channel_not_found")
        if not wanted.startswith("#"):
            return wanted, next((s.name for s in self._said.values() if s.channel == wanted), wanted)
        return f"C{hashlib.sha256(wanted.encode()).hexdigest()[:9].upper()}", wanted

    def _say(self, channel: str, name: str, body: Json, *, thread: str = "", only_for: str = "") -> Said:
        ts = f"{int(self.now())}.{next(self._numbers):06}"
        said = Said(
            channel,
            name,
            ts,
            body.get("text", ""),
            body.get("blocks", []),
            thread,
            bool(body.get("reply_broadcast")),
            only_for,
        )
        self._said[channel, ts] = said
        return said

    # -- people ------------------------------------------------------------------------------------

    def click(self, said: Said, label: str, user: str, nth: int = 0) -> Request:
        """Return the request of somebody who presses a button: the nth one with this label."""
        pressed = [
            element
            for element in _elements(said.blocks)
            if element["type"] == "button" and element["text"]["text"] == label
        ][nth]
        return self.interaction(
            {
                "type": "block_actions",
                "user": {"id": user, "username": user.lower(), "team_id": "T1"},
                "container": {
                    "type": "message",
                    "message_ts": said.ts,
                    "channel_id": said.channel,
                    "is_ephemeral": False,
                },
                "trigger_id": self.trigger(),
                "channel": {"id": said.channel, "name": said.name.lstrip("#")},
                "message": {"ts": said.ts, "text": said.text, "blocks": said.blocks},
                "actions": [
                    {
                        **{name: pressed[name] for name in ("action_id", "text", "type")},
                        "value": pressed.get("value", ""),
                        "action_ts": f"{self.now():.6f}",
                    }
                ],
            }
        )

    def submit(self, view: Json, user: str, **changes: str) -> Request:
        """Return the request of somebody who submits a modal: `changes` by block, the rest as shown."""
        values: Json = {}
        for block in view["blocks"]:
            if block["type"] != "input":
                continue
            element, name = block["element"], block["block_id"]
            if element["type"] == "plain_text_input":
                typed = changes.get(name, element.get("initial_value", "")) or None
                values[name] = {element["action_id"]: {"type": element["type"], "value": typed}}
            else:
                chosen = changes.get(name, element.get("initial_option", {}).get("value"))
                option = next((o for o in element["options"] if o["value"] == chosen), None)
                values[name] = {element["action_id"]: {"type": element["type"], "selected_option": option}}
        return self.interaction(
            {
                "type": "view_submission",
                "user": {"id": user, "username": user.lower(), "team_id": "T1"},
                "trigger_id": self.trigger(),
                "view": {**view, "state": {"values": values}},
            }
        )

    def command(self, text: str, user: str, channel: str = "C1") -> Request:
        """Return the request of somebody who types /sop and this."""
        fields = {
            "command": "/sop",
            "text": text,
            "user_id": user,
            "user_name": user.lower(),
            "channel_id": channel,
            "team_id": "T1",
            "trigger_id": self.trigger(),
        }
        return self.signed(urlencode(fields).encode())

    def interaction(self, payload: Json) -> Request:
        """Return the request of an interaction."""
        return self.signed(urlencode({"payload": json.dumps(payload)}).encode())

    def signed(
        self, body: bytes, kind: str = "application/x-www-form-urlencoded", at: float | None = None
    ) -> Request:
        """Return a request with these bytes, signed now or at another second."""
        stamp = str(int(self.now() if at is None else at))
        digest = hmac.digest(self.secret.encode(), f"v0:{stamp}:".encode() + body, "sha256").hex()
        headers = {
            "Content-Type": kind,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={digest}",
        }
        return Request(body, headers)

    def trigger(self) -> str:
        """Return a new trigger, good for one modal and three seconds."""
        name = f"{next(self._numbers)}.{int(time.time())}.fake"
        self._triggers[name] = _Trigger(time.monotonic())
        return name


_METHODS: Mapping[str, Callable[[FakeSlack, Json], Json]] = {
    "auth.test": lambda slack, body: {"user_id": "UBOT", "team_id": "T1"},
    "chat.postMessage": FakeSlack._post,
    "chat.postEphemeral": FakeSlack._ephemeral,
    "chat.update": FakeSlack._update,
    "conversations.open": FakeSlack._open_conversation,
    "views.open": FakeSlack._open_view,
}


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept for many calls; each answer leaves in one piece."""

    protocol_version = "HTTP/1.1"
    server: FakeSlack

    def do_POST(self) -> None:
        method = self.path.rpartition("/")[2]
        length = int(self.headers.get("Content-Length") or 0)
        if length > MOST_BODY:
            self._send(413, {}, {})
            return
        raw = self.rfile.read(length)
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = None
        fault = self.server.fault()
        time.sleep(fault.seconds)
        if fault.drop == "before":
            self.close_connection = True
            return
        if fault.status != 200:
            self.server.note(method, body or {}, str(fault.status))
            wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            self._send(
                fault.status, {"ok": False, "error": "ratelimited" if fault.status == 429 else "down"}, wait
            )
            return
        self._answer(method, body, fault)

    def _answer(self, method: str, body: Any, fault: Fault) -> None:
        if not isinstance(body, dict):
            answer: Json = {"ok": False, "error": "invalid_json"}
        elif fault.error:
            answer = {"ok": False, "error": fault.error}
        else:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            answer = self.server.answer(method, token, body)
        self.server.note(method, body if isinstance(body, dict) else {}, answer.get("error", "ok"))
        if fault.drop == "after":
            self.close_connection = True
            return
        self._send(200, answer, {})

    def _send(self, status: int, answer: Json, headers: Mapping[str, str]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        shown = {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(content))}
        for name, value in {**shown, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write nothing."""


# -- what Slack takes ------------------------------------------------------------------------------


def _check_message(body: Json) -> None:
    blocks = body.get("blocks", [])
    if not body.get("text"):
        raise Refused("no_text")
    if len(str(body["text"])) > 40_000:
        raise Refused("msg_too_long")
    _check_blocks(blocks, MOST_BLOCKS, inputs=False)


def _check_view(view: object) -> None:
    if not isinstance(view, dict) or view.get("type") != "modal":
        raise Refused("invalid_arguments", "a modal is expected")
    # Where nothing can be filled in, nothing needs to be submitted.
    fills_in = any(block.get("type") == "input" for block in view.get("blocks") or ())
    for name in ("title", "submit", "close") if fills_in or "submit" in view else ("title", "close"):
        _check_text(view.get(name), 24, plain=True)
    if len(str(view.get("private_metadata", ""))) > 3_000 or len(str(view.get("callback_id", ""))) > 255:
        raise Refused("invalid_arguments", "private_metadata or callback_id is too long")
    _check_blocks(view.get("blocks"), MOST_MODAL_BLOCKS, inputs=True)


def _check_blocks(blocks: object, most: int, *, inputs: bool) -> None:
    if not isinstance(blocks, list) or len(blocks) > most:
        raise Refused("invalid_blocks", f"at most {most} blocks")
    for block in blocks:
        _check_block(block, inputs=inputs)
    named = [block["block_id"] for block in blocks if "block_id" in block]
    actions = [element["action_id"] for element in _elements(blocks) if "action_id" in element]
    if len(set(named)) < len(named) or len(set(actions)) < len(actions):
        raise Refused("invalid_blocks", "a block_id or an action_id is there twice")


def _check_block(block: Json, *, inputs: bool) -> None:
    kind = block.get("type")
    if len(str(block.get("block_id", ""))) > 255:
        raise Refused("invalid_blocks", "block_id is too long")
    if kind == "section":
        _check_text(block.get("text"), 3_000)
    elif kind == "context":
        _count(block.get("elements"), 10)
        for element in block["elements"]:
            _check_text(element, 3_000)
    elif kind == "actions":
        _count(block.get("elements"), 25)
    elif kind == "input" and inputs:
        _check_text(block.get("label"), 2_000, plain=True)
    elif kind != "divider":
        raise Refused("invalid_blocks", f"no block of the type {kind}")
    for element in _elements([block]):
        _check_element(element)


def _check_element(element: Json) -> None:
    if not 0 < len(str(element.get("action_id", ""))) <= 255:
        raise Refused("invalid_blocks", "action_id must have 1 to 255 characters")
    kind = element["type"]
    if kind == "button":
        _check_text(element.get("text"), 75, plain=True)
        if len(element.get("value", "")) > 2_000 or len(element.get("url", "")) > 3_000:
            raise Refused("invalid_blocks", "value or url of a button is too long")
        if element.get("style", "primary") not in ("primary", "danger"):
            raise Refused("invalid_blocks", "no such style of a button")
        confirm = element.get("confirm")
        if confirm:
            for name, most in (("title", 100), ("text", 300), ("confirm", 30), ("deny", 30)):
                _check_text(confirm.get(name), most)
    elif kind == "plain_text_input":
        most = element.get("max_length", 3_000)
        if not 0 < most <= 3_000 or len(element.get("initial_value", "")) > most:
            raise Refused("invalid_blocks", "max_length or initial_value of an input is too long")
    elif kind in ("radio_buttons", "static_select"):
        _count(element.get("options"), 10 if kind == "radio_buttons" else 100)
        for option in element["options"]:
            _check_text(option.get("text"), 75, plain=True)
            if not 0 < len(option.get("value", "")) <= 150:
                raise Refused("invalid_blocks", "value of an option must have 1 to 150 characters")
        if "initial_option" in element and element["initial_option"] not in element["options"]:
            raise Refused("invalid_blocks", "initial_option is none of the options")
    else:
        raise Refused("invalid_blocks", f"no element of the type {kind}")


def _check_text(text: object, most: int, *, plain: bool = False) -> None:
    kinds = ("plain_text",) if plain else ("plain_text", "mrkdwn")
    if not isinstance(text, dict) or text.get("type") not in kinds:
        raise Refused("invalid_blocks", f"expected a text object: {' or '.join(kinds)}")
    if not 0 < len(text.get("text", "")) <= most:
        raise Refused("invalid_blocks", f"a text must have 1 to {most} characters")


def _count(items: object, most: int) -> None:
    if not isinstance(items, list) or not 0 < len(items) <= most:
        raise Refused("invalid_blocks", f"expected 1 to {most} of them")


def _elements(blocks: list[Json]) -> Iterator[Json]:
    """Yield what can be pressed or filled in."""
    for block in blocks:
        if block["type"] == "actions":
            yield from block["elements"]
        elif block["type"] == "section" and "accessory" in block:
            yield block["accessory"]
        elif block["type"] == "input":
            yield block["element"]


def _texts(blocks: list[Json]) -> Iterator[Json]:
    """Yield the text objects of sections and contexts."""
    for block in blocks:
        if block["type"] == "section":
            yield block["text"]
        elif block["type"] == "context":
            yield from block["elements"]
