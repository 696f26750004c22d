"""Credentials in the admin: a secret goes in, and never comes out."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminPasswordWidget

from credentials import store
from credentials.models import Credential
from sopengine import clock


class CredentialForm(forms.ModelForm):  # type: ignore[type-arg]
    """What staff may set; `new_secret` is write-only and seals itself into the row."""

    new_secret = forms.CharField(
        label=_("Replace the secret"),
        help_text=_("Stored encrypted and never shown again. Leave empty to keep the present one."),
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        required=False,
    )

    class Meta:
        model = Credential
        fields = ["service", "kind", "label", "scopes", "expires_at"]

    def clean_new_secret(self) -> str:
        """Seal a new secret into the row at once, so that the form keeps no copy of it."""
        value: str = self.cleaned_data["new_secret"]
        if value:
            self.instance.set_secret(value)
        elif not self.instance.secret:
            raise forms.ValidationError(_("A new credential needs its secret."))
        return ""


@admin.register(Credential)
class CredentialAdmin(ModelAdmin):
    """The list says which secret is in force; a row can be revoked, not deleted."""

    form = CredentialForm
    list_display = ["service", "kind", "ending", "state", "label", "expires_at", "changed_at"]
    list_filter = ["service", "kind", "status"]
    readonly_fields = ["ending", "state", "created_at", "changed_at"]
    actions = ["revoke"]
    fields = [
        "service",
        "kind",
        "label",
        "scopes",
        "expires_at",
        "new_secret",
        "ending",
        "state",
        "created_at",
        "changed_at",
    ]

    @admin.display(description=_("last four"))
    def ending(self, credential: Credential) -> str:
        return f"···· {credential.last4}".strip()

    @admin.display(description=_("status"))
    def state(self, credential: Credential) -> str:
        return str(Credential.Status(credential.status_at(clock.now())).label)

    @admin.action(description=_("Revoke: take out of use"), permissions=["change"])
    def revoke(self, request: HttpRequest, credentials: "QuerySet[Credential]") -> None:
        """Revoke each, and say how many."""
        for credential in credentials:
            store.revoke(credential)
            self.log_change(request, credential, "revoked")
        self.message_user(request, _("%d revoked.") % len(credentials))

    @method_decorator(sensitive_post_parameters("new_secret"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        return response

    def get_readonly_fields(self, request: HttpRequest, obj: Credential | None = None) -> list[str]:
        """Which system a secret opens is fixed once it is stored."""
        return [*self.readonly_fields, *(["service", "kind"] if obj else [])]

    def has_delete_permission(self, request: HttpRequest, obj: Credential | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Credential, form: forms.Form, change: bool) -> None:
        """A new credential takes the place of the older ones; a changed one is saved as it is."""
        if change:
            obj.changed_at = clock.now()
            obj.save()
        else:
            store.put(obj)
