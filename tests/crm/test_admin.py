"""The page of the CRM connection: what it says, and who may hold and release the line."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from crm import health
from crm.models import Health
from sopengine.errors import AuthError, RateLimited, Transient

pytestmark = pytest.mark.django_db

PAGE = "/admin/crm/health/"
HOLD, RELEASE = f"{PAGE}crm/hold/", f"{PAGE}crm/release/"


def browser(*permissions: str) -> Client:
    """Return a browser in which Ana of the staff is logged in, who has these permissions."""
    ana = User.objects.create_user("ana", first_name="Ana", last_name="Ames", is_staff=True)
    ana.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(ana)
    return client


def page(client: Client) -> str:
    """Return what the page says."""
    answer = client.get(PAGE)
    assert answer.status_code == 200
    return answer.content.decode()


def silent() -> None:
    health.used_up("crm", "timeout")


def pausing() -> None:
    health.failed("crm", RateLimited(retry_after=90))


def refused() -> None:
    health.failed("crm", AuthError(code="auth"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: None, "The CRM answers."),
        (silent, "The CRM does not answer, next try "),
        (pausing, "The CRM asked for a pause until "),
        (refused, "The CRM refuses our login."),
        (
            lambda: health.hold("crm", "Ana Ames", "they move servers"),
            "The CRM is held by Ana Ames since ",
        ),
    ],
)
def test_the_page_says_how_the_line_stands(change: Callable[[], None], says: str) -> None:
    change()
    assert says in page(browser("view_health"))


def test_the_page_tells_the_last_answer_the_last_failure_and_what_is_left() -> None:
    health.worked("crm", rate_left=41)
    health.failed("crm", Transient(code="timeout"))
    text = page(browser("view_health"))
    assert "it did not answer in time" in text
    assert "<dd>41</dd>" in text
    assert "none yet" not in text


def test_the_page_says_mock_while_the_mock_is_on(settings: Any) -> None:
    client = browser("view_health")
    assert "<strong>mock</strong>" in page(client)
    settings.CRM_PROVIDER, settings.CRM_BASE_URL = "rest", "https://crm.example.test/v1"
    text = page(client)
    assert "<strong>mock</strong>" not in text
    assert "rest at crm.example.test" in text


def test_who_may_holds_the_line_with_a_reason_and_releases_it() -> None:
    client = browser("hold_crm")
    answer = client.post(HOLD, {"note": "they move <servers>"}, follow=True)
    text = answer.content.decode()
    assert "held by Ana Ames since" in text
    assert "they move &lt;servers&gt;" in text
    assert (health.standing().state, health.standing().note) == ("held", "they move <servers>")

    assert "slowly at first" in client.post(RELEASE, follow=True).content.decode()
    assert (health.standing().state, health.standing().by) == ("answers", "Ana Ames")
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == ["held", "released"]


def test_a_line_that_does_not_answer_can_be_released_too() -> None:
    silent()
    browser("hold_crm").post(RELEASE)
    assert health.standing().may_call


def test_a_hold_without_a_reason_is_asked_for_one() -> None:
    answer = browser("hold_crm").post(HOLD, {"note": " "})
    assert answer.status_code == 200
    assert "This field is required" in answer.content.decode()
    assert health.standing().may_call


def test_what_was_done_meanwhile_is_said() -> None:
    client = browser("hold_crm")
    assert "nothing to release" in client.post(RELEASE, follow=True).content.decode()
    health.hold("crm", "Bo")
    assert "held already" in client.post(HOLD, {"note": "why"}, follow=True).content.decode()
    assert health.standing().by == "Bo"


@pytest.mark.parametrize("address", [HOLD, RELEASE])
def test_nothing_is_changed_by_looking_or_without_the_right(address: str) -> None:
    silent()
    assert browser("hold_crm").get(address).status_code == 405
    User.objects.all().delete()
    looker = browser("view_health")
    assert looker.post(address, {"note": "why"}).status_code == 403
    assert "You may look, but not hold it." in page(looker)
    User.objects.all().delete()
    assert browser().get(PAGE).status_code == 403
    assert Client().post(address).status_code == 302
    assert (health.standing().state, health.standing().generation) == ("silent", 1)


def test_the_buttons_need_the_token_of_the_page() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("boss"))
    assert client.post(HOLD, {"note": "why"}).status_code == 403
    assert health.standing().may_call


def test_a_line_that_there_is_not_is_not_found() -> None:
    assert browser("hold_crm").post(f"{PAGE}unknown/hold/", {"note": "why"}).status_code == 404
    assert not Health.objects.exists()


def test_the_rows_are_the_machines_to_write() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    silent()
    request = client.get(PAGE).wsgi_request
    shown = admin.site._registry[Health]
    assert not shown.has_add_permission(request)
    assert not shown.has_change_permission(request)
    assert not shown.has_delete_permission(request)
    assert client.get(f"{PAGE}add/").status_code == 403
    assert client.get(f"{PAGE}crm/change/").status_code == 302
    assert client.get(f"{PAGE}crm/delete/").status_code == 403


def test_every_line_that_was_ever_called_is_shown() -> None:
    health.hold("second", "Bo", "not yet")
    text = page(browser("hold_crm"))
    assert "is held by Bo" in text
    assert "The CRM answers." in text
    assert text.count('id="id_crm_note"') == 1
