"""Secrets of other systems, encrypted."""

from django.apps import AppConfig


class CredentialsConfig(AppConfig):
    name = "credentials"
