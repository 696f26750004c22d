"""A mail server that remembers each letter it took, and answers late, never, or no, when told to."""

import asyncio
import email
import logging
import threading
from collections import Counter
from email.message import Message
from types import TracebackType
from typing import Self

from aiosmtpd.smtp import SMTP, Envelope, Session

# It writes six lines for each letter.
logging.getLogger("mail.log").setLevel(logging.WARNING)


class PostOffice:
    """An SMTP server on a free port of loopback.

    `pause` seconds lie between a letter and its receipt; a `deaf` one takes letters and never says so.
    Whoever is in `refuses` is unknown here (550), whoever is in `puts_off` is to be tried again (451);
    `refused` counts how often either was said.
    """

    def __init__(self, *, pause: float = 0.0, deaf: bool = False) -> None:
        self.pause, self.deaf = pause, deaf
        self.letters: list[Message] = []
        self.refuses: set[str] = set()
        self.puts_off: set[str] = set()
        self.refused: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(
                lambda: SMTP(self, hostname="post.test", loop=self._loop), "127.0.0.1", 0
            )
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="post-office", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address, as EMAIL_URL expects it."""
        return f"smtp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def ids(self) -> Counter[str]:
        """How often each Message-ID was taken."""
        return Counter(str(letter["Message-ID"]) for letter in list(self.letters))

    @property
    def recipients(self) -> Counter[str]:
        """How often each address got a letter."""
        return Counter(str(letter["To"]) for letter in list(self.letters))

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient, or refuse it."""
        if address in self.refuses | self.puts_off:
            self.refused[address] += 1
            permanent = address in self.refuses
            return "550 5.1.1 no such mailbox" if permanent else "451 4.3.0 try again later"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the letter, then answer, if ever."""
        content = envelope.content
        assert isinstance(content, bytes)
        self.letters.append(email.message_from_bytes(content))
        await asyncio.sleep(3600 if self.deaf else self.pause)
        return "250 kept"

    def close(self) -> None:
        """Close the office and hang up on everybody."""
        self._loop.call_soon_threadsafe(self._hang_up)
        self._thread.join()
        self._loop.close()

    def _hang_up(self) -> None:
        self._server.close()
        talks = asyncio.all_tasks(self._loop)
        for talk in talks:
            talk.cancel()
        ended = asyncio.gather(*talks, return_exceptions=True)
        ended.add_done_callback(lambda _: self._loop.call_later(0.05, self._loop.stop))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
