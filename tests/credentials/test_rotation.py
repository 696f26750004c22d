"""Changing the key while rows are in use: nothing is lost, nothing is left, and it can be stopped."""

from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models
from pytest_django import Settings

from credentials import store, vault
from credentials.models import Credential, HashKey
from credentials.rotation import Progress, rotate
from sopengine import clock, inbox
from sopengine.models import Delivery
from tests.credentials.conftest import entry
from tests.credentials.test_store import stored

pytestmark = pytest.mark.django_db

NEW_RING = [entry("k2", 2), entry("k1", 1)]


def run(batch: int = 500) -> dict[str, Progress]:
    """Rotate to the end; return how it went, by column."""
    return {f"{p.column.model}.{p.column.field}": p for p in rotate(batch) if p.over}


def kids(model: type[models.Model], field: str) -> set[str]:
    """Return the ids of the keys that the column's texts are sealed with."""
    return {text.split("|")[1] for text in model._default_manager.values_list(field, flat=True) if text}


def test_everything_moves_to_the_newest_key_and_opens_without_the_old_one(ring: Settings) -> None:
    for number in range(7):
        stored(f"secret-{number}", service=f"s{number}")
    login = Credential(service="crm", kind=Credential.Kind.OAUTH_TOKEN)
    login.set_login("access-1", "refresh-1")
    store.put(login)
    delivery, _ = inbox.store("zoho", "1", b'{"name": "Ann"}')
    before = vault.fingerprint("ann@example.test")
    ring.VAULT_KEYS = NEW_RING
    done = run(batch=3)
    assert done["credentials.Credential.secret"].moved == 8
    assert done["credentials.Credential.refresh_token"].moved == 1
    assert kids(Credential, "secret") | kids(HashKey, "secret") | kids(Delivery, "body") == {"k2"}
    assert kids(Credential, "refresh_token") == {"k2"}

    ring.VAULT_KEYS = [entry("k2", 2)]
    vault.forget_hash_key()
    store.forget()
    assert [store.secret_for(f"s{number}") for number in range(7)] == [f"secret-{n}" for n in range(7)]
    delivery.refresh_from_db()
    login.refresh_from_db()
    place = {"table": "credentials_credential", "row": str(login.pk), "field": "refresh_token"}
    assert vault.unseal(str(login.refresh_token), **place) == "refresh-1"
    assert inbox.body_of(delivery) == b'{"name": "Ann"}'
    assert vault.fingerprint("ann@example.test") == before
    assert [progress.moved for progress in run().values()] == [0] * len(vault.sealed_columns)


def test_a_rotation_that_was_stopped_goes_on_where_it_was(ring: Settings) -> None:
    for number in range(5):
        stored(f"secret-{number}", service=f"s{number}")
    ring.VAULT_KEYS = NEW_RING
    steps = rotate(batch=2)
    assert next(step for step in steps if step.column.field == "secret").moved == 2
    del steps
    assert sorted(text.split("|")[1] for text in Credential.objects.values_list("secret", flat=True)) == [
        "k1",
        "k1",
        "k1",
        "k2",
        "k2",
    ]
    assert run(batch=2)["credentials.Credential.secret"].moved == 3


@pytest.mark.parametrize("writer_has", ["old ring", "new ring"])
def test_a_value_written_between_reading_and_replacing_is_kept(ring: Settings, writer_has: str) -> None:
    credential = stored("before", service="crm")
    old_text = vault.seal("after", table="credentials_credential", row=str(credential.pk), field="secret")
    ring.VAULT_KEYS = NEW_RING
    new_text = vault.seal("after", table="credentials_credential", row=str(credential.pk), field="secret")
    wrote: list[bool] = []

    def write_between(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "credentials_credential" in sql and not wrote:
            wrote.append(True)
            text = old_text if writer_has == "old ring" else new_text
            Credential.objects.filter(pk=credential.pk).update(secret=text)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(write_between):
        done = run()["credentials.Credential.secret"]
    assert wrote
    store.forget()
    assert store.secret_for("crm") == "after"
    assert kids(Credential, "secret") == {"k2"}
    assert (done.moved, done.left) == (1 if writer_has == "old ring" else 0, 0)


def test_what_old_processes_go_on_writing_is_counted_as_left(ring: Settings) -> None:
    credential = stored("one", service="crm")
    place = {"table": "credentials_credential", "row": str(credential.pk), "field": "secret"}
    texts = [vault.seal("one", **place) for _ in range(10)]
    ring.VAULT_KEYS = NEW_RING
    busy: list[bool] = []

    def write_again(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "credentials_credential" in sql and not busy:
            busy.append(True)
            Credential.objects.filter(pk=credential.pk).update(secret=texts.pop())
            busy.clear()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(write_again):
        assert run()["credentials.Credential.secret"].left == 1


def test_a_row_that_no_key_opens_stops_nobody_else(ring: Settings) -> None:
    broken, healthy = stored("one", service="s1"), stored("two", service="s2")
    Credential.objects.filter(pk=broken.pk).update(secret=healthy.secret)
    ring.VAULT_KEYS = NEW_RING
    done = run(batch=1)["credentials.Credential.secret"]
    assert list(done.closed) == [str(broken.pk)]
    assert (done.moved, done.left) == (1, 0)
    assert store.secret_for("s2") == "two"


def test_key_ids_that_differ_in_case_are_different_keys(ring: Settings) -> None:
    stored("one", service="s1")
    ring.VAULT_KEYS = [entry("K1", 2), entry("k1", 1)]
    assert run()["credentials.Credential.secret"].moved == 1
    assert kids(Credential, "secret") == {"K1"}


def test_a_body_that_is_gone_stays_gone(ring: Settings) -> None:
    delivery, _ = inbox.store("zoho", "1", b"body")
    inbox.processed(delivery)
    ring.VAULT_KEYS = NEW_RING
    assert run()["sopengine.Delivery.body"].moved == 0
    delivery.refresh_from_db()
    assert delivery.body is None


def test_every_registered_column_is_a_text_column_of_a_model() -> None:
    for column in vault.sealed_columns:
        field = apps.get_model(column.model)._meta.get_field(column.field)
        assert isinstance(field, models.TextField), column


def test_every_column_that_is_sealed_is_registered() -> None:
    """A column of the project that can hold sealed text is named so, and then it must be rotated."""
    names = {"sealed", "request", "secret", "refresh_token", "body"}
    found = {
        vault.SealedColumn(model._meta.label, field.name)
        for config in apps.get_app_configs()
        if config.name in ("sopengine", "credentials", "crm", "tasks")
        for model in config.get_models()
        for field in model._meta.get_fields()
        if isinstance(field, models.TextField) and field.name in names
    }
    assert found == vault.sealed_columns


def test_an_expired_delivery_is_scrubbed_not_rotated(ring: Settings) -> None:
    delivery, _ = inbox.store("zoho", "1", b"body")
    Delivery.objects.filter(pk=delivery.pk).update(received_at=clock.now() - timedelta(days=8))
    assert inbox.scrub() == 1
    ring.VAULT_KEYS = NEW_RING
    assert run()["sopengine.Delivery.body"].moved == 0
