"""The law of the first answer, from all sides at once: one decision, and every other is told who made it."""

import threading
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from django.urls import reverse

from tasks import api_keys, approvals, engine, signed
from tasks.approvals import AnswerRefused
from tasks.models import Approval, Notification, Task, TaskEvent
from tests.tasks.office import ASKS
from tests.tasks.runs import begun, fresh, published
from tests.tasks.test_signed import form_of

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 4  # of each of the five ways to answer
DECLINES = {1, 3}  # in these rounds the answer is no
Way = Callable[[str], str]  # gives the answer; returns what was said, "" when it was taken


def asked() -> Approval:
    task = begun(published(ASKS, {"handler": "chat.post", "with": {"text": "done"}}))
    engine.drain()
    return Approval.objects.get(task=task)


def somebody(name: str) -> User:
    user = User.objects.create_user(name, is_staff=True)
    wanted = ("answer_approval", "view_approval")
    user.user_permissions.set(Permission.objects.filter(codename__in=wanted))
    return User.objects.get(pk=user.pk)


def by_command(approval: Approval, user: User) -> Way:
    def give(choice: str) -> str:
        given = ("approval", "answer", str(approval.pk), "--choose", choice, "--by", user.username)
        try:
            call_command(*given, stdout=StringIO())
        except CommandError as error:
            return str(error)
        return ""

    return give


def by_chat(approval: Approval, user: User) -> Way:
    def give(choice: str) -> str:
        try:
            approvals.answer(approval.pk, choice, by=user)
        except AnswerRefused as error:
            return str(error)
        return ""

    return give


def by_admin(approval: Approval, user: User) -> Way:
    browser = Client()
    browser.force_login(user)

    def give(choice: str) -> str:
        response = browser.post(
            reverse("admin:tasks_approval_answer", args=[approval.pk]), {"choice": choice}
        )
        (said,) = (str(one) for one in response.wsgi_request._messages)  # type: ignore[attr-defined]
        return said.removeprefix("Not taken: ") if said.startswith("Not taken: ") else ""

    return give


def by_page(approval: Approval, user: User) -> Way:
    browser, address = Client(), reverse("approval_page", args=[signed.token(approval, user)])
    fields = form_of(browser.get(address))

    def give(choice: str) -> str:
        response = browser.post(address, {**fields, "choice": choice})
        return "" if response.status_code == 200 else response.content.decode()

    return give


def by_api(approval: Approval, user: User) -> Way:
    _, secret = api_keys.make(f"key of {user.username}", user, ["approvals:answer"])

    def give(choice: str) -> str:
        response = Client().post(
            f"/api/v1/approvals/{approval.pk}/answer",
            {"choice": choice},
            content_type="application/json",
            headers={"Authorization": f"Bearer {secret}"},
        )
        return "" if response.status_code == 200 else str(response.json()["error"]["message"])

    return give


WAYS = {"command": by_command, "chat": by_chat, "admin": by_admin, "page": by_page, "api": by_api}


def all_at_once(works: Sequence[Callable[[], None]]) -> None:
    """Begin all of them together and wait for their end."""
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        gate.wait(30)
        try:
            work()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_twenty_answers_from_everywhere_one_decides_and_nineteen_are_told_who() -> None:
    approval = asked()
    taken: list[tuple[str, str]] = []
    refused: list[str] = []
    works = []
    for way, make in WAYS.items():
        for number in range(ROUNDS):
            name = f"{way}{number}"
            give, choice = make(approval, somebody(name)), "decline" if number in DECLINES else "approve"

            def work(give: Way = give, name: str = name, choice: str = choice) -> None:
                said = give(choice)
                if said:
                    refused.append(said)
                else:
                    taken.append((name, choice))

            works.append(work)

    all_at_once(works)

    assert len(taken) == 1, (taken, refused)
    assert len(refused) == 19
    ((name, choice),) = taken
    label = "Don" if choice == "decline" else "Send as is"  # an apostrophe is told in many ways
    assert [one for one in refused if f"{name} chose “{label}" not in one] == []
    approval.refresh_from_db()
    assert approval.answered_by is not None
    assert (approval.state, approval.choice, approval.answered_by.username) == ("answered", choice, name)
    engine.drain()
    events = TaskEvent.objects.filter(task=approval.task, kind="answered")
    assert [event.data["choice"] for event in events] == [choice]
    assert fresh(approval.task).result == ("declined" if choice == "decline" else "done")
    assert Notification.objects.filter(kind="update").count() == 1


def test_of_an_answer_and_an_event_that_withdraws_the_question_only_one_counts() -> None:
    for _ in range(5):
        task = begun(published({**ASKS, "with": {**ASKS["with"], "void_on": ["paid"]}}))
        engine.drain()
        approval = Approval.objects.get(task=task)
        refused: list[str] = []

        def answer(pk: UUID = approval.pk, refused: list[str] = refused) -> None:
            try:
                approvals.answer(pk, "decline", by=None)
            except AnswerRefused as error:
                refused.append(str(error))

        def happen(pk: UUID = task.pk) -> None:
            engine.signal([pk], "event", name="paid")
            engine.drain()

        all_at_once([answer, happen])
        engine.drain()

        approval.refresh_from_db()
        ended: Any = fresh(task)
        expected = ("void", "answered_elsewhere") if refused else ("answered", "declined")
        assert (approval.state, ended.result) == expected


def test_of_a_handing_over_and_an_answer_at_once_the_message_says_what_is_so() -> None:
    approval, bea = asked(), somebody("bea")
    told: list[str] = []

    def answer() -> None:
        approvals.answer(approval.pk, "decline", by=None)

    def give() -> None:
        try:
            approvals.hand_over(approval.pk, bea, by=None)
        except AnswerRefused as error:
            told.append(str(error))

    all_at_once([answer, give])
    engine.drain()

    approval.refresh_from_db()
    assert approval.state == "answered"
    assert approval.assignee == (None if told else bea)
    assert not Task.objects.exclude(status="completed").exists()
