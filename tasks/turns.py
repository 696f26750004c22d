"""Between rows and turns: a claimed row as a turn, what it must know, and the messages it leaves."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from django.conf import settings

from tasks import asking, crm_line, journal, notices, plan
from tasks.models import Notification
from tasks.transition import Answer, Facts, Turn

Medium = Notification.Medium


def prepare_posts(turn: Turn) -> None:
    """Seal the messages that the turn leaves, ready to be written with it."""
    for post in turn.posts:
        notice, row = post.notice, uuid4()
        to = asking.target_of(post.approval if post.kind == "reminder" else None, notice.dedupe)
        escalates = post.kind == "escalation"
        turn.post_rows.append(
            {
                "id": row,
                "task": turn.id,
                "approval": post.approval,
                "kind": post.kind,
                "severity": notice.severity,
                "channel": notice.channel
                or (
                    settings.ESCALATIONS_CHANNEL
                    if escalates
                    else turn.sop.channel or settings.ESCALATIONS_CHANNEL
                ),
                "dedupe": to.dedupe[:120] or None,
                "sealed": notices.sealed_notice(row, notice.text),
                "fold": notice.fold[:120],
                "medium": to.medium,
                "recipient": to.person,
            }
        )
        if to.medium == Medium.CHAT and notices.is_mailed(notice.severity):
            turn.post_rows.append(_by_mail(turn.post_rows[-1], notice.text))
        turn.progress["posted"] = True
    turn.posts = []


def _by_mail(row: journal.Row, text: str) -> journal.Row:
    """Return the mail that says the same as this chat message."""
    mail = uuid4()
    return {
        **row,
        "id": mail,
        "dedupe": notices.mailed_dedupe(row["dedupe"]),
        "sealed": notices.sealed_notice(mail, text),
        "medium": Medium.MAIL,
        "recipient": None,
    }


def turn_of(row: journal.Row) -> Turn:
    """Return a claimed row as a turn."""
    return Turn(
        id=row["id"],
        version=row["version_id"],
        parent=row["parent_id"],
        sop=plan.definition_of(row["version_id"]),
        now=row["now"],
        step=row["step"],
        visit=row["visit"],
        retries=row["retries"],
        crashes=row["crashes"],
        seq=row["seq"],
        waiting_for=row["waiting_for"],
        started=row["started_at"] is not None,
        mailbox=row["mailbox"],
        result=row["result"],
        reason=row["reason"],
        priority=row["priority"],
        context=row["context"],
        sealed_text=row["sealed"],
        request=row["request"],
        progress=row["progress"],
    )


@dataclass(frozen=True, slots=True)
class Known:
    """The facts of a whole claim, read in at most two queries."""

    answers: dict[str, Answer]
    children: dict[UUID, tuple[dict[str, int], int]]
    closed: frozenset[str] = frozenset()
    gathered: dict[UUID, list[dict[str, object]]] = field(default_factory=dict)

    def of(self, turn: Turn) -> Facts:
        """Return what this turn must know."""
        counts, still = self.children.get(turn.id, ({}, 0))
        return Facts(self.answers, counts, still, self.closed, self.gathered.get(turn.id, []))


def facts_for(turns: Iterable[Turn]) -> Known:
    """Read what the mailboxes and waits of these turns refer to."""
    entries = [entry for turn in turns for entry in (*turn.mailbox, *turn.progress.get("kept", ()))]
    asked = [UUID(entry["approval"]) for entry in entries if entry.get("kind") == "answer"]
    parents = [turn.id for turn in turns if turn.waiting_for == "children"]
    gathers = {
        turn.id: turn.progress["wait"]["gather"]
        for turn in turns
        if turn.waiting_for == "children" and turn.progress.get("wait", {}).get("gather")
    }
    held = any(turn.waiting_for == crm_line.LINE for turn in turns)
    return Known(
        journal.answers(asked) if asked else {},
        journal.children_of(parents) if parents else {},
        frozenset({crm_line.LINE}) if held and crm_line.is_closed() else frozenset(),
        journal.gathered(gathers) if gathers else {},
    )
