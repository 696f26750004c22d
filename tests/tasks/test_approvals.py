"""Laws of an answer: the first one wins, and what was approved is what goes on."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections
from pytest_django import Settings

from credentials import vault
from tasks import approvals, contacts, engine, journal
from tasks.approvals import AnswerRefused
from tasks.models import Approval, SopVersion, Task
from tasks.outcome import Done, StepRun
from tests.tasks.runs import Probe, begun, fresh, published

pytestmark = pytest.mark.django_db

DRAFT = {
    "to": "ann@example.test",
    "subject": "Your lawn",
    "text": "Dear Ann,\n\nsee you  soon.\n",
    "html": "<p>Dear Ann</p>",
}
ASKS = {"handler": "human.ask", "with": {"question": "Send this to Ann?", "draft": DRAFT}}


def asked(version: SopVersion | None = None) -> Approval:
    """Return the question of a run that has come to it."""
    task = begun(version or published(ASKS, "probe.pure"))
    engine.drain()
    return Approval.objects.get(task=task)


@pytest.fixture
def seen(probe: Probe) -> list[dict[str, Any]]:
    """What the step after the question was given."""
    contexts: list[dict[str, Any]] = []

    def remember(step: StepRun) -> Done:
        contexts.append(dict(step.context))
        return Done()

    probe.told["s2"] = remember
    return contexts


@pytest.fixture
def ana() -> User:
    """Ana may answer."""
    user = User.objects.create_user("ana")
    user.user_permissions.add(Permission.objects.get(codename="answer_approval"))
    return User.objects.get(pk=user.pk)


@pytest.fixture
def bob() -> User:
    """Bob works here and may not answer."""
    return User.objects.create_user("bob", is_staff=True)


def refused(approval: Approval, choice: str = "approve", **options: Any) -> str:
    with pytest.raises(AnswerRefused) as caught:
        approvals.answer(approval.pk, choice, **{"by": None, **options})
    return str(caught.value)


# -- what is approved is what goes on --------------------------------------------------------------


def test_what_was_approved_reaches_the_next_step_byte_for_byte(seen: list[dict[str, Any]], ana: User) -> None:
    approval = approvals.answer(asked().pk, "approve", by=ana)
    engine.drain()

    assert seen[0]["s1"] == {"choice": "approve", **DRAFT}
    assert (approval.state, approval.choice, approval.edited, approval.answered_by) == (
        Approval.State.ANSWERED,
        "approve",
        False,
        ana,
    )
    assert approval.answered_at is not None


def test_an_edit_replaces_the_draft_and_its_html_says_the_same(seen: list[dict[str, Any]]) -> None:
    text = "Dear Ann & Bo,\n\nline one\nline <two>\n"

    approval = approvals.answer(asked().pk, "edit", by=None, edited={"text": text})
    engine.drain()

    assert approval.edited
    assert seen[0]["s1"] == {
        "choice": "edit",
        "to": DRAFT["to"],
        "subject": DRAFT["subject"],
        "text": text,
        "html": "<p>Dear Ann &amp; Bo,</p>\n<p>line one<br>\nline &lt;two&gt;</p>",
    }


def test_an_edit_may_change_subject_text_and_html(seen: list[dict[str, Any]]) -> None:
    new = {"subject": "New", "text": "New text", "html": "<p>New <b>text</b></p>"}

    approvals.answer(asked().pk, "edit", by=None, edited=new)
    engine.drain()

    assert seen[0]["s1"] == {"choice": "edit", "to": DRAFT["to"], **new}


def test_an_edited_text_never_travels_with_the_old_html(seen: list[dict[str, Any]]) -> None:
    approvals.answer(asked().pk, "edit", by=None, edited={"text": "New", "html": DRAFT["html"]})
    engine.drain()

    assert seen[0]["s1"]["html"] == "<p>New</p>"


def test_an_edit_of_the_subject_leaves_the_rest_as_it_was(seen: list[dict[str, Any]]) -> None:
    approvals.answer(asked().pk, "edit", by=None, edited={"subject": "New"})
    engine.drain()

    assert seen[0]["s1"] == {"choice": "edit", **DRAFT, "subject": "New"}


def test_a_form_that_sends_the_text_back_unchanged_has_edited_nothing(seen: list[dict[str, Any]]) -> None:
    as_a_form_sends_it = DRAFT["text"].replace("\n", "\r\n")

    approval = approvals.answer(asked().pk, "edit", by=None, edited={"text": as_a_form_sends_it})
    engine.drain()

    assert not approval.edited
    assert seen[0]["s1"] == {"choice": "edit", **DRAFT}


def test_a_plain_draft_stays_plain_when_it_is_edited(seen: list[dict[str, Any]]) -> None:
    plain = {"handler": "human.ask", "with": {"question": "?", "draft": {**DRAFT, "html": ""}}}

    approvals.answer(asked(published(plain, "probe.pure")).pk, "edit", by=None, edited={"text": "New"})
    engine.drain()

    assert seen[0]["s1"]["html"] == ""


LINK = "http://the-link"  # stands for a real one, which is made with a key of the database
OFFER = {
    **DRAFT,
    "to": "ada@example.test",
    "text": f"Dear Ada,\n\nshall we come by? Reply yes.\n\nNo more offers, please: {LINK}\n",
    "html": f'<html><body><p>Dear Ada</p><p><a href="{LINK}">No more</a></p></body></html>',
}
WAY_OUT = f"No more offers, please: {LINK}"


def with_link(parts: dict[str, str]) -> dict[str, str]:
    link = contacts.unsubscribe_url("ada@example.test", "cus_1")
    return {name: value.replace(LINK, link) for name, value in parts.items()}


@pytest.mark.parametrize(
    ("edited", "text", "html"),
    [
        ({"text": "Come!"}, f"Come!\n\n{WAY_OUT}\n", f"<p>Come!</p>\n<p>{WAY_OUT}</p>"),
        ({"text": f"Come!\r\n{LINK}x"}, f"Come!\n{LINK}x\n\n{WAY_OUT}\n", None),
        ({"text": f"Out: {LINK}. Bye"}, f"Out: {LINK}. Bye", f"<p>Out: {LINK}. Bye</p>"),
        ({"subject": "New"}, OFFER["text"], OFFER["html"]),
        ({"html": "<p>Come!</p>"}, OFFER["text"], f"<p>Come!</p>\n<p>{WAY_OUT}</p>"),
        (
            {"html": "<html><BODY>Come!</BODY></html>"},
            OFFER["text"],
            f"<html><BODY>Come!\n<p>{WAY_OUT}</p></BODY></html>",
        ),
        (
            {"text": "Come!", "html": f"<a href='{LINK}'>No</a>"},
            f"Come!\n\n{WAY_OUT}\n",
            f"<a href='{LINK}'>No</a>",
        ),
    ],
)
def test_an_edit_cannot_take_the_unsubscribe_link_out(
    seen: list[dict[str, Any]], edited: dict[str, str], text: str, html: str | None
) -> None:
    asks = {"handler": "human.ask", "with": {"question": "?", "draft": with_link(OFFER)}}

    approval = asked(published(asks, "probe.pure"))
    approvals.answer(approval.pk, "edit", by=None, edited=with_link(edited))
    engine.drain()

    want = with_link({"text": text, "html": html or ""})
    assert seen[0]["s1"]["text"] == want["text"]
    assert html is None or seen[0]["s1"]["html"] == want["html"]


@pytest.mark.parametrize(
    ("draft", "line"),
    [
        (f"Shall we come by in April? No more offers: {LINK} Yours, Ann", f"No more offers: {LINK}"),
        (f"Yours, Ann\n\nYou want no such mails? {LINK}", f"You want no such mails? {LINK}"),
        (f"Yours, Ann\n\n{LINK}", f"No more mail like this: {LINK}"),
        ("See https://example.test/unsubscribe/abc.def", ""),
        ("Dear Ann", ""),
    ],
)
def test_the_way_out_is_put_back_with_the_words_that_the_draft_had_for_it(draft: str, line: str) -> None:
    told = with_link({"draft": draft, "line": line})
    found = contacts.way_out(told["draft"])
    assert (found.line if found else "") == told["line"]


def test_a_declined_run_ends_and_nothing_after_it_runs(seen: list[dict[str, Any]]) -> None:
    approval = asked()

    approvals.answer(approval.pk, "decline", by=None)
    engine.drain()

    task = fresh(approval.task)
    assert (task.status, task.result) == (Task.Status.COMPLETED, "declined")
    assert not seen


def test_no_step_runs_before_an_answer_and_the_answer_runs_it_once(seen: list[dict[str, Any]]) -> None:
    approval = asked()
    engine.drain()
    assert not seen

    approvals.answer(approval.pk, "approve", by=None)
    for _ in range(3):
        engine.drain()

    assert len(seen) == 1


@pytest.mark.parametrize(
    ("edited", "wrong"),
    [
        ({"text": "Dear {{ customer_name }}"}, "unfilled place"),
        ({"subject": "{% if x %}"}, "unfilled place"),
        ({"text": " \n"}, "text is empty"),
        ({"subject": "a\nBcc: eve@example.test"}, "one line"),
        ({"subject": "x" * 251}, "one line"),
        ({"text": "a\x00b"}, "cannot be stored"),
        ({"to": "eve@example.test"}, "Only subject, text and html can be edited, not to"),
        ({}, "needs the new text"),
        (None, "needs the new text"),
    ],
)
def test_an_edit_that_must_not_go_out_is_refused_and_the_question_stays_open(
    edited: dict[str, str] | None, wrong: str
) -> None:
    approval = asked()

    assert wrong in refused(approval, "edit", edited=edited)

    approval.refresh_from_db()
    assert approval.state == Approval.State.OPEN


@pytest.mark.parametrize("choice", ["approve", "decline"])
def test_only_the_answer_that_edits_takes_a_new_text(choice: str) -> None:
    assert "takes no new text" in refused(asked(), choice, edited={"text": "New"})


# -- who, and when ---------------------------------------------------------------------------------


def test_the_second_answer_is_told_who_decided_what_and_when(ana: User, settings: Settings) -> None:
    settings.TIME_ZONE = "America/Chicago"
    approval = asked()
    approvals.answer(approval.pk, "decline", by=ana)
    Approval.objects.update(answered_at="2027-02-15T15:04:00Z")

    assert refused(approval) == "ana chose “Don't send” on 15 February 2027 at 09:04."
    engine.drain()
    assert fresh(approval.task).result == "declined"


def test_an_answer_after_the_end_of_the_run_is_told_who_decided(ana: User) -> None:
    approval = asked()
    approvals.answer(approval.pk, "decline", by=ana)
    engine.drain()

    assert refused(approval).startswith("ana chose “Don't send” on ")


def test_an_answer_from_the_command_line_has_no_name() -> None:
    approval = asked()
    approvals.answer(approval.pk, "approve", by=None)

    assert "Somebody at the command line chose “Send as is”" in refused(approval)


def test_who_has_no_permission_is_refused_by_name_before_anything_is_read(bob: User) -> None:
    approval = asked()

    assert refused(approval, by=bob).startswith("bob may not answer")
    approval.refresh_from_db()
    assert approval.state == Approval.State.OPEN


def test_who_has_left_the_firm_is_refused(ana: User) -> None:
    ana.is_active = False
    ana.save()

    assert "may not answer" in refused(asked(), by=User.objects.get(pk=ana.pk))


def test_an_answer_that_the_question_does_not_have_is_refused_with_those_it_has() -> None:
    told = refused(asked(), "send")

    assert "no answer “send”" in told
    assert "approve (Send as is), edit (Edit first), decline (Don't send)" in told


def test_an_answer_after_the_end_of_the_question_is_refused_even_before_the_run_notices() -> None:
    approval = asked()
    Approval.objects.update(expires_at=journal.database_now() - timedelta(seconds=1))

    assert "Nobody answered in time" in refused(approval)


def test_an_answer_to_a_cancelled_run_is_refused() -> None:
    approval = asked()
    engine.signal([approval.task_id], "cancel")
    engine.drain()

    assert refused(approval)
    assert fresh(approval.task).status == Task.Status.CANCELLED


def test_an_answer_to_a_step_that_the_run_has_left_is_out_of_date() -> None:
    approval = asked()
    Task.objects.filter(pk=approval.task_id).update(visit=2)

    assert "out of date" in refused(approval)


def test_an_answer_to_a_question_whose_text_is_gone_is_refused() -> None:
    approval = asked()
    Approval.objects.update(sealed=None)

    assert "gone" in refused(approval)


def test_a_withdrawn_question_says_so() -> None:
    approval = asked()
    Approval.objects.update(state=Approval.State.VOID)

    assert "withdrawn" in refused(approval)


@pytest.mark.parametrize("unknown", [uuid4(), "no-uuid", ""])
def test_a_question_that_does_not_exist_is_refused(unknown: object) -> None:
    with pytest.raises(AnswerRefused, match="no such question"):
        approvals.answer(str(unknown), "approve", by=None)


def test_a_paused_run_takes_the_answer_and_acts_on_it_when_it_goes_on(seen: list[dict[str, Any]]) -> None:
    approval = asked()
    engine.signal([approval.task_id], "pause")
    engine.drain()

    approvals.answer(approval.pk, "approve", by=None)
    engine.drain()
    assert not seen

    engine.signal([approval.task_id], "resume")
    engine.drain()
    assert len(seen) == 1


@pytest.mark.django_db(transaction=True)
def test_of_many_answers_at_once_exactly_one_is_taken(seen: list[dict[str, Any]]) -> None:
    approval = asked()
    taken, told = [], []

    def give(choice: str) -> None:
        try:
            taken.append(approvals.answer(approval.pk, choice, by=None).choice)
        except AnswerRefused as error:
            told.append(str(error))
        finally:
            connections.close_all()

    together([lambda choice=choice: give(choice) for choice in ["approve", "decline"] * 4])  # type: ignore[misc]

    assert len(taken) == 1
    assert len(told) == 7
    assert all("Somebody at the command line chose" in one for one in told)
    approval.refresh_from_db()
    assert approval.choice == taken[0]
    engine.drain()
    assert len(seen) == (taken[0] == "approve")


def together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- many at once ----------------------------------------------------------------------------------


def test_a_batch_answers_each_question_for_itself_and_says_why_others_refused(ana: User) -> None:
    version = published(ASKS, "probe.pure")
    several = [asked(version) for _ in range(3)]
    approvals.answer(several[1].pk, "decline", by=ana)

    result = approvals.answer_batch([str(one.pk) for one in several], "approve", by=ana)

    assert set(result.answered) == {several[0].pk, several[2].pk}
    assert list(result.refused) == [several[1].pk]
    assert "ana chose “Don't send”" in result.refused[several[1].pk]


def test_a_batch_never_edits() -> None:
    result = approvals.answer_batch([asked().pk], "edit", by=None)

    assert not result.answered


# -- what is kept ------------------------------------------------------------------------------------


def test_the_draft_can_be_read_while_the_run_goes_on_and_is_gone_with_it(probe: Probe) -> None:
    approval = asked()
    assert approvals.draft_of(approval) == {"question": "Send this to Ann?", **DRAFT}

    approvals.answer(approval.pk, "edit", by=None, edited={"text": "New"})
    approval.refresh_from_db()
    assert approvals.draft_of(approval) == {
        "question": "Send this to Ann?",
        **DRAFT,
        "text": "New",
        "html": "<p>New</p>",
    }

    engine.drain()
    approval.refresh_from_db()
    assert approval.sealed is None
    assert approvals.draft_of(approval) is None


def test_neither_the_question_nor_the_draft_stands_readable_in_the_row() -> None:
    approval = asked()
    approvals.answer(approval.pk, "edit", by=None, edited={"text": "Canary"})
    approval.refresh_from_db()

    row = str(Approval.objects.filter(pk=approval.pk).values().get())
    assert "Canary" not in row
    assert "ann@" not in row
    assert approval.sealed is not None
    with pytest.raises(vault.VaultError):
        vault.unseal(approval.sealed, table="tasks_approval", row=str(uuid4()), field="sealed")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("One", "<p>One</p>"),
        ("One\n\n\n\nTwo\n", "<p>One</p>\n<p>Two</p>"),
        ("<script>", "<p>&lt;script&gt;</p>"),
        ("a\r\nb", "<p>a<br>\nb</p>"),
    ],
)
def test_plain_text_becomes_paragraphs_and_nothing_else(text: str, html: str) -> None:
    assert approvals.html_of(text) == html
