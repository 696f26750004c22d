"""Webhooks that came in, in the admin: where each stands; what failed can be processed anew."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from sopengine import inbox
from sopengine.models import Delivery
from tasks import pages, wakeups
from tasks.admin_skin import ModelAdmin
from tasks.overview import STATES
from tasks.templatetags.staff_pages import badge, when


@admin.register(Delivery)
class DeliveryAdmin(ModelAdmin):  # type: ignore[misc,unused-ignore]
    """Deliveries: their codes and never their bodies."""

    list_display = ("received", "source", "event", "state_in_words", "reason", "attempts")
    list_filter = ("state", "source")
    ordering = ("-received_at",)
    fields = readonly_fields = ("source", "received", "event", "state_in_words", "reason", "attempts")
    actions = ("process_anew",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_process_anew_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(pages.MAY_OPERATE)

    @admin.display(ordering="received_at")
    def received(self, delivery: Delivery) -> str:
        return when(delivery.received_at)

    @admin.display(description="event")
    def event(self, delivery: Delivery) -> str:
        return str(delivery.headers.get("event", ""))

    @admin.display(description="state", ordering="state")
    def state_in_words(self, delivery: Delivery) -> str:
        return badge(STATES[delivery.state])

    @admin.action(description="Process anew what failed", permissions=["process_anew"])
    def process_anew(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        count = inbox.reprocess(list(chosen.values_list("pk", flat=True)))
        wakeups.wake()
        gone = chosen.count() - count
        messages.info(
            request,
            f"{count} are processed anew."
            + (f" {gone} are not: they did not fail, or their body is gone." if gone else ""),
        )
