"""Steps about appointments: which times are free, booking one, and how one stands before a reminder."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from django.conf import settings
from pydantic import BaseModel

from crm.records import Appointment
from sopengine import clock
from tasks.outcome import DataError, Done, Effect, Open, Outcome, StepRun, handler

CANCELLED = frozenset({"cancelled", "canceled", "no_show"})
LONGEST_VISIT = timedelta(days=1)  # an appointment may have begun this long before, and still go on
STRIDE = timedelta(minutes=30)  # between two times that are offered
MOST_TOLD = 3  # of a customer who comes every week, nobody reads them all
MOVED_BY = timedelta(days=60)  # so far ahead a moved appointment is looked for

Span = tuple[datetime, datetime]


def _moment(value: datetime | str) -> datetime:
    """Return the moment in UTC; without a zone it is meant on the business's clock."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError:
        raise DataError("this is no time; expected such as 2027-03-14T12:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(settings.TIME_ZONE))
    return moment.astimezone(UTC)


def _spoken(moment: datetime) -> str:
    """Return the moment on the business's clock, such as Sun 14 Mar 12:00 CDT."""
    local = moment.astimezone(ZoneInfo(settings.TIME_ZONE))
    return f"{local:%a} {local.day} {local:%b %H:%M %Z}"


def _stands(appointment: Appointment) -> bool:
    return appointment.status not in CANCELLED


# -- free times ------------------------------------------------------------------------------------


class Slots(BaseModel):
    """The free times: as moments, and as people say them."""

    count: Open[int]
    starts: Open[list[str]]
    spoken: str


@handler("appointments.free_slots", crm=True, results=Slots)
def free_slots(
    step: StepRun, *, minutes: int = 60, most: int = 3, on: date | None = None, within_days: int = 14
) -> Outcome:
    """Find the next free times of `minutes` inside business hours, at most `most`.

    They are looked for on the day `on`, or from now on over the next days. A time is free when no
    appointment that stands overlaps it.
    """
    if minutes < 1 or most < 1 or within_days < 1:
        raise DataError("minutes, most and within_days must be at least 1.")
    now = clock.now()
    today = now.astimezone(ZoneInfo(settings.TIME_ZONE)).date()
    days = [on] if on else [today + timedelta(days=ahead) for ahead in range(within_days)]
    hours = [span for day in days for span in step.calendar.hours_of(day) if span[1] > now]
    busy = _busy(step, hours)
    starts = list(islice(_free(hours, busy, timedelta(minutes=minutes), now), most))
    return Done(
        values={
            "count": len(starts),
            "starts": [start.isoformat() for start in starts],
            "spoken": ", ".join(_spoken(start) for start in starts),
        }
    )


def _busy(step: StepRun, hours: Sequence[Span]) -> list[Span]:
    """Return when somebody is out, as far as it touches these hours."""
    if not hours:
        return []
    found = step.crm.appointments.query(**{"from": hours[0][0] - LONGEST_VISIT, "to": hours[-1][1]})
    return [(item.start, item.end) for item in found if _stands(item)]


def _free(
    hours: Iterable[Span], busy: Sequence[Span], length: timedelta, now: datetime
) -> Iterator[datetime]:
    """Yield the starts, half an hour apart, of times that lie ahead and overlap nothing."""
    for opens, closes in hours:
        start = opens
        while start + length <= closes:
            if start > now and not any(start < end and start + length > begin for begin, end in busy):
                yield start
            start += STRIDE


# -- booking ---------------------------------------------------------------------------------------


class Booked(BaseModel):
    """The appointment in the CRM; `clash` says that it overlaps another one that stands."""

    id: Open[str]
    start: Open[str]
    clash: Open[bool]


def look_for_booking(
    step: StepRun, *, start: datetime | str, end: datetime | str, kind: str = "visit", customer_id: str = ""
) -> Outcome | None:
    """Return the appointment that an earlier try booked: this customer's, at this time."""
    begins, customer = _moment(start), _customer(step, customer_id)
    around = _around(step, begins, _moment(end))
    mine = [item for item in around if item.customer_id == customer and item.start == begins]
    if not mine:
        return None
    return Done(values={"id": mine[0].id, "start": begins.isoformat(), "clash": len(around) > 1})


@handler("appointments.book", crm=True, effect=Effect.IDEMPOTENT, look=look_for_booking, results=Booked)
def book(
    step: StepRun, *, start: datetime | str, end: datetime | str, kind: str = "visit", customer_id: str = ""
) -> Outcome:
    """Put an appointment with the customer into the CRM, unless it is there already.

    One that overlaps another is booked too, since it was agreed: `clash` is for a person.
    """
    if known := look_for_booking(step, start=start, end=end, kind=kind, customer_id=customer_id):
        return known
    begins, ends = _moment(start), _moment(end)
    if ends <= begins:
        raise DataError("The appointment ends before it begins.")
    clash = bool(_around(step, begins, ends))
    made = step.crm.appointments.create(
        {"customer_id": _customer(step, customer_id), "start": begins, "end": ends, "type": kind},
        key=step.key("book"),
    )
    return Done(values={"id": made.id, "start": begins.isoformat(), "clash": clash})


def _around(step: StepRun, begins: datetime, ends: datetime) -> list[Appointment]:
    """Return the appointments that stand and overlap this time."""
    found = step.crm.appointments.query(**{"from": begins - LONGEST_VISIT, "to": ends})
    return [item for item in found if _stands(item) and item.end > begins]


def _customer(step: StepRun, given: str) -> str:
    customer = given or step.context.get("crm_customer_id")
    if not customer:
        raise DataError("No customer: give customer_id, or start the run with crm_customer_id.")
    return str(customer)


class Others(BaseModel):
    """What else the customer is booked for: how many, and when the next of them are, as people say it."""

    count: Open[int]
    spoken: Open[str]


@handler("appointments.others", crm=True, results=Others)
def others(step: StepRun, *, appointment_id: str, start: datetime | str, customer_id: str = "") -> Outcome:
    """Find the customer's other appointments that stand and lie ahead, up to two months after this one."""
    now, customer = clock.now(), _customer(step, customer_id)
    found = step.crm.appointments.query(**{"from": now, "to": max(_moment(start), now) + MOVED_BY})
    standing = [
        item.start
        for item in found
        if item.customer_id == customer and item.id != appointment_id and item.start > now and _stands(item)
    ]
    return Done(
        values={"count": len(standing), "spoken": ", ".join(map(_spoken, sorted(standing)[:MOST_TOLD]))}
    )


# -- before a reminder -------------------------------------------------------------------------------


class Standing(BaseModel):
    """How an appointment stands: `state` is booked or cancelled, and what the clock says of it.

    `early` says that the reminder's hour is still to come, `over` that the appointment has begun.
    """

    state: Open[str]
    start: Open[str]
    remind_at: Open[str]
    early: Open[bool]
    over: Open[bool]
    spoken: Open[str]


@handler("appointments.look", crm=True, results=Standing)
def look(step: StepRun, *, appointment_id: str, start: datetime | str, hours: int) -> Outcome:
    """See how an appointment stands, so many `hours` before which somebody is to be reminded.

    `start` is when it was to be; one that was moved since has its new time. One that the CRM no longer
    has is cancelled.
    """
    booked_for = _moment(start)
    now = max(clock.now(), step.now)  # of two clocks the later: a reminder whose hour has come is not early
    horizon = max(booked_for, now) + MOVED_BY
    found = step.crm.appointments.query(**{"from": min(booked_for, now) - LONGEST_VISIT, "to": horizon})
    known = next((item for item in found if item.id == appointment_id), None)
    begins = known.start if known else booked_for
    remind_at = begins - timedelta(hours=hours)
    return Done(
        values={
            "state": "booked" if known and _stands(known) else "cancelled",
            "start": begins.isoformat(),
            "remind_at": remind_at.isoformat(),
            "early": remind_at > now,
            "over": begins <= now,
            "spoken": _spoken(begins),
        }
    )
