"""Laws of the step that asks a person."""

from typing import Any

import pytest
from pydantic import ValidationError

from sopengine.errors import DataError
from tasks.outcome import Ask, Option, handlers
from tests.tasks.steps import run, step_run

DRAFT = {"to": "ann@example.test", "subject": "S", "text": "T\n", "html": "<p>T</p>"}


def ask(**params: Any) -> Ask:
    outcome = run("human.ask", step_run(), **{"question": "Send this?", **params})
    assert isinstance(outcome, Ask)
    return outcome


def test_the_usual_question_can_be_sent_edited_or_declined_and_no_answer_means_declined() -> None:
    outcome = ask(draft=DRAFT)

    assert outcome.options == [
        Option("approve", "Send as is", "approve"),
        Option("edit", "Edit first", "edit"),
        Option("decline", "Don't send", "decline"),
    ]
    assert outcome.remind_after == [7_200, 72_000]
    assert (outcome.escalate_after, outcome.expire_after, outcome.then) == (86_400, 172_800, "decline")


def test_the_draft_is_put_before_the_person_byte_for_byte() -> None:
    assert ask(draft={**DRAFT, "choice": "not a part"}).draft == DRAFT


def test_a_question_goes_to_the_channel_of_the_procedure_unless_it_names_one() -> None:
    assert ask().channel == "#office"
    assert ask(channel="#owner").channel == "#owner"


def test_a_question_needs_no_draft_and_no_end() -> None:
    outcome = ask(remind=[], escalate=None, expire=None, then="escalate")

    assert outcome.draft == {}
    assert (outcome.remind_after, outcome.escalate_after, outcome.expire_after) == ([], None, None)


def test_options_of_its_own_lead_to_steps() -> None:
    outcome = ask(options=[{"key": "call", "label": "Call first", "outcome": "phone"}])

    assert outcome.options == [Option("call", "Call first", "phone")]


@pytest.mark.parametrize(
    "params",
    [
        {"question": " "},
        {"options": []},
        {"options": [{"key": "a", "label": "A", "outcome": "approve"}] * 2},
    ],
)
def test_a_question_that_nobody_could_answer_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        ask(**params)


@pytest.mark.parametrize(
    "params",
    [
        {"remind": ["soon"]},
        {"expire": "two fortnights"},
        {"then": "send"},
        {"options": [{"key": "a", "label": "A"}]},
        {"options": [{"key": "a", "label": "A", "outcome": "approve", "colour": "red"}]},
    ],
)
def test_what_is_ill_typed_is_refused_by_the_schema_before_any_run(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ask(**params)


def test_who_may_answer_and_what_makes_it_void_travel_with_the_question() -> None:
    outcome = ask(who=["ana", "group:office"], not_asker=True, void_on=["replied"], void_to="cold")

    assert outcome.who == ["ana", "group:office"]
    assert outcome.not_asker
    assert (outcome.void_on, outcome.void_to) == (["replied"], "cold")
    usual = ask()
    assert (usual.who, usual.not_asker, usual.void_on, usual.void_to) == ([], False, [], "complete")


@pytest.mark.parametrize("who", ["", " ", "group:", "team:office", "group:a:b", "x" * 151])
def test_who_may_answer_is_a_login_or_a_group(who: str) -> None:
    with pytest.raises(ValidationError):
        ask(who=[who])


def test_only_the_choice_is_kept_readable() -> None:
    known = handlers.get("human.ask")

    assert known.open_fields == {"choice"}
    assert known.asks


def test_a_question_may_wait_for_working_days() -> None:
    outcome = ask(remind=["1 working day"], escalate="2 working days", expire="5 days")

    # It is Monday the 15th; the third of its working days would be Thursday.
    assert outcome.remind_after == [86_400]
    assert (outcome.escalate_after, outcome.expire_after) == (2 * 86_400, 5 * 86_400)
