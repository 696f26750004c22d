"""Laws of the commands with which staff answer questions and steer runs."""

import json
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command

from tasks import approvals, engine
from tasks.models import Approval, Task
from tasks.outcome import DataError, StepRun, Transient
from tasks.short_ids import NoSuchId, find
from tests.tasks.runs import Probe, begun, fresh, published
from tests.tasks.test_approvals import ASKS, DRAFT, asked

pytestmark = pytest.mark.django_db


def said(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def told(*arguments: str) -> Any:
    return json.loads(said(*arguments, "--json"))


def complaint(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command(*arguments, stdout=StringIO())
    return str(caught.value)


def broken(step: StepRun) -> Any:
    raise DataError("broken")


# -- short ids -------------------------------------------------------------------------------------


def with_ids(*ids: str) -> None:
    template = begun(published("probe.pure"))
    for id_ in ids:
        Task.objects.create(
            id=UUID(id_),
            version=template.version,
            step="s1",
            created_at=template.created_at,
            status="completed",
        )


@pytest.mark.parametrize("typed", ["aaaaaa", "AAAAAAAA-1111", "aaaaaaaa-1111-4111-8111-111111111111"])
def test_a_run_is_found_by_the_first_characters_of_its_id(typed: str) -> None:
    with_ids("aaaaaaaa-1111-4111-8111-111111111111", "bbbbbbbb-1111-4111-8111-111111111111")

    assert str(find(Task.objects.all(), typed).pk).startswith("aaaaaaaa")


@pytest.mark.parametrize(
    ("typed", "wrong"),
    [
        ("aaaaa", "at least|first 6 characters"),
        ("aaaaaaaa", "More than one run"),
        ("cccccc", "no run 'cccccc'"),
        ("not-an-id", "is no id"),
        ("' OR 1=1", "is no id"),
    ],
)
def test_an_id_that_does_not_mean_one_run_says_why(typed: str, wrong: str) -> None:
    with_ids("aaaaaaaa-1111-4111-8111-111111111111", "aaaaaaaa-2222-4111-8111-111111111111")

    with pytest.raises(NoSuchId, match=wrong):
        find(Task.objects.all(), typed)


# -- approval ----------------------------------------------------------------------------------------


def test_open_questions_are_listed_with_their_answers_and_without_customer_data() -> None:
    approval = asked()

    listed = said("approval", "list")

    assert str(approval.pk)[:8] in listed
    assert "approve (Send as is), edit (Edit first), decline (Don't send)" in listed
    assert "Ann" not in listed


def test_a_draft_is_shown_to_who_asks_for_it() -> None:
    asked()

    (row,) = told("approval", "list", "--drafts")
    assert row["draft"] == {"question": "Send this to Ann?", **DRAFT}
    assert "    | Dear Ann," in said("approval", "list", "--drafts")


def test_answered_questions_are_listed_only_on_demand() -> None:
    approval = asked()
    approvals.answer(approval.pk, "decline", by=None)

    assert said("approval", "list") == "No question waits for an answer.\n"
    (row,) = told("approval", "list", "--all")
    assert (row["state"], row["choice"]) == ("answered", "decline")
    assert "command line chose “Don't send”" in said("approval", "list", "--all")


def test_a_question_is_answered_by_the_first_characters_of_its_id() -> None:
    approval = asked()

    answered = said("approval", "answer", str(approval.pk)[:8], "--choose", "decline")
    engine.drain()

    assert "chose “Don't send”" in answered
    assert fresh(approval.task).result == "declined"


def test_a_file_replaces_the_text_of_the_draft(tmp_path: Path) -> None:
    approval = asked()
    (tmp_path / "new.txt").write_text("Dear Ann, änders\n", encoding="utf-8")

    told("approval", "answer", str(approval.pk), "--choose", "edit", "--text", str(tmp_path / "new.txt"))

    approval.refresh_from_db()
    final = approvals.draft_of(approval)
    assert final is not None
    assert final["text"] == "Dear Ann, änders\n"


def test_an_answer_in_a_users_name_needs_the_users_permission() -> None:
    approval = asked()
    User.objects.create_user("bob")
    ana = User.objects.create_user("ana")
    ana.user_permissions.add(Permission.objects.get(codename="answer_approval"))
    arguments = ("approval", "answer", str(approval.pk), "--choose", "decline", "--by")

    assert "bob may not answer" in complaint(*arguments, "bob")
    assert "no user 'eve'" in complaint(*arguments, "eve")
    assert told(*arguments, "ana")["decision"].startswith("ana chose")
    assert "ana chose" in complaint(*arguments, "ana")


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    approval = asked()

    assert "cannot be read" in complaint(
        "approval", "answer", str(approval.pk), "--choose", "edit", "--text", str(tmp_path / "none")
    )
    assert Approval.objects.get().state == Approval.State.OPEN


def test_a_question_is_handed_over_by_name() -> None:
    approval = asked()
    User.objects.create_user("bob")
    ana = User.objects.create_user("ana")
    ana.user_permissions.add(Permission.objects.get(codename="answer_approval"))
    give = ("approval", "hand-over", str(approval.pk)[:8], "--to")

    assert "bob may not answer" in complaint(*give, "bob")
    assert "--to: there is no user 'eve'" in complaint(*give, "eve")
    assert "handed over to ana." in said(*give, "ana", "--by", "ana")
    assert "ana has this question already" in complaint(*give, "ana")
    (row,) = told("approval", "list")
    assert (row["assignee"], row["for"]) == ("ana", "")
    assert "for ana" in said("approval", "list")


def test_a_question_for_certain_people_is_answered_only_in_their_name() -> None:
    ana = User.objects.create_user("ana")
    ana.user_permissions.add(Permission.objects.get(codename="answer_approval"))
    usual: Any = ASKS["with"]
    asks = {**ASKS, "with": {**usual, "who": ["ana", "group:office"]}}
    approval = asked(published(asks, "probe.pure"))
    answer = ("approval", "answer", str(approval.pk), "--choose", "decline")

    assert told("approval", "list")[0]["for"] == "ana or the group office"
    assert "in whose name" in complaint(*answer)
    assert "ana chose" in said(*answer, "--by", "ana")


# -- task ----------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_filtered() -> None:
    first = asked().task
    second = begun(published("probe.pure", slug="other"))

    assert [row["id"] for row in told("task", "list")] == [str(second.pk), str(first.pk)]
    assert [row["sop"] for row in told("task", "list", "--sop", "other")] == ["other"]
    assert [row["status"] for row in told("task", "list", "--status", "waiting")] == ["waiting"]
    assert said("task", "list", "--sop", "none") == "No run fits.\n"
    assert "waiting (approval)" in said("task", "list")


def test_the_story_of_a_run_is_told_as_sentences(probe: Probe) -> None:
    approval = asked()
    approvals.answer(approval.pk, "decline", by=None)
    engine.drain()

    story = said("task", "show", str(approval.task_id)[:8])
    (head, *lines) = story.splitlines()

    assert "completed (declined)" in head
    assert len(lines) >= 3
    assert all(line.endswith(".") for line in lines)
    assert "Ann" not in story
    assert len(told("task", "show", str(approval.task_id), "--all")["timeline"]) > len(lines)


def test_a_run_is_paused_resumed_and_cancelled() -> None:
    task = asked().task

    for verb, status in (("pause", "paused"), ("resume", "waiting"), ("cancel", "cancelled")):
        assert told("task", verb, str(task.pk)[:8]) == {"signal": verb, "tasks": [str(task.pk)]}
        engine.drain()
        assert fresh(task).status == status


def test_a_failed_run_is_tried_again_from_the_step_that_failed(probe: Probe) -> None:
    probe.told["s2"] = broken
    task = begun(published("probe.pure", {"handler": "probe.pure", "on_failure": "fail"}))
    engine.drain()
    assert fresh(task).status == "failed"
    del probe.told["s2"]

    said("task", "retry", str(task.pk))
    engine.drain()

    assert fresh(task).status == "completed"
    assert [step for _, step, _ in probe.calls] == ["s1", "s2", "s2"]


@pytest.mark.parametrize("verb", ["retry", "cancel", "pause", "resume"])
def test_what_a_run_cannot_do_is_refused_with_its_state(verb: str, probe: Probe) -> None:
    task = begun(published("probe.pure"))
    engine.drain()

    assert complaint("task", verb, str(task.pk)) == f"Run {str(task.pk)[:8]} cannot {verb}: it is completed."


@pytest.mark.parametrize(("verb", "why"), [("retry", "it is paused"), ("pause", "it is paused")])
def test_a_run_that_staff_paused_can_be_resumed_and_nothing_else(verb: str, why: str) -> None:
    task = asked().task
    engine.signal([task.pk], "pause")
    engine.drain()

    assert why in complaint("task", verb, str(task.pk))
    assert said("task", "resume", str(task.pk))


def test_a_run_that_may_have_sent_its_mail_wants_its_question_answered_not_a_retry(probe: Probe) -> None:
    def lost(step: StepRun) -> Any:
        raise Transient("no answer", sent="maybe")

    probe.told["s1"] = lost
    task = begun(published("probe.once"))
    engine.drain()

    for verb in ("retry", "resume"):
        assert "question must be answered first" in complaint("task", verb, str(task.pk))
    said("approval", "answer", str(Approval.objects.get().pk), "--choose", "was_sent")
    engine.drain()
    assert (fresh(task).status, fresh(task).result) == ("completed", "sent")


def test_a_run_whose_values_are_gone_is_not_tried_again(probe: Probe) -> None:
    probe.told["s1"] = broken
    task = begun(published({"handler": "probe.pure", "on_failure": "fail"}))
    engine.drain()
    Task.objects.update(progress={**fresh(task).progress, "scrubbed": True})

    assert "start a new run" in complaint("task", "retry", str(task.pk))


def test_a_parked_run_is_tried_again(probe: Probe) -> None:
    probe.told["s1"] = broken
    task = begun(published("probe.pure"))
    engine.drain()
    assert fresh(task).status == "paused"
    del probe.told["s1"]

    said("task", "retry", str(task.pk))
    engine.drain()

    assert fresh(task).status == "completed"


def test_a_signal_to_several_runs_goes_to_none_when_one_cannot_take_it(probe: Probe) -> None:
    over = begun(published("probe.pure"))
    engine.drain()
    waits = asked(published(ASKS)).task

    complaint("task", "cancel", str(waits.pk), str(over.pk))
    engine.drain()

    assert fresh(waits).status == "waiting"


@pytest.mark.parametrize(
    "arguments",
    [("task", "show", "ffffffff"), ("task", "cancel", "x"), ("task", "list", "--parent", "ffffff")],
)
def test_an_unknown_run_is_an_error(arguments: tuple[str, ...]) -> None:
    assert complaint(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [("task",), ("task", "dance"), ("approval", "answer", "aaaaaa"), ("task", "list", "--status", "odd")],
)
def test_a_command_that_is_not_understood_is_an_error(arguments: tuple[str, ...]) -> None:
    assert complaint(*arguments)
