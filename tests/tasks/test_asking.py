"""Laws of how staff hear of questions: in lists, once, with reminders that count, and what became of them."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, connections
from pytest_django import Settings

from tasks import approvals, asking, engine, journal, outbox
from tasks.models import Approval, ChatAccount, Notification, Task
from tasks.transports import Message, Transport, transports
from tests.tasks.office import ASKS
from tests.tasks.office import asking as some_questions
from tests.tasks.runs import begun, fresh, make_due, published

pytestmark = pytest.mark.django_db
PENDING = Notification.State.PENDING


class Room(Transport):
    """The chat of these tests: what it was given, and what took the place of what."""

    pace = 0.0
    threads = True
    posted: list[Message] = []
    updated: list[tuple[str, Message]] = []

    def post(self, message: Message) -> str:
        self.posted.append(message)
        return f"ts-{len(self.posted)}"

    def update(self, reference: str, message: Message) -> None:
        self.updated.append((reference, message))


@pytest.fixture
def room(settings: Settings) -> Iterator[type[Room]]:
    Room.posted, Room.updated = [], []
    transports.register("room")(Room)
    settings.CHAT = "room"
    settings.PUBLIC_URL = "https://sop.test"
    yield Room
    transports.remove("room")


def somebody(name: str, **more: Any) -> User:
    user = User.objects.create_user(name, **more)
    user.user_permissions.add(Permission.objects.get(codename="answer_approval"))
    return User.objects.get(pk=user.pk)


def a_family(count: int) -> Task:
    """Return a run with so many others that it has started, each with an open question, told to staff."""
    parent = begun(published({"handler": "flow.wait", "with": {"duration": "10 days"}}))
    engine.drain()
    some_questions(count, parent=parent)
    return parent


def untold() -> None:
    """Let nobody have been told of anything yet."""
    Approval.objects.update(message=None)
    Notification.objects.all().delete()


def lists() -> list[list[str]]:
    """Return what each message lists, the oldest message first."""
    rows = Notification.objects.filter(kind="approval").order_by("created_at", "pk")
    return [sorted(str(pk) for pk in row.lists.values_list("pk", flat=True)) for row in rows]


def asks(**more: Any) -> dict[str, Any]:
    return {**ASKS, "with": {**ASKS["with"], **more}}


def asked(**more: Any) -> Approval:
    """Return the question of one run."""
    version = published(asks(**more), "chat.post", inputs={"customer_name": {"type": "string"}})
    task = begun(version, {"customer_name": "Ada Adams"})
    engine.drain()
    return Approval.objects.get(task=task)


# -- lists -----------------------------------------------------------------------------------------


def test_questions_of_one_run_are_told_in_lists_of_25_and_each_in_one_of_them(room: type[Room]) -> None:
    a_family(57)

    outbox.pump()

    told = lists()
    assert sorted(len(one) for one in told) == [7, 25, 25]
    assert sorted(chain(*told)) == sorted(str(pk) for pk in Approval.objects.values_list("pk", flat=True))
    assert sorted(len(message.batch) for message in room.posted) == [7, 25, 25]
    oldest = [message.batch[0].approval_id for message in room.posted]
    first = Approval.objects.order_by("created_at", "pk").first()
    assert str(first and first.pk) == oldest[0]


def test_what_the_runs_of_a_campaign_start_later_asks_in_one_list_too(room: type[Room]) -> None:
    campaign = begun(published({"handler": "flow.wait", "with": {"duration": "10 days"}}))
    ended = [begun(campaign.version) for _ in range(3)]
    Task.objects.filter(pk__in=[one.pk for one in ended]).update(parent=campaign)
    engine.drain()
    second = some_questions(3)
    for parent, question in zip(ended, second, strict=True):
        Task.objects.filter(pk=question.task_id).update(parent=parent)
    untold()
    room.posted.clear()
    outbox.pump()

    (told,) = [message for message in room.posted if message.kind == "approval"]
    assert [card.approval_id for card in told.batch] == [str(question.pk) for question in second]
    assert told.link.endswith(f"?run={campaign.pk}")


def test_a_list_shows_whom_each_draft_is_for_the_question_and_the_subject_and_nothing_else(
    room: type[Room],
) -> None:
    a_family(2)

    (message,) = room.posted
    assert message.text.endswith("2 questions wait for an answer.")
    card = message.batch[0]
    assert card.title.startswith("Ada Adams ")
    assert card.lines == ("Send?", "Your lawn")
    assert [choice.key for choice in card.options] == ["approve", "edit", "decline"]
    assert "see you" not in repr(message)
    assert "ada@example.test" not in repr(message)


def test_a_draft_to_somebody_without_a_name_is_shown_by_its_address(room: type[Room]) -> None:
    """Who has just written for the first time is no customer yet."""
    begun(published(ASKS))
    engine.drain()
    outbox.pump()

    (message,) = room.posted
    assert (message.batch[0].title, message.batch[0].lines) == ("ada@example.test", ("Send?", "Your lawn"))


def test_a_question_without_a_name_or_an_address_is_about_a_customer(room: type[Room]) -> None:
    draft = {"subject": "Your lawn", "text": "Dear Ada"}
    begun(published({**ASKS, "with": {"question": "What is this?", "draft": draft}}))
    engine.drain()
    outbox.pump()

    (message,) = room.posted
    assert message.batch[0].title == "A customer"


def test_two_processes_that_tell_at_once_tell_each_question_once() -> None:
    questions = [str(one.pk) for one in some_questions(3)]
    untold()
    by_place = asking._by_place()

    told = [asking._told(place, untold) for place, untold in [*by_place.items(), *by_place.items()]]

    assert told == [True] * 3 + [False] * 3
    assert sorted(chain(*lists())) == sorted(questions)


@pytest.mark.django_db(transaction=True)
def test_processes_that_tell_side_by_side_tell_each_question_once() -> None:
    a_family(30)
    untold()

    def tell() -> None:
        try:
            asking.tell()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=tell) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(len(one) for one in lists()) == [5, 25]
    assert not Approval.objects.filter(message=None).exists()


def test_a_family_that_is_still_under_way_is_told_when_it_has_come_to_rest() -> None:
    parent = a_family(2)
    untold()
    late = begun(published(ASKS), {})
    Task.objects.filter(pk=late.pk).update(parent=parent)

    assert asking.tell() == 0

    engine.drain()
    assert [len(one) for one in lists()] == [3]
    assert not Approval.objects.filter(message=None).exists()


@pytest.mark.parametrize(
    "moving",
    [{"status": "running"}, {"status": "ready"}, {"status": "waiting", "waiting_for": "listing"}],
)
def test_nobody_waits_longer_than_a_minute_for_others_of_the_run(moving: dict[str, str]) -> None:
    parent = a_family(2)
    untold()
    other = begun(published(ASKS), {})
    Task.objects.filter(pk=other.pk).update(parent=parent, wake_at=journal.database_now(), **moving)
    assert asking.tell() == 0

    Approval.objects.update(created_at=journal.database_now() - timedelta(seconds=61))

    assert asking.tell() == 1


def test_a_run_that_comes_much_later_keeps_nobody_waiting() -> None:
    parent = a_family(2)
    untold()
    other = begun(published(ASKS), {})
    later = journal.database_now() + timedelta(hours=1)
    Task.objects.filter(pk=other.pk).update(parent=parent, wake_at=later)

    assert asking.tell() == 1


def test_a_question_that_came_with_a_call_for_help_is_not_told_again(room: type[Room]) -> None:
    approval = asked()
    Notification.objects.all().delete()
    outbox.post("May have been sent.", kind="escalation", task_id=approval.task_id, approval_id=approval.pk)

    assert asking.tell() == 0

    approval.refresh_from_db()
    assert approval.message is not None
    assert approval.message.kind == "escalation"


# -- to one person ---------------------------------------------------------------------------------


def test_a_question_for_one_person_goes_to_that_one_by_mail_with_a_link_of_their_own(
    room: type[Room], mailoutbox: list[Any]
) -> None:
    ana = somebody("ana", email="ana@example.test")

    approval = asked(who=["ana"])

    message = Notification.objects.get(kind="approval")
    assert (message.medium, message.recipient) == ("mail", ana)
    (card,) = asking.cards(message)
    assert card.link.startswith("https://sop.test/approvals/")
    approval.refresh_from_db()
    assert approval.assignee == ana
    assert not room.posted


def test_who_is_known_in_the_chat_is_told_there(room: type[Room]) -> None:
    ana = somebody("ana", email="ana@example.test")
    ChatAccount.objects.create(user=ana, chat_id="U1")

    asked(who=["ana"])

    (message,) = room.posted
    assert message.recipient == "U1"
    assert message.batch[0].link.startswith("https://sop.test/approvals/")


def test_links_in_a_channel_lead_to_the_login(room: type[Room]) -> None:
    somebody("ana", email="ana@example.test")

    approval = asked(who=["ana", "group:office"])

    (message,) = room.posted
    assert message.recipient == ""
    assert message.batch[0].link == f"https://sop.test/admin/tasks/approval/{approval.pk}/change/"


def test_a_question_that_is_handed_over_leaves_the_list_and_is_told_to_the_colleague(
    room: type[Room],
) -> None:
    ana, bea = somebody("ana"), somebody("bea", email="bea@example.test")
    a_family(2)
    given = Approval.objects.order_by("created_at", "pk").first()
    assert given is not None

    approvals.hand_over(given.pk, bea, by=ana)
    outbox.pump()

    told = Notification.objects.get(kind="approval", recipient=bea)
    assert [str(given.pk)] == [card.approval_id for card in asking.cards(told)]
    ((reference, update),) = room.updated
    assert reference == "ts-1"
    assert [card.approval_id for card in update.batch] != [str(given.pk)]
    assert len(update.batch) == 1


# -- what became of it -----------------------------------------------------------------------------


def test_the_message_is_replaced_by_who_decided_what_and_when(room: type[Room]) -> None:
    approval = asked()
    approvals.answer(approval.pk, "decline", by=somebody("ana"))
    engine.drain()

    ((reference, update),) = room.updated
    assert (reference, update.kind) == ("ts-1", "update")
    assert "ana chose “Don't send” on " in update.text
    (card,) = update.batch
    assert "ana chose “Don't send” on " in card.decided
    assert card.options == ()


def test_of_a_list_the_decided_ones_are_shown_as_such_and_the_others_stay_open(room: type[Room]) -> None:
    a_family(3)
    first, *_ = Approval.objects.order_by("created_at", "pk")

    approvals.answer(first.pk, "approve", by=None)
    outbox.pump()

    (_, update) = room.updated[-1]
    assert update.text.endswith("2 of 3 questions still wait for an answer.")
    assert [bool(card.decided) for card in update.batch] == [True, False, False]


def test_many_answers_before_the_chat_is_reached_change_its_message_once(room: type[Room]) -> None:
    a_family(5)

    for pk in Approval.objects.values_list("pk", flat=True):
        approvals.answer(pk, "decline", by=None)
    outbox.pump()

    assert len(room.updated) == 1
    assert all(card.decided for card in room.updated[0][1].batch)


def test_an_answer_while_its_message_is_being_changed_changes_it_once_more(room: type[Room]) -> None:
    a_family(2)
    first, second = Approval.objects.order_by("created_at", "pk")
    approvals.answer(first.pk, "decline", by=None)
    update = Notification.objects.get(kind="update")
    claimed = outbox._claim(update.pk)
    assert claimed is not None

    approvals.answer(second.pk, "decline", by=None)
    outbox._sent(claimed, "ts-1")

    update.refresh_from_db()
    assert update.state == PENDING
    outbox.pump()
    assert all(card.decided for card in room.updated[-1][1].batch)


@pytest.mark.parametrize(("signal", "says"), [("cancel", "withdrawn"), ("expire", "time")])
def test_a_question_that_closes_by_itself_is_replaced_too(room: type[Room], signal: str, says: str) -> None:
    approval = asked()
    engine.signal([approval.task_id], signal)
    engine.drain()

    assert says in room.updated[-1][1].batch[0].decided


def test_what_is_answered_before_it_was_posted_is_not_posted(room: type[Room], settings: Settings) -> None:
    settings.CHAT = "none"
    approval = asked()
    settings.CHAT = "room"
    asking.tell()
    approvals.answer(approval.pk, "decline", by=None)

    engine.drain()

    assert not room.posted


# -- reminders -------------------------------------------------------------------------------------


def remind(*tasks: Task) -> None:
    make_due(*tasks)
    engine.drain()


def test_reminders_of_one_channel_are_one_message_that_counts_what_waits(room: type[Room]) -> None:
    questions = some_questions(4)
    Approval.objects.filter(pk=questions[0].pk).update(
        created_at=journal.database_now() - timedelta(hours=4, minutes=5)
    )
    room.posted.clear()

    remind(*(one.task for one in questions))

    (message,) = room.posted
    assert message.kind == "reminder"
    assert message.text == "4 questions wait for an answer, the oldest for 4 h."
    assert Notification.objects.filter(kind="reminder").count() == 1


def test_the_second_reminder_of_a_later_hour_is_told_again(room: type[Room]) -> None:
    question = some_questions(1)[0]
    remind(question.task)
    Notification.objects.filter(kind="reminder").update(dedupe="remind:#office:2027-02-15T10")

    remind(question.task)

    assert [message.kind for message in room.posted].count("reminder") == 2


def test_what_was_given_to_one_person_is_reminded_of_there(room: type[Room]) -> None:
    ana = somebody("ana", email="ana@example.test")
    ChatAccount.objects.create(user=ana, chat_id="U1")
    mine, other = asked(who=["ana"]), asked()
    room.posted.clear()

    remind(mine.task, other.task)

    by_recipient = {message.recipient: message.text for message in room.posted}
    assert by_recipient["U1"].startswith("1 question waits for you")
    assert by_recipient[""].startswith("2 questions wait for an answer")


def test_nobody_is_reminded_of_what_was_answered_meanwhile(room: type[Room], settings: Settings) -> None:
    question = some_questions(1)[0]
    room.posted.clear()
    settings.CHAT = "none"
    remind(question.task)
    settings.CHAT = "room"
    approvals.answer(question.pk, "decline", by=None)

    engine.drain()

    assert "reminder" not in [message.kind for message in room.posted]
    assert not Notification.objects.filter(kind="reminder", state=PENDING).exists()


def test_what_waits_too_long_calls_for_help_once_for_all_of_a_channel(room: type[Room]) -> None:
    questions = [asked(remind=[]) for _ in range(3)]
    room.posted.clear()

    remind(*(one.task for one in questions))

    (message,) = room.posted
    assert (message.kind, message.severity) == ("escalation", "warning")
    assert message.channel != "#office"
    assert message.text.startswith("3 questions wait for an answer, the oldest for ")


def test_a_sop_without_a_channel_is_reminded_of_where_help_is_called(
    room: type[Room], settings: Settings
) -> None:
    version = published(ASKS, channel="")
    task = begun(version)
    engine.drain()
    room.posted.clear()

    remind(task)

    (message,) = room.posted
    assert message.channel == settings.ESCALATIONS_CHANNEL
    assert message.text.startswith("1 question waits")


# -- nothing stays behind --------------------------------------------------------------------------


def test_no_message_about_a_question_keeps_a_word_of_its_draft_in_its_row() -> None:
    approval = asked()
    approvals.answer(approval.pk, "decline", by=None)
    engine.drain()

    rows = Notification.objects.all()
    assert {row.kind for row in rows} == {"approval", "update"}
    assert all(row.sealed is None or row.state != "sent" for row in rows)
    assert fresh(approval.task).status == "completed"


def test_questions_that_end_unanswered_are_told_to_the_escalations_once_with_their_count(
    room: type[Room], settings: Settings
) -> None:
    version = published(asks(remind=[], escalate=None, expire="1h"), "chat.post")
    tasks = [begun(version) for _ in range(3)]
    engine.drain()
    room.posted.clear()

    remind(*tasks)

    assert {fresh(task).result for task in tasks} == {"expired"}
    told = [message for message in room.posted if message.kind == "escalation"]
    (message,) = told
    assert (message.channel, message.severity) == (settings.ESCALATIONS_CHANNEL, "warning")
    assert "closed unanswered" in message.text
    counted = Notification.objects.filter(kind="escalation", state="sent").exclude(reason="folded")
    assert [row.count for row in counted] == [3]


def test_a_mail_about_a_call_for_help_is_no_message_that_could_be_changed() -> None:
    approval = asked()
    untold()
    about: dict[str, Any] = {"kind": "escalation", "task_id": approval.task_id, "approval_id": approval.pk}
    outbox.post("May have been sent.", medium="mail", **about)

    assert asking.tell() == 1


def test_what_goes_wrong_in_telling_keeps_no_other_message_from_being_posted(room: type[Room]) -> None:
    approval = asked()
    untold()
    Approval.objects.filter(pk=approval.pk).update(allowed=["nonsense"])
    outbox.post("Hello")

    assert outbox.pump() == 1
    assert [message.text for message in room.posted][-1] == "Hello"


def test_what_is_asked_while_it_is_seen_whether_more_is_to_come_stands_in_the_same_list(
    room: type[Room],
) -> None:
    a_family(2)
    untold()
    last = Approval.objects.order_by("created_at", "pk").last()
    assert last is not None
    mine, run = Approval.objects.filter(pk=last.pk), Task.objects.filter(pk=last.task_id)
    mine.update(state="void")
    run.update(status="running", wake_at=journal.database_now() + timedelta(minutes=1))

    def asks_now(execute: Any, sql: str, *more: Any) -> Any:
        if (
            "tasks_task" in sql
            and "listing" in str(more[0])
            and mine.filter(state="void").update(state="open")
        ):
            run.update(status="waiting", wake_at=None)
        return execute(sql, *more)

    with connection.execute_wrapper(asks_now):
        outbox.pump()
    assert [len(one) for one in lists()] == [2]
