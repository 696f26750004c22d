"""The connection to the CRM: whom it holds, and what follows when it is back.

`crm.health` knows in which state the connection is; here is what that means for runs and for people.
What one sweep leaves undone, the next one does.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from credentials import upkeep
from credentials.models import Credential
from crm import breaker, health
from crm.health import Standing
from crm.provider import providers
from sopengine import clock
from sopengine.errors import Held, RateLimited, StepError
from tasks import journal, outbox
from tasks.models import Notification, Pulse
from tasks.timeline import moment
from tasks.wording import escalation_text

SERVICE = "crm"
LINE = f"provider:{SERVICE}"  # what a run waits for while the CRM must not be called
PAUSE_UNSAID = 60.0  # seconds
FLAPPING = timedelta(minutes=5)  # a line that comes and goes faster than this is told once
LONG_PAUSE = timedelta(hours=1)


# -- before a step ---------------------------------------------------------------------------------


def is_closed() -> bool:
    """Return whether the CRM must not be called now."""
    return not health.standing(SERVICE).may_call


def held(*, started: bool) -> Held | None:
    """Return why the CRM may not be called now, before a retry, a slot or a start mark is spent on it."""
    try:
        health.demand(SERVICE)
    except Held as error:
        error.sent = "maybe" if started else "no"  # what was begun before is still not known
        return error
    return None


# -- after a step that went wrong ------------------------------------------------------------------


def turn_after_pause(error: StepError) -> float | None:
    """Return in how many seconds a run may ask again, if the CRM asked for a pause; else None.

    Runs that wait for the end of one pause go on one after the other, not all at once.
    """
    if isinstance(error, RateLimited):
        seconds = error.retry_after or PAUSE_UNSAID
    elif isinstance(error, Held) and (until := _end_of_pause()):
        seconds = max(0.0, (until - clock.now()).total_seconds())
    else:
        return None
    return journal.reserve(LINE, 1 / _rate(), ahead=seconds)


def _end_of_pause() -> datetime | None:
    standing = health.standing(SERVICE)
    return standing.until if standing.state == breaker.PAUSING else None


def _rate() -> float:
    """Return how many runs a second go on when all is well."""
    return providers.get(settings.CRM_PROVIDER).rate


# -- in passing ------------------------------------------------------------------------------------


def mind() -> int:
    """Probe the connection if that is due, tell what changed, release who was held; return how many."""
    health.probe(SERVICE)
    for change in health.news():
        if change.state == breaker.ANSWERS and change.by:
            journal.end_pause(LINE)  # who releases it does not want the pause that was asked for, either
        if _is_flapping(change):
            continue  # told when it lasts
        _tell(change)
        health.told(change)
    _tell_of_long_pause()
    if not health.standing(SERVICE, fresh=True).may_call:
        return 0
    return journal.release_held(LINE, _rate(), breaker.RAMP.total_seconds())


def warn_of_expiry() -> None:
    """Tell of each credential that is about to run out, or has.

    Its status moves with the message or not at all: whoever dies between leaves it to the next sweep.
    """
    upkeep.put_off()
    for credential in upkeep.ending():
        with transaction.atomic():
            if upkeep.move(credential):
                _tell_expiry(credential)


def _tell_expiry(credential: Credential) -> None:
    over = credential.status == credential.Status.EXPIRED
    when = timezone.localtime(credential.expires_at)
    by_person = credential.kind == credential.Kind.OAUTH_TOKEN
    command = f"credential set {credential.service} --kind {credential.kind}"
    outbox.escalate(
        what=f"The login for {credential.service} {'has run out' if over else 'runs out soon'}.",
        why=f"its date is {when:%a} {when.day} {when:%b %Y %H:%M %Z}.",
        machine="runs that need it wait until there is another." if over else "nothing; it still works.",
        do="press Connect at the login in the admin." if by_person else f"store a new one: {command}",
        severity="error" if over else "warning",
        dedupe=f"credential:{credential.status}:{credential.pk}",
    )


# -- what staff are told ---------------------------------------------------------------------------


def _is_flapping(change: Standing) -> bool:
    """Whether it fell silent again soon after it was told to be back: more of the same, for a while."""
    if change.state != breaker.SILENT or not change.since:
        return False
    last = _told_last(change.service)
    if last is None or not str(last.dedupe).endswith(breaker.ANSWERS):
        return False
    return change.since - last.created_at < FLAPPING and journal.database_now() - change.since < FLAPPING


def _told_last(service: str) -> Notification | None:
    """Return the message about this line that staff got last."""
    return Notification.objects.filter(dedupe__startswith=f"line:{service}:").order_by("-created_at").first()


def _tell_of_long_pause() -> None:
    """Tell once of a CRM that has asked for pauses and nothing else for an hour."""
    line = health.standing(SERVICE, fresh=True)
    if line.state != breaker.PAUSING:
        return
    now = journal.database_now()
    began = Pulse.objects.get_or_create(name=f"pauses:{SERVICE}", defaults={"at": now})[0]
    if line.last_ok_at and line.last_ok_at > began.at:
        Pulse.objects.filter(pk=began.pk).update(at=now)
    elif now - began.at > LONG_PAUSE:
        outbox.escalate(
            what="The CRM has let nothing through for an hour; runs that need it wait.",
            why="it answers each call with a request to slow down.",
            machine="it is asked again after each pause, and the runs go on when it answers.",
            do="ask whoever runs the CRM for its limit, and who else uses it up.",
            dedupe=f"pauses:{SERVICE}:{began.at:%Y-%m-%dT%H:%M}",
        )


def _tell(change: Standing) -> None:
    """Post one message for one change; a pause that the CRM asked for is nobody's business.

    What it did while it was flapping is one message, with the number of times.
    """
    said = f"line:{change.service}:"
    last = _told_last(change.service)
    no_news = change.state == breaker.ANSWERS and (last is None or str(last.dedupe).endswith(breaker.ANSWERS))
    if change.state in _TEXTS and not no_news:
        text, severity = _TEXTS[change.state](change, journal.database_now())
        if last is not None and change.state == breaker.SILENT:
            text = _with_times(text, change.generation - int(str(last.dedupe).split(":")[2]))
        outbox.post(
            text,
            kind="escalation",
            severity=severity,
            channel=settings.ESCALATIONS_CHANNEL,
            dedupe=f"{said}{change.generation}:{change.state}",
        )


def _with_times(text: str, changes: int) -> str:
    """Return the message with how often the line fell silent since staff were told of it, if not once."""
    times = (changes + 1) // 2
    return text if times < 2 else f"{text}\nIt came and went {times} times since the last message."


def _answers(change: Standing, now: datetime) -> tuple[str, str]:
    count = journal.held_count(LINE)
    waited = "1 run that waited for it goes on." if count == 1 else f"{count} runs go on, the oldest first."
    text = escalation_text(
        what="The CRM answers again.",
        why="a call was answered as it should be, or somebody released the connection.",
        machine=f"{waited} It begins slowly." if count else "runs that need it go on as usual.",
        do="nothing.",
    )
    return text, "info"


def _silent(change: Standing, now: datetime) -> tuple[str, str]:
    until = f"at {moment(change.until, now)}" if change.until else "soon"
    text = escalation_text(
        what="The CRM does not answer; runs that need it wait.",
        why=f"{breaker.why(change.reason)}, and so it was with the calls before.",
        machine=f"it is tried again {until}; all other runs go on.",
        do="see whether the CRM is up; nothing is lost meanwhile.",
    )
    return text, "error"


def _refused(change: Standing, now: datetime) -> tuple[str, str]:
    text = escalation_text(
        what="The CRM does not accept our login; runs that need it wait.",
        why=f"{breaker.why(change.reason)}.",
        machine="nothing is tried with this login again; with a new one the runs go on by themselves.",
        do="store a new key or connect again, under Logins to other systems in the admin.",
    )
    return text, "error"


def _held(change: Standing, now: datetime) -> tuple[str, str]:
    text = escalation_text(
        what="Staff hold the connection to the CRM; runs that need it wait.",
        why=change.note or "no reason was given.",
        machine="nothing, until somebody releases it; all other runs go on.",
        do="release it under CRM connection in the admin when it may be used again.",
    )
    return text, "info"


_TEXTS = {
    breaker.ANSWERS: _answers,
    breaker.SILENT: _silent,
    breaker.REFUSED: _refused,
    breaker.HELD: _held,
}
