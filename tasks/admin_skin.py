"""The one module that knows django-unfold. Without it in INSTALLED_APPS the plain admin serves."""

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse

from tasks import overview

if apps.is_installed("unfold"):
    from unfold.admin import ModelAdmin, TabularInline
    from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
else:
    from django.contrib.admin import ModelAdmin, TabularInline
    from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm
    from django.contrib.auth.forms import AdminUserCreationForm as UserCreationForm

__all__ = [
    "AdminPasswordChangeForm",
    "ModelAdmin",
    "TabularInline",
    "UserChangeForm",
    "UserCreationForm",
    "approvals_badge",
    "navigation",
    "runs_badge",
]


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar: what staff do each day, what they set up, and what they look up."""
    groups = [(title, [_item(request, *told) for told in told_items]) for title, told_items in _SIDEBAR]
    return [{"title": title, "items": [item for item in items if item]} for title, items in groups]


def approvals_badge(request: HttpRequest) -> str:
    """Return how many questions wait for an answer, or nothing when none does."""
    return str(overview.open_approvals() or "")


def runs_badge(request: HttpRequest) -> str:
    """Return how many runs stopped for a person, or nothing when none did."""
    return str(overview.stopped_runs() or "")


# title, icon, the page or the model, and the count beside it
_SIDEBAR: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        "Operate",
        [
            ("Today", "wb_sunny", "admin:index"),
            ("To answer", "how_to_reg", "tasks.approval"),
            ("Runs", "play_circle", "tasks.task"),
        ],
    ),
    ("Define", [("SOPs", "checklist", "tasks.sop"), ("Published versions", "history", "tasks.sopversion")]),
    (
        "Look up",
        [
            ("Scheduled starts", "event", "tasks.scheduledrun"),
            ("Messages to staff", "chat", "tasks.notification"),
            ("Webhooks in", "inbox", "sopengine.delivery"),
            ("Holidays", "celebration", "tasks.holiday"),
            ("Marketing mail", "unsubscribe", "tasks.contactmark"),
            ("CRM connection", "lan", "crm.health"),
            ("Logins to other systems", "key", "credentials.credential"),
            ("Keys for the API", "vpn_key", "tasks.apikey"),
            ("Staff", "group", "auth.user"),
            ("Chat accounts", "alternate_email", "tasks.chataccount"),
        ],
    ),
]
_BADGES: dict[str, Callable[[HttpRequest], str]] = {
    "tasks.approval": approvals_badge,
    "tasks.task": runs_badge,
}


def _item(request: HttpRequest, title: str, icon: str, target: str) -> dict[str, Any] | None:
    """Return one line of the sidebar, or None when this person may not see its page."""
    app, _, model = target.partition(".")
    if not model:
        return {"title": title, "icon": icon, "link": reverse(target)}
    model_admin = admin.site._registry.get(apps.get_model(app, model))
    if model_admin is None or not model_admin.has_view_permission(request):
        return None
    count = _BADGES[target](request) if target in _BADGES else ""
    badge = {"badge": count, "badge_variant": "warning"} if count else {}
    return {"title": title, "icon": icon, "link": reverse(f"admin:{app}_{model}_changelist"), **badge}
