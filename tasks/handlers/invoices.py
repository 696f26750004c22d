"""Steps that ask for money: which invoices have come to which stage, one letter per customer, who has paid.

A stage is a number of days after the due date. Each invoice has a run of its own for each stage that it
came to, started once for ever: what such runs a listing really made is what is new today.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from pydantic import BaseModel, ConfigDict, Field

from crm.records import Invoice
from sopengine import clock
from tasks import templating
from tasks.outcome import (
    Branch,
    Child,
    Continue,
    DataError,
    Done,
    MessageName,
    MoreNames,
    Notice,
    Open,
    Outcome,
    Start,
    StepRun,
    Target,
    handler,
)
from tasks.subject import currency_of

UNPAID = "open"
PAID = "paid"
MOST_LISTED = 50  # lines of the list that a person gets
# What a letter about invoices may name besides the run's own names.
OWED: dict[str, Any] = {"invoices": [], "invoices_count": 0, "invoices_total": ""}


def _today() -> date:
    """Return the business's date now: a step that was held for days must not count from its beginning."""
    return clock.now().astimezone(ZoneInfo(settings.TIME_ZONE)).date()


def _age(invoice: Invoice) -> int:
    return (_today() - invoice.due_date).days


def money(amount: Decimal, currency: str) -> str:
    """Return an amount as people write it: $1,420.00, or 90.50 EUR."""
    return f"${amount:,.2f}" if currency == "USD" else f"{amount:,.2f} {currency}"


def _sum(invoices: Iterable[Invoice]) -> str:
    """Return what is owed in all; currencies are not added to each other."""
    totals: dict[str, Decimal] = {}
    for invoice in invoices:
        totals[invoice.currency] = totals.get(invoice.currency, Decimal()) + invoice.amount_due
    return " and ".join(money(amount, currency) for currency, amount in totals.items())


# -- which invoice has come to which stage ---------------------------------------------------------


@handler("invoices.for_each_stage", crm=True, sets=("children",))
def for_each_stage(step: StepRun, *, sop: str, stages: Sequence[int], gather: str = "") -> Outcome:
    """Start one run for each stage that an open invoice has come to, once for ever.

    `stages` are days after the due date. The run gets `crm_customer_id`, `invoice_id`, `stage` and
    `missed`, which is true where a later stage has been reached already. `gather` names its step whose
    result the new runs bring back as `rows`.
    """
    days = sorted(set(stages))
    if not days or days[0] < 1:
        raise DataError("stages needs days after the due date, such as [7, 14, 21, 30].")
    page = step.crm.invoices.pages(step.cursor, **_overdue(days[0]))
    _recheck(step, page.records, days[0])
    children = [child for invoice in page.records for child in _stages(sop, days, invoice)]
    if page.next_cursor:
        if page.next_cursor == step.cursor:
            raise DataError("The CRM names a page as its own successor; the listing would never end.")
        return Continue(page.next_cursor, children)
    return Start(children, gather=gather)


def _overdue(days: int) -> dict[str, Any]:
    """Return the filters of the open invoices that are overdue by so many days or more."""
    return {"status": UNPAID, "due_before": _today() - timedelta(days=days - 1)}


def _recheck(step: StepRun, found: Iterable[Invoice], days: int) -> None:
    for invoice in found:
        if not step.crm.matches(invoice, _overdue(days)):
            raise DataError(
                f"The CRM listed the invoice {invoice.id}, which is not overdue. Nobody was started.",
                code="filter_ignored",
            )


def _stages(sop: str, days: Sequence[int], invoice: Invoice) -> Iterable[Child]:
    """Yield the run of each stage that the invoice has come to; all but the last are past."""
    reached = [stage for stage in days if stage <= _age(invoice)]
    for stage in reached:
        inputs = {
            "crm_customer_id": invoice.customer_id,
            "invoice_id": invoice.id,
            "stage": stage,
            "missed": stage != reached[-1],
        }
        yield Child(sop=sop, inputs=inputs, key=f"{sop}:{invoice.id}:{stage}")


class Marked(BaseModel):
    """An invoice that has just come to a stage."""

    invoice: Open[str]
    stage: Open[int]


@handler("invoices.mark", results=Marked)
def mark(step: StepRun, *, invoice_id: str, stage: int) -> Outcome:
    """Note that this invoice has come to this stage."""
    return Done(values={"invoice": invoice_id, "stage": stage}, result="due")


# -- what is done about it ---------------------------------------------------------------------------


class News(BaseModel):
    """One line of what a listing gathered."""

    model_config = ConfigDict(extra="ignore")

    crm_customer_id: str
    invoice: str
    stage: int


class HandedOut(BaseModel):
    """How many letters were begun."""

    total: Open[int]


@handler("invoices.hand_out", crm=True, results=HandedOut, sets=("children",))
def hand_out(
    step: StepRun, *, rows: Sequence[News], sop: str, person_from: int, channel: str = ""
) -> Outcome:
    """Start one letter per customer about all invoices that have come to a stage now.

    Its inputs are `crm_customer_id`, `invoice_ids` and `stage`, the highest of them. Invoices at the stage
    `person_from` or beyond get no letter: they stand in one list for a person in `channel`.
    """
    letters: dict[str, list[News]] = {}
    for row in rows:
        if row.stage < person_from:
            letters.setdefault(row.crm_customer_id, []).append(row)
    children = [_letter(sop, customer, news) for customer, news in letters.items()]
    old = {row.invoice for row in rows if row.stage >= person_from}
    return Start(children, wait=False, notify=_list_for_person(step, old, person_from, channel))


def _letter(sop: str, customer: str, news: Sequence[News]) -> Child:
    return Child(
        sop=sop,
        inputs={
            "crm_customer_id": customer,
            "invoice_ids": [row.invoice for row in news],
            "stage": max(row.stage for row in news),
        },
    )


def _list_for_person(step: StepRun, ids: set[str], days: int, channel: str) -> Sequence[Notice]:
    """Return one message with the invoices that are still open, or none."""
    if not ids:
        return ()
    found = [invoice for invoice in step.crm.invoices.query(**_overdue(days)) if invoice.id in ids]
    if not found:
        return ()
    found.sort(key=lambda invoice: invoice.due_date)
    lines = [
        f"{invoice.number}: {money(invoice.amount_due, invoice.currency)}, {_age(invoice)} days overdue"
        f" (customer {invoice.customer_id})"
        for invoice in found[:MOST_LISTED]
    ]
    if len(found) > MOST_LISTED:
        lines.append(f"and {len(found) - MOST_LISTED} more")
    many = f"{len(found)} invoices are" if len(found) > 1 else "1 invoice is"
    head = f"{many} {days} days overdue or more, {_sum(found)}. No mail is sent any more; please call."
    return (
        Notice(
            text="\n".join([head, *lines]),
            channel=channel or settings.ESCALATIONS_CHANNEL,
            severity="warning",
            dedupe=step.key("list"),
        ),
    )


# -- the letter ----------------------------------------------------------------------------------------


class Tone(BaseModel):
    """From which stage on a letter is written after which template."""

    model_config = ConfigDict(extra="forbid")

    stage: int = Field(ge=1)
    template: MessageName


class Letter(BaseModel):
    """The letter, and in clear what it is about: which invoices, and how much was due on each."""

    to: str
    subject: str
    text: str
    html: str
    summary: str
    invoice_ids: Open[list[str]]
    amounts: Open[list[str]]


@handler("invoices.draft", crm=True, drafts=True, results=Letter)
def draft(
    step: StepRun,
    *,
    invoice_ids: Sequence[str],
    stage: int,
    tones: Sequence[Tone],
    to: str = "",
    values: MoreNames = OWED,
) -> Outcome:
    """Write one letter about those of these invoices that are still open, as the CRM has them now.

    `tones` say which template a stage has. A template may name `invoices` (number, amount, due_date,
    days_overdue), `invoices_count` and `invoices_total`. When all are settled the run ends: paid.
    """
    owed = [invoice for one in invoice_ids if (invoice := _open_invoice(step, one)) is not None]
    if not owed:
        return Branch(to="complete", result=PAID, why="settled")
    owed.sort(key=lambda invoice: (invoice.due_date, invoice.number))
    recipient = to or str(step.context.get("customer_email") or "")
    if not recipient:
        raise DataError("The letter has no recipient: the customer has no mail address.")
    names = {**step.context, **values, **_names(owed)}
    message = templating.render_message(_template(tones, stage), names)
    return Done(
        values={
            "to": recipient,
            **message,
            "summary": ", ".join(f"{one.number} {money(one.amount_due, one.currency)}" for one in owed),
            "invoice_ids": [one.id for one in owed],
            "amounts": [str(one.amount_due) for one in owed],
        }
    )


def _open_invoice(step: StepRun, invoice_id: str) -> Invoice | None:
    """Return the invoice when something is due on it, else None."""
    invoice = step.crm.invoices.find(invoice_id, fresh=True)
    return invoice if invoice and invoice.status == UNPAID and invoice.amount_due > 0 else None


def _names(owed: Sequence[Invoice]) -> Mapping[str, Any]:
    return {
        "invoices": [
            {
                "number": one.number,
                "amount": money(one.amount_due, one.currency),
                "due_date": one.due_date.isoformat(),
                "days_overdue": _age(one),
            }
            for one in owed
        ],
        "invoices_count": len(owed),
        "invoices_total": _sum(owed),
    }


def _template(tones: Sequence[Tone], stage: int) -> str:
    fitting = [tone for tone in tones if tone.stage <= stage]
    if not fitting:
        raise DataError("No template is given for this stage.")
    return max(fitting, key=lambda tone: tone.stage).template


# -- who has paid ----------------------------------------------------------------------------------------


@handler("invoices.watch", sets=("children",))
def watch(step: StepRun, *, sop: str, invoice_ids: Sequence[str], amounts: Sequence[str]) -> Outcome:
    """Start one run for each of these invoices, once for ever, that sees whether it is paid.

    `amounts` are the sums due, in the order of the ids; the run gets `invoice_id` and `amount`.
    """
    customer = {"crm_customer_id": step.context["crm_customer_id"]}
    children = [
        Child(sop=sop, inputs={**customer, "invoice_id": one, "amount": amount}, key=f"{sop}:{one}")
        for one, amount in zip(invoice_ids, amounts, strict=True)
    ]
    return Start(children, wait=False)


class Collected(BaseModel):
    """The money that came in after we had written, as decimal text by currency."""

    collected: Open[dict[str, str]]


@handler("invoices.look", crm=True, results=Collected)
def look(step: StepRun, *, invoice_id: str, amount: str, again: Target, give_up_after: int = 60) -> Outcome:
    """See whether the invoice is paid: it ends the run, else the run goes `again`.

    `amount` is what was due when we wrote. So many days after the due date the run ends: unpaid.
    """
    invoice = step.crm.invoices.find(invoice_id, fresh=True)
    if invoice is not None and invoice.status == PAID:
        return Branch(to="complete", result=PAID, values={"collected": {currency_of(invoice): amount}})
    if invoice is None or invoice.status != UNPAID:
        return Branch(to="complete", result="withdrawn")
    if _age(invoice) >= give_up_after:
        return Branch(to="complete", result="unpaid")
    return Branch(to=again)
