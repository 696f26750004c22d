"""What every staff page has in common: its frame, and who may see and do what."""

import re
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, QueryDict
from django.template.response import TemplateResponse

from credentials.vault import VaultError
from tasks import approvals, context
from tasks.models import Approval, Task

MAY_ANSWER = "tasks.answer_approval"
MAY_OPERATE = "tasks.operate_task"
MAY_CHANGE_SOP = "tasks.change_sop"
WHY_NOT = {
    MAY_ANSWER: "You may look, but not answer. Ask an administrator for “Can answer approvals”.",
    MAY_OPERATE: "You may look, but not act on runs. "
    "Ask an administrator for “Can pause, resume, cancel and retry runs”.",
    MAY_CHANGE_SOP: "You may look, but not change SOPs. Ask an administrator for “Can change SOP”.",
}


def page(request: HttpRequest, template: str, title: str, **values: Any) -> TemplateResponse:
    """Return a page inside the frame of the admin."""
    return TemplateResponse(request, template, {**admin.site.each_context(request), "title": title, **values})


def staff(request: HttpRequest) -> User:
    """Return the person behind a request that the admin let in."""
    assert isinstance(request.user, User)
    return request.user


def posted(request: HttpRequest) -> QueryDict | None:
    """Return what was posted, for a form; None where nothing was, which leaves the form untouched."""
    return request.POST if request.method == "POST" else None


def asked(request: HttpRequest, name: str) -> str:
    """Return what the address says under `name`, without NUL, which no database takes in a text."""
    return request.GET.get(name, "").replace("\0", "").strip()


def asked_number(request: HttpRequest, name: str, default: int) -> int:
    """Return the whole number that the address says under `name`; the default for anything else."""
    text = asked(request, name)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else default


def require(request: HttpRequest, *permissions: str) -> None:
    """Refuse who has none of the permissions."""
    if not any(map(staff(request).has_perm, permissions)):
        raise PermissionDenied


def may(request: HttpRequest, permission: str) -> dict[str, Any]:
    """Return for a template whether this person may, and the reason if not."""
    allowed = staff(request).has_perm(permission)
    return {"may": allowed, "why_not": "" if allowed else WHY_NOT[permission]}


def may_read_drafts(user: User) -> bool:
    """Return whether this person may see what customers are written: who may answer or change approvals."""
    return user.has_perm(MAY_ANSWER) or user.has_perm("tasks.change_approval")


def may_read_names(user: User) -> bool:
    """Return whether this person may see whom a run is about."""
    return may_read_drafts(user) or user.has_perm(MAY_OPERATE)


def about(task: Task, user: User) -> str:
    """Return whom a run is about: the customer's name while it is known, else the CRM's id, else nothing."""
    crm_id = task.context.get(context.CUSTOMER_ID)
    anonymous = f"Customer {crm_id}" if crm_id else ""
    if not task.sealed or not may_read_names(user):
        return anonymous
    try:
        return str(context.unseal(str(task.pk), task.sealed).get("customer_name") or anonymous)
    except VaultError:
        return anonymous


def draft_for(approval: Approval, user: User) -> dict[str, Any]:
    """Return the question with its draft; empty when it is gone, sealed for good, or not for this person."""
    if not may_read_drafts(user):
        return {}
    try:
        return approvals.draft_of(approval) or {}
    except VaultError:
        return {"closed": True}


def log(request: HttpRequest, thing: Model, what: str) -> None:
    """Keep who did what in the admin's own history."""
    LogEntry.objects.log_actions(staff(request).pk, [thing], CHANGE, change_message=what, single_object=True)
