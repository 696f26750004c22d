"""The way to the firm's CRM."""

from django.apps import AppConfig

from crm.provider import load_providers


class CrmConfig(AppConfig):
    name = "crm"
    verbose_name = "CRM"

    def ready(self) -> None:
        """Load the providers, so that a name in the settings can be checked."""
        load_providers()
