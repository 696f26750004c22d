"""What somebody in Slack asked for, and what is done about it: answers to questions, the window to edit.

Everything here bears a repeat: a delivery that is processed twice decides once. Who somebody is, the
table of chat accounts says; what they may, the same rules as everywhere.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from django.contrib.auth.models import AbstractUser

from credentials.vault import VaultError
from sopengine import inbox
from sopengine.errors import Permanent, StepError
from tasks import approvals, questions, signed
from tasks.models import Approval, ChatAccount
from tasks.transports import Choice, slack
from tasks.transports.slack import (
    ANSWER,
    DECLINE,
    MODAL,
    OPEN,
    REST,
    TOO_LONG,
    is_too_long,
    modal,
    opened_value,
)

MOST_FIELDS = 50
NOT_OURS = "This button is not one of ours, or too old to be used."
CLOSED_TEXT = "The text of this question cannot be opened here."
CHANGED = "You have changed the text. Choose “{label}” to send your words, or put the text back."
State = Approval.State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a person. `kind`: press, open, submit, command, or "" for what needs no answer."""

    kind: str
    person: str = ""
    channel: str = ""
    trigger: str = ""
    value: str = ""
    text: str = ""
    typed: Mapping[str, str] | None = None


# -- reading ---------------------------------------------------------------------------------------


def read(raw: bytes) -> Asked:
    """Return what a form of Slack's asks for; ValueError, which says nothing of it, if it is none."""
    fields = parse_qs(raw.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    if "payload" in fields:
        return _interaction(_object(inbox.read_json(fields["payload"][0].encode())))
    if "command" in fields:
        told = {name: values[0] for name, values in fields.items()}
        return Asked(
            "command",
            person=told.get("user_id", ""),
            channel=told.get("channel_id", ""),
            text=told.get("text", ""),
        )
    raise ValueError("it is neither an interaction nor a command")


def _interaction(payload: Mapping[str, Any]) -> Asked:
    person = _text(_object(payload.get("user")), "id")
    if payload.get("type") == "view_submission":
        return _submission(person, _object(payload.get("view")))
    if payload.get("type") != "block_actions":
        return Asked("")
    actions = payload.get("actions")
    if not isinstance(actions, list) or not actions:
        raise ValueError("no action is named")
    action = _object(actions[0])
    named = _text(action, "action_id").partition(":")[0]
    kind = {OPEN: "open", ANSWER: "press", REST: "press"}.get(named, "")
    return Asked(
        kind,
        person=person,
        channel=_text(_object(payload.get("channel") or {}), "id"),
        trigger=_text(payload, "trigger_id"),
        value=_text(action, "value"),
    )


def _submission(person: str, view: Mapping[str, Any]) -> Asked:
    if view.get("callback_id") != MODAL:
        return Asked("")
    state = _object(_object(view.get("state")).get("values"))
    typed = {}
    for name in ("subject", "text"):
        if name in state:
            typed[name] = _text(_object(_object(state[name]).get(name)), "value")
    choice = _object(_object(state.get("choice") or {}).get("choice") or {})
    typed["choice"] = _text(_object(choice.get("selected_option") or {}), "value")
    return Asked("submit", person=person, value=_text(view, "private_metadata"), typed=typed)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no object where one must be")
    return value


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise ValueError("it is no text where one must be")
    return found or ""


# -- who -------------------------------------------------------------------------------------------


def person_of(chat_id: str) -> AbstractUser | None:
    """Return who this is among us; None for strangers, and for those who are with us no more."""
    account = ChatAccount.objects.select_related("user").filter(chat_id=chat_id, user__is_active=True).first()
    return account.user if account else None


def stranger(chat_id: str) -> str:
    """Return what is said to somebody whom we do not know."""
    return (
        "I do not know who you are here. Ask an administrator to enter "
        f"your chat id {chat_id} under Chat accounts."
    )


# -- acting ----------------------------------------------------------------------------------------


def press(asked: Asked) -> str:
    """Do what a button says; return what its presser must be told, "" when the message itself will tell."""
    person = person_of(asked.person)
    if person is None:
        return stranger(asked.person)
    match opened_value(asked.value):
        case ["answer", approval, choice]:
            return decide(approval, choice, person)
        case ["rest", message]:
            return _approve_rest(message, person)
    return NOT_OURS


def decide(approval: str, choice: str, person: AbstractUser, edited: Mapping[str, str] | None = None) -> str:
    """Give one answer; return why it was not taken, "" when it was, now or at an earlier try of the same."""
    try:
        approvals.answer(approval, choice, by=person, edited=edited)
    except approvals.AnswerRefused as refusal:
        ours = Approval.objects.filter(pk=approval, answered_by=person.pk, choice=choice)
        # An edited text is not there yet when the first one stands: nothing may be said to be taken.
        return "" if edited is None and ours.exists() else f"Not taken: {refusal}"
    return ""


def _approve_rest(message: str, person: AbstractUser) -> str:
    listed = Approval.objects.filter(message=UUID(message), state=State.OPEN)
    ids = list(listed.values_list("pk", flat=True))
    if not ids:
        return "Everything in this message has been decided already."
    result = approvals.approve_rest(ids, by=person)
    if not result.refused:
        return ""
    reasons = " ".join(dict.fromkeys(result.refused.values()))
    return f"{len(result.answered)} approved, {len(result.refused)} not taken. {reasons}"


def tell(asked: Asked, text: str) -> None:
    """Tell the person alone, in the channel where it was asked, else in the conversation with them.

    What Slack does not take for good (a channel that we are not in) is only logged: what was asked for is
    done or refused all the same.
    """
    if not text:
        return
    try:
        slack.whisper(asked.channel or asked.person, asked.person, text)
    except Permanent as error:
        log.warning("a person in Slack was not told: %s", error.reason)


# -- the window ------------------------------------------------------------------------------------


def open_window(asked: Asked) -> str:
    """Show the question to who pressed Open; return why not, "" when it is shown."""
    person = person_of(asked.person)
    if person is None:
        return stranger(asked.person)
    match opened_value(asked.value):
        case ["open", number, *chosen]:
            approval = Approval.objects.select_related("task", "answered_by").filter(pk=number).first()
        case _:
            return NOT_OURS
    if approval is None:
        return NOT_OURS
    if why := _why_not(approval, person):
        return why
    try:
        draft = questions.draft_of(approval)
    except VaultError:
        return CLOSED_TEXT
    if draft is None:
        return CLOSED_TEXT
    link = signed.link(approval, person)  # who is shown the window, and nobody else, may use it
    view = modal(approval.pk, choices_of(approval), draft, chosen[0] if chosen else "", link)
    try:
        slack.open_window(asked.trigger, view)
    except StepError as error:
        return f"Slack could not open the window ({error.reason}). Press again, or use the page in the admin."
    return ""


def _why_not(approval: Approval, person: AbstractUser) -> str:
    if not questions.may_answer(person):
        return f"{person.get_username()} may not answer questions; ask an administrator for it."
    if approval.state != State.OPEN:
        return questions.decision(approval)
    return questions.why_not(approval, person)


def choices_of(approval: Approval) -> list[Choice]:
    """Return the options of a question as a transport shows them."""
    return [Choice(option["key"], option["label"], option["outcome"]) for option in approval.options]


def submit(asked: Asked) -> dict[str, str]:
    """Take what was decided in the window; return what is wrong by block, {} if nothing."""
    typed = asked.typed or {}
    person = person_of(asked.person)
    if person is None:
        return {"choice": stranger(asked.person)}
    match opened_value(asked.value):
        case ["decide", number]:
            approval = Approval.objects.filter(pk=UUID(number)).first()
        case _:
            approval = None
    if approval is None:
        return {"choice": NOT_OURS}
    option = next((one for one in approval.options if one["key"] == typed.get("choice")), None)
    if option is None:
        return {"choice": "Choose what shall happen."}
    if option["outcome"] != DECLINE and (why := _unread(approval)):
        return {"choice": why}
    words = {name: typed[name] for name in ("subject", "text") if name in typed}
    edits = option["outcome"] == "edit"
    if not edits and words and _differs(approval, words):
        label = (questions.editing(approval.options) or option)["label"]
        return {"choice": CHANGED.format(label=label)}
    refused = decide(str(approval.pk), option["key"], person, words if edits else None)
    return {"choice": refused} if refused else {}


def _unread(approval: Approval) -> str:
    """Return why nobody can have read in a window what they would say yes to; "" if they can."""
    try:
        draft = questions.draft_of(approval)
    except VaultError:
        return CLOSED_TEXT
    return TOO_LONG if draft and is_too_long(choices_of(approval), draft) else ""


def _differs(approval: Approval, words: Mapping[str, str]) -> bool:
    """Whether somebody has typed: spaces at the ends and the kind of line breaks are the window's own."""
    draft = questions.draft_of(approval) or {}
    return any(_plain(draft.get(name, "")) != _plain(value) for name, value in words.items())


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").strip().split("\n"))
