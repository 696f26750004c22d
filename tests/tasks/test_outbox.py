"""Laws of the messages to staff: posted at least once, forgotten in time, and nobody waits for them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from credentials import vault
from sopengine.errors import AuthError, DataError, Permanent, RateLimited, Transient
from tasks import engine, journal, outbox
from tasks.models import ChatAccount, Notification, Pulse, Task
from tasks.outcome import Done, Notice
from tasks.transports import Message, Transport, transports
from tasks.transports.console import line
from tests.tasks.runs import Probe, begun, fresh, published

pytestmark = pytest.mark.django_db
State = Notification.State


class Room:
    """The chat of a test: what was posted, and what it answers."""

    transport: type[Transport]

    def __init__(self) -> None:
        self.posted: list[Message] = []
        self.updated: list[tuple[str, Message]] = []
        self.error: Exception | None = None
        self.error_in: dict[str, Exception] = {}
        self.during: Any = None
        self.tries = 0


@pytest.fixture
def room(settings: Settings) -> Iterator[Room]:
    room = Room()

    class ToRoom(Transport):
        threads = True
        pace = 0.0

        def post(self, message: Message) -> str:
            room.tries += 1
            if room.during:
                room.during()
            error = room.error_in.get(message.channel, room.error)
            if error:
                raise error
            room.posted.append(message)
            return f"ts-{len(room.posted)}"

        def update(self, reference: str, message: Message) -> None:
            room.updated.append((reference, message))

    transports.register("room")(ToRoom)
    room.transport = ToRoom
    settings.CHAT = "room"
    settings.PUBLIC_URL = "https://sop.test/"
    yield room
    transports.remove("room")


def only() -> Notification:
    return Notification.objects.get()


def first() -> Notification:
    found = Notification.objects.order_by("created_at").first()
    assert found is not None
    return found


def let_its_hour_come() -> None:
    now = journal.database_now()
    Notification.objects.filter(wake_at__isnull=False).update(wake_at=now)
    Pulse.objects.filter(name__endswith=":away").update(at=now)


def aged(days: float) -> None:
    Notification.objects.update(created_at=journal.database_now() - timedelta(days=days))


# -- posting -------------------------------------------------------------------------------------


def test_a_message_is_posted_once_with_its_text_place_and_link(room: Room) -> None:
    task = begun(published("probe.pure"))
    outbox.post("Look at this.", task_id=task.pk, channel="#office", severity="warning")

    assert outbox.pump() == 1
    assert outbox.pump() == 0

    (message,) = room.posted
    assert (message.text, message.channel, message.severity) == ("Look at this.", "#office", "warning")
    assert message.link == f"https://sop.test/admin/tasks/task/{task.pk}/change/"
    assert message.reference == str(task.pk)[:8]
    row = only()
    assert (row.state, row.wake_at, row.reference, row.attempts) == (State.SENT, None, "ts-1", 1)
    assert row.sent_at is not None


def test_a_message_without_a_channel_goes_to_the_escalations(room: Room, settings: Settings) -> None:
    settings.ESCALATIONS_CHANNEL = "#help"
    outbox.post("Help")

    outbox.pump()

    assert room.posted[0].channel == "#help"
    assert (room.posted[0].link, room.posted[0].reference) == ("https://sop.test/admin/", "")


def test_messages_with_the_same_dedupe_are_one(room: Room) -> None:
    assert outbox.post("first", dedupe="held:crm")
    assert not outbox.post("second", dedupe="held:crm")
    assert outbox.post("other", dedupe="held:mail")

    outbox.pump()

    assert [message.text for message in room.posted] == ["first", "other"]


def test_the_text_of_a_message_is_never_readable_in_the_table(room: Room) -> None:
    outbox.post("Ann Canary 612-555-0100")

    row = only()
    assert row.sealed is not None
    assert "Canary" not in row.sealed
    assert vault.unseal(row.sealed, table="tasks_notification", row=str(row.pk), field="sealed") == {
        "text": "Ann Canary 612-555-0100"
    }


def test_no_more_than_the_limit_is_posted_at_once_oldest_first(room: Room) -> None:
    for number in range(5):
        outbox.post(str(number))

    assert outbox.pump(limit=3) == 3
    assert [message.text for message in room.posted] == ["0", "1", "2"]


def test_a_message_that_another_process_has_claimed_is_left_alone(room: Room) -> None:
    outbox.post("once")
    room.during = lambda: outbox.pump()  # a second process, in the middle of the first one's post

    assert outbox.pump() == 1
    assert len(room.posted) == 1


def test_a_message_whose_process_died_is_posted_again_after_its_lease(room: Room) -> None:
    outbox.post("again")
    room.error = SystemExit(9)  # type: ignore[assignment]
    with pytest.raises(SystemExit):
        outbox.pump()
    assert only().state == State.PENDING
    room.error = None
    assert outbox.pump() == 0

    let_its_hour_come()

    assert outbox.pump() == 1
    assert only().attempts == 2


def test_a_post_that_took_longer_than_its_lease_does_not_undo_the_next_one(room: Room) -> None:
    outbox.post("slow")

    def someone_else() -> None:
        room.during = None
        let_its_hour_come()
        outbox.pump()
        room.error = Transient("late")

    room.during = someone_else

    outbox.pump()

    assert only().state == State.SENT


def test_a_post_that_failed_after_its_lease_leaves_the_next_ones_claim_alone(room: Room) -> None:
    outbox.post("slow")
    later = journal.database_now() + timedelta(minutes=5)
    room.during = lambda: Notification.objects.update(attempts=2, wake_at=later)
    room.error = Transient("late")

    outbox.pump()

    assert (only().wake_at, only().attempts, only().reason) == (later, 2, "")


# -- when chat is away -----------------------------------------------------------------------------


def test_chat_that_is_down_stops_nobody_and_the_message_waits_longer_each_time(room: Room) -> None:
    outbox.post("later")
    room.error = Transient("chat is away")
    waits = []
    for _ in range(3):
        assert outbox.pump() == 0
        row = only()
        assert row.wake_at is not None
        waits.append((row.wake_at - journal.database_now()).total_seconds())
        let_its_hour_come()

    assert 4 < waits[0] < 7
    assert 9 < waits[1] < 13
    assert 19 < waits[2] < 26
    assert (row.state, row.reason) == (State.PENDING, "transient")


def test_the_pause_that_the_other_side_asks_for_wins_and_does_not_count_towards_giving_up(room: Room) -> None:
    outbox.post("later")
    Notification.objects.update(attempts=20)
    room.error = RateLimited("slowly", retry_after=321)

    outbox.pump()

    row = only()
    assert row.state == State.PENDING
    assert row.wake_at is not None
    assert 315 < (row.wake_at - journal.database_now()).total_seconds() <= 321


@pytest.mark.parametrize("error", [DataError("nonsense"), RuntimeError("bug with secrets")])
def test_after_eight_tries_a_message_is_given_up(room: Room, error: Exception) -> None:
    outbox.post("never", channel="#office")
    room.error = error
    for tries in range(1, 9):
        assert first().state == State.PENDING, tries
        outbox.pump()
        let_its_hour_come()

    row = first()
    assert (row.state, row.wake_at, row.attempts) == (State.DEAD, None, 8)
    assert "secrets" not in row.reason


@pytest.mark.parametrize("error", [Transient("away"), AuthError("key")])
def test_no_message_is_given_up_because_the_chat_is_away(room: Room, error: Exception) -> None:
    outbox.post("later")
    room.error = error
    for _ in range(30):
        outbox.pump()
        let_its_hour_come()
    assert only().state == State.PENDING

    room.error = None
    assert outbox.pump() == 1


def test_while_the_chat_is_away_one_message_is_tried_and_the_others_wait(room: Room) -> None:
    for number in range(20):
        outbox.post(str(number))
    tries: list[int] = []
    room.during = lambda: tries.append(1)
    room.error = Transient("away")

    outbox.pump()
    outbox.pump()
    outbox.post("new")
    outbox.pump()
    assert len(tries) == 1

    outbox.post("fire", severity="critical")
    outbox.pump()
    assert len(tries) == 2  # what is critical is tried all the same

    room.error = None
    let_its_hour_come()
    assert outbox.pump() == 22
    assert not Pulse.objects.filter(name="chat:away").exists()


def test_a_channel_that_asks_for_a_pause_holds_up_no_other(room: Room) -> None:
    for number in range(3):
        outbox.post(str(number), channel="#busy")
    outbox.post("elsewhere", channel="#calm")
    room.error_in = {"#busy": RateLimited("slowly", retry_after=60)}

    assert outbox.pump() == 1
    assert [message.text for message in room.posted] == ["elsewhere"]
    assert room.tries == 2
    let_its_hour_come()
    room.error_in = {}
    assert outbox.pump() == 3


def test_a_no_for_good_is_not_asked_again_and_is_told_elsewhere(room: Room) -> None:
    outbox.post("never", channel="#gone")
    room.error_in = {"#gone": Permanent("no such channel", code="channel_not_found")}

    outbox.pump()
    outbox.pump()

    assert (first().state, first().reason) == (State.DEAD, "channel_not_found")
    (told,) = room.posted
    assert (told.kind, told.channel) == ("dead_letter", "#escalations")
    assert "#gone (channel_not_found)" in told.text


def test_a_dead_letter_about_a_dead_letter_is_not_written(room: Room) -> None:
    outbox.post("never")
    room.error = Permanent("no such channel", code="channel_not_found")

    for _ in range(5):
        outbox.pump()

    assert Notification.objects.count() == 2


def test_one_message_that_cannot_be_posted_does_not_stop_the_next(room: Room) -> None:
    outbox.post("broken")
    Notification.objects.update(sealed="v1|dev|garbage")
    outbox.post("fine")

    assert outbox.pump() == 1
    assert [message.text for message in room.posted] == ["fine"]


def test_the_caller_never_sees_an_error_of_the_outbox(settings: Settings) -> None:
    outbox.post("x")
    settings.CHAT = "no-such-product"

    assert outbox.pump() == 0
    assert only().state == State.PENDING


# -- the pace of a channel -------------------------------------------------------------------------


def test_a_few_messages_leave_at_once_and_the_rest_at_the_pace_of_the_channel(room: Room) -> None:
    room.transport.pace = 1.0
    for number in range(8):
        outbox.post(str(number), channel="#office")
    outbox.post("elsewhere", channel="#calm")

    assert outbox.pump() == 6
    assert sorted(message.channel for message in room.posted) == ["#calm", *["#office"] * 5]
    waits = Notification.objects.filter(state=State.PENDING).order_by("wake_at")
    now = journal.database_now()
    ahead = [(row.wake_at - now).total_seconds() for row in waits if row.wake_at]
    assert [row.attempts for row in waits] == [0, 0, 0]
    assert [round(later - ahead[0]) for later in ahead] == [0, 1, 2]
    assert 0 < ahead[0] < 1.01

    let_its_hour_come()
    assert outbox.pump() == 3  # each has its place by now, and takes no other


def test_what_is_critical_waits_for_no_pace_and_goes_first(room: Room) -> None:
    room.transport.pace = 1.0
    for number in range(8):
        outbox.post(str(number), channel="#office")
    outbox.post("fire", channel="#office", severity="critical")

    outbox.pump()

    assert room.posted[0].text == "fire"


def test_a_pump_ends_when_its_time_is_over(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        outbox.post(str(number))
    monkeypatch.setattr(outbox, "PUMP_SECONDS", 0.0)

    assert outbox.pump() == 0


# -- threads, updates, one person --------------------------------------------------------------------


def test_the_messages_of_one_run_in_one_channel_are_one_thread(room: Room) -> None:
    task, other = begun(published("probe.pure")), begun(published("probe.pure", slug="other"))
    outbox.post("begun", task_id=task.pk, channel="#office")
    outbox.pump()
    outbox.post("elsewhere", task_id=task.pk, channel="#calm")
    outbox.post("of another run", task_id=other.pk, channel="#office")
    outbox.post("of none", channel="#office")
    outbox.post("gone on", task_id=task.pk, channel="#office")
    outbox.pump()

    assert {message.text: message.task_thread for message in room.posted} == {
        "begun": "",
        "elsewhere": "",
        "of another run": "",
        "of none": "",
        "gone on": "ts-1",
    }


def test_a_message_for_one_person_goes_to_their_chat_account(room: Room) -> None:
    ann = User.objects.create_user("ann")
    ChatAccount.objects.create(user=ann, chat_id="U0ANN")
    outbox.post("for you", recipient_id=ann.pk)

    outbox.pump()

    assert room.posted[0].recipient == "U0ANN"


def test_a_message_for_somebody_who_is_not_in_the_chat_is_no_message_for_all(room: Room) -> None:
    outbox.post("for you", recipient_id=User.objects.create_user("ann").pk)

    outbox.pump()

    assert (first().state, first().reason) == (State.DEAD, "no_chat_account")
    assert [message.text for message in room.posted if "for you" in message.text] == []


# -- forgetting ------------------------------------------------------------------------------------


def test_the_text_goes_when_it_is_posted_after_the_end_of_its_run(room: Room, probe: Probe) -> None:
    probe.told["s1"] = lambda _: Done(notify=(Notice("over"),))
    task = begun(published("probe.pure"))
    room.error = Transient("away")
    engine.drain()
    assert fresh(task).status == Task.Status.COMPLETED
    assert only().sealed is not None

    room.error = None
    let_its_hour_come()
    outbox.pump()

    assert [message.text for message in room.posted] == ["over"]
    assert only().sealed is None


def test_the_text_of_a_message_that_is_about_no_run_goes_when_it_is_posted(room: Room) -> None:
    outbox.post("x")
    outbox.pump()

    assert only().sealed is None


def test_the_text_stays_while_its_run_goes_on(room: Room) -> None:
    task = begun(published("probe.pure"))
    outbox.post("x", task_id=task.pk)
    outbox.pump()

    assert only().sealed is not None


def test_no_text_is_kept_longer_than_seven_days(room: Room) -> None:
    task = begun(published("probe.pure"))
    outbox.post("posted", task_id=task.pk)
    outbox.pump()
    outbox.post("waiting", task_id=task.pk)
    aged(6.9)
    assert outbox.scrub_old() == 0

    aged(7.1)

    assert outbox.scrub_old() == 2
    assert sorted(Notification.objects.values_list("state", "sealed", "reason", "wake_at")) == [
        (State.DEAD, None, "too_old", None),
        (State.SENT, None, "", None),
    ]
    assert outbox.scrub_old() == 0


# -- what is said ------------------------------------------------------------------------------------


def test_a_call_for_help_says_what_why_what_happens_next_and_what_to_do(room: Room) -> None:
    task = begun(published("probe.pure"))

    outbox.escalate(
        what="The CRM does not answer.",
        why="It timed out five times.",
        machine="Runs that need it wait and go on by themselves.",
        do="Ask the CRM's support.",
        task_id=task.pk,
        dedupe="crm",
    )
    outbox.pump()

    (message,) = room.posted
    assert message.text.splitlines() == [
        "The CRM does not answer.",
        "Why: It timed out five times.",
        "Next, by itself: Runs that need it wait and go on by themselves.",
        "What you can do: Ask the CRM's support.",
    ]
    assert (message.kind, message.severity, message.reference) == (
        "escalation",
        "error",
        str(task.pk)[:8],
    )
    assert str(task.pk) in message.link


def message(**fields: str) -> Message:
    usual: dict[str, Any] = {
        "id": str(uuid4()),
        "text": "Dear Ann Canary,\nyour lawn",
        "channel": "#marketing",
        "kind": "info",
        "severity": "info",
        "link": "http://127.0.0.1:8000/admin/x/",
        "reference": "1a2b3c4d",
        "at": datetime(2027, 2, 15, 15, 0, tzinfo=UTC),
    }
    return Message(**{**usual, **fields})


@pytest.mark.parametrize("kind", ["approval", "reminder"])
def test_the_terminal_shows_the_link_of_a_question_and_nothing_of_what_it_is_about(kind: str) -> None:
    said = line(message(kind=kind))

    assert "Canary" not in said
    assert said == (
        "[chat #marketing] A question waits for an answer. (run 1a2b3c4d) http://127.0.0.1:8000/admin/x/"
    )


def test_the_terminal_shows_a_message_on_one_line() -> None:
    said = line(message(severity="error", reference="", text="5 sent,\n1 declined"))

    assert said == "[chat #marketing] ERROR: 5 sent, 1 declined http://127.0.0.1:8000/admin/x/"


def test_the_terminals_chat_does_not_mix_with_what_a_command_prints(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.CHAT = "console"
    outbox.post("5 sent")
    outbox.pump()

    printed = capsys.readouterr()
    assert "5 sent" in printed.err
    assert "5 sent" not in printed.out


def test_every_transport_posts() -> None:
    class Mute(Transport):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Mute()  # type: ignore[abstract]
