"""Laws of equal alerts: one message with a count, and none of them lost from the count."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django import Settings

from tasks import outbox
from tasks.models import Notification
from tasks.transports import Message, Transport, transports

pytestmark = pytest.mark.django_db
State = Notification.State


@pytest.fixture
def posted(settings: Settings) -> Iterator[list[Message]]:
    seen: list[Message] = []

    class Wall(Transport):
        pace = 0.0

        def post(self, message: Message) -> str:
            seen.append(message)
            return f"n-{len(seen)}"

    transports.register("wall")(Wall)
    settings.CHAT, settings.ESCALATIONS_EMAIL = "wall", []
    settings.CLOCK_OFFSET, settings.CLOCK_OFFSET_FILE = 0.0, ""
    yield seen
    transports.remove("wall")


def alert(text: str = "The mail server refuses us.", **more: str) -> None:
    outbox.post(
        text, **{"kind": "escalation", "severity": "error", "channel": "#help", "fold": "mail", **more}
    )  # type: ignore[arg-type]


def minutes_pass(settings: Settings, minutes: float) -> None:
    settings.CLOCK_OFFSET += 60 * minutes


def test_eight_equal_alerts_are_one_message_and_one_count(posted: list[Message], settings: Settings) -> None:
    for _ in range(8):
        alert()
        outbox.pump()
        minutes_pass(settings, 1)
    assert [message.text for message in posted] == ["The mail server refuses us."]

    minutes_pass(settings, 7.1)
    outbox.pump()

    assert [message.count for message in posted] == [1, 7]
    assert posted[1].text == "The mail server refuses us.\nThis happened 7 more times since it was last told."
    minutes_pass(settings, 60)
    assert outbox.pump() == 0
    assert not Notification.objects.filter(state=State.PENDING).exists()


def test_one_alert_alone_has_no_second_message(posted: list[Message], settings: Settings) -> None:
    alert()
    outbox.pump()
    minutes_pass(settings, 20)
    outbox.pump()
    alert()
    outbox.pump()

    assert [(message.count, message.text.count("\n")) for message in posted] == [(1, 0), (1, 0)]


def test_alerts_that_came_before_the_first_pump_are_folded_too(
    posted: list[Message], settings: Settings
) -> None:
    for _ in range(5):
        alert()

    outbox.pump()
    assert len(posted) == 1
    minutes_pass(settings, 15.1)
    outbox.pump()

    assert [message.count for message in posted] == [1, 4]


def test_what_ends_a_window_opens_the_next(posted: list[Message], settings: Settings) -> None:
    for _ in range(60):  # one a minute, for an hour
        alert()
        outbox.pump()
        minutes_pass(settings, 1)
    minutes_pass(settings, 20)
    outbox.pump()

    assert 4 <= len(posted) <= 5
    assert sum(message.count for message in posted) == 60


@pytest.mark.parametrize("other", [{"fold": "crm"}, {"channel": "#office"}, {"fold": ""}])
def test_alerts_that_are_not_equal_are_not_folded(posted: list[Message], other: dict[str, str]) -> None:
    alert()
    alert(**other)
    outbox.pump()

    assert len(posted) == 2


def test_what_is_critical_is_never_folded(posted: list[Message]) -> None:
    for _ in range(3):
        alert(severity="critical")
    outbox.pump()

    assert len(posted) == 3


def test_an_alert_that_was_given_up_counts_no_other(posted: list[Message]) -> None:
    alert("first")
    Notification.objects.update(state=State.DEAD, wake_at=None)
    alert("second")
    outbox.pump()

    assert [message.text for message in posted] == ["second"]


def test_the_text_of_a_folded_alert_is_not_kept(posted: list[Message]) -> None:
    for _ in range(4):
        alert()
    outbox.pump()

    kept = Notification.objects.exclude(sealed=None)
    assert [(row.state, row.reason) for row in kept] == [(State.PENDING, "folding")]
    assert Notification.objects.filter(reason="folded", state=State.SENT, wake_at=None).count() == 2


@pytest.mark.parametrize("how", ["pumped at once", "pumped late"])
@given(gaps=st.lists(st.floats(0, 30), min_size=1, max_size=12))
@effort(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_hours_no_alert_is_lost_from_the_count(
    posted: list[Message], settings: Settings, how: str, gaps: list[float]
) -> None:
    Notification.objects.all().delete()
    posted.clear()
    for gap in gaps:
        minutes_pass(settings, gap)
        alert()
        if how == "pumped at once":
            outbox.pump()
    for _ in range(3):
        outbox.pump()
        minutes_pass(settings, 15.1)

    assert sum(message.count for message in posted) == len(gaps)
    told = Notification.objects.exclude(reason="folded")
    moments = sorted(row.sent_at for row in told if row.sent_at)
    assert len(moments) == told.count()
    if how == "pumped at once":
        between = [later - sooner for sooner, later in pairwise(moments)]
        assert all(gap >= timedelta(minutes=15) - timedelta(seconds=1) for gap in between)
