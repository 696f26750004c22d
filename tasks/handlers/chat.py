"""Steps that talk to staff."""

from typing import Literal

from django.conf import settings

from tasks.outcome import DataError, Done, Notice, Outcome, StepRun, handler

LOUD = ("error", "critical")


@handler("chat.post", calls=False)
def post(
    step: StepRun,
    *,
    text: str,
    channel: str = "",
    severity: Literal["info", "warning", "error", "critical"] = "info",
) -> Outcome:
    """Post one message to the staff chat; without `channel`, to the procedure's own.

    An error is for the channel of escalations, unless `channel` says otherwise.
    """
    if not text.strip():
        raise DataError("There is nothing to post: text is empty.")
    usual = settings.ESCALATIONS_CHANNEL if severity in LOUD else step.channel
    notice = Notice(text=text, channel=channel or usual, severity=severity, dedupe=step.key("post"))
    return Done(notify=(notice,))
