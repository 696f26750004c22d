"""Logs: one line for each event, on stdout, with ids and codes and without customers.

The message of an exception may quote a row or an answer of another system, so only the messages of
our own exceptions and of plain programming errors are written; of the others the class, and of a
database error its SQLSTATE and constraint.
"""

import json
import logging
import re
import traceback
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase

OUR_PACKAGES = ("sopengine", "tasks", "crm", "credentials")
# Their messages name code, not data.
PROGRAMMING_ERRORS = (AttributeError, ImportError, NameError, TypeError)
LONGEST_VALUE = 300
_PRIVATE_PATH = re.compile(r"(/(?:approvals|unsubscribe)/)[^/\s?]+")
# What a login hands back in an address (OAuth), and what else may stand there as a secret.
_PRIVATE_QUERY = re.compile(r"([?&](?:code|state|(?:\w*_)?(?:token|key|secret))=)[^&\s\"']+", re.IGNORECASE)
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,80}")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_bound: ContextVar[dict[str, str]] = ContextVar("bound_ids", default={})  # noqa: B039


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Add ids (task, step, sop, …) to every line logged inside, in this thread."""
    token = _bound.set({**_bound.get(), **{name: str(value) for name, value in ids.items()}})
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def reference(text: object) -> Iterator[None]:
    """Put `ref=<text>` on every line logged inside, in this thread: what staff read in a message."""
    with bound(ref=text):
        yield


class RequestIds:
    """Give each request an id: that of the platform's router, if it sends one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        told = request.headers.get("X-Request-ID", "")
        request_id = told if _PLAIN_ID.fullmatch(told) else uuid.uuid4().hex
        with bound(request=request_id):
            response = self.get_response(request)
        response.headers["X-Request-ID"] = request_id
        return response


def describe(error: BaseException) -> str:
    """Return the class of `error`, with its message if that cannot hold foreign data."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if kind.__module__.partition(".")[0] in OUR_PACKAGES or isinstance(error, PROGRAMMING_ERRORS):
        return f"{name}: {error}" if str(error) else name
    cause = error if hasattr(error, "sqlstate") else error.__cause__
    state = getattr(cause, "sqlstate", None)
    constraint = getattr(getattr(cause, "diag", None), "constraint_name", None)
    return " ".join(
        [
            name,
            *(f"{key}={value}" for key, value in (("sqlstate", state), ("constraint", constraint)) if value),
        ]
    )


def frames(error: BaseException) -> list[str]:
    """Return where `error` went through, as file:line function, innermost last; no source, no locals."""
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _message(record: logging.LogRecord) -> str:
    """Return the record's text without the words of its exception and without secrets in addresses."""
    text = record.getMessage()
    for error in _chain(record.exc_info[1] if record.exc_info else None):
        for words in {repr(error), str(error)} - {""}:
            text = text.replace(words, describe(error))
    # Some put a whole formatted traceback into the text.
    text = text.partition("Traceback (most recent call last)")[0].rstrip()
    return _PRIVATE_QUERY.sub(r"\1…", _PRIVATE_PATH.sub(r"\1…", text))


def _extras(record: logging.LogRecord) -> dict[str, str | int | float | bool]:
    """Return what was passed as `extra`: plain values only, texts cut."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in vars(record).items():
        if name in _STANDARD or name.startswith("_"):
            continue
        if isinstance(value, bool | int | float):
            found[name] = value
        elif isinstance(value, str | uuid.UUID):
            found[name] = str(value)[:LONGEST_VALUE]
    return found


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _message(record),
        **_extras(record),
        **_bound.get(),
    }
    if record.exc_info and record.exc_info[1]:
        errors = list(_chain(record.exc_info[1]))
        fields["error"] = " <- ".join(describe(error) for error in errors)
        fields["at"] = frames(errors[0])
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object on one line, ASCII only: nothing in it can forge another line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(_fields(record), ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """One line for people; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the way of an exception."""
        fields = _fields(record)
        way, error = fields.pop("at", []), fields.pop("error", "")
        moment, level, logger, message = (fields.pop(name) for name in ("time", "level", "logger", "message"))
        rest = [f"{name}={value}" for name, value in fields.items()]
        line = escaped(" ".join([moment[11:23], level.upper().ljust(7), logger, message, *rest]))
        below = [f"    {escaped(place)}" for place in way] + ([f"    {escaped(error)}"] if error else [])
        return "\n".join([line, *below])


def escaped(text: str) -> str:
    """Return `text` with everything that is not visible written as an escape."""
    return "".join(
        char
        if unicodedata.category(char)[0] != "C" and unicodedata.category(char) not in {"Zl", "Zp"}
        else char.encode("unicode_escape").decode()
        for char in text
    )


def scrub_report(event: dict[str, Any], hint: dict[str, Any]) -> dict[str, Any]:
    """Return an error report for Sentry with classes and places only: no messages, requests, crumbs."""
    error = (hint.get("exc_info") or (None, None, None))[1]
    described = [describe(part) for part in _chain(error)]
    for value in event.get("exception", {}).get("values", []):
        words = next((text for text in described if text.split(":")[0].endswith(str(value.get("type")))), "")
        value["value"] = words.partition(": ")[2]
    for name in ("request", "breadcrumbs", "user", "extra", "logentry", "message"):
        event.pop(name, None)
    return event
