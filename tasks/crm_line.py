"""The connection to the CRM: whom it holds, and what follows when it is back.

`crm.health` knows in which state the connection is; here is what that means for runs and for people.
What one sweep leaves undone, the next one does.
"""

from datetime import datetime

from django.conf import settings
from django.utils import timezone

from credentials import upkeep
from crm import breaker, health
from crm.health import Standing
from crm.provider import providers
from sopengine import clock
from sopengine.errors import Held, RateLimited, StepError
from tasks import journal, outbox
from tasks.models import Notification
from tasks.timeline import moment
from tasks.wording import escalation_text

SERVICE = "crm"
LINE = f"provider:{SERVICE}"  # what a run waits for while the CRM must not be called
PAUSE_UNSAID = 60.0  # seconds


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
        _tell(change)
        health.told(change)
    if not health.standing(SERVICE, fresh=True).may_call:
        return 0
    return journal.release_held(LINE, _rate(), breaker.RAMP.total_seconds())


def warn_of_expiry() -> None:
    """Tell of each credential that is about to run out, or has."""
    for credential in upkeep.note_expiry():
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


def _tell(change: Standing) -> None:
    """Post one message for one change; a pause that the CRM asked for is nobody's business."""
    said = f"line:{change.service}:"
    earlier = Notification.objects.filter(dedupe__startswith=said).order_by("-created_at")
    last = earlier.values_list("dedupe", flat=True).first() or breaker.ANSWERS
    no_news = change.state == breaker.ANSWERS and str(last).endswith(breaker.ANSWERS)
    if change.state in _TEXTS and not no_news:
        text, severity = _TEXTS[change.state](change, journal.database_now())
        outbox.post(
            text,
            kind="escalation",
            severity=severity,
            channel=settings.ESCALATIONS_CHANNEL,
            dedupe=f"{said}{change.generation}:{change.state}",
        )


def _answers(change: Standing, now: datetime) -> tuple[str, str]:
    count = journal.held_count(LINE)
    waited = f"{'1 run' if count == 1 else f'{count} runs'} that waited for it go on, the oldest first."
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
