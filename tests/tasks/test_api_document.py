"""The API against its own OpenAPI document: requests made from it, right ones and wrong ones.

Whatever comes in, nothing breaks, and no answer has a status or a shape that the document does not tell.
"""

import uuid
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sopengine.wsgi import application
from tasks import api, api_keys
from tasks.models import Approval, Task
from tests.tasks.office import asking
from tests.tasks.runs import Probe, begun, published

pytestmark = pytest.mark.django_db
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
METHODS = {"get", "post", "put", "patch", "delete", "head", "options"}
EXAMPLES = 20  # of each operation, right ones and wrong ones
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def document() -> Any:
    return Client().get("/api/v1/openapi.json").json()


def operations() -> list[tuple[str, str]]:
    """Return path and method of each operation."""
    return [(path, method) for path, item in api.api.get_openapi_schema()["paths"].items() for method in item]


@cache
def _schema() -> Any:
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application)


def requests_to(path: str, method: str, mode: GenerationMode) -> st.SearchStrategy[Any]:
    """Return requests to one operation, made from nothing but the document."""
    strategy: st.SearchStrategy[Any] = _schema()[path][method].as_strategy(mode, feedback=NO_FEEDBACK)
    return strategy


@pytest.fixture(autouse=True)
def one_connection() -> Iterator[None]:
    """A request that ends closes the connection, and with it the transaction of the test."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.fixture
def key() -> str:
    """A key that may do everything."""
    return api_keys.make("fuzz", User.objects.create_superuser("fuzz"), api_keys.SCOPES)[1]


@pytest.fixture
def ids(probe: Probe) -> dict[str, list[str]]:
    """Rows that an id may hit: an open question, an answered one, runs that are over or go on."""
    published("probe.pure", slug="greet", inputs={"season": {"type": "integer"}})
    asking(2)
    begun(published("probe.pure"))
    return {
        "run_id": [str(pk) for pk in Task.objects.values_list("pk", flat=True)],
        "approval_id": [str(pk) for pk in Approval.objects.values_list("pk", flat=True)],
    }


def aimed(case: Any, ids: dict[str, list[str]], draw: Any) -> None:
    """Let a good part of the requests hit what is there, as made-up ids and names never would."""
    for name in set(case.path_parameters or {}) & set(ids):
        if draw(st.integers(0, 3)):
            case.path_parameters[name] = draw(st.sampled_from(ids[name]))
    if isinstance(case.body, dict) and "sop" in case.body and draw(st.booleans()):
        case.body = {
            **case.body,
            "sop": "greet",
            **({"inputs": {"season": 1}} if draw(st.booleans()) else {}),
        }
    if isinstance(case.body, dict) and "choice" in case.body and draw(st.booleans()):
        case.body = {**case.body, "choice": draw(st.sampled_from(["approve", "edit", "decline"]))}


@pytest.mark.parametrize(("path", "method"), operations())
def test_right_requests_are_answered_as_the_document_says(
    path: str, method: str, key: str, ids: dict[str, list[str]]
) -> None:
    statuses: set[int] = set()

    @bounded
    @given(requests_to(path, method, GenerationMode.POSITIVE), st.data())
    def ask(case: Any, data: Any) -> None:
        aimed(case, ids, data.draw)
        answer = case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=CHECKS)
        statuses.add(answer.status_code)

    ask()
    assert statuses & {200, 201, 202}, statuses  # the requests got as far as the thing itself
    assert not statuses & {401, 403, 405}, statuses


@pytest.mark.parametrize(("path", "method"), operations())
def test_wrong_requests_are_refused_as_the_document_says(
    path: str, method: str, key: str, ids: dict[str, list[str]]
) -> None:

    @bounded
    @given(requests_to(path, method, GenerationMode.NEGATIVE))
    def ask(case: Any) -> None:
        case.call_and_validate(
            headers={"Authorization": f"Bearer {key}"}, checks=[*CHECKS, negative_data_rejection]
        )

    ask()
    assert not Task.objects.filter(version__sop__slug="greet").exists()


@pytest.mark.parametrize(("path", "method"), operations())
def test_a_stranger_is_refused_whatever_he_asks(path: str, method: str) -> None:

    @settings(bounded, max_examples=5)
    @given(requests_to(path, method, GenerationMode.POSITIVE))
    def ask(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer sop_{uuid.uuid4().hex[:8]}_{'A' * 43}"})
        assert answer.status_code == 401

    ask()


def test_the_document_tells_of_each_operation_what_its_reader_needs() -> None:
    told = document()
    assert told["openapi"].startswith("3.")
    assert told["components"]["securitySchemes"]["Key"] == {"type": "http", "scheme": "bearer"}
    names = set()
    for item in told["paths"].values():
        assert set(item) <= METHODS
        for operation in item.values():
            names.add(operation["operationId"])
            assert operation["security"] == [{"Key": []}]
            assert "Scope: " in operation["description"]
            assert {"401", "403", "422", "429", "503"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                (shape,) = response["content"].values()
                refused = shape["schema"] == {"$ref": "#/components/schemas/Refusal"}
                assert refused == (not status.startswith("2")), status
    assert len(names) == len(operations())


def test_the_document_names_each_scope(key: str) -> None:
    told = {
        operation["description"].split("Scope: ")[1].split(".")[0]
        for item in document()["paths"].values()
        for operation in item.values()
    }
    assert told == set(api_keys.SCOPES)
