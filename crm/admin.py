"""The page of the CRM connection: how it stands, in business words, and buttons to hold and release it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_POST

from crm import breaker, health
from crm.breaker import Standing
from crm.models import Health
from sopengine import clock
from sopengine.readonly import ReadOnly

SERVICE = "crm"
MAY_HOLD = "crm.hold_crm"
MAY_SEE = ("crm.view_health", MAY_HOLD)
WHY_NOT = "You may look, but not hold it. Ask an administrator for “Can hold and release the CRM”."
PAGE = "admin:crm_health_changelist"

# A sign and a tone for each state, as the other staff pages have them.
LOOKS = {
    breaker.ANSWERS: ("Answers", "✓", "good"),
    breaker.SILENT: ("Does not answer", "✕", "bad"),
    breaker.PAUSING: ("Pause", "…", "wait"),
    breaker.REFUSED: ("Refuses our login", "✕", "bad"),
    breaker.HELD: ("Held", "‖", "wait"),
}


class HoldForm(forms.Form):
    """Why somebody holds the CRM."""

    note = forms.CharField(
        label=_("Reason"),
        max_length=200,
        help_text=_("For the others: why no call shall be made. No customer's name, please."),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One connection as the page shows it."""

    standing: Standing
    says: str
    follows: str
    word: str
    sign: str
    tone: str
    failure: str
    form: HoldForm

    @property
    def held(self) -> bool:
        """Say whether staff hold it."""
        return self.standing.state == breaker.HELD


def shown(standing: Standing, form: HoldForm) -> Line:
    """Return a standing in the words of the page, with the form to hold it."""
    word, sign, tone = LOOKS[standing.state]
    return Line(
        standing=standing,
        says=f"The CRM {breaker.in_words(standing, clock.now())}.",
        follows=breaker.consequence(standing),
        word=word,
        sign=sign,
        tone=tone,
        failure=breaker.why(standing.last_code) if standing.last_failed_at else "",
        form=form,
    )


def services() -> list[str]:
    """Return the services that the page shows: the firm's CRM, and every other one that was ever called."""
    others = Health.objects.exclude(service=SERVICE).values_list("service", flat=True)
    return [SERVICE, *others]


def person(request: HttpRequest) -> User:
    """Return the person behind a request that the admin let in."""
    assert isinstance(request.user, User)
    return request.user


@require_GET
def connection_page(request: HttpRequest) -> HttpResponse:
    """Show how each connection stands."""
    if not any(map(person(request).has_perm, MAY_SEE)):
        raise PermissionDenied
    return _page(request, {})


@require_POST
def hold(request: HttpRequest, service: str) -> HttpResponse:
    """Hold a connection, with a reason."""
    _demand(request, service)
    form = _form(service, request.POST)
    if not form.is_valid():
        return _page(request, {service: form})
    if health.hold(service, _name(request), form.cleaned_data["note"]):
        _log(request, service, "held")
        messages.success(
            request, "The CRM is held: no call is made until somebody releases it. Runs that need it wait."
        )
    else:
        messages.warning(request, "The CRM was held already.")
    return redirect(PAGE)


@require_POST
def release(request: HttpRequest, service: str) -> HttpResponse:
    """Let calls through again."""
    _demand(request, service)
    if health.release(service, _name(request)):
        _log(request, service, "released")
        messages.success(
            request, "Calls to the CRM are made again, slowly at first. Runs that waited go on, oldest first."
        )
    else:
        messages.warning(request, "There was nothing to release: calls to the CRM are made as usual.")
    return redirect(PAGE)


def _form(service: str, given: QueryDict | None = None) -> HoldForm:
    """Return the form of one connection; its fields have ids of their own on a page with several."""
    return HoldForm(given, auto_id=f"id_{service}_%s")


def _page(request: HttpRequest, given: Mapping[str, HoldForm]) -> HttpResponse:
    may = person(request).has_perm(MAY_HOLD)
    mock = settings.CRM_PROVIDER == "mock"
    values = {
        "title": "CRM connection",
        "lines": [
            shown(health.standing(service, fresh=True), given.get(service) or _form(service))
            for service in services()
        ],
        "provider": "mock" if mock else settings.CRM_PROVIDER,
        "host": "" if mock else urlsplit(settings.CRM_BASE_URL).hostname or "",
        "may": may,
        "why_not": "" if may else WHY_NOT,
    }
    return TemplateResponse(request, "crm/connection.html", {**admin.site.each_context(request), **values})


def _demand(request: HttpRequest, service: str) -> None:
    """Refuse who may not hold, and a connection that there is not."""
    if not person(request).has_perm(MAY_HOLD):
        raise PermissionDenied
    if service not in services():
        raise Http404


def _name(request: HttpRequest) -> str:
    return person(request).get_full_name() or person(request).get_username()


def _log(request: HttpRequest, service: str, what: str) -> None:
    """Keep who did what in the admin's own history."""
    row = Health.objects.get(service=service)
    LogEntry.objects.log_actions(person(request).pk, [row], CHANGE, change_message=what, single_object=True)


@admin.register(Health)
class HealthAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """One page of our own; the rows are the machine's to write."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return any(map(request.user.has_perm, MAY_SEE))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return connection_page(request)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return redirect(PAGE)

    def get_urls(self) -> list[URLPattern]:
        return [
            self._at("<slug:service>/hold/", hold, "hold"),
            self._at("<slug:service>/release/", release, "release"),
            *super().get_urls(),
        ]

    def _at(self, route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
        """Return the address of one of our pages, for staff only."""
        return path(route, self.admin_site.admin_view(view), name=f"crm_health_{name}")
