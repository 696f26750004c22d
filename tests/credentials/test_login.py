"""The button Connect: out to the other system with a state, back with a code, once and in one browser."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.messages import get_messages
from django.db import connection
from django.db.models.signals import pre_save
from django.test import Client
from pytest_django import Settings

from credentials import oauth, store
from credentials.models import Credential, LoginAttempt
from crm.mock.oauth import OAuthServer, running
from sopengine import clock
from tests.credentials.test_oauth import lead_to, refresh_token_of, stored_login
from tests.credentials.test_store import stored

pytestmark = pytest.mark.django_db

LIST = "/admin/credentials/credential/"
CONNECT = f"{LIST}connect/"


@pytest.fixture
def server(settings: Settings) -> Iterator[OAuthServer]:
    """Return a login server that the settings lead to."""
    with running(OAuthServer()) as server:
        lead_to(server, settings)
        yield server


def browser(name: str = "boss") -> Client:
    """Return a browser in which a superuser is logged in."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser(name, f"{name}@example.test", "x"))
    return client


def sent_out(client: Client, page: str = CONNECT) -> str:
    """Press Connect; return the address at the other system."""
    answer = client.get(page)
    assert answer.status_code == 302, answer.content
    return str(answer["Location"])


def sent_back(address: str) -> str:
    """Log in at the other system; return the address that it sends the browser to."""
    answer = requests.get(address, allow_redirects=False, timeout=5)
    assert answer.status_code == 302, answer.text
    back = urlsplit(answer.headers["Location"])
    assert back.path == "/oauth/callback"
    return f"{back.path}?{back.query}"


def told(client: Client, address: str) -> str:
    """Go to an address; return what the page says afterwards."""
    answer = client.get(address)
    assert answer.status_code == 302
    assert "code=" not in answer["Location"]
    assert "no-store" in answer["Cache-Control"]
    return " ".join(str(message) for message in get_messages(answer.wsgi_request))


def test_a_person_connects_and_the_engine_has_a_login(server: OAuthServer) -> None:
    boss = browser()
    address = sent_out(boss)
    asked = dict(parse_qsl(urlsplit(address).query))
    assert asked["redirect_uri"] == "http://127.0.0.1:8000/oauth/callback"
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert len(asked["state"]) >= 43
    assert "scope" not in asked
    assert told(boss, sent_back(address)) == "Connected: the engine is logged in at crm."
    assert server.accepts(oauth.token("crm"))
    assert [call.grant for call in server.calls] == ["authorization_code"]
    row = Credential.objects.get()
    assert (row.service, row.kind, row.status) == ("crm", "oauth_token", "active")
    assert refresh_token_of(row).startswith("refresh-")
    assert LogEntry.objects.get().change_message == "connected"
    assert not LoginAttempt.objects.exists()


def test_what_the_settings_ask_for_goes_along(server: OAuthServer, settings: Settings) -> None:
    settings.CRM_OAUTH_AUTHORIZE_URL += "?access_type=offline&prompt=consent"
    settings.CRM_OAUTH_SCOPES = "crm.read,crm.write"
    asked = dict(parse_qsl(urlsplit(sent_out(browser())).query))
    assert (asked["access_type"], asked["prompt"], asked["scope"]) == (
        "offline",
        "consent",
        "crm.read,crm.write",
    )


def test_connecting_again_takes_the_place_of_a_login_that_ended(server: OAuthServer) -> None:
    row = stored_login("gone", status="expired")
    boss = browser()
    address = sent_out(boss, f"{LIST}{row.pk}/connect/")
    told(boss, sent_back(address))
    assert server.accepts(oauth.token("crm"))


def test_a_state_counts_once(server: OAuthServer) -> None:
    boss = browser()
    back = sent_back(sent_out(boss))
    assert "Connected" in told(boss, back)
    assert "was used already" in told(boss, back)
    assert len(server.calls) == 1


def test_a_state_is_spent_by_an_answer_that_failed(server: OAuthServer) -> None:
    boss = browser()
    back = sent_back(sent_out(boss))
    server.answer_next(500, "{}")
    assert told(boss, back) == "crm login failed (500) Nothing was stored."
    assert "was used already" in told(boss, back)
    assert not Credential.objects.exists()


def test_of_two_answers_at_once_one_counts(server: OAuthServer) -> None:
    """Both have found the attempt before either has spent it."""
    boss = browser()
    back = sent_back(sent_out(boss))
    other: list[str] = []

    def come_back_before_it_is_spent(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("DELETE") and "loginattempt" in sql and not other:
            other.append("")
            other[0] = told(boss, back)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(come_back_before_it_is_spent):
        said = told(boss, back)
    assert ("Connected" in other[0], "was used already" in said, len(server.calls)) == (True, True, 1)


def test_an_answer_in_another_browser_counts_for_nothing(server: OAuthServer) -> None:
    boss, thief = browser(), browser("thief")
    sent_out(thief)  # the thief has a login of his own under way
    back = sent_back(sent_out(boss))
    assert "was begun in another browser" in told(thief, back)
    assert server.calls == []
    assert "Connected" in told(boss, back)


def test_an_attempt_is_over_after_ten_minutes(server: OAuthServer) -> None:
    boss = browser()
    back = sent_back(sent_out(boss))
    LoginAttempt.objects.update(until=clock.now())
    assert "older than ten minutes" in told(boss, back)
    sent_out(boss)
    assert LoginAttempt.objects.count() == 1


@pytest.mark.parametrize("query", ["", "code=x", "state=&code=x", "state=%00&code=x", "state=" + "x" * 5000])
def test_an_answer_that_nobody_asked_for_is_refused(server: OAuthServer, query: str) -> None:
    boss = browser()
    sent_out(boss)
    assert "press Connect again" in told(boss, f"/oauth/callback?{query}")
    assert server.calls == []


def test_a_login_that_the_person_refused_is_told(server: OAuthServer) -> None:
    server.denies = True
    boss = browser()
    said = told(boss, sent_back(sent_out(boss)))
    assert said == "crm did not let us in (access_denied). Nothing was stored."


def test_foreign_words_are_not_repeated(server: OAuthServer) -> None:
    boss = browser()
    state = dict(parse_qsl(urlsplit(sent_out(boss)).query))["state"]
    said = told(boss, f"/oauth/callback?state={state}&error=<b>call+0900+123</b>&error_description=pay")
    assert said == "crm did not let us in (without a reason that we know). Nothing was stored."


def test_a_code_that_is_refused_is_told(server: OAuthServer) -> None:
    boss = browser()
    back = sent_back(sent_out(boss))
    server.answer_next(200, json.dumps({"error": "invalid_code"}))
    assert "did not accept the login (invalid_code)" in told(boss, back)
    assert not Credential.objects.exists()


def test_a_code_is_worth_nothing_without_its_verifier(server: OAuthServer) -> None:
    """Whoever reads the code on its way cannot use it."""
    code = dict(parse_qsl(urlsplit(sent_back(sent_out(browser()))).query))["code"]
    form = {"client_id": server.client_id, "client_secret": server.client_secret, "code": code}
    form |= {"grant_type": "authorization_code", "redirect_uri": "http://127.0.0.1:8000/oauth/callback"}
    answer = requests.post(server.token_url, data={**form, "code_verifier": "x" * 43}, timeout=5)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})


def test_a_setting_that_is_missing_is_told(server: OAuthServer, settings: Settings) -> None:
    settings.CRM_OAUTH_AUTHORIZE_URL = ""
    answer = browser().get(CONNECT, follow=True)
    assert "expected a value for CRM_OAUTH_AUTHORIZE_URL" in answer.content.decode()


def test_who_may_not_change_credentials_cannot_connect(server: OAuthServer) -> None:
    clerk = get_user_model().objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.add(*clerk.user_permissions.model.objects.filter(codename="view_credential"))
    client = Client()
    client.force_login(clerk)
    assert client.get(CONNECT).status_code == 403
    page = client.get(LIST).content.decode()
    assert (CONNECT in page, "Log in here first" in told(client, "/oauth/callback?state=x&code=y")) == (
        False,
        True,
    )
    assert Client().get("/oauth/callback?state=x&code=y")["Location"] == "/admin/"


@pytest.mark.parametrize("which", ["garbage", "8d0f2a52-6f4f-4b57-9c0a-2f1f5f6f9b11", "a-key"])
def test_only_a_login_can_be_connected_again(server: OAuthServer, which: str) -> None:
    if which == "a-key":
        which = str(stored("key-1").pk)
    assert browser().get(f"{LIST}{which}/connect/").status_code == 403


def test_the_callback_takes_no_post(server: OAuthServer) -> None:
    assert browser().post("/oauth/callback").status_code == 405


@pytest.mark.parametrize(
    ("auth", "grant"), [("api_key", "authorization_code"), ("oauth", "client_credentials")]
)
def test_the_button_is_there_only_where_a_person_logs_in(
    server: OAuthServer, settings: Settings, auth: str, grant: str
) -> None:
    row, boss = stored_login("x"), browser()
    pages = (LIST, f"{LIST}{row.pk}/change/")
    assert all("connect" in boss.get(page).content.decode() for page in pages)
    settings.CRM_AUTH, settings.CRM_OAUTH_GRANT = auth, grant
    assert not any("/connect" in boss.get(page).content.decode() for page in pages)
    assert boss.get(CONNECT).status_code == 403


def test_no_page_shows_a_token_sealed_or_in_clear(server: OAuthServer) -> None:
    boss = browser()
    told(boss, sent_back(sent_out(boss)))
    row = Credential.objects.get()
    secrets = [store.secret_of(row), refresh_token_of(row), row.secret, str(row.refresh_token)]
    pages = [LIST, f"{LIST}{row.pk}/change/", f"{LIST}{row.pk}/history/"]
    shown = (
        "".join(boss.get(page).content.decode() for page in pages) + f"{row!r} {vars(LogEntry.objects.get())}"
    )
    assert not any(secret in shown for secret in secrets)


def test_saving_a_page_keeps_a_token_that_was_renewed_meanwhile(server: OAuthServer) -> None:
    """The page was read before the renewal; what it does not show, it must not write."""
    row = stored_login(server.new_login())
    boss = browser()
    access = oauth.token("crm")
    stale = Credential.objects.get()
    renewed = oauth.token("crm", not_this=access)
    spent: list[bool] = []

    def put_back(sender: type, instance: Credential, **_more: object) -> None:
        if not spent:
            spent.append(True)
            for name in ("secret", "refresh_token", "renewals"):
                setattr(instance, name, getattr(stale, name))

    from_page = {"label": "Office", "scopes": "", "expires_at_0": "", "expires_at_1": "", "new_secret": ""}
    pre_save.connect(put_back, sender=Credential)
    try:
        boss.post(f"{LIST}{row.pk}/change/", from_page)
    finally:
        pre_save.disconnect(put_back, sender=Credential)
    row.refresh_from_db()
    assert (spent, row.label, store.secret_of(row)) == ([True], "Office", renewed)
    assert server.accepts(oauth.token("crm", not_this=renewed))
