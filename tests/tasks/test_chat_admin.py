"""Laws of the chat in the admin: who is who there, and what was not delivered."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from tasks import outbox
from tasks.models import ChatAccount, Notification
from tests.tasks.office import person, seen

pytestmark = pytest.mark.django_db
State = Notification.State
ADD = reverse("admin:tasks_chataccount_add")


@pytest.fixture
def owner() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("owner"))
    return client


def enters(client: Client, user: User, chat_id: str) -> Any:
    return client.post(ADD, {"user": user.pk, "chat_id": chat_id})


def test_a_chat_account_is_entered_for_a_colleague(owner: Client) -> None:
    ann = User.objects.create_user("ann")

    assert enters(owner, ann, " U0ANN ").status_code == 302

    assert ChatAccount.objects.get().chat_id == "U0ANN"
    assert "U0ANN" in seen(owner.get(reverse("admin:tasks_chataccount_changelist")))


@pytest.mark.parametrize("chat_id", ["", "@ann", "Ann Bird", "<U1>", "x" * 81])
def test_what_is_no_id_is_refused(owner: Client, chat_id: str) -> None:
    assert enters(owner, User.objects.create_user("ann"), chat_id).status_code == 200
    assert not ChatAccount.objects.exists()


def test_one_id_is_one_person(owner: Client) -> None:
    enters(owner, User.objects.create_user("ann"), "U1")
    enters(owner, User.objects.create_user("bob"), "U1")
    enters(owner, User.objects.get(username="ann"), "U2")

    assert list(ChatAccount.objects.values_list("user__username", "chat_id")) == [("ann", "U1")]


def test_who_is_no_superuser_speaks_for_nobody_else(owner: Client) -> None:
    boss = User.objects.get(username="owner")
    mallory = person(
        "mallory", "add_chataccount", "change_chataccount", "view_chataccount", "delete_chataccount"
    )
    enters(mallory, boss, "UMALLORY")
    assert not ChatAccount.objects.exists()
    enters(owner, boss, "UBOSS")
    theirs = ChatAccount.objects.get()

    change = reverse("admin:tasks_chataccount_change", args=[theirs.pk])
    assert mallory.post(change, {"user": boss.pk, "chat_id": "UMALLORY"}).status_code == 403
    assert (
        mallory.post(reverse("admin:tasks_chataccount_delete", args=[theirs.pk]), {"post": "yes"}).status_code
        == 403
    )
    theirs.refresh_from_db()
    assert theirs.chat_id == "UBOSS"
    enters(mallory, User.objects.get(username="mallory"), "UMALLORY")
    assert ChatAccount.objects.count() == 2


def dead(text: str) -> Notification:
    outbox.post(text)
    row = Notification.objects.order_by("-created_at")[0]
    Notification.objects.filter(pk=row.pk).update(
        state=State.DEAD, wake_at=None, attempts=8, reason="is_archived"
    )
    return row


def again(client: Client, *rows: Notification) -> Any:
    chosen = {"action": "post_again", "_selected_action": [row.pk for row in rows]}
    return client.post(reverse("admin:tasks_notification_changelist"), chosen, follow=True)


def test_what_was_not_delivered_is_listed_counted_and_can_be_posted_again(
    owner: Client, settings: Settings
) -> None:
    lost, gone = dead("Look"), dead("Gone")
    Notification.objects.filter(pk=gone.pk).update(sealed=None)
    assert "is_archived" in seen(
        owner.get(reverse("admin:tasks_notification_changelist") + "?state__exact=dead")
    )
    settings.METRICS_TOKEN = "token"
    figures = Client().get("/metrics", headers={"Authorization": "Bearer token"}).content.decode()
    assert "sop_notifications_dead 2" in figures
    assert "2</b> messages to staff not delivered" in seen(owner.get(reverse("admin:index")))

    told = seen(again(owner, lost, gone))

    assert "1 will be posted again. 1 will not: they were delivered, or their text is gone." in told
    lost.refresh_from_db()
    gone.refresh_from_db()
    assert (lost.state, lost.attempts, lost.reason) == (State.PENDING, 0, "")
    assert gone.state == State.DEAD


def test_today_says_that_the_chat_is_away_and_what_waits(owner: Client, settings: Settings) -> None:
    today = reverse("admin:index")
    assert "Messages to staff are delivered." in seen(owner.get(today))
    settings.CHAT, settings.CHAT_WEBHOOK_URL = "webhook", "http://127.0.0.1:1/"
    settings.CHAT_WEBHOOK_SECRET = "whsec_" + "QUJD" * 10
    outbox.post("Look")
    outbox.pump()

    assert "do not leave by chat (unreachable); 1 message waits and nothing is lost." in seen(
        owner.get(today)
    )


def test_who_may_only_look_posts_nothing_again(owner: Client) -> None:
    lost = dead("Look")

    again(person("vic", "view_notification"), lost)

    lost.refresh_from_db()
    assert lost.state == State.DEAD
