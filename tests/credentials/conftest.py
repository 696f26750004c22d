"""What the tests of secrets share."""

import base64
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from credentials import oauth, store, vault


def entry(kid: str, byte: int) -> str:
    """Return a VAULT_KEYS entry whose key is 32 times the same byte."""
    return f"{kid}:{base64.b64encode(bytes([byte]) * 32).decode()}"


@pytest.fixture(autouse=True)
def ring(settings: Settings) -> Iterator[Settings]:
    """Run each test with one key, `k1`, and with nothing kept from the test before."""
    settings.VAULT_KEYS = [entry("k1", 1)]
    settings.CRM_API_KEY = ""
    for forget in (vault.forget_hash_key, store.forget, oauth.forget):
        forget()
    yield settings
    for forget in (vault.forget_hash_key, store.forget, oauth.forget):
        forget()
