"""Credentials in the admin: a secret goes in, and never comes out."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from unfold.admin import ModelAdmin
from unfold.decorators import action
from unfold.widgets import UnfoldAdminPasswordWidget

from credentials import grants, login, store, wording
from credentials.models import Credential
from sopengine import clock
from sopengine.errors import StepError


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
            self.instance.kind = self.cleaned_data.get("kind", self.instance.kind)
            self.instance.set_secret(value)
        elif not self.instance.secret:
            raise forms.ValidationError(_("A new credential needs its secret."))
        return ""


@admin.register(Credential)
class CredentialAdmin(ModelAdmin):
    """The list says which secret is in force; a row can be revoked, not deleted."""

    form = CredentialForm
    list_display = ["service", "kind", "ending", "state", "remarks", "label", "expires_at", "changed_at"]
    list_filter = ["service", "kind", "status"]
    readonly_fields = ["ending", "state", "remarks", "refreshed_at", "created_at", "changed_at"]
    actions = ["revoke"]
    actions_list = ["connect"]
    actions_detail = ["connect_again"]
    fields = [
        "service",
        "kind",
        "label",
        "scopes",
        "expires_at",
        "new_secret",
        "ending",
        "state",
        "remarks",
        "refreshed_at",
        "created_at",
        "changed_at",
    ]

    @admin.display(description=_("last four"))
    def ending(self, credential: Credential) -> str:
        return f"···· {credential.last4}".strip()

    @admin.display(description=_("status"))
    def state(self, credential: Credential) -> str:
        return str(Credential.Status(credential.status_at(clock.now())).label)

    @admin.display(description=_("remarks"))
    def remarks(self, credential: Credential) -> str:
        return wording.remarks(credential, clock.now())

    @action(description=_("Connect"), url_path="connect", icon="login", permissions=["connect"])
    def connect(self, request: HttpRequest) -> HttpResponse:
        """Log in at the CRM as this person allows it there."""
        return self._begin(request, "crm")

    @action(description=_("Connect"), url_path="connect", icon="login", permissions=["connect_again"])
    def connect_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Log in anew where this credential belongs to."""
        return self._begin(request, get_object_or_404(Credential, pk=object_id).service)

    def _begin(self, request: HttpRequest, service: str) -> HttpResponse:
        try:
            return login.begin(request.session, service)
        except StepError as error:
            messages.error(request, error.message)
            return redirect("admin:credentials_credential_changelist")

    def has_connect_permission(self, request: HttpRequest) -> bool:
        """Only where a person's login is what the CRM wants."""
        asked = settings.CRM_AUTH == "oauth" and settings.CRM_OAUTH_GRANT == grants.CODE
        return asked and login.may_connect(request.user)

    def has_connect_again_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Only for logins."""
        found = self.get_object(request, object_id)
        return bool(found and found.kind == found.Kind.OAUTH_TOKEN) and self.has_connect_permission(request)

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
        """A new credential takes the place of the older ones; of a changed one only what changed is written.

        Since the page was opened its token may have been renewed, or its key rotated.
        """
        if not change:
            store.put(obj)
            return
        changed = set(form.changed_data)
        renewed = "new_secret" in changed
        obj.changed_at = clock.now()
        secrets = set(Credential.SECRET_FIELDS) if renewed else set()
        obj.save(update_fields=(changed - {"new_secret"}) | secrets | {"changed_at"})
        if renewed or "expires_at" in changed:
            _bring_back(obj)


def _bring_back(credential: Credential) -> None:
    """Let a credential with a new end, or a new secret, be in force again, unless it is revoked.

    A login that the other system has ended comes back with a new secret only.
    """
    ended = (Credential.Status.EXPIRING, Credential.Status.EXPIRED)
    rows = Credential.objects.filter(pk=credential.pk, status__in=ended).exclude(refused_code="reauth")
    rows.update(status=Credential.Status.ACTIVE)
