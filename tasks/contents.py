"""What a message to staff says: made when it is posted, so that it tells what is so at that moment."""

import unicodedata
from dataclasses import dataclass, replace

from django.conf import settings
from django.urls import reverse

from credentials import vault
from tasks import asking, folding
from tasks.models import Approval, Notification
from tasks.notices import TABLE
from tasks.questions import FAMILY
from tasks.transports import Card

LONGEST_LINE = 120


class Moot(Exception):
    """There is nothing left to say: what the message was about is decided."""


@dataclass(frozen=True, slots=True)
class Content:
    """The part of a message that its row does not say."""

    text: str
    link: str
    count: int = 1
    batch: tuple[Card, ...] = ()


def content_of(row: Notification) -> Content:
    """Return what the message says now; Moot when there is nothing left to say.

    Raises LookupError when its text is gone, and VaultError when it cannot be opened.
    """
    batch = tuple(_on_one_line(card) for card in asking.cards(row))
    if row.kind == "approval" and all(card.decided for card in batch):
        raise Moot
    text = asking.words(row) or text_of(row)
    times = folding.more_times(row)
    if times:
        text = f"{text}\nThis happened {times} more time{'' if times == 1 else 's'} since it was last told."
    return Content(text, _link(row, batch), max(1, times), batch)


def text_of(row: Notification) -> str:
    """Return the text as it was written; LookupError when it is gone."""
    return _said(row)["text"]


def address_of(row: Notification) -> str:
    """Return the one address that a mail to several people is for by now; "" while it is for all."""
    return _said(row).get("to", "") if row.sealed is not None else ""


def _said(row: Notification) -> dict[str, str]:
    if row.sealed is None:
        raise LookupError("the text is gone")
    said: dict[str, str] = vault.unseal(row.sealed, table=TABLE, row=str(row.pk), field="sealed")
    return said


# Where the messages without a run lead, by what their `dedupe` begins with.
_PAGES = {
    "line": "admin:crm_health_changelist",
    "pauses": "admin:crm_health_changelist",
    "credential": "admin:credentials_credential_changelist",
}


def _link(row: Notification, batch: tuple[Card, ...]) -> str:
    """Return the address of what the message is about; a list leads to the inbox of its run."""
    if len(batch) == 1:
        return batch[0].link
    if batch:
        listed = Approval.objects.filter(pk=batch[0].approval_id)
        family = listed.annotate(family=FAMILY).values_list("family", flat=True)[0]
        return f"{_address('admin:tasks_approval_changelist')}?run={family}"
    if row.kind == "reminder":
        return _address("admin:tasks_approval_changelist")
    if row.approval_id:
        return _address("admin:tasks_approval_change", row.approval_id)
    if row.task_id:
        return _address("admin:tasks_task_change", row.task_id)
    about = str(row.dedupe or "").partition(":")[0]
    return _address(_PAGES.get(about, "admin:index"))


def _address(name: str, *args: object) -> str:
    return str(settings.PUBLIC_URL).rstrip("/") + reverse(name, args=args)


# -- words of customers ------------------------------------------------------------------------------


def _on_one_line(card: Card) -> Card:
    return replace(card, title=one_line(card.title), lines=tuple(one_line(line) for line in card.lines))


def one_line(text: str, most: int = LONGEST_LINE) -> str:
    """Return the text on one line, without characters that steer a screen, cut to `most`."""
    kept = "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c
        for c in text
        if unicodedata.category(c) != "Cf"
    )
    line = " ".join(kept.split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"
