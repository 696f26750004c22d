"""What goes into the API and what comes out of it; the OpenAPI document is made from these."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks import approvals
from tasks.models import Approval, Task, TaskEvent
from tasks.timeline import Names, line_of


def _storable(text: str) -> str:
    """Refuse what no database takes in a text."""
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("has a character that cannot be stored")
    return text


Text = Annotated[str, AfterValidator(_storable)]
Slug = Annotated[str, Field(pattern=r"^[-a-zA-Z0-9_]{1,80}$", examples=["new-lead-response"])]
EventName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]{0,79}$", examples=["job.completed"])]
OptionKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$", examples=["approve"])]
Status = Literal["ready", "running", "waiting", "paused", "completed", "failed", "cancelled"]


class Given(BaseModel):
    """A body that was sent; a field that it should not have is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


# -- in ------------------------------------------------------------------------------------------


class StartGiven(Given):
    """Which SOP to start, and with which inputs."""

    sop: Slug
    inputs: dict[str, Any] = Field(default_factory=dict, description="As the SOP declares them.")


class EventGiven(Given):
    """What happened, as the steps that wait for it call it."""

    name: EventName


class EditGiven(Given):
    """The parts of the draft that are sent instead, for an option that edits it."""

    subject: Text | None = None
    text: Text | None = None
    html: Text | None = None

    def parts(self) -> dict[str, str]:
        """Return what was given."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class AnswerGiven(Given):
    """The key of an option, and the new text if that option takes one."""

    choice: OptionKey
    edited: EditGiven | None = None


# -- out -----------------------------------------------------------------------------------------


class Fault(BaseModel):
    """A code for programs and a sentence for people."""

    code: str
    message: str


class Refusal(BaseModel):
    """Why nothing was done."""

    error: Fault


class Run(BaseModel):
    """One run: ids, codes and times, nothing about the customer."""

    id: UUID
    sop: str
    version: int
    status: Status
    step: str
    waiting_for: str = Field(description="Such as time, event, children, approval:<id>; empty: it goes on.")
    result: str = Field(description="What it has come to so far, such as sent, declined, replied.")
    reason: str = Field(description="Why it failed or was stopped.")
    parent: UUID | None
    created_at: datetime
    wake_at: datetime | None = Field(description="When it is looked at again by itself.")
    finished_at: datetime | None

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the row; its version and SOP should be there already."""
        return cls(
            id=task.pk,
            sop=task.version.sop.slug,
            version=task.version.number,
            status=task.status,
            step=task.step,
            waiting_for=task.waiting_for,
            result=task.result,
            reason=task.reason,
            parent=task.parent_id,
            created_at=task.created_at,
            wake_at=task.wake_at,
            finished_at=task.finished_at,
        )


class Runs(BaseModel):
    """One page, newest first; `next` is what to ask as `before` for the next one."""

    runs: list[Run]
    next: UUID | None


class RunEvent(BaseModel):
    """One thing that happened; `data` has ids and codes, `text` says it as a sentence."""

    seq: int
    kind: str
    step: str
    status: Status
    at: datetime
    data: dict[str, Any]
    text: str

    @classmethod
    def of(cls, event: TaskEvent, names: Names) -> Self:
        """Return the row with its sentence."""
        return cls(
            seq=event.seq,
            kind=event.kind,
            step=event.step,
            status=event.status,
            at=event.at,
            data={name: value for name, value in event.data.items() if name != "mark"},
            text=line_of(event, names).text,
        )


class RunEvents(BaseModel):
    """One page, oldest first; `next` is what to ask as `after` for the next one."""

    events: list[RunEvent]
    next: int | None


class Taken(BaseModel):
    """The run has heard it."""

    taken: Literal[True] = True


class Choice(BaseModel):
    """One possible answer; `outcome` is approve, edit, decline or the step it leads to."""

    key: str
    label: str
    outcome: str


class Draft(BaseModel):
    """The question and what the customer would get."""

    question: str
    to: str
    subject: str
    text: str
    html: str


class Question(BaseModel):
    """One question to a person; `draft` only where it was asked for and is still there."""

    id: UUID
    run: UUID
    sop: str
    step: str
    state: Literal["open", "answered", "expired", "void"]
    options: list[Choice]
    created_at: datetime
    expires_at: datetime | None
    choice: str
    decision: str = Field(description="Who decided what and when, or that nobody has yet.")
    draft: Draft | None

    @classmethod
    def of(cls, approval: Approval, *, draft: bool) -> Self:
        """Return the row, with its draft on demand; VaultError when that cannot be opened."""
        told = approvals.draft_of(approval) if draft else None
        return cls(
            id=approval.pk,
            run=approval.task_id,
            sop=approval.task.version.sop.slug,
            step=approval.step,
            state=approval.state,
            options=[
                Choice(key=option["key"], label=option["label"], outcome=option["outcome"])
                for option in approval.options
            ],
            created_at=approval.created_at,
            expires_at=approval.expires_at,
            choice=approval.choice,
            decision=approvals.decision(approval),
            draft=Draft(**{name: told[name] for name in Draft.model_fields}) if told else None,
        )


class Questions(BaseModel):
    """One page, oldest first; `next` is what to ask as `after` for the next one."""

    approvals: list[Question]
    next: UUID | None
