"""Laws of the step that reads a mail to the firm: by rules, and what they do not settle is for a person."""

from typing import Any

import pytest
from pydantic import ValidationError

from sopengine.errors import DataError
from tasks.outcome import Done, handlers
from tests.tasks.steps import run, step_run

QUOTED = """\
Thank you, that works for us.

On Mon, 1 Mar 2027 at 09:12, Green Lawns <office@lawns.test> wrote:
> We are sorry that you were unhappy with our crew.
"""
ABSENT = "I am out of office until Monday."


def read(text: str = "", **params: Any) -> dict[str, Any]:
    outcome = run("lead.read", step_run(), **{"sender": "ada.lind@example.test", "text": text, **params})
    assert isinstance(outcome, Done)
    return dict(outcome.values)


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Hi, could you send me a quote for mowing?", "new_lead"),
        ("How much is fertilizing for a small lot?", "new_lead"),
        ("Snow removal, 55408, please call.", "new_lead"),
        ("Do you offer aeration in the fall?", "new_lead"),
        ("When could you come? Can we move my visit?", "scheduling"),
        ("I need an appointment and an estimate.", "new_lead"),
        ("I do not understand my invoice from May.", "existing_customer"),
        ("My contract says weekly mowing. What does it cost to add weeds?", "existing_customer"),
        ("I am very disappointed. Nobody came yesterday.", "complaint"),
        ("Your crew ruined the flower bed, I want my money back.", "complaint"),
        ("We rank your website on the first page of Google!", "spam"),
        ("http://a.test http://b.test http://c.test http://d.test", "spam"),
        ("Our SEO agency is looking for lawn care firms.", "unsure"),
        ("So unhappy with my present firm. What do you charge? A quote please.", "unsure"),
        ("Hello, are you there?", "unsure"),
        ("", "unsure"),
    ],
)
def test_the_words_of_a_mail_say_what_it_is_about(text: str, category: str) -> None:
    assert read(text)["category"] == category


def test_the_subject_counts_as_much_as_the_text() -> None:
    assert read("See above.", subject="Quote for mowing")["category"] == "new_lead"


@pytest.mark.parametrize(
    "params",
    [
        {"is_auto_reply": True},
        {"subject": "Automatic reply: Quote"},
        {"text": ABSENT},
        {"sender": "MAILER-DAEMON@example.test"},
        {"sender": "no-reply@shop.example.test"},
    ],
)
def test_what_a_machine_has_sent_is_no_lead(params: dict[str, Any]) -> None:
    assert read(**{"text": "A quote, please", **params})["category"] == "auto_reply"


def test_a_person_who_says_that_nobody_is_in_is_no_machine() -> None:
    asked = "How much is a quote for weed control? I am out of office until Monday."
    assert read(asked)["category"] == "unsure"


def test_a_word_stands_at_the_beginning_of_a_word() -> None:
    assert read("We have a headquarters in Edina and a misquote.")["category"] == "unsure"
    assert read("Weeds everywhere!")["services"] == ["weed_control"]
    assert read("The tweed jacket")["services"] == []


def test_a_quoted_mail_speaks_for_nobody() -> None:
    assert read(QUOTED)["category"] == "unsure"
    assert read("> I complain\nA quote for mowing, please")["category"] == "new_lead"


def test_a_firm_has_words_of_its_own() -> None:
    assert read("Gutters?", signs={"new_lead": ["gutter"]})["category"] == "new_lead"
    assert read("Gutters?", services={"gutters": ["gutter"]})["services"] == ["gutters"]
    assert read("Gutters?", services={"gutters": ["gutter"]})["category"] == "new_lead"
    with pytest.raises(DataError, match="no category 'gossip'"):
        read("x", signs={"gossip": ["he said"]})


def test_which_rules_spoke_is_told_and_nothing_of_what_was_written() -> None:
    seen = read("A quote for mowing. And when could you come?", subject="Mrs. Secret asks")
    assert seen["because"] == ["new_lead", "scheduling"]
    assert "Secret" not in str({name: seen[name] for name in handlers.get("lead.read").open_fields})


@pytest.mark.parametrize(
    ("given", "text", "name"),
    [
        ("Ada Lind", "", "Ada Lind"),
        ('"Lind, Ada"', "", "Ada Lind"),
        ("ada.lind@example.test", "My name is Bo Ek and I want a quote", "Bo Ek"),
        ("", "Hi, this is Zoë O'Dwyer from Edina", "Zoë O'Dwyer"),
        ("", "I need a quote.\n\nThanks,\nJo Anne Blanc\n612 555 0188", "Jo Anne Blanc"),
        ("", "I need a quote.\n\nBest regards\nKarl Olson", "Karl Olson"),
        ("", "I'm Interested In a quote", ""),
        ("You won! https://evil.example/claim", "", ""),
        ("Call 0900 123456 now", "", ""),
        ("win.example.com", "", ""),
        ("Dr. Ana-Maria O'Neil Jr.", "", "Dr. Ana-Maria O'Neil Jr."),
        ("", "Thanks,\nsee you", ""),
    ],
)
def test_the_name_is_as_shown_introduced_or_signed(given: str, text: str, name: str) -> None:
    assert read(text, sender_name=given)["name"] == name


@pytest.mark.parametrize(
    ("sender", "called"),
    [
        ("ada.lind@example.test", "Ada Lind"),
        ("kowalski+lawn@example.test", "Kowalski"),
        ("1@x.test", "1@x.test"),
    ],
)
def test_somebody_without_a_name_is_called_by_the_address(sender: str, called: str) -> None:
    seen = read("A quote, please", sender=sender)
    assert (seen["name"], seen["called"]) == ("", called)


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("Call me: (612) 555-0134.", "+16125550134"),
        ("612-555-0134", "+16125550134"),
        ("+1 612 555 0134, after five", "+16125550134"),
        ("Invoice 2027-00-1234567890123", ""),
        ("From 2027-03-10 to 2027-03-14", ""),
        ("No number", ""),
    ],
)
def test_the_first_whole_phone_number_is_taken(text: str, phone: str) -> None:
    assert read(text)["phone"] == phone


def test_the_answer_is_due_so_long_after_the_step_began_on_the_business_clock() -> None:
    seen = read("x")  # the step begins at 15:00 UTC, 9:00 in Chicago
    assert (seen["since"], seen["due"]) == ("2027-02-15T09:00:00-06:00", "2027-02-16T09:00:00-06:00")
    assert read("x", answer_within="2h")["due"] == "2027-02-15T11:00:00-06:00"
    with pytest.raises(ValidationError):
        read("x", answer_within="soon")


def test_a_mail_of_a_megabyte_is_read_in_a_moment() -> None:
    assert read("A quote. " + "612 " * 250_000)["category"] == "new_lead"
    assert read("My name is " + "A" * 100_000)["name"] != "x"
