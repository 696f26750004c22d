"""Chat for development: one line on the standard error output.

It shows what a question is about only as a link: a draft has a customer's data, a terminal has
a scroll-back, and a log has readers.
"""

import sys

from tasks.transports import Message, Transport, transports

WITHOUT_TEXT = {
    "approval": "A question waits for an answer.",
    "reminder": "A question waits for an answer.",
}


@transports.register("console")
class Console(Transport):
    """Write messages to the terminal; staff output must not mix with what commands print."""

    pace = 0.0

    def post(self, message: Message) -> str:
        """Write one line and return "", as a line has no id."""
        sys.stderr.write(f"{line(message)}\n")
        sys.stderr.flush()
        return ""

    def update(self, reference: str, message: Message) -> None:
        """Leave it: what has scrolled by in a terminal cannot change, and is no news."""


def line(message: Message) -> str:
    """Return the message as one line: where, how bad, what, which run, and the link."""
    said = WITHOUT_TEXT.get(message.kind, message.text)
    if message.kind == "approval" and len(message.batch) > 1:
        said = f"{len(message.batch)} questions wait for an answer."
    parts = (
        f"[chat {message.channel}]",
        "" if message.severity == "info" else f"{message.severity.upper()}:",
        " ".join(said.split()),
        f"(run {message.reference})" if message.reference else "",
        message.link,
    )
    return " ".join(part for part in parts if part)
