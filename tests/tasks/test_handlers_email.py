"""Laws of the step that sends a mail."""

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pytest_django import Settings

from sopengine.errors import DataError, Transient
from tasks import replies
from tasks.outcome import Contact, Done, Effect, handlers
from tests.tasks.steps import TASK, Patience, run, step_run

APPROVED = {
    "choice": "approve",
    "to": "ann@example.test",
    "subject": "Grüße, 50 % off?",
    "text": "Dear Ann,\n\n.dot at the start of a line\nBye\n",
    "html": "<p>Dear Ann — ünïcode</p>",
}


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    settings.EMAIL_FOLDER = str(tmp_path / "mail")
    settings.DEFAULT_FROM_EMAIL = "The Office <office@firm.test>"
    return tmp_path / "mail"


def mails(folder: Path) -> list[EmailMessage]:
    files = sorted(folder.glob("*.eml"))
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]


def send(**params: Any) -> Done:
    outcome = run(
        "email.send",
        step_run(),
        **{"message": APPROVED, "purpose": "marketing", **params},
    )
    assert isinstance(outcome, Done)
    return outcome


def test_the_mail_is_the_approved_text_to_the_approved_address(folder: Path) -> None:
    outcome = send(reply_to="owner@firm.test")

    (mail,) = mails(folder)
    assert (mail["To"], mail["From"]) == ("ann@example.test", "The Office <office@firm.test>")
    assert (mail["Subject"], mail["Reply-To"]) == (APPROVED["subject"], "owner@firm.test")
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content() == APPROVED["text"]
    assert html.get_content().rstrip("\n") == APPROVED["html"]
    assert outcome.result == "sent"
    assert outcome.values == {"message_id": mail["Message-ID"]}


def test_the_message_id_is_the_same_at_every_try_and_another_for_another_visit(folder: Path) -> None:
    first, again = send(), send()
    other = run("email.send", step_run(visit=2), message=APPROVED, purpose="service")

    assert isinstance(other, Done)
    assert first.values == again.values != other.values
    assert str(first.values["message_id"]).endswith("@firm.test>")


def test_a_draft_approved_for_one_address_is_not_sent_to_another(folder: Path) -> None:
    with pytest.raises(DataError, match="another address"):
        send(to="bob@example.test")

    assert not mails(folder)


def test_a_message_without_an_address_goes_where_the_step_says_or_nowhere(folder: Path) -> None:
    bare = {"subject": "S", "text": "T"}
    send(message=bare, to="bob@example.test")
    with pytest.raises(DataError, match="no recipient"):
        send(message=bare)

    assert [mail["To"] for mail in mails(folder)] == ["bob@example.test"]


@pytest.mark.parametrize("params", [{"purpose": "fun"}, {"message": "just text"}, {"message": {"text": "T"}}])
def test_what_is_ill_typed_is_refused_by_the_schema(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        send(**params)


def test_every_send_says_what_it_is_for() -> None:
    with pytest.raises(ValidationError, match="purpose"):
        run("email.send", step_run(), message=APPROVED)


def test_nothing_is_sent_when_the_step_is_no_longer_ours(folder: Path) -> None:
    lost = Transient("lost", code="lost_lease", sent="no")
    with pytest.raises(Transient):
        run("email.send", step_run(deadline=Patience(error=lost)), message=APPROVED, purpose="transactional")

    assert not mails(folder)


def test_a_mail_is_never_repeated_by_the_machine() -> None:
    known = handlers.get("email.send")

    assert known.effect is Effect.AT_MOST_ONCE
    assert known.sends
    assert known.calls


def test_marketing_mail_offers_to_leave_with_one_click(folder: Path) -> None:
    link = f"https://sop.example.com/unsubscribe/{'x' * 130}"
    step = step_run(contact=Contact(unsubscribe_url=link))
    run("email.send", step, message=APPROVED, purpose="marketing")
    send()

    first, other = sorted(mails(folder), key=lambda mail: mail["List-Unsubscribe"] is None)
    assert first["List-Unsubscribe"].replace(" ", "") == f"<{link}>"
    assert first["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert (other["List-Unsubscribe"], other["List-Unsubscribe-Post"]) == (None, None)


def test_an_answer_comes_back_to_the_run_where_mail_is_read_here(folder: Path, settings: Settings) -> None:
    settings.MAIL_IN = True
    send(replies=True, reply_to="owner@firm.test")
    send(reply_to="owner@firm.test")
    settings.MAIL_IN = False
    send(replies=True, reply_to="owner@firm.test")

    answered_at = sorted(str(mail["Reply-To"]) for mail in mails(folder))
    assert answered_at == ["owner@firm.test", "owner@firm.test", replies.address(TASK, "this")]
