"""Laws of the staff pages: a GET changes nothing, a POST does what its page said, and says so."""

import re
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from tasks import approvals, engine
from tasks.models import Approval, Sop, Step, Task, TaskEvent
from tests.tasks.office import ACTS, SEES, asking, drafted, live, person, seen
from tests.tasks.runs import begun, fresh, published

pytestmark = pytest.mark.django_db


@pytest.fixture
def ana() -> Client:
    """Ana runs the office."""
    return person("ana", *SEES, *ACTS)


@pytest.fixture
def vera() -> Client:
    """Vera may look at everything and do nothing."""
    return person("vera", *SEES)


def said(response: HttpResponse) -> str:
    """Return what the next page tells after a POST."""
    return " ".join(str(message) for message in response.wsgi_request._messages)  # type: ignore[attr-defined]


def keys(sop: Sop) -> list[str]:
    return list(sop.steps.order_by("position").values_list("key", flat=True))


def at(name: str, *args: Any) -> str:
    return reverse(f"admin:tasks_{name}", args=args)


# -- a GET decides nothing -------------------------------------------------------------------------


def dump() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (Sop, Step, Task, TaskEvent, Approval)]


def addresses_of_ours() -> list[str]:
    """Return the name of each address that is ours, with the ids that it takes."""
    resolver: URLResolver = next(
        r for r in get_resolver().url_patterns if getattr(r, "namespace", "") == "admin"
    )
    found = []
    for group in resolver.url_patterns:
        for pattern in getattr(group, "url_patterns", []):
            if isinstance(pattern, URLPattern) and (pattern.name or "").startswith("tasks_"):
                found.append(str(pattern.name))
    return sorted(set(found))


def test_no_get_on_any_address_changes_anything(ana: Client) -> None:
    question, sop, draft = asking()[0], live(), None
    draft = sop.steps.first()
    ids: dict[str, tuple[Any, ...]] = {
        "task": (question.task_id,),
        "approval": (question.pk,),
        "sop": (sop.pk,),
        "step": (sop.pk, draft.pk if draft else 0),
    }
    special: dict[str, tuple[Any, ...]] = {
        "tasks_task_act": (question.task_id, "cancel"),
        "tasks_step_add": (sop.pk,),
        "tasks_step_restore": (sop.pk,),
        "tasks_approval_batch": (),
    }
    before, visited = dump(), 0
    for name in addresses_of_ours():
        kind = name.split("_")[1]
        args = special.get(name, ids.get(kind, (1,)))
        args = () if name.endswith(("_changelist", "_add")) and name not in special else args
        response = ana.get(reverse(f"admin:{name}", args=args) + "?choice=approve&sure=1&direction=up")
        assert response.status_code in (200, 302, 403, 404, 405), name
        visited += 1
    assert visited > 25
    assert dump() == before


# -- the inbox -------------------------------------------------------------------------------------


def test_the_inbox_says_who_what_since_when_and_what_happens_either_way(ana: Client) -> None:
    asking()
    page = seen(ana.get(at("approval_changelist")))
    assert "Ada Adams 1" in page
    assert "Your lawn" in page
    assert "Send as is: the run goes on with “Tell the team”." in page
    assert re.search(r"If nobody answers by .* C[SD]T, it is not sent\.", page)


def test_questions_are_grouped_by_the_run_that_started_them(ana: Client) -> None:
    parent = begun(published({"handler": "chat.post", "with": {"text": "Hello"}}))
    Task.objects.filter(pk=parent.pk).update(wake_at=None)
    asking(3, parent=parent)
    asking(1, name="Bob")
    batches = ana.get(at("approval_changelist")).context["batches"]
    assert sorted((batch.total, len(batch.cards)) for batch in batches) == [(1, 1), (3, 3)]
    one = ana.get(at("approval_changelist"), {"run": str(parent.pk)}).context["batches"]
    assert [batch.run.pk for batch in one] == [parent.pk]


def test_an_answer_is_taken_and_leads_to_the_next_question(ana: Client) -> None:
    first, second = asking(2)
    response = ana.post(at("approval_answer", first.pk), {"choice": "approve"})
    assert response["Location"] == at("approval_change", second.pk)
    assert re.search(r"Ada Adams \d: Send as is. Now the run goes on", said(response))
    first.refresh_from_db()
    assert (first.state, first.choice, first.answered_by) == (
        "answered",
        "approve",
        User.objects.get(username="ana"),
    )
    last = ana.post(at("approval_answer", second.pk), {"choice": "decline"})
    assert last["Location"] == at("approval_changelist")
    engine.drain()
    assert fresh(second.task).result == "declined"


def test_a_changed_text_is_what_was_approved(ana: Client) -> None:
    question = asking()[0]
    given = {"choice": "edit", "subject": "Better", "text": "One\r\nTwo"}
    assert ana.post(at("approval_answer", question.pk), given).status_code == 302
    question.refresh_from_db()
    letter = approvals.draft_of(question)
    assert letter is not None
    assert (question.edited, letter["subject"], letter["text"]) == (True, "Better", "One\nTwo")


def test_a_changed_text_without_a_text_is_asked_for_again_and_keeps_the_rest(ana: Client) -> None:
    question = asking()[0]
    page = seen(
        ana.post(at("approval_answer", question.pk), {"choice": "edit", "subject": "Better", "text": ""})
    )
    assert "This field is required" in page
    assert 'value="Better"' in page
    question.refresh_from_db()
    assert question.state == "open"


def test_a_second_answer_is_refused_and_says_who_was_first(ana: Client) -> None:
    question = asking()[0]
    ana.post(at("approval_answer", question.pk), {"choice": "approve"})
    late = person("bert", *SEES, *ACTS).post(at("approval_answer", question.pk), {"choice": "decline"})
    assert "Not taken: ana chose “Send as is”" in said(late)
    question.refresh_from_db()
    assert question.choice == "approve"


def test_an_answer_that_the_question_does_not_have_is_refused(ana: Client) -> None:
    question = asking()[0]
    assert "no answer “burn”" in said(ana.post(at("approval_answer", question.pk), {"choice": "burn"}))
    question.refresh_from_db()
    assert question.state == "open"


def test_who_may_only_look_sees_disabled_buttons_a_reason_and_no_text(vera: Client) -> None:
    question = asking()[0]
    for page in (
        seen(vera.get(at("approval_change", question.pk))),
        seen(vera.get(at("approval_changelist"))),
        seen(vera.get(at("task_change", question.task_id))),
        seen(vera.get(at("task_changelist"))),
    ):
        for secret in ("Ada Adams", "ada@example.test", "Dear Ada", "Your lawn"):
            assert secret not in page
    page = seen(vera.get(at("approval_change", question.pk)))
    assert re.search(r'value="approve" disabled', page)
    assert "You may look, but not answer" in page
    assert "The text is shown only to those who may answer" in page
    assert "may not answer" in said(vera.post(at("approval_answer", question.pk), {"choice": "approve"}))
    assert vera.post(at("approval_batch"), {"ids": str(question.pk), "sure": "1"}).status_code == 403
    question.refresh_from_db()
    assert question.state == "open"


def test_the_preview_runs_nothing_and_fetches_nothing(ana: Client) -> None:
    question = asking()[0]
    response = ana.get(at("approval_change", question.pk))
    assert "default-src 'none'" in response.context["preview"]
    assert re.search(r'<iframe [^>]*sandbox srcdoc="&lt;!doctype', response.content.decode())


def test_a_question_about_an_unknown_sending_shows_the_text_it_is_about(ana: Client) -> None:
    first = asking()[0]
    ana.post(at("approval_answer", first.pk), {"choice": "approve"})
    Task.objects.filter(pk=first.task_id).update(waiting_for="", status="paused", reason="outcome_unknown")
    options = [{"key": "was_sent", "label": "It was sent", "outcome": "next"}]
    first.refresh_from_db()
    again = Approval.objects.create(
        task=first.task, step="s1", visit=9, options=options, created_at=first.answered_at
    )
    assert "Dear Ada" in seen(ana.get(at("approval_change", again.pk)))
    assert "It was sent" in seen(ana.get(at("approval_changelist")))


# -- many at once ----------------------------------------------------------------------------------


def test_a_batch_asks_first_with_the_number_and_the_first_five_names(ana: Client) -> None:
    questions = asking(7)
    ids = ",".join(str(question.pk) for question in questions)
    page = seen(ana.post(at("approval_batch"), {"ids": ids}))
    assert "Send as is: 7 questions at once" in page
    assert len(re.findall("Ada Adams", page)) == 5
    assert re.search(r"Ada Adams \d and 2 more\.", page)
    assert Approval.objects.filter(state="open").count() == 7


def test_a_batch_answers_what_was_shown_and_nothing_else(ana: Client) -> None:
    shown, other = asking(3), asking(1, name="Bob")[0]
    ids = ",".join(str(question.pk) for question in shown)
    response = ana.post(at("approval_batch"), {"ids": ids, "sure": "1"})
    assert "3 approved" in said(response)
    assert set(Approval.objects.filter(choice="approve").values_list("pk", flat=True)) == {
        q.pk for q in shown
    }
    other.refresh_from_db()
    assert other.state == "open"


def test_a_batch_leaves_out_what_was_answered_meanwhile_and_says_so(ana: Client) -> None:
    first, second = asking(2)
    ana.post(at("approval_answer", first.pk), {"choice": "decline"})
    ids = f"{first.pk},{second.pk}"
    assert "1 of those shown has been answered meanwhile" in seen(
        ana.post(at("approval_batch"), {"ids": ids})
    )
    ana.post(at("approval_batch"), {"ids": ids, "sure": "1"})
    first.refresh_from_db()
    assert first.choice == "decline"
    assert "answered already" in said(ana.post(at("approval_batch"), {"ids": ids, "sure": "1"}))


def test_a_large_batch_wants_its_number_typed(ana: Client) -> None:
    ids = ",".join(str(question.pk) for question in asking(26))
    assert "That is not 26" in seen(ana.post(at("approval_batch"), {"ids": ids, "sure": "1", "count": "25"}))
    assert Approval.objects.filter(state="open").count() == 26
    ana.post(at("approval_batch"), {"ids": ids, "sure": "1", "count": "26"})
    assert not Approval.objects.filter(state="open").exists()


def test_ids_that_are_none_are_left_out(ana: Client) -> None:
    assert ana.post(at("approval_batch"), {"ids": "x,,1", "sure": "1"}).status_code == 302


# -- runs ------------------------------------------------------------------------------------------


def test_the_list_of_runs_is_filtered_by_its_address(ana: Client) -> None:
    question = asking()[0]
    other = begun(live().published, {"season": 2026})  # type: ignore[arg-type]

    def listed(**chosen: str) -> set[uuid.UUID]:
        return {row.task.pk for row in ana.get(at("task_changelist"), chosen).context["rows"]}

    assert listed() == {question.task_id, other.pk}
    assert listed(sop="greet") == {other.pk}
    assert listed(waits="person") == listed(needs="person") == {question.task_id}
    assert listed(status="ready") == {other.pk}
    assert listed(status="ready", sop="no-such-sop") == set()
    assert listed(q=str(other.pk)[:8]) == {other.pk}
    assert listed(q="%") == set()
    assert listed(page="99") == set()
    chips = ana.get(at("task_changelist"), {"sop": "greet", "status": "ready", "page": "1"}).context["chips"]
    assert [(chip.text, chip.without) for chip in chips] == [
        ("Ready", "?sop=greet"),
        ("SOP: Greet", "?status=ready"),
    ]


@pytest.mark.parametrize(
    "query",
    ["page=²", f"page={'9' * 20}", "page=-1", "q=%00", "q=%00ab", "sop=%00", "result=%00", "result=a%00"],
)
def test_the_list_of_runs_bears_any_address(ana: Client, query: str) -> None:
    begun(published("flow.wait"))
    chips = ana.get(f"{at('task_changelist')}?{query}").context["chips"]
    assert not any("\0" in chip.text for chip in chips)


@pytest.mark.parametrize("query", ["open=²", f"open={'9' * 20}", "open=%00", "moved=%00"])
def test_the_editor_bears_any_address(ana: Client, query: str) -> None:
    version = published("flow.wait")
    assert ana.get(f"{at('sop_change', version.sop_id)}?{query}").status_code == 200


def test_a_whole_number_leads_straight_to_its_run(ana: Client) -> None:
    task = asking()[0].task
    assert ana.get(at("task_changelist"), {"q": str(task.pk)})["Location"] == at("task_change", task.pk)


def test_a_run_tells_its_story_and_links_its_family(ana: Client) -> None:
    parent = begun(published({"handler": "chat.post", "with": {"text": "Hello"}}))
    child = asking(2, parent=parent)[0].task
    page = seen(ana.get(at("task_change", child.pk)))
    assert "“Ask first” asked a person." in page
    assert at("task_change", parent.pk) in page
    above = seen(ana.get(at("task_change", parent.pk)))
    assert f"?parent={parent.pk}&status=waiting" in above
    assert "<b>2</b>" in above


def test_the_part_of_a_run_that_refreshes_says_when_it_is_over(ana: Client) -> None:
    question = asking()[0]
    assert 'data-polls="yes"' in seen(ana.get(at("task_story", question.task_id)))
    approvals.answer(question.pk, "decline", by=None)
    engine.drain()
    story = ana.get(at("task_story", question.task_id))
    assert 'data-polls="no"' in seen(story)
    assert "<html" not in story.content.decode()


@pytest.mark.parametrize("kind", ["pause", "cancel"])
def test_an_act_asks_first_and_a_post_does_it_with_the_person_and_the_reason(ana: Client, kind: str) -> None:
    task = asking()[0].task
    assert "Leave it as it is" in seen(ana.get(at("task_act", task.pk, kind)))
    response = ana.post(at("task_act", task.pk, kind), {"why": "customer_asked"})
    assert response["Location"] == at("task_change", task.pk)
    assert said(response)
    engine.drain()
    done = {"pause": "paused", "cancel": "cancelled"}[kind]
    assert fresh(task).status == done
    event = TaskEvent.objects.get(task=task, kind=done)
    assert event.data["by"] == User.objects.get(username="ana").pk


def test_a_paused_run_can_be_resumed_and_a_run_that_is_over_cannot_be_paused(ana: Client) -> None:
    question = asking()[0]
    ana.post(at("task_act", question.task_id, "pause"))
    engine.drain()
    ana.post(at("task_act", question.task_id, "resume"))
    engine.drain()
    assert fresh(question.task).status == "waiting"
    approvals.answer(question.pk, "decline", by=None)
    engine.drain()
    assert "nothing to pause" in said(ana.post(at("task_act", question.task_id, "pause")))


def test_a_failed_step_can_be_retried(ana: Client) -> None:
    task = begun(published({"handler": "chat.post", "with": {"text": "{{ nobody }}"}}))
    engine.drain()
    assert fresh(task).reason == "data"
    assert "tried again" in said(ana.post(at("task_act", task.pk, "retry")))
    engine.drain()
    assert TaskEvent.objects.filter(task=task, kind="retried").count() == 1


def test_who_may_only_look_cannot_act_on_a_run(vera: Client) -> None:
    task = asking()[0].task
    page = seen(vera.get(at("task_change", task.pk)))
    assert "disabled>Pause<" in page
    assert "You may look, but not act on runs" in page
    assert vera.post(at("task_act", task.pk, "cancel")).status_code == 403
    assert fresh(task).mailbox == []


# -- the editor ------------------------------------------------------------------------------------


def test_the_list_of_sops_says_state_version_next_start_and_open_runs(ana: Client) -> None:
    sop = live()
    sop.published.definition["trigger"] = {"schedule": "0 9 * * MON", "timezone": "America/Chicago"}  # type: ignore[union-attr]
    type(sop.published).objects.filter(pk=sop.published_id).update(definition=sop.published.definition)  # type: ignore[union-attr,misc]
    begun(sop.published, {"season": 2026})  # type: ignore[arg-type]
    Sop.objects.create(slug="new", name="Brand new")
    page = seen(ana.get(at("sop_changelist")))
    for told in (
        "Active",
        "Version 1",
        "Each Monday at 09:00 (America/Chicago)",
        "1 open",
        "Draft",
        "Never published",
    ):
        assert told in page


def test_steps_move_up_and_down_and_stop_at_the_ends(ana: Client) -> None:
    sop = drafted()
    one, two, three = (sop.steps.get(key=key) for key in ("one", "two", "three"))
    ana.post(at("step_move", sop.pk, three.pk), {"direction": "up"})
    assert keys(sop) == ["one", "three", "two"]
    ana.post(at("step_move", sop.pk, one.pk), {"direction": "up"})
    ana.post(at("step_move", sop.pk, two.pk), {"direction": "down"})
    assert keys(sop) == ["one", "three", "two"]
    assert list(sop.steps.values_list("position", flat=True)) == [10, 20, 30]
    page = seen(ana.get(at("sop_change", sop.pk), {"moved": f"up-{three.pk}"}))
    assert re.search(r'aria-label="Move “Three” up" autofocus', re.sub(r"\s+", " ", page))


def test_a_new_step_is_the_last_even_after_positions_with_gaps(ana: Client) -> None:
    sop = drafted()
    sop.steps.filter(key="three").update(position=900)
    response = ana.post(at("step_add", sop.pk), {"handler": "flow.wait", "name": "Wait a bit"})
    assert keys(sop) == ["one", "two", "three", "wait_a_bit"]
    assert list(sop.steps.values_list("position", flat=True)) == [10, 20, 30, 40]
    step = sop.steps.get(key="wait_a_bit")
    assert response["Location"].endswith(f"?open={step.pk}#step-{step.pk}")


def test_a_step_of_no_known_kind_cannot_be_added(ana: Client) -> None:
    sop = drafted()
    seen(ana.post(at("step_add", sop.pk), {"handler": "magic.wand", "name": "Wish"}))
    assert keys(sop) == ["one", "two", "three"]


def test_a_removed_step_can_be_put_back_where_it_was(ana: Client) -> None:
    sop = drafted()
    two = sop.steps.get(key="two")
    ana.post(at("step_delete", sop.pk, two.pk))
    assert keys(sop) == ["one", "three"]
    assert "Step “Two” was removed" in seen(ana.get(at("sop_change", sop.pk)))
    ana.post(at("step_restore", sop.pk))
    assert keys(sop) == ["one", "two", "three"]
    assert sop.steps.get(key="two").params == {"text": "Hello two"}
    assert "no step to put back" in said(ana.post(at("step_restore", sop.pk)))


def fields(step: Step, **changed: Any) -> dict[str, Any]:
    values = {"name": step.name, "key": step.key, "on_success": "next", "max_retries": 3}
    own = {
        name: changed.pop(name)
        for name in list(changed)
        if name in {*values, "on_failure", "timeout", "rate"}
    }
    return {
        **{f"step-{step.pk}-{name}": value for name, value in {**values, **own}.items()},
        **{f"with-{step.pk}-{name}": value for name, value in {**step.params, **changed}.items()},
    }


def test_a_step_is_saved_with_its_settings(ana: Client) -> None:
    sop = drafted()
    one = sop.steps.get(key="one")
    ana.post(
        at("step_save", sop.pk, one.pk), fields(one, name="Say hello", text="Hi {{ x }}", severity="warning")
    )
    one.refresh_from_db()
    assert (one.name, one.params) == ("Say hello", {"text": "Hi {{ x }}", "severity": "warning"})


def test_a_renamed_step_is_followed_by_those_that_go_to_it(ana: Client) -> None:
    sop = drafted()
    sop.steps.filter(key="one").update(on_success="three", on_failure="three")
    three = sop.steps.get(key="three")
    ana.post(at("step_save", sop.pk, three.pk), fields(three, key="finish"))
    one = sop.steps.get(key="one")
    assert (one.on_success, one.on_failure) == ("finish", "finish")


def test_a_step_that_does_not_pass_is_open_with_what_was_typed_and_why(ana: Client) -> None:
    sop = drafted()
    one = sop.steps.get(key="one")
    response = ana.post(
        at("step_save", sop.pk, one.pk), fields(one, key="two", text="Typed", severity="loud")
    )
    page = seen(response)
    assert "already called “two”" in page
    assert "Typed" in page
    assert [row.open for row in response.context["rows"]] == [True, False, False]
    one.refresh_from_db()
    assert (one.key, one.params) == ("one", {"text": "Hello one"})


def test_problems_stand_beside_their_steps_and_keep_the_sop_from_being_published(ana: Client) -> None:
    sop = drafted()
    sop.steps.filter(key="two").update(params={"text": "{{ nobody }}"})
    rows = ana.get(at("sop_change", sop.pk)).context["rows"]
    assert [bool(row.problems) for row in rows] == [False, True, False]
    assert re.search(r'sp-primary" disabled>Publish<', seen(ana.get(at("sop_publish", sop.pk))))
    assert "Not published" in said(ana.post(at("sop_publish", sop.pk)))
    sop.refresh_from_db()
    assert sop.published is None


def test_a_step_whose_kind_is_gone_is_shown_and_named(ana: Client) -> None:
    sop = drafted("magic.wand")
    page = seen(ana.get(at("sop_change", sop.pk)))
    assert "Unknown kind of step: magic.wand" in page
    assert "text: Hello one" in page


def test_publishing_says_what_changes_and_which_runs_stay_on_their_version(ana: Client) -> None:
    sop = live()
    begun(sop.published, {"season": 2026})  # type: ignore[arg-type]
    sop.steps.update(name="Say it")
    page = seen(ana.get(at("sop_publish", sop.pk)))
    assert "1 run uses version 1" in page
    assert "publishing changes new runs only" in page
    assert "step “one” changed" in page
    assert "Version 2 is published" in said(ana.post(at("sop_publish", sop.pk)))
    assert sop.versions.count() == 2


def test_a_schedule_is_previewed_without_being_saved_and_then_saved(ana: Client) -> None:
    sop = drafted()
    given = {"schedule": "0 9 * * MON", "timezone": "America/Chicago", "overlap": "skip", "catch_up": "once"}
    page = ana.post(at("sop_schedule", sop.pk), {**given, "preview": "1"})
    assert "Not saved yet. Each Monday at 09:00" in seen(page)
    assert len(page.context["coming"]) == 3
    sop.refresh_from_db()
    assert sop.trigger == {}
    ana.post(at("sop_schedule", sop.pk), given)
    sop.refresh_from_db()
    assert sop.trigger == given
    ana.post(at("sop_schedule", sop.pk), {"schedule": "", "timezone": "America/Chicago"})
    sop.refresh_from_db()
    assert sop.trigger == {}


@pytest.mark.parametrize("wrong", ["every day", "0 9 31 2 *", "99 99 * * *"])
def test_a_schedule_that_never_comes_is_refused_beside_its_field(ana: Client, wrong: str) -> None:
    sop = drafted()
    page = ana.post(at("sop_schedule", sop.pk), {"schedule": wrong, "timezone": "America/Chicago"})
    assert page.context["schedule_form"].errors["schedule"]
    sop.refresh_from_db()
    assert sop.trigger == {}


def test_the_settings_of_a_sop_are_saved_and_wrong_inputs_are_refused(ana: Client) -> None:
    sop = drafted()
    given = {"name": "Greet all", "channel": "#team", "priority": "0", "inputs": "season: {type: integer}"}
    ana.post(at("sop_change", sop.pk), given)
    sop.refresh_from_db()
    assert (sop.name, sop.priority, sop.inputs) == ("Greet all", 0, {"season": {"type": "integer"}})
    assert "Write one input per line" in seen(
        ana.post(at("sop_change", sop.pk), {**given, "inputs": "season"})
    )


def test_a_new_sop_begins_as_an_empty_draft(ana: Client) -> None:
    response = ana.post(reverse("admin:tasks_sop_add"), {"name": "Fresh", "slug": "fresh"})
    sop = Sop.objects.get(slug="fresh")
    assert response["Location"] == at("sop_change", sop.pk)
    assert "has no steps yet" in seen(ana.get(at("sop_change", sop.pk)))


def test_the_download_is_the_file_that_the_command_reads(ana: Client) -> None:
    response = ana.get(at("sop_export", live().pk))
    assert response["Content-Disposition"] == 'attachment; filename="greet.yaml"'
    assert response.content.decode().startswith("sop: greet")


def test_a_disabled_sop_starts_nothing_until_it_is_enabled_and_makes_up_for_nothing(ana: Client) -> None:
    sop = live()
    cursor = sop.cursor
    ana.post(at("sop_switch", sop.pk))
    sop.refresh_from_db()
    assert sop.state == "disabled"
    assert "disabled" in said(ana.post(at("sop_run", sop.pk), {"season": "2026"}))
    assert not Task.objects.exists()
    ana.post(at("sop_switch", sop.pk))
    sop.refresh_from_db()
    assert sop.state == "active"
    assert sop.cursor is not None
    assert cursor is not None
    assert sop.cursor > cursor


def test_a_run_is_started_once_however_often_its_form_is_sent(ana: Client) -> None:
    sop = live()
    once = ana.get(at("sop_run", sop.pk)).context["once"]
    given = {"season": "2026", "once": str(once)}
    first = ana.post(at("sop_run", sop.pk), given)
    again = ana.post(at("sop_run", sop.pk), given)
    task = Task.objects.get()
    assert first["Location"] == at("task_change", task.pk)
    assert "nothing was started twice" in said(again)
    assert ana.get(at("sop_run", sop.pk)).context["once"] != once


def test_a_run_without_what_it_needs_is_not_started(ana: Client) -> None:
    assert "This field is required" in seen(ana.post(at("sop_run", live().pk), {}))
    assert not Task.objects.exists()


def test_who_may_only_look_cannot_change_a_sop(vera: Client) -> None:
    sop = drafted()
    step = sop.steps.get(key="two")
    page = seen(vera.get(at("sop_change", sop.pk)))
    assert "You may look, but not change SOPs" in page
    assert page.count("<fieldset disabled>") >= 8
    for address in (
        at("sop_change", sop.pk),
        at("sop_publish", sop.pk),
        at("sop_switch", sop.pk),
        at("sop_schedule", sop.pk),
        at("sop_run", sop.pk),
        at("step_add", sop.pk),
        at("step_restore", sop.pk),
        at("step_save", sop.pk, step.pk),
        at("step_move", sop.pk, step.pk),
        at("step_delete", sop.pk, step.pk),
        reverse("admin:tasks_sop_add"),
    ):
        assert vera.post(address, {"direction": "up"}).status_code == 403, address
    assert keys(sop) == ["one", "two", "three"]


# -- who may answer, and to whom it is given -------------------------------------------------------


def may_answer(name: str) -> User:
    """Return somebody without a browser who may answer."""
    person(name, "answer_approval")
    return User.objects.get(username=name)


def test_a_question_is_handed_over_to_one_who_may_answer_it(ana: Client) -> None:
    question, bea = asking()[0], may_answer("bea")
    User.objects.create_user("carl")
    page = seen(ana.get(at("approval_change", question.pk)))
    assert 'value="bea">Bea' in page
    assert 'value="carl"' not in page

    response = ana.post(at("approval_hand_over", question.pk), {"to": "bea"})

    assert "Handed over to Bea, who is told of it." in said(response)
    question.refresh_from_db()
    assert question.assignee == bea
    assert "Given to Bea." in seen(ana.get(at("approval_change", question.pk)))


@pytest.mark.parametrize(
    ("to", "why"), [("carl", "may not answer questions"), ("", "choose"), ("zoe\0", "choose")]
)
def test_a_question_is_not_handed_over_to_somebody_else(ana: Client, to: str, why: str) -> None:
    question = asking()[0]
    User.objects.create_user("carl")

    assert why in said(ana.post(at("approval_hand_over", question.pk), {"to": to}))
    question.refresh_from_db()
    assert question.assignee is None


def test_who_may_only_look_hands_nothing_over(vera: Client) -> None:
    question = asking()[0]
    may_answer("bea")

    assert "may not answer" in said(vera.post(at("approval_hand_over", question.pk), {"to": "bea"}))
    assert "Hand over" not in seen(vera.get(at("approval_change", question.pk)))


def test_a_question_for_others_says_for_whom_and_has_no_button_to_press(ana: Client) -> None:
    question = asking()[0]
    may_answer("bea")
    Approval.objects.update(allowed={"users": ["bea"], "groups": ["office"]})

    page = seen(ana.get(at("approval_change", question.pk)))

    assert "Only bea or the group office may answer this question." in page
    assert re.findall(r'<button class="sp-btn sp-big[^>]*value="(\w+)" (\w*)>', page) == [
        ("approve", "disabled"),
        ("decline", "disabled"),
    ]


def test_a_changed_text_is_shown_before_it_is_sent_and_nothing_is_decided(ana: Client) -> None:
    question = asking()[0]
    given = {"preview": "1", "subject": "Better", "text": "One <b>\n\nTwo"}

    page = ana.post(at("approval_answer", question.pk), given)

    assert b"<p>One &lt;b&gt;</p>\n<p>Two</p>" in page.content
    question.refresh_from_db()
    assert question.state == "open"


def test_after_some_were_opened_the_rest_is_approved_at_once(ana: Client) -> None:
    parent = begun(published({"handler": "flow.wait", "with": {"duration": "1 day"}}))
    engine.drain()
    first, *rest = asking(4, parent=parent)
    assert "Send as is: these 4" in seen(ana.get(at("approval_changelist")))
    ana.post(at("approval_answer", first.pk), {"choice": "decline"})

    batch = ana.get(at("approval_changelist")).context["batches"][0]
    assert "Send as is: the rest, 3" in seen(ana.get(at("approval_changelist")))
    ana.post(at("approval_batch"), {"ids": batch.ids, "sure": "1"})

    assert {one.choice for one in Approval.objects.exclude(pk=first.pk)} == {"approve"}
    assert len(rest) == 3
