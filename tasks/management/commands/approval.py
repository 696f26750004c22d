"""approval: the questions that wait for a person, and their answers."""

import json
import sys
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.management.base import BaseCommand, CommandError, CommandParser

from credentials.vault import VaultError
from sopengine import arguments
from tasks import approvals, questions
from tasks.models import Approval
from tasks.short_ids import NoSuchId, find, short


class Command(BaseCommand):
    """Show open questions and answer them."""

    help = "Show the questions that wait for a person, and answer them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare list, answer and hand-over."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="open questions, oldest first")
        listing.add_argument("--all", action="store_true", help="answered, expired and void ones too")
        listing.add_argument("--drafts", action="store_true", help="with the question and the draft, in full")
        listing.add_argument("--limit", type=arguments.limit, default=100)
        listing.add_argument("--json", action="store_true")
        answer = verbs.add_parser("answer", help="answer one question")
        answer.add_argument("id", help="the question's id, or its first characters")
        answer.add_argument("--choose", required=True, metavar="OPTION", help="such as approve or decline")
        answer.add_argument("--text", metavar="FILE", help="the text to send instead; - reads it here")
        answer.add_argument("--by", metavar="USER", help="in whose name; the user's permission is checked")
        answer.add_argument("--json", action="store_true")
        giving = verbs.add_parser("hand-over", help="give one question to a colleague, who is told of it")
        giving.add_argument("id", help="the question's id, or its first characters")
        giving.add_argument("--to", required=True, metavar="USER", help="who is to answer")
        giving.add_argument("--by", metavar="USER", help="in whose name; the user's permission is checked")
        giving.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the verb says; every refusal is one sentence and a non-zero exit."""
        try:
            verbs = {"list": self._list, "answer": self._answer, "hand-over": self._hand_over}
            verbs[options["verb"]](options)
        except (approvals.AnswerRefused, NoSuchId, VaultError) as error:
            raise CommandError(str(error)) from None

    def _list(self, options: dict[str, Any]) -> None:
        rows = Approval.objects.select_related("task__version__sop", "answered_by", "assignee").order_by(
            "created_at"
        )
        if not options["all"]:
            rows = rows.filter(state=Approval.State.OPEN)
        shown = [_told(row, drafts=options["drafts"]) for row in rows[: options["limit"]]]
        if options["json"]:
            self.stdout.write(json.dumps(shown, indent=2))
            return
        for row in shown:
            self.stdout.write(_line(row))
        if not shown:
            self.stdout.write("No question waits for an answer.")

    def _answer(self, options: dict[str, Any]) -> None:
        approval = find(Approval.objects.all(), options["id"])
        edited = {"text": _read(options["text"])} if options["text"] else None
        user = _user(options["by"]) if options["by"] else None
        answered = approvals.answer(approval.pk, options["choose"], by=user, edited=edited)
        if options["json"]:
            self.stdout.write(json.dumps(_told(answered, drafts=False), indent=2))
        else:
            self.stdout.write(f"{short(answered.pk)}: {approvals.decision(answered)}")

    def _hand_over(self, options: dict[str, Any]) -> None:
        approval = find(Approval.objects.all(), options["id"])
        to, by = _user(options["to"], "--to"), _user(options["by"]) if options["by"] else None
        given = approvals.hand_over(approval.pk, to, by=by)
        if options["json"]:
            self.stdout.write(json.dumps(_told(given, drafts=False), indent=2))
        else:
            self.stdout.write(f"{short(given.pk)}: handed over to {to.get_username()}.")


def _told(row: Approval, *, drafts: bool) -> dict[str, Any]:
    """Return a question as plain values; customer data only where it was asked for."""
    told = {
        "id": str(row.pk),
        "task": str(row.task_id),
        "sop": row.task.version.sop.slug,
        "step": row.step,
        "state": row.state,
        "options": {option["key"]: option["label"] for option in row.options},
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "choice": row.choice,
        "for": questions.whom_it_is_for(row),
        "assignee": row.assignee.get_username() if row.assignee else "",
        "decision": approvals.decision(row),
    }
    return {**told, "draft": approvals.draft_of(row)} if drafts else told


def _line(row: dict[str, Any]) -> str:
    head = f"{short(row['id'])}  {row['sop']}  {row['step']}  run {short(row['task'])}"
    answers = ", ".join(f"{key} ({label})" for key, label in row["options"].items())
    head += f"  for {row['assignee'] or row['for']}" if row["assignee"] or row["for"] else ""
    lines = [head, f"    {row['decision'] if row['state'] != 'open' else answers}"]
    draft = row.get("draft")
    if draft:
        lines += [f"    {draft['question']}", f"    To: {draft['to']}", f"    Subject: {draft['subject']}"]
        lines += [f"    | {line}" for line in draft["text"].splitlines()]
    return "\n".join(lines)


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--text: {file} cannot be read ({type(error).__name__}).") from None


def _user(name: str, option: str = "--by") -> AbstractUser:
    user: AbstractUser | None = get_user_model().objects.filter(username=name).first()
    if user is None:
        raise CommandError(f"{option}: there is no user {name!r}.")
    return user
