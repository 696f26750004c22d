"""Credentials in the admin: a secret goes in, and no page ever shows it."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.test import Client

from credentials import store
from credentials.models import Credential
from sopengine import clock
from tests.credentials.test_store import stored
from tests.credentials.test_upkeep import note_expiry

pytestmark = pytest.mark.django_db

CANARY = "canary-secret-4321"
LIST = "/admin/credentials/credential/"


@pytest.fixture
def staff() -> Client:
    """Return a browser in which a superuser is logged in."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("boss", "boss@example.test", "x"))
    return client


def form(**fields: str) -> dict[str, str]:
    """Return what the browser posts."""
    blank = {"label": "", "scopes": "", "expires_at_0": "", "expires_at_1": "", "new_secret": ""}
    return blank | fields


def test_a_secret_goes_in_and_takes_the_place_of_the_older_one(staff: Client) -> None:
    older = stored("older")
    answer = staff.post(f"{LIST}add/", form(service="crm", kind="api_key", new_secret=CANARY))
    assert answer.status_code == 302
    assert store.secret_for("crm") == CANARY
    older.refresh_from_db()
    assert older.status == "revoked"


def test_a_secret_is_checked_for_the_kind_that_is_chosen(staff: Client) -> None:
    for kind, stored_rows in (("api_key", 0), ("webhook_secret", 1)):
        page = staff.post(f"{LIST}add/", form(service="crm", kind=kind, new_secret="schl\u00fcssel-12345"))
        assert ("goes into a header" in page.content.decode()) is (stored_rows == 0)
        assert Credential.objects.count() == stored_rows


def test_a_new_credential_needs_a_secret(staff: Client) -> None:
    answer = staff.post(f"{LIST}add/", form(service="crm", kind="api_key"))
    assert "A new credential needs its secret." in answer.content.decode()
    assert not Credential.objects.exists()


def test_an_empty_field_keeps_the_secret_and_a_filled_one_replaces_it(staff: Client) -> None:
    credential = stored(CANARY)
    page = f"{LIST}{credential.pk}/change/"
    staff.post(page, form(label="Office"))
    assert store.secret_for("crm") == CANARY
    staff.post(page, form(label="Office", new_secret="another-secret-9876"))
    assert store.secret_for("crm") == "another-secret-9876"
    credential.refresh_from_db()
    assert (credential.label, credential.last4) == ("Office", "9876")


def test_the_service_of_a_stored_secret_is_fixed(staff: Client) -> None:
    credential = stored(CANARY)
    staff.post(f"{LIST}{credential.pk}/change/", form(service="slack", kind="smtp", label="Office"))
    credential.refresh_from_db()
    assert (credential.service, credential.kind, credential.label) == ("crm", "api_key", "Office")


def test_no_page_shows_a_secret_sealed_or_in_clear(staff: Client) -> None:
    credential = stored(CANARY)
    change = f"{LIST}{credential.pk}/change/"
    pages = [
        staff.get(LIST),
        staff.get(change),
        staff.get(f"{LIST}{credential.pk}/history/"),
        staff.post(f"{LIST}add/", form(service="not a slug", kind="api_key", new_secret=CANARY)),
        staff.post(change, form(expires_at_0="never", new_secret=CANARY), follow=True),
    ]
    shown = "".join(page.content.decode() for page in pages)
    assert [page.status_code for page in pages] == [200] * 5
    assert CANARY not in shown
    assert credential.secret not in shown
    assert "···· 4321" in shown


def test_the_log_of_changes_holds_no_secret(staff: Client) -> None:
    staff.post(f"{LIST}add/", form(service="crm", kind="api_key", new_secret=CANARY))
    credential = Credential.objects.get()
    staff.post(f"{LIST}{credential.pk}/change/", form(new_secret=CANARY + "x"))
    entries = " ".join(f"{e.object_repr} {e.change_message}" for e in LogEntry.objects.all())
    assert LogEntry.objects.count() == 2
    assert CANARY not in entries
    assert "4321" not in entries


def test_a_report_of_an_error_hides_the_posted_secret(staff: Client) -> None:
    answer = staff.post(f"{LIST}add/", form(service="", kind="api_key", new_secret=CANARY))
    assert vars(answer.wsgi_request)["sensitive_post_parameters"] == ("new_secret",)


def test_a_credential_is_revoked_not_deleted(staff: Client) -> None:
    credential = stored(CANARY)
    assert staff.post(f"{LIST}{credential.pk}/delete/", {"post": "yes"}).status_code == 403
    staff.post(LIST, {"action": "revoke", "_selected_action": [str(credential.pk)]})
    assert store.secret_for("crm") is None
    assert Credential.objects.get().status == "revoked"


def test_who_may_only_look_cannot_revoke() -> None:
    credential = stored(CANARY)
    clerk = get_user_model().objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.add(
        *clerk.user_permissions.model.objects.filter(codename="view_credential"),
    )
    client = Client()
    client.force_login(clerk)
    assert client.get(LIST).status_code == 200
    client.post(LIST, {"action": "revoke", "_selected_action": [str(credential.pk)]})
    assert store.secret_for("crm") == CANARY


def test_staff_see_what_ends_and_what_was_refused(staff: Client) -> None:
    stored(CANARY, expires_at=clock.now() + timedelta(days=5, minutes=1))
    stored(CANARY, service="slack")
    store.mark_refused("slack", "forbidden", kind="api_key")
    page = staff.get(LIST).content.decode()
    assert "expires in 5 days" in page
    assert "Expires soon" in page
    assert "refused by slack at 20" in page


def test_an_end_that_is_put_off_brings_a_credential_back(staff: Client) -> None:
    credential = stored(CANARY, expires_at=clock.now() - timedelta(days=1))
    note_expiry()
    assert store.secret_for("crm") is None
    staff.post(f"{LIST}{credential.pk}/change/", form(expires_at_0="2099-01-01", expires_at_1="12:00"))
    assert store.secret_for("crm") == CANARY


def test_an_end_that_is_put_off_brings_back_no_login_that_was_refused(staff: Client) -> None:
    credential = stored(CANARY, kind="oauth_token", status="expired")
    Credential.objects.update(refused_at=clock.now(), refused_code="reauth")
    page = f"{LIST}{credential.pk}/change/"
    staff.post(page, form(expires_at_0="2099-01-01", expires_at_1="12:00"))
    assert Credential.objects.get().status == "expired"
    staff.post(page, form(new_secret="another-token-9876"))
    assert (Credential.objects.get().status, Credential.objects.get().refused_at) == ("active", None)


def test_a_revoked_credential_stays_revoked(staff: Client) -> None:
    credential = stored(CANARY)
    store.revoke(credential)
    staff.post(f"{LIST}{credential.pk}/change/", form(new_secret="another-secret-9876"))
    assert (Credential.objects.get().status, store.secret_for("crm")) == ("revoked", None)
