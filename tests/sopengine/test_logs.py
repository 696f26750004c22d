"""A log line cannot be forged and does not tell about customers."""

import json
import logging
import re
import uuid
from collections.abc import Callable

import pytest
from django.db import IntegrityError, connection
from django.http import HttpResponse
from django.test import Client, RequestFactory

from sopengine import logs
from sopengine.errors import DataError
from tasks.models import Pulse, SpentKey

NO_SUCH_NAME = "no_such_name"
CANARY = "canary-ada@example.test"
FORMATTERS: list[logging.Formatter] = [logs.JsonFormatter(), logs.TextFormatter()]


def record(
    message: str, *args: object, error: BaseException | None = None, **extra: object
) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("tasks.drain", logging.ERROR, __file__, 1, message, args, info)
    vars(made).update(extra)
    return made


def raised(do: Callable[[], object]) -> BaseException:
    try:
        do()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_line_is_one_json_object_with_its_ids() -> None:
    run = uuid.uuid4()
    with logs.bound(task=run, step="send"):
        line = logs.JsonFormatter().format(record("settled %d", 3, ms=12))
    found = json.loads(line)
    assert (found["message"], found["level"], found["logger"]) == ("settled 3", "error", "tasks.drain")
    assert (found["task"], found["step"], found["ms"]) == (str(run), "send", 12)


def test_ids_end_with_their_block() -> None:
    with logs.bound(task="a"):
        pass
    assert "task" not in json.loads(logs.JsonFormatter().format(record("x")))


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_the_reference_that_staff_read_is_on_every_line_inside(formatter: logging.Formatter) -> None:
    with logs.reference("K7Q2"), logs.reference("M4X9"):
        assert re.search(r'ref"?[=:] ?"?M4X9', formatter.format(record("called", ref="other")))
    assert "M4X9" not in formatter.format(record("called"))


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize(
    "address",
    [
        "GET /credentials/oauth/callback?code=CANARY&state=CANARY&x=1 HTTP/1.1",
        "POST https://h.example.com/hook?a=1&access_token=CANARY",
        "/x?API_KEY=CANARY",
    ],
)
def test_what_an_address_carries_as_a_secret_is_not_written(
    formatter: logging.Formatter, address: str
) -> None:
    line = formatter.format(record('"%s" 302', address))

    assert "CANARY" not in line
    assert "=…" in line or "=\\u2026" in line


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize(
    "poison", ["\n", "\r", "\x00", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e", "\ud800"]
)
def test_nothing_in_a_message_can_forge_a_line(formatter: logging.Formatter, poison: str) -> None:
    line = formatter.format(record(f"name{poison}2026 ERROR forged", other=f"a{poison}b"))
    assert poison not in line
    assert len(line.splitlines()) == 1
    line.encode()


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, OSError])
def test_foreign_words_of_an_exception_are_not_written(
    formatter: logging.Formatter, kind: type[Exception]
) -> None:
    error = raised(lambda: (_ for _ in ()).throw(kind(CANARY)))
    line = formatter.format(record("failed: %s %r", error, error, error=error))
    assert CANARY not in line
    assert kind.__name__ in line
    assert "test_logs.py" in line


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_the_cause_of_an_exception_is_named_but_not_quoted(formatter: logging.Formatter) -> None:
    def fail() -> None:
        try:
            raise ValueError(CANARY)
        except ValueError as cause:
            raise DataError("the answer has no id") from cause

    line = formatter.format(record("step failed", error=raised(fail)))
    assert "sopengine.errors.DataError: the answer has no id <- ValueError" in line
    assert CANARY not in line


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("formatter", FORMATTERS)
def test_a_violated_constraint_is_written_as_a_code(formatter: logging.Formatter) -> None:
    from_row = SpentKey(key=CANARY)  # the column wants a moment, and the error quotes the row
    error = raised(from_row.save)
    assert isinstance(error, IntegrityError)
    line = formatter.format(record("not written: %s", error, error=error))
    assert CANARY not in line
    assert ("sqlstate=23502" in line) == (connection.vendor == "postgresql")


def test_only_plain_extras_are_written() -> None:
    found = json.loads(
        logs.JsonFormatter().format(record("x", data={"args": CANARY}, status=5, words="w" * 999))
    )
    assert CANARY not in str(found)
    assert found["status"] == 5
    assert len(found["words"]) == logs.LONGEST_VALUE


def test_a_formatted_traceback_in_a_message_is_cut() -> None:
    text = f"task raised\nTraceback (most recent call last):\n  {CANARY}"
    assert json.loads(logs.JsonFormatter().format(record(text)))["message"] == "task raised"


@pytest.mark.parametrize("page", ["approvals", "unsubscribe"])
def test_the_token_of_a_signed_page_is_not_written(page: str) -> None:
    found = json.loads(logs.JsonFormatter().format(record(f"Bad Request: /{page}/secret-token?x=1")))
    assert found["message"] == f"Bad Request: /{page}/…?x=1"


def test_programming_errors_keep_their_words() -> None:
    error = raised(lambda: getattr(Pulse, NO_SUCH_NAME))
    assert NO_SUCH_NAME in logs.describe(error)


def test_each_request_has_an_id(client: Client) -> None:
    assert len(client.get("/healthz").headers["X-Request-ID"]) == 32
    told = client.get("/healthz", headers={"x-request-id": "router-1"})
    assert told.headers["X-Request-ID"] == "router-1"
    forged = client.get("/healthz", headers={"x-request-id": "a b\tc" + "x" * 200})
    assert len(forged.headers["X-Request-ID"]) == 32


def test_lines_inside_a_request_carry_its_id() -> None:
    seen: list[str] = []

    def view(request: object) -> HttpResponse:
        seen.append(logs.JsonFormatter().format(record("inside")))
        return HttpResponse()

    logs.RequestIds(view)(RequestFactory().get("/", headers={"x-request-id": "r1"}))
    assert json.loads(seen[0])["request"] == "r1"


def test_a_report_for_sentry_has_classes_and_places_only() -> None:
    error = raised(lambda: (_ for _ in ()).throw(ValueError(CANARY)))
    event = {
        "exception": {"values": [{"type": "ValueError", "value": CANARY, "stacktrace": {"frames": []}}]},
        "request": {"url": CANARY},
        "logentry": {"message": CANARY},
        "user": {"email": CANARY},
        "level": "error",
    }
    sent = logs.scrub_report(event, {"exc_info": (ValueError, error, None)})
    assert CANARY not in json.dumps(sent)
    assert sent["exception"]["values"][0]["type"] == "ValueError"
    assert sent["level"] == "error"
