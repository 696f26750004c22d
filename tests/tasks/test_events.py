"""Laws of events: which runs they start, which they reach, and that twice is once."""

import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django import Settings

from sopengine import inbox
from tasks import deliveries, engine, events, plan, timeline
from tasks.events import Event
from tasks.models import Notification, Sop, SopVersion, Task, TaskEvent
from tasks.schedules import schedule_in_words
from tests.tasks.office import person, seen
from tests.tasks.runs import begun, fresh, kinds, published

pytestmark = pytest.mark.django_db

CANARY = "Canary Ann"
WAITS: dict[str, Any] = {"handler": "flow.wait", "with": {"event": "job.completed", "duration": "5 days"}}
RESTS: dict[str, Any] = {"handler": "flow.wait", "with": {"duration": "5 days"}}
INPUTS = {"job_id": {"type": "string"}, "note": {"type": "string", "required": False}}
NOON = datetime(2027, 4, 6, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _firm(settings: Settings) -> None:
    settings.HOOKS = {"firm": ("standard", "json")}


def waiting_for(name: str, **inputs: str) -> Task:
    """Return a run that waits for the event and knows these ids."""
    step = {"handler": "flow.wait", "with": {"event": name, "duration": "5 days"}}
    version = published(step, inputs={key: {"type": "string"} for key in inputs})
    task = begun(version, inputs)
    engine.drain()
    return task


def starts_by(event: Any = "job.completed", **more: Any) -> SopVersion:
    """Return the version of a SOP that this event starts."""
    trigger = {"event": event, **more.pop("trigger", {})}
    return published(more.pop("step", RESTS), trigger=trigger, inputs=more.pop("inputs", INPUTS), **more)


def told(name: str = "job.completed", id_: str = "e-1", **data: Any) -> Event:
    """Return an event from the firm's own CRM."""
    return Event(name, id_, data or {"job_id": "j-7"}, "firm")


def receive(event: Event) -> int:
    return events.receive(event).runs


# -- what it starts ----------------------------------------------------------------------------------


def test_an_event_starts_a_run_with_the_inputs_that_it_names() -> None:
    starts_by()
    assert receive(told(job_id="j-7", note=CANARY, other="dropped")) == 1
    task = Task.objects.get()
    assert task.context == {"job_id": "j-7"}, "the id is open and nothing else"
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM tasks_task")
        assert CANARY not in repr(cursor.fetchall())
    created = TaskEvent.objects.get(task=task, seq=1)
    assert created.data["by"] == "event:job.completed"


def test_the_same_event_twice_starts_one_run_and_another_id_another() -> None:
    starts_by()
    assert [receive(told(id_=id_)) for id_ in ("e-1", "e-1", "e-2")] == [1, 0, 1]
    assert Task.objects.count() == 2


def test_the_same_id_of_another_source_is_another_event() -> None:
    starts_by()
    receive(told())
    assert receive(Event("job.completed", "e-1", {"job_id": "j-7"}, "other")) == 1


def test_once_per_says_what_is_the_same_whatever_the_id() -> None:
    starts_by(trigger={"once_per": "{{ job_id }}"})
    assert receive(told(id_="e-1", job_id="j-7")) == 1
    assert receive(told(id_="e-2", job_id="j-7")) == 0
    assert receive(told(id_="e-3", job_id="j-8")) == 1


def test_once_per_with_an_empty_value_falls_back_on_the_event() -> None:
    starts_by(trigger={"once_per": "{{ note }}"})
    assert [receive(told(id_=id_)) for id_ in ("e-1", "e-2", "e-2")] == [1, 1, 0]


def test_a_trigger_may_list_names_and_name_a_source() -> None:
    version = starts_by(["job.completed", "job.closed"], trigger={"source": "firm"})
    assert receive(told("job.closed")) == 1
    assert receive(told("job.opened", "e-2")) == 0
    assert receive(Event("job.closed", "e-3", {"job_id": "j-9"}, "stranger")) == 0
    assert Task.objects.filter(version=version).count() == 1


def test_every_sop_that_names_the_event_starts() -> None:
    starts_by()
    starts_by()
    assert receive(told()) == 2


@pytest.mark.parametrize("state", [Sop.State.DISABLED, Sop.State.DRAFT])
def test_a_sop_that_is_not_active_starts_nothing(state: str) -> None:
    version = starts_by()
    Sop.objects.filter(pk=version.sop_id).update(state=state)
    assert receive(told()) == 0
    assert not Task.objects.exists()


@pytest.mark.parametrize("data", [{"note": CANARY}, {"job_id": [CANARY]}, {"job_id": True, "note": CANARY}])
def test_an_event_that_lacks_an_input_is_told_to_staff_once_and_hinders_nobody(data: dict[str, Any]) -> None:
    starts_by()
    other = published(RESTS, trigger={"event": "job.completed"})
    event = Event("job.completed", "e-1", data, "firm")
    assert [receive(event), receive(event)] == [1, 0]
    assert Task.objects.get().version == other
    notice = Notification.objects.get()
    assert (notice.kind, notice.severity) == ("escalation", "error")
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM tasks_notification")
        assert CANARY not in repr(cursor.fetchall())


def test_a_number_fills_a_text_and_a_list_a_list() -> None:
    starts_by(inputs={"job_id": {"type": "string"}, "services": {"type": "list"}})
    assert receive(told(job_id=7, services=["mowing"])) == 1
    assert Task.objects.get().context == {"job_id": "7"}


@pytest.mark.parametrize(
    ("name", "value", "is_open"),
    [
        ("job_id", "j-7", True),
        ("job_id", "0b5c7a52-6d2e-4f0a-9d5f-3a4a2f6f0c11", True),
        ("job_id", "5554000000123456789", True),
        ("caller_id", "6125550134", False),
        ("caller_id", "612-555-0134", False),
        ("owner_id", "ann@example.test", False),
        ("owner_id", "Ann Adams", False),
        ("customer_id", "c-1", False),
        ("job_number", "j-7", False),
        ("job_id", "x" * 81, False),
    ],
)
def test_only_an_id_by_name_and_looks_is_kept_readable(name: str, value: str, is_open: bool) -> None:
    starts_by(inputs={name: {"type": "string"}})
    receive(told(**{name: value}))
    assert (name in Task.objects.get().context) == is_open


# -- what it reaches -----------------------------------------------------------------------------------


def test_an_event_wakes_the_run_that_is_about_the_same() -> None:
    mine = waiting_for("quote.sent", quote_id="q-1")
    other = waiting_for("quote.sent", quote_id="q-2")
    assert receive(told("quote.sent", quote_id="q-1", crm_customer_id="c-9")) == 1
    engine.drain()
    assert (fresh(mine).status, fresh(other).status) == ("completed", "waiting")


def test_every_id_that_both_know_must_be_the_same() -> None:
    mine = waiting_for("quote.sent", quote_id="q-1", crm_customer_id="c-1")
    assert receive(told("quote.sent", quote_id="q-2", crm_customer_id="c-1")) == 0
    assert receive(told("quote.sent", quote_id="q-1", crm_customer_id="c-2")) == 0
    assert receive(told("quote.sent", crm_customer_id="c-1")) == 1
    engine.drain()
    assert fresh(mine).status == "completed"


def test_an_id_that_is_a_number_here_and_a_text_there_is_the_same() -> None:
    step = {"handler": "flow.wait", "with": {"event": "quote.sent", "duration": "5 days"}}
    task = begun(published(step, inputs={"quote_id": {"type": "integer"}}), {"quote_id": 7})
    engine.drain()
    assert receive(told("quote.sent", quote_id="7")) == 1
    assert receive(told("quote.sent", quote_id=7)) == 1
    engine.drain()
    assert fresh(task).status == "completed"


@pytest.mark.parametrize(
    "event",
    [
        told("quote.lost", quote_id="q-1"),
        told("quote.sent", note="q-1"),
        told("quote.sent", quote_id=""),
        told("quote.sent", quote_id=None),
        told("quote.sent", quote_id__contains_id="q"),
        told("quote.sent", **{"quote__id": "q-1", "Quote_id": "q-1", "'; --_id": "q-1"}),
    ],
    ids=["another name", "no id", "empty", "none", "a lookup", "odd names"],
)
def test_an_event_about_nothing_that_a_run_knows_reaches_nobody(event: Event) -> None:
    waiting_for("quote.sent", quote_id="q-1")
    assert receive(event) == 0


def test_a_run_whose_sop_does_not_listen_is_left_alone() -> None:
    task = waiting_for("quote.lost", quote_id="q-1")
    seq = fresh(task).seq
    assert receive(told("quote.sent", quote_id="q-1")) == 0
    assert (fresh(task).seq, fresh(task).mailbox) == (seq, [])


def test_a_question_that_is_void_on_an_event_is_listened_for() -> None:
    sop = published(
        {"handler": "human.ask", "with": {"question": "?", "void_on": ["replied", "invoice.paid"]}}
    ).definition
    step = sop["steps"][0]
    assert step["with"]["void_on"] == ["replied", "invoice.paid"]
    listened = events.listened(plan.definition_of(SopVersion.objects.get().pk))
    assert listened == {"replied", "invoice.paid"}


def test_an_event_may_come_before_the_wait_that_wants_it() -> None:
    version = published(
        {"handler": "flow.wait", "with": {"duration": "1 day"}}, WAITS, inputs={"job_id": {"type": "string"}}
    )
    task = begun(version, {"job_id": "j-7"})
    engine.drain()
    assert receive(told(job_id="j-7")) == 1
    engine.drain()
    assert fresh(task).progress["events"] == ["job.completed"]


def test_an_event_for_one_run_goes_to_that_run_only() -> None:
    mine, other = waiting_for("replied", quote_id="q-1"), waiting_for("replied", quote_id="q-1")
    assert receive(Event("replied", "m-1", task=mine.pk)) == 1
    engine.drain()
    assert (fresh(mine).status, fresh(other).status) == ("completed", "waiting")


def test_an_answer_to_the_mail_of_a_run_that_is_over_reaches_the_follow_up_it_began() -> None:
    follows = published(
        {"handler": "flow.wait", "with": {"event": "replied", "duration": "5 days"}},
        slug="follow-up",
    )
    first = published({"handler": "flow.start", "with": {"sop": "follow-up", "wait": False}})
    task = begun(first)
    engine.drain()
    assert fresh(task).status == "completed"
    assert receive(Event("replied", "m-1", task=task.pk)) == 1
    engine.drain()
    assert Task.objects.get(version=follows).status == "completed"


def test_an_event_for_a_run_that_is_over_or_was_never_reaches_nobody() -> None:
    mine = waiting_for("replied", quote_id="q-1")
    engine.signal([mine.pk], "cancel")
    engine.drain()
    assert receive(Event("replied", "m-1", task=mine.pk)) == 0
    assert receive(Event("replied", "m-2", task=uuid4())) == 0


def test_the_run_that_an_event_starts_does_not_hear_it_as_well() -> None:
    starts_by(step=WAITS)
    assert [receive(told()), receive(told())] == [1, 0]
    engine.drain()
    task = Task.objects.get()
    assert (task.status, task.progress.get("events")) == ("waiting", None)


# -- in which order it comes ---------------------------------------------------------------------------


def test_an_event_that_is_older_than_the_start_of_a_run_tells_it_nothing() -> None:
    listens = {"handler": "flow.wait", "with": {"event": "job.cancelled", "duration": "5 days"}}
    published(listens, trigger={"event": "job.booked"}, inputs=INPUTS)
    receive(Event("job.booked", "e-1", {"job_id": "j-7"}, "firm", at=NOON))
    late = Event("job.cancelled", "e-2", {"job_id": "j-7"}, "firm", at=NOON - timedelta(hours=1))
    assert receive(late) == 0
    assert receive(Event("job.cancelled", "e-3", {"job_id": "j-7"}, "firm", at=NOON)) == 1


def told_by_webhook(name: str, id_: str, at: int, **data: str) -> None:
    body = {"event": name, "event_id": id_, "timestamp": (NOON + timedelta(minutes=at)).isoformat()}
    inbox.store(
        "firm", id_, json.dumps({**body, "data": data}).encode(), headers={"type": "application/json"}
    )
    assert deliveries.process() == 1


# What happens to one appointment: (event, minute); a booking that was cancelled may be made anew.
STORY = (("booked", 0), ("cancelled", 10), ("booked", 20), ("moved", 25), ("booked", 30), ("cancelled", 40))


def ends(order: list[tuple[str, int]], job: str) -> Mapping[int, tuple[str, str | None]]:
    """Tell the story in this order; return how the run of each booking stands, by its minute."""
    listens = {"handler": "flow.wait", "with": {"event": "job.cancelled", "duration": "5 days"}}
    version = published(listens, trigger={"event": "job.booked"}, inputs=INPUTS)
    for name, at in order:
        told_by_webhook(f"job.{name}", f"{job}-{name}-{at}", at, job_id=job)
    engine.drain()
    Sop.objects.filter(pk=version.sop_id).update(state=Sop.State.DISABLED)
    found = {}
    for task in Task.objects.filter(version=version):
        happened = TaskEvent.objects.get(task=task, seq=1).data["at"]
        minute = round((datetime.fromisoformat(happened) - NOON).total_seconds() / 60)
        found[minute] = (task.status, task.context.get("s1", {}).get("event"))
    return found


@effort(max_examples=25, deadline=None)
@given(order=st.permutations(STORY))
def test_whatever_the_order_in_which_events_come_the_runs_end_as_if_in_order(
    order: list[tuple[str, int]],
) -> None:
    in_order = ends(list(STORY), f"a-{uuid4().hex[:8]}")
    assert in_order[0] == ("completed", "job.cancelled")
    assert ends(order, f"b-{uuid4().hex[:8]}") == in_order


def test_a_hundred_events_in_any_order_leave_what_they_leave_in_order() -> None:
    stories = [(name, at, job) for job in range(17) for name, at in STORY][:100]
    listens = {"handler": "flow.wait", "with": {"event": "job.cancelled", "duration": "5 days"}}
    results = []
    for shuffled in (False, True):
        version = published(listens, trigger={"event": "job.booked"}, inputs=INPUTS)
        if shuffled:
            random.Random(7).shuffle(stories)
        for name, at, job in stories:
            told_by_webhook(f"job.{name}", f"{shuffled}-{job}-{name}-{at}", at, job_id=f"{shuffled}-{job}")
        engine.drain()
        Sop.objects.filter(pk=version.sop_id).update(state=Sop.State.DISABLED)
        found = []
        for task in Task.objects.filter(version=version):
            started = TaskEvent.objects.get(task=task, seq=1).data["at"]
            found.append((task.context["job_id"].split("-")[1], started, task.status))
        results.append(sorted(found))
    assert results[0] == results[1]
    assert len(results[0]) == sum(name == "booked" for name, _, _ in stories)


def test_what_a_run_was_told_is_in_its_story() -> None:
    task = waiting_for("quote.sent", quote_id="q-1")
    receive(told("quote.sent", quote_id="q-1"))
    engine.drain()
    assert "woke" in kinds(task)
    story = " ".join(line.text for line in timeline.sentences(task))
    assert "“quote sent” happened" in story


def test_how_a_run_began_and_when_its_sop_starts_are_told_in_words() -> None:
    version = starts_by(["job.completed", "job.closed"], trigger={"source": "crm"})
    receive(Event("job.closed", "e-1", {"job_id": "j-7"}, "crm", at=NOON))
    first = timeline.sentences(Task.objects.get())[0]
    assert (first.text, first.detail) == ("The run was started by the event “job.closed”.", "")
    trigger = version.definition["trigger"]
    assert schedule_in_words(trigger) == "On “job.completed” or “job.closed” from crm"
    both = {**trigger, "schedule": "0 9 * * MON"}
    assert schedule_in_words(both) == "Each Monday at 09:00; also on “job.completed” or “job.closed” from crm"
    assert schedule_in_words({}) == "Only when a person or another SOP starts it"


def test_the_list_and_the_editor_of_sops_tell_the_event() -> None:
    version = starts_by()
    boss = person("boss", "view_sop", "change_sop")
    assert "On “job.completed”" in seen(boss.get("/admin/tasks/sop/"))
    Sop.objects.filter(pk=version.sop_id).update(trigger=version.definition["trigger"])
    page = f"/admin/tasks/sop/{version.sop_id}/change/"
    assert "On “job.completed”" in seen(boss.get(page))
    schedule = {
        "schedule": "0 9 * * MON",
        "timezone": "America/Chicago",
        "overlap": "skip",
        "catch_up": "once",
    }
    assert boss.post(f"/admin/tasks/sop/{version.sop_id}/schedule/", schedule).status_code == 302
    kept = Sop.objects.get(pk=version.sop_id).trigger
    assert (kept["event"], kept["schedule"]) == ("job.completed", "0 9 * * MON")
