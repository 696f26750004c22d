"""Steps that ask when a customer was last written to, before a person is asked whether to write again."""

from typing import Annotated, Literal

from django.conf import settings
from pydantic import BaseModel, Field

from tasks.outcome import DataError, Done, Open, Outcome, StepRun, handler


class Recent(BaseModel):
    """Whether it is too early, the day of the last time, and whether marketing mail is wanted at all."""

    recent: Open[bool]
    last: Open[str | None]
    unsubscribed: Open[bool]


@handler("contact.recent", contacts=True, results=Recent)
def recent(
    step: StepRun,
    *,
    days: Annotated[int, Field(ge=1, le=3660)] | None = None,
    kind: Literal["marketing", "review"] = "marketing",
) -> Outcome:
    """Say whether this run's customer was written to for this purpose in the last `days` calendar days.

    Without `days`, marketing takes those of the sending rules: MARKETING_EVERY_DAYS.
    """
    if days is None and kind != "marketing":
        raise DataError(f"{kind} needs `days`: only marketing has a number of its own.")
    least = settings.MARKETING_EVERY_DAYS if days is None else days
    at = step.contact.last.get(kind)
    last = step.calendar.day_of(at) if at else None
    age = (step.calendar.day_of(step.now) - last).days if last else least
    return Done(
        values={
            "recent": age < least,
            "last": last.isoformat() if last else None,
            "unsubscribed": step.contact.unsubscribed,
        }
    )
