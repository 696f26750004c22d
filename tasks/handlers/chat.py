"""Steps that talk to staff."""

from typing import Literal

from tasks.outcome import DataError, Done, Notice, Outcome, StepRun, handler


@handler("chat.post", calls=False)
def post(
    step: StepRun,
    *,
    text: str,
    channel: str = "",
    severity: Literal["info", "warning", "error", "critical"] = "info",
) -> Outcome:
    """Post one message to the staff chat; without `channel`, to the procedure's own."""
    if not text.strip():
        raise DataError("There is nothing to post: text is empty.")
    notice = Notice(text=text, channel=channel or step.channel, severity=severity, dedupe=step.key("post"))
    return Done(notify=(notice,))
