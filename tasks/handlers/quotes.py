"""Steps that look at the quotes in the CRM."""

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from django.conf import settings
from pydantic import BaseModel

from crm.records import Quote, plain
from tasks.outcome import DataError, Done, Open, Outcome, StepRun, handler

WAITS_FOR_CUSTOMER = ("sent", "viewed")
NEVER_SENT = ("draft",)


class Standing(BaseModel):
    """How a quote stands; `waits`: it was sent, and nobody has answered. Hours are the business's own."""

    found: Open[bool]
    waits: Open[bool]
    status: Open[str]
    version: Open[int | None]
    sent_at: Open[str | None]
    responded_at: Open[str | None]
    valid_until: Open[str | None]
    # Long numbers and amounts look like phone numbers, so they are not kept readable.
    number: str
    total: str
    currency: str


@handler("quotes.find", crm=True, results=Standing, sets=("crm_customer_id",))
def find(step: StepRun, *, quote_id: str, waits_as: Sequence[str] = WAITS_FOR_CUSTOMER) -> Outcome:
    """Read a quote again from the CRM; its customer becomes the one this run is about.

    `waits_as` are the words by which the CRM calls a quote that waits for the customer's answer.
    """
    if not quote_id.strip():
        raise DataError("No quote: give quote_id.")
    quote = step.crm.quotes.find(quote_id)
    if quote is None:
        return Done(values=_nothing(step))
    return Done(values={**_standing(quote, waits_as), "crm_customer_id": quote.customer_id})


def _standing(quote: Quote, waits_as: Sequence[str]) -> dict[str, object]:
    values = plain(quote)
    names = ("status", "version", "valid_until", "number", "total", "currency")
    return {
        **{name: values[name] for name in names},
        "sent_at": _on_our_clock(quote.sent_at),
        "responded_at": _on_our_clock(quote.responded_at),
        "found": True,
        "waits": bool(quote.status in waits_as and quote.sent_at and not quote.responded_at),
    }


def _on_our_clock(moment: datetime | None) -> str | None:
    return moment.astimezone(ZoneInfo(settings.TIME_ZONE)).isoformat() if moment else None


def _nothing(step: StepRun) -> dict[str, object]:
    """Return the standing of a quote that the CRM no longer has; the run's customer stays as it is."""
    return {
        "found": False,
        "waits": False,
        "status": "",
        "version": None,
        **dict.fromkeys(("sent_at", "responded_at", "valid_until")),
        **dict.fromkeys(("number", "total", "currency"), ""),
        "crm_customer_id": step.context.get("crm_customer_id"),
    }


class Found(BaseModel):
    """Whether a quote has gone out, and which."""

    sent: Open[bool]
    id: Open[str | None]


@handler("quotes.sent", crm=True, results=Found)
def sent(step: StepRun, *, since: datetime, customer_id: str = "") -> Outcome:
    """Look whether a quote was sent to a customer after a moment; without `customer_id`, to the run's own."""
    crm_id = customer_id or step.context.get("crm_customer_id")
    if not crm_id:
        raise DataError("No customer: give customer_id, or start the run with crm_customer_id.")
    if since.tzinfo is None:
        raise DataError("since is a moment and needs its time zone.")
    found = [
        quote
        for quote in step.crm.quotes.query(customer_id=str(crm_id))
        if quote.sent_at and quote.sent_at >= since and quote.status not in NEVER_SENT
    ]
    return Done(values={"sent": bool(found), "id": found[0].id if found else None})
