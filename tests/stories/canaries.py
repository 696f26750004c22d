"""Canaries: customers and words of whom every value is marked, and a watch that sees any mark in clear."""

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.servers import Postgres, Redis
from tests.stories.stage import Stage

MARKS = ("kanari", "zwitscher", "4477009", "pfeift", "vogelheim")
MARK = re.compile("|".join(MARKS), re.IGNORECASE)
WORDS = "The customer is Kanari Zwitscher of Vogelheim, zwitscher@kanari.example, +4477009001"


def _wrapped() -> re.Pattern[str]:
    """Return what a mark looks like in base64, wherever in its text it stands, and in hexadecimal."""
    found = []
    for mark in ("Kanari", "kanari", "Zwitscher", "zwitscher"):
        found.append(mark.encode().hex())
        for ahead in range(3):
            coded = base64.b64encode(b"\0" * ahead + mark.encode()).decode().rstrip("=")
            # Without the letters at both ends, which tell of the neighbours too.
            found.append(re.escape(coded[(0, 2, 3)[ahead] : len(coded) - ((ahead + len(mark)) % 3 != 0)]))
    return re.compile("|".join(found))


WRAPPED = _wrapped()


class Watch:
    """Looks through everything that is kept or written, as often as it is asked to, or all the time."""

    def __init__(self, firm: Stage, postgres: Postgres, redis: Redis, *addresses: str) -> None:
        self.firm, self.postgres, self.redis = firm, postgres, redis
        self.looks = self.with_sealed = 0
        # A hash without a key is as good as the address: whoever has a list of addresses can tell.
        hashes = [
            hashlib.new(name, text.encode()).hexdigest()
            for text in addresses
            for name in ("md5", "sha1", "sha256")
        ]
        self._hashes = re.compile("|".join(hashes) or r"(?!)")

    def look(self) -> None:
        """Fail when any mark stands anywhere in clear, or so that anybody can make it clear."""
        database = urlsplit(self.firm.database).path.strip("/")
        dump = self.postgres.dump(database)
        self.looks += 1
        self.with_sealed += "'v1|dev|" in dump
        for place, text in (
            ("the database", dump),
            ("Redis", self.redis.dump()),
            ("a log", self.firm.logs()),
            ("the log of PostgreSQL", self.postgres.log.read_text(errors="replace")),
        ):
            for pattern in (MARK, WRAPPED, self._hashes):
                found = pattern.search(text)
                assert not found, (
                    f"a mark stands in {place}: …{text[max(0, found.start() - 300) : found.end() + 100]}…"
                )

    @contextmanager
    def all_the_time(self, every: float = 0.7) -> Iterator[None]:
        """Look again and again while something else is done; fail at its end if there was anything."""
        over, seen = threading.Event(), []

        def look_on() -> None:
            while not over.wait(every):
                try:
                    self.look()
                except AssertionError as error:
                    seen.append(error)
                    return

        looking = threading.Thread(target=look_on, name="watch", daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()
        if seen:
            raise seen[0]
        self.look()


def person(number: int, status: str) -> dict[str, Any]:
    """Return a customer of whom every value says so."""
    return {
        "id": f"cus_{number:03}",
        "name": f"Kanari{number:03} Zwitscher",
        "email": f"zwitscher{number:03}@kanari.example",
        "phone": f"+4477009{number:05}",
        "address": f"{number} Vogelheim Road",
        "city": "Vogelheim",
        "notes": f"Pfeift morgens {number}",
        "status": status,
        "services": ["fertilizer"],
        "last_service_date": {"$days": -200},
    }


def look_and(watch: Watch, done: Callable[[], bool]) -> bool:
    """Look, and tell whether it is done."""
    watch.look()
    return done()
