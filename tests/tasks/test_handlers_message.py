"""Laws of the step that writes a text to a customer."""

from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from sopengine.errors import DataError
from tasks.outcome import Done, handlers
from tests.tasks.steps import run, step_run

PERSON: dict[str, Any] = {"customer_name": "Ann <b>", "customer_email": "ann@example.test", "season": 2027}
INLINE = {
    "subject": "Season {{ season }}",
    "text": "Dear {{ customer_name }}",
    "html": "<p>Dear {{ customer_name }}</p>",
}


def draft(context: dict[str, Any], **params: Any) -> dict[str, Any]:
    outcome = run("message.draft", step_run(context=context), **params)
    assert isinstance(outcome, Done)
    return dict(outcome.values)


def test_an_inline_message_is_rendered_for_the_customer_and_only_its_html_is_escaped() -> None:
    assert draft(PERSON, **INLINE) == {
        "to": "ann@example.test",
        "subject": "Season 2027",
        "text": "Dear Ann <b>",
        "html": "<p>Dear Ann &lt;b&gt;</p>",
    }


def test_a_template_is_the_folder_of_that_name(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "templates" / "messages" / "hello"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("Hello {{ customer_name }}\n")
    (folder / "text.txt").write_text("From the folder: {{ note }}\n")
    settings.BASE_DIR = tmp_path

    made = draft({**PERSON, "note": "old"}, template="hello", values={"note": "new"})

    assert made["text"] == "From the folder: new"


def test_values_of_the_run_are_never_rendered_again() -> None:
    with pytest.raises(DataError, match=r"\{\{"):
        draft({**PERSON, "customer_name": "{{ season }}"}, **INLINE)


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_a_text_does_not_greet_a_customer_without_a_name(nothing: object) -> None:
    with pytest.raises(DataError, match="customer_name"):
        draft({**PERSON, "customer_name": nothing}, **INLINE)


def test_the_message_goes_to_the_address_given_before_that_of_the_customer() -> None:
    assert draft(PERSON, **INLINE, to="other@example.test")["to"] == "other@example.test"


@pytest.mark.parametrize("context", [{}, {"customer_email": None}])
def test_a_customer_without_an_address_gets_no_draft(context: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no recipient"):
        draft({**context, "customer_name": "Ann", "season": 1}, **INLINE)


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({}, "needs a template"),
        ({"subject": "only"}, "needs a template"),
        ({"template": "hello", "text": "both"}, "not both"),
        ({"template": "no-such"}, "no such message template"),
    ],
)
def test_a_message_without_a_source_says_what_is_expected(params: dict[str, Any], wrong: str) -> None:
    with pytest.raises(DataError, match=wrong):
        draft(PERSON, **params)


def test_no_part_of_a_draft_is_kept_readable() -> None:
    known = handlers.get("message.draft")

    assert known.open_fields == frozenset()
    assert known.raw_params == {"subject", "text", "html"}
    assert not known.row_params
