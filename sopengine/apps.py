"""The leaves of the project: settings, clock, registry, HTTP out, webhooks in."""

from django.apps import AppConfig


class SopengineConfig(AppConfig):
    name = "sopengine"
