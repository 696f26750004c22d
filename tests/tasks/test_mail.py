"""Laws of the way out: what the mail server said, what it did not say, and what that means."""

import contextlib
import email
import email.policy
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from django.core import mail as django_mail
from pytest_django import Settings

from sopengine.errors import AuthError, DataError, Permanent, StepError, Transient
from tasks import mail
from tasks.crew import StepDeadline
from tests.servers import free_port
from tests.tasks.steps import Patience

LETTER = mail.Letter(
    to="ann@example.test",
    subject="Your lawn — 2027",
    text="Dear Ann,\n\n.a dot first\n..two dots\nBye\n",
    html="<p>Dear Ann ✓</p>",
    message_id="<abc123@firm.test>",
)


class Mailbox:
    """A mail server that answers each command as a test says, and keeps what it accepts."""

    def __init__(self) -> None:
        self.mails: list[Envelope] = []
        self.commands: list[str] = []
        self.rcpt = self.data = "250 OK"
        self.sender = ""

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.sender:
            return self.sender
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.rcpt.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.rcpt

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.data.startswith("250"):
            self.mails.append(envelope)
        return self.data


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(autouse=True)
def smtp(settings: Settings, port: int) -> Settings:
    """Mail goes to the server of this test."""
    settings.EMAIL_FOLDER = ""
    settings.EMAIL_BACKEND = mail.SMTP_BACKEND
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    settings.EMAIL_TIMEOUT = 5.0
    settings.DEFAULT_FROM_EMAIL = "The Office <office@firm.test>"
    return settings


@pytest.fixture
def server(port: int) -> Iterator[Mailbox]:
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, decode_data=False)
    controller.start()
    yield mailbox
    controller.stop()


Script = list[tuple[str, str]]
GREETED: Script = [("", "220 hello"), ("EHLO", "250 hello")]
ACCEPTED: Script = [*GREETED, ("MAIL", "250 ok"), ("RCPT", "250 ok")]


@pytest.fixture
def scripted(port: int) -> Iterator[Callable[[Script], list[bytes]]]:
    """Return a function that starts a server which answers by a script, and then says nothing more.

    The answer "-" closes the connection, a "late " one comes after 0.8 seconds, a "cut " one without
    its line's end before the connection closes. What the server was sent stands in the list returned.
    """
    listener = socket.create_server(("127.0.0.1", port))
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(script: Script, heard: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            line, _ = listener.accept()
            with line, line.makefile("rb") as words:
                for expected, answer in script:
                    if expected == ".":
                        _read_until(words, heard, b".\r\n")
                    elif expected:
                        heard.append(words.readline())
                        assert heard[-1].upper().startswith(expected.encode())
                    if answer == "-":
                        return
                    if answer.startswith("late "):
                        time.sleep(0.8)
                        answer = answer.removeprefix("late ")
                    if answer.startswith("cut "):
                        line.sendall(answer.removeprefix("cut ").encode())
                        return
                    line.sendall(answer.encode() + b"\r\n")
                over.wait(20)

    def start(script: Script) -> list[bytes]:
        heard: list[bytes] = []
        threads.append(threading.Thread(target=serve, args=(script, heard), daemon=True))
        threads[-1].start()
        return heard

    yield start
    over.set()
    listener.close()
    for thread in threads:
        thread.join(5)


def _read_until(words: Any, heard: list[bytes], last: bytes) -> None:
    while not heard or heard[-1] != last:
        heard.append(words.readline())


def refusal(letter: mail.Letter = LETTER, seconds: float = 10.0) -> StepError:
    """Send the letter and return the error that must come."""
    with pytest.raises(StepError) as caught:
        mail.send(letter, StepDeadline(seconds))
    return caught.value


# -- what is sent --------------------------------------------------------------------------------


def test_the_server_gets_the_letter_byte_for_byte_once(server: Mailbox) -> None:
    mail.send(LETTER, StepDeadline(10))

    (envelope,) = server.mails
    got = email.message_from_bytes(bytes(envelope.content or b""), policy=email.policy.default)
    text, html = got.get_body(("plain",)), got.get_body(("html",))
    assert (envelope.mail_from, envelope.rcpt_tos) == ("office@firm.test", ["ann@example.test"])
    assert (got["Subject"], got["Message-ID"], got["From"]) == (
        LETTER.subject,
        "<abc123@firm.test>",
        "The Office <office@firm.test>",
    )
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == LETTER.text
    assert html.get_content().strip() == LETTER.html


def test_a_letter_without_html_is_plain_text(server: Mailbox) -> None:
    mail.send(mail.Letter(to="ann@example.test", subject="S", text="T", message_id="<1@x.test>"), Patience())

    content = bytes(server.mails[0].content or b"")
    assert b"multipart" not in content


def test_a_message_id_belongs_to_its_key_and_to_the_senders_domain() -> None:
    assert mail.message_id("a:b:1") == mail.message_id("a:b:1") != mail.message_id("a:b:2")
    assert re.fullmatch(r"<[0-9a-f]{32}@firm\.test>", mail.message_id("a:b:1"))


# -- what must not leave ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"to": "ann@example.test\r\nBcc: eve@example.test"},
        {"to": "ann@example.test, eve@example.test"},
        {"to": "ann"},
        {"to": "änn@example.test"},
        {"subject": "Hello\nBcc: eve@example.test"},
        {"subject": "Hello\rBcc: eve@example.test"},
        {"subject": " "},
        {"text": "\n"},
        {"text": "Dear {{ customer_name }}"},
        {"html": "<p>{{ x }}</p>"},
        {"reply_to": "owner@firm.test\nBcc: eve@example.test"},
        {"reply_to": "nobody"},
        {"message_id": "<a@b>\nX: y"},
    ],
)
def test_no_line_break_address_or_open_place_gets_past(change: dict[str, str], server: Mailbox) -> None:
    fields = {name: getattr(LETTER, name) for name in ("to", "subject", "text", "html", "message_id")}

    error = refusal(mail.Letter(**{**fields, **change}))

    assert isinstance(error, DataError)
    assert "eve" not in error.message
    assert "ann" not in error.message
    assert not server.mails


# -- what the server says no to ------------------------------------------------------------------


def test_a_server_that_is_not_there_means_nothing_was_sent() -> None:
    error = refusal()

    assert isinstance(error, Transient)
    assert (error.sent, error.reason) == ("no", "mail_unreachable")


@pytest.mark.parametrize(
    ("field", "answer", "kind", "reason"),
    [
        ("rcpt", "550 no such ann@example.test", Permanent, "mail_recipient"),
        ("rcpt", "450 try later", Transient, "mail_mailbox"),
        ("rcpt", "421 closing", Transient, "mail_later"),
        ("sender", "553 who are you", Permanent, "mail_sender"),
        ("sender", "421 too busy", Transient, "mail_later"),
        ("data", "554 we call this spam", Permanent, "mail_refused"),
        ("data", "452 disk full", Transient, "mail_later"),
    ],
)
def test_a_refusal_is_known_to_have_sent_nothing_and_its_words_stay_out(
    server: Mailbox, field: str, answer: str, kind: type[StepError], reason: str
) -> None:
    setattr(server, field, answer)

    error = refusal()

    assert type(error) is kind
    assert (error.sent, error.reason) == ("no", reason)
    assert "ann" not in error.message
    assert not server.mails


def test_a_login_that_is_refused_needs_a_person(smtp: Settings, port: int) -> None:
    smtp.EMAIL_HOST_USER, smtp.EMAIL_HOST_PASSWORD = "office", "wrong"
    refuse = Controller(
        Mailbox(),
        hostname="127.0.0.1",
        port=port,
        authenticator=lambda *_: AuthResult(success=False, handled=False),
        auth_require_tls=False,
    )
    refuse.start()
    try:
        error = refusal()
    finally:
        refuse.stop()

    assert isinstance(error, AuthError)
    assert "wrong" not in str(error)


def test_a_server_without_tls_is_not_given_the_mail_when_tls_was_asked_for(
    smtp: Settings, server: Mailbox
) -> None:
    smtp.EMAIL_USE_TLS = True

    error = refusal()

    assert isinstance(error, Permanent)
    assert error.reason == "mail_unsupported"
    assert not server.mails


# -- what the server does not say ------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        [("", "-")],
        [*GREETED, ("MAIL", "-")],
        [*ACCEPTED, ("DATA", "-")],
    ],
    ids=["greeting", "mail", "data command"],
)
def test_a_connection_that_breaks_before_the_text_leaves_has_sent_nothing(
    scripted: Callable[[Script], list[bytes]], script: Script
) -> None:
    scripted(script)

    error = refusal()

    assert isinstance(error, Transient)
    assert error.sent == "no"


@pytest.mark.parametrize(
    "script", [[], [("", "220 hello")], ACCEPTED], ids=["greeting", "ehlo", "data command"]
)
def test_a_server_that_falls_silent_before_the_text_leaves_costs_no_more_than_the_deadline(
    scripted: Callable[[Script], list[bytes]], script: Script
) -> None:
    scripted(script)
    began = time.monotonic()

    error = refusal(seconds=0.4)

    assert isinstance(error, Transient)
    assert error.sent == "no"
    assert time.monotonic() - began < 2.0


def test_a_slow_server_gets_only_what_is_left_of_the_time(scripted: Callable[[Script], list[bytes]]) -> None:
    scripted([("", "late 220 hello")])
    began = time.monotonic()

    error = refusal(seconds=1.0)

    assert error.sent == "no"
    assert time.monotonic() - began < 1.6


@pytest.mark.parametrize("last", [[], [(".", "-")]], ids=["silent", "breaks"])
def test_a_server_that_takes_the_text_and_never_answers_may_have_sent_it(
    scripted: Callable[[Script], list[bytes]], last: Script
) -> None:
    heard = scripted([*ACCEPTED, ("DATA", "354 go on"), *last])
    began = time.monotonic()

    error = refusal(seconds=0.5)

    assert isinstance(error, Transient)
    assert (error.sent, error.reason) == ("maybe", "mail_unanswered")
    assert time.monotonic() - began < 2.0
    assert len([line for line in heard if line.startswith(b"data")]) == 1


TAKEN = ["250 taken", "200 queued", "251 forwarded", "250", "250-queued\r\n250 as 123"]
REFUSED = {
    "451 later": "mail_later",
    "421 closing": "mail_later",
    "554 spam": "mail_refused",
    "500": "mail_refused",
    "554-spam\r\n554 go away": "mail_refused",
}
UNCLEAR = {
    "words": "OK queued as 123",
    "empty": "",
    "go on": "354 go on",
    "first digit": "650 what",
    "one": "100 wait",
    "short": "55 no",
    "sign": "+55 no",
    "glued": "5544 no",
    "no blank": "554no",
    "leading blank": " 554 no",
    "two codes": "250-taken\r\n554 no",
    "broken second line": "554-no\r\nOK queued",
    "endless line": "5" * 9000,
    "long refusal": "554 " + "x" * 9000,
    "endless lines": "\r\n".join(["554-no"] * 200),
}


@pytest.mark.parametrize("answer", TAKEN)
def test_every_2xx_to_the_text_means_the_letter_was_taken(
    scripted: Callable[[Script], list[bytes]], answer: str
) -> None:
    heard = scripted([*ACCEPTED, ("DATA", "354 go on"), (".", answer), ("QUIT", "221 bye")])

    mail.send(LETTER, StepDeadline(5))

    assert heard.count(b".\r\n") == 1


@pytest.mark.parametrize(("answer", "reason"), REFUSED.items())
def test_a_clear_no_to_the_text_means_nothing_was_sent(
    scripted: Callable[[Script], list[bytes]], answer: str, reason: str
) -> None:
    scripted([*ACCEPTED, ("DATA", "354 go on"), (".", answer), ("", "-")])

    error = refusal()

    assert (error.sent, error.reason) == ("no", reason)


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_neither_a_clear_yes_nor_a_clear_no_to_the_text_may_have_sent_it(
    scripted: Callable[[Script], list[bytes]], answer: str
) -> None:
    scripted([*ACCEPTED, ("DATA", "354 go on"), (".", answer), ("", "-")])

    error = refusal()

    assert isinstance(error, Transient)
    assert (error.sent, error.reason) == ("maybe", "mail_unanswered")


@pytest.mark.parametrize("answer", ["cut 250 tak", "cut 554 n", "cut 554", "554-no"])
def test_an_answer_cut_short_says_nothing(scripted: Callable[[Script], list[bytes]], answer: str) -> None:
    scripted([*ACCEPTED, ("DATA", "354 go on"), (".", answer), ("", "-")])

    error = refusal()

    assert (error.sent, error.reason) == ("maybe", "mail_unanswered")


def test_a_server_that_has_taken_the_letter_may_leave_without_a_word(
    scripted: Callable[[Script], list[bytes]],
) -> None:
    heard = scripted([*ACCEPTED, ("DATA", "354 go on"), (".", "250 taken"), ("QUIT", "-")])

    mail.send(LETTER, StepDeadline(5))

    assert heard[-1].startswith(b"quit")


def test_a_dot_that_begins_a_line_is_doubled_on_the_wire(scripted: Callable[[Script], list[bytes]]) -> None:
    heard = scripted([*ACCEPTED, ("DATA", "354 go on"), (".", "250 taken"), ("QUIT", "221 bye")])

    mail.send(LETTER, StepDeadline(5))

    assert b"..a dot first\r\n" in heard
    assert b"...two dots\r\n" in heard


def test_nothing_is_begun_when_the_time_is_over(server: Mailbox) -> None:
    error = refusal(seconds=0.0)

    assert isinstance(error, Transient)
    assert error.sent == "no"
    assert not server.mails


# -- other ways out --------------------------------------------------------------------------------


def test_a_folder_comes_before_every_server(smtp: Settings, server: Mailbox, tmp_path: Path) -> None:
    smtp.EMAIL_FOLDER = str(tmp_path / "new" / "mail")

    mail.send(LETTER, Patience())

    assert [file.name for file in Path(smtp.EMAIL_FOLDER).iterdir()] == ["abc123_firm.test.eml"]
    assert not server.mails


def test_a_second_mail_with_the_same_id_is_a_second_file(smtp: Settings, tmp_path: Path) -> None:
    smtp.EMAIL_FOLDER = str(tmp_path)

    for _ in range(3):
        mail.send(LETTER, Patience())

    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "abc123_firm.test-2.eml",
        "abc123_firm.test-3.eml",
        "abc123_firm.test.eml",
    ]


def test_two_senders_at_once_never_write_over_each_other(smtp: Settings, tmp_path: Path) -> None:
    smtp.EMAIL_FOLDER = str(tmp_path)
    threads = [threading.Thread(target=mail.send, args=(LETTER, Patience())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(list(tmp_path.glob("*.eml"))) == len(list(tmp_path.iterdir())) == 8


def test_a_folder_that_cannot_be_written_has_sent_nothing(smtp: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    smtp.EMAIL_FOLDER = str(tmp_path / "file")

    error = refusal()

    assert isinstance(error, Transient)
    assert (error.sent, error.reason) == ("no", "mail_folder")


def test_any_other_backend_of_django_is_used_as_it_is(smtp: Settings) -> None:
    smtp.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

    mail.send(LETTER, Patience())

    assert [message.subject for message in django_mail.outbox] == [LETTER.subject]


def test_a_foreign_backend_that_fails_may_have_sent_the_mail(smtp: Settings) -> None:
    smtp.EMAIL_BACKEND = "tests.tasks.test_mail.Failing"

    error = refusal()

    assert isinstance(error, Transient)
    assert error.sent == "maybe"
    assert "secret" not in str(error)


class Failing:
    """A mail service that breaks in the middle."""

    def __init__(self, **options: Any) -> None:
        pass

    def send_messages(self, messages: list[Any]) -> int:
        raise RuntimeError("secret words of the service about ann@example.test")
