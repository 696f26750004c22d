"""Mail to customers: one letter at a time, and an honest answer to "did it go out?".

`send` returns when the other side took the letter. Otherwise it raises: nothing left this machine
or the server refused it (`sent: no`), or no clear yes or no came after the text began to leave
(`sent: maybe`). A mail server never says whether it kept a letter whose answer was lost, so nobody
here repeats such a one.

Without a mail server, letters go to a folder, one `.eml` file each.
"""

import hashlib
import os
import re
import smtplib
import ssl
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from email.message import Message
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import sanitize_address
from django.core.mail.utils import DNS_NAME
from django.core.validators import validate_email

from sopengine import clock
from tasks.outcome import AuthError, DataError, Deadline, Permanent, StepError, Transient

SMTP_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
ENCODING = "utf-8"
MAILBOX = "mail_mailbox"  # the code of a mailbox that takes nothing for now: full, or greylisted
_ANSWER = re.compile(rb"([2-5]\d\d)(?:([ -])[^\n]*|\r)?\n")
_LONGEST_LINE = 8192  # bytes of one line of an answer
_MOST_LINES = 100


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail to one customer; `html` may be empty.

    With `unsubscribe_url` the customer's mail program offers to leave with one click (RFC 8058).
    """

    to: str
    subject: str
    text: str
    message_id: str
    html: str = ""
    reply_to: str = ""
    unsubscribe_url: str = ""


def message_id(key: str) -> str:
    """Return the Message-ID that belongs to an idempotency key: the same at every try."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].partition("@")[2] or "localhost"
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@{domain}>"


def send(letter: Letter, deadline: Deadline) -> None:
    """Send `letter` before the deadline, as the EMAIL settings say, or raise a StepError.

    settings.EMAIL_FOLDER comes first: while it is set, no mail leaves this machine.
    """
    message = compose(letter)
    deadline.check()
    if settings.EMAIL_FOLDER:
        FolderBackend().send_messages([message])
    elif settings.EMAIL_BACKEND == SMTP_BACKEND:
        _send_by_smtp(letter.to, message, deadline)
    else:
        _send_by_backend(message)


# -- the letter ----------------------------------------------------------------------------------


def compose(letter: Letter) -> EmailMultiAlternatives:
    """Return the mail, or raise DataError for what must not leave: a bad address, an open template."""
    _check(letter)
    message = EmailMultiAlternatives(
        subject=letter.subject,
        body=letter.text,
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=[letter.to],
        reply_to=[letter.reply_to] if letter.reply_to else None,
        headers={
            "Message-ID": letter.message_id,
            "Date": format_datetime(clock.now()),
            **_ways_to_leave(letter),
        },
    )
    if letter.html:
        message.attach_alternative(letter.html, "text/html")
    return message


def _ways_to_leave(letter: Letter) -> dict[str, str]:
    if not letter.unsubscribe_url:
        return {}
    return {
        "List-Unsubscribe": f"<{letter.unsubscribe_url}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


def _check(letter: Letter) -> None:
    for name in ("to", "subject", "reply_to", "message_id", "unsubscribe_url"):
        if any(not character.isprintable() for character in getattr(letter, name)):
            raise DataError(f"The mail's {name} has a line break or a control character.", code="mail_header")
    _check_address("recipient", letter.to)
    if letter.reply_to:
        _check_address("reply address", letter.reply_to)
    for name in ("subject", "text"):
        if not getattr(letter, name).strip():
            raise DataError(f"The mail's {name} is empty.")
    if "{{" in letter.subject + letter.text + letter.html:
        raise DataError("The mail has an unfilled {{ placeholder }}.", code="mail_placeholder")


def _check_address(what: str, address: str) -> None:
    try:
        validate_email(address)
        address.rpartition("@")[0].encode("ascii")
    except (ValidationError, UnicodeError):
        raise DataError(f"The {what} is not a mail address.", code="mail_address") from None


# -- a mail server -------------------------------------------------------------------------------


class _WatchedSMTP(smtplib.SMTP):
    """A mail connection that knows its deadline, and whether a letter's text has begun to leave."""

    deadline: Deadline
    in_the_air = False

    def send(self, s: Any) -> None:
        """Send bytes, within the time that is left."""
        self._hurry()
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        """Read one answer, within the time that is left."""
        self._hurry()
        return super().getreply()

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Send the text; it is in the air until the answer says clearly that it was taken or refused."""
        self.putcmd("data")
        code, reply = self.getreply()
        if code != 354:
            raise smtplib.SMTPDataError(code, reply)
        self.in_the_air = True
        super().send(_dotted(msg))
        code = self._verdict()
        if code // 100 not in (2, 4, 5):
            raise smtplib.SMTPDataError(code, b"")
        self.in_the_air = False
        return (250 if code < 300 else code), b""  # smtplib takes no other 2xx for a yes

    def _verdict(self) -> int:
        """Return the code of the answer to the text, 0 when it is not well-formed to its last byte.

        smtplib's own reader would take a line cut short, or one of another kind, for an answer.
        """
        assert self.file is not None
        codes = set()
        for _ in range(_MOST_LINES):
            self._hurry()
            line = _ANSWER.fullmatch(self.file.readline(_LONGEST_LINE))
            if not line:
                return 0
            codes.add(int(line[1]))
            if line[2] != b"-":
                return codes.pop() if len(codes) == 1 else 0
        return 0

    def _hurry(self) -> None:
        self.deadline.check()
        if self.sock:
            self.sock.settimeout(_patience(self.deadline))


class _WatchedSMTPS(_WatchedSMTP, smtplib.SMTP_SSL):
    """The same over TLS from the first byte."""


def _dotted(text: bytes) -> bytes:
    """Return the text as it goes over the wire: a dot that begins a line doubled, a dot at the end."""
    body = text if text.endswith(b"\r\n") else text + b"\r\n"
    if body.startswith(b"."):
        body = b"." + body
    return body.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def _patience(deadline: Deadline) -> float:
    """Return how many seconds one exchange may take; never zero, which would mean without blocking."""
    return max(0.05, min(settings.EMAIL_TIMEOUT, deadline.remaining()))


def _send_by_smtp(recipient: str, message: EmailMessage, deadline: Deadline) -> None:
    """Hand the letter to the mail server, or raise a StepError that says how far it came."""
    body: bytes = message.message().as_bytes(linesep="\r\n")  # type: ignore[call-arg]  # Django's own
    sender = sanitize_address(settings.DEFAULT_FROM_EMAIL, ENCODING)
    connection = _connection(deadline)
    with closing(connection):
        try:
            _greet(connection)
            connection.sendmail(parseaddr(sender)[1], [sanitize_address(recipient, ENCODING)], body)
        except (smtplib.SMTPException, OSError, StepError) as error:
            raise _explain(error, connection.in_the_air) from None
        with suppress(smtplib.SMTPException, OSError, StepError):
            connection.quit()  # the letter has been taken; a rude good-bye changes nothing


def _connection(deadline: Deadline) -> _WatchedSMTP:
    named: dict[str, Any] = {"local_hostname": DNS_NAME.get_fqdn(), "timeout": _patience(deadline)}
    if settings.EMAIL_USE_SSL:
        connection: _WatchedSMTP = _WatchedSMTPS(context=ssl.create_default_context(), **named)
    else:
        connection = _WatchedSMTP(**named)
    connection.deadline = deadline
    return connection


def _greet(connection: _WatchedSMTP) -> None:
    """Connect, turn TLS on and log in, as the settings say."""
    # The name is what a certificate is checked against; smtplib sets it only in its constructor,
    # where a failure would leave no connection to ask how far it came.
    connection._host = settings.EMAIL_HOST  # type: ignore[attr-defined]
    code, _ = connection.connect(settings.EMAIL_HOST, settings.EMAIL_PORT)
    if code != 220:
        raise smtplib.SMTPConnectError(code, b"")
    if settings.EMAIL_USE_TLS:
        connection.starttls(context=ssl.create_default_context())
    if settings.EMAIL_HOST_USER:
        connection.login(settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD)


def _explain(error: Exception, in_the_air: bool) -> StepError:
    """Return what went wrong in our words; the server's own are dropped, as they may name a customer."""
    if in_the_air:
        return Transient(
            "The mail server gave no clear answer after it was given the mail.",
            code="mail_unanswered",
            sent="maybe",
        )
    if isinstance(error, StepError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return Permanent("The mail server's certificate is not valid for its name.", code="mail_tls")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Permanent("The mail server cannot do what EMAIL_URL asks of it.", code="mail_unsupported")
    code = _smtp_code(error)
    if code >= 500:
        return _refusal(error, code)
    if 400 <= code != 421 and isinstance(error, smtplib.SMTPRecipientsRefused):
        return Transient(f"The mail server refuses the address for now ({code}).", code=MAILBOX, sent="no")
    if code >= 400:
        return Transient(f"The mail server asks to try again later ({code}).", code="mail_later", sent="no")
    return Transient("The mail server cannot be reached.", code="mail_unreachable", sent="no")


def _refusal(error: Exception, code: int) -> StepError:
    if isinstance(error, smtplib.SMTPAuthenticationError) or code in (530, 534, 535, 538):
        return AuthError("The mail server does not accept our login.", code="mail_login")
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return Permanent(f"The mail server refuses the customer's address ({code}).", code="mail_recipient")
    if isinstance(error, smtplib.SMTPSenderRefused):
        return Permanent(f"The mail server refuses DEFAULT_FROM_EMAIL ({code}).", code="mail_sender")
    return Permanent(f"The mail server refuses the mail ({code}).", code="mail_refused")


def _smtp_code(error: Exception) -> int:
    """Return the server's code, 0 when there is none."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return max((code for code, _ in error.recipients.values()), default=0)
    return error.smtp_code if isinstance(error, smtplib.SMTPResponseException) else 0


def _send_by_backend(message: EmailMessage) -> None:
    """Send through any other backend of Django; it does not say how far it came, so: maybe."""
    try:
        get_connection(settings.EMAIL_BACKEND).send_messages([message])
    except StepError:
        raise
    except Exception as error:
        raise Transient(
            f"The mail service failed ({type(error).__name__}).", code="mail_unanswered", sent="maybe"
        ) from None


# -- a folder ------------------------------------------------------------------------------------


class FolderBackend(BaseEmailBackend):
    """Write each mail to settings.EMAIL_FOLDER, named after its Message-ID.

    A second mail with the same Message-ID becomes a second file: nothing hides a double.
    """

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Write the mails and return their number."""
        for message in email_messages:
            _file_away(Path(settings.EMAIL_FOLDER), message.message())
        return len(email_messages)


def _file_away(folder: Path, message: Message) -> None:
    """Write one file whole or not at all, under the first name that is free."""
    draft = folder / f".{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(message.as_bytes())
        _link_to_free_name(draft, folder, _file_name(message["Message-ID"]))
    except OSError as error:
        raise Transient(
            f"The mail folder cannot be written ({type(error).__name__}).", code="mail_folder", sent="no"
        ) from None
    finally:
        with suppress(OSError):
            draft.unlink()


def _link_to_free_name(draft: Path, folder: Path, name: str) -> None:
    number = 1
    while True:
        try:
            os.link(draft, folder / (f"{name}.eml" if number == 1 else f"{name}-{number}.eml"))
            return
        except FileExistsError:
            number += 1


def _file_name(message_id: str) -> str:
    """Return the Message-ID as a file name: its letters, digits and dots."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in message_id.strip("<>"))
    return kept[:120].lstrip(".") or "mail"
