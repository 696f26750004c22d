"""What keeps a well-formed SOP from being published: what the law wants, and what its texts need."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from pytest_django import Settings

from tasks import definition
from tasks.definition import DefinitionError, SopDef, StepDef
from tests.tasks.office import person

LINK = "No more: {{ unsubscribe_url }}"
BARE = {"subject": "S", "text": "Come!", "to": "a@example.com"}

pytestmark = pytest.mark.django_db


def sop(draft: dict[str, Any], purpose: str = "marketing", **more: Any) -> SopDef:
    """Return a SOP that asks a person about this draft and sends it."""
    return SopDef(
        slug="offer",
        name="Offer",
        steps=(
            StepDef("draft", "", "message.draft", draft),
            StepDef("ask", "", "human.ask", {"question": "Send?", "draft": "{{ draft }}"}),
            StepDef("send", "", "email.send", {"message": "{{ ask }}", "purpose": purpose}),
        ),
        **more,
    )


def refusal(given: SopDef) -> str:
    """Return why it is not published; "" when it is."""
    try:
        definition.publish(definition.save_rows(given))
    except DefinitionError as error:
        return str(error)
    return ""


def test_a_marketing_sop_needs_the_firms_address(settings: Settings) -> None:
    offer = sop({**BARE, "text": LINK})
    settings.BUSINESS_ADDRESS = "  "
    assert "set BUSINESS_ADDRESS first" in refusal(offer)
    assert "step 'send'" in refusal(offer)
    settings.BUSINESS_ADDRESS = "1 Main Street"
    assert refusal(offer) == ""


def test_a_purpose_that_is_known_only_at_run_may_be_marketing() -> None:
    given = sop(BARE, "{{ purpose }}", inputs={"purpose": {"type": "string"}})
    assert "into its text" in refusal(given)


@pytest.mark.parametrize("purpose", ["service", "transactional"])
def test_other_mail_needs_neither_address_nor_a_way_to_leave(purpose: str, settings: Settings) -> None:
    settings.BUSINESS_ADDRESS = ""
    assert refusal(sop(BARE, purpose)) == ""


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({}, "its text"),
        ({"text": "unsubscribe_url"}, "its text"),
        ({"text": LINK, "html": "<p>Come!</p>"}, "its html"),
        ({"text": LINK, "html": "<a href='{{ unsubscribe_url }}'>No more</a>"}, ""),
    ],
)
def test_every_part_of_marketing_mail_says_how_to_get_no_more(parts: dict[str, str], missing: str) -> None:
    said = refusal(sop({**BARE, **parts}))
    assert (missing in said) if missing else said == ""


def test_the_templates_of_a_folder_are_looked_at(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "templates" / "messages" / "hello"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("Hello")
    (folder / "text.txt").write_text(LINK)
    (folder / "html.html").write_text("<p>Hello</p>")
    settings.BASE_DIR = tmp_path
    said = refusal(sop({"template": "hello", "to": "a@example.com"}))
    assert "step 'draft'" in said
    assert "into its html" in said


def test_marketing_mail_that_no_draft_wrote_is_refused() -> None:
    bare = SopDef(
        slug="blast",
        name="Blast",
        autonomous=True,
        steps=(
            StepDef(
                "send",
                "",
                "email.send",
                {"message": {"subject": "S", "text": "T"}, "to": "a@b.co", "purpose": "marketing"},
            ),
        ),
    )
    assert "let a message.draft write it" in refusal(bare)


def asked(*who: str) -> SopDef:
    """Return a SOP that asks these."""
    return SopDef(
        slug="ask", name="Ask", steps=(StepDef("ask", "", "human.ask", {"question": "?", "who": list(who)}),)
    )


def test_who_may_answer_must_be_known() -> None:
    User.objects.create_user("ana")
    User.objects.create_user("gone", is_active=False)
    Group.objects.create(name="office")
    assert refusal(asked("ana", "group:office")) == ""
    assert refusal(asked("ana", "anna")) == (
        "ask: step 'ask', with.who.1: there is no active login 'anna'; did you mean 'ana'? "
        "expected a login, or group:<name>, that exists"
    )
    assert "with.who.0: there is no active login 'gone'; expected a login" in refusal(asked("gone"))
    said = refusal(asked("group:ofice", "group:night"))
    assert "with.who.0: there is no group 'ofice'; did you mean 'group:office'? expected" in said
    assert "with.who.1: there is no group 'night'; expected" in said


def test_who_is_known_only_at_run_is_not_looked_for() -> None:
    given = replace(asked("{{ clerk }}"), inputs={"clerk": {"type": "string"}})
    assert refusal(given) == ""


def test_a_draft_may_be_edited_and_saved_before_it_can_be_published(settings: Settings) -> None:
    settings.BUSINESS_ADDRESS = ""
    assert definition.validate(sop(BARE)) == []
    draft = definition.save_rows(sop(BARE))
    page = person("ana", "view_sop", "change_sop").get(f"/admin/tasks/sop/{draft.pk}/publish/")
    assert "set BUSINESS_ADDRESS first" in page.content.decode()


def test_the_command_says_what_is_missing(settings: Settings) -> None:
    settings.BUSINESS_ADDRESS = ""
    definition.save_rows(sop({**BARE, "text": LINK}))
    with pytest.raises(CommandError, match="BUSINESS_ADDRESS"):
        call_command("sop", "publish", "offer")


@pytest.mark.parametrize("path", definition.shipped(), ids=lambda path: path.stem)
def test_the_shipped_marketing_mails_say_how_to_get_no_more(path: Path, settings: Settings) -> None:
    settings.REVIEW_LINK = "https://reviews.example.com/us"
    assert definition.obstacles(definition.read_file(path)) == []


def test_an_input_cannot_take_the_name_of_the_link() -> None:
    given = sop({**BARE, "text": LINK}, inputs={"unsubscribe_url": {"type": "string"}})
    assert "reserved" in refusal(given)


def test_the_link_is_known_only_where_a_message_is_written() -> None:
    steps = (StepDef("post", "", "chat.post", {"text": "{{ unsubscribe_url }}"}),)
    assert "unknown variable 'unsubscribe_url'" in refusal(SopDef(slug="p", name="P", steps=steps))
