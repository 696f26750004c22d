"""Where a secret comes from: the newest credential in force, else the environment."""

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from pytest_django import DjangoAssertNumQueries, Settings

from credentials import store
from credentials.models import Credential
from sopengine import clock
from sopengine.errors import AuthError
from tests.credentials.conftest import entry

CANARY = "canary-secret-4321"


def stored(secret: str = CANARY, service: str = "crm", **fields: object) -> Credential:
    """Return a stored credential with that secret."""
    credential = Credential(service=service, **fields)
    credential.set_secret(secret)
    store.put(credential)
    return credential


@pytest.mark.django_db
def test_without_a_credential_the_setting_stands_in(ring: Settings) -> None:
    assert store.secret_for("crm") is None
    ring.CRM_API_KEY = "from-environment"
    assert store.secret_for("crm") == "from-environment"
    assert store.secret_for("unheard-of") is None


@pytest.mark.django_db
def test_a_stored_credential_goes_before_the_setting(ring: Settings) -> None:
    ring.CRM_API_KEY = "from-environment"
    stored("from-database")
    assert store.secret_for("crm") == "from-database"


@pytest.mark.django_db
def test_a_new_secret_revokes_the_older_ones_of_its_service_and_kind_only() -> None:
    first = stored("one")
    other_kind = stored("hook", kind=Credential.Kind.WEBHOOK_SECRET)
    other_service = stored("slack", service="slack")
    second = stored("two")
    assert store.secret_for("crm") == "two"
    store.revoke(second)
    assert store.secret_for("crm") is None
    assert store.secret_for("crm", Credential.Kind.WEBHOOK_SECRET) == "hook"
    status = dict(Credential.objects.values_list("pk", "status"))
    assert status == {
        first.pk: "revoked",
        second.pk: "revoked",
        other_kind.pk: "active",
        other_service.pk: "active",
    }


@pytest.mark.django_db
@pytest.mark.parametrize(("status", "used"), [("active", True), ("expiring", True), ("expired", False)])
def test_only_what_is_in_force_is_used(status: str, used: bool) -> None:
    stored(status=status)
    assert (store.secret_for("crm") == CANARY) is used


@pytest.mark.django_db
def test_a_credential_past_its_date_is_not_used_whatever_its_row_says() -> None:
    stored(expires_at=clock.now() + timedelta(minutes=1))
    assert store.secret_for("crm") == CANARY
    credential = stored(expires_at=clock.now() - timedelta(minutes=1))
    assert store.secret_for("crm") is None
    assert credential.status_at(clock.now()) == "expired"
    store.revoke(credential)
    assert credential.status_at(clock.now()) == "revoked"


@pytest.mark.django_db
def test_a_credential_that_cannot_be_opened_is_not_replaced_by_the_setting(ring: Settings) -> None:
    stored()
    ring.CRM_API_KEY = "from-environment"
    ring.VAULT_KEYS = [entry("k2", 2)]
    with pytest.raises(AuthError, match=r"crm api_key cannot be opened: .* add k1:") as caught:
        store.secret_for("crm")
    assert caught.value.sent == "no"
    assert caught.value.reason == "credential_unreadable"


@pytest.mark.django_db
@pytest.mark.parametrize("end", ["revoked", "expired", "past its date"])
def test_a_credential_that_is_over_is_not_replaced_by_the_setting(ring: Settings, end: str) -> None:
    """Somebody took it out of use: an older secret in the settings is not what they want used."""
    credential = stored()
    ring.CRM_API_KEY, ring.CRM_HMAC_SECRET = "from-environment", "hook-from-environment"
    past = {"expires_at": clock.now() - timedelta(days=1)}
    Credential.objects.filter(pk=credential.pk).update(
        **({"status": end} if end in Credential.Status.values else past)
    )
    store.forget()
    assert store.secret_for("crm") is None
    assert store.from_environment("crm") is None
    assert store.secret_for("crm", Credential.Kind.WEBHOOK_SECRET) == "hook-from-environment"


@pytest.mark.django_db
def test_a_secret_copied_to_another_row_does_not_open() -> None:
    source, target = stored(), stored(service="slack")
    Credential.objects.filter(pk=target.pk).update(secret=source.secret)
    store.forget()
    with pytest.raises(AuthError, match="belongs to another place"):
        store.secret_for("slack")


@pytest.mark.django_db
def test_a_credential_never_shows_its_secret() -> None:
    credential = stored()
    shown = f"{credential} {credential!r} {Credential.objects.all()!r}"
    assert CANARY not in shown
    assert credential.secret not in shown
    assert CANARY not in credential.secret
    assert credential.last4 == CANARY[-4:]


@pytest.mark.parametrize("secret", ["", " ", "two\nlines", "tab\there", " before", "nul\x00", "end\n"])
def test_a_secret_is_one_printable_line(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Credential(service="crm").set_secret(secret)
    assert caught.value.messages == [
        "A secret is one line of printable characters, without blanks around it."
    ]


@pytest.mark.parametrize("kind", ["api_key", "oauth_token"])
@pytest.mark.parametrize("secret", ["schl\u00fcssel-12345", "k" * 8_000])
def test_a_secret_that_goes_into_a_header_fits_into_one(kind: str, secret: str) -> None:
    with pytest.raises(ValidationError, match="goes into a header"):
        Credential(service="crm", kind=kind).set_secret(secret)


@pytest.mark.parametrize("kind", ["webhook_secret", "smtp"])
def test_a_secret_that_goes_into_no_header_may_have_any_letter(kind: str) -> None:
    Credential(service="crm", kind=kind).set_secret("schl\u00fcssel-12345")


def test_of_a_short_secret_no_last_four_are_kept() -> None:
    credential = Credential(service="crm")
    credential.set_secret("short-12345")
    assert credential.last4 == ""
    credential.set_secret("longer-12345")
    assert credential.last4 == "2345"


@pytest.mark.django_db
def test_the_table_refuses_a_secret_in_clear() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Credential.objects.create(pk=uuid4(), service="crm", secret=CANARY)


@pytest.mark.django_db(transaction=True)
def test_a_secret_is_kept_for_a_moment_and_forgotten_when_a_row_changes(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    credential = stored()
    with django_assert_num_queries(1):
        assert [store.secret_for("crm") for _ in range(5)] == [CANARY] * 5
    store.revoke(credential)
    assert store.secret_for("crm") is None
    credential.delete()
    stored("next")
    assert store.secret_for("crm") == "next"


@pytest.mark.django_db
def test_inside_a_transaction_nothing_is_kept() -> None:
    stored("rolled-back")
    Credential.objects.all().update(status=Credential.Status.REVOKED)
    store.forget()
    with transaction.atomic():
        stored("within")
        assert store.secret_for("crm") == "within"
        transaction.set_rollback(True)
    assert store.secret_for("crm") is None


@pytest.mark.django_db(transaction=True)
def test_a_thread_that_reads_a_secret_closes_its_connection() -> None:
    stored()
    closed: list[bool] = []
    secrets: list[str | None] = []

    def work() -> None:
        close = connection.close
        connection.close = lambda: (close(), closed.append(True))  # type: ignore[method-assign,func-returns-value,assignment]
        secrets.append(store.secret_for("crm"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (secrets, closed) == ([CANARY], [True])
