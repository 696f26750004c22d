"""The leaves of the project: settings, clock, registry, HTTP out, webhooks in."""

from importlib import import_module

from django.apps import AppConfig


class SopengineConfig(AppConfig):
    """The app of what belongs to no part alone."""

    name = "sopengine"

    def ready(self) -> None:
        """Register the system checks."""
        import_module("sopengine.checks")
