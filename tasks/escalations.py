"""Calls for a person that nobody has answered yet, by the customer whom they are about."""

from uuid import UUID

from django.db.models import Q

from tasks.models import Task

STOPPED = Q(status=Task.Status.PAUSED) & ~Q(reason__in=("", "paused"))
UNANSWERED = Q(status=Task.Status.WAITING, waiting_for__startswith="approval:", events__kind="escalated")


def is_open_about(customer_id: str, *, besides: UUID) -> bool:
    """Return whether a run about this customer, other than `besides`, has called for a person and waits."""
    runs = Task.objects.filter(STOPPED | UNANSWERED, context__crm_customer_id=customer_id)
    return runs.exclude(pk=besides).exists()
