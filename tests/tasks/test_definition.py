"""Laws of SOP definitions: read with places, checked as a whole, written without loss, published for good."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from sopengine import clock
from tasks import conditions, definition
from tasks.definition import DefinitionError, Problem, SopDef, StepDef
from tasks.definition.check import findings
from tasks.definition.yamlfile import load
from tasks.models import Sop, SopVersion, Task
from tasks.outcome import (
    AfterRest,
    Aside,
    Branch,
    Decision,
    Done,
    MessageName,
    MoreNames,
    Open,
    Outcome,
    RawTemplate,
    RowTemplate,
    StepRun,
    Target,
    handler,
    handlers,
)

# -- the handlers of these tests -------------------------------------------------------------------


class Letter(BaseModel):
    to: str
    customer_name: str
    pages: Open[int]


class Rule(BaseModel):
    when: conditions.Condition
    to: Target


class Button(BaseModel):
    label: str
    outcome: Decision


def read(step: StepRun, *, customer: str = "") -> Outcome:
    """Read a customer."""
    return Done()


def write(
    step: StepRun,
    *,
    template: MessageName = "",
    text: RawTemplate = "",
    values: MoreNames | None = None,
    copies: Annotated[int, Field(ge=1, le=9)] = 1,
    tone: Literal["warm", "plain"] = "warm",
    tags: list[str] | None = None,
) -> Outcome:
    """Write a letter."""
    return Done()


def ask(
    step: StepRun,
    *,
    buttons: Sequence[Button] = (),
    then: str = "decline",
    expired_to: Aside | None = None,
) -> Outcome:
    """Ask a person."""
    return Done()


def send(step: StepRun, *, letter: str, purpose: str) -> Outcome:
    """Send a letter."""
    return Done()


def show(step: StepRun, *, draft: Letter | None = None, buttons: Sequence[Button] = ()) -> Outcome:
    """Ask a person about a draft."""
    return Done()


def mail(step: StepRun, *, message: Letter, purpose: str) -> Outcome:
    """Send what `message` says."""
    return Done()


def choose(step: StepRun, *, rules: list[Rule] | None = None, default: Target = "next") -> Outcome:
    """Go one way or another."""
    return Branch(to=default)


def each(
    step: StepRun, *, key: RowTemplate = "", inputs: dict[str, RowTemplate | int] | None = None
) -> Outcome:
    """Start children."""
    return Done()


def rest(step: StepRun, *, hours: int = 1) -> Outcome:
    """Wait."""
    return Done()


def say(step: StepRun, *, text: str = "", look_again: AfterRest | None = None) -> Outcome:
    """Say something to staff."""
    return Done()


@pytest.fixture(autouse=True)
def small_handlers() -> Iterator[None]:
    """Register the handlers of these tests; take them out again afterwards."""
    known: dict[str, tuple[Any, dict[str, Any]]] = {
        "t.read": (read, {"sets": ("crm_customer_id", "customer_name", "customer_email")}),
        "t.write": (write, {"results": Letter}),
        "t.ask": (ask, {"asks": True}),
        "t.send": (send, {"sends": True, "effect": "at_most_once"}),
        "t.show": (show, {"asks": True, "results": Letter}),
        "t.mail": (mail, {"sends": True, "effect": "at_most_once"}),
        "t.choose": (choose, {}),
        "t.each": (each, {"sets": ("children",)}),
        "t.rest": (rest, {"waits": True}),
        "t.say": (say, {}),
    }
    for name, (run, options) in known.items():
        handler(name, **options)(run)
    yield
    for name in known:
        handlers.remove(name)


def file_of(steps: str, head: str = "") -> str:
    """Return a SOP file with these steps."""
    return f"sop: try-it\nname: Try it\n{textwrap.dedent(head)}steps:\n" + textwrap.indent(
        textwrap.dedent(steps), "  "
    )


def to_rule(to: str) -> str:
    """Return the rules that may lead to a step."""
    return f"[{{when: {{field: slot.year, op: empty}}, to: {to}}}]"


def problems(text: str) -> list[Problem]:
    """Return what is wrong with a file."""
    try:
        definition.read(text, "try.yaml")
    except DefinitionError as error:
        return error.problems
    return []


def only(text: str) -> Problem:
    """Return the one problem of a file."""
    found = problems(text)
    assert len(found) == 1, "\n".join(map(str, found)) or "nothing is wrong"
    return found[0]


# -- reading ---------------------------------------------------------------------------------------

GOOD = """\
sop: try-it
name: Try it
description: |
  Two lines,
  of which this is the second.
channel: "#office"
trigger: {schedule: "0 9 * * MON", from: "02-15", until: "05-31", timezone: America/Chicago}
inputs:
  season: {type: integer, default: "{{ slot.year }}"}
priority: 2
steps:
  - key: read
    name: Read the customer
    handler: t.read
    on_failure: tell
    max_retries: 5
    timeout: 12.5
    rate: 30/minute
  - {key: ask, handler: t.ask, on_success: complete}
  - {key: tell, handler: t.say, with: {text: "{{ season }}, {{ now }}, {{ business.name }}, {{ run.id }}"}}
"""


def test_a_file_becomes_a_definition() -> None:
    found = definition.read(GOOD, "try.yaml")
    assert (found.slug, found.name, found.channel, found.priority) == ("try-it", "Try it", "#office", 2)
    assert found.description == "Two lines,\nof which this is the second.\n"
    assert found.trigger["from"] == "02-15"
    assert found.steps[0] == StepDef(
        key="read",
        name="Read the customer",
        handler="t.read",
        on_failure="tell",
        max_retries=5,
        timeout=12.5,
        rate="30/minute",
    )
    assert (found.first, found.after("read"), found.after("tell")) == ("read", "ask", None)
    assert found.step("ask").on_success == "complete"
    assert "ask" in found
    with pytest.raises(KeyError):
        found.step("asking")


def test_only_true_and_false_are_flags_and_what_looks_like_a_date_is_text() -> None:
    values = load(
        "{a: yes, b: on, c: true, d: 02-15, e: 2027-02-15, f: 12:30, g: 010, h: 1e3, i: 1.5, j: ~, k: -7}"
    ).value
    assert values == {
        "a": "yes",
        "b": "on",
        "c": True,
        "d": "02-15",
        "e": "2027-02-15",
        "f": "12:30",
        "g": "010",
        "h": "1e3",
        "i": 1.5,
        "j": None,
        "k": -7,
    }


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("sop: try\nname: [", 2, "this is not YAML"),
        ("sop: try\n\tname: x", 2, "this is not YAML"),
        ("sop: try\nname: a: b", 2, "this is not YAML"),
        ("sop: &x try\nname: *x", 2, "aliases"),
        ("sop: try\nname: !!python/object:os.system x", 2, "the tag"),
        ("sop: try\nname: !!int x", 2, "'x' is not a int"),
        ("sop: try\nname: a\nsop: other", 3, "is there twice"),
        ("sop: try\nname: {{ season }}", 2, "must stand in quotes"),
        ("- a", 1, "has keys such as sop, name and steps"),
        ("", 1, "has keys such as sop"),
        ("sop: a\n---\nsop: b", 2, "this is not YAML"),
        ("x" * 200_001, 1, "at most 200,000 are read"),
        ('sop: try\nname: "a\\0b"', 2, "a character that no database keeps"),
        ('sop: try\nname: "\\ud800"', 2, "a character that no database keeps"),
        ('sop: try\n"na\\0me": b', 2, "a character that no database keeps"),
    ],
)
def test_what_is_not_our_yaml_is_refused_with_its_place(text: str, line: int, message: str) -> None:
    found = problems(text)[0]
    assert (found.source, found.line) == ("try.yaml", line)
    assert message in found.message


def test_a_problem_names_file_line_column_step_key_and_what_is_expected() -> None:
    text = file_of("- key: tell\n  handler: t.say\n  with:\n    txet: hello\n")
    found = only(text)
    assert (found.line, found.column, found.step, found.key) == (7, 7, "tell", "with.txet")
    assert str(found) == (
        "try.yaml:7:7: step 'tell', with.txet: "
        "t.say has no parameter 'txet'; did you mean 'text'? expected one of look_again, text"
    )


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = file_of(
        """\
        - {key: one, handler: t.nobody}
        - {key: two, handler: t.write, with: {copies: many, tone: loud}}
        - {key: two, handler: t.say, with: {text: "{{ sesaon }}"}, on_success: nowhere}
        """,
        "prioriti: 1\n",
    )
    found = problems(text)
    assert [p.line for p in found] == sorted(p.line for p in found)
    assert {(p.line, p.key) for p in found} >= {(3, "prioriti"), (7, "key")}


# -- the outer form --------------------------------------------------------------------------------

STEP = "- {key: tell, handler: t.say}\n"


@pytest.mark.parametrize(
    ("head", "key", "message"),
    [
        ("colour: red\n", "colour", "unknown key 'colour'; expected one of autonomous"),
        ("chanel: x\n", "chanel", "did you mean 'channel'?"),
        ("priority: 3\n", "priority", "expected a whole number from 0 to 2"),
        ("priority: true\n", "priority", "expected a whole number from 0 to 2"),
        ("autonomous: maybe\n", "autonomous", "expected true or false"),
        ("channel: 5\n", "channel", "must be text, not a number"),
        ("description: " + "x" * 10_001 + "\n", "description", "at most 10000"),
        ("trigger: daily\n", "trigger", "must be keys with values, not text"),
        ("trigger: {schedule: '0 9 * *'}\n", "trigger.schedule", "expected five fields"),
        ("trigger: {schedule: '0 0 30 2 *'}\n", "trigger.schedule", "never comes"),
        (
            "trigger: {schedule: '0 9 * * *', timezone: Chicago}\n",
            "trigger.timezone",
            'such as "America/Chicago"',
        ),
        ("trigger: {schedule: '0 9 * * *', from: 2-15}\n", "trigger.from", 'such as "02-15"'),
        ("trigger: {schedule: '0 9 * * *', until: 02-31}\n", "trigger.until", 'such as "02-15"'),
        ("trigger: {schedule: '0 9 * * *', overlap: wait}\n", "trigger.overlap", "expected skip or allow"),
        ("trigger: {schedule: '0 9 * * *', catch_up: all}\n", "trigger.catch_up", "expected once or skip"),
        ("trigger: {schedule: '0 9 * * *', every: day}\n", "trigger.every", "unknown key 'every'"),
        ("trigger: {from: 02-15}\n", "trigger", "the key 'schedule' is missing"),
        ("trigger: {event: job.completed, overlap: skip}\n", "trigger", "the key 'schedule' is missing"),
        ("trigger: {source: billing}\n", "trigger", "the key 'event' is missing"),
        ("trigger: {event: Job Done}\n", "trigger.event", "such as 'job.completed'"),
        ("trigger: {event: []}\n", "trigger.event", "expected the name of an event"),
        ("trigger: {event: [job.completed, 7]}\n", "trigger.event", "7 does not fit"),
        ("trigger: {event: e, source: The Bank}\n", "trigger.source", "such as 'billing'"),
        ("trigger: {event: e, once_per: once}\n", "trigger.once_per", "names no input"),
        ("trigger: {event: e, once_per: '{{ slot.year }}'}\n", "trigger.once_per", "names no input"),
        ("trigger: {event: e, once_per: '{{ job'}\n", "trigger.once_per", "the template cannot be read"),
        ("inputs: [season]\n", "inputs", "must be keys with values, not a list"),
        ("inputs: {season: integer}\n", "inputs.season", "must be keys such as type and default"),
        ("inputs: {season: {type: year}}\n", "inputs.season.type", "expected string or integer or"),
        ("inputs: {season: {type: integer, default: soon}}\n", "inputs.season.default", "of type integer"),
        ("inputs: {season: {type: integer, default: true}}\n", "inputs.season.default", "of type integer"),
        ("inputs: {day: {type: date, default: 2027-02-30}}\n", "inputs.day.default", "of type date"),
        ("inputs: {a: {default: '{{ season }}'}}\n", "inputs.a.default", "unknown variable 'season'"),
        ("inputs: {a: {default: '{{ slot.yaer }}'}}\n", "inputs.a.default", "slot has year, month, day"),
        ("inputs: {a: {default: '{{ run.id }}'}}\n", "inputs.a.default", "before the run begins"),
        ("inputs: {a: {default: '{{ slot.year'}}\n", "inputs.a.default", "the template cannot be read"),
        ("inputs: {a: {required: 1}}\n", "inputs.a.required", "expected true or false"),
        ("inputs: {a: {kind: string}}\n", "inputs.a.kind", "unknown key 'kind'"),
        ("inputs: {Season: {}}\n", "inputs.Season", "characters such as 'season'"),
        ("inputs: {slot: {}}\n", "inputs.slot", "is reserved"),
        ("inputs: {empty: {}}\n", "inputs.empty", "is reserved"),
        (
            "trigger: {schedule: '0 9 * * *'}\ninputs: {a: {type: string}}\n",
            "inputs.a",
            "a SOP with a schedule starts by itself",
        ),
    ],
)
def test_a_bad_head_is_refused(head: str, key: str, message: str) -> None:
    found = only(file_of(STEP, head))
    assert found.key == key
    assert message in found.message
    assert found.line >= 3


def test_an_event_trigger_may_name_several_events_a_source_and_what_is_the_same() -> None:
    head = (
        "trigger: {event: [job.completed, job_closed], source: crm, once_per: '{{ job }}-{{ slot.year }}'}\n"
    )
    sop = definition.read(file_of(STEP, head + "inputs: {job: {type: string}}\n"))
    assert sop.trigger["event"] == ["job.completed", "job_closed"]
    wrong = head.replace("job }}", "jobb }}") + "inputs: {job: {type: string}}\n"
    with pytest.raises(DefinitionError, match="unknown variable 'jobb'; did you mean 'job'"):
        definition.read(file_of(STEP, wrong))


def test_a_sop_may_start_by_its_schedule_and_by_events() -> None:
    head = "trigger: {schedule: '0 9 * * *', event: job.completed}\ninputs: {job: {default: none}}\n"
    assert definition.read(file_of(STEP, head)).trigger["schedule"] == "0 9 * * *"


@pytest.mark.parametrize(
    ("step", "key", "message"),
    [
        ("- {handler: t.say}", "", "the key 'key' is missing"),
        ("- {key: tell}", "", "the key 'handler' is missing"),
        ("- tell", "", "a step has keys such as key, handler and with, not text"),
        ("- {key: Tell It, handler: t.say}", "key", "characters such as 'send_mail'"),
        ("- {key: tell, handler: t.say, when: never}", "when", "unknown key 'when'"),
        ("- {key: tell, handler: t.say, with: hello}", "with", "must be keys with values, not text"),
        ("- {key: tell, handler: t.say, max_retries: -1}", "max_retries", "from 0 to 100"),
        ("- {key: tell, handler: t.say, max_retries: few}", "max_retries", "from 0 to 100"),
        ("- {key: tell, handler: t.say, timeout: 0}", "timeout", "expected seconds, more than 0"),
        ("- {key: tell, handler: t.say, timeout: 1 minute}", "timeout", "expected seconds, more than 0"),
        ("- {key: tell, handler: t.say, rate: often}", "rate", 'expected such as "30/minute"'),
        ("- {key: tell, handler: t.say, on_success: 5}", "on_success", "must be text"),
        ("- {key: tell, handler: t.sya}", "handler", "unknown handler 't.sya'; did you mean 't.say'?"),
        ("- {key: tell, handler: t.sya}", "handler", "t.read"),
    ],
)
def test_a_bad_step_is_refused(step: str, key: str, message: str) -> None:
    found = only(file_of(step + "\n"))
    assert found.key == key
    assert message in found.message
    assert found.line == 4


RESERVED_TOO = ["crm_customer_id", "fail", "hold", "escalate", "row", "empty", "for"]


@pytest.mark.parametrize(
    "name",
    [
        "inputs",
        "children",
        "now",
        "slot",
        "business",
        "run",
        "next",
        "complete",
        "customer_name",
        *RESERVED_TOO,
    ],
)
def test_a_reserved_name_is_no_step_key(name: str) -> None:
    assert "is reserved" in only(file_of(f"- {{key: {name}, handler: t.say}}\n")).message


def test_two_steps_have_two_keys() -> None:
    found = only(
        file_of("- {key: a, handler: t.say}\n- {key: b, handler: t.say}\n- {key: a, handler: t.say}\n")
    )
    assert (found.step, found.line) == ("a", 6)
    assert "is that of step 1 too" in found.message


def test_an_input_and_a_step_are_not_called_the_same() -> None:
    found = only(file_of("- {key: season, handler: t.say}\n", "inputs: {season: {type: integer}}\n"))
    assert "is the name of an input too" in found.message


def test_a_sop_has_at_least_one_step_a_name_and_a_slug() -> None:
    assert "at least one step" in only("sop: a\nname: A\nsteps: []").message
    assert [p.message for p in problems("{}")] == [
        f"the key '{k}' is missing" for k in ("sop", "name", "steps")
    ]
    assert (
        "such as 'past-customer-reactivation'"
        in only("sop: A b\nname: A\nsteps: [{key: a, handler: t.say}]").message
    )


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "key", "message"),
    [
        ("{copies: 3, copy: 1}", "with.copy", "t.write has no parameter 'copy'; did you mean 'copies'?"),
        ("{copies: many}", "with.copies", "valid integer"),
        ("{copies: 10}", "with.copies", "less than or equal to 9; got 10"),
        ("{tone: loud}", "with.tone", "'warm' or 'plain'"),
        ("{tags: [a, 5]}", "with.tags.1", "valid string"),
        ("{tags: a}", "with.tags", "valid list"),
        ("{tags: {a: '{{ now }}'}}", "with.tags", "valid list"),
        ("{values: [1]}", "with.values", "valid dictionary"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(given_: str, key: str, message: str) -> None:
    found = only(file_of(f"- {{key: write, handler: t.write, with: {given_}}}\n"))
    assert found.key == key
    assert message in found.message


def test_a_missing_parameter_is_named() -> None:
    found = problems(file_of("- {key: send, handler: t.send, with: {purpose: transactional}}\n"))
    assert [(p.step, p.message) for p in found] == [("send", "t.send needs the parameter 'letter'")]


def test_the_type_of_what_a_template_gives_is_known_only_later() -> None:
    for given_ in (
        '{copies: "{{ slot.year }}"}',
        '{tone: "{{ now }}"}',
        '{tags: ["{{ now }}"]}',
        '{tags: "{{ now }}"}',
    ):
        assert problems(file_of(f"- {{key: write, handler: t.write, with: {given_}}}\n")) == []


def test_a_parameter_inside_a_rule_is_checked_with_its_place() -> None:
    text = file_of(
        """\
        - key: choose
          handler: t.choose
          with:
            rules:
              - when: {field: slot.year, op: larger, value: 5}
                to: next
        """
    )
    found = only(text)
    assert (found.key, found.line) == ("with.rules.0.when.op", 8)
    assert "'equals'" in found.message


def test_a_message_template_must_be_there() -> None:
    found = only(file_of("- {key: write, handler: t.write, with: {template: reactivatoin}}\n"))
    assert found.key == "with.template"
    assert "there is no message template 'reactivatoin'; known: " in found.message


# -- where the steps lead --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("on_success: thrid", "on_success", "there is no step 'thrid'; did you mean 'third'?"),
        ("on_failure: thrid", "on_failure", "there is no step 'thrid'; did you mean 'third'?"),
        ("on_failure: next", "on_failure", "there is no step 'next'"),
        (
            "with: {rules: [{when: {field: slot.year, op: empty}, to: thrid}]}",
            "with.rules.0.to",
            "no step 'thrid'",
        ),
        ("with: {default: thrid}", "with.default", "no step 'thrid'; did you mean 'third'?"),
        ("with: {default: '{{ now }}'}", "with.default", "cannot be a template"),
    ],
)
def test_a_way_to_a_step_that_is_not_there_is_refused(line: str, key: str, message: str) -> None:
    handler_ = "t.choose" if line.startswith("with") else "t.say"
    found = problems(
        file_of(
            f"""\
            - key: first
              handler: {handler_}
              {line}
            - {{key: second, handler: t.say}}
            - {{key: third, handler: t.say}}
            """
        )
    )[0]
    assert found.key == key
    assert message in found.message


@pytest.mark.parametrize("word", ["fail", "escalate", "hold", "second"])
def test_a_failure_leads_to_one_of_three_words_or_a_step(word: str) -> None:
    text = file_of(
        f"- {{key: first, handler: t.say, on_failure: {word}}}\n- {{key: second, handler: t.say}}\n"
    )
    assert problems(text) == []


def test_the_answer_to_a_question_may_lead_to_a_step_that_exists() -> None:
    def with_outcome(outcome: str) -> str:
        return file_of(
            f"""\
            - {{key: ask, handler: t.ask, with: {{buttons: [{{label: Go, outcome: {outcome}}}]}}}}
            - {{key: second, handler: t.say}}
            """
        )

    for outcome in ("approve", "edit", "decline", "second", "next", "complete"):
        assert problems(with_outcome(outcome)) == []
    assert only(with_outcome("thrid")).key == "with.buttons.0.outcome"


def test_a_handler_that_says_where_the_run_goes_has_no_on_success() -> None:
    found = only(file_of("- {key: a, handler: t.choose, on_success: b}\n- {key: b, handler: t.say}\n"))
    assert (found.key, found.step) == ("on_success", "a")
    assert "says where the run goes" in found.message


def test_a_step_that_no_run_comes_to_is_refused() -> None:
    text = file_of(
        """\
        - {key: a, handler: t.choose, with: {default: c}}
        - {key: b, handler: t.say}
        - {key: c, handler: t.say, on_success: complete}
        - {key: d, handler: t.say}
        """
    )
    assert [(p.step, p.line) for p in problems(text)] == [("b", 5), ("d", 7)]
    assert all("no run can come to this step" in p.message for p in problems(text))


def test_a_loop_needs_a_wait_or_a_person() -> None:
    def loop(middle: str) -> str:
        return file_of(
            f"""\
            - {{key: a, handler: t.say}}
            - {{key: b, handler: {middle}}}
            - {{key: c, handler: t.choose, with: {{rules: {to_rule("a")}}}}}
            - {{key: d, handler: t.say}}
            """
        )

    found = only(loop("t.say"))
    assert "the steps a → b → c → a go round without a wait or a person" in found.message
    assert problems(loop("t.rest")) == []
    assert problems(loop("t.ask")) == []


def test_a_way_that_a_run_takes_only_after_a_rest_is_no_loop() -> None:
    text = "- {{key: a, handler: t.say}}\n- {{key: b, handler: t.say, {}}}\n"
    assert problems(file_of(text.format("with: {look_again: a}"))) == []
    assert "go round without a wait" in only(file_of(text.format("on_success: a"))).message
    for word in ("next", "complete"):
        found = only(file_of(text.format(f"with: {{look_again: {word}}}")))
        assert found.message.startswith("a run goes back to a step from here; ")


@pytest.mark.parametrize("line", ["on_failure: a", "on_success: a"])
def test_a_step_that_leads_to_itself_is_a_loop(line: str) -> None:
    text = file_of(f"- {{key: a, handler: t.say, {line}}}\n")
    assert "a → a go round" in problems(text)[0].message


def test_a_wait_that_the_failure_of_a_step_goes_around_is_no_rest() -> None:
    text = file_of(
        """\
        - {key: a, handler: t.say, on_failure: c}
        - {key: b, handler: t.rest}
        - {key: c, handler: t.choose, with: {default: a}}
        """
    )
    assert "a → c → a go round" in only(text).message


# -- a person's yes --------------------------------------------------------------------------------


def sending(steps: str, head: str = "") -> list[Problem]:
    return problems(file_of(steps, head))


MARKETING = "{letter: x, purpose: marketing}"


def test_what_a_customer_sees_needs_a_persons_yes_before_it() -> None:
    found = sending(f"- {{key: send, handler: t.send, with: {MARKETING}}}\n")
    assert [(p.step, p.line) for p in found] == [("send", 4)]
    assert (
        "nobody approved it on the way send; put a human.ask before it, or say autonomous: true"
        in found[0].message
    )
    assert (
        sending(f"- {{key: ask, handler: t.ask}}\n- {{key: send, handler: t.send, with: {MARKETING}}}\n")
        == []
    )


def test_a_sop_that_says_that_it_is_autonomous_may_send() -> None:
    assert sending(f"- {{key: send, handler: t.send, with: {MARKETING}}}\n", "autonomous: true\n") == []


@pytest.mark.parametrize("purpose", ["marketing", "service", "'{{ now }}'"])
def test_only_what_is_surely_transactional_needs_no_yes(purpose: str) -> None:
    assert len(sending(f"- {{key: send, handler: t.send, with: {{letter: x, purpose: {purpose}}}}}\n")) == 1
    assert sending("- {key: send, handler: t.send, with: {letter: x, purpose: transactional}}\n") == []


def test_a_yes_that_one_way_goes_around_is_none() -> None:
    around = f"""\
        - {{key: choose, handler: t.choose, with: {{rules: {to_rule("send")}}}}}
        - {{key: ask, handler: t.ask}}
        - {{key: send, handler: t.send, with: {MARKETING}}}
        """
    found = sending(around)
    assert len(found) == 1
    assert "on the way choose → send" in found[0].message


def test_a_question_that_failed_is_no_yes() -> None:
    found = sending(
        f"""\
        - {{key: ask, handler: t.ask, on_failure: send}}
        - {{key: send, handler: t.send, with: {MARKETING}}}
        """
    )
    assert "on the way ask → send" in found[0].message


def test_a_question_after_the_mail_is_no_yes() -> None:
    found = sending(f"- {{key: send, handler: t.send, with: {MARKETING}}}\n- {{key: ask, handler: t.ask}}\n")
    assert [p.step for p in found] == ["send"]


DRAFTED = "- {key: draft, handler: t.write}\n"
SHOW = "- {key: approve, handler: t.show, with: {draft: '{{ draft }}'}}\n"
INLINE = "{to: ann@example.test, customer_name: Ann, pages: 1}"


def mailing(message: str, key: str = "mail", purpose: str = "marketing") -> str:
    return f"- {{key: {key}, handler: t.mail, with: {{purpose: {purpose}, message: {message}}}}}\n"


@pytest.mark.parametrize("message", ["'{{ approve }}'", "'{{approve}}'"])
def test_what_was_approved_may_be_sent(message: str) -> None:
    assert sending(DRAFTED + SHOW + mailing(message)) == []


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        pytest.param(DRAFTED + SHOW + mailing("'{{ draft }}'"), 6, id="the draft, not the answer"),
        pytest.param(
            DRAFTED + SHOW + "- {key: again, handler: t.write}\n" + mailing("'{{ again }}'"),
            7,
            id="a draft made after the approval",
        ),
        pytest.param(DRAFTED + SHOW + mailing(INLINE), 6, id="text that was never shown"),
        pytest.param(
            DRAFTED + SHOW + mailing("'{{ approve }}'", "first") + mailing("'{{ draft }}'"),
            7,
            id="something else after the approved mail",
        ),
        pytest.param(
            DRAFTED + SHOW + mailing("'{{ approve | default: draft }}'"), 6, id="perhaps the answer"
        ),
        pytest.param(DRAFTED + SHOW + mailing("'{{ approve }} PS'"), 6, id="the answer and more"),
        pytest.param(DRAFTED + SHOW + mailing("'{{ aprove }}'"), 6, id="a name that is not there"),
    ],
)
def test_what_is_sent_is_what_was_approved(steps: str, line: int) -> None:
    found = only(file_of(steps))
    assert (found.source, found.line, found.step, found.key) == ("try.yaml", line, "mail", "with.message")
    assert found.message == (
        "a customer would get this, and it is not what a person approved; "
        'expected "{{ approve }}", the text that was approved there'
    )


@pytest.mark.parametrize("draft", ["", ", with: {draft: null}", ", with: {draft: {}}"])
def test_a_yes_without_a_draft_approves_no_text(draft: str) -> None:
    asks = f"- {{key: approve, handler: t.show{draft}}}\n"
    found = [p for p in sending(asks + mailing("'{{ approve }}'")) if p.step == "mail"]
    assert [p.key for p in found] == ["with.message"]
    assert "'approve' asks without showing it; expected the answer of a step" in found[0].message


def test_a_question_that_cannot_show_a_draft_approves_no_text() -> None:
    found = only(file_of("- {key: ask, handler: t.ask}\n" + mailing("'{{ ask }}'")))
    assert "'ask' asks without showing it" in found.message


def test_another_question_on_the_way_does_not_approve_this_text() -> None:
    asks = "- {key: other, handler: t.show, with: {draft: '{{ draft }}'}, on_success: mail}\n"
    choose = f"- {{key: choose, handler: t.choose, with: {{rules: {to_rule('approve')}}}}}\n"
    found = only(file_of(DRAFTED + choose + asks + SHOW + mailing("'{{ approve }}'")))
    assert (found.step, found.key) == ("mail", "with.message")
    assert "'approve' is not answered on the way draft → choose → other → mail" in found.message


def test_a_message_that_nobody_was_asked_about_is_told_once() -> None:
    found = only(file_of(DRAFTED + mailing("'{{ draft }}'")))
    assert found.step == "mail"
    assert "nobody approved it on the way draft → mail" in found.message


def test_a_transactional_mail_and_an_autonomous_sop_may_send_any_draft() -> None:
    assert sending(DRAFTED + mailing("'{{ draft }}'", purpose="transactional")) == []
    assert sending(DRAFTED + mailing("'{{ draft }}'"), "autonomous: true\n") == []


def test_no_answer_never_means_send() -> None:
    def unanswered(then: str, purpose: str = "marketing") -> list[Problem]:
        return sending(
            f"""\
            - {{key: ask, handler: t.ask, with: {{then: {then}}}}}
            - {{key: wait, handler: t.rest}}
            - {{key: send, handler: t.send, with: {{letter: x, purpose: {purpose}}}}}
            """
        )

    assert [(p.step, p.key) for p in unanswered("continue")] == [("ask", "with.then")]
    assert [(p.step, p.key) for p in unanswered("'{{ now }}'")] == [("ask", "with.then")]
    assert unanswered("decline") == []
    assert unanswered("continue", "transactional") == []


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("wait", ("send", "")),
        ("send", ("send", "")),
        ("ask", None),
        ("told", None),
        ("complete", None),
        ("no_such", ("first", "with.expired_to")),
    ],
)
def test_a_question_that_nobody_answered_leads_to_no_send_without_another_question(
    to: str, found: tuple[str, str] | None
) -> None:
    problems = sending(
        f"""\
        - {{key: first, handler: t.ask, with: {{expired_to: {to}}}}}
        - {{key: ask, handler: t.ask, on_success: wait}}
        - {{key: wait, handler: t.rest}}
        - {{key: send, handler: t.send, on_success: complete, with: {{letter: x, purpose: marketing}}}}
        - {{key: told, handler: t.say}}
        """
    )
    assert [(p.step, p.key) for p in problems if "no run can come" not in p.message] == (
        [found] if found else []
    )


# -- names -----------------------------------------------------------------------------------------


def naming(text: str, before: str = "", head: str = "") -> list[Problem]:
    """Return what is wrong with a step that says this text."""
    return problems(
        file_of(f"{textwrap.dedent(before)}- {{key: tell, handler: t.say, with: {{text: '{text}'}}}}\n", head)
    )


INPUTS = "inputs: {season: {type: integer}}\n"
WRITE = "- {key: write, handler: t.write}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ sesaon }}", "unknown variable 'sesaon'; did you mean 'season'?"),
        (
            "{{ write.pagse }}",
            "unknown variable 'write.pagse' in the result of 'write'; did you mean 'pages'?",
        ),
        ("{{ write.customer_name }}", "unknown variable 'write.customer_name'"),
        ("{{ slot.yaer }}", "unknown variable 'slot.yaer': slot has year, month, day, date, time"),
        ("{{ now.year }}", "unknown variable 'now.year': now has no parts"),
        ("{{ business.fax }}", "business has name, address"),
        ("{{ customer_nmae }}", "unknown variable 'customer_nmae'; did you mean 'customer_name'?"),
        ("{{ customer_phone }}", "unknown variable 'customer_phone'"),
        ("{{ children.sent }}", "unknown variable 'children.sent'"),
        ("{{ row.id }}", "unknown variable 'row.id'"),
        ("{{ sesaon | default: 5 }}", "unknown variable 'sesaon'"),
        ("{% if sesaon %}x{% endif %}", "unknown variable 'sesaon'"),
        ("{{ season | plsu: 1 }}", "unknown filter 'plsu'"),
        ("{{ season", "the template cannot be read"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(text: str, message: str) -> None:
    found = naming(text, WRITE, INPUTS)
    assert len(found) == 1
    assert (found[0].step, found[0].key, found[0].line) == ("tell", "with.text", 6)
    assert message in found[0].message


@pytest.mark.parametrize(
    "text",
    [
        "{{ season }}",
        "{{ write.pages }} {{ write.to }} {{ customer_name }}",
        "{{ slot.year }} {{ now }} {{ business.address }} {{ run.id }}",
        "{% for x in write.to %}{{ x.y }}{% endfor %}{% assign z = season %}{{ z }}",
    ],
)
def test_inputs_results_the_customer_and_the_surroundings_are_names(text: str) -> None:
    assert naming(text, WRITE, INPUTS) == []


def test_an_unknown_name_in_a_message_template_is_refused() -> None:
    found = problems(file_of("- {key: write, handler: t.write, with: {template: reactivation}}\n"))
    assert {p.key for p in found} == {"with.template"}
    assert "'season'" in found[0].message


def test_the_extra_names_of_a_step_count_for_what_it_renders_itself_and_for_nothing_else() -> None:
    assert (
        problems(file_of("- {key: w, handler: t.write, with: {text: '{{ extra }}', values: {extra: 5}}}\n"))
        == []
    )
    found = problems(
        file_of("- {key: w, handler: t.write, with: {tone: '{{ extra }}', values: {extra: 5}}}\n")
    )
    assert [p.key for p in found] == ["with.tone"]


def test_the_names_of_a_row_are_known_where_rows_are_rendered() -> None:
    def rows(params: str) -> list[Problem]:
        return problems(file_of(f"- {{key: each, handler: t.each, with: {params}}}\n"))

    assert rows("{key: '{{ crm_customer_id }}-{{ row.id }}', inputs: {a: '{{ row.id }}', b: 5}}") == []
    assert "unknown variable 'customer_name'" in rows("{key: '{{ customer_name }}'}")[0].message
    elsewhere = file_of("- {key: write, handler: t.write, with: {text: '{{ row.id }}'}}\n")
    assert "unknown variable 'row.id'" in only(elsewhere).message


def test_the_children_are_counted_by_any_result_after_they_were_started() -> None:
    text = "{{ children.sent }} {{ children.whatever }} {{ each.total }}"
    assert naming(text, "- {key: each, handler: t.each}\n") == []
    assert (
        "before it is set"
        in problems(
            file_of(
                """\
                - {key: tell, handler: t.say, with: {text: '{{ children.sent }}'}}
                - {key: each, handler: t.each}
                """
            )
        )[0].message
    )


def test_a_result_of_a_question_and_of_a_wait_is_known_without_a_model() -> None:
    before = "- {key: ask, handler: t.ask}\n- {key: wait, handler: t.rest}\n"
    assert naming("{{ ask.choice }} {{ ask.text }} {{ wait.timed_out }}", before) == []
    assert len(naming("{{ ask.answer }}", before)) == 1


def test_a_step_without_a_result_has_no_parts() -> None:
    found = naming("{{ say.it }}", "- {key: say, handler: t.say}\n")
    assert "unknown variable 'say.it' in the result of 'say'; expected nothing" in found[0].message


@pytest.mark.parametrize("text", ["{{ write.pages }}", "{{ customer_name }}"])
def test_a_name_that_is_set_on_one_branch_only_is_refused_with_the_way_that_misses_it(text: str) -> None:
    before = """\
        - {key: choose, handler: t.choose, with: {rules: [{when: {field: slot.year, op: empty}, to: tell}]}}
        - {key: write, handler: t.write}
        """
    found = naming(text, before)
    assert len(found) == 1
    assert (
        "is not set on every way here: 'write' sets it, but not on the way choose → tell" in found[0].message
    )
    assert naming(text.replace(" }}", ' | default: "-" }}'), before) == [], "a default stands in for it"


def test_a_name_that_each_branch_sets_is_set() -> None:
    before = """\
        - {key: choose, handler: t.choose, with: {rules: [{when: {field: slot.year, op: empty}, to: read}]}}
        - {key: write, handler: t.write, on_success: tell}
        - {key: read, handler: t.read}
        """
    assert naming("{{ customer_name }}", before) == []
    assert "not on the way choose → write → tell" in naming("{{ customer_email }}", before)[0].message


def test_a_step_that_failed_has_set_nothing() -> None:
    before = "- {key: write, handler: t.write, on_failure: tell}\n"
    assert "not on the way write → tell" in naming("{{ write.to }}", before)[0].message


def test_a_name_that_is_used_before_it_is_set_is_refused() -> None:
    text = file_of(
        "- {key: tell, handler: t.say, with: {text: '{{ write.to }}'}}\n- {key: write, handler: t.write}\n"
    )
    found = only(text)
    assert found.step == "tell"
    assert "variable 'write.to' is used before it is set: 'write' sets it only after" in found.message


def test_a_step_does_not_know_its_own_result_on_its_first_visit() -> None:
    text = file_of("- {key: write, handler: t.write, with: {text: '{{ write.to }}'}}\n")
    assert "used before it is set" in only(text).message


def test_the_field_of_a_condition_is_a_name_like_any_other() -> None:
    def field(name: str, before: str = "") -> list[Problem]:
        rule = f"{{when: {{all: [{{field: {name}, op: empty}}]}}, to: next}}"
        return problems(file_of(f"{before}- {{key: choose, handler: t.choose, with: {{rules: [{rule}]}}}}\n"))

    assert field("slot.year") == []
    assert field("write.to", WRITE) == []
    found = field("write.pagse", WRITE)
    assert [(p.key, p.line) for p in found] == [("with.rules.0.when.all.0.field", 5)]
    assert "unknown variable 'write.pagse'" in found[0].message
    assert "unknown variable 'find.status'" in field("find.status")[0].message


# -- without loss ----------------------------------------------------------------------------------

unhurried = settings(deadline=None)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(texts, json_values, max_size=3)
steps = st.builds(
    StepDef,
    key=texts,
    name=texts,
    handler=texts,
    params=mappings,
    on_success=texts,
    on_failure=texts,
    max_retries=st.integers(0, 100),
    timeout=st.none() | st.floats(0.1, 100),
    rate=texts,
)
sops = st.builds(
    SopDef,
    slug=texts,
    name=texts,
    description=texts,
    channel=texts,
    trigger=mappings,
    inputs=st.dictionaries(texts, mappings, max_size=2),
    autonomous=st.booleans(),
    priority=st.integers(0, 2),
    steps=st.lists(steps, max_size=3).map(tuple),
)


@given(sops)
@unhurried
def test_a_definition_survives_its_file_whatever_is_in_it(sop: SopDef) -> None:
    document = load(definition.dump(sop))
    assert document.findings == []
    assert definition.from_json(document.value) == sop


@given(sops)
@unhurried
def test_a_definition_survives_json(sop: SopDef) -> None:
    assert definition.from_json(definition.to_json(sop)) == sop


@given(json_values)
@unhurried
def test_the_check_of_any_value_ends_with_findings_and_never_with_a_crash(value: Any) -> None:
    for candidate in (
        value,
        {"sop": "a", "name": "A", "steps": value},
        {"sop": "a", "name": "A", "steps": [value]},
    ):
        assert list(findings(candidate))


@given(
    st.dictionaries(
        st.sampled_from(["key", "handler", "with", "on_success", "on_failure", "rate"]), json_values
    )
)
def test_the_check_of_any_step_ends_and_never_with_a_crash(step: dict[str, Any]) -> None:
    whole = {"key": "a", "handler": "t.choose", **step}
    list(findings({"sop": "a", "name": "A", "steps": [whole, {"key": "b", "handler": "t.say"}]}))


@given(st.text(max_size=200))
@unhurried
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(DefinitionError):
        definition.read(text)


def test_a_good_file_is_written_as_people_write_it() -> None:
    sop = definition.read(GOOD)
    written = definition.dump(sop)
    assert definition.read(written) == sop
    assert "description: |\n  Two lines,\n" in written
    assert "priority: 2" in written
    assert "autonomous" not in written, "what is usual is left out"
    assert "\n\n  - key: ask\n    handler: t.ask\n    on_success: complete\n" in written


# -- rows and versions -----------------------------------------------------------------------------


def draft(text: str = GOOD) -> Sop:
    return definition.save_rows(definition.read(text))


@pytest.mark.django_db
def test_a_definition_survives_its_rows() -> None:
    sop = definition.read(GOOD)
    row = definition.save_rows(sop)
    assert definition.from_rows(Sop.objects.get(pk=row.pk)) == sop
    assert definition.read(definition.dump(definition.from_rows(row))) == sop
    assert row.state == Sop.State.DRAFT


@pytest.mark.django_db
def test_saving_again_replaces_the_draft_and_leaves_what_is_published() -> None:
    row = draft()
    version = definition.publish(row)
    other = dataclasses.replace(definition.read(GOOD), name="Other", steps=(StepDef("one", "", "t.say"),))
    again = definition.save_rows(other)
    assert again.pk == row.pk
    assert definition.from_rows(again) == other
    again.refresh_from_db()
    assert (again.published_id, again.state) == (version.pk, Sop.State.ACTIVE)
    assert definition.from_json(SopVersion.objects.get(pk=version.pk).definition) == definition.read(GOOD)


@pytest.mark.django_db
def test_publishing_makes_a_numbered_version_that_never_changes() -> None:
    user = get_user_model().objects.create_user("ana")
    row = draft()
    version = definition.publish(row, by=user)
    assert (version.number, version.published_by, row.state, row.published) == (
        1,
        user,
        Sop.State.ACTIVE,
        version,
    )
    assert abs((row.cursor - clock.now()).total_seconds()) < 5
    version.number = 7
    with pytest.raises(ValidationError, match="never changes"):
        version.save()


@pytest.mark.django_db
def test_publishing_what_is_published_returns_the_present_version_and_keeps_the_cursor() -> None:
    row = draft()
    version = definition.publish(row)
    cursor = row.cursor
    draft()
    assert definition.publish(row) == version
    assert row.cursor == cursor
    assert SopVersion.objects.count() == 1


@pytest.mark.django_db
def test_publishing_a_change_makes_the_next_version_and_tasks_stay_on_theirs() -> None:
    row = draft()
    first = definition.publish(row)
    task = Task.objects.create(version=first, step="read", created_at=clock.now())
    cursor = row.cursor
    second = definition.publish(draft(GOOD.replace("Try it", "Try this")))
    assert second.number == 2
    task.refresh_from_db()
    row.refresh_from_db()
    assert (task.version_id, row.published_id) == (first.pk, second.pk)
    assert row.cursor > cursor
    third = definition.publish(draft(GOOD))
    assert third.number == 3, "going back to an old text is a new version"


@pytest.mark.django_db
def test_a_draft_with_problems_is_not_published_and_says_them_all() -> None:
    row = draft()
    row.steps.filter(key="ask").update(handler="t.gone", on_success="nowhere")
    with pytest.raises(DefinitionError) as error:
        definition.publish(row)
    assert {(p.source, p.step, p.key) for p in error.value.problems} == {
        ("try-it", "ask", "handler"),
        ("try-it", "ask", "on_success"),
    }
    row.refresh_from_db()
    assert (row.state, row.published) == (Sop.State.DRAFT, None)


@pytest.mark.django_db
def test_a_disabled_sop_is_on_again_when_it_is_published() -> None:
    row = draft()
    version = definition.publish(row)
    definition.disable(row)
    row.refresh_from_db()
    assert row.state == Sop.State.DISABLED
    cursor = row.cursor
    assert definition.publish(row) == version
    row.refresh_from_db()
    assert row.state == Sop.State.ACTIVE
    assert row.cursor > cursor, "the slots of the time when it was off are not caught up"


# -- the shipped SOPs ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", definition.shipped(), ids=lambda path: path.stem)
def test_a_shipped_sop_is_right_survives_a_round_trip_and_has_its_files_name(path: Any) -> None:
    sop = definition.read_file(path)
    assert sop.slug == path.stem
    assert definition.read(definition.dump(sop)) == sop
    assert "20" not in sop.slug + sop.name
    assert not any(f"202{n}" in path.read_text() for n in range(10)), "no year stands in a SOP file"


def test_the_shipped_campaign_hands_its_customers_to_a_sop_that_takes_them() -> None:
    by_slug = {path.stem: definition.read_file(path) for path in definition.shipped()}
    campaign = by_slug["past-customer-reactivation"]
    child = by_slug[campaign.step("find").params["sop"]]
    assert {*campaign.step("find").params["inputs"], "crm_customer_id"} == set(child.inputs)


def test_the_shipped_reactivation_is_refused_when_its_approval_is_taken_out() -> None:
    sop = definition.read_file(next(p for p in definition.shipped() if p.stem == "reactivate-customer"))
    without = dataclasses.replace(sop, steps=tuple(s for s in sop.steps if s.key != "approve"))
    messages = [p.message for p in definition.validate(without)]
    assert any("nobody approved it" in m for m in messages)
    assert any("unknown variable 'approve'" in m for m in messages)
