"""Laws of a run's story: each event is a sentence, and none says more than ids and codes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from tasks import engine, timeline
from tasks.models import Approval, Task, TaskEvent
from tasks.timeline import Names, headline, line_of, next_action, sentences
from tests.tasks.office import asking
from tests.tasks.runs import begun, fresh, published

AT = datetime(2026, 2, 16, 15, 12, tzinfo=UTC)  # 09:12 in Chicago
NAMES = Names({"send": "Send the mail"}, {"3": "Ana"}, {("q1", "approve"): "Send as is"})

TOLD = {
    "created": ({"by": "3"}, "The run was started by Ana."),
    "claimed": ({}, "A worker took the run."),
    "started": ({}, "“Send the mail” began."),
    "step_done": ({"result": "sent", "next": "note"}, "“Send the mail” is done: sent; “note” is next."),
    "step_failed": (
        {"code": "auth"},
        "“Send the mail” did not work: the other system does not accept our login.",
    ),
    "retry_later": (
        {"code": "transient", "wait": 2.0},
        "“Send the mail” did not work: the other system did not answer. It is tried again in 2 s.",
    ),
    "asked": ({"approval": "q1"}, "“Send the mail” asked a person."),
    "answered": (
        {"approval": "q1", "choice": "approve", "by": 3},
        "“Send the mail” was answered by Ana: Send as is.",
    ),
    "reminded": ({}, "A reminder went out: “Send the mail” has no answer yet."),
    "escalated": ({}, "Somebody else was told: “Send the mail” has no answer yet."),
    "expired": ({"then": "decline"}, "Nobody answered “Send the mail” in time: nothing is sent."),
    "voided": (
        {"event": "job.paid", "approval": "q1"},
        "“job paid” happened; the question of “Send the mail” was withdrawn.",
    ),
    "waiting": ({"event": "reply"}, "“Send the mail” waits for “reply”."),
    "woke": ({"event": "reply"}, "“reply” happened; the wait is over."),
    "continued": ({"page": 2, "count": 100}, "“Send the mail” listed page 2 with 100 runs."),
    "children_started": ({"count": 1}, "“Send the mail” finished its list and let its runs begin."),
    "children_done": (
        {"total": 3, "sent": 2, "declined": 1},
        "All runs that “Send the mail” started are over: 2 sent, 1 declined.",
    ),
    "found": ({}, "An earlier try had done “Send the mail” already; it was not done twice."),
    "outdated": (
        {"code": "address_changed"},
        "“Send the mail” did not go out: the customer's address has changed since a person approved. "
        "A person is asked again.",
    ),
    "branched": ({"to": "complete"}, "“Send the mail” chose the way to the end."),
    "held": (
        {"code": "rate_limited", "wait": 60},
        "“Send the mail” waits for 1 min: the other system asked us to slow down.",
    ),
    "parked": (
        {"code": "data"},
        "Stopped at “Send the mail” for a person: a value is not what was expected.",
    ),
    "unknown": ({"code": "deadline"}, "It is not known whether “Send the mail” went out: it took too long."),
    "paused": ({"by": 3}, "Paused by Ana."),
    "looks_again": ({}, "Time has passed before “Send the mail”; what it rests on is looked at again."),
    "resumed": ({"by": 3}, "Resumed by Ana."),
    "cancelled": ({"by": 3, "result": "cancelled"}, "Cancelled by Ana."),
    "completed": ({"result": "declined"}, "The run is over: declined, nothing was sent."),
    "failed": (
        {"code": "quarantined"},
        "The run failed at “Send the mail”: three workers stopped while doing this step.",
    ),
    "quarantined": (
        {"crashes": 3},
        "Three workers stopped while doing “Send the mail”; the run is set aside.",
    ),
    "retried": ({"by": 3}, "“Send the mail” is tried again by Ana."),
    "handed_back": ({"why": "stopping"}, "A worker gave the run back without having begun “Send the mail”."),
    "crm_called": (
        {"op": "customers.find", "status": 200, "ms": 12},
        "CRM: customers find answered 200 in 12 ms.",
    ),
    "released": ({}, "The list is complete; the run may begin."),
    "scrubbed": ({}, "The customer details of this run were removed."),
    "ignored": ({"signal": "answer", "why": "paused"}, "“answer” changed nothing: paused by staff."),
    "late": ({}, "“Send the mail” answered after all, before anybody had decided; the answer counts."),
    "reread": ({}, "The customer was read again before the retry."),
    "freed": ({}, "The wait for the other side is over; “Send the mail” is tried again."),
    "rested": ({}, "A worker looked at the run and found nothing to do yet."),
    "moved": (
        {"until": "2026-02-23T15:00:00+00:00", "why": "window"},
        "“Send the mail” waits: next sending window Mon 23 Feb 09:00 CST.",
    ),
    "opened": ({}, "“Send the mail” may go out now."),
    "paced": ({"wait": 4.0}, "“Send the mail” waits 4 s for its turn: only so many may be done in a time."),
}


def event(kind: str, data: dict[str, Any], step: str = "send") -> TaskEvent:
    return TaskEvent(seq=1, kind=kind, step=step, status="running", at=AT, data=data)


@pytest.mark.parametrize("kind", sorted(TOLD))
def test_each_kind_of_event_is_a_sentence(kind: str) -> None:
    data, sentence = TOLD[kind]
    assert line_of(event(kind, data), NAMES).text == sentence


def test_every_kind_that_is_told_is_in_the_table_above() -> None:
    assert set(TOLD) == timeline.KINDS


def test_a_kind_that_nobody_knows_still_reads_well() -> None:
    line = line_of(event("sky_fell", {"by": 3, "depth": 4}), NAMES)
    assert (line.text, line.detail) == ("Sky fell at “Send the mail” by Ana.", "depth 4")


def test_a_code_that_nobody_knows_is_told_in_its_own_words() -> None:
    assert "no such luck" in line_of(event("step_failed", {"code": "no_such_luck"}), NAMES).text


def test_what_the_sentence_leaves_out_stands_in_the_detail() -> None:
    assert (
        line_of(event("retry_later", {"code": "transient", "wait": 2, "retry": 1}), NAMES).detail == "retry 1"
    )


def test_technical_events_are_folded_under_the_sentence_before_them() -> None:
    kinds = ["created", "claimed", "crm_called", "step_done", "completed"]
    entries = timeline.fold(line_of(event(kind, {}), NAMES) for kind in kinds)
    assert [(entry.line.kind, len(entry.details)) for entry in entries] == [
        ("created", 2),
        ("step_done", 0),
        ("completed", 0),
    ]


def test_a_long_silence_is_named_and_a_short_one_is_not() -> None:
    lines = [line_of(event("step_done", {}), NAMES)]
    lines += [timeline.Line(AT + timedelta(days=3), "x", "", "woke", "info")]
    lines += [timeline.Line(AT + timedelta(days=3, minutes=5), "x", "", "step_done", "info")]
    assert [entry.gap for entry in timeline.fold(lines)] == ["", "3 days later", ""]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (45, "45 s"),
        (60, "1 min"),
        (7200, "2 h"),
        (59.9, "59 s"),
        (119.9, "2 min"),
        (3_599.9, "1 h"),
        (7_199.9, "2 h"),
        (86_399.9, "1 day"),
        (86_369, "23 h"),
        (86_400, "1 day"),
        (2 * 86_400 - 0.05, "2 days"),
        (3 * 86_400, "3 days"),
        (-5, "0 s"),
    ],
)
def test_a_length_of_time_is_told_in_its_largest_unit(seconds: float, told: str) -> None:
    assert timeline.span(seconds) == told


def test_times_are_told_in_the_zone_of_the_business(settings: Any) -> None:
    settings.TIME_ZONE = "America/Chicago"
    assert timeline.moment(AT, AT) == "09:12 CST"
    assert timeline.moment(AT, AT + timedelta(days=1)) == "Mon 16 Feb 09:12 CST"
    assert timeline.moment(AT, AT + timedelta(days=365)) == "Mon 16 Feb 2026 09:12 CST"


# -- where a run stands ----------------------------------------------------------------------------


def task(**values: Any) -> Task:
    return Task(**{"status": "waiting", "step": "send", "progress": {}, **values})


def test_the_headline_of_a_question_says_since_when_and_what_happens_to_it(settings: Any) -> None:
    settings.TIME_ZONE = "America/Chicago"
    plan = [
        [(AT + timedelta(hours=2)).isoformat(), "remind"],
        [(AT + timedelta(hours=48)).isoformat(), "expire"],
    ]
    waits = task(
        waiting_for="approval:q1", progress={"wait": {"approval": "q1", "plan": plan, "then": "decline"}}
    )
    now = AT + timedelta(hours=1)
    assert headline(waits, AT, now) == (
        "Waiting for someone to answer since 09:12 CST (1 h); reminder at 11:12 CST; "
        "nobody answering means it is not sent."
    )
    assert next_action(waits, now) == (
        "Next, at 11:12 CST a reminder goes out, then at Wed 18 Feb 09:12 CST the question closes."
    )


@pytest.mark.django_db  # it asks how the CRM stands
@pytest.mark.parametrize(
    ("values", "stands", "comes"),
    [
        ({"status": "paused", "reason": "paused"}, "Paused by staff", "until a person decides"),
        ({"status": "paused", "reason": "data"}, "A person must decide", "until a person decides"),
        ({"waiting_for": "children"}, "Waiting for the runs it started", "the last run it started"),
        ({"waiting_for": "provider:crm"}, "Waiting for the CRM since", "by itself"),
        (
            {"waiting_for": "event", "progress": {"wait": {"event": "reply"}}},
            "Waiting for “reply”",
            "by itself",
        ),
        ({"status": "failed", "reason": "auth"}, "Failed at", "Nothing happens by itself"),
        ({"status": "completed", "result": "sent"}, "Done at", "this run is over"),
        ({"status": "cancelled", "result": "cancelled"}, "Cancelled at", "this run is over"),
        ({"status": "running"}, "Running since", "A worker is doing the step now"),
        ({"status": "ready"}, "Ready since", "as soon as a worker is free"),
        ({"status": "ready", "retries": 1, "wake_at": AT + timedelta(hours=1)}, "Ready since", "tried again"),
    ],
)
def test_each_state_says_where_the_run_stands_and_what_comes(
    values: dict[str, Any], stands: str, comes: str
) -> None:
    assert stands in headline(task(**values), AT, AT)
    assert comes in next_action(task(**values), AT)


# -- over real runs --------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_story_of_an_answered_question_names_the_person_and_the_choice() -> None:
    ana = User.objects.create_superuser("ana", first_name="Ana")
    question = asking()[0]
    Approval.objects.filter(pk=question.pk).update(state="answered", choice="approve", answered_by=ana)
    engine.signal([question.task_id], "answer", approval=str(question.pk))
    engine.drain()
    texts = [line.text for line in sentences(fresh(question.task))]
    assert "“Ask first” was answered by Ana: Send as is." in texts
    assert texts[-1] == "The run is over: done."


@pytest.mark.django_db
def test_the_engine_writes_no_event_that_the_story_does_not_know() -> None:
    begun(published({"handler": "chat.post", "with": {"text": "{{ nobody }}"}}))  # its step fails
    asking(2)
    engine.drain()
    assert TaskEvent.objects.filter(kind="parked").exists()
    assert set(TaskEvent.objects.values_list("kind", flat=True)) <= timeline.KINDS
