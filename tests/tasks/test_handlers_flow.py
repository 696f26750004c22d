"""Laws of the steps that decide where a run goes and when, and of the one that tells staff."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from credentials import vault
from sopengine.errors import DataError
from tasks import engine
from tasks.models import Notification, TaskEvent
from tasks.outcome import Branch, Child, Done, Notice, Outcome, Start, Wait, handlers
from tests.tasks.runs import Probe, begun, fresh, published
from tests.tasks.steps import NOW, TASK, run, step_run

CONTEXT = {"find": {"found": False, "do_not_contact": True}, "season": 2027}
RULES = [
    {"when": {"field": "find.found", "op": "is_false"}, "to": "complete", "result": "customer_gone"},
    {"when": {"field": "find.do_not_contact", "op": "is_true"}, "to": "complete", "result": "skipped"},
]


def branch(context: dict[str, Any], **params: Any) -> Outcome:
    return run("flow.branch", step_run(context=context), **params)


def test_the_first_rule_that_holds_decides_with_its_result() -> None:
    assert branch(CONTEXT, rules=RULES) == Branch(to="complete", result="customer_gone")


def test_the_default_is_taken_when_no_rule_holds() -> None:
    context = {"find": {"found": True, "do_not_contact": False}}

    assert branch(context, rules=RULES) == Branch(to="next")
    assert branch(context, rules=RULES, default="call", result="hot") == Branch(to="call", result="hot")


def test_rules_may_ask_for_all_or_any() -> None:
    both = {"all": [rule["when"] for rule in RULES]}

    assert branch(CONTEXT, rules=[{"when": both, "to": "call"}]) == Branch(to="call")


def test_a_rule_about_a_name_that_is_not_there_is_an_error_not_a_no() -> None:
    with pytest.raises(DataError, match=r"'find\.colour' is not set"):
        branch(CONTEXT, rules=[{"when": {"field": "find.colour", "op": "is_true"}, "to": "call"}])


def test_a_rule_may_say_why_as_a_code() -> None:
    rules = [{**RULES[1], "why": "do_not_contact"}]

    assert branch(CONTEXT, rules=rules) == Branch(to="complete", result="skipped", why="do_not_contact")


@pytest.mark.parametrize(
    "rule",
    [
        {"when": {"field": "season", "op": "is about", "value": 1}, "to": "call"},
        {"when": {"field": "season", "op": "is_true"}},
        {"when": {"field": "season", "op": "is_true"}, "to": "call", "colour": "red"},
    ],
)
def test_an_ill_formed_rule_is_refused_by_the_schema(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        branch(CONTEXT, rules=[rule])


# -- wait ----------------------------------------------------------------------------------------


def test_a_duration_counts_from_the_begin_of_the_step() -> None:
    assert run("flow.wait", step_run(), duration="5 days") == Wait(until=NOW + timedelta(days=5))


@pytest.mark.parametrize(
    ("until", "moment"),
    [
        ("2027-03-01T09:00:00+00:00", datetime(2027, 3, 1, 9, tzinfo=UTC)),
        ("2027-03-01T09:00", datetime(2027, 3, 1, 15, tzinfo=UTC)),  # Chicago, winter
        ("2027-07-01", datetime(2027, 7, 1, 5, tzinfo=UTC)),  # Chicago, summer
    ],
)
def test_a_moment_without_a_zone_is_one_of_the_business(until: str, moment: datetime) -> None:
    assert run("flow.wait", step_run(), until=until) == Wait(until=moment)


@pytest.mark.parametrize(
    ("params", "end"),
    [
        # It is Monday 15 February, 9:00 in Chicago; the clocks change on 14 March.
        ({"duration": "30 days"}, datetime(2027, 3, 17, 14, tzinfo=UTC)),
        ({"duration": "720h"}, datetime(2027, 3, 17, 15, tzinfo=UTC)),
        ({"duration": "5 working days"}, datetime(2027, 2, 22, 15, tzinfo=UTC)),
        ({"until": "2027-03-14T12:00", "before": "24h"}, datetime(2027, 3, 13, 17, tzinfo=UTC)),
        ({"until": "2027-03-14T12:00", "before": "1 day"}, datetime(2027, 3, 13, 18, tzinfo=UTC)),
        ({"duration": "5 days", "window": "business"}, datetime(2027, 2, 22, 15, tzinfo=UTC)),
        ({"duration": "1h", "window": "business"}, datetime(2027, 2, 15, 16, tzinfo=UTC)),
        ({"until": "2027-03-13T20:00", "window": "business"}, datetime(2027, 3, 15, 14, tzinfo=UTC)),
    ],
)
def test_days_keep_the_wall_clock_and_a_window_moves_the_end_to_its_opening(
    params: dict[str, Any], end: datetime
) -> None:
    assert run("flow.wait", step_run(), **params) == Wait(until=end)


def test_a_wait_ends_on_no_day_off() -> None:
    closed = step_run(days_off={date(2027, 2, 22): "Own day"})
    outcome = run("flow.wait", closed, duration="5 days", window="business")
    assert outcome == Wait(until=datetime(2027, 2, 23, 15, tzinfo=UTC))


def test_days_count_from_the_moment_that_is_said() -> None:
    outcome = run("flow.wait", step_run(), duration="3 days", since="2027-02-10T16:00:00-06:00")

    assert outcome == Wait(until=datetime(2027, 2, 13, 22, 0, tzinfo=UTC))
    with pytest.raises(DataError, match="since says from when"):
        run("flow.wait", step_run(), until="2027-02-20", since="2027-02-10")
    with pytest.raises(DataError, match="since is no date"):
        run("flow.wait", step_run(), duration="3 days", since="lately")


def test_an_event_has_a_deadline() -> None:
    assert run("flow.wait", step_run(), event="reply", duration="2h") == Wait(
        until=NOW + timedelta(hours=2), event="reply"
    )


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"event": "reply"},
        {"duration": "1h", "until": "2027-03-01"},
        {"until": "some day"},
        {"duration": "1h", "before": "1h"},
    ],
)
def test_a_wait_without_one_clear_end_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        run("flow.wait", step_run(), **params)


def test_an_unreadable_duration_is_refused_before_any_run() -> None:
    with pytest.raises(ValidationError):
        run("flow.wait", step_run(), duration="a while")


# -- what a run's errors repeat --------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("handler", "params"),
    [
        ("flow.start", {"sop": "kid", "inputs": {"age": "{{ customer_name }}"}}),
        ("flow.start", {"sop": "kid", "inputs": {"born": "{{ customer_name }}"}}),
        ("flow.wait", {"duration": "{{ customer_name }}"}),
        ("flow.wait", {"until": "{{ customer_name }}"}),
        ("crm.for_each", {"over": "customers", "sop": "kid", "group_by": "{{ customer_name }}"}),
        ("message.draft", {"template": "{{ customer_name }}"}),
        (
            "human.ask",
            {
                "question": "?",
                "options": [{"key": "{{ customer_name }}", "label": "x", "outcome": "approve"}] * 2,
            },
        ),
    ],
)
def test_no_customer_value_is_in_the_chat_or_the_history_of_a_run_that_parks_on_it(
    probe: Probe, handler: str, params: dict[str, Any], caplog: pytest.LogCaptureFixture, crm_customer: str
) -> None:
    published(
        "probe.pure",
        slug="kid",
        inputs={n: {"type": t, "required": False} for n, t in (("age", "integer"), ("born", "date"))},
    )
    probe.told["s1"] = lambda _: Done(values={"customer_name": "Ann Canary"})
    task = begun(published("probe.pure", {"handler": handler, "with": params}))

    engine.drain()

    assert (fresh(task).status, fresh(task).step) == ("paused", "s2")
    told = [_text(row) for row in Notification.objects.all()]
    assert told
    assert "Canary" not in f"{told} {list(TaskEvent.objects.values())} {caplog.text}"


def _text(row: Notification) -> str:
    return str(vault.unseal(str(row.sealed), table="tasks_notification", row=str(row.pk), field="sealed"))


# -- start ---------------------------------------------------------------------------------------


def test_a_run_of_another_procedure_is_started_once_per_visit() -> None:
    assert run("flow.start", step_run(), sop="quote", inputs={"crm_customer_id": "cus_1"}) == Start(
        [Child("quote", {"crm_customer_id": "cus_1"}, f"{TASK}:this:1:quote")]
    )


def test_once_per_makes_a_run_unique_for_ever() -> None:
    outcome = run("flow.start", step_run(), sop="quote", once_per="cus_1-2027", wait=False)

    assert outcome == Start([Child("quote", {}, "quote:cus_1-2027")], wait=False)


# -- chat ----------------------------------------------------------------------------------------


def test_the_filters_of_a_campaign_hold_for_what_its_runs_start() -> None:
    outcome = run("flow.start", step_run(filters={"status": "past"}), sop="follow-up", wait=False)

    assert isinstance(outcome, Start)
    assert [child.filters for child in outcome.children] == [{"status": "past"}]


def test_an_error_is_for_the_channel_of_escalations() -> None:
    for severity, channel in (
        ("error", "#escalations"),
        ("critical", "#escalations"),
        ("warning", "#office"),
    ):
        outcome = run("chat.post", step_run(), text="Look!", severity=severity)
        assert isinstance(outcome, Done)
        assert [notice.channel for notice in outcome.notify] == [channel]
    outcome = run("chat.post", step_run(), text="Look!", severity="error", channel="#owner")
    assert isinstance(outcome, Done)
    assert [notice.channel for notice in outcome.notify] == ["#owner"]


def test_a_message_to_staff_travels_in_the_outcome_once_per_visit() -> None:
    outcome = run("chat.post", step_run(), text="5 sent")

    assert outcome == Done(notify=(Notice("5 sent", "#office", "info", f"{TASK}:this:1:post"),))


def test_a_message_to_staff_goes_where_it_says() -> None:
    outcome = run("chat.post", step_run(), text="Look!", channel="#owner", severity="warning")

    assert isinstance(outcome, Done)
    assert (outcome.notify[0].channel, outcome.notify[0].severity) == ("#owner", "warning")


def test_an_empty_message_to_staff_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to post"):
        run("chat.post", step_run(), text=" ")


@pytest.mark.parametrize("name", ["flow.branch", "flow.wait", "flow.start", "chat.post", "message.draft"])
def test_what_calls_nobody_needs_no_thread(name: str) -> None:
    assert not handlers.get(name).calls
