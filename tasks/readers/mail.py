"""Mail in: the message itself (MIME), or JSON with what a mail service has read out of it.

    {"from": "Ann <ann@example.com>", "to": ["office@…"], "subject": "…", "text": "…", "message_id": "<…>",
     "headers": {"Auto-Submitted": "auto-replied"}}

or the whole message as text under `raw`.
"""

from collections.abc import Mapping, Sequence
from email.utils import getaddresses, parseaddr
from typing import Any

from sopengine import inbox
from sopengine.errors import DataError
from tasks import mail_in
from tasks.events import Event
from tasks.readers import Reader, Received, media_type, readers

_JSON = "application/json"


@readers.register("mail")
class Mail(Reader):
    """One message in one delivery."""

    takes = frozenset({"", "message/rfc822", "application/octet-stream", "text/plain", _JSON})
    hears_mail = True

    def look(self, raw: bytes, kind: str) -> str:
        """Refuse what is no JSON though it says so; what makes it one message is looked for later."""
        if media_type(kind) == _JSON and not isinstance(inbox.read_json(raw), dict):
            raise ValueError("it is no object")
        return ""

    def read(self, received: Received) -> Sequence[Event]:
        """Return what the message means."""
        if media_type(received.kind) == _JSON:
            with mail_in.within_depth():
                mail = _told(received.body)
        else:
            mail = mail_in.parsed(received.body)
        return mail_in.events_of(mail, received.source, received.external_id)


def _told(body: bytes) -> mail_in.Incoming:
    try:
        value = inbox.read_json(body)
    except ValueError as error:
        raise DataError(f"the body is no JSON: {error}", code="bad_json") from None
    if not isinstance(value, dict):
        raise DataError("the body is no JSON object", code="bad_json")
    fields: dict[str, Any] = {name.lower().replace("-", "_"): inner for name, inner in value.items()}
    recipients = _addresses(fields.get("recipients")) + _addresses(fields.get("recipient"))
    if isinstance(fields.get("raw"), str):
        return mail_in.parsed(fields["raw"].encode("utf-8", "replace"), recipients)
    headers = {"from": _text(fields, "from"), **_headers(fields.get("headers"))}
    reply_to = [*_texts(fields.get("reply_to")), *_texts(headers.get("reply-to"))]
    name, sender = mail_in.writer_of(_text(fields, "from"), reply_to)
    if sender == parseaddr(_text(fields, "from"))[1]:
        name = name or _text(fields, "from_name", "name")
    body_text = _text(fields, "text", "body_plain", "body") or mail_in.text_of_html(
        _text(fields, "html", "body_html")
    )
    return mail_in.Incoming(
        sender=mail_in.line(sender),
        name=mail_in.line(name),
        subject=mail_in.line(_text(fields, "subject")),
        body=mail_in.text_of(body_text),
        message_id=mail_in.message_id(_text(fields, "message_id")),
        recipients=tuple(
            dict.fromkeys(recipients + _addresses(fields.get("to")) + _addresses(fields.get("cc")))
        )[: mail_in.MOST_RECIPIENTS],
        automatic=mail_in.is_automatic(headers, sender),
    )


def _text(fields: Mapping[str, Any], *names: str) -> str:
    return next((fields[name] for name in names if isinstance(fields.get(name), str)), "")


def _addresses(value: Any) -> list[str]:
    return [mail_in.line(address) for _, address in getaddresses(_texts(value)) if "@" in address]


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in texts if isinstance(text, str)]


def _headers(value: Any) -> dict[str, str]:
    """Return headers by name in lower case, from an object or from a list of name and value."""
    if isinstance(value, list):
        value = {str(pair.get("name", "")): pair.get("value") for pair in value if isinstance(pair, Mapping)}
    if not isinstance(value, Mapping):
        return {}
    return {str(name).lower(): text for name, text in value.items() if isinstance(text, str)}
