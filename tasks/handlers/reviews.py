"""Steps before a customer is asked for a review: is this one glad to be asked?"""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from pydantic import BaseModel

from crm.records import Customer
from sopengine import clock
from tasks.outcome import Aside, Branch, DataError, Done, Open, Outcome, StepRun, handler

COMPLAINT = "complaint:"  # how the note of a complaint begins
COMPLAINT_COUNTS = timedelta(days=365)  # for so long after a complaint nobody asks
CUSTOMER_NAMES = (
    "crm_customer_id",
    "customer_name",
    "customer_email",
    "customer_phone",
    "customer_city",
    "customer_services",
    "customer_last_service",
)


class Mood(BaseModel):
    """What speaks against asking: "" for nothing, else a code."""

    why: Open[str]


@handler("reviews.check", crm=True, results=Mood, sets=CUSTOMER_NAMES, contacts=True)
def check(step: StepRun, *, customer_id: str = "", otherwise: Aside = "complete") -> Outcome:
    """Read the customer again, and see whether anything speaks against asking for a review.

    A customer who is gone, wants no contact, has no mail address, has complained or owes an invoice that
    is overdue is not asked: the run goes to `otherwise` as skipped, with the reason.
    """
    crm_id = customer_id or str(step.context.get("crm_customer_id") or "")
    if not crm_id:
        raise DataError("No customer: give customer_id, or start the run with crm_customer_id.")
    customer = step.crm.find(crm_id, fresh=True)
    values = {**step.crm.customer_fields(customer), "crm_customer_id": crm_id}
    why = _against(step, customer)
    if not why:
        return Done(values={**values, "why": ""})
    result = why if why == "customer_gone" else "skipped"
    return Branch(to=otherwise, result=result, why=why, values={**values, "why": why})


def _against(step: StepRun, customer: Customer | None) -> str:
    if customer is None:
        return "customer_gone"
    if customer.do_not_contact:
        return "do_not_contact"
    if not customer.email:
        return "no_address"
    if _has_complained(step, customer.id):
        return "complaint"
    return "overdue_invoice" if _owes(step, customer.id) else ""


def _has_complained(step: StepRun, customer_id: str) -> bool:
    """Whether something about this customer waits for a person here, or a complaint stands in the file."""
    if step.contact.escalated:
        return True
    since = clock.now() - COMPLAINT_COUNTS
    return any(
        note.text.lstrip().lower().startswith(COMPLAINT)
        and (note.created_at is None or note.created_at >= since)
        for note in step.crm.notes.query(customer_id=customer_id)
    )


def _owes(step: StepRun, customer_id: str) -> bool:
    found = step.crm.invoices.query(customer_id=customer_id, status="open", due_before=_today())
    return any(invoice.amount_due > 0 for invoice in found)


def _today() -> date:
    return clock.now().astimezone(ZoneInfo(settings.TIME_ZONE)).date()
