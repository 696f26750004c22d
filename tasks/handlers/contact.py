"""Steps that ask when a customer was last written to, before a person is asked whether to write again."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tasks.outcome import Done, Open, Outcome, StepRun, handler


class Recent(BaseModel):
    """Whether it is too early, the day of the last time, and whether marketing mail is wanted at all."""

    recent: Open[bool]
    last: Open[str | None]
    unsubscribed: Open[bool]


@handler("contact.recent", contacts=True, results=Recent)
def recent(
    step: StepRun,
    *,
    days: Annotated[int, Field(ge=1, le=3660)],
    kind: Literal["marketing", "review"] = "marketing",
) -> Outcome:
    """Say whether this run's customer was written to for this purpose in the last `days` calendar days."""
    at = step.contact.last.get(kind)
    last = step.calendar.day_of(at) if at else None
    age = (step.calendar.day_of(step.now) - last).days if last else days
    return Done(
        values={
            "recent": age < days,
            "last": last.isoformat() if last else None,
            "unsubscribed": step.contact.unsubscribed,
        }
    )
