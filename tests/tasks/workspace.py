"""A Slack workspace of the tests: the fake one, our site behind its request URL, and people in both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client

from credentials import store
from sopengine import clock
from tasks import deliveries, engine, outbox
from tasks.mock.slack import SECRET, TOKEN, FakeSlack, Request, Said
from tasks.models import ChatAccount

URL = "/hooks/slack"


def member(name: str, *permissions: str) -> User:
    """Return somebody with a login, these permissions and the chat account U<NAME>."""
    user = User.objects.create_user(name)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions or ("answer_approval",)))
    ChatAccount.objects.create(user=user, chat_id=f"U{name.upper()}")
    return User.objects.get(pk=user.pk)


@contextmanager
def workspace(settings: Any) -> Iterator[FakeSlack]:
    """Serve the fake Slack and let the settings lead to it."""
    with FakeSlack(now=lambda: clock.now().timestamp()) as slack:
        settings.CHAT, settings.SLACK_API_URL = "slack", slack.url
        settings.SLACK_BOT_TOKEN, settings.SLACK_SIGNING_SECRET = TOKEN, SECRET
        store.forget()
        yield slack
    store.forget()


def receives(request: Request, **headers: str) -> Any:
    """Post what Slack would post, and return our answer."""
    given = {**request.headers, **headers}
    return Client(raise_request_exception=True).generic(
        "POST", URL, request.body, content_type=given.pop("Content-Type"), headers=given
    )


def press(slack: FakeSlack, said: Said, label: str, user: str, nth: int = 0) -> Any:
    """Let somebody press a button, and process what came of it; return our answer to Slack."""
    answer = receives(slack.click(said, label, user, nth))
    deliveries.process()
    engine.drain()
    outbox.pump()
    return answer


def whispers(slack: FakeSlack, user: str) -> list[str]:
    """Return what only this person was told."""
    return [said.text for said in slack.messages if said.only_for == user]


def public(slack: FakeSlack) -> list[Said]:
    """Return what everybody in a channel sees."""
    return [said for said in slack.messages if not said.only_for]
