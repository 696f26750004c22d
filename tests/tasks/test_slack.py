"""Laws of the staff's Slack: what is asked there, who may answer, and what the message then says."""

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django import Settings

from credentials import store, vault
from sopengine import inbox
from sopengine.models import Delivery
from tasks import approvals, deliveries, engine, journal, outbox, questions, signed, slack_acts, slack_in
from tasks.mock.slack import FakeSlack, Request, Said
from tasks.models import Approval, Notification, Pulse, Task, TaskEvent
from tasks.transports.slack import sealed_value
from tests.tasks.office import ASKS, DRAFT, asking, live, seen
from tests.tasks.runs import begun, fresh, published
from tests.tasks.workspace import URL, member, press, public, receives, whispers, workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def slack(settings: Settings) -> Iterator[FakeSlack]:
    with workspace(settings) as served:
        yield served


@pytest.fixture
def ana(slack: FakeSlack) -> User:
    return member("ana", "answer_approval", "operate_task", "view_sop", "view_task")


def shown(slack: FakeSlack, count: int = 1) -> tuple[list[Approval], Said]:
    """Return open questions and the message that lists them."""
    found = asking(count)
    if count > 1:
        parent = asking(1)[0].task
        approvals.answer(parent.approvals.get().pk, "decline", by=None)
        Task.objects.filter(pk__in=[one.task_id for one in found]).update(parent=parent)
        Approval.objects.update(message=None)
        Notification.objects.all().delete()
        slack._said.clear()
        Approval.objects.filter(pk__in=[one.pk for one in found]).update(channel="#marketing")
    outbox.pump()
    (said,) = [said for said in public(slack) if said.buttons]
    return found, said


def state(approval: Approval) -> str:
    approval.refresh_from_db()
    return approval.state


# -- what is shown ---------------------------------------------------------------------------------


def test_a_question_shows_whom_it_is_about_and_the_subject_and_nothing_else_of_the_draft(
    slack: FakeSlack,
) -> None:
    _, said = shown(slack)

    assert "Ada Adams 1" in said.words
    assert "Your lawn" in said.words
    everything = json.dumps(said.blocks) + said.text
    assert "Dear" not in everything
    assert "ada@example" not in everything.replace("\\u2060", "")
    assert list(said.buttons) == ["Send as is", "Edit first", "Don't send", "Open the page"]


def test_a_button_carries_nothing_that_anybody_else_could_make(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    value = said.buttons["Send as is"]["value"]
    assert len(value) < 300
    for forged in (value[:-1] + ("A" if value[-1] != "A" else "B"), f"answer|{approval.pk}|approve", ""):
        said.buttons["Send as is"]["value"] = forged
        press(slack, said, "Send as is", "UANA")

    assert state(approval) == Approval.State.OPEN
    assert whispers(slack, "UANA") == ["This button is not one of ours, or too old to be used."] * 3


def test_twenty_five_questions_are_one_list_with_one_button_each_and_one_for_the_rest(
    slack: FakeSlack,
) -> None:
    _, said = shown(slack, 25)

    assert len(said.blocks) <= 50
    labels = [element["text"]["text"] for element in _buttons(said)]
    assert labels == ["Open"] * 25 + ["Approve the rest"]


def _buttons(said: Said) -> list[dict[str, Any]]:
    found = [block["accessory"] for block in said.blocks if "accessory" in block]
    return found + [e for block in said.blocks if block["type"] == "actions" for e in block["elements"]]


def test_a_link_in_a_channel_leads_to_the_login_and_decides_nothing(slack: FakeSlack) -> None:
    (approval,), said = shown(slack)
    link = said.buttons["Open the page"]["url"]

    response = Client().get("/" + link.split("/", 3)[3])

    assert response.status_code == 302
    assert "/admin/login/" in response["Location"]
    assert state(approval) == Approval.State.OPEN


def test_a_press_on_a_link_is_taken_and_means_nothing(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)

    assert press(slack, said, "Open the page", "UANA").status_code == 200

    assert state(approval) == Approval.State.OPEN
    assert Delivery.objects.get().state == Delivery.State.PROCESSED


def test_what_needs_a_person_is_seen_in_the_channel_though_it_stands_in_a_thread(slack: FakeSlack) -> None:
    task = asking(1)[0].task
    outbox.pump()
    outbox.post("all is well", task_id=task.pk, channel=public(slack)[0].name)
    outbox.post("look here", task_id=task.pk, channel=public(slack)[0].name, severity="warning")
    outbox.pump()

    first, calm, loud = public(slack)
    assert (calm.thread, loud.thread) == (first.ts, first.ts)
    assert (calm.broadcast, loud.broadcast) == (False, True)


def test_a_question_for_one_person_goes_to_that_one_with_a_link_of_their_own(
    slack: FakeSlack, ana: User
) -> None:
    asks = {**ASKS, "with": {**ASKS["with"], "who": ["ana"]}}
    task = begun(published(asks))
    engine.drain()
    outbox.pump()

    (said,) = slack.messages
    assert said.channel == "DANA"
    assert "/approvals/" in said.buttons["Open the page"]["url"]
    press(slack, said, "Send as is", "UANA")
    assert fresh(task).status == Task.Status.COMPLETED
    assert said.buttons == {}


def test_a_question_that_was_decided_before_slack_came_back_is_not_posted(
    slack: FakeSlack, ana: User
) -> None:
    slack.fail(status=503)
    (approval,) = asking(1)
    outbox.pump()
    approvals.answer(approval.pk, "decline", by=ana)

    slack.recover()
    for _ in range(4):
        soon()
        outbox.pump()

    assert slack.messages == []
    assert not Notification.objects.filter(state=Notification.State.PENDING).exists()


# -- answers ---------------------------------------------------------------------------------------


def test_a_press_is_stored_and_answered_at_once_and_decided_afterwards(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)

    answer = receives(slack.click(said, "Send as is", "UANA"))

    assert (answer.status_code, answer.content) == (200, b"")
    assert state(approval) == Approval.State.OPEN
    delivery = Delivery.objects.get()
    assert (delivery.source, delivery.state) == ("slack", Delivery.State.RECEIVED)
    deliveries.process()
    approval.refresh_from_db()
    assert (approval.state, approval.choice, approval.answered_by) == (
        Approval.State.ANSWERED,
        "approve",
        ana,
    )
    delivery.refresh_from_db()
    assert (delivery.state, delivery.body) == (Delivery.State.PROCESSED, None)


def test_the_message_then_says_who_decided_what_and_has_no_buttons(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)

    press(slack, said, "Don't send", "UANA")

    assert fresh(approval.task).result == "declined"
    (still,) = [one for one in public(slack) if one.ts == said.ts]
    assert still.versions == 2
    assert "ana chose “Don't send” on" in still.words
    assert still.buttons == {}


def test_in_a_list_the_rest_keep_their_buttons(slack: FakeSlack, ana: User) -> None:
    found, said = shown(slack, 3)
    approvals.answer(found[1].pk, "approve", by=ana)

    outbox.pump()

    assert said.words.count("ana chose") == 1
    assert [element["text"]["text"] for element in _buttons(said)] == ["Open", "Open", "Approve the rest"]


def test_approve_the_rest_approves_what_is_still_open_in_that_message(slack: FakeSlack, ana: User) -> None:
    found, said = shown(slack, 4)
    approvals.answer(found[0].pk, "decline", by=None)
    outsider = asking(1, name="Bo")[0]

    press(slack, said, "Approve the rest", "UANA")

    assert [state(one) for one in found] == ["answered"] * 4
    assert [one.choice for one in found] == ["decline", "approve", "approve", "approve"]
    assert state(outsider) == Approval.State.OPEN
    assert not _buttons(said)


def test_who_is_no_member_is_refused_kindly_and_alone(slack: FakeSlack) -> None:
    (approval,), said = shown(slack)

    press(slack, said, "Send as is", "USTRANGER")

    assert state(approval) == Approval.State.OPEN
    (told,) = whispers(slack, "USTRANGER")
    assert "USTRANGER" in told
    assert "administrator" in told


def test_who_may_not_answer_or_has_left_is_refused(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    member("bob", "view_task")
    press(slack, said, "Send as is", "UBOB")
    ana.is_active = False
    ana.save()
    press(slack, said, "Send as is", "UANA")

    assert state(approval) == Approval.State.OPEN
    assert whispers(slack, "UBOB") == [
        "Not taken: bob may not answer questions; ask an administrator for it."
    ]
    (told,) = whispers(slack, "UANA")
    assert told.startswith("I do not know who you are here.")


def test_the_second_is_told_who_was_first(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    member("bob")
    first, second = slack.click(said, "Send as is", "UANA"), slack.click(said, "Don't send", "UBOB")
    receives(first)
    receives(second)
    deliveries.process()

    assert (state(approval), approval.choice) == (Approval.State.ANSWERED, "approve")
    (told,) = whispers(slack, "UBOB")
    assert told.startswith("Not taken: ana chose “Send as is” on")
    assert whispers(slack, "UANA") == []


def test_a_double_click_is_one_decision_and_no_complaint(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    for _ in range(2):
        receives(slack.click(said, "Send as is", "UANA"))
    deliveries.process()
    engine.drain()

    assert state(approval) == Approval.State.ANSWERED
    assert whispers(slack, "UANA") == []
    assert TaskEvent.objects.filter(task=approval.task, kind="answered").count() == 1


def test_a_press_that_could_not_be_processed_is_processed_later(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    member("bob", "view_task")
    receives(slack.click(said, "Send as is", "UBOB"))
    slack.fail(status=503)
    deliveries.process()
    assert whispers(slack, "UBOB") == []

    slack.recover()
    Delivery.objects.update(wake_at=Delivery.objects.get().received_at)
    deliveries.process()

    assert len(whispers(slack, "UBOB")) == 1
    assert state(approval) == Approval.State.OPEN


def test_a_refusal_that_slack_does_not_take_is_no_broken_delivery(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    member("bob", "view_task")
    receives(slack.click(said, "Send as is", "UBOB"))
    told = Notification.objects.count()
    slack.fail(1, error="not_in_channel")
    deliveries.process()
    assert Delivery.objects.get().state == Delivery.State.PROCESSED
    assert Notification.objects.count() == told
    assert state(approval) == Approval.State.OPEN


def test_a_question_that_nobody_edits_can_be_opened_all_the_same(
    slack: FakeSlack, settings: Settings
) -> None:
    option = {"key": "seen", "label": "I have seen to it", "outcome": "next"}
    begun(published({"handler": "human.ask", "with": {"question": "Who?", "options": [option]}}))
    engine.drain()
    outbox.pump()
    (said,) = [said for said in public(slack) if said.buttons]
    assert list(said.buttons) == ["Open", "I have seen to it", "Open the page"]
    assert "Who?" in said.words


# -- the window to edit ----------------------------------------------------------------------------


def test_edit_first_opens_a_window_with_the_whole_draft(slack: FakeSlack, ana: User) -> None:
    (_approval,), said = shown(slack)

    answer = receives(slack.click(said, "Edit first", "UANA"))

    assert (answer.status_code, answer.content) == (200, b"")
    (view,) = slack.views
    told = {block["block_id"]: block["element"] for block in view["blocks"] if block["type"] == "input"}
    assert told["subject"]["initial_value"] == DRAFT["subject"]
    assert told["text"]["initial_value"] == DRAFT["text"]
    assert told["choice"]["initial_option"]["value"] == "edit"
    assert Delivery.objects.get().state == Delivery.State.PROCESSED


def opened(slack: FakeSlack, said: Said, label: str = "Edit first", nth: int = 0) -> dict[str, Any]:
    receives(slack.click(said, label, "UANA", nth))
    return slack.views[-1]


def test_what_is_typed_in_the_window_is_what_goes_on(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    words = "Dear Ada,\n\nsee you on Monday & <soon>.\n"

    answer = receives(slack.submit(opened(slack, said), "UANA", subject="Your garden", text=words))

    assert (answer.status_code, answer.content) == (200, b"")
    approval.refresh_from_db()
    draft = questions.draft_of(approval)
    assert draft is not None
    assert (approval.choice, approval.edited) == ("edit", True)
    assert (draft["subject"], draft["text"]) == ("Your garden", words)
    outbox.pump()
    assert "ana chose “Edit first”" in said.words


@pytest.mark.parametrize(
    ("typed", "said_of_it"),
    [
        ({"text": "  "}, "The text is empty"),
        ({"subject": ""}, "The subject is empty"),
        ({"text": "Dear {{ name }}"}, "unfilled place"),
        ({"choice": "approve", "text": "Other words"}, "You have changed the text"),
        ({"choice": "no such thing"}, "Choose what shall happen"),
    ],
)
def test_what_cannot_be_taken_is_said_in_the_window_which_stays(
    slack: FakeSlack, ana: User, typed: dict[str, str], said_of_it: str
) -> None:
    (approval,), said = shown(slack)

    answer = receives(slack.submit(opened(slack, said), "UANA", **typed)).json()

    assert answer["response_action"] == "errors"
    assert said_of_it in answer["errors"]["choice"]
    assert state(approval) == Approval.State.OPEN


def test_a_list_opens_each_question_in_a_window_where_it_can_be_decided(slack: FakeSlack, ana: User) -> None:
    found, said = shown(slack, 3)
    view = opened(slack, said, "Open", nth=1)

    receives(slack.submit(view, "UANA", choice="approve"))

    assert [state(one) for one in found] == ["open", "answered", "open"]
    assert found[1].choice == "approve"
    assert not found[1].edited


def test_only_who_may_answer_is_shown_a_draft(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    member("bob", "view_task")
    approval.allowed = {"not": ana.pk}
    approval.save()

    for user in ("UBOB", "USTRANGER", "UANA"):
        receives(slack.click(said, "Edit first", user))
        assert len(whispers(slack, user)) == 1

    assert slack.views == []


def test_a_window_submitted_after_somebody_decided_says_so(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    view = opened(slack, said)
    approvals.answer(approval.pk, "decline", by=member("bob"))

    answer = receives(slack.submit(view, "UANA", text="New words")).json()

    assert "bob chose “Don't send”" in answer["errors"]["choice"]


def test_a_window_made_up_by_somebody_decides_nothing(slack: FakeSlack, ana: User) -> None:
    (approval,), said = shown(slack)
    view = opened(slack, said)
    for forged in ("", "decide|x", sealed_value("answer", str(approval.pk), "approve")):
        answer = receives(slack.submit({**view, "private_metadata": forged}, "UANA", choice="approve"))
        assert answer.json()["response_action"] == "errors"

    assert state(approval) == Approval.State.OPEN


def redrafted(approval: Approval, question: str = "Send?", **draft: str) -> None:
    """Let the question be about another draft."""
    content = {"question": question, "draft": {**DRAFT, **draft}}
    sealed = vault.seal(content, table="tasks_approval", row=str(approval.pk), field="sealed")
    Approval.objects.filter(pk=approval.pk).update(sealed=sealed)


def offers(view: dict[str, Any]) -> list[str]:
    """Return what can be chosen in a window."""
    return [
        option["value"]
        for block in view["blocks"]
        if block.get("block_id") == "choice"
        for option in block["element"]["options"]
    ]


@pytest.mark.parametrize(
    "draft",
    [{"text": "x" * 3_001}, {"subject": "x" * 251}, {"question": "x" * 2_901}],
    ids=["text", "subject", "question"],
)
def test_what_slack_would_cut_is_not_approved_there_and_leads_to_its_page(
    slack: FakeSlack, ana: User, draft: dict[str, str]
) -> None:
    (approval,), said = shown(slack)
    before = opened(slack, said)
    redrafted(approval, **draft)
    view = opened(slack, said)

    assert offers(view) == ["decline"]
    words = json.dumps(view)
    assert "too long to be shown in Slack" in words
    link = signed.link(approval, ana)
    assert f"<{link}|Open the page>" in words
    assert "x" * 251 in seen(Client().get(urlsplit(link).path))
    assert [block["block_id"] for block in view["blocks"] if block["type"] == "input"] == ["choice"]
    for choice in ("approve", "edit"):
        answer = receives(slack.submit(before, "UANA", choice=choice)).json()
        assert "too long to be shown in Slack" in answer["errors"]["choice"]
    assert state(approval) == Approval.State.OPEN

    receives(slack.submit(view, "UANA", choice="decline"))

    assert state(approval) == Approval.State.ANSWERED


@pytest.mark.parametrize("draft", [{"text": "x" * 3_000}, {"subject": "x" * 250}, {"question": "x" * 2_900}])
def test_what_slack_shows_to_its_last_character_is_decided_there(
    slack: FakeSlack, ana: User, draft: dict[str, str]
) -> None:
    (approval,), said = shown(slack)
    redrafted(approval, **draft)
    view = opened(slack, said)
    assert offers(view) == ["approve", "edit", "decline"]

    receives(slack.submit(view, "UANA", choice="approve"))

    assert state(approval) == Approval.State.ANSWERED


def test_of_a_text_that_cannot_be_edited_a_window_takes_less(slack: FakeSlack, ana: User) -> None:
    """It is shown escaped, and in another kind of block; without a no there is nothing to submit."""
    found, said = shown(slack, 2)
    Approval.objects.update(options=[{"key": "seen", "label": "Seen", "outcome": "tell"}])
    # Each @ between letters is shown with a joiner before it.
    redrafted(found[0], text="a@" * 967)
    redrafted(found[1], text="a@" * 968)
    fits, cut = opened(slack, said, "Open"), opened(slack, said, "Open", nth=1)
    assert (offers(fits), offers(cut), "submit" in cut) == (["seen"], [], False)


def test_when_slack_does_not_open_the_window_the_person_is_told(slack: FakeSlack, ana: User) -> None:
    (_, said) = shown(slack)
    slack.fail(1, error="expired_trigger_id")

    receives(slack.click(said, "Edit first", "UANA"))

    assert "could not open the window (expired_trigger_id)" in whispers(slack, "UANA")[0]


# -- /sop ------------------------------------------------------------------------------------------


def typed(slack: FakeSlack, text: str, user: str = "UANA") -> str:
    answer = receives(slack.command(text, user)).json()
    assert answer["response_type"] == "ephemeral"
    return str(answer["text"])


def test_list_names_the_procedures_and_status_says_what_needs_a_person(slack: FakeSlack, ana: User) -> None:
    live()
    asking(2)

    assert typed(slack, "list").splitlines()[0] == "greet: Greet (active)"
    assert "2 to answer, 0 stopped" in typed(slack, "status")


def test_run_starts_one_run_in_the_name_of_the_person(slack: FakeSlack, ana: User) -> None:
    live()

    said = typed(slack, "run greet season=2027")

    task = Task.objects.get()
    assert said == f"Started: run {str(task.pk)[:8]}."
    assert TaskEvent.objects.get(task=task, kind="created").data["by"] == f"user:{ana.pk}"
    assert "Greet" in typed(slack, f"status {str(task.pk)[:8]}")


def test_a_command_that_slack_posts_twice_starts_one_run(slack: FakeSlack, ana: User) -> None:
    live()
    request = slack.command("run greet season=2027", "UANA")

    receives(request)
    receives(request)

    assert Task.objects.count() == 1


def test_a_command_that_died_is_done_later_and_once(slack: FakeSlack, ana: User) -> None:
    live()
    receives(slack.command("run greet season=2027", "UANA"))
    stored = Delivery.objects.get()
    # As if the process had died between its work and its last word.
    request = slack.command("run greet season=2028", "UANA")
    Delivery.objects.filter(pk=stored.pk).delete()
    delivery, _ = inbox.store("slack", "body:1", request.body, headers={"type": "x"})

    deliveries.process()
    delivery.refresh_from_db()

    assert delivery.state == Delivery.State.PROCESSED
    assert Task.objects.count() == 2
    assert whispers(slack, "UANA")[0].startswith("Started: run")


def test_a_command_that_is_done_twice_starts_one_run(slack: FakeSlack, ana: User) -> None:
    live()
    asked = slack_acts.read(slack.command("run greet season=2027", "UANA").body)

    first, second = slack_in.commanded(asked, "delivery-1"), slack_in.commanded(asked, "delivery-1")

    assert first.startswith("Started: run")
    assert second == "This run was started already."
    assert Task.objects.count() == 1


def test_pause_and_resume_reach_a_run_or_all_runs_of_a_procedure(slack: FakeSlack, ana: User) -> None:
    (one, two), _ = asking(2), None
    name = str(one.task_id)[:8]

    assert typed(slack, f"pause {name}") == f"1 run of “{name}” paused before its next step."
    engine.drain()
    assert [fresh(a.task).status for a in (one, two)] == ["paused", "waiting"]
    assert "cannot pause" in typed(slack, f"pause {name}")
    assert typed(slack, f"resume {name}") == f"1 run of “{name}” going on."
    slug = one.task.version.sop.slug
    engine.drain()
    assert typed(slack, f"pause {slug}").startswith("2 runs of")
    engine.drain()
    assert {fresh(a.task).status for a in (one, two)} == {"paused"}


def test_a_procedure_is_resumed_without_what_stopped_by_itself(slack: FakeSlack, ana: User) -> None:
    found = asking(4)
    paused, stopped, undecided, waiting = (one.task for one in found)
    engine.signal([paused.pk], "pause")
    engine.drain()
    for task, reason in ((stopped, "expired"), (undecided, "outcome_unknown")):
        progress = {**fresh(task).progress, "rest": "parked"}
        rows = Task.objects.filter(pk=task.pk)
        rows.update(status="paused", reason=reason, waiting_for="", progress=progress, wake_at=None)
    slug = paused.version.sop.slug

    assert typed(slack, f"resume {slug}") == (
        f"1 run of “{slug}” going on. 2 runs stay stopped, as nobody paused them (1: nobody answered in "
        "time; 1: it is not known whether this was sent). To try one again, name it: /sop resume RUN."
    )

    engine.drain()
    assert [fresh(task).status for task in (paused, stopped, undecided, waiting)] == [
        *("waiting", "paused", "paused", "waiting")
    ]
    assert typed(slack, f"resume {slug}").startswith(f"0 runs of “{slug}” going on. 2 runs stay stopped")
    assert typed(slack, f"resume {str(stopped.pk)[:8]}").startswith("1 run of")
    engine.drain()
    assert fresh(stopped).reason != "expired"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "/sop list"),
        ("help", "/sop list"),
        ("dance", "“dance” is no command."),
        ("run", "Not done: say which one"),
        ("run nothing", "Not done: there is no procedure “nothing”"),
        ("run greet", "Not done: "),
        ("run greet 2027", "Not done: inputs are written name=value"),
        ("pause", "Not done: say which run"),
        ("pause zzz", "Not done: 'zzz' is no id"),
        ("status 00000000", "Not done: There is no run"),
        ("run <!channel>", "Not done: there is no procedure “&lt;!channel&gt;”"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_type(
    slack: FakeSlack, ana: User, text: str, answer: str
) -> None:
    live()

    assert answer in typed(slack, text)
    assert Task.objects.count() == 0


@pytest.mark.parametrize("text", ["list", "run greet season=2027", "status", "pause greet", "resume greet"])
def test_each_command_wants_its_permission(slack: FakeSlack, text: str) -> None:
    live()
    member("bob", "view_holiday")

    assert typed(slack, text, "UBOB") == "Not done: bob may not do this; ask an administrator."
    assert "I do not know who you are" in typed(slack, text, "UNOBODY")
    assert Task.objects.count() == 0


# -- who may post ----------------------------------------------------------------------------------


def test_what_is_not_signed_as_it_must_be_leaves_no_row(
    slack: FakeSlack, ana: User, settings: Settings
) -> None:
    good = slack.command("list", "UANA")
    other = Request(good.body, {**good.headers, "X-Slack-Signature": "v0=" + "0" * 64})
    bare = Request(good.body, {"Content-Type": good.headers["Content-Type"]})
    changed = Request(good.body + b"&x=1", good.headers)
    old, early = (slack.signed(good.body, at=slack.now() + seconds) for seconds in (-310, 310))
    for request in (other, bare, changed, old, early):
        assert receives(request).status_code == 401
    settings.SLACK_SIGNING_SECRET = ""
    store.forget()
    assert receives(good).status_code == 401

    assert Delivery.objects.count() == 0


def test_slacks_own_example_of_a_signature_is_taken(settings: Settings, slack: FakeSlack) -> None:
    slack.secret = "8f742231b10e8888abcd99yyyzzz85a5"
    body = (
        "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        "&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        "&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        "&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    signed = slack.signed(body.encode(), at=1531420618)

    assert signed.headers["X-Slack-Signature"] == (
        "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    )


def test_the_challenge_is_said_back_and_an_unsigned_one_is_not(slack: FakeSlack) -> None:
    body = json.dumps({"type": "url_verification", "challenge": "3eZbrw1a"}).encode()

    assert receives(slack.signed(body, "application/json")).json() == {"challenge": "3eZbrw1a"}
    assert receives(Request(body, {"Content-Type": "application/json"})).status_code == 401
    assert Delivery.objects.count() == 0


def test_a_get_is_nothing(slack: FakeSlack) -> None:
    assert Client().get(URL).status_code == 405


@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(st.sampled_from(["payload", "command", "x"]), st.text(max_size=50)).map(
            lambda fields: "&".join(f"{k}={v}" for k, v in fields.items()).encode("utf-8", "replace")
        ),
        st.recursive(
            st.none() | st.text(max_size=5) | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["type", "user", "id", "actions", "view", "state", "values", "channel", "value"]
                    ),
                    inner | st.sampled_from(["block_actions", "view_submission", "sop_decide", "sop_open:1"]),
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(lambda value: b"payload=" + json.dumps(value).encode()),
    ),
    kind=st.sampled_from(["application/x-www-form-urlencoded", "application/json", "text/plain", ""]),
)
@effort(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_signed_is_answered_without_an_error(slack: FakeSlack, body: bytes, kind: str) -> None:
    answer = receives(slack.signed(body, kind))

    assert answer.status_code in (200, 400, 411, 415)  # 411: nothing at all came
    deliveries.process()
    assert not Delivery.objects.exclude(state=Delivery.State.PROCESSED).exists()


# -- rows of the fault matrix ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429, "retry_after": 3}, {"drop": "before"}])
def test_s1_while_slack_is_down_runs_go_on_and_every_message_arrives_afterwards(
    slack: FakeSlack, fault: dict[str, Any]
) -> None:
    slack.fail(**fault)
    outbox.post("first", channel="#office")
    found = asking(3)
    for approval in found:
        approvals.answer(approval.pk, "approve", by=None)
    engine.drain()
    assert {fresh(one.task).status for one in found} == {"completed"}
    for number in range(4):
        outbox.post(f"message {number}", channel="#office")
        outbox.pump()
    assert public(slack) == []
    assert len(slack.calls) <= 3  # whoever is down or asks for a pause is left alone

    slack.recover()
    for _ in range(6):
        soon()
        outbox.pump()

    texts = [said.text for said in public(slack)]
    assert sorted(texts) == sorted(["first", *(f"message {n}" for n in range(4)), *["done"] * 3])
    assert not Notification.objects.exclude(state=Notification.State.SENT).exists()


def test_s1_an_answer_that_is_lost_costs_one_message_too_many_at_most(slack: FakeSlack) -> None:
    slack.fail(1, drop="after")
    outbox.post("once", channel="#office")
    outbox.pump()
    soon()
    outbox.pump()
    soon()
    outbox.pump()

    assert [said.text for said in public(slack)] == ["once", "once"]


def soon() -> None:
    now = journal.database_now()
    Notification.objects.filter(wake_at__isnull=False).update(wake_at=now)
    Pulse.objects.filter(name__endswith=":away").update(at=now)


@pytest.mark.django_db(transaction=True)
def test_s2_twenty_presses_at_once_are_one_decision_and_nineteen_refusals(slack: FakeSlack) -> None:
    people = [member(f"p{number}") for number in range(10)]
    (approval,), said = shown(slack)
    presses = [
        slack.click(said, label, f"U{person.username.upper()}")
        for person in people
        for label in ("Send as is", "Don't send")
    ]
    statuses: list[int] = []

    def posts(request: Request) -> None:
        statuses.append(receives(request).status_code)

    side_by_side([partial(posts, press) for press in presses])
    assert statuses == [200] * 20
    assert Delivery.objects.count() == 20

    side_by_side([deliveries.process] * 4)
    engine.drain()

    assert TaskEvent.objects.filter(task=approval.task, kind="answered").count() == 1
    assert not Delivery.objects.exclude(state=Delivery.State.PROCESSED).exists()
    assert (
        sum(
            text.startswith("Not taken: p")
            for p in people
            for text in whispers(slack, f"U{p.username.upper()}")
        )
        == 19
    )


def side_by_side(works: list[Callable[[], object]]) -> None:
    def run(work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
