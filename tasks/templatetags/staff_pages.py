"""How the staff pages show times, states and what holds for every page."""

from datetime import datetime
from typing import Any

from django import template
from django.conf import settings
from django.template.context import RequestContext
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from sopengine import clock
from tasks import inbox_views, overview, pages, timeline

register = template.Library()


@register.simple_tag
def when(at: datetime | None) -> SafeString | str:
    """Show a time in the business' zone; the exact one is in the title."""
    if at is None:
        return ""
    exact = f"{timezone.localtime(at):%A %d %B %Y %H:%M:%S %Z}"
    text = timeline.moment(at, clock.now())
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, text)


@register.simple_tag
def ago(at: datetime | None) -> SafeString | str:
    """Show how long ago something was, or in how long it comes."""
    if at is None:
        return ""
    seconds = (clock.now() - at).total_seconds()
    text = f"{timeline.span(seconds)} ago" if seconds >= 0 else f"in {timeline.span(-seconds)}"
    exact = f"{timezone.localtime(at):%A %d %B %Y %H:%M:%S %Z}"
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, text)


@register.simple_tag
def badge(state: overview.State) -> SafeString:
    """Show a state as a sign, a word and a colour."""
    return format_html(
        '<span class="sp-badge sp-{}"><span aria-hidden="true">{}</span> {}</span>',
        state.tone,
        state.sign,
        state.word,
    )


@register.simple_tag
def state_badge(name: str) -> SafeString:
    """Show the state called `name`."""
    return badge(overview.STATES[name])


@register.inclusion_tag("tasks/mock_banner.html")
def mock_banner() -> dict[str, Any]:
    """Say on every page that the CRM is the mock, while it is."""
    return {"mock": settings.CRM_PROVIDER == "mock"}


@register.inclusion_tag("tasks/today.html", takes_context=True)
def today(context: RequestContext) -> dict[str, Any]:
    """Show the four answers of the first page."""
    request = context["request"]
    now = clock.now()
    person = pages.staff(request)
    return {
        "request": request,
        "seen": overview.overview(),
        "sees_approvals": any(map(person.has_perm, inbox_views.MAY_SEE)),
        "sees_runs": person.has_perm("tasks.view_task") or person.has_perm(pages.MAY_OPERATE),
        "starts": overview.next_starts(now),
        "now": now,
    }
