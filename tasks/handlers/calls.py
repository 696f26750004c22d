"""Steps after a phone call: what it came to, and the caller as a customer of the CRM."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from dateutil import parser
from django.conf import settings
from pydantic import BaseModel

from crm import phones
from crm.records import Customer
from sopengine import clock
from tasks.outcome import (
    Aside,
    Branch,
    DataError,
    Done,
    Effect,
    Open,
    Outcome,
    StepRun,
    Unclear,
    handler,
)

LEAST_VISIT = timedelta(minutes=60)  # of an appointment whose end nobody said
WANTS_A_TIME = frozenset({"booking_request", "appointment_request", "scheduling"})
LONGEST_NOTE = 5_000  # characters of a summary that are kept in the CRM
CUSTOMER_NAMES = (
    "crm_customer_id",
    "customer_name",
    "customer_email",
    "customer_phone",
    "customer_city",
    "customer_services",
    "customer_last_service",
)
LONGEST_TIME = 80  # characters of a time that was agreed
_TWO_DAYS = (datetime(2001, 1, 1, 1), datetime(2002, 2, 2, 2))
_YEAR_FIRST = re.compile(r"\d{4}\D")
_WEEKDAY = re.compile(r"(?i)\b(mon|tue|wed|thu|fri|sat|sun)")
_ZONE_BY_SIGN = re.compile(r"(?i)[a-z]\s*[+-]\s*\d")  # GMT+2: half of the world means it the other way round
_WHOLE_DATE = re.compile(r"\b(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}-\d{1,2}-\d{4})\b")
_RANGE = re.compile(r"\d\s*[-\u2013\u2014+]\s*\d")  # 10:00-12:00, or a date with its year in two digits
_IN_FULL = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?Z?|T[\d:.]{5,}[+-]\d{2}:?\d{2})")
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,39}")


# -- what was said ---------------------------------------------------------------------------------


class Read(BaseModel):
    """A call as later steps need it; the caller's name, mail and phone stand at the top of the context."""

    has_phone: Open[bool]
    has_email: Open[bool]
    has_appointment: Open[bool]
    unread: Open[bool]
    wants_appointment: Open[bool]
    start: Open[str | None]
    end: Open[str | None]
    intent: Open[str]
    when: str
    type: str
    note: str
    remark: str


@handler("calls.read", results=Read, sets=("customer_name", "customer_email", "customer_phone"))
def read(
    step: StepRun,
    *,
    direction: str | None = None,
    from_number: str | None = None,
    to_number: str | None = None,
    duration_seconds: float | None = None,
    summary: str | None = None,
    intent: str | None = None,
    name: str | None = None,
    email: str | None = None,
    appointment_start: str | None = None,
    appointment_end: str | None = None,
    appointment_type: str | None = None,
) -> Outcome:
    """Put what is known of a call into words: who called, what about, for how long, agreed for when.

    Of an outgoing call the number is that of the one who was called. A time without a zone is meant on
    the business's clock; a time that is over when the call ends is no appointment. One that cannot be
    read is `unread`, and stands in the note in its own words.
    """
    phone = phones.e164(to_number if direction == "outbound" else from_number)
    agreed = " ".join((appointment_start or "").split())[:LONGEST_TIME]
    start = _moment(agreed)
    unread = bool(agreed) and start is None
    end = _end(start, _moment((appointment_end or "").strip()))
    ahead = start is not None and start > clock.now()
    code = _code(intent)
    kind = (appointment_type or "").strip() or "visit"
    when = _spoken(start) if start and ahead else ""
    noted = (
        f"agreed for “{agreed}”, which could not be read ({kind})" if unread else when and f"{when} ({kind})"
    )
    return Done(
        values={
            "customer_name": (name or "").strip() or None,
            "customer_email": (email or "").strip() or None,
            "customer_phone": phone or None,
            "has_phone": bool(phone),
            "has_email": bool((email or "").strip()),
            "has_appointment": ahead,
            "unread": unread,
            "wants_appointment": code in WANTS_A_TIME and not ahead and not unread,
            "start": start.isoformat() if start and ahead else None,
            "end": end.isoformat() if end and ahead else None,
            "intent": code,
            "when": when,
            "type": kind,
            "note": _note(step.now, summary, code, duration_seconds, noted),
            "remark": f"Last call {_day(step.now)}: {code.replace('_', ' ')}.",
        }
    )


def _moment(text: str) -> datetime | None:
    """Return the moment in UTC, or None when there is none that can be read in one way only."""
    moment = _written_as_agreed(text) or _written_otherwise(text)
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(settings.TIME_ZONE))
    return moment and moment.astimezone(UTC)


def _written_as_agreed(text: str) -> datetime | None:
    """Return a date with a time as the source should write it; a day alone has no hour to come at."""
    try:
        return datetime.fromisoformat(text) if _IN_FULL.fullmatch(text) else None
    except ValueError:
        return None


def _written_otherwise(text: str) -> datetime | None:
    """Return what people write, such as 03/14/2027 12:00 PM; None where it can be read in two ways.

    What is left out (a year, an hour) is filled from two different days: then both are not the same. A
    date that begins with its year goes on with the month, and a weekday must be that of its date.
    """
    if _ZONE_BY_SIGN.search(text) or _RANGE.search(_WHOLE_DATE.sub(" ", text)):
        return None
    orders = (False,) if _YEAR_FIRST.match(text) else (False, True)
    try:
        found = {
            parser.parse(text, default=day, dayfirst=order, tzinfos=_zone)
            for day in _TWO_DAYS
            for order in orders
        }
    except (ValueError, OverflowError, TypeError):
        return None
    moment = found.pop() if len(found) == 1 else None
    days = {name.lower() for name in _WEEKDAY.findall(text)}
    return moment if moment and days <= {f"{moment:%a}".lower()} else None


def _zone(name: str | None, offset: int | None) -> tzinfo | None:
    """Return the zone of an offset; a zone by its name alone is one of several."""
    if offset is None and name is not None:
        raise ValueError("a zone without its offset")
    return None if offset is None else timezone(timedelta(seconds=offset))


def _end(start: datetime | None, end: datetime | None) -> datetime | None:
    if start is None:
        return None
    return end if end and end > start else start + LEAST_VISIT


def _code(intent: str | None) -> str:
    """Return the intent as a code that may be kept readable."""
    code = (intent or "").strip().lower().replace(" ", "_")
    return code if _WORD.fullmatch(code) else "other"


def _spoken(moment: datetime) -> str:
    """Return the moment on the business's clock, such as Sun 14 Mar 12:00 CDT."""
    local = moment.astimezone(ZoneInfo(settings.TIME_ZONE))
    return f"{local:%a} {local.day} {local:%b %H:%M %Z}"


def _day(moment: datetime) -> str:
    local = moment.astimezone(ZoneInfo(settings.TIME_ZONE))
    return f"{local.day} {local:%b %Y}"


def _length(seconds: float | None) -> str:
    """Return how long it took as people say it: 3 m 12 s."""
    if seconds is None or seconds < 0:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def _note(at: datetime, summary: str | None, intent: str, seconds: float | None, appointment: str) -> str:
    """Return the note for the customer's file."""
    said = " ".join((summary or "").split())[:LONGEST_NOTE] or "no summary"
    lines = [
        f"phone_call: {_day(at)}.",
        f"Summary: {said}",
        f"Intent: {intent.replace('_', ' ')}.",
        f"Duration: {_length(seconds)}.",
        *([f"Appointment: {appointment}."] if appointment else []),
    ]
    return "\n".join(lines)


@handler("calls.number", sets=("customer_phone",))
def number(step: StepRun, *, text: str, otherwise: Aside) -> Outcome:
    """Take the phone number that a person gave; what is no number goes back to the step `otherwise`."""
    phone = phones.e164(text.strip())
    if not phone:
        return Branch(to=otherwise, why="no_number")
    return Done(values={"customer_phone": phone})


# -- the caller in the CRM ---------------------------------------------------------------------------


class Caller(BaseModel):
    """Who called: `was` is new, known, or several, when more than one customer fits and none is taken."""

    was: Open[str]


def look_for_caller(
    step: StepRun,
    *,
    phone: str,
    several: Aside,
    name: str | None = None,
    email: str | None = None,
    remark: str = "",
) -> Outcome | None:
    """Return None: the step looks for the caller itself before it writes, at every try."""
    return None


@handler(
    "calls.caller",
    crm=True,
    effect=Effect.IDEMPOTENT,
    look=look_for_caller,
    results=Caller,
    sets=CUSTOMER_NAMES,
)
def caller(
    step: StepRun,
    *,
    phone: str,
    several: Aside,
    name: str | None = None,
    email: str | None = None,
    remark: str = "",
) -> Outcome:
    """Find the customer with this phone number, however it is stored there, or create a lead.

    A known one keeps the name, gets a mail address that was missing and the `remark` in the notes.
    When several have this number or this address, nothing is written and the run goes to `several`.
    """
    wanted = phones.e164(phone)
    if not wanted:
        raise DataError("The caller's phone number cannot be read.")
    same = [one for one in step.crm.search(wanted) if phones.e164(one.phone) == wanted]
    given = {"phone": wanted, "notes": remark, **({"email": email} if email and not _has_mail(same) else {})}
    if not same:
        given |= {"name": name or "Unknown caller", "source": "phone", "status": "lead"}
    try:
        customer, created = step.crm.get_or_create(given, key=step.key("caller"), keep=("name",))
    except Unclear:
        return Branch(to=several, values={"was": "several"})
    values = {**step.crm.customer_fields(customer), "was": "new" if created else "known"}
    # The address of the call is good for its confirmation, whichever the CRM has.
    return Done(values={**values, "customer_email": customer.email or email})


def _has_mail(found: Sequence[Customer]) -> bool:
    return any(one.email for one in found)
