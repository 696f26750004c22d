"""The request URL of the Slack app: buttons, windows and /sop.

Slack waits three seconds. A request is stored before anything is done about it. What only this moment
can serve is served at once: the window to edit (its trigger is good for three seconds), what is
typed in it (a refusal must come while it is open), and commands. Buttons are answered by processing
the delivery, as every webhook is; so is all that was stored and not done, by a process that died.
"""

import logging
from datetime import timedelta

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from sopengine import inbox
from sopengine.errors import StepError
from tasks import slack_acts, slack_commands, wakeups
from tasks.readers import media_type
from tasks.slack_acts import Asked
from tasks.transports.slack import escaped

SOURCE = "slack"
LEASE = timedelta(seconds=30)
FORM, JSON = "application/x-www-form-urlencoded", "application/json"

log = logging.getLogger(__name__)


@csrf_exempt
@require_POST
def receive(request: HttpRequest) -> HttpResponse:
    """Store what Slack posts and answer it; refuse what is not signed by our app."""
    kind = media_type(request.META.get("CONTENT_TYPE", ""))
    try:
        raw, _ = inbox.take(request, SOURCE, "slack")
        if kind == JSON:
            return _verified(raw)
        asked = _read(raw, kind)
        delivery, fresh = inbox.store(SOURCE, inbox.id_of(raw), raw, headers={"type": kind})
    except inbox.NotTaken as refusal:
        return _said(refusal.status, str(refusal))
    except inbox.DeliveryRefused as refusal:
        return _said(409, str(refusal))
    if not fresh:
        return _said(200)  # what was asked is done, or will be
    if asked.kind == "press" or not inbox.claim(delivery, LEASE):
        wakeups.wake()
        return _said(200)
    response = answered(asked, str(delivery.pk))
    inbox.processed(delivery, headers={"kind": asked.kind})
    return response


def _read(raw: bytes, kind: str) -> Asked:
    if kind != FORM:
        raise inbox.NotTaken(415, f"Expected {FORM} or {JSON}.")
    try:
        return slack_acts.read(raw)
    except ValueError:
        raise inbox.NotTaken(400, "This is nothing that Slack posts.") from None


def _verified(raw: bytes) -> HttpResponse:
    """Say back the challenge by which Slack sees that this address is ours; events are not asked for."""
    try:
        told = inbox.read_json(raw)
    except ValueError:
        raise inbox.NotTaken(400, "The body is no JSON.") from None
    challenge = told.get("challenge") if isinstance(told, dict) else None
    if not isinstance(challenge, str) or told.get("type") != "url_verification" or len(challenge) > 500:
        raise inbox.NotTaken(400, "This is nothing that was asked for.")
    return JsonResponse({"challenge": challenge})


def answered(asked: Asked, key: str) -> HttpResponse:
    """Do what cannot wait and return the answer to it."""
    if asked.kind == "open":
        _tell(asked, slack_acts.open_window(asked))
    elif asked.kind == "submit":
        if wrong := slack_acts.submit(asked):
            return JsonResponse({"response_action": "errors", "errors": wrong})
    elif asked.kind == "command":
        return JsonResponse({"response_type": "ephemeral", "text": escaped(commanded(asked, key))})
    return _said(200)


def commanded(asked: Asked, key: str) -> str:
    """Carry out a command and return what to say."""
    person = slack_acts.person_of(asked.person)
    if person is None:
        return slack_acts.stranger(asked.person)
    return slack_commands.answer(asked.text, person, key)


def _tell(asked: Asked, text: str) -> None:
    """Tell the person; where Slack does not take even that, they press again."""
    try:
        slack_acts.tell(asked, text)
    except StepError as error:
        log.warning("a person in %s was not told: %s", settings.CHAT, error.reason)


def _said(status: int, text: str = "") -> HttpResponse:
    response = HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")
    response["Cache-Control"] = "no-store"
    return response
