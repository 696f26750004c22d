"""A run with everything it started: how it stands as a whole, for somebody who waits for its end."""

from collections import Counter
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Count, QuerySet

from tasks.models import Task

MOST_LEVELS = 10
OVER = frozenset({Task.Status.COMPLETED, Task.Status.FAILED, Task.Status.CANCELLED})
AT_WORK = "at work"
FOR_TIME = "waiting for their hour"
FOR_ANSWER = "waiting for an answer"
STOPPED = "stopped until a person decides"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands, and its family by counts: by result where over, else by what they wait for."""

    status: str
    result: str
    reason: str
    ended: dict[str, int]
    open: dict[str, int]

    @property
    def over(self) -> bool:
        """Whether the run has come to its end."""
        return self.status in OVER

    @property
    def only_people(self) -> bool:
        """Whether nothing goes on before a person answers or decides."""
        return bool(self.open) and set(self.open) <= {FOR_ANSWER, STOPPED}

    def __str__(self) -> str:
        parts = [f"{count} {what}" for what, count in {**self.ended, **self.open}.items()]
        return ", ".join(parts) or self.status


def standing(task: UUID) -> Standing:
    """Return how the run and its family stand now."""
    root = Task.objects.only("status", "waiting_for", "result", "reason").get(pk=task)
    ended: Counter[str] = Counter()
    still_open: Counter[str] = Counter()
    _count(Task.objects.filter(pk=task), Counter(), still_open)
    for level in range(1, MOST_LEVELS):
        found = Task.objects.filter(**{"__".join(["parent"] * level): task})
        if not _count(found, ended, still_open):
            break
    return Standing(root.status, root.result, root.reason, dict(ended), dict(still_open))


def _count(found: QuerySet[Task], ended: Counter[str], still_open: Counter[str]) -> int:
    """Add the runs of one generation to the counts; return how many it has."""
    rows = found.order_by().values("status", "waiting_for", "result").annotate(count=Count("pk"))
    total = 0
    for row in rows:
        total += row["count"]
        if row["status"] in OVER:
            ended[row["result"] or row["status"]] += row["count"]
        elif not (row["status"] == Task.Status.WAITING and row["waiting_for"] == "children"):
            still_open[_what_of(row["status"], row["waiting_for"])] += row["count"]
    return total


def _what_of(status: str, waiting_for: str) -> str:
    if status == Task.Status.PAUSED:
        return STOPPED
    if status == Task.Status.WAITING:
        return FOR_ANSWER if waiting_for.startswith("approval:") else FOR_TIME
    return AT_WORK
