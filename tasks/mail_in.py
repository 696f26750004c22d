"""Mail that comes in: from its bytes to what it says, and from there to events.

Nothing in a mail is believed but what it says of itself: who it is from is a claim. What makes it one
message is its Message-ID with who wrote it, however often and by whichever way it is delivered.
"""

import email.errors
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.feedparser import BytesFeedParser
from email.header import decode_header, make_header
from email.message import Message
from email.utils import getaddresses, parseaddr
from html import unescape

from django.conf import settings

from sopengine.errors import DataError
from sopengine.http import clean_text
from tasks import replies
from tasks.events import Event

RECEIVED = "mail.received"
REPLIED = "replied"  # tells the run that its mail was answered
REPLY = "mail.reply"  # tells SOPs that want to know of every answer
LONGEST_BODY = 20_000  # characters
LONGEST_LINE = 300
MOST_RECIPIENTS = 100
DEEPEST = 30  # parts in each other: ten mails, each forwarded with the one before in it
TOO_DEEP = "the mail is nested too deeply"

_TO = ("to", "cc", "delivered-to", "x-original-to", "envelope-to", "x-forwarded-to")
# Not "list": a group that hands on what people write to the firm's address says so of each of their mails.
_BULK = frozenset({"bulk", "junk", "auto_reply", "auto-reply"})
_NO_REPLY = re.compile(r"(no-?reply|do-?not-?reply)([+._-][^@]*)?@.*", re.IGNORECASE)
_BOUNCE = re.compile(r"(mailer-daemon|postmaster)([+._-][^@]*)?@.*", re.IGNORECASE)
_BREAKS = frozenset({"p", "br", "div", "tr", "li", "h1", "h2", "h3", "table", "ul", "ol", "blockquote"})
_SILENT = frozenset({"script", "style", "head", "title"})
_SILENCE_ENDS = {name: re.compile(f"</{name}", re.IGNORECASE) for name in _SILENT}
_TAG = re.compile(r"<(?:([/!?])|(?=[a-z]))([a-z][a-z0-9]*)?", re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message: who it says it is from, what it says, and to which addresses it came."""

    sender: str
    name: str = ""
    subject: str = ""
    body: str = ""
    message_id: str = ""
    recipients: tuple[str, ...] = ()
    automatic: bool = False
    phone: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


def events_of(mail: Incoming, source: str, otherwise: str) -> list[Event]:
    """Return what a message means: an answer to one of our mails, or news; nothing if it is our own.

    `otherwise` is what makes it one message where it has no Message-ID. An answer that a machine gave
    (out of office, could not be delivered) tells nobody anything.
    """
    if _is_own(mail.sender):
        log.info("the mail in delivery %s from %s is our own, and dropped", otherwise, source)
        return []
    id_ = mail.message_id or otherwise
    writer = mail.sender if mail.message_id else ""
    data = {
        "email_from": mail.sender,
        "email_name": mail.name,
        "email_subject": mail.subject,
        "email_body": mail.body,
        "email_message_id": id_,
        "email_to": ", ".join(mail.recipients)[:LONGEST_LINE],
        "is_auto_reply": mail.automatic,
        "phone": mail.phone,
        **mail.more,
    }
    task = replies.task_of(mail.recipients)
    if task is None:
        return [Event(RECEIVED, id_, data, source, writer=writer, words=True)]
    if mail.automatic:
        return []
    return [
        Event(REPLIED, id_, source=source, task=task, writer=writer),
        Event(REPLY, id_, data, source, answers=task, writer=writer, words=True),
    ]


def writer_of(sender: str, reply_to: Iterable[str]) -> tuple[str, str]:
    """Return name and address of who wrote a mail, by its From; DataError where that is nobody.

    A form often posts in the firm's own name, or in that of nobody who reads: who filled it in is then
    whom an answer goes to.
    """
    name, address = parseaddr(sender)
    if "@" not in address:
        raise DataError("the mail says nothing of who it is from", code="no_sender")
    unread = _is_own(address) or _NO_REPLY.fullmatch(address)
    others = filter(_is_somebody_else, getaddresses(list(reply_to)) if unread else ())
    return next(others, (name, address))


def _is_own(address: str) -> bool:
    own: str = parseaddr(settings.DEFAULT_FROM_EMAIL)[1]
    return address.lower() == own.lower()


def _is_somebody_else(pair: tuple[str, str]) -> bool:
    """Whether an answer goes to somebody; answers to what we have sent come back to us."""
    address = pair[1]
    ours = _is_own(address) or replies.task_of([address]) is not None
    return "@" in address and not ours and not _NO_REPLY.fullmatch(address)


@contextmanager
def within_depth() -> Iterator[None]:
    """Refuse what is nested deeper than the standard library can read: addresses in it call themselves."""
    try:
        yield
    except RecursionError:
        raise DataError(TOO_DEEP, code="too_deep") from None


# -- MIME ------------------------------------------------------------------------------------------


def parsed(raw: bytes, recipients: Iterable[str] = ()) -> Incoming:
    """Return the message in these bytes; `recipients` are those of its envelope. DataError if it is none."""
    with within_depth():
        return _parsed(message_of(raw), recipients)


def message_of(raw: bytes, deepest: int = DEEPEST) -> Message:
    """Return the message in these bytes; DataError where there are more parts in each other than this."""
    parser = _Parser(deepest)
    parser.feed(raw)
    message: Message = parser.close()
    return message


class _Parser(BytesFeedParser):
    """The standard library's, down to a depth.

    It compares each line with the boundaries of all parts around it, so that one mail of a megabyte
    could keep a worker for minutes, and calls itself for each part until its stack is full.
    """

    def __init__(self, deepest: int) -> None:
        self._deepest, self._depth = deepest, 0
        super().__init__()

    def _parsegen(self) -> Iterator[object]:
        self._depth += 1
        if self._depth > self._deepest:
            raise DataError(TOO_DEEP, code="too_deep")
        try:
            yield from super()._parsegen()  # type: ignore[misc]  # it has no public place to ask
        finally:
            self._depth -= 1


def _parsed(message: Message, recipients: Iterable[str]) -> Incoming:
    name, sender = writer_of(_header(message, "from"), _headers(message, "reply-to"))
    pairs = getaddresses([value for header in _TO for value in _headers(message, header)])
    everyone = dict.fromkeys([*recipients, *(address for _, address in pairs if "@" in address)])
    return Incoming(
        sender=line(sender),
        name=line(name),
        subject=line(_header(message, "subject")),
        body=_text(message),
        message_id=message_id(_header(message, "message-id")),
        recipients=tuple(everyone)[:MOST_RECIPIENTS],
        automatic=is_automatic(
            {name.lower(): _header(message, name) for name in message.keys()},  # noqa: SIM118
            sender,
            message.get_content_type(),
        ),
    )


def is_automatic(headers: Mapping[str, str], sender: str, kind: str = "") -> bool:
    """Whether a machine wrote it, as its headers (names in lower case), sender or media type say."""
    said = headers.get("auto-submitted", "no").partition(";")[0].strip().lower()
    return (
        said not in ("", "no")
        or headers.get("precedence", "").strip().lower() in _BULK
        or any(name in headers for name in ("x-autoreply", "x-autorespond"))
        or headers.get("return-path", "").strip() == "<>"
        or kind in ("multipart/report", "message/delivery-status")
        or bool(_NO_REPLY.fullmatch(sender) or _BOUNCE.fullmatch(sender))
        or _is_newsletter(headers)
    )


def _is_newsletter(headers: Mapping[str, str]) -> bool:
    """Whether it goes to many from nobody; of a group that forwards, the list is that of a person's mail."""
    unread = _NO_REPLY.fullmatch(parseaddr(headers.get("from", ""))[1])
    return bool(unread) and "list-unsubscribe" in headers


def message_id(text: str) -> str:
    """Return a Message-ID without its angle brackets; "" if it is none."""
    return line(text).strip("<> \t")[:LONGEST_LINE]


def line(text: str) -> str:
    """Return a text as one line that every database takes."""
    return " ".join(clean_text(text).split())[:LONGEST_LINE]


def text_of(body: str) -> str:
    """Return a text of many lines that every database takes, not too long."""
    plain = clean_text(body).replace("\r\n", "\n").replace("\r", "\n").strip()
    return plain if len(plain) <= LONGEST_BODY else plain[:LONGEST_BODY].rstrip() + " …"


def text_of_html(html: str) -> str:
    """Return what a reader of the page reads, without its form; in time that grows with its length only."""
    lines = (" ".join(part.split()) for part in "".join(_words(html)).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _words(html: str) -> Iterator[str]:
    """Yield the words of a page, and a line break for each tag that makes one.

    The parser of the standard library looks at what is left of the page again for each tag that does not
    end, so that one mail of a megabyte could keep a worker for hours. Here no character is seen twice.
    """
    at = 0
    while (start := html.find("<", at)) >= 0:
        yield _text_between(html[at:start])
        if html.startswith("<!--", start):
            at = _behind(html, "-->", start + 4)
            continue
        tag = _TAG.match(html, start)
        if tag is None:
            yield "<"
            at = start + 1
            continue
        at, name = _behind(html, ">", tag.end()), (tag[2] or "").lower()
        if name in _BREAKS:
            yield "\n"
        if name in _SILENT and not tag[1]:
            silence_ends = _SILENCE_ENDS[name].search(html, at)
            at = silence_ends.start() if silence_ends else len(html)
    yield _text_between(html[at:])


def _behind(text: str, mark: str, at: int) -> int:
    """Return where the text goes on behind the next mark, its end if there is none."""
    found = text.find(mark, at)
    return len(text) if found < 0 else found + len(mark)


def _text_between(text: str) -> str:
    return unescape(text.replace("\n", " "))


def _headers(message: Message, name: str) -> list[str]:
    return [_decoded(str(value)) for value in message.get_all(name, [])]


def _header(message: Message, name: str) -> str:
    return next(iter(_headers(message, name)), "")


def _decoded(value: str) -> str:
    """Return a header as text; as it stands where its encoding is broken."""
    try:
        return str(make_header(decode_header(value)))
    except (email.errors.MessageError, LookupError, ValueError):
        return value


def _text(message: Message) -> str:
    """Return the first plain text of the message, else the first page of HTML as text, else ""."""
    page = ""
    for part in message.walk():
        if part.is_multipart() or part.get_content_disposition() == "attachment":
            continue
        kind = part.get_content_type()
        if kind == "text/plain" and (text := text_of(_content(part))):
            return text
        if kind == "text/html" and not page:
            page = _content(part)
    return text_of(text_of_html(page))


def _content(part: Message) -> str:
    raw = part.get_payload(decode=True)
    if not isinstance(raw, bytes):
        return ""
    try:
        return raw.decode(part.get_content_charset("utf-8"), "replace")
    except LookupError:
        return raw.decode("latin-1")
