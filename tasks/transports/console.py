"""Chat for development: one line on the standard error output.

It shows what a question is about only as a link: a draft has a customer's data, a terminal has
a scroll-back, and a log has readers.
"""

import sys

from tasks.transports import Message, Transport, transports

WITHOUT_TEXT = frozenset({"approval", "reminder"})


@transports.register("console")
class Console(Transport):
    """Write messages to the terminal; staff output must not mix with what commands print."""

    def post(self, message: Message) -> str:
        """Write one line and return "", as a line has no id."""
        sys.stderr.write(f"{line(message)}\n")
        sys.stderr.flush()
        return ""


def line(message: Message) -> str:
    """Return the message as one line: where, how bad, what, which run, and the link."""
    said = "A question waits for an answer." if message.kind in WITHOUT_TEXT else message.text
    parts = (
        f"[chat {message.channel}]",
        "" if message.severity == "info" else f"{message.severity.upper()}:",
        " ".join(said.split()),
        f"(run {message.reference})" if message.reference else "",
        message.link,
    )
    return " ".join(part for part in parts if part)
