"""SOPs, runs, approvals and messages to staff."""

from django.apps import AppConfig


class TasksConfig(AppConfig):
    name = "tasks"
    verbose_name = "Procedures"
