"""Laws of the API: who may, what is started once, what is told, and what never is."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError
from django.test import Client, RequestFactory
from pytest_django import Settings

from tasks import api, api_keys, engine, journal
from tasks.models import Approval, Pace, Sop, Task, TaskEvent
from tasks.outcome import Done, Wait
from tests.tasks.office import DRAFT, asking
from tests.tasks.runs import Probe, begun, fresh, kinds, published

pytestmark = pytest.mark.django_db
ALL = tuple(api_keys.SCOPES)
MAY = ("operate_task", "view_task", "answer_approval")


class Caller:
    """A program that has a key."""

    def __init__(self, *scopes: str, name: str = "shop", may: tuple[str, ...] = MAY) -> None:
        self.user = User.objects.create_user(name)
        self.user.user_permissions.set(Permission.objects.filter(codename__in=may))
        self.row, self.key = api_keys.make(name, self.user, scopes or ALL)
        self.client = Client()

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/api/v1{path}", query, headers={"Authorization": f"Bearer {self.key}"})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.client.post(
            f"/api/v1{path}",
            text,
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.key}", **headers},
        )

    def start(self, sop: str, key: str = "order-1", **inputs: Any) -> Any:
        return self.post("/runs", {"sop": sop, "inputs": inputs}, **{"Idempotency-Key": key})


@pytest.fixture
def shop() -> Caller:
    """Who may do everything that a key can."""
    return Caller()


def told(response: Any, status: int = 200) -> Any:
    """Return what was answered, which must have this status."""
    assert response.status_code == status, response.content
    return response.json()


def code(response: Any) -> tuple[int, str]:
    """Return status and code of a refusal, which says it in a sentence too."""
    error = response.json()["error"]
    assert error.keys() == {"code", "message"}
    assert error["message"]
    return response.status_code, error["code"]


def greeting(probe: Probe, slug: str = "greet", **sop: Any) -> Sop:
    """Publish a SOP of one step that ends as the probe says."""
    inputs = {"season": {"type": "integer"}, "note": {"type": "string", "default": "none"}}
    return published("probe.pure", slug=slug, inputs=inputs, **sop).sop


# -- who may ---------------------------------------------------------------------------------------

CALLS: list[tuple[str, str, Callable[[Caller], Any]]] = [
    ("runs:start", "operate_task", lambda who: who.start("greet", season=2027)),
    ("runs:read", "view_task", lambda who: who.get("/runs")),
    ("runs:read", "view_task", lambda who: who.get(f"/runs/{uuid4()}")),
    ("runs:read", "view_task", lambda who: who.get(f"/runs/{uuid4()}/events")),
    ("runs:signal", "operate_task", lambda who: who.post(f"/runs/{uuid4()}/events", {"name": "replied"})),
    ("approvals:read", "view_approval", lambda who: who.get("/approvals")),
    (
        "approvals:answer",
        "answer_approval",
        lambda who: who.post(f"/approvals/{uuid4()}/answer", {"choice": "approve"}),
    ),
]


def test_every_operation_is_in_the_list_of_calls() -> None:
    document = Client().get("/api/v1/openapi.json").json()
    assert sum(len(methods) for methods in document["paths"].values()) == len(CALLS)


@pytest.mark.parametrize(("scope", "permission", "call"), CALLS)
def test_a_call_needs_its_scope_and_its_users_permission(
    scope: str, permission: str, call: Callable[[Caller], Any]
) -> None:
    others = tuple(other for other in ALL if other != scope)
    assert code(call(Caller(*others, name="lacks scope"))) == (403, "scope")
    assert code(call(Caller(name="lacks permission", may=()))) == (403, "permission")
    assert call(Caller(scope, name="has both", may=(permission,))).status_code not in (401, 403)


@pytest.mark.parametrize(("scope", "permission", "call"), CALLS)
def test_without_a_key_nothing_is_told(scope: str, permission: str, call: Callable[[Caller], Any]) -> None:
    caller = Caller()
    for shown in ("", caller.key[:-1], f"{caller.key} x"):
        caller.key = shown
        response = call(caller)
        assert code(response) == (401, "no_key")
        assert response["WWW-Authenticate"] == "Bearer"


def test_a_key_is_shown_in_no_other_way(shop: Caller) -> None:
    for header in (f"Basic {shop.key}", shop.key, f"Token {shop.key}"):
        response = Client().get("/api/v1/runs", headers={"Authorization": header})
        assert code(response) == (401, "no_key")
    told(Client().get("/api/v1/runs", headers={"Authorization": f"bearer {shop.key}"}))
    assert code(Client().get("/api/v1/runs", {"key": shop.key})) == (401, "no_key")


def test_a_login_of_the_admin_is_no_key(admin_client: Client) -> None:
    """A browser sends its cookie by itself, and the API asks for no CSRF token."""
    assert code(admin_client.get("/api/v1/runs")) == (401, "no_key")
    body = json.dumps({"sop": "greet", "inputs": {}})
    answer = admin_client.post("/api/v1/runs", body, content_type="application/json")
    assert code(answer) == (401, "no_key")


def test_a_superuser_is_bound_to_the_scopes_of_the_key() -> None:
    caller = Caller("runs:read")
    User.objects.filter(pk=caller.user.pk).update(is_superuser=True)
    told(caller.get("/runs"))
    assert code(caller.get("/approvals")) == (403, "scope")


# -- how often -------------------------------------------------------------------------------------


def test_a_key_has_so_many_requests_and_is_told_when_there_is_another(
    shop: Caller, settings: Settings
) -> None:
    settings.API_REQUESTS_PER_MINUTE = 3
    other = Caller(name="other")
    assert [shop.get("/runs").status_code for _ in range(3)] == [200, 200, 200]
    for _ in range(5):  # who asks again and again does not make it longer
        refused = shop.get("/runs")
        assert code(refused) == (429, "too_many")
        assert 1 <= int(refused["Retry-After"]) <= 20
    told(other.get("/runs"))
    settings.CLOCK_OFFSET += int(refused["Retry-After"])
    told(shop.get("/runs"))
    assert code(shop.get("/runs")) == (429, "too_many")
    settings.CLOCK_OFFSET += 3600  # what was not used is not saved up
    assert [shop.get("/runs").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_what_is_refused_counts_too_and_starts_nothing_once_it_is_too_much(
    shop: Caller, probe: Probe, settings: Settings
) -> None:
    greeting(probe)
    settings.API_REQUESTS_PER_MINUTE = 2
    poor = Caller("runs:read", name="poor")
    assert [code(poor.start("greet", season=1))[0] for _ in range(3)] == [403, 403, 429]
    for number in range(4):
        shop.start("greet", f"order-{number}", season=1)
    assert Task.objects.count() == 2


def test_without_a_number_there_is_no_limit(shop: Caller, settings: Settings) -> None:
    settings.API_REQUESTS_PER_MINUTE = 0
    assert {shop.get("/runs").status_code for _ in range(20)} == {200}
    assert not Pace.objects.exists()


# -- starting --------------------------------------------------------------------------------------


def test_a_start_makes_a_run_in_the_name_of_the_keys_user(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    run = told(shop.start("greet", season=2027), 201)
    task = Task.objects.get()
    assert (run["id"], run["sop"], run["version"], run["status"]) == (str(task.pk), "greet", 1, "ready")
    (event,) = task.events.all()
    assert event.data["by"] == f"user:{shop.user.pk}"
    seen: list[Any] = []
    probe.told["s1"] = lambda step: seen.append(dict(step.context)) or Done(result="sent")
    engine.drain()
    assert [(row["season"], row["note"]) for row in seen] == [(2027, "none")]
    after = told(shop.get(f"/runs/{run['id']}"))
    assert (after["status"], after["result"]) == ("completed", "sent")
    assert after["finished_at"]


def test_the_same_start_again_answers_with_the_same_run(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    first = told(shop.start("greet", season=2027, note="Ann"), 201)
    engine.drain()
    again = told(shop.start("greet", season=2027, note="Ann"), 200)
    assert again["id"] == first["id"]
    assert again["status"] == "completed"
    assert Task.objects.count() == 1
    told(shop.start("greet", "order-2", season=2027, note="Ann"), 201)
    assert Task.objects.count() == 2


def test_the_same_start_again_is_known_though_the_sop_was_switched_off(shop: Caller, probe: Probe) -> None:
    sop = greeting(probe)
    first = told(shop.start("greet", season=2027), 201)
    Sop.objects.filter(pk=sop.pk).update(state=Sop.State.DISABLED)
    assert told(shop.start("greet", season=2027), 200)["id"] == first["id"]
    assert code(shop.start("greet", "order-2", season=2027)) == (409, "not_runnable")


def test_a_key_used_for_something_else_is_refused(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    told(shop.start("greet", season=2027), 201)
    assert code(shop.start("greet", season=2028)) == (409, "key_reused")
    engine.drain()  # the values are gone, and it is still known
    assert code(shop.start("greet", season=2028)) == (409, "key_reused")
    assert Task.objects.count() == 1


def test_keys_of_two_users_have_nothing_to_do_with_each_other(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    told(shop.start("greet", season=2027), 201)
    told(Caller(name="other").start("greet", season=2027), 201)
    second = api_keys.make("second key of the shop", shop.user, ALL)[1]
    shop.key = second
    told(shop.start("greet", season=2027), 200)
    assert Task.objects.count() == 2


def test_a_cancelled_run_gives_its_key_back_and_a_pruned_one_does_not(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    first = told(shop.start("greet", season=2027), 201)
    engine.signal([first["id"]], "cancel")
    engine.drain()
    told(shop.start("greet", season=2027), 201)
    engine.drain()
    journal.prune(journal.database_now() + timedelta(days=1))
    assert not Task.objects.exists()
    assert code(shop.start("greet", season=2027)) == (409, "key_spent")
    assert not Task.objects.exists()


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "Umlaut-ä", "tab\there"])
def test_a_start_needs_a_key_of_its_own(shop: Caller, probe: Probe, key: str) -> None:
    greeting(probe)
    assert code(shop.start("greet", key, season=2027)) == (422, "invalid")
    answer = shop.post("/runs", {"sop": "greet", "inputs": {"season": 2027}})
    assert code(answer) == (422, "invalid")
    assert "Idempotency-Key" in answer.json()["error"]["message"]
    assert not Task.objects.exists()


@pytest.mark.parametrize(
    ("inputs", "names"),
    [({}, "season"), ({"season": "Ann Canary"}, "season"), ({"season": 1, "extra": "Ann Canary"}, "extra")],
)
def test_inputs_that_do_not_fit_are_named_without_their_values(
    shop: Caller, probe: Probe, inputs: dict[str, Any], names: str
) -> None:
    greeting(probe)
    answer = shop.start("greet", **inputs)
    assert code(answer) == (422, "inputs")
    assert names in answer.json()["error"]["message"]
    assert "Canary" not in answer.content.decode()
    assert not Task.objects.exists()


def test_what_cannot_be_stored_is_refused(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    for value in ("a\x00b", "half \ud800 pair", "x" * 300_000):
        assert code(shop.start("greet", season=1, note=value)) == (422, "inputs")
    body = '{"sop": "greet", "inputs": {"season": NaN}}'
    assert code(shop.post("/runs", body, **{"Idempotency-Key": "k"})) == (422, "inputs")
    assert not Task.objects.exists()


def test_a_sop_that_is_not_there_or_not_running_is_named(shop: Caller, probe: Probe) -> None:
    assert code(shop.start("nothing")) == (404, "no_such_sop")
    sop = greeting(probe)
    Sop.objects.filter(pk=sop.pk).update(state=Sop.State.DRAFT)
    assert code(shop.start("greet", season=1)) == (409, "not_runnable")


# -- bodies that are none --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", (422, "invalid")),
        ("{", (400, "not_json")),
        (b"\xff\xfe{", (400, "not_json")),
        ("[]", (422, "invalid")),
        ("7", (422, "invalid")),
        ('{"sop": "greet", "input": {}}', (422, "invalid")),
        ('{"sop": "gr\\u0000eet"}', (422, "invalid")),
        ('{"sop": {"a": 1}}', (422, "invalid")),
        ("[" * 200_000, (400, "not_json")),
        ('{"sop": "greet", "inputs": {"a": ' + "1" * 5000 + "}}", (400, "not_json")),
        ('{"sop": "greet", "inputs": {"a": "' + "x" * 1_000_000 + '"}}', (413, "too_large")),
    ],
)
def test_a_body_that_is_none_is_refused(
    shop: Caller, probe: Probe, body: str | bytes, expected: tuple[int, str]
) -> None:
    greeting(probe)
    assert code(shop.post("/runs", body, **{"Idempotency-Key": "k"})) == expected
    assert not Task.objects.exists()


def test_a_refusal_names_the_place_and_not_the_value(shop: Caller) -> None:
    answer = shop.post("/runs", {"sop": "Ann Canary!"}, **{"Idempotency-Key": "k"})
    assert code(answer) == (422, "invalid")
    assert answer.json()["error"]["message"].startswith("body.sop: ")
    assert "Canary" not in answer.content.decode()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("delete", "/runs", (405, "method")),
        ("get", "/", (404, "no_such_address")),
        ("get", "", (404, "no_such_address")),
        ("post", "/nothing", (404, "no_such_address")),
        ("get", "/runs/", (404, "no_such_address")),
        ("get", "/runs/7", (422, "invalid")),
        ("get", "/docs", (404, "no_such_address")),
    ],
)
def test_addresses_that_are_none_are_refused_in_the_same_words(
    shop: Caller, method: str, path: str, expected: tuple[int, str]
) -> None:
    client = Client(enforce_csrf_checks=True)
    answer = getattr(client, method)(f"/api/v1{path}", headers={"Authorization": f"Bearer {shop.key}"})
    assert code(answer) == expected
    assert answer["Cache-Control"] == "no-store"
    assert (answer.status_code == 405) == ("Allow" in answer)


def test_a_post_needs_no_csrf_token(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    shop.client = Client(enforce_csrf_checks=True)
    told(shop.start("greet", season=2027), 201)


# -- reading ---------------------------------------------------------------------------------------


def test_runs_come_newest_first_in_pages_without_gap_or_repeat(shop: Caller, probe: Probe) -> None:
    version = published("probe.pure", slug="greet")
    tasks = [begun(version) for _ in range(5)]
    moment = journal.database_now() - timedelta(days=1)
    Task.objects.filter(pk__in=[task.pk for task in tasks[:3]]).update(created_at=moment)  # as one burst
    expected = [str(task.pk) for task in Task.objects.order_by("-created_at", "-pk")]
    got: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        page = told(shop.get("/runs", **query))
        got += [run["id"] for run in page["runs"]]
        query["before"] = page["next"]
    assert got == expected
    assert page["next"] is None


def test_runs_are_filtered(shop: Caller, probe: Probe) -> None:
    parent = begun(published("probe.pure", slug="one"))
    child = begun(published("probe.pure", slug="two"))
    Task.objects.filter(pk=child.pk).update(parent=parent, status="failed")

    def ids(**query: Any) -> list[str]:
        return [run["id"] for run in told(shop.get("/runs", **query))["runs"]]

    assert ids(sop="one") == [str(parent.pk)]
    assert ids(status="failed") == ids(parent=parent.pk) == [str(child.pk)]
    assert ids(sop="one", status="failed") == []
    assert code(shop.get("/runs", status="nonsense")) == (422, "invalid")
    assert code(shop.get("/runs", limit=101)) == (422, "invalid")
    assert code(shop.get("/runs", sop="\x00")) == (422, "invalid")
    assert code(shop.get("/runs", before=uuid4())) == (422, "cursor")
    assert code(shop.get("/runs", stauts="failed")) == (422, "invalid")
    assert code(shop.get(f"/runs/{parent.pk}", limit=1)) == (422, "invalid")


def test_what_happened_is_told_in_pages_and_without_the_mark(shop: Caller, probe: Probe) -> None:
    greeting(probe)
    run = told(shop.start("greet", season=2027), 201)
    engine.drain()
    task = Task.objects.get()
    got: list[Any] = []
    after = 0
    while after is not None:
        page = told(shop.get(f"/runs/{run['id']}/events", after=after, limit=2))
        got += page["events"]
        after = page["next"]
    assert [event["kind"] for event in got] == kinds(task)
    assert [event["seq"] for event in got] == list(range(1, len(got) + 1))
    assert got[0]["data"] == {"by": f"user:{shop.user.pk}"}
    assert got[0]["text"].startswith("The run was started")
    assert code(shop.get(f"/runs/{uuid4()}/events")) == (404, "no_such_run")


def test_no_answer_about_runs_holds_anything_of_the_customer(shop: Caller) -> None:
    approval = asking(name="Ann Canary")[0]
    shop.post(f"/runs/{approval.task_id}/events", {"name": "replied"})
    shop.post(f"/approvals/{approval.pk}/answer", {"choice": "approve"})
    engine.drain()
    answers = [
        shop.get("/runs"),
        shop.get(f"/runs/{approval.task_id}"),
        shop.get(f"/runs/{approval.task_id}/events"),
        shop.get("/approvals", state="all"),
    ]
    text = " ".join(answer.content.decode() for answer in answers)
    assert "Canary" not in text
    assert not any(part in text for part in DRAFT.values())


# -- events ----------------------------------------------------------------------------------------


def test_an_event_wakes_the_run_that_waits_for_it(shop: Caller, probe: Probe) -> None:
    task = begun(published("probe.pure", "probe.pure"))
    probe.told["s1"] = lambda _: Wait(delay=timedelta(days=3), event="replied")
    engine.drain()
    path = f"/runs/{task.pk}/events"
    assert told(shop.post(path, {"name": "something.else"}), 202) == {"taken": True}
    engine.drain()
    assert fresh(task).waiting_for == "event"
    told(shop.post(path, {"name": "replied"}), 202)
    engine.drain()
    assert fresh(task).status == "completed"
    woke = TaskEvent.objects.get(task=task, kind="woke")
    assert woke.data["event"] == "replied"
    assert code(shop.post(path, {"name": "replied"})) == (409, "over")


def test_a_run_that_is_over_passes_an_event_on_to_its_follow_up(shop: Caller, probe: Probe) -> None:
    """Whoever knows the run that wrote to the customer need not know which run follows up."""
    probe.told["s1"] = lambda _: Wait(delay=timedelta(days=3), event="replied")
    sender, after = begun(published("probe.read")), begun(published("probe.pure"))
    stranger = begun(published("probe.pure"))
    Task.objects.filter(pk=after.pk).update(parent=sender)
    engine.drain()
    path = f"/runs/{sender.pk}/events"
    told(shop.post(path, {"name": "replied"}), 202)
    engine.drain()
    assert fresh(sender).status == "completed"
    assert fresh(after).status == "waiting"  # it was the other's event
    told(shop.post(path, {"name": "replied"}), 202)
    engine.drain()
    assert [fresh(task).status for task in (after, stranger)] == ["completed", "waiting"]
    assert code(shop.post(path, {"name": "replied"})) == (409, "over")


def test_an_event_needs_a_name_and_a_run(shop: Caller) -> None:
    task = begun(published("probe.pure"))
    for body in ({}, {"name": ""}, {"name": "a b"}, {"name": "x" * 81}, {"name": "a", "data": {}}):
        assert code(shop.post(f"/runs/{task.pk}/events", body)) == (422, "invalid")
    assert code(shop.post(f"/runs/{uuid4()}/events", {"name": "replied"})) == (404, "no_such_run")
    assert fresh(task).mailbox == []


# -- questions -------------------------------------------------------------------------------------


def test_questions_are_listed_oldest_first_with_drafts_on_demand(shop: Caller) -> None:
    approvals = asking(3)
    page = told(shop.get("/approvals", limit=2))
    rest = told(shop.get("/approvals", limit=2, after=page["next"]))
    rows = page["approvals"] + rest["approvals"]
    assert rest["next"] is None
    expected = Approval.objects.order_by("created_at", "pk")
    assert [row["id"] for row in rows] == [str(approval.pk) for approval in expected]
    assert {row["draft"] for row in rows} == {None}
    assert [option["key"] for option in rows[0]["options"]][:2] == ["approve", "edit"]
    (shown,) = told(shop.get("/approvals", run=approvals[0].task_id, drafts="true"))["approvals"]
    assert shown["draft"] == {"question": "Send?", **DRAFT}


def test_a_draft_is_only_for_who_may_read_drafts() -> None:
    asking()
    looker = Caller("approvals:read", may=("view_approval",))
    assert told(looker.get("/approvals"))["approvals"][0]["draft"] is None
    assert code(looker.get("/approvals", drafts="true")) == (403, "permission")


def test_an_answer_counts_once_and_the_second_is_told_who_was_first(shop: Caller) -> None:
    approval = asking()[0]
    path = f"/approvals/{approval.pk}/answer"
    answered = told(shop.post(path, {"choice": "decline"}))
    assert (answered["state"], answered["choice"], answered["draft"]) == ("answered", "decline", None)
    assert answered["decision"].startswith("shop chose")
    second = Caller(name="late").post(path, {"choice": "approve"})
    assert code(second) == (409, "refused")
    assert "shop chose" in second.json()["error"]["message"]
    engine.drain()
    assert fresh(approval.task).result == "declined"


def test_an_edited_draft_is_what_was_approved(shop: Caller) -> None:
    approval = asking()[0]
    path = f"/approvals/{approval.pk}/answer"
    for edited in ({"text": "{{ oops }}"}, {"subject": "two\nlines"}, {"text": " "}, {}):
        assert code(shop.post(path, {"choice": "edit", "edited": edited})) == (409, "refused")
    for edited in ({"to": "eve@example.test"}, {"text": "half \ud800 pair"}, {"text": 7}):
        assert code(shop.post(path, {"choice": "edit", "edited": edited})) == (422, "invalid")
    assert Approval.objects.get().state == "open"
    told(shop.post(path, {"choice": "edit", "edited": {"subject": "New", "text": "Other words"}}))
    (row,) = told(shop.get("/approvals", state="answered", drafts="true"))["approvals"]
    assert (row["draft"]["subject"], row["draft"]["text"]) == ("New", "Other words")
    assert row["draft"]["to"] == DRAFT["to"]


def test_an_answer_that_the_question_does_not_have_is_refused(shop: Caller) -> None:
    approval = asking()[0]
    path = f"/approvals/{approval.pk}/answer"
    assert code(shop.post(path, {"choice": "perhaps"})) == (409, "refused")
    assert code(shop.post(path, {"choice": "approve", "edited": {"text": "x"}})) == (409, "refused")
    assert code(shop.post(path, {"choice": ""})) == (422, "invalid")
    assert code(shop.post(f"/approvals/{uuid4()}/answer", {"choice": "approve"})) == (404, "no_such_approval")
    assert Approval.objects.get().state == "open"


# -- when something breaks -------------------------------------------------------------------------


def broken(error: Exception) -> Any:
    """Return what is answered when an operation raises this."""
    return api.api.on_exception(RequestFactory().get("/api/v1/runs"), error)


def test_what_nobody_foresaw_is_not_told_to_the_caller(
    caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    settings.DEBUG = True  # where the framework would answer with the whole traceback
    answer = broken(ValueError("Ann Canary"))
    assert answer.status_code == 500
    assert json.loads(answer.content)["error"]["code"] == "internal"
    assert "Canary" not in answer.content.decode()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.django_db(transaction=True)  # the answer drops the connection, and with it an open transaction
def test_a_database_that_is_away_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    answer = broken(OperationalError("host=10.0.0.7"))
    assert (answer.status_code, answer["Retry-After"]) == (503, "10")
    assert "10.0.0.7" not in answer.content.decode() + caplog.text


def test_a_draft_that_cannot_be_opened_is_said_so(shop: Caller, settings: Any) -> None:
    asking()
    settings.VAULT_KEYS = ["other:" + "B" * 43 + "="]
    assert code(shop.get("/approvals", drafts="true")) == (503, "unavailable")
    told(shop.get("/approvals"))
