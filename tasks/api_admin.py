"""Keys for the API in the admin: a new one is shown on one page, once; any can be revoked, none deleted."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from tasks import api_keys, pages
from tasks.admin_skin import ModelAdmin
from tasks.models import ApiKey
from tasks.templatetags.staff_pages import when


class KeyForm(forms.Form):
    """What a key is for, in whose name it acts, and what it may do."""

    name = forms.CharField(max_length=80, help_text="What it is for, such as web shop.")
    user = forms.ModelChoiceField(
        User.objects.none(),
        label="Acts as",
        help_text="It may do no more than this person; best a login of its own.",
    )
    scopes = forms.MultipleChoiceField(
        choices=[(name, f"{name}: {scope.meaning}") for name, scope in api_keys.SCOPES.items()],
        widget=forms.CheckboxSelectMultiple,
        label="May",
    )

    def __init__(self, maker: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        people = User.objects.filter(is_active=True).order_by("username")
        # A key is its user to us: whoever could make one for a colleague could act as that colleague.
        mine = people if maker.is_superuser else people.filter(pk=maker.pk)
        self.fields["user"].queryset = mine  # type: ignore[attr-defined]


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[misc,unused-ignore]
    """The list tells which keys are in use; what opens the API is kept nowhere."""

    list_display = ("name", "prefix", "acts_as", "may", "used", "state")
    list_select_related = ("user",)
    actions = ("revoke",)
    fields = readonly_fields = ("name", "prefix", "acts_as", "may", "made", "used", "state")

    @admin.display(description="acts as")
    def acts_as(self, key: ApiKey) -> str:
        return key.user.get_username()

    @admin.display(description="may")
    def may(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="made")
    def made(self, key: ApiKey) -> str:
        return when(key.created_at)

    @admin.display(description="last used", ordering="last_used_at")
    def used(self, key: ApiKey) -> str:
        return when(key.last_used_at) if key.last_used_at else "never"

    @admin.display(description="state", ordering="revoked_at")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return f"revoked {when(key.revoked_at)}"
        return "in force" if key.user.is_active else "out of force: its user is not active"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.action(description="Revoke: take out of use for ever", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: "QuerySet[ApiKey]") -> None:
        """Revoke each, and say how many."""
        revoked = [key for key in keys if api_keys.revoke(key)]
        for key in revoked:
            self.log_change(request, key, "revoked")
        self.message_user(request, f"{len(revoked)} revoked.")

    @method_decorator(never_cache)
    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Ask what the key is for; a POST makes it and shows it, this once."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = KeyForm(pages.staff(request), pages.posted(request))
        if request.method == "POST" and form.is_valid():
            try:
                key, shown = api_keys.make(**form.cleaned_data)
            except api_keys.KeyRefused as refusal:
                form.add_error(None, str(refusal))
            else:
                self.log_addition(request, key, f"made for {', '.join(key.scopes)}")
                return pages.page(request, "tasks/key_made.html", "Keep this key now", key=key, shown=shown)
        return pages.page(request, "tasks/key_add.html", "Make a key for the API", form=form)
