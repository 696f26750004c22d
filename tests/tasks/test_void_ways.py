"""Laws of where a withdrawn question may lead: not to anything that a customer sees."""

import pytest

from tasks import definition
from tasks.definition import DefinitionError

HEAD = """\
sop: ask-first
name: Ask first
inputs: {customer_name: {type: string}, customer_email: {type: string}}
steps:
  - key: approve
    handler: human.ask
    with:
      question: Send it?
      draft: {to: "{{ customer_email }}", subject: Hello, text: Hello there}
      void_on: [replied]
      void_to: VOID
  - key: mail
    handler: email.send
    with: {message: "{{ approve }}", purpose: service}
  - key: tell
    handler: chat.post
    with: {text: done}
"""


def problems(void_to: str, more: str = "") -> list[str]:
    try:
        definition.read(HEAD.replace("VOID", void_to) + more)
    except DefinitionError as error:
        return [problem.message for problem in error.problems]
    return []


@pytest.mark.parametrize("void_to", ["complete", "tell"])
def test_a_withdrawn_question_may_end_the_run_or_lead_past_what_is_sent(void_to: str) -> None:
    assert problems(void_to) == []


@pytest.mark.parametrize("void_to", ["mail", "next"])
def test_a_withdrawn_question_is_no_yes(void_to: str) -> None:
    assert any("nobody approved it on the way approve → mail" in message for message in problems(void_to))


def test_the_answer_of_a_withdrawn_question_may_not_be_named() -> None:
    more = "  - key: note\n    handler: chat.post\n    with: {text: '{{ approve.choice }}'}\n"

    assert any("approve" in message for message in problems("note", more))
    assert problems("tell") == []


def test_a_step_that_does_not_exist_is_no_way_out() -> None:
    assert any("there is no step 'nowhere'" in message for message in problems("nowhere"))


def test_where_the_run_goes_after_an_answer_is_still_the_steps_own_to_say() -> None:
    text = HEAD.replace("VOID", "tell").replace(
        "    handler: human.ask\n", "    handler: human.ask\n    on_success: mail\n"
    )

    assert definition.read(text).step("approve").on_success == "mail"
