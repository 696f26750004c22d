"""Leaving the marketing mail: one page, one click, no login.

A GET shows the page and changes nothing, because mail programs and virus scanners follow links; the
page's button and the mail program's own one (RFC 8058) post. The wish is kept at once, as a keyed
hash; a run of its own writes it to the CRM, and waits where the CRM is away.
"""

import logging

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from sopengine import clock
from sopengine.errors import DataError, StepError
from tasks import contacts, definition, engine, notices
from tasks.definition import DefinitionError
from tasks.inputs import InputError
from tasks.models import ContactMark, Sop, SopVersion

log = logging.getLogger(__name__)

SOP = "note-unsubscribed"  # what writes the wish to the CRM; staff may change how, or switch it off
ONE_CLICK = ("List-Unsubscribe", "One-Click")
BUTTON = ("leave", "yes")


@csrf_exempt  # the signed link is what allows it: mail programs have no cookie of ours
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest, token: str) -> HttpResponse:
    """Show the page behind a link in a mail; a POST with the button or with one click leaves."""
    leaving = contacts.read_token(token)
    if leaving is None:
        return _answer(request, "unknown", 404)
    if request.method != "POST":
        return _answer(request, "ask")
    if not any(request.POST.get(name) == value for name, value in (ONE_CLICK, BUTTON)):
        return _answer(request, "ask", 400)
    leave(leaving)
    return _answer(request, "done")


def _answer(request: HttpRequest, state: str, status: int = 200) -> HttpResponse:
    response = render(request, "tasks/unsubscribe.html", {"state": state}, status=status)
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"  # the address of the page is the right to leave
    response["X-Robots-Tag"] = "noindex"
    return response


def leave(leaving: contacts.Leaving) -> bool:
    """Keep that this person wants no marketing mail, and have it written to the CRM; was it news?

    It is kept of the address and of the customer, who may have another address tomorrow. The wish is
    kept whatever becomes of the writing: a procedure that cannot start is told to staff.
    """
    news = [_keep(person, leaving) for person in leaving.people]
    fresh = any(news)
    if fresh and leaving.customer_id:
        try:
            with transaction.atomic():
                _write(leaving.customer_id)
        except (DefinitionError, InputError, StepError) as error:
            log.error("a wish to leave was kept and not written to the CRM: %s", type(error).__name__)
            _tell(leaving.customer_id)
    return fresh


def _keep(person: str, leaving: contacts.Leaving) -> bool:
    # Whoever is taken off the list again is so as an address and as a customer: `mark` finds both, by the
    # address with which a customer left last.
    left, fresh = ContactMark.objects.get_or_create(
        person=person,
        kind=ContactMark.Kind.UNSUBSCRIBED,
        defaults={"at": clock.now(), "mark": leaving.person},
    )
    if left.mark != leaving.person:
        ContactMark.objects.filter(pk=left.pk).update(mark=leaving.person)
    return fresh


def _write(customer_id: str) -> None:
    version = _writer()
    if version:
        engine.start(version, {"crm_customer_id": customer_id}, by="unsubscribe")


def _tell(customer_id: str) -> None:
    notices.escalate(
        what=f"Customer {customer_id} wants no marketing mail, and the CRM does not know it.",
        why=f"the procedure “{SOP}” that would write it there cannot start.",
        machine="sends this customer no marketing mail from now on.",
        do="note the wish in the CRM by hand, and put the procedure right.",
        dedupe=f"unsubscribed:{customer_id}",
    )


def _writer() -> SopVersion | None:
    """Return what writes the wish to the CRM; None when staff switched it off.

    Where nobody has published it, it is published as shipped; a draft that staff have changed is theirs to
    publish: DataError.
    """
    sop = Sop.objects.filter(slug=SOP).select_related("published").first()
    if sop is None or sop.published is None:
        file = next(path for path in definition.shipped() if path.stem == SOP)
        shipped = definition.read_file(file)
        if sop is not None and definition.from_rows(sop) != shipped:
            raise DataError("the draft was changed, and nobody has published it")
        return definition.publish(sop or definition.save_rows(shipped))
    return sop.published if sop.state == Sop.State.ACTIVE else None
