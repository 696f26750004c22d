"""Chat by Slack: the Web API through slack_sdk, one thread per run, questions with buttons.

The SDK builds the calls; they leave through `sopengine.http`, which keeps them short, follows no
redirect and writes no body into a log. Nothing is tried twice here: the outbox does that.

A button carries nothing but a signed value. One question has a button for each answer; a list of
questions has one that opens each, and one that approves the rest. Customers' words are escaped, cannot
mention anybody and are no links.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.core import signing
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from credentials.store import secret_for
from sopengine.errors import AuthError, DataError, Permanent, RateLimited, StepError, Transient
from sopengine.http import Client
from tasks.transports import Card, Choice, Message, Transport, transports

Block = dict[str, Any]

CALL_SECONDS = 5.0
WAITING_SECONDS = 1.3  # while Slack waits three seconds for our answer, which may take two calls
NO_TOKEN = "There is no bot token: set SLACK_BOT_TOKEN or store it with `credential set slack`."  # noqa: S105
NO_SECRET = "Nobody can answer in Slack: set SLACK_SIGNING_SECRET or store it as webhook_secret of slack."  # noqa: S105
MOST_BLOCKS = 50
MOST_IN_TEXT = 2_900  # a section takes 3,000
MOST_IN_INPUT = 3_000
MOST_IN_SUBJECT = 250
MOST_IN_FALLBACK = 3_900
MOST_RADIOS = 10
OPEN, ANSWER, REST = "sop_open", "sop_answer", "sop_rest"  # what a button asks for; a number follows
MODAL = "sop_decide"
DECLINE = "decline"
TOO_LONG = "This is too long to be shown in Slack. Read all of it on its page, and decide there."
SALT = "tasks.transports.slack"
SIGNS = {"warning": ":warning:", "error": ":x: *ERROR*", "critical": ":rotating_light: *CRITICAL*"}
LOUD = frozenset({"approval", "reminder", "escalation"})  # a thread must not hide them

# What Slack says in "error". All others are refusals for good.
LATER = frozenset(
    {"service_unavailable", "fatal_error", "internal_error", "request_timeout", "team_added_to_org"}
)
NO_LOGIN = frozenset(
    {
        *("not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired"),
        *("missing_scope", "no_permission", "org_login_required", "ekm_access_denied"),
    }
)
PAUSES = frozenset({"ratelimited", "rate_limited"})


@transports.register("slack")
class Slack(Transport):
    """Post with the bot token to settings.SLACK_API_URL. A reference is "channel id:ts"."""

    threads = True

    def problem(self) -> str:
        """Return that the token or the signing secret is missing."""
        try:
            bot_token()
            return "" if secret_for("slack", "webhook_secret") else NO_SECRET
        except AuthError as error:
            return error.message

    def post(self, message: Message) -> str:
        """Post the message, in its run's thread when there is one; return "channel id:ts"."""
        channel = direct_channel(message.recipient) if message.recipient else message.channel
        body: dict[str, Any] = {"channel": channel, **content(message)}
        room, _, thread = message.task_thread.partition(":")
        if thread:
            body |= {"channel": room, "thread_ts": thread}
            if message.kind in LOUD or message.severity != "info":
                body["reply_broadcast"] = True
        answer = call("chat.postMessage", body)
        return f"{_word(answer, 'channel')}:{_word(answer, 'ts')}"

    def update(self, reference: str, message: Message) -> None:
        """Show the message in the old place, without the buttons of what is decided."""
        channel, _, ts = reference.partition(":")
        call("chat.update", {"channel": channel, "ts": ts, **content(message)})


# -- the Web API -----------------------------------------------------------------------------------


class _Wire(WebClient):
    """The SDK's client, whose calls leave through our own."""

    seconds = CALL_SECONDS

    def _perform_urllib_http_request(self, *, url: str, args: dict[str, dict[str, Any]]) -> dict[str, Any]:
        parts = urlsplit(url)
        client = Client("slack", f"{parts.scheme}://{parts.netloc}", total_seconds=self.seconds)
        headers = {"Authorization": args["headers"]["Authorization"]}
        label = parts.path.rpartition("/")[2]
        answer = client.call("POST", parts.path, label=label, body=args["json"], headers=headers)
        if not answer.found:
            raise Permanent("There is no such method of Slack at SLACK_API_URL.", code="no_method")
        return {"status": answer.status, "headers": {}, "body": json.dumps(answer.value)}


def bot_token() -> str:
    """Return the token to call with; AuthError where there is none, or it cannot be opened."""
    token = secret_for("slack")
    if not token:
        raise AuthError(NO_TOKEN, code="not_configured")
    return token


def call(method: str, body: Mapping[str, Any], seconds: float = CALL_SECONDS) -> Mapping[str, Any]:
    """Call one method of the Web API, for so long at most; return its answer, or raise a StepError."""
    client = _Wire(token=bot_token(), base_url=settings.SLACK_API_URL.rstrip("/") + "/", retry_handlers=[])
    client.seconds = seconds
    try:
        answer = client.api_call(method, json=dict(body)).data
    except SlackApiError as error:
        raise refusal(error.response.data) from None
    if not isinstance(answer, dict):
        raise DataError("Slack answered with something else than it says it does.", code="bad_answer")
    return answer


def refusal(answer: object) -> StepError:
    """Return the StepError of an answer that says "ok": false; of its words only a known code is kept."""
    said = answer.get("error") if isinstance(answer, dict) else None
    code = said if isinstance(said, str) and re.fullmatch(r"[a-z_]{1,60}", said) else "bad_answer"
    if code in PAUSES:
        return RateLimited("Slack asked for a pause.")
    if code in LATER:
        return Transient("Slack failed.", code=code)
    if code in NO_LOGIN:
        return AuthError("Slack does not accept our token.", code=code)
    if code == "bad_answer":
        return DataError("Slack answered with something else than it says it does.", code=code)
    return Permanent("Slack refused the message.", code=code)


def direct_channel(person: str) -> str:
    """Return the id of the conversation with one person."""
    channel = call("conversations.open", {"users": person}).get("channel")
    return _word(channel if isinstance(channel, dict) else {}, "id")


def open_window(trigger: str, view: Block) -> None:
    """Open a modal for who has just pressed a button; Slack takes the trigger for three seconds."""
    call("views.open", {"trigger_id": trigger, "view": view}, WAITING_SECONDS)


def whisper(channel: str, person: str, text: str) -> None:
    """Say something in a channel that only this person sees; they may be waiting for it."""
    body = {"channel": channel, "user": person, "text": escaped(text)}
    call("chat.postEphemeral", body, WAITING_SECONDS)


def _word(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,50}", value):
        raise DataError(f"Slack's answer has no usable {name}.", code="bad_answer", sent="maybe")
    return value


# -- what a button carries -------------------------------------------------------------------------


def sealed_value(*parts: str) -> str:
    """Return what a button or a modal carries: ids and codes, which nobody else can make up."""
    return signing.Signer(salt=SALT).sign("|".join(parts))


def opened_value(value: object) -> list[str] | None:
    """Return the parts of such a value; None when it is not one of ours."""
    try:
        return signing.Signer(salt=SALT).unsign(str(value)).split("|")
    except signing.BadSignature:
        return None


# -- how it looks ----------------------------------------------------------------------------------


def content(message: Message) -> Block:
    """Return text and blocks: the text is what a phone's notification shows."""
    return {
        "text": escaped(message.text)[:MOST_IN_FALLBACK],
        "blocks": blocks(message)[:MOST_BLOCKS],
        "unfurl_links": False,
        "unfurl_media": False,
    }


def blocks(message: Message) -> list[Block]:
    """Return the message as blocks: what it says, its questions, and where it leads."""
    sign = SIGNS.get(message.severity, "")
    shown = [_section(f"{sign} {escaped(message.text)}".strip())]
    waiting = [card for card in message.batch if not card.decided]
    if len(message.batch) == 1:
        shown += _one(message.batch[0])
    else:
        shown += [_row(number, card) for number, card in enumerate(message.batch)]
        if len(waiting) > 1 and any(_approving(card) for card in waiting):
            shown.append(
                {"type": "actions", "block_id": "rest", "elements": [_rest(message.replaces or message.id)]}
            )
    named = f"Open run {message.reference}" if message.reference else "Open"
    if not message.batch or len(message.batch) > 1:
        shown.append(_context(f"<{_address(message.link)}|{named}>"))
    return shown


def _one(card: Card) -> Iterator[Block]:
    yield _section(_words(card))
    if card.decided:
        return
    actions = [_button(number, card, choice) for number, choice in enumerate(card.options)][:20]
    if not any(choice.style == "edit" for choice in card.options):
        actions.insert(0, _open(len(actions), card))  # a button that edits shows the whole as well
    yield {"type": "actions", "block_id": "answers", "elements": [*actions, _link(card)]}


def _row(number: int, card: Card) -> Block:
    block = _section(_words(card))
    if not card.decided:
        block["accessory"] = _open(number, card)
    return block


def _open(number: int, card: Card) -> Block:
    return {
        "type": "button",
        "action_id": f"{OPEN}:{number}",
        "text": _plain("Open"),
        "value": sealed_value("open", card.approval_id),
    }


def _words(card: Card) -> str:
    lines = [f"*{escaped(card.title)}*", *map(escaped, card.lines)]
    if card.decided:
        lines.append(f"_{escaped(card.decided)}_")
    return "\n".join(lines)


def _button(number: int, card: Card, choice: Choice) -> Block:
    edits = choice.style == "edit"
    button: Block = {
        "type": "button",
        "action_id": f"{OPEN if edits else ANSWER}:{number}",
        "text": _plain(choice.label),
        "value": sealed_value("open" if edits else "answer", card.approval_id, choice.key),
    }
    if choice.style in ("approve", "decline"):
        button["style"] = "primary" if choice.style == "approve" else "danger"
    return button


def _rest(message_id: str) -> Block:
    return {
        "type": "button",
        "action_id": f"{REST}:0",
        "style": "primary",
        "text": _plain("Approve the rest"),
        "value": sealed_value("rest", message_id),
        "confirm": {
            "title": _plain("Approve the rest?"),
            "text": _plain(
                "All drafts of this message that nobody has decided yet are sent as they are.", 300
            ),
            "confirm": _plain("Approve them"),
            "deny": _plain("Not yet"),
        },
    }


def _link(card: Card) -> Block:
    return {"type": "button", "action_id": "sop_link:0", "text": _plain("Open the page"), "url": card.link}


def _approving(card: Card) -> bool:
    return any(choice.style == "approve" for choice in card.options)


def modal(
    approval: UUID, options: Sequence[Choice], draft: Mapping[str, str], chosen: str, link: str
) -> Block:
    """Return the window in which a question is decided, and its text edited where it may be.

    Only who may answer is shown it: it has the whole draft. Of one that Slack would cut, it says where
    the whole stands, and lets nobody say yes to what they cannot read.
    """
    too_long = is_too_long(options, draft)
    offered = [choice for choice in options if choice.style == DECLINE or not too_long]
    shown = [_section(escaped(draft.get("question", "") or "A question waits for an answer."))]
    if draft.get("to"):
        shown.append(_context(f"To {escaped(draft['to'])}"))
    shown += (
        [_section(f"{TOO_LONG} <{_address(link)}|Open the page>")] if too_long else _draft(options, draft)
    )
    shown += [_choosing(offered, chosen)] if offered else []
    return {
        "type": "modal",
        "callback_id": MODAL,
        "private_metadata": sealed_value("decide", str(approval)),
        "title": _plain("A question", 24),
        **({"submit": _plain("Decide", 24)} if offered else {}),
        "close": _plain("Not now", 24),
        "blocks": shown,
    }


def is_too_long(options: Sequence[Choice], draft: Mapping[str, str]) -> bool:
    """Whether Slack would show less than the whole of what is decided."""
    text, subject = draft.get("text", ""), draft.get("subject", "")
    if _may_edit(options):
        is_cut = len(text) > MOST_IN_INPUT or len(subject) > MOST_IN_SUBJECT
    else:
        is_cut = max(len(escaped(text)), len(escaped(subject)) + 2) > MOST_IN_TEXT
    return is_cut or len(escaped(draft.get("question", ""))) > MOST_IN_TEXT


def _may_edit(options: Sequence[Choice]) -> bool:
    return any(choice.style == "edit" for choice in options)


def _draft(options: Sequence[Choice], draft: Mapping[str, str]) -> list[Block]:
    text, subject = draft.get("text", ""), draft.get("subject", "")
    if _may_edit(options):
        return [
            _input("subject", "Subject", subject, MOST_IN_SUBJECT),
            _input("text", "Text", text, MOST_IN_INPUT),
        ]
    return [_section(f"*{escaped(subject)}*"), _section(escaped(text))] if text else []


def _choosing(offered: Sequence[Choice], chosen: str) -> Block:
    kind = "radio_buttons" if len(offered) <= MOST_RADIOS else "static_select"
    radio: Block = {"type": kind, "action_id": "choice", "options": [_radio(c) for c in offered]}
    initial = [choice for choice in offered if choice.key == chosen] or [
        choice for choice in offered if choice.style == "approve"
    ]
    if initial:
        radio["initial_option"] = _radio(initial[0])
    return {"type": "input", "block_id": "choice", "label": _plain("What shall happen?"), "element": radio}


def _input(name: str, label: str, value: str, most: int) -> Block:
    element: Block = {
        "type": "plain_text_input",
        "action_id": name,
        "multiline": name == "text",
        "max_length": most,
    }
    if value:
        element["initial_value"] = value[:most]
    return {"type": "input", "block_id": name, "optional": True, "label": _plain(label), "element": element}


def _radio(choice: Choice) -> Block:
    return {"text": _plain(choice.label), "value": choice.key}


def _section(text: str) -> Block:
    cut = text if len(text) <= MOST_IN_TEXT else f"{text[:MOST_IN_TEXT]}…"
    return {"type": "section", "text": {"type": "mrkdwn", "verbatim": True, "text": cut or " "}}


def _context(text: str) -> Block:
    return {"type": "context", "elements": [{"type": "mrkdwn", "verbatim": True, "text": text}]}


def _plain(text: str, most: int = 75) -> Block:
    return {"type": "plain_text", "text": text if len(text) <= most else f"{text[: most - 1]}…"}


def _address(link: str) -> str:
    return link.replace("|", "%7C").replace(">", "%3E").replace("<", "%3C")


_CALLS = re.compile(r"@(?=here|channel|everyone)", re.IGNORECASE)
_LINKS = re.compile(r"(?<=:)//|(?<=[A-Za-z0-9])\.(?=[A-Za-z]{2})|(?<=[A-Za-z0-9])@(?=[A-Za-z0-9])")
_JOINER = "\u2060"  # shows nothing, and takes what looks like a link apart


def escaped(text: str) -> str:
    """Return words that say what they say: they mention nobody, and nothing in them is a link."""
    quiet = _LINKS.sub(lambda found: f"{_JOINER}{found[0]}", _CALLS.sub(f"@{_JOINER}", text))
    return quiet.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
