"""Laws of who may answer: whom the question names, not who asked if it says so; and when it is void."""

from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser, Group, Permission, User
from django.test import Client

from tasks import approvals, engine, journal, outbox, questions
from tasks.approvals import AnswerRefused
from tasks.models import Approval, Notification, Task, TaskEvent
from tests.tasks.office import ASKS
from tests.tasks.runs import begun, published

pytestmark = pytest.mark.django_db
PEOPLE = ("ana", "bob", "cleo", "dora", "eve", "root", "gone", "nobody")


def asks(**more: Any) -> dict[str, Any]:
    return {**ASKS, "with": {**ASKS["with"], **more}}


def asked(by: str = "", **more: Any) -> Approval:
    """Return the question of a run that `by` has started."""
    task = begun(published(asks(**more), {"handler": "chat.post", "with": {"text": "done"}}), by=by)
    engine.drain()
    return Approval.objects.get(task=task)


@pytest.fixture
def firm() -> dict[str, AbstractUser | None]:
    """Everybody there is: who may answer (ana; bob of the office; cleo), and who may not."""
    office = Group.objects.create(name="office")
    may = Permission.objects.get(codename="answer_approval")
    people: dict[str, AbstractUser | None] = {"nobody": None}
    for name in ("ana", "bob", "cleo", "gone"):
        user = User.objects.create_user(name)
        user.user_permissions.add(may)
        people[name] = user
    bob = User.objects.get(username="bob")
    bob.groups.add(office)
    User.objects.create_user("dora").groups.add(office)  # in the office, without the permission
    User.objects.create_user("eve", is_staff=True)
    people["root"] = User.objects.create_superuser("root")
    User.objects.filter(username="gone").update(is_active=False)
    return {**people, **{name: User.objects.get(username=name) for name in PEOPLE if name != "nobody"}}


def asked_by_ana(firm: dict[str, AbstractUser | None]) -> str:
    ana = firm["ana"]
    assert ana is not None
    return f"user:{ana.pk}"


MATRIX: dict[str, tuple[dict[str, Any], set[str]]] = {
    "everybody": ({}, {"ana", "bob", "cleo", "root", "nobody"}),
    "one person": ({"who": ["cleo"]}, {"cleo"}),
    "two people": ({"who": ["ana", "cleo"]}, {"ana", "cleo"}),
    "a group": ({"who": ["group:office"]}, {"bob"}),
    "a group and a person": ({"who": ["group:office", "cleo"]}, {"bob", "cleo"}),
    "not who asked": ({"not_asker": True}, {"bob", "cleo", "root"}),
    "named, and asked": ({"who": ["ana", "bob"], "not_asker": True}, {"bob"}),
    "somebody unknown": ({"who": ["zoe"]}, set()),
    "an unknown group": ({"who": ["group:night"]}, set()),
    "without the permission": ({"who": ["eve", "dora"]}, set()),
}


@pytest.mark.parametrize("name", PEOPLE)
@pytest.mark.parametrize("rule", MATRIX)
def test_who_may_answer_does_and_everybody_else_changes_nothing(
    firm: dict[str, AbstractUser | None], rule: str, name: str
) -> None:
    options, may = MATRIX[rule]
    approval = asked(by=asked_by_ana(firm), **options)
    before = (Task.objects.values().get(), TaskEvent.objects.count(), approval.state)

    if name in may:
        approvals.answer(approval.pk, "decline", by=firm[name])
        approval.refresh_from_db()
        assert (approval.state, approval.answered_by) == ("answered", firm[name])
        return
    with pytest.raises(AnswerRefused) as refusal:
        approvals.answer(approval.pk, "decline", by=firm[name])

    assert str(refusal.value).endswith((".", "it."))
    approval.refresh_from_db()
    assert (Task.objects.values().get(), TaskEvent.objects.count(), approval.state) == before


def test_a_refusal_says_who_may_answer_instead(firm: dict[str, AbstractUser | None]) -> None:
    def told(approval: Approval, name: str) -> str:
        with pytest.raises(AnswerRefused) as refusal:
            approvals.answer(approval.pk, "approve", by=firm[name])
        return str(refusal.value)

    approval = asked(by=asked_by_ana(firm), who=["bob", "group:office"], not_asker=True)
    assert told(approval, "cleo") == "Only bob or the group office may answer this question."
    assert told(approval, "ana").startswith("You started this run yourself")
    assert "in whose name" in told(approval, "nobody")
    assert told(approval, "gone") == "gone may not answer any more: this login is switched off."
    assert told(approval, "eve").startswith("eve may not answer questions")


def test_who_lost_the_permission_or_the_group_since_is_refused(firm: dict[str, AbstractUser | None]) -> None:
    as_it_was = User.objects.get(username="bob")
    assert as_it_was.has_perm("tasks.answer_approval")
    approval = asked(who=["group:office"])

    User.objects.get(username="bob").groups.clear()
    with pytest.raises(AnswerRefused, match="Only the group office"):
        approvals.answer(approval.pk, "approve", by=as_it_was)

    User.objects.get(username="bob").user_permissions.clear()
    with pytest.raises(AnswerRefused, match="may not answer questions"):
        approvals.answer(approval.pk, "approve", by=as_it_was)


def test_who_was_deleted_since_is_refused(firm: dict[str, AbstractUser | None]) -> None:
    approval = asked()
    cleo = firm["cleo"]
    User.objects.filter(username="cleo").delete()

    with pytest.raises(AnswerRefused, match="switched off"):
        approvals.answer(approval.pk, "approve", by=cleo)


def test_who_started_the_parent_asked_for_all_that_came_of_it(firm: dict[str, AbstractUser | None]) -> None:
    parent = begun(published({"handler": "flow.wait", "with": {"duration": "1 day"}}), by=asked_by_ana(firm))
    child = begun(published(asks(not_asker=True)))
    Task.objects.filter(pk=child.pk).update(parent=parent)
    engine.drain()
    approval = Approval.objects.get()

    with pytest.raises(AnswerRefused, match="started this run yourself"):
        approvals.answer(approval.pk, "approve", by=firm["ana"])
    approvals.answer(approval.pk, "approve", by=firm["bob"])


@pytest.mark.parametrize("by", ["", "schedule", "command"])
def test_a_run_that_nobody_started_keeps_nobody_from_answering(
    firm: dict[str, AbstractUser | None], by: str
) -> None:
    approval = asked(by=by, not_asker=True)
    assert approval.allowed == {"not": None}

    approvals.answer(approval.pk, "approve", by=firm["ana"])


# -- handing over ----------------------------------------------------------------------------------


def test_a_question_is_handed_over_and_either_of_both_may_answer(
    firm: dict[str, AbstractUser | None],
) -> None:
    bob, cleo = firm["bob"], firm["cleo"]
    assert bob is not None
    assert cleo is not None
    approval = approvals.hand_over(asked().pk, bob, by=cleo)

    assert approval.assignee == bob
    approvals.answer(approval.pk, "approve", by=cleo)


@pytest.mark.parametrize(
    ("to", "by", "why"),
    [
        ("eve", "ana", "eve may not answer questions"),
        ("gone", "ana", "switched off"),
        ("cleo", "ana", "cleo is not one of those who may answer this question"),
        ("bob", "eve", "eve may not answer questions"),
        ("bob", "cleo", "Only ana or the group office"),
        ("bob", "nobody", "in whose name"),
    ],
)
def test_a_question_goes_only_from_one_to_another_who_may_answer_it(
    firm: dict[str, AbstractUser | None], to: str, by: str, why: str
) -> None:
    approval, taker = asked(who=["ana", "group:office"]), firm[to]
    assert taker is not None

    with pytest.raises(AnswerRefused, match=why):
        approvals.hand_over(approval.pk, taker, by=firm[by])

    approval.refresh_from_db()
    assert approval.assignee is None


def test_a_question_for_people_who_are_gone_is_handed_over_by_a_superuser_and_then_answered(
    firm: dict[str, AbstractUser | None], client: Client
) -> None:
    root, cleo = User.objects.get(username="root"), User.objects.get(username="cleo")
    User.objects.update(is_staff=True)
    approval = asked(who=["ana", "group:office"])
    assert "superuser" not in questions.why_not(approval, cleo)
    User.objects.filter(username__in=["ana", "bob"]).update(is_active=False)

    for name in ("root", "cleo"):
        with pytest.raises(AnswerRefused, match="none of them can any more; a superuser may hand it over"):
            approvals.answer(approval.pk, "approve", by=firm[name])
    with pytest.raises(AnswerRefused, match="a superuser may hand it over"):
        approvals.hand_over(approval.pk, cleo, by=cleo)
    assert {person.get_username() for person in questions.colleagues(approval)} == {"cleo", "root"}
    for user, offered in ((root, True), (cleo, False)):
        client.force_login(user)
        page = client.get(f"/admin/tasks/approval/{approval.pk}/change/").content.decode()
        assert ("Hand over to a colleague" in page, "a superuser may hand it over" in page) == (offered, True)

    given = approvals.hand_over(approval.pk, cleo, by=root)

    assert given.assignee == cleo
    with pytest.raises(AnswerRefused, match="Only ana, cleo or the group office may answer"):
        approvals.answer(approval.pk, "approve", by=root)
    approvals.answer(approval.pk, "approve", by=cleo)


def test_a_question_of_those_who_are_gone_goes_to_nobody_who_may_not_answer(
    firm: dict[str, AbstractUser | None],
) -> None:
    approval = asked(by=asked_by_ana(firm), who=["gone"], not_asker=True)
    for name in ("ana", "eve"):
        taker = firm[name]
        assert taker is not None
        with pytest.raises(AnswerRefused, match=r"may (not )?answer"):
            approvals.hand_over(approval.pk, taker, by=firm["root"])
    with pytest.raises(AnswerRefused, match="in whose name"):
        approvals.hand_over(approval.pk, User.objects.get(username="cleo"), by=None)


def test_what_is_decided_or_given_already_is_not_handed_over(firm: dict[str, AbstractUser | None]) -> None:
    bob = firm["bob"]
    assert bob is not None
    approval = asked()
    approvals.hand_over(approval.pk, bob, by=None)
    with pytest.raises(AnswerRefused, match="has this question already"):
        approvals.hand_over(approval.pk, bob, by=None)
    approvals.answer(approval.pk, "decline", by=bob)

    with pytest.raises(AnswerRefused, match="bob chose"):
        approvals.hand_over(approval.pk, bob, by=None)


def test_only_those_who_may_take_a_question_are_offered(firm: dict[str, AbstractUser | None]) -> None:
    def offered(approval: Approval) -> set[str]:
        return {person.get_username() for person in questions.colleagues(approval)}

    assert offered(asked()) == {"ana", "bob", "cleo", "root"}
    assert offered(asked(who=["group:office", "cleo"])) == {"bob", "cleo"}
    assert offered(asked(by=asked_by_ana(firm), not_asker=True)) == {"bob", "cleo", "root"}
    given = approvals.hand_over(asked().pk, User.objects.get(username="bob"), by=None)
    assert offered(given) == {"ana", "cleo", "root"}


# -- the rest --------------------------------------------------------------------------------------


def test_the_rest_is_approved_and_what_is_no_draft_says_so(firm: dict[str, AbstractUser | None]) -> None:
    drafts = [asked() for _ in range(3)]
    own = asked(options=[{"key": "call", "label": "Call", "outcome": "decline"}])
    approvals.answer(drafts[0].pk, "decline", by=firm["bob"])

    result = approvals.approve_rest([*(one.pk for one in drafts), own.pk], by=firm["ana"])

    assert set(result.answered) == {drafts[1].pk, drafts[2].pk}
    assert "bob chose" in result.refused[drafts[0].pk]
    assert "no draft to approve" in result.refused[own.pk]


def test_an_id_that_is_none_of_ours_is_refused_by_itself(firm: dict[str, AbstractUser | None]) -> None:
    approval = asked()

    result = approvals.approve_rest([approval.pk, "00000000-0000-4000-8000-000000000000"], by=firm["ana"])

    assert result.answered == (approval.pk,)
    assert list(result.refused.values()) == ["There is no such question."]


# -- withdrawn -------------------------------------------------------------------------------------

VOID: dict[str, Any] = {"void_on": ["replied", "paid"]}


def test_an_event_withdraws_the_question_and_the_run_is_over() -> None:
    approval = asked(**VOID)

    engine.signal([approval.task_id], "event", name="replied")
    engine.drain()

    approval.refresh_from_db()
    task = Task.objects.get()
    assert (approval.state, approval.sealed) == ("void", None)
    assert (task.status, task.result) == ("completed", "answered_elsewhere")


def test_an_event_withdraws_the_question_and_the_run_goes_where_the_step_says() -> None:
    version = published(
        asks(**VOID, void_to="s3"), "chat.post", {"handler": "flow.wait", "with": {"duration": "1d"}}
    )
    task = begun(version)
    engine.drain()

    engine.signal([task.pk], "event", name="paid")
    engine.drain()

    task.refresh_from_db()
    assert (task.status, task.step) == ("waiting", "s3")
    assert Approval.objects.get().state == "void"


def test_an_event_that_the_question_does_not_name_leaves_it_open() -> None:
    approval = asked(**VOID)

    engine.signal([approval.task_id], "event", name="opened")
    engine.drain()

    approval.refresh_from_db()
    assert approval.state == "open"


def test_what_happened_before_the_question_keeps_it_from_being_asked() -> None:
    wait = {"handler": "flow.wait", "with": {"duration": "1d"}}
    task = begun(published(wait, asks(**VOID)))
    engine.drain()
    engine.signal([task.pk], "event", name="replied")
    engine.drain()
    row = Task.objects.get()
    row.progress["wait"]["until"] = journal.database_now().isoformat()
    Task.objects.update(progress=row.progress, wake_at=journal.database_now())

    engine.drain()

    assert not Approval.objects.exists()
    assert Task.objects.get().result == "answered_elsewhere"


def test_an_answer_after_the_event_is_refused_before_the_run_has_read_it(
    firm: dict[str, AbstractUser | None],
) -> None:
    approval = asked(**VOID)
    engine.signal([approval.task_id], "event", name="paid")

    with pytest.raises(AnswerRefused, match="has just changed"):
        approvals.answer(approval.pk, "approve", by=firm["ana"])


@pytest.mark.parametrize("order", [("answer", "event"), ("event", "answer")])
def test_what_happens_while_the_run_is_paused_withdraws_the_question_before_anything_is_sent(
    firm: dict[str, AbstractUser | None], order: tuple[str, str]
) -> None:
    approval = asked(**VOID)
    engine.signal([approval.task_id], "pause")
    engine.drain()

    for what in order:
        if what == "event":
            engine.signal([approval.task_id], "event", name="replied")
        else:
            try:
                approvals.answer(approval.pk, "approve", by=firm["ana"])
            except AnswerRefused:
                assert order[0] == "event"
        engine.drain()
    engine.signal([approval.task_id], "resume")
    engine.drain()

    task = Task.objects.get()
    assert (task.status, task.result) == ("completed", "answered_elsewhere")
    assert "step_done" not in TaskEvent.objects.values_list("kind", flat=True)


def test_a_way_out_that_does_not_exist_is_an_error_of_the_sop() -> None:
    task = begun(published(asks(**VOID, void_to="nowhere")))
    engine.drain()

    task.refresh_from_db()
    assert (task.status, task.reason) == ("paused", "no_step")
    assert not Approval.objects.exists()


def test_a_withdrawn_question_is_said_to_be_so_where_it_was_told() -> None:
    approval = asked(**VOID)
    outbox.pump()
    engine.signal([approval.task_id], "event", name="replied")
    engine.drain()

    update = Notification.objects.get(kind="update")
    assert update.replaces == Notification.objects.get(kind="approval")
