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
LIMITED = {"review": "asked_recently", "acknowledgement": "answered_recently"}  # why there is not one more
LONGEST_MOVE = timedelta(days=28)  # a run's values are not kept much longer
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Cleared:
    """The mail may leave; `reserved` is whose turns were taken for it under which mark."""

    contact: Contact
    reserved: tuple[tuple[str, ...], str] | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The mail may leave at `until`; `why` is window or frequency_cap."""

    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Again:
    """The run has rested since it looked whether the mail may leave: it looks again at `step`."""

    step: str


@dataclass(frozen=True, slots=True)
class Never:
    """The mail must not leave: the run goes on at `to`, with `result`; `why` is a code, "" for none."""

    result: str
    why: str = ""
    to: str = "complete"


Verdict = Cleared | Later | Again | Never


def calendar() -> Calendar:
    """Return the hours of the business, with its own holidays as they were read last."""
    return usual(days_off.known())


def read() -> Calendar:
    """Read the business' own holidays again, and return its hours."""
    return usual(days_off.read())


def is_rationed(call: Call) -> bool:
    """Return whether these rules hold for a call: it writes to a customer who did not just ask for it, or
    may do so only so often."""
    params = call.params
    return call.plan.handler.sends and bool(params.get("purpose") in RATIONED or params.get("at_most"))


def verdict(turn: Turn, call: Call) -> Verdict:
    """Say whether this mail may leave now, and take the person's turn for it if it may."""
    params = call.params
    happened = [name for name in turn.progress.get("events", ()) if name in params.get("void_on", ())]
    if happened:
        return Never(_as_code(happened[0]), "void")
    hours = calendar()
    opening = _opening(turn, params, hours)
    if opening > turn.now:
        return Later(opening, "window")
    if turn.progress.get("rested") and params.get("look_again"):
        return Again(params["look_again"])
    return _turn_of(turn, params, hours)


def _opening(turn: Turn, params: Any, hours: Calendar) -> datetime:
    """Return from when the hour is right for this mail: now, if it is."""
    if params["purpose"] not in RATIONED:
        return turn.now
    return hours.opening(
        turn.now, "sending" if params["purpose"] == MARKETING else params.get("window", "sending")
    )


def _as_code(event: str) -> str:
    return event.replace(".", "_")[:40]


def _turn_of(turn: Turn, params: Any, hours: Calendar) -> Verdict:
    """Say whether it is this mail's turn with this person, who is both an address and a customer."""
    recipient = params.get("to") or params["message"].to
    customer = str(turn.context.get("crm_customer_id") or "")
    marketing, at_most = params["purpose"] == MARKETING, params.get("at_most")
    if not marketing and not at_most:
        return Cleared(Contact())
    people = contacts.people_of(recipient, customer)
    if marketing and UNSUBSCRIBED in journal.contact_marks(people):
        return Never("skipped", "unsubscribed")
    mark = turn.mark
    if at_most and journal.reserve_contact(
        people, at_most.kind, mark, _before(hours, turn.now, at_most.days)
    ):
        return _one_too_many(at_most)
    if not marketing:
        return Cleared(Contact(), (people, mark))
    every = settings.MARKETING_EVERY_DAYS
    taken = journal.reserve_contact(people, MARKETING, mark, _before(hours, turn.now, every))
    if taken:
        return _capped(hours, turn.now, taken, every, params.get("when_capped", "move"))
    return Cleared(Contact(unsubscribe_url=contacts.unsubscribe_url(recipient, customer)), (people, mark))


def _one_too_many(at_most: Any) -> Never:
    why = LIMITED[at_most.kind]
    return Never("", why, at_most.otherwise) if at_most.otherwise else Never("skipped", why)


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
    marks = journal.contact_marks(contacts.people_of(str(address or ""), str(customer or "")))
    escalated = bool(customer) and escalations.is_open_about(str(customer), besides=turn.id)
    return Contact(last=marks, unsubscribed=UNSUBSCRIBED in marks, escalated=escalated)
