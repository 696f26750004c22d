"""The office of the staff pages' tests: people with their permissions, a SOP to edit, runs that ask."""

from html import unescape
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client

from tasks import definition, engine
from tasks.models import Approval, Sop, Step, Task
from tests.tasks.runs import begun, published

DRAFT = {
    "to": "ada@example.test",
    "subject": "Your lawn",
    "text": "Dear Ada,\nsee you.",
    "html": "<p>Dear Ada</p>",
}
ASKS: dict[str, Any] = {
    "name": "Ask first",
    "handler": "human.ask",
    "with": {"question": "Send?", "draft": DRAFT},
}
SEES = ("view_sop", "view_task", "view_approval")
ACTS = ("answer_approval", "operate_task", "change_sop", "add_sop")


def person(name: str, *permissions: str) -> Client:
    """Return the browser of a member of staff who is logged in and has these permissions."""
    user = User.objects.create_user(name, is_staff=True, first_name=name.title())
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(raise_request_exception=True)
    client.force_login(user)
    return client


def asking(count: int = 1, *, name: str = "Ada Adams", parent: Task | None = None) -> list[Approval]:
    """Return the open questions of runs about customers called `name` 1, 2, …."""
    says = {"name": "Tell the team", "handler": "chat.post", "with": {"text": "done"}}
    version = published(ASKS, says, inputs={"customer_name": {"type": "string"}})
    tasks = [begun(version, {"customer_name": f"{name} {number}"}) for number in range(1, count + 1)]
    if parent:
        Task.objects.filter(pk__in=[task.pk for task in tasks]).update(parent=parent)
    engine.drain()
    return list(Approval.objects.filter(task__in=tasks).order_by("created_at", "pk"))


def drafted(*handlers: str) -> Sop:
    """Return a SOP whose draft has one step for each of these handlers: one, two, three."""
    sop = Sop.objects.create(slug="greet", name="Greet")
    for place, name in enumerate(handlers or ("chat.post", "chat.post", "chat.post"), 1):
        key = ("one", "two", "three", "four")[place - 1]
        Step.objects.create(
            sop=sop,
            position=10 * place,
            key=key,
            name=key.title(),
            handler=name,
            params={"text": f"Hello {key}"},
        )
    return sop


def live() -> Sop:
    """Return a published SOP that posts a text and takes two inputs."""
    told = definition.read(
        "sop: greet\nname: Greet\ninputs: {season: {type: integer}, note: {type: string, default: none}}\n"
        "steps:\n  - {key: one, handler: chat.post, with: {text: 'Season {{ season }} {{ note }}'}}\n",
        "greet.yaml",
    )
    sop = definition.save_rows(told)
    definition.publish(sop)
    return sop


def seen(response: Any) -> str:
    """Return a page as its reader sees it, on one line; it must have come without an error."""
    assert response.status_code == 200, response.status_code
    return " ".join(unescape(response.content.decode()).split())
