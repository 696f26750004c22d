"""The failure table: every way a CRM misbehaves, through a real run against a real server, to its end.

Each row says what the server does and what must come of it: how many calls, with which pauses between
them (by the moved clock), where the run and the line stand, who is told, and what the story says.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from credentials import vault
from crm import breaker, health
from crm.mock.contract import Contract
from crm.mock.state import MockState
from sopengine import clock
from tasks import approvals, engine, notices, timeline
from tasks.models import Approval, Notification, Task
from tasks.sweep import sweep
from tests.crm import shapes  # noqa: F401 - the second shape registers itself
from tests.crm.rogue import Rogue, playing
from tests.crm.shapes import shaped  # noqa: F401
from tests.crm.shapes.answers import Shape
from tests.length import AT_FULL_LENGTH
from tests.tasks.runs import begun, check_invariants, fresh, published
from tests.tasks.test_recheck import offer

pytestmark = pytest.mark.django_db(transaction=True)  # handlers' threads note how the line stands

BERTA = {"rest": "cus_0002", "shaped": "2"}


@dataclass
class Crm:
    """One CRM in its shape: the server that misbehaves, the state behind it, and a clock to move."""

    shape: str
    rogue: Rogue
    state: MockState
    settings: Settings

    @property
    def berta(self) -> str:
        return BERTA[self.shape]

    def move(self, seconds: float) -> None:
        self.settings.CLOCK_OFFSET = self.settings.CLOCK_OFFSET + seconds
        health.forget()

    def run_out(self, task: Task, rounds: int = 12) -> Task:
        """Drain, and let each hour come, until the run is over or has no hour."""
        for _ in range(rounds):
            engine.drain()
            row = fresh(task)
            if (
                row.wake_at is None
                or row.status not in ("ready", "waiting")
                or row.waiting_for.startswith("app")
            ):
                return row
            self.move(max(0.0, (row.wake_at - clock.now()).total_seconds()) + 0.01)
        return fresh(task)

    def pauses(self) -> list[float]:
        """Return the seconds between one call and the next."""
        times = [seen.at for seen in self.rogue.requests]
        return [(after - before).total_seconds() for before, after in pairwise(times)]


@pytest.fixture(params=["rest", pytest.param("shaped", marks=AT_FULL_LENGTH)])
def crm(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Crm]:
    state = MockState()
    answers = {"rest": Contract(state), "shaped": Shape(state)}[request.param]
    with Rogue(playing(answers)) as rogue:  # type: ignore[arg-type]
        settings.CRM_PROVIDER = request.param
        settings.CRM_BASE_URL = rogue.url
        settings.CRM_API_KEY = "probe-key"
        settings.CRM_API_KEY_HEADER = {"rest": "Authorization: Bearer", "shaped": "X-Api-Key"}[request.param]
        settings.ENGINE_CALL_TIMEOUT = 5.0
        yield Crm(request.param, rogue, state, settings)


def finding(crm: Crm, **line: Any) -> Task:
    """Start a run that reads Berta, and then says what it read."""
    read = {"handler": "crm.find", "with": {"customer_id": crm.berta}, **line}
    tell = {"handler": "chat.post", "with": {"text": "found: {{ s1.found }}"}}
    return begun(published(read, tell))


def story(task: Task) -> str:
    return "\n".join(line.text for line in timeline.sentences(task))


def told() -> list[str]:
    """Return what staff were told, by the ends of the names that keep it from being told twice."""
    names = Notification.objects.filter(kind="escalation").values_list("dedupe", flat=True)
    return sorted(str(name).partition(":")[0] + ":" + str(name).rpartition(":")[2] for name in names)


# -- no answer: three retries after 2, 4 and 8 s, then the run is held and the line silent -----------------

Deed = Callable[[Rogue], None]


def does(name: str, *arguments: Any) -> Deed:
    return lambda rogue: rogue.does(name, *arguments)


NO_ANSWER = {
    "time-out": (does("silence"), "timeout", "did not answer in time"),
    "drips": (does("drip", 0.1), "timeout", "did not answer in time"),
    "closes at once": (does("hang_up"), "dropped", "broke the connection"),
    "resets": (does("reset"), "dropped", "broke the connection"),
    "dropped in the head": (does("break_headers"), "dropped", "broke the connection"),
    "dropped in the body": (does("break_body"), "dropped", "broke the connection"),
    "500": (does("status", 500), "http_500", "http 500"),
    "502": (does("status", 502), "http_502", "http 502"),
    "503": (does("status", 503), "http_503", "http 503"),
    "504 with a page": (does("status", 504, {"content-type": "text/html"}, "<p>"), "http_504", "http 504"),
}


@pytest.mark.parametrize(("deed", "code", "words"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_without_an_answer_four_calls_are_made_and_the_run_is_held(
    crm: Crm, deed: Deed, code: str, words: str
) -> None:
    deed(crm.rogue)
    if code == "timeout":
        crm.settings.ENGINE_CALL_TIMEOUT = 0.3
    task = crm.run_out(finding(crm))
    assert len(crm.rogue.requests) == 4
    for pause, least in zip(crm.pauses(), (2, 4, 8), strict=True):
        assert least <= pause < least * 1.25 + 5
    assert (task.status, task.waiting_for, task.reason) == ("waiting", "provider:crm", code)
    assert (task.retries, task.crashes, task.wake_at) == (0, 0, None)
    assert health.standing(fresh=True).state == breaker.SILENT
    assert words in story(task)
    sweep(force=True)
    sweep(force=True)
    assert told() == ["line:silent"]
    crm.rogue.behaves()
    crm.settings.ENGINE_CALL_TIMEOUT = 5.0
    crm.move(40)
    sweep(force=True)
    task = crm.run_out(task)
    assert task.status == "completed"
    assert told() == ["line:answers", "line:silent"]
    check_invariants()


def test_a_refused_connection_is_tried_four_times_too(crm: Crm) -> None:
    task = finding(crm)
    with crm.rogue.away():
        task = crm.run_out(task)
    assert crm.rogue.requests == []
    retries = task.events.filter(kind="retry_later", data__code="unreachable")
    assert [round(event.data["wait"]) in range(w, w + 3) for event, w in zip(retries, (2, 4, 8), strict=True)]
    assert (task.waiting_for, task.reason) == ("provider:crm", "unreachable")
    assert task.events.filter(kind="crm_called").count() == 4


def test_while_the_line_is_silent_nobody_else_calls(crm: Crm) -> None:
    crm.rogue.does("status", 500)
    crm.run_out(finding(crm))
    others = [finding(crm) for _ in range(20)]
    engine.drain()
    assert len(crm.rogue.requests) == 4
    assert {fresh(task).waiting_for for task in others} == {"provider:crm"}
    for _ in range(5):
        sweep(force=True)
    assert len(crm.rogue.requests) == 4  # not before the time of the probe
    crm.move(31)
    for _ in range(5):
        sweep(force=True)
    assert len(crm.rogue.requests) == 5  # and then one


@pytest.mark.parametrize(
    ("on_failure", "status", "reason"),
    [("escalate", "paused", "http_500"), ("fail", "failed", "http_500"), ("s2", "completed", "")],
)
def test_an_explicit_on_failure_is_followed(crm: Crm, on_failure: str, status: str, reason: str) -> None:
    crm.rogue.does("status", 500)
    read = {"handler": "crm.find", "with": {"customer_id": crm.berta}, "on_failure": on_failure}
    task = crm.run_out(begun(published(read, {"handler": "chat.post", "with": {"text": "on"}})))
    assert (task.status, task.reason) == (status, reason)
    assert len(crm.rogue.requests) == 4


# -- answers that say no -----------------------------------------------------------------------------------


def test_404_is_no_error_and_the_procedure_can_branch_on_it(crm: Crm) -> None:
    crm.rogue.does("status", 404)
    task = crm.run_out(finding(crm))
    assert task.status == "completed"
    assert len(crm.rogue.requests) == 1
    called = task.events.get(kind="crm_called")
    assert called.data["status"] == "not_found"
    (line,) = [one for one in timeline.sentences(task) if one.kind == "crm_called"]
    assert (line.severity, line.quiet) == ("warning", False)
    assert not task.events.filter(kind__in=["step_failed", "retry_later"]).exists()
    assert told() == []


def test_401_is_never_repeated_and_holds_all_until_there_is_another_key(crm: Crm) -> None:
    crm.rogue.does("status", 401)
    task = crm.run_out(finding(crm))
    assert len(crm.rogue.requests) == 1
    assert (task.waiting_for, task.reason, task.wake_at) == ("provider:crm", "auth", None)
    other = crm.run_out(finding(crm))
    for _ in range(3):
        crm.move(2_000)
        sweep(force=True)
    assert len(crm.rogue.requests) == 1
    assert told() == ["line:refused"]
    crm.rogue.behaves()
    crm.settings.CRM_API_KEY = "another-key"
    sweep(force=True)
    assert crm.run_out(task).status == "completed"
    assert crm.run_out(other).status == "completed"


def test_403_stops_the_one_run_for_a_person(crm: Crm) -> None:
    crm.rogue.does("status", 403, times=1)
    task = crm.run_out(finding(crm))
    assert (task.status, task.reason) == ("paused", "forbidden")
    assert "does not allow this" in story(task)
    assert len(crm.rogue.requests) == 1
    assert crm.run_out(finding(crm)).status == "completed"


def test_of_what_is_not_allowed_one_run_speaks_for_all(crm: Crm) -> None:
    crm.rogue.does("status", 403)
    tasks = [crm.run_out(finding(crm)) for _ in range(5)]
    assert {task.reason for task in tasks} == {"forbidden"}
    folds = Notification.objects.filter(kind="escalation").values_list("fold", flat=True)
    assert set(folds) == {"forbidden:crm"}


def does_once(rogue: Rogue, headers: Mapping[str, str]) -> None:
    rogue.does("status", 429, headers, times=1)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "7"}, 7, 9),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30, 32),
        ({}, 60, 62),
        ({"retry-after": "soon"}, 60, 62),
        ({"retry-after": "99999999"}, 3600, 3602),
        ({"retry-after": "-5"}, 1, 3),
        ({"retry-after": "0"}, 1, 3),
    ],
    ids=["seconds", "date", "absent", "nonsense", "absurd", "negative", "zero"],
)
def test_429_is_obeyed_and_costs_no_retry(
    crm: Crm, headers: Mapping[str, str], least: float, most: float
) -> None:
    does_once(crm.rogue, headers)
    first = finding(crm)
    engine.drain()
    second = finding(crm)
    assert crm.run_out(first).status == "completed"
    assert crm.run_out(second).status == "completed"
    assert least <= crm.pauses()[0] < most
    assert len(crm.rogue.requests) == 3
    assert not first.events.filter(kind="retry_later").exists()
    assert told() == []


def test_a_redirect_is_not_followed(crm: Crm) -> None:
    with Rogue() as elsewhere:
        crm.rogue.does("redirect", f"{elsewhere.url}/x")
        task = crm.run_out(finding(crm))
        assert elsewhere.requests == []
    assert (task.status, task.reason) == ("paused", "redirect")
    assert len(crm.rogue.requests) == 1


# -- answers that are not what was promised ------------------------------------------------------------------

MALFORMED = {
    "HTML": does("html"),
    "HTML said to be JSON": does("html", "application/json"),
    "nothing": does("empty"),
    "half of it": does("truncated"),
    "another value": does("value", [1, 2, 3]),
    "null": does("value", None),
    "wrong types": does("wrong_types"),
    "no id": does("no_field", "id"),
    "no name": does("no_field", "name", "full_name"),
    "a list for an object": does("no_list"),
    "NaN": does("nan"),
    "too deep": does("too_deep"),
    "too many values": does("too_many"),
    "too large": does("huge"),
    "a bomb": does("bomb"),
    "not packed at all": does("bad_coding"),
    "no UTF-8": does("bad_utf8"),
    "a very long number": does("big_number"),
}


@pytest.mark.parametrize("deed", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_as_promised_stops_the_run_after_one_call_and_changes_nothing(
    crm: Crm, deed: Deed
) -> None:
    deed(crm.rogue)
    task = finding(crm)
    before = fresh(task).context
    task = crm.run_out(task)
    assert (task.status, task.step) == ("paused", "s1")
    assert task.context == before
    assert len(crm.rogue.requests) == 1
    assert told() == [f"park:{task.seq}"]
    assert health.standing(fresh=True).state == breaker.ANSWERS
    assert "Berta" not in story(task)


def test_a_list_that_is_no_list_starts_nobody(crm: Crm) -> None:
    child = published({"handler": "chat.post", "with": {"text": "x"}}, inputs={"crm_customer_id": {}})
    listing = {"handler": "crm.for_each", "with": {"status": "past", "sop": child.sop.slug}}
    crm.rogue.does("no_list")
    task = crm.run_out(begun(published(listing)))
    assert task.status == "paused"
    assert not Task.objects.filter(version=child).exists()


def test_a_record_without_a_required_field_names_it(crm: Crm) -> None:
    crm.rogue.does("no_field", "name", "full_name")
    task = crm.run_out(finding(crm))
    row = Notification.objects.get(task=task, kind="escalation")
    text = vault.unseal(row.sealed or "", table=notices.TABLE, row=str(row.pk), field="sealed")["text"]
    assert "name" in text


# -- written there, and the answer lost on its way -----------------------------------------------------------


def noting(crm: Crm) -> Task:
    return begun(published({"handler": "crm.note", "with": {"customer_id": crm.berta, "text": "Called."}}))


def notes(crm: Crm) -> int:
    return crm.state.query("notes", {"customer_id": "cus_0002"}, 1, 100)[1]


def test_a_write_whose_answer_was_lost_is_found_by_its_key_and_the_story_says_so(crm: Crm) -> None:
    crm.rogue.does("break_body", on="POST ", times=1, applied=True)
    before = notes(crm)
    task = crm.run_out(noting(crm))
    assert (task.status, notes(crm)) == ("completed", before + 1)
    keys = {seen.headers["idempotency-key"] for seen in crm.rogue.seen("POST ")}
    assert len(keys) == 1
    assert "An earlier try had done" in story(task)


def test_a_crm_that_ignores_keys_is_looked_into_before_a_repeat(crm: Crm) -> None:
    crm.settings.CRM_IDEMPOTENCY_HOURS = 0
    crm.rogue.answer = playing({"rest": Contract, "shaped": Shape}[crm.shape](crm.state, ignore_keys=True))  # type: ignore[arg-type]
    crm.rogue.does("break_body", on="POST ", times=1, applied=True)
    before = notes(crm)
    task = crm.run_out(noting(crm))
    assert (task.status, notes(crm)) == ("completed", before + 1)
    assert len(crm.rogue.seen("POST ")) == 1
    assert "An earlier try had done" in story(task)


def test_two_records_that_could_be_it_are_for_a_person(crm: Crm) -> None:
    crm.settings.CRM_IDEMPOTENCY_HOURS = 0
    crm.rogue.answer = playing({"rest": Contract, "shaped": Shape}[crm.shape](crm.state, ignore_keys=True))  # type: ignore[arg-type]
    zora = {"name": "Zora Zeller", "status": "lead", "email": "zora@example.com"}
    crm.state.create("customers", zora, "by-hand")
    crm.rogue.does("break_body", on="POST ", times=1, applied=True)
    task = crm.run_out(begun(published({"handler": "crm.create", "with": {"attributes": zora}})))
    assert (task.status, task.reason) == ("paused", "outcome_unknown")
    assert Approval.objects.filter(task=task, state="open").count() == 1
    assert len(crm.rogue.seen("POST ")) == 1


def test_a_write_that_answers_409_for_ever_holds_nobody_else(crm: Crm) -> None:
    crm.rogue.does("status", 409, on="POST ")
    crm.run_out(noting(crm), rounds=4)
    assert health.standing(fresh=True).state == breaker.ANSWERS
    assert crm.run_out(finding(crm)).status == "completed"


# -- asked once more before a mail leaves --------------------------------------------------------------------


@pytest.fixture
def letters(crm: Crm, settings: Settings, tmp_path: Path) -> Callable[[], int]:
    """Return a function that counts the mails that left."""
    settings.EMAIL_FOLDER = str(tmp_path)
    return lambda: len(list(tmp_path.glob("*.eml")))


def approved(crm: Crm, count: int = 1) -> list[Task]:
    """Return runs whose mail a person has approved, and which have it to send next."""
    version = offer("service")  # of marketing, one customer gets one mail
    tasks = [begun(version, {"crm_customer_id": crm.berta}) for _ in range(count)]
    engine.drain()
    for question in Approval.objects.filter(state="open"):
        approvals.answer(question.pk, "approve", by=None)
    return tasks


@pytest.mark.parametrize("deed", [("status", 503), ("silence",), ("break_body",), ("hang_up",)], ids=str)
def test_a_mail_that_never_left_is_tried_again_and_put_before_nobody(
    crm: Crm, letters: Callable[[], int], deed: tuple[Any, ...]
) -> None:
    (task,) = approved(crm)
    crm.settings.ENGINE_CALL_TIMEOUT = 0.3
    crm.rogue.does(*deed, times=1)
    task = crm.run_out(task)
    assert (task.status, task.result, letters()) == ("completed", "sent", 1)
    assert told() == []


def test_a_mail_whose_customer_cannot_be_read_stops_for_that_reason(
    crm: Crm, letters: Callable[[], int]
) -> None:
    (task,) = approved(crm)
    crm.rogue.does("html", times=1)
    task = crm.run_out(task)
    assert (task.status, task.reason, letters()) == ("paused", "not_json", 0)
    assert not Approval.objects.filter(state="open").exists()


def test_thirty_approved_mails_wait_for_a_crm_that_is_away_and_then_all_leave(
    crm: Crm, letters: Callable[[], int]
) -> None:
    tasks = approved(crm, 30)
    crm.rogue.does("status", 503)
    for _ in range(4):
        engine.drain()
        crm.move(20)
        sweep(force=True)
    assert {fresh(task).waiting_for for task in tasks} == {"provider:crm"}
    assert (letters(), told()) == (0, ["line:silent"])
    crm.rogue.behaves()
    for _ in range(6):
        crm.move(900)
        sweep(force=True)
        engine.drain()
    assert {fresh(task).result for task in tasks} == {"sent"}
    assert letters() == 30
