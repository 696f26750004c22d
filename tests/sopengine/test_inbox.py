"""The inbox: a delivery is stored once, sealed, and its body is gone when it is processed."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from credentials import vault
from sopengine import clock, inbox
from sopengine.models import Delivery

pytestmark = pytest.mark.django_db

CANARY = "canary-ann@example.test"
BODY = f'{{"email": "{CANARY}"}}'.encode()


def table_as_text() -> str:
    """Return everything that the table holds."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM sopengine_delivery")
        return repr(cursor.fetchall())


def test_a_delivery_is_stored_sealed_and_due() -> None:
    delivery, fresh = inbox.store("zoho", "evt-1", BODY, headers={"event": "contact.changed"})
    assert fresh
    assert (delivery.state, delivery.attempts, delivery.headers) == (
        "received", 0, {"event": "contact.changed"},
    )  # fmt: skip
    assert delivery.wake_at == delivery.received_at
    assert CANARY not in table_as_text()
    assert inbox.body_of(delivery) == BODY


@given(raw=st.binary())
def test_a_body_comes_back_byte_for_byte(raw: bytes) -> None:
    delivery, _ = inbox.store("zoho", str(uuid4()), raw)
    assert inbox.body_of(Delivery.objects.get(pk=delivery.pk)) == raw


def test_a_repeat_gets_the_first_row_and_is_not_fresh() -> None:
    first, _ = inbox.store("zoho", "evt-1", BODY)
    again, fresh = inbox.store("zoho", "evt-1", BODY)
    assert (again.pk, fresh) == (first.pk, False)
    assert Delivery.objects.count() == 1


def test_a_repeat_of_a_processed_delivery_brings_nothing_back() -> None:
    delivery, _ = inbox.store("zoho", "evt-1", BODY)
    inbox.processed(delivery)
    again, fresh = inbox.store("zoho", "evt-1", BODY)
    assert (again.state, again.body, fresh) == ("processed", None, False)


def test_the_same_id_of_another_source_is_another_delivery() -> None:
    inbox.store("zoho", "evt-1", BODY)
    assert inbox.store("notion", "evt-1", BODY)[1]


def test_another_body_under_a_used_id_is_refused_and_the_first_stands() -> None:
    first, _ = inbox.store("zoho", "evt-1", BODY)
    with pytest.raises(inbox.DeliveryRefused, match="another body under an id that it used before") as caught:
        inbox.store("zoho", "evt-1", BODY + b" ")
    assert str(first.pk) in str(caught.value)
    assert CANARY not in str(caught.value)
    assert inbox.body_of(Delivery.objects.get()) == BODY


@pytest.mark.parametrize("external_id", ["", "x" * 201, "nul\x00", "line\nline"])
def test_an_id_that_is_none_is_refused(external_id: str) -> None:
    with pytest.raises(inbox.DeliveryRefused, match="no usable id"):
        inbox.store("zoho", external_id, BODY)
    assert not Delivery.objects.exists()


def test_the_hash_of_a_body_is_keyed() -> None:
    delivery, _ = inbox.store("zoho", "evt-1", BODY)
    assert delivery.body_hash == vault.fingerprint(BODY.decode())


def test_processing_drops_the_body_in_one_update() -> None:
    delivery, _ = inbox.store("zoho", "evt-1", BODY)
    updates: list[str] = []

    def watch(execute, sql, params, many, context):  # type: ignore[no-untyped-def]
        if sql.startswith("UPDATE"):
            updates.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        assert inbox.processed(delivery)
    assert len(updates) == 1
    assert (delivery.state, delivery.body, delivery.wake_at) == ("processed", None, None)
    assert delivery.processed_at is not None
    with pytest.raises(LookupError, match="the body is gone"):
        inbox.body_of(delivery)


def test_only_the_first_to_end_a_delivery_did_it() -> None:
    delivery, _ = inbox.store("zoho", "evt-1", BODY)
    twin = Delivery.objects.get(pk=delivery.pk)
    assert inbox.processed(delivery)
    assert not inbox.processed(twin)
    assert not inbox.failed(twin, "too_late")
    assert twin.state == "processed"


def test_a_failed_delivery_keeps_its_body_for_seven_days() -> None:
    delivery, _ = inbox.store("zoho", "evt-1", BODY)
    assert inbox.failed(delivery, "data")
    assert (delivery.state, delivery.reason, delivery.wake_at) == ("failed", "data", None)
    assert inbox.scrub() == 0
    assert inbox.body_of(delivery) == BODY
    Delivery.objects.update(received_at=clock.now() - timedelta(days=7, seconds=1))
    assert inbox.scrub() == 1
    delivery.refresh_from_db()
    assert (delivery.state, delivery.reason, delivery.body) == ("failed", "data", None)


def test_what_nobody_processed_fails_and_loses_its_body() -> None:
    delivery, _ = inbox.store("zoho", "evt-1", BODY)
    Delivery.objects.update(received_at=clock.now() - timedelta(days=8))
    assert inbox.scrub() == 1
    delivery.refresh_from_db()
    assert (delivery.state, delivery.reason, delivery.body, delivery.wake_at) == (
        "failed", "never_processed", None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"state": "processed"}, {"state": "processed", "body": None}, {"body": CANARY}],
    ids=["processed with body", "processed and due", "body in clear"],
)
def test_the_table_refuses_what_would_keep_a_customer(changes: dict[str, str | None]) -> None:
    inbox.store("zoho", "evt-1", BODY)
    with pytest.raises(IntegrityError), transaction.atomic():
        Delivery.objects.update(**changes)


def test_a_body_does_not_open_in_another_delivery() -> None:
    first, _ = inbox.store("zoho", "evt-1", BODY)
    second, _ = inbox.store("zoho", "evt-2", b"other")
    second.body = first.body
    with pytest.raises(vault.VaultError, match="belongs to another place"):
        inbox.body_of(second)
