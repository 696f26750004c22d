"""One step's handler, run in whatever thread: every error becomes a StepError, a bug included."""

import logging
from dataclasses import dataclass, field
from time import perf_counter

from django.db import InterfaceError, OperationalError

from crm import health
from crm.service import CrmCall, CrmService, open_service
from sopengine.errors import DataError, StepError, Transient, Unclear, Unsupported
from sopengine.logs import bound
from tasks import plan
from tasks.crew import StepDeadline
from tasks.outcome import Outcome, checked
from tasks.transition import Turn

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler came to: an outcome or an error, its CRM calls, and how long it took.

    `notes` are what its calls said of the CRM's line, for the thread that owns the database.
    """

    outcome: Outcome | StepError
    calls: tuple[CrmCall, ...]
    ms: int
    found: bool = False  # by a look: an earlier try had done it
    notes: health.Notes = field(default_factory=health.Notes)


def told(call: CrmCall) -> dict[str, object]:
    """Return what the run's event says of one CRM call: codes, an id and a time."""
    return {"op": call.operation, "entity": call.entity, "id": call.id, "status": call.status, "ms": call.ms}


def place_of(error: BaseException) -> str:
    """Return where an error arose, as function:line: what a log may say of it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}" if place else "?"


def _kept(outcome: object) -> Outcome | StepError:
    """Return an outcome that can be kept; one that cannot is an error after the handler's work was done."""
    try:
        return checked(outcome)
    except DataError as error:
        error.sent = "maybe"
        return error


def run_handler(turn: Turn, call: plan.Call, deadline: StepDeadline) -> Reply:
    """Run the handler of this call; every error becomes a StepError, a bug included.

    What is logged meanwhile carries the run's short id, which staff see in every message about it.
    """
    with bound(ref=str(turn.id)[:8]):
        return _run(turn, call, deadline)


def _run(turn: Turn, call: plan.Call, deadline: StepDeadline) -> Reply:
    handler = call.plan.handler
    began = perf_counter()
    crm: CrmService | None = None
    looking, known, notes = call.looks, False, health.Notes()
    outcome: Outcome | StepError
    try:
        crm = open_service(deadline, notes=notes) if handler.crm or handler.rechecks else None
        deadline.check()
        run = plan.step_run(turn, crm or plan.NO_CRM, deadline, call.contact)
        found = handler.look(run, **call.params) if call.looks and handler.look else None
        looking, known = False, found is not None
        outcome = _kept(handler.run(run, **call.params) if found is None else found)
    except StepError as error:
        outcome = error
        if looking and isinstance(error, Unsupported):
            outcome = Unclear(error.message)  # nobody can look it up by machine
        elif looking:
            error.sent = "maybe"  # what an earlier try may have sent is still not known
    except (OperationalError, InterfaceError):  # it reads a credential there
        outcome = Transient("the database did not answer", code="database")
    except (Exception, SystemExit) as error:  # a bug in a handler: its name and place, never its values
        log.error("handler %s: %s in %s", handler.name, type(error).__name__, place_of(error))
        outcome = DataError(
            f"the handler {handler.name!r} has a bug: {type(error).__name__}", code="bug", sent="maybe"
        )
    calls = tuple(crm.calls) if crm else ()
    return Reply(outcome, calls, round((perf_counter() - began) * 1000), known, notes)
