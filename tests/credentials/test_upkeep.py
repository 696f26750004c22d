"""A credential that nears its end is said in time, once."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from credentials import store
from credentials.models import Credential
from credentials.upkeep import ending, move, put_off
from credentials.wording import remarks
from sopengine import clock
from tasks.crm_line import warn_of_expiry
from tasks.models import Notification
from tests.credentials.test_store import stored

pytestmark = pytest.mark.django_db


def note_expiry() -> list[Credential]:
    """Move each credential that nears its end, as the sweep does; return those that were moved here."""
    put_off()
    return [credential for credential in ending() if move(credential)]


def ending_in(**time: float) -> Credential:
    """Return a stored credential that ends in so many days, hours or minutes."""
    return stored(expires_at=clock.now() + timedelta(**time))


@pytest.mark.parametrize(
    ("days", "status"),
    [(8, "active"), (6.99, "expiring"), (0.01, "expiring"), (-0.01, "expired"), (-900, "expired")],
)
def test_a_credential_moves_with_its_date(days: float, status: str) -> None:
    credential = ending_in(days=days)
    moved = note_expiry()
    credential.refresh_from_db()
    assert credential.status == status
    assert [(row.pk, row.status) for row in moved] == (
        [] if status == "active" else [(credential.pk, status)]
    )
    assert note_expiry() == []


def test_it_is_told_at_each_step_on_its_way(settings: object) -> None:
    credential = ending_in(days=6)
    assert [row.status for row in note_expiry()] == ["expiring"]
    assert store.secret_for("crm")
    Credential.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    assert [row.status for row in note_expiry()] == ["expired"]
    credential.refresh_from_db()
    assert credential.status == "expired"


def test_a_credential_without_a_date_or_revoked_stays_as_it_is() -> None:
    stored("one", service="a")
    gone = stored("two", service="b", expires_at=clock.now() + timedelta(days=1))
    store.revoke(gone)
    assert note_expiry() == []
    assert set(Credential.objects.values_list("status", flat=True)) == {"active", "revoked"}


def test_an_end_that_was_put_off_is_no_news() -> None:
    credential = ending_in(days=3)
    note_expiry()
    Credential.objects.update(expires_at=clock.now() + timedelta(days=90))
    assert note_expiry() == []
    credential.refresh_from_db()
    assert credential.status == "active"


def test_of_two_sweeps_at_once_one_tells() -> None:
    credential = ending_in(days=3)
    told: list[list[Credential]] = []

    def sweep_before_the_update(execute, sql, params, many, context):  # type: ignore[no-untyped-def]
        if sql.startswith("UPDATE") and not told:
            told.append([])
            told[0] = note_expiry()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(sweep_before_the_update):
        second = note_expiry()
    assert ([row.pk for row in told[0]], second) == ([credential.pk], [])


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ({"days": 8}, ""),
        ({"days": 5, "minutes": 1}, "expires in 5 days"),
        ({"days": 1, "minutes": 1}, "expires in 1 day"),
        ({"hours": 7.1}, "expires in 7 hours"),
        ({"seconds": 20}, "expires in 1 minute"),
    ],
)
def test_staff_read_how_long_it_lasts(time: dict[str, float], said: str) -> None:
    assert remarks(ending_in(**time), clock.now()) == said


def test_staff_read_that_it_is_over_or_refused() -> None:
    credential = ending_in(minutes=-1)
    assert remarks(credential, clock.now()).startswith("expired at 20")
    credential = stored()
    assert store.mark_refused("crm", "forbidden")
    credential.refresh_from_db()
    said = remarks(credential, clock.now())
    assert said.startswith("refused by crm at 20")
    assert said.endswith("it knows us and does not allow this")


def test_a_refusal_is_noted_once_and_taken_back() -> None:
    credential = stored()
    other = stored("other", service="slack")
    assert store.mark_refused("crm", "auth")
    assert not store.mark_refused("crm", "forbidden")
    credential.refresh_from_db()
    other.refresh_from_db()
    assert (credential.refused_code, credential.status, other.refused_at) == ("auth", "active", None)
    assert store.secret_for("crm")
    assert store.mark_accepted("crm")
    assert not store.mark_accepted("crm")
    credential.refresh_from_db()
    assert (credential.refused_at, credential.refused_code) == (None, "")


def test_a_refusal_is_of_the_kind_that_calls_are_made_with(settings) -> None:  # type: ignore[no-untyped-def]
    key, secret = stored(), stored("hook", kind="webhook_secret")
    settings.CRM_AUTH = "hmac"
    store.mark_refused("crm", "auth")
    key.refresh_from_db()
    secret.refresh_from_db()
    assert (key.refused_code, secret.refused_code) == ("", "auth")


def test_a_new_secret_knows_no_refusal() -> None:
    credential = stored()
    store.mark_refused("crm", "auth")
    credential.refresh_from_db()
    credential.set_secret("another-secret")
    credential.save(update_fields=Credential.SECRET_FIELDS)
    credential.refresh_from_db()
    assert (credential.refused_at, credential.refused_code, credential.renewals) == (None, "", 2)


def test_what_is_not_told_is_told_by_the_next_sweep() -> None:
    """The status and the message are one transaction: who dies in it leaves both undone."""
    credential = ending_in(days=3)
    (found,) = ending()
    with transaction.atomic():
        assert move(found)
        transaction.set_rollback(True)  # as if the process died here
    credential.refresh_from_db()
    assert credential.status == "active"
    assert [row.status for row in note_expiry()] == ["expiring"]


def test_a_message_that_cannot_be_written_costs_no_warning() -> None:
    """The database goes away with the message of the first of two credentials."""
    for name in ("crm", "slack"):
        stored(f"secret-of-{name}", service=name, expires_at=clock.now() + timedelta(days=3))
    away: list[bool] = []

    def away_once(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("INSERT") and "notification" in sql and not away:
            away.append(True)
            raise OperationalError("the database is away")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(away_once), pytest.raises(OperationalError):
        warn_of_expiry()
    warn_of_expiry()
    warn_of_expiry()

    assert away
    assert set(Credential.objects.values_list("status", flat=True)) == {"expiring"}
    assert Notification.objects.filter(dedupe__startswith="credential:expiring:").count() == 2


def test_a_credential_whose_end_is_no_longer_known_is_active_again() -> None:
    credential = ending_in(days=3)
    note_expiry()
    Credential.objects.update(expires_at=None)
    put_off()
    credential.refresh_from_db()
    assert credential.status == "active"
