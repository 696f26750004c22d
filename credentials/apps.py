"""Secrets of other systems, encrypted."""

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_migrate, post_save


class CredentialsConfig(AppConfig):
    name = "credentials"

    def ready(self) -> None:
        """Let nothing that is kept in memory outlive its row."""
        from credentials import models, oauth, store, vault

        for forget in (store.forget, oauth.forget):
            post_save.connect(forget, sender=models.Credential)
            post_delete.connect(forget, sender=models.Credential)
            post_migrate.connect(forget, sender=self)  # also after a flush of the tables
        post_migrate.connect(vault.forget_hash_key, sender=self)
