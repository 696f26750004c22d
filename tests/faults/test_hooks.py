"""The address for webhooks as senders meet it: raw sockets against gunicorn (rows M4, M6, M8)."""

import hashlib
import hmac
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.processes import WebServer, Worker, eventually, manage, product_environment
from tests.servers import Postgres, Redis

SECRET = "secret-of-the-sender"
BODY = json.dumps({"event": "job.completed", "event_id": "e-1", "data": {"job_id": "j-7"}}).encode()
STARTED = """
sop: after-job
name: After a job
trigger: {event: job.completed}
inputs: {job_id: {type: string}}
steps:
  - key: rest
    handler: flow.wait
    with: {duration: 1 day}
"""


class Site:
    """One gunicorn on one database, and a sender who knows the secret."""

    def __init__(self, web: WebServer, database: str) -> None:
        self.web, self.database = web, database

    def raw(self, *pieces: bytes, shut: bool = False, pause: float = 0.0, within: float = 10.0) -> bytes:
        """Send these bytes over one connection; return all that comes back until it is closed or silent."""
        with socket.create_connection(("127.0.0.1", self.web.port), timeout=within) as sock:
            for piece in pieces:
                try:
                    sock.sendall(piece)
                except OSError:
                    break  # it was refused and closed before all was sent
                time.sleep(pause)
            if shut:
                sock.shutdown(socket.SHUT_WR)
            found = b""
            try:
                while b"\r\n\r\n" not in found or not _whole(found):
                    piece = sock.recv(65536)
                    if not piece:
                        break
                    found += piece
            except OSError:
                pass
        return found

    def status(self, *pieces: bytes, shut: bool = False) -> int:
        """Return the status of the first answer; 0 when the connection was closed without one."""
        found = re.match(rb"HTTP/1\.[01] (\d{3})", self.raw(*pieces, shut=shut))
        return int(found[1]) if found else 0

    def rows(self) -> int:
        """Return how many deliveries are stored."""
        with psycopg.connect(self.database) as connection:
            return int(connection.execute("SELECT count(*) FROM sopengine_delivery").fetchone()[0])  # type: ignore[index]

    def memory(self) -> int:
        """Return the resident memory of the web processes, in bytes."""
        kilobytes = 0
        for pid in [self.web.pid, *self.web.children()]:
            status = Path(f"/proc/{pid}/status").read_text()
            kilobytes += int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])
        return kilobytes * 1024


def _whole(answer: bytes) -> bool:
    """Whether the answer's body is there as far as its length says."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(length) and len(rest) >= int(length[1])


def proof(body: bytes) -> str:
    return hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def request(body: bytes, *headers: str, signature: str | None = None, length: int | None = None) -> bytes:
    """Return a signed POST as it goes over the line."""
    lines = [
        "POST /hooks/crm HTTP/1.1",
        "Host: 127.0.0.1",
        f"X-Signature: {proof(body) if signature is None else signature}",
        *(headers or ("Content-Type: application/json",)),
    ]
    if not any(line.lower().startswith("transfer-encoding") for line in lines):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body if length != -1 else b"")


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


CHUNKED = ("Content-Type: application/json", "Transfer-Encoding: chunked")


@pytest.fixture(scope="module")
def _site(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    database = postgres.migrated_database("hooks")
    environment = product_environment(database, HOOKS="crm=hmac", CRM_HMAC_SECRET=SECRET, LOG_LEVEL="WARNING")
    with WebServer(environment, log=tmp_path_factory.mktemp("hooks") / "web.log") as web:
        web.ready()
        yield Site(web, database)
    postgres.drop_database("hooks")


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """The site, with no delivery in its database."""
    with psycopg.connect(_site.database) as connection:
        connection.execute("TRUNCATE sopengine_delivery")
    yield _site
    assert "Traceback" not in _site.web.output()


def test_one_delivery_sent_ten_times_at_once_is_one_run_and_each_is_answered_well(
    new_database: Callable[[], str], redis_server: Redis, tmp_path: Path
) -> None:
    database = new_database()
    environment = product_environment(
        database, redis_server.url, HOOKS="crm=hmac", CRM_HMAC_SECRET=SECRET, WORKER_CONCURRENCY="1"
    )
    (tmp_path / "sop.yaml").write_text(STARTED)
    manage(environment, "sop", "import", str(tmp_path / "sop.yaml"), "--publish")
    with (
        WebServer(environment, log=tmp_path / "web.log") as web,
        Worker(environment, log=tmp_path / "worker.log") as worker,
    ):
        web.ready()
        worker.ready()
        site, statuses = Site(web, database), []
        senders = [
            threading.Thread(target=lambda: statuses.append(site.status(request(BODY)))) for _ in range(10)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert statuses == [202] * 10
        assert site.rows() == 1

        def states() -> list[tuple[str, bool]]:
            with psycopg.connect(database) as connection:
                return connection.execute("SELECT state, body IS NULL FROM sopengine_delivery").fetchall()

        eventually(lambda: states() == [("processed", True)], 20, what=lambda: worker.output()[-2000:])
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM tasks_task").fetchone() == (1,)


def test_what_is_too_large_lies_or_is_packed_is_refused_and_costs_no_memory(site: Site) -> None:
    assert site.status(request(BODY)) == 202
    for _ in range(8):  # every thread has served a large body once
        large = b'{"event": "e", "x": "' + b"x" * 999_970 + b'"}'
        assert site.status(request(large)) == 202
    before, rows = site.memory(), site.rows()
    large = b"x" * 1_000_001
    refused = {
        "one byte too many": (request(large), 413),
        "a length of a terabyte": (request(BODY, length=10**12), 413),
        "a length of 400 digits": (request(BODY, length=int("9" * 400)), 413),
        "chunks without end": (request(b"", *CHUNKED) + b"%x\r\n" % 2_000_000 + b"x" * 1_100_000, 413),
        "chunks that are too many": (request(b"", *CHUNKED) + chunked(*[b"x" * 50_000] * 30), 413),
        "a packed body": (request(BODY, "Content-Type: application/json", "Content-Encoding: gzip"), 415),
        "another type": (request(BODY, "Content-Type: text/html"), 415),
        "no JSON": (request(b"{"), 400),
        "too deep": (request(b"[" * 900_000), 400),
        "deep objects": (request(b'{"a":' * 150_000), 400),
        "many numbers": (request(b'{"a":[' + b"1," * 400_000 + b"1]}"), 400),
        "NUL": (request(b'{"a": "\\u0000"}'), 400),
        "half a pair": (request(b'{"a": "\\ud800"}'), 400),
        "no UTF-8": (request(b'{"a": "\xff"}'), 400),
    }
    found = {name: site.status(sent) for name, (sent, _) in refused.items() for _ in range(3)}
    assert found == {name: code for name, (_, code) in refused.items()}
    assert site.rows() == rows
    assert site.memory() - before < 20_000_000


def test_a_body_shorter_than_it_says_is_refused_and_a_longer_one_is_cut(site: Site) -> None:
    assert site.status(request(BODY, length=len(BODY) + 10), shut=True) == 400
    assert site.status(request(b"", *CHUNKED) + b"ff\r\nabc", shut=True) in (0, 400)
    assert site.rows() == 0
    cut = request(BODY + b"GARBAGE", signature=proof(BODY), length=len(BODY))
    assert site.status(cut) == 202
    assert site.rows() == 1


def test_chunks_are_taken_as_the_body_they_make(site: Site) -> None:
    head = request(b"", *CHUNKED, signature=proof(BODY))
    assert site.status(head + chunked(BODY[:10], BODY[10:])) == 202
    assert site.rows() == 1


def test_chunks_that_are_none_are_refused(site: Site) -> None:
    broken = {
        "no number": b"zz\r\nabc\r\n0\r\n\r\n",
        "negative": b"-5\r\nabc\r\n0\r\n\r\n",
        "longer than said": b"3\r\nabcdef\r\n0\r\n\r\n",
        "a size without end": b"3" * 10_000,
        "no text": b"\x00\xff",
    }
    found = {name: site.status(request(b"", *CHUNKED) + bad, shut=True) for name, bad in broken.items()}
    assert set(found.values()) <= {0, 400}, found
    assert site.rows() == 0
    assert site.status(request(BODY)) == 202


def test_a_forged_signature_of_any_bytes_is_refused_and_nothing_breaks(site: Site) -> None:
    right = proof(BODY)
    forged = ["", " ", right[:-1], right + "0", "é" * 64, "\xff" * 64, "0" * 64, "\x80", "\t", "x" * 4_001]
    assert {site.status(request(BODY, signature=text)) for text in forged} == {401}
    missing = request(BODY).replace(b"X-Signature", b"X-Other")
    assert site.status(missing) == 401
    twice = request(BODY, f"X-Signature: {'0' * 64}", "Content-Type: application/json", signature=right)
    assert site.status(twice) == 401
    assert site.rows() == 0
    assert site.status(request(BODY)) == 202


def test_a_sender_who_is_slow_or_goes_away_hinders_nobody(site: Site) -> None:
    whole = request(BODY)
    with socket.create_connection(("127.0.0.1", site.web.port)) as idle:
        idle.sendall(whole[:-5])
        assert site.status(whole) == 202
    site.raw(whole[:60], shut=True)
    assert site.status(whole) == 202
    assert site.rows() == 1
