"""The staff site: which page serves which address, and what is for reading only."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html

from sopengine import clock
from sopengine.readonly import ReadOnly
from tasks import (  # noqa: F401 - one registers itself
    api_admin,
    chat_admin,
    contacts,
    delivery_admin,
    holidays,
    inbox_views,
    outbox,
    pages,
    sop_views,
    views,
)
from tasks.admin_skin import AdminPasswordChangeForm, ModelAdmin, UserChangeForm, UserCreationForm
from tasks.models import (
    Approval,
    ContactMark,
    Holiday,
    Notification,
    ScheduledRun,
    Sop,
    SopVersion,
    Task,
    TaskEvent,
)
from tasks.overview import STATES
from tasks.templatetags.staff_pages import badge, when
from tasks.timeline import Names, line_of

View = Callable[..., HttpResponse]


class ReadOnlyAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc,unused-ignore]
    """Rows that only the machine writes."""


class PagesAdmin(ReadOnlyAdmin):
    """A model whose pages are our own; who has one of `also_seen_by` may see it besides its viewers."""

    list_page: View
    also_seen_by: tuple[str, ...] = ()

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = super().has_view_permission(request, obj)
        return bool(allowed) or any(map(request.user.has_perm, self.also_seen_by))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return type(self).list_page(request)

    def at(self, route: str, view: View, name: str) -> URLPattern:
        """Return the address of one of our pages, for staff only."""
        served: URLPattern = path(route, self.admin_site.admin_view(view), name=f"tasks_{name}")
        return served


@admin.register(Sop)
class SopAdmin(PagesAdmin):
    """SOPs: list, editor, publish, run."""

    list_page = staticmethod(sop_views.sop_list)
    also_seen_by = sop_views.MAY_SEE

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        return request.user.has_perm("tasks.add_sop")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(pages.MAY_CHANGE_SOP)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        return sop_views.sop_add(request)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return sop_views.sop_edit(request, int(object_id))

    def get_urls(self) -> list[URLPattern]:
        return [
            self.at("<int:pk>/publish/", sop_views.publish, "sop_publish"),
            self.at("<int:pk>/switch/", sop_views.switch, "sop_switch"),
            self.at("<int:pk>/export/", sop_views.export, "sop_export"),
            self.at("<int:pk>/run/", sop_views.run, "sop_run"),
            self.at("<int:pk>/schedule/", sop_views.schedule, "sop_schedule"),
            self.at("<int:pk>/steps/add/", sop_views.step_add, "step_add"),
            self.at("<int:pk>/steps/restore/", sop_views.step_restore, "step_restore"),
            self.at("<int:pk>/steps/<int:step_pk>/save/", sop_views.step_save, "step_save"),
            self.at("<int:pk>/steps/<int:step_pk>/move/", sop_views.step_move, "step_move"),
            self.at("<int:pk>/steps/<int:step_pk>/delete/", sop_views.step_delete, "step_delete"),
            self.at("<int:pk>/change/", sop_views.sop_edit, "sop_change"),
            *super().get_urls(),
        ]


@admin.register(Task)
class TaskAdmin(PagesAdmin):
    """Runs: list, story, and what a person may do."""

    list_page = staticmethod(views.run_list)
    also_seen_by = views.MAY_SEE

    def get_urls(self) -> list[URLPattern]:
        return [
            self.at("<uuid:number>/story/", views.run_fragment, "task_story"),
            self.at("<uuid:number>/act/<slug:kind>/", views.run_act, "task_act"),
            self.at("<uuid:number>/change/", views.run_detail, "task_change"),
            *super().get_urls(),
        ]


@admin.register(Approval)
class ApprovalAdmin(PagesAdmin):
    """Questions: the inbox, one question, answers."""

    list_page = staticmethod(inbox_views.inbox)
    also_seen_by = inbox_views.MAY_SEE

    def get_urls(self) -> list[URLPattern]:
        return [
            self.at("batch/", inbox_views.batch, "approval_batch"),
            self.at("<uuid:number>/answer/", inbox_views.answer, "approval_answer"),
            self.at("<uuid:number>/hand-over/", inbox_views.hand_over, "approval_hand_over"),
            self.at("<uuid:number>/change/", inbox_views.question, "approval_change"),
            *super().get_urls(),
        ]


@admin.register(SopVersion)
class SopVersionAdmin(ReadOnlyAdmin):
    """Published versions."""

    list_display = ("sop", "number", "published", "published_by")
    list_filter = ("sop",)
    list_select_related = ("sop", "published_by")

    @admin.display(ordering="published_at")
    def published(self, version: SopVersion) -> str:
        return when(version.published_at)


@admin.register(ScheduledRun)
class ScheduledRunAdmin(ReadOnlyAdmin):
    """What came due, and what became of it."""

    list_display = ("sop", "due", "outcome", "run")
    list_filter = ("outcome", "sop")
    list_select_related = ("sop",)
    exclude = ("task",)

    @admin.display(ordering="slot")
    def due(self, row: ScheduledRun) -> str:
        return when(row.slot)

    def run(self, row: ScheduledRun) -> str:
        return _run_link(row.task_id)


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    """Messages to staff; their text is sealed and shown nowhere. What was given up can be posted again."""

    list_display = ("written", "kind", "medium", "channel", "state_in_words", "reason", "count", "run")
    list_filter = ("state", "kind", "severity", "medium")
    ordering = ("-created_at",)
    exclude = ("sealed", "task", "approval", "dedupe", "replaces", "recipient")
    actions = ("post_again",)

    def has_post_again_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(pages.MAY_OPERATE)

    @admin.action(description="Post again what was not delivered", permissions=["post_again"])
    def post_again(self, request: HttpRequest, chosen: QuerySet[Notification]) -> None:
        count = outbox.post_again(chosen.values_list("pk", flat=True))
        gone = chosen.count() - count
        messages.info(
            request,
            f"{count} will be posted again."
            + (f" {gone} will not: they were delivered, or their text is gone." if gone else ""),
        )

    @admin.display(ordering="created_at")
    def written(self, notice: Notification) -> str:
        return when(notice.created_at)

    @admin.display(description="state", ordering="state")
    def state_in_words(self, notice: Notification) -> str:
        return badge(STATES[notice.state])

    def run(self, notice: Notification) -> str:
        return _run_link(notice.task_id)


@admin.register(TaskEvent)
class TaskEventAdmin(ReadOnlyAdmin):
    """What happened, as it is kept."""

    list_display = ("happened", "told", "run")
    list_filter = ("kind",)
    ordering = ("-at",)
    show_full_result_count = False
    exclude = ("task",)

    @admin.display(ordering="at")
    def happened(self, event: TaskEvent) -> str:
        return when(event.at)

    @admin.display(description="what", ordering="kind")
    def told(self, event: TaskEvent) -> str:
        return line_of(event, Names()).text

    def run(self, event: TaskEvent) -> str:
        return _run_link(event.task_id)


@admin.register(Holiday)
class HolidayAdmin(ModelAdmin):  # type: ignore[misc,unused-ignore]
    """Days on which nothing is sent, besides the shipped ones (setting HOLIDAYS)."""

    list_display = ("day", "name")
    date_hierarchy = "day"

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        kept = holidays.coming(timezone.localdate(clock.now()), settings.HOLIDAYS)
        told = ", ".join(f"{name} ({day:%a} {day.day} {day:%b %Y})" for day, name in kept)
        messages.info(request, f"Kept besides these: {told or 'none'}. The setting HOLIDAYS says which.")
        shown: HttpResponse = super().changelist_view(request, extra_context)
        return shown


class LeaveForm(forms.ModelForm):  # type: ignore[type-arg,unused-ignore]
    """An address that wants no marketing mail: what is kept of it is a hash."""

    address = forms.EmailField(help_text="Kept as a keyed hash: nobody can read it back.")

    class Meta:
        model = ContactMark
        fields: list[str] = []

    def clean_address(self) -> str:
        """Return the address, unless it is on the list already."""
        address = str(self.cleaned_data["address"])
        known = ContactMark.objects.filter(
            person=contacts.person_of_address(address), kind=ContactMark.Kind.UNSUBSCRIBED
        ).first()
        if known:
            where = reverse("admin:tasks_contactmark_delete", args=[known.pk])
            raise forms.ValidationError(
                format_html('This address is on the list already. <a href="{}">Take it off</a>', where)
            )
        return address


@admin.register(ContactMark)
class ContactMarkAdmin(ReadOnlyAdmin):
    """Who was written to and who wants no mail, as hashes; staff may add to the latter and take off it."""

    list_display = ("marked", "kind", "person")
    list_filter = ("kind",)
    ordering = ("-at",)

    @admin.display(description="when", ordering="at")
    def marked(self, mark: ContactMark) -> str:
        return when(mark.at)

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        return request.user.has_perm("tasks.add_contactmark")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        left = obj is None or obj.kind == ContactMark.Kind.UNSUBSCRIBED
        return left and request.user.has_perm("tasks.delete_contactmark")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if change:
            return super().get_form(request, obj, change, **kwargs)
        return super().get_form(request, obj, change, **{**kwargs, "form": LeaveForm})

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("address",) if obj is None else ("person", "kind", "at")

    def save_model(self, request: HttpRequest, obj: ContactMark, form: Any, change: bool) -> None:
        obj.person = contacts.person_of_address(form.cleaned_data["address"])
        obj.kind, obj.at, obj.mark = ContactMark.Kind.UNSUBSCRIBED, clock.now(), obj.person
        super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: ContactMark) -> None:
        """Take somebody off the list: as an address, and as the customer who left with it."""
        if obj.mark:
            ContactMark.objects.filter(kind=obj.kind, mark=obj.mark).delete()
        else:
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ContactMark]) -> None:
        for mark in queryset:
            self.delete_model(request, mark)


def _run_link(number: UUID | None) -> str:
    """Return a link to a run, named by the beginning of its number."""
    if number is None:
        return ""
    return format_html(
        '<a href="{}">{}</a>', reverse("admin:tasks_task_change", args=[number]), str(number)[:8]
    )


# The plain admin reads these; the skin has its own settings for them.
admin.site.site_header = admin.site.site_title = settings.BUSINESS_NAME
admin.site.index_title = "Today"
admin.site.unregister(User)


@admin.register(User)
class StaffAdmin(UserAdmin, ModelAdmin):  # type: ignore[misc,type-arg,unused-ignore]
    """People with a login."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
