"""Laws of the address for webhooks, and of what becomes of what was stored there."""

import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django import Settings

from credentials import store
from credentials.models import Credential
from sopengine import clock, inbox
from sopengine.errors import Transient
from sopengine.models import Delivery
from tasks import definition, deliveries, engine
from tasks.events import Event
from tasks.models import Notification, SopVersion, Task
from tasks.overview import overview
from tasks.readers import Reader, Received, readers
from tests.tasks.office import person, seen
from tests.tasks.runs import published

pytestmark = pytest.mark.django_db

CANARY = "canary-ann@example.test"
SECRET = f"whsec_{base64.b64encode(b'n' * 32).decode()}"
OLDER = f"whsec_{base64.b64encode(b'o' * 32).decode()}"
BODY = json.dumps({"event": "job.completed", "data": {"job_id": "j-7", "note": CANARY}}).encode()
HOOKS = {
    "billing": ("standard", "json"),
    "jobs": ("sha256", "json"),
    "calls": ("hmac", "json"),
    "site": ("token", "form"),
    "open": ("hmac", "json"),
}


@pytest.fixture(autouse=True)
def _sources(settings: Settings) -> Iterator[None]:
    settings.HOOKS = HOOKS
    for source, secret in {
        "billing": f"{SECRET} {OLDER}",
        "jobs": "one two",
        "calls": "three",
        "site": "tok",
    }.items():
        credential = Credential(service=source, kind=Credential.Kind.WEBHOOK_SECRET)
        credential.set_secret(secret)
        store.put(credential)
    store.forget()
    yield
    store.forget()


def digest(secret: str, raw: bytes) -> str:
    return hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()


def standard(raw: bytes, id_: str = "msg_1", secret: str = SECRET, late: float = 0) -> dict[str, str]:
    stamp = str(int(clock.now().timestamp() + late))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    proof = hmac.new(key, f"{id_}.{stamp}.".encode() + raw, hashlib.sha256).digest()
    return {
        "webhook-id": id_,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(proof).decode()}",
    }


def proof_for(source: str, raw: bytes) -> dict[str, str]:
    """Return the headers of a sender who knows the secret."""
    if source == "billing":
        return standard(raw)
    if source == "jobs":
        return {"X-Hub-Signature-256": f"sha256={digest('one', raw)}"}
    return {"X-Webhook-Token": "tok"} if source == "site" else {"X-Signature": digest("three", raw)}


def post(source: str = "calls", raw: bytes = BODY, kind: str = "application/json", **headers: str) -> Any:
    """Post as a sender does who knows the secret; `headers` come besides."""
    client = Client(raise_request_exception=False)
    return client.post(
        f"/hooks/{source}",
        raw,
        content_type=kind,
        headers={
            **proof_for(source, raw),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


def everything() -> str:
    """Return what the tables hold."""
    found = []
    with connection.cursor() as cursor:
        for table in ("sopengine_delivery", "tasks_task", "tasks_taskevent", "tasks_notification"):
            cursor.execute(f"SELECT * FROM {table}")
            found.append(repr(cursor.fetchall()))
    return "".join(found)


# -- what is taken -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["billing", "jobs", "calls"])
def test_a_signed_delivery_is_stored_sealed_and_then_answered(source: str) -> None:
    answer = post(source)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    delivery = Delivery.objects.get()
    assert (str(delivery.pk), delivery.source, delivery.state) == (answer.json()["id"], source, "received")
    assert delivery.headers == {"type": "application/json"}
    assert inbox.body_of(delivery) == BODY
    assert CANARY not in everything()


def test_every_repeat_is_answered_well_and_stored_once() -> None:
    answers = [post("billing") for _ in range(10)]
    assert [answer.status_code for answer in answers] == [202] * 10
    assert {answer.json()["id"] for answer in answers} == {str(Delivery.objects.get().pk)}
    assert [answer.json()["status"] for answer in answers[:2]] == ["accepted", "repeated"]


def test_the_same_bytes_are_the_same_delivery_where_no_signed_id_says_otherwise() -> None:
    """An id that the signature does not cover could be changed by whoever replays the request."""
    for number in range(3):
        assert post("jobs", X_GitHub_Delivery=f"id-{number}").status_code == 202
    assert Delivery.objects.count() == 1
    post("jobs", BODY + b" ")
    assert Delivery.objects.count() == 2


def test_an_id_in_the_body_is_the_deliverys_id() -> None:
    for number in (7, 8):
        post("calls", json.dumps({"event": "call_ended", "event_id": number}).encode())
    assert list(Delivery.objects.order_by("external_id").values_list("external_id", flat=True)) == ["7", "8"]


@pytest.mark.parametrize(
    "own_id", ["ada@example.com", "+16125550134/1741622520", "call-612-555-0134-7", "6125550134"]
)
def test_an_id_that_may_show_a_customer_is_kept_as_its_hash_and_knows_its_repeats(own_id: str) -> None:
    raw = json.dumps({"event": "call_ended", "event_id": own_id}).encode()
    kind = 'application/json; charset=utf-8; name="Ada Olson 612-555-0134.json"'
    assert [post("calls", raw, kind).json()["status"] for _ in range(2)] == ["accepted", "repeated"]
    assert post("calls", raw.replace(b"ended", b"begun"), kind).status_code == 409
    (delivery,) = Delivery.objects.all()
    assert re.fullmatch(r"id:[0-9a-f]{64}", delivery.external_id)
    assert delivery.headers == {"type": "application/json"}
    assert own_id not in everything()
    assert "Ada Olson" not in everything()


def test_another_body_under_a_used_id_is_refused_and_told_to_staff() -> None:
    post("billing")
    other = b'{"event": "job.completed", "data": {"note": "changed"}}'
    client = Client()
    answer = client.post("/hooks/billing", other, content_type="application/json", headers=standard(other))
    assert (answer.status_code, Delivery.objects.count()) == (409, 1)
    assert Notification.objects.get().severity == "warning"


@pytest.mark.parametrize("secret", [SECRET, OLDER])
def test_every_secret_in_force_signs(secret: str) -> None:
    answer = Client().post(
        "/hooks/billing", BODY, content_type="application/json", headers=standard(BODY, secret=secret)
    )
    assert answer.status_code == 202


def test_during_a_rotation_nothing_is_refused_and_afterwards_the_old_secret_is() -> None:
    codes = []
    for number in range(20):
        headers = standard(BODY, f"msg_{number}", (SECRET, OLDER)[number % 2])
        codes.append(Client().post("/hooks/billing", BODY, content_type="application/json", headers=headers))
    assert {answer.status_code for answer in codes} == {202}
    credential = Credential.objects.get(service="billing")
    credential.set_secret(SECRET)
    credential.save()
    headers = standard(BODY, "msg_99", OLDER)
    answer = Client().post("/hooks/billing", BODY, content_type="application/json", headers=headers)
    assert answer.status_code == 401


def test_a_wake_up_follows_a_new_delivery_only(django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        post("billing")
        post("billing")
    assert len([one for one in callbacks if one.__qualname__.startswith("wake_soon.")]) == 1


# -- what is not ---------------------------------------------------------------------------------------


def test_an_unknown_source_is_not_found_whatever_it_sends() -> None:
    client = Client()
    assert client.post("/hooks/nobody", BODY, content_type="application/json").status_code == 404
    assert client.get("/hooks/nobody?challenge=abc").status_code == 404


@pytest.mark.parametrize("source", ["billing", "jobs", "calls", "site", "open"])
def test_without_a_signature_or_a_secret_nothing_is_taken(source: str) -> None:
    kind = "application/json"
    assert Client().post(f"/hooks/{source}", BODY, content_type=kind).status_code == 401
    Credential.objects.all().delete()
    store.forget()
    headers = {**proof_for(source, BODY), "X-Signature": digest("", BODY)}
    assert Client().post(f"/hooks/{source}", BODY, content_type=kind, headers=headers).status_code == 401
    assert not Delivery.objects.exists()


def test_a_secret_that_cannot_be_opened_is_our_trouble_and_not_the_senders(settings: Settings) -> None:
    settings.VAULT_KEYS = ["other:" + "B" * 43 + "="]
    store.forget()
    answer = post("calls")
    assert answer.status_code == 503
    assert b"credential" not in answer.content


@pytest.mark.parametrize("late", [-301, 330])
def test_what_was_signed_long_ago_or_later_is_refused(late: float) -> None:
    headers = standard(BODY, late=late)
    assert (
        Client().post("/hooks/billing", BODY, content_type="application/json", headers=headers).status_code
        == 401
    )


@effort(max_examples=150, deadline=None)
@given(
    source=st.sampled_from(["billing", "jobs", "calls", "site"]),
    raw=st.binary(max_size=300) | st.just(BODY),
    proof=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=90),
    stamp=st.sampled_from(["0", "9" * 400, "nan", "1e9", "\xb2"]) | st.integers().map(str),
    kind=st.sampled_from(["application/json", "", "application/x-www-form-urlencoded"]),
)
def test_whatever_is_forged_makes_no_row_and_no_error(
    source: str, raw: bytes, proof: str, stamp: str, kind: str
) -> None:
    client = Client(raise_request_exception=True)
    answer = client.post(
        f"/hooks/{source}",
        raw,
        content_type=kind,
        headers={
            "webhook-id": proof,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{proof}",
            "X-Hub-Signature-256": f"sha256={proof}",
            "X-Signature": proof,
            "Authorization": f"Bearer {proof}",
        },
    )
    assert answer.status_code in (401, 411, 415)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b" ",
        b"{",
        b"[1, 2]",
        b'"text"',
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\u0000"}',
        b'{"\\ud800": 1}',
        b'{"a": "x\x00y"}',
        b'{"a": "\\udfff\\ud83d"}',
        b'{"a":' * 60 + b"1" + b"}" * 60,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": [' + b"1," * 60_000 + b"1]}",
    ],
    ids=range(16),
)
def test_a_body_that_is_no_json_we_take_is_refused_after_its_signature(raw: bytes) -> None:
    assert post("calls", raw).status_code == 400
    assert Client().post("/hooks/calls", raw, content_type="application/json").status_code == 401
    assert not Delivery.objects.exists()


def test_an_emoji_written_as_two_escapes_is_taken() -> None:
    assert post("calls", b'{"event": "call_ended", "note": "\\ud83d\\ude00"}').status_code == 202


@pytest.mark.parametrize(("size", "code"), [(1_000_000, 202), (1_000_001, 413)])
def test_a_body_has_at_most_a_million_bytes(size: int, code: int) -> None:
    raw = b'{"event": "job.completed", "x": "' + b"x" * (size - 35) + b'"}'
    assert len(raw) == size
    assert post("calls", raw).status_code == code
    assert Delivery.objects.count() == (code == 202)


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "deflate, gzip"])
def test_a_packed_body_is_refused_before_it_is_unpacked(coding: str) -> None:
    assert post("calls", Content_Encoding=coding).status_code == 415


@pytest.mark.parametrize(
    ("source", "kind", "code"),
    [
        ("calls", "application/json; charset=utf-8", 202),
        ("calls", "application/vnd.firm+json", 202),
        ("calls", "text/plain", 202),
        ("calls", "text/html", 415),
        ("calls", "application/x-www-form-urlencoded", 415),
        ("calls", "multipart/form-data; boundary=x", 415),
        ("site", "text/plain", 415),
    ],
)
def test_a_source_sends_what_its_reader_reads(source: str, kind: str, code: int) -> None:
    assert post(source, kind=kind).status_code == code


@pytest.mark.parametrize("id_", ["x" * 201, "é" * 90 + "\x85"])
def test_an_id_that_is_none_is_refused(id_: str) -> None:
    raw = BODY
    headers = standard(raw, id_)
    answer = Client().post("/hooks/billing", raw, content_type="application/json", headers=headers)
    assert answer.status_code in (400, 401)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("method", ["put", "patch", "delete", "options", "head"])
def test_other_methods_are_refused_and_told_which_there_are(method: str) -> None:
    answer = getattr(Client(), method)("/hooks/calls")
    assert (answer.status_code, answer["Allow"]) == (405, "GET, POST")


# -- the challenge -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["challenge", "hub.challenge"])
def test_a_challenge_is_said_back_as_plain_text(name: str) -> None:
    answer = Client().get("/hooks/calls", {name: "a1-B2_c3"})
    assert (answer.status_code, answer.content, answer["Content-Type"]) == (
        200, b"a1-B2_c3", "text/plain; charset=utf-8",
    )  # fmt: skip
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("asked", ["", "<script>", "a b", "x" * 201, "é", "a\nb"])
def test_a_challenge_is_short_and_plain_or_it_is_refused(asked: str) -> None:
    answer = Client().get("/hooks/calls", {"challenge": asked})
    assert answer.status_code == 400
    assert asked.encode() not in answer.content or not asked


# -- afterwards ----------------------------------------------------------------------------------------


def starts() -> None:
    """Publish a SOP that `job.completed` starts."""
    rest = {"handler": "flow.wait", "with": {"duration": "1 day"}}
    inputs = {"job_id": {"type": "string"}, "note": {"type": "string"}}
    published(rest, trigger={"event": "job.completed"}, inputs=inputs)


def test_what_a_delivery_tells_is_done_and_its_body_is_gone() -> None:
    starts()
    post()
    assert deliveries.process() == 1
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.body, delivery.attempts, delivery.wake_at) == (
        "processed",
        None,
        1,
        None,
    )
    assert delivery.headers == {
        "type": "application/json", "event": "job.completed", "about": {"job_id": "j-7"}, "at": "",
    }  # fmt: skip
    assert Task.objects.get().context == {"job_id": "j-7"}
    assert CANARY not in everything()
    assert deliveries.process() == 0


def test_three_deliveries_of_one_event_start_one_run() -> None:
    starts()
    for number in range(3):
        body = {"event": "job.completed", "id": "e-1", "sent": number, "data": {"job_id": "j-7", "note": ""}}
        post(raw=json.dumps(body).encode())
    assert Delivery.objects.count() == 3
    assert deliveries.process() == 3
    assert Task.objects.count() == 1


def test_the_sweep_and_a_drain_by_hand_process_what_waits() -> None:
    starts()
    post()
    call_command("engine", "sweep", "--force")
    assert Delivery.objects.get().state == "processed"
    post(raw=BODY + b" ")
    call_command("engine", "drain")
    assert set(Delivery.objects.values_list("state", flat=True)) == {"processed"}
    assert Task.objects.count() == 2


class Stubborn(Reader):
    """Reads nothing until it is told what to do."""

    takes = frozenset({"application/json"})
    acts: Callable[[Received], Sequence[Event]]

    def read(self, received: Received) -> Sequence[Event]:
        return type(self).acts(received)


@pytest.fixture
def stubborn(settings: Settings) -> Iterator[type[Stubborn]]:
    readers.register("stubborn")(Stubborn)
    settings.HOOKS = {**HOOKS, "calls": ("hmac", "stubborn")}
    yield Stubborn
    readers.remove("stubborn")


def fails(error: Exception) -> Callable[[Received], Sequence[Event]]:
    def read(received: Received) -> Sequence[Event]:
        raise error

    return read


def let_its_hour_come() -> None:
    Delivery.objects.filter(wake_at__isnull=False).update(wake_at=clock.now())


@pytest.mark.parametrize("error", [Transient("away"), RuntimeError(CANARY), KeyError(CANARY)])
def test_what_fails_is_tried_again_later_and_at_last_told_to_staff(
    stubborn: type[Stubborn], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn.acts = staticmethod(fails(error))
    post()
    for wait in deliveries.WAITS:
        let_its_hour_come()
        before = clock.now()
        assert deliveries.process() == 0
        delivery = Delivery.objects.get()
        assert (delivery.state, delivery.reason) == (
            "received",
            getattr(error, "reason", type(error).__name__),
        )
        assert delivery.wake_at is not None
        assert wait <= delivery.wake_at - before < wait + timedelta(minutes=5)
    let_its_hour_come()
    deliveries.process()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("failed", 6)
    assert delivery.body is not None
    assert Notification.objects.get().severity == "error"
    assert CANARY not in everything() + caplog.text


def test_a_body_that_says_no_event_fails_at_once_and_is_told_once() -> None:
    post(raw=b'{"hello": 1}')
    post(raw=b'{"hello": 2}')
    assert deliveries.process() == 0
    assert {(row.state, row.reason, row.attempts) for row in Delivery.objects.all()} == {
        ("failed", "no_event", 1)
    }


def test_a_failed_delivery_is_processed_anew_once_its_cause_is_gone(stubborn: type[Stubborn]) -> None:
    starts()
    post()
    stubborn.acts = staticmethod(fails(LookupError("gone")))
    deliveries.process()
    assert Delivery.objects.get().state == "failed"
    stubborn.acts = staticmethod(
        lambda received: [Event("job.completed", "e-1", json.loads(received.body)["data"], "calls")]
    )
    call_command("engine", "reprocess")
    assert deliveries.process() == 1
    assert Task.objects.count() == 1


def test_one_broken_delivery_does_not_hold_up_the_others() -> None:
    starts()
    post(raw=b'{"hello": 1}')
    post()
    assert deliveries.process() == 1
    assert Task.objects.count() == 1


def test_what_a_dead_worker_had_taken_is_taken_again_and_counted(stubborn: type[Stubborn]) -> None:
    post()
    delivery = Delivery.objects.get()
    assert inbox.claim(delivery, timedelta(minutes=2))
    assert deliveries.process() == 0, "its lease has not run out"
    for _ in range(6):
        let_its_hour_come()
        delivery = Delivery.objects.get()
        assert inbox.claim(delivery, timedelta(minutes=2))
    let_its_hour_come()
    assert deliveries.process() == 0
    delivery.refresh_from_db()
    assert (delivery.state, delivery.reason) == ("failed", "worker_lost")


def test_two_processes_do_what_a_delivery_tells_once(stubborn: type[Stubborn]) -> None:
    """The second one reads it while the first one is at it, its lease being over."""
    starts()
    post()
    events = [Event("job.completed", "e-1", {"job_id": "j-7", "note": ""}, "calls")]
    nested: list[int] = []

    def slowly(received: Received) -> Sequence[Event]:
        stubborn.acts = staticmethod(lambda _: events)
        let_its_hour_come()
        nested.append(deliveries.process())
        return [Event("job.completed", "e-2", {"job_id": "j-8", "note": ""}, "calls")]

    stubborn.acts = staticmethod(slowly)
    deliveries.process()
    assert nested == [1]
    assert [task.context["job_id"] for task in Task.objects.all()] == ["j-7"]


def test_a_claim_is_taken_by_one_of_two(caplog: pytest.LogCaptureFixture) -> None:
    post()
    first, second = Delivery.objects.get(), Delivery.objects.get()
    assert inbox.claim(first, timedelta(minutes=1))
    assert not inbox.claim(second, timedelta(minutes=1))


def test_nothing_of_a_delivery_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    starts()
    post()
    post(raw=BODY.replace(b"job.completed", b"No Event"))
    post("billing", BODY + b" ", webhook_signature="v1,forged")
    deliveries.process()
    engine.drain()
    assert CANARY not in caplog.text
    assert "forged" not in caplog.text


def test_a_source_that_is_no_longer_known_fails_with_a_reason(settings: Settings) -> None:
    post()
    settings.HOOKS = {}
    deliveries.process()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.reason) == ("failed", "no_reader")


# -- what is shipped -----------------------------------------------------------------------------------


def shipped(slug: str) -> SopVersion:
    file = next(path for path in definition.shipped() if path.stem == slug)
    return definition.publish(definition.save_rows(definition.read_file(file)))


def test_a_mail_that_is_delivered_three_times_starts_one_run_of_the_shipped_sop(settings: Settings) -> None:
    settings.HOOKS = {**HOOKS, "calls": ("hmac", "mail")}
    version = shipped("new-lead-response")
    mail = f"From: Ann <{CANARY}>\r\nTo: office@example.test\r\nMessage-ID: <m-1@x>\r\n\r\nPlease come.\r\n"
    for relay in ("one", "two", "three"):
        raw = f"Received: from {relay}.example.test\r\n{mail}".encode()
        assert post("calls", raw, "message/rfc822").status_code == 202
    assert deliveries.process() == 3
    assert Task.objects.get().version == version
    assert not Notification.objects.exists(), "no input was missing"
    assert CANARY not in everything()


def test_a_mail_that_two_sources_deliver_starts_one_run_and_somebody_elses_another(
    settings: Settings,
) -> None:
    """The same address may be read by two services, and anybody may use anybody's Message-ID."""
    settings.HOOKS = {**HOOKS, "calls": ("hmac", "mail"), "billing": ("standard", "mail")}
    version = shipped("new-lead-response")
    told = {"to": "office@example.test", "message_id": "<m-1@x>", "text": "Please come."}
    for source, sender in (("calls", CANARY), ("billing", f"Ann <{CANARY.title()}>")):
        raw = json.dumps({**told, "from": sender}).encode()
        assert post(source, raw).status_code == 202
    assert deliveries.process() == 2
    assert Task.objects.get().version == version
    post("calls", json.dumps({**told, "from": "mallory@example.test"}).encode())
    deliveries.process()
    assert Task.objects.count() == 2
    assert CANARY not in everything()


# -- what nobody could use -----------------------------------------------------------------------------


def test_what_a_procedure_cannot_begin_with_is_kept_and_processed_anew_when_it_can() -> None:
    rest = {"handler": "flow.wait", "with": {"duration": "1 day"}}
    first = published(
        rest,
        slug="first",
        trigger={"event": "job.completed"},
        inputs={"job_id": {"type": "string"}, "hours": {"type": "integer"}},
    )
    second = published(
        rest, slug="second", trigger={"event": "job.completed"}, inputs={"job_id": {"type": "string"}}
    )
    post()
    deliveries.process()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.reason, delivery.headers["event"]) == (
        "failed",
        "not_started",
        "job.completed",
    )
    assert inbox.body_of(delivery) == BODY
    assert Task.objects.get().version == second
    assert Notification.objects.get().kind == "escalation"

    right = {**first.definition, "inputs": {"job_id": {"type": "string"}}}
    first.sop.published = SopVersion.objects.create(
        sop=first.sop, number=2, definition=right, published_at=clock.now()
    )
    first.sop.save()
    assert inbox.reprocess() == 1
    deliveries.process()
    assert sorted(Task.objects.values_list("version__sop__slug", flat=True)) == ["first", "second"]
    assert Delivery.objects.get().body is None


def test_words_that_nobody_listens_to_are_kept_and_told_each_day(settings: Settings) -> None:
    settings.HOOKS = {**HOOKS, "calls": ("hmac", "mail")}
    for number in range(3):
        mail = f"From: Ann <{CANARY}>\r\nMessage-ID: <m-{number}@x>\r\n\r\nThe cellar is under water.\r\n"
        post("calls", mail.encode(), "message/rfc822")
    deliveries.process()
    assert set(Delivery.objects.values_list("state", "reason")) == {("failed", "nobody_listens")}
    told = Notification.objects.get()
    assert told.severity == "warning"

    version = shipped("new-lead-response")
    assert inbox.reprocess() == 3
    deliveries.process()
    assert [task.version for task in Task.objects.all()] == [version] * 3
    assert CANARY not in everything()


def test_an_event_for_which_there_is_no_procedure_is_told_once_and_forgotten() -> None:
    for number in range(3):
        body = {"event": "job_completed", "id": f"e-{number}", "data": {"job_id": "j-7", "note": CANARY}}
        post(raw=json.dumps(body).encode())
    deliveries.process()
    assert set(Delivery.objects.values_list("state", "body")) == {("processed", None)}
    assert Notification.objects.count() == 1


def test_an_event_that_waits_for_no_run_at_the_moment_is_no_surprise() -> None:
    rest = {"handler": "flow.wait", "with": {"duration": "1 day", "event": "job.completed"}}
    published(rest, inputs={"job_id": {"type": "string"}})
    post()
    assert deliveries.process() == 1
    assert Delivery.objects.get().state == "processed"
    assert not Notification.objects.exists()


def test_a_mail_that_is_nested_too_deeply_fails_at_once_and_is_told(settings: Settings) -> None:
    settings.HOOKS = {**HOOKS, "calls": ("hmac", "mail")}
    deep = f"From: Ann <{CANARY}>\r\n{'Content-Type: message/rfc822' + chr(13) + chr(10) * 2}".encode() * 1500
    assert post("calls", deep, "message/rfc822").status_code == 202
    assert deliveries.process() == 0
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.reason, delivery.attempts) == ("failed", "too_deep", 1)
    assert Notification.objects.get().kind == "escalation"
    assert CANARY not in everything()


def test_a_form_that_is_nested_too_deeply_is_refused_and_not_stored() -> None:
    deep = b"".join(
        b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (level, level + 1)
        for level in range(5)
    )
    assert post("site", deep, "multipart/form-data; boundary=b0").status_code == 400
    assert not Delivery.objects.exists()


def test_a_call_that_is_told_three_times_starts_one_run_of_the_shipped_sop() -> None:
    version = shipped("after-call")
    call = {
        "call_id": "c-7",
        "from_number": "+16125550134",
        "duration_seconds": 192,
        "summary": "Wants mowing",
    }
    for body in (
        {"event": "call_ended", **call},
        {"event": "call_ended", "attempt": 2, "data": call},
        {"event": "call_ended", "attempt": 3, "call": call},
    ):
        post("calls", json.dumps(body).encode())
    assert deliveries.process() == 3
    assert Task.objects.get().version == version
    assert not Notification.objects.exists(), "no input was missing"
    assert "16125550134" not in everything()


# -- the admin -----------------------------------------------------------------------------------------


def test_staff_see_where_deliveries_stand_and_process_anew_what_failed() -> None:
    starts()
    post()
    post(raw=b'{"hello": 1}')
    deliveries.process()
    page = "/admin/sopengine/delivery/"
    clerk, boss = person("clerk", "view_delivery"), person("boss", "view_delivery", "operate_task")
    text = seen(boss.get(page))
    assert "job.completed" in text
    assert "no_event" in text
    assert CANARY not in text
    failed = Delivery.objects.get(state="failed")
    assert CANARY not in seen(boss.get(f"{page}{failed.pk}/change/"))
    chosen = {"action": "process_anew", "_selected_action": [str(row.pk) for row in Delivery.objects.all()]}
    clerk.post(page, chosen)
    assert Delivery.objects.filter(state="failed").count() == 1
    assert "1 are processed anew. 1 are not" in seen(boss.post(page, chosen, follow=True))
    failed.refresh_from_db()
    assert (failed.state, failed.attempts) == ("received", 0)


def test_what_failed_is_counted_for_monitors_and_on_today(settings: Settings) -> None:
    settings.METRICS_TOKEN = "token"
    for number, state in enumerate(("failed", "failed", "received", "processed")):
        Delivery.objects.create(
            source="jobs", external_id=str(number), body_hash="", state=state, received_at=clock.now()
        )
    figures = Client().get("/metrics", headers={"Authorization": "Bearer token"}).content.decode()
    assert "sop_deliveries_failed 2" in figures
    owner = person("owner", "view_delivery")
    today = owner.get("/admin/")
    told = '?state__exact=failed" class="sp-figure sp-bad"><b>2</b> webhooks not processed'
    assert told in seen(today)
    assert not overview().calm
    listed = owner.get("/admin/sopengine/delivery/?state__exact=failed").context["cl"].queryset
    assert listed.count() == 2


def test_nobody_adds_changes_or_deletes_a_delivery() -> None:
    post()
    boss = person("boss", "view_delivery", "add_delivery", "change_delivery", "delete_delivery")
    number = Delivery.objects.get().pk
    page = f"/admin/sopengine/delivery/{number}"
    assert boss.get("/admin/sopengine/delivery/add/").status_code == 403
    assert boss.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    boss.post(f"{page}/change/", {"state": "processed"})
    assert Delivery.objects.get().state == "received"


def test_old_deliveries_are_pruned_unless_they_still_wait() -> None:
    post()
    deliveries.process()
    post(raw=BODY + b" ")
    long_ago = clock.now() - timedelta(days=91)
    Delivery.objects.update(received_at=long_ago)
    call_command("engine", "prune", "--dry-run")
    assert Delivery.objects.count() == 2
    call_command("engine", "prune")
    assert Delivery.objects.get().state == "received"
    post(raw=BODY + b"  ")
    deliveries.process()
    call_command("engine", "prune")
    assert Delivery.objects.filter(state="processed").exists(), "what is not old stays"
