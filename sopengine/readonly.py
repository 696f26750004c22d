"""Rows that only the machine writes, in the admin of any app."""

from typing import Any

from django.http import HttpRequest


class ReadOnly:
    """What an admin class puts before its base so that nobody adds, changes or deletes a row by hand."""

    actions: Any = None

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Say no."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say no."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say no."""
        return False
