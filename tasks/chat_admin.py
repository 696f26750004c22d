"""Who of us is who in the chat: what an answer there is worth."""

import re
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest

from tasks.admin_skin import ModelAdmin
from tasks.models import ChatAccount


class ChatAccountForm(forms.ModelForm):  # type: ignore[type-arg,unused-ignore]
    """One person's own id in the chat, which is not the name that others see."""

    class Meta:
        model = ChatAccount
        fields = ("user", "chat_id")
        help_texts = {
            "chat_id": "In Slack: the person's profile, the three dots, “Copy member ID”, such as U0123ABCD. "
            "Whoever has this id answers in this person's name."
        }

    def clean_chat_id(self) -> str:
        """Return the id without the space that copying may bring along."""
        chat_id = str(self.cleaned_data["chat_id"]).strip()
        if not re.fullmatch(r"[A-Za-z0-9._-]{2,80}", chat_id):
            raise forms.ValidationError("This is no id of a person; expected such as U0123ABCD.")
        return chat_id


@admin.register(ChatAccount)
class ChatAccountAdmin(ModelAdmin):  # type: ignore[misc,unused-ignore]
    """Chat accounts. Whoever could enter one for a colleague could answer as them: superusers may."""

    form = ChatAccountForm
    list_display = ("user", "chat_id")
    list_select_related = ("user",)
    search_fields = ("user__username", "chat_id")

    def has_change_permission(self, request: HttpRequest, obj: ChatAccount | None = None) -> bool:
        return bool(super().has_change_permission(request, obj)) and _may_speak(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: ChatAccount | None = None) -> bool:
        return bool(super().has_delete_permission(request, obj)) and _may_speak(request, obj)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "user":
            people = User.objects.filter(is_active=True).order_by("username")
            if not request.user.is_superuser:
                people = people.filter(username=request.user.get_username())
            kwargs["queryset"] = people
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the accounts by the names of their people."""
        return super().get_queryset(request).order_by("user__username")


def _may_speak(request: HttpRequest, account: ChatAccount | None) -> bool:
    return account is None or bool(request.user.is_superuser) or account.user_id == request.user.pk
