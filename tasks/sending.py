"""When a mail to a customer may leave: the hours of the business, the frequency cap, who has left.

The drain asks for a verdict just before the start mark. What may not leave now waits for the hour at
which it may; what may not leave at all ends its run as skipped.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from tasks import contacts, days_off, escalations, journal
from tasks.business_hours import Calendar, usual
from tasks.models import ContactMark
from tasks.outcome import Contact
from tasks.plan import Call
from tasks.transition import Turn

MARKETING = ContactMark.Kind.MARKETING.value
UNSUBSCRIBED = ContactMark.Kind.UNSUBSCRIBED.value
RATIONED = frozenset({"marketing", "service"})  # the purposes that obey these rules
LONGEST_MOVE = timedelta(days=28)  # a run's values are not kept much longer
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Cleared:
    """The mail may leave; `reserved` is whose turn was taken for it under which mark."""

    contact: Contact
    reserved: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The mail may leave at `until`; `why` is window or frequency_cap."""

    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Never:
    """The mail must not leave: the run has come to `result`; `why` is a code, "" when that says it."""

    result: str
    why: str = ""


def calendar() -> Calendar:
    """Return the hours of the business, with its own holidays as they were read last."""
    return usual(days_off.known())


def read() -> Calendar:
    """Read the business' own holidays again, and return its hours."""
    return usual(days_off.read())


def is_rationed(call: Call) -> bool:
    """Return whether these rules hold for a call: it writes to a customer who did not just ask for it."""
    return call.plan.handler.sends and call.params.get("purpose") in RATIONED


def verdict(turn: Turn, call: Call) -> Cleared | Later | Never:
    """Say whether this mail may leave now, and take the person's turn for it if it may."""
    params = call.params
    happened = [name for name in turn.progress.get("events", ()) if name in params.get("void_on", ())]
    if happened:
        return Never(_as_code(happened[0]), "void")
    hours = calendar()
    asked = params.get("window", "sending")
    opening = hours.opening(turn.now, "sending" if params["purpose"] == MARKETING else asked)
    if opening > turn.now:
        return Later(opening, "window")
    return _turn_of(turn, params, hours)


def _as_code(event: str) -> str:
    return event.replace(".", "_")[:40]


def _turn_of(turn: Turn, params: Any, hours: Calendar) -> Cleared | Later | Never:
    """Say whether it is this mail's turn with this person."""
    recipient = params.get("to") or params["message"].to
    customer = str(turn.context.get("crm_customer_id") or "")
    marketing, at_most = params["purpose"] == MARKETING, params.get("at_most")
    if not marketing and not at_most:
        return Cleared(Contact())
    if marketing and UNSUBSCRIBED in journal.contact_marks(contacts.person_of_address(recipient)):
        return Never("skipped", "unsubscribed")
    person = contacts.person_of_customer(customer) if customer else contacts.person_of_address(recipient)
    mark = f"{turn.id}:{turn.step}:{turn.visit}"
    if at_most and journal.reserve_contact(
        person, at_most.kind, mark, _before(hours, turn.now, at_most.days)
    ):
        return Never("skipped", "asked_recently")
    if not marketing:
        return Cleared(Contact(), (person, mark))
    every = settings.MARKETING_EVERY_DAYS
    taken = journal.reserve_contact(person, MARKETING, mark, _before(hours, turn.now, every))
    if taken:
        journal.free_contacts([(person, mark)])
        return _capped(hours, turn.now, taken, every, params.get("when_capped", "move"))
    return Cleared(Contact(unsubscribe_url=contacts.unsubscribe_url(recipient, customer)), (person, mark))


def _before(hours: Calendar, now: datetime, days: int) -> datetime:
    """Return before which moment an earlier mail lies so many calendar days back; days are whole ones."""
    return hours.begin_of(hours.day_of(now) - (days - 1) * DAY)


def _capped(hours: Calendar, now: datetime, taken: datetime, days: int, told: str) -> Later | Never:
    """Say what becomes of a marketing mail to someone who had one at `taken`."""
    allowed = hours.opening(hours.begin_of(hours.day_of(taken) + days * DAY))
    if told == "skip" or allowed - now > LONGEST_MOVE:
        return Never("skipped", "frequency_cap")
    return Later(allowed, "frequency_cap")


def contact_of(turn: Turn) -> Contact:
    """Return when this run's customer was last written to, and whether that is wanted at all."""
    customer, address = turn.context.get("crm_customer_id"), turn.sealed.get("customer_email")
    marks = journal.contact_marks(contacts.person_of_customer(str(customer))) if customer else {}
    left = bool(address) and UNSUBSCRIBED in journal.contact_marks(contacts.person_of_address(str(address)))
    escalated = bool(customer) and escalations.is_open_about(str(customer), besides=turn.id)
    return Contact(last=marks, unsubscribed=left, escalated=escalated)
