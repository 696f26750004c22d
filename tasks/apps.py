"""SOPs, runs, approvals and messages to staff."""

from django.apps import AppConfig
from django.conf import settings


class TasksConfig(AppConfig):
    name = "tasks"
    verbose_name = "Procedures"

    def ready(self) -> None:
        """Load what registers itself: handlers and transports, ours and those of PLUGINS."""
        from tasks.outcome import handlers
        from tasks.readers import readers
        from tasks.transports import transports

        handlers.load("tasks.handlers")
        readers.load("tasks.readers")
        transports.load("tasks.transports")
        for package in settings.PLUGINS:
            handlers.load(package)
