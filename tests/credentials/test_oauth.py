"""The access token of a service: one call when it is needed, and what each answer means."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from credentials import oauth, store, vault
from credentials.models import Credential
from credentials.upkeep import put_off
from crm.breaker import Says, says
from crm.mock.oauth import OAuthServer, running
from sopengine import clock
from sopengine.errors import AuthError, RateLimited, StepError, Transient
from tests.credentials.conftest import entry
from tests.servers import free_port

pytestmark = pytest.mark.django_db


@pytest.fixture
def server(settings: Settings) -> Iterator[OAuthServer]:
    """Return a login server that the settings lead to."""
    with running(OAuthServer()) as server:
        lead_to(server, settings)
        yield server


def lead_to(server: OAuthServer, settings: Settings) -> None:
    """Let the settings name this server."""
    settings.CRM_AUTH = "oauth"
    settings.CRM_OAUTH_GRANT = "authorization_code"
    settings.CRM_OAUTH_AUTHORIZE_URL = server.authorize_url
    settings.CRM_OAUTH_TOKEN_URL = server.token_url
    settings.CRM_OAUTH_CLIENT_ID = server.client_id
    settings.CRM_OAUTH_CLIENT_SECRET = server.client_secret
    settings.CRM_OAUTH_SCOPES = ""


def stored_login(refresh: str, service: str = "crm", **fields: Any) -> Credential:
    """Return a stored login of which only the refresh token is there."""
    row = Credential(service=service, kind=Credential.Kind.OAUTH_TOKEN, **fields)
    row.set_login("", refresh)
    store.put(row)
    return row


def refresh_token_of(row: Credential) -> str:
    row.refresh_from_db()
    assert row.refresh_token
    place = {"table": "credentials_credential", "row": str(row.pk), "field": "refresh_token"}
    return str(vault.unseal(row.refresh_token, **place))


def refused(error: type[StepError], code: str, **asked: Any) -> StepError:
    """Return the error of a token that cannot be had; the CRM was not called, so nothing was sent."""
    with pytest.raises(error) as caught:
        oauth.token("crm", **asked)
    assert (type(caught.value), caught.value.reason, caught.value.sent) == (error, code, "no")
    return caught.value


# -- when it is asked for ----------------------------------------------------------------------


def test_a_token_is_fetched_once_and_kept(server: OAuthServer) -> None:
    row = stored_login(server.new_login())
    first = oauth.token("crm")
    assert server.accepts(first)
    assert [oauth.token("crm") for _ in range(3)] == [first] * 3
    assert len(server.calls) == 1
    row.refresh_from_db()
    assert row.renew_at
    assert 3500 < (row.renew_at - clock.now()).total_seconds() <= 3540
    assert (row.last4, row.refresh_until, row.refreshed_at is not None) == (first[-4:], None, True)


def test_a_token_is_renewed_a_minute_before_its_end(server: OAuthServer) -> None:
    row = stored_login(server.new_login())
    first = oauth.token("crm")
    Credential.objects.filter(pk=row.pk).update(renew_at=clock.now() + timedelta(seconds=1))
    assert oauth.token("crm") == first
    Credential.objects.filter(pk=row.pk).update(renew_at=clock.now())
    second = oauth.token("crm")
    assert second != first
    assert (server.accepts(second), len(server.calls)) == (True, 2)


def test_a_refused_token_is_renewed_only_while_it_is_the_stored_one(server: OAuthServer) -> None:
    stored_login(server.new_login())
    first = oauth.token("crm")
    second = oauth.token("crm", not_this=first)
    assert second != first
    assert oauth.token("crm", not_this=first) == second
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("life", "seconds"),
    [(None, None), ("7200", 7140), (40, 20), (-5, None), (True, None), ([], None), (1e300, 315_359_940)],
)
def test_the_life_of_a_token_may_be_anything(server: OAuthServer, life: Any, seconds: float | None) -> None:
    server.life = life
    row = stored_login(server.new_login())
    before = clock.now()
    oauth.token("crm")
    row.refresh_from_db()
    if seconds is None:
        assert row.renew_at is None
    else:
        assert row.renew_at
        assert abs((row.renew_at - before).total_seconds() - seconds) < 5


# -- refresh tokens ----------------------------------------------------------------------------


def test_a_rotated_refresh_token_is_stored_at_once(server: OAuthServer) -> None:
    first = server.new_login()
    row = stored_login(first)
    access = oauth.token("crm")
    second = refresh_token_of(row)
    assert second != first
    for _ in range(3):
        access = oauth.token("crm", not_this=access)
    assert server.accepts(access)
    assert refresh_token_of(row) not in (first, second)
    row.refresh_from_db()
    assert row.renewals == 5  # four times, and the row itself


def test_an_answer_without_a_refresh_token_keeps_the_old_one(server: OAuthServer) -> None:
    server.rotate = False
    refresh = server.new_login()
    row = stored_login(refresh)
    access = oauth.token("crm")
    assert refresh_token_of(row) == refresh
    assert server.accepts(oauth.token("crm", not_this=access))


def test_a_new_refresh_token_without_an_end_has_none(server: OAuthServer) -> None:
    """The end that was known is that of the token before: nobody has to log in again for it."""
    row = stored_login(server.new_login(), expires_at=clock.now() + timedelta(days=3), status="expiring")
    oauth.token("crm")
    put_off()  # as the sweep does
    row.refresh_from_db()
    assert (row.expires_at, row.status) == (None, "active")


def test_the_same_refresh_token_keeps_its_end(server: OAuthServer) -> None:
    server.rotate = False
    end = clock.now() + timedelta(days=3)
    row = stored_login(server.new_login(), expires_at=end)
    oauth.token("crm")
    row.refresh_from_db()
    assert row.expires_at == end


def test_a_refresh_token_that_is_refused_ends_the_login(
    server: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    row = stored_login(server.new_login())
    access = oauth.token("crm")
    server.end_logins()
    error = refused(AuthError, "reauth", not_this=access)
    assert "press Connect" in error.message
    row.refresh_from_db()
    assert (row.status, row.refused_code, row.refresh_until) == ("expired", "reauth", None)
    assert row.refused_at
    assert "press Connect" in refused(AuthError, "reauth").message
    assert len(server.calls) == 2  # nobody asks again
    assert access not in caplog.text + error.message


@pytest.mark.parametrize("word", ["invalid_grant", "invalid_code", "invalid_token"])
def test_an_error_is_known_by_its_body_even_with_status_200(server: OAuthServer, word: str) -> None:
    row = stored_login(server.new_login())
    server.answer_next(200, json.dumps({"error": word}))
    refused(AuthError, "reauth")
    row.refresh_from_db()
    assert row.status == "expired"


def test_a_token_without_a_refresh_token_ends_with_its_life(server: OAuthServer) -> None:
    row = Credential(service="crm", kind="oauth_token")
    row.set_secret("pasted-by-hand")
    store.put(row)
    assert oauth.token("crm") == "pasted-by-hand"
    refused(AuthError, "reauth", not_this="pasted-by-hand")
    assert server.calls == []
    row.refresh_from_db()
    assert row.status == "expired"


def test_a_newer_login_wins_over_one_that_is_refused_meanwhile(server: OAuthServer) -> None:
    """Another process stored a new refresh token while ours was being refused: nothing ends."""
    row = stored_login("spent-meanwhile")
    place = {"table": "credentials_credential", "row": str(row.pk)}
    fresh = vault.seal(server.new_login(), field="refresh_token", **place)
    changed: list[bool] = []

    def change_before_the_end(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "expired" in params and not changed:
            changed.append(True)
            Credential.objects.filter(pk=row.pk).update(
                refresh_token=fresh, renewals=row.renewals + 1, refresh_until=None
            )
        return execute(sql, params, many, context)

    with connection.execute_wrapper(change_before_the_end):
        assert server.accepts(oauth.token("crm"))
    assert changed
    row.refresh_from_db()
    assert (row.status, [call.said for call in server.calls]) == ("active", ["invalid_grant", ""])


def test_an_answer_that_comes_late_overwrites_nothing_newer(server: OAuthServer) -> None:
    """A person connected anew while our call was under way: the new login is the one that counts."""
    stored_login(server.new_login())
    other = server.new_login()
    done: list[bool] = []

    def connect_before_storing(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if 'SET "secret" = ' in sql and not done:
            done.append(True)
            stored_login(other)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(connect_before_storing):
        assert server.accepts(oauth.token("crm"))
    assert done
    assert sorted(Credential.objects.values_list("status", flat=True)) == ["active", "revoked"]
    assert len(server.calls) == 2


# -- the lease ---------------------------------------------------------------------------------


def leased(row: Credential, seconds: float) -> None:
    """Let another process hold the lease for so long."""
    until = oauth._database_time(seconds)
    Credential.objects.filter(pk=row.pk).update(refresh_until=until)


def test_a_process_that_holds_the_lease_is_waited_for(server: OAuthServer, settings: Settings) -> None:
    settings.ENGINE_CALL_TIMEOUT = 0.3
    row = stored_login(server.new_login())
    leased(row, 30)
    refused(Transient, "renewing")
    assert server.calls == []


def test_a_lease_that_ran_out_is_taken_over(server: OAuthServer) -> None:
    row = stored_login(server.new_login())
    leased(row, 0.3)
    assert server.accepts(oauth.token("crm"))


def test_a_wait_ends_with_the_deadline_of_the_step(server: OAuthServer) -> None:
    class Soon:
        def remaining(self) -> float:
            return 0.0

        def check(self) -> None:
            raise AssertionError("the call is not reached")

    leased(stored_login(server.new_login()), 30)
    started = clock.monotonic()
    refused(Transient, "renewing", deadline=Soon())
    assert clock.monotonic() - started < 1


@pytest.mark.django_db(transaction=True)
def test_a_call_within_an_open_transaction_is_refused(server: OAuthServer) -> None:
    stored_login(server.new_login())
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        oauth.token("crm")
    assert server.calls == []


@pytest.mark.django_db(transaction=True)
def test_sixteen_threads_make_one_call(server: OAuthServer) -> None:
    stored_login(server.new_login())
    server.latency = 0.2
    start = threading.Barrier(16)
    tokens: list[str] = []

    def work() -> None:
        start.wait()
        tokens.append(oauth.token("crm"))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(tokens), len(set(tokens)), len(server.calls)) == (16, 1, 1)


# -- what goes wrong at the endpoint -------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (400, {"error": "invalid_client"}, AuthError, "auth"),
        (401, {"error": "invalid_client"}, AuthError, "auth"),
        (200, {"error": "invalid_client_secret"}, AuthError, "auth"),
        (400, {"error": "invalid_scope"}, AuthError, "auth"),
        (400, {"error": "Access Denied", "status": "failure"}, RateLimited, "rate_limited"),
        (400, {"error": "temporarily_unavailable"}, Transient, "temporarily_unavailable"),
        (200, {"error": "something of their own"}, AuthError, "auth"),
        (200, {}, AuthError, "auth"),
        (200, [], AuthError, "auth"),
        (200, {"access_token": ""}, AuthError, "auth"),
        (200, {"access_token": 5}, Transient, "no_token"),
        (200, {"access_token": "two\nlines"}, Transient, "no_token"),
        (200, {"access_token": "x" * 9_000}, Transient, "no_token"),
        (200, {"access_token": "good", "refresh_token": ["x"]}, Transient, "no_token"),
        (429, {}, RateLimited, "rate_limited"),
        (500, {}, Transient, "http_500"),
        (302, {}, AuthError, "auth"),
        (404, {}, AuthError, "auth"),
        (405, {}, AuthError, "auth"),
    ],
)
def test_each_answer_of_the_endpoint_has_its_end(
    server: OAuthServer, status: int, body: Any, error: type[StepError], code: str
) -> None:
    row = stored_login(server.new_login())
    server.answer_next(status, json.dumps(body))
    said = refused(error, code)
    assert "something of their own" not in said.message
    row.refresh_from_db()
    assert row.status == "active"
    assert row.refused_code == ("auth" if error is AuthError else "")
    leased(row, 0)
    assert server.accepts(oauth.token("crm"))  # the refresh token was kept
    row.refresh_from_db()
    assert (row.refused_at, row.refused_code) == (None, "")


def test_a_page_for_people_instead_of_a_token_is_tried_again_later(server: OAuthServer) -> None:
    """No run can do anything about it: it is held, as with any server that is not well."""
    row = stored_login(server.new_login())
    server.answer_next(200, "<html>down</html>", "text/html")
    error = refused(Transient, "no_token")
    assert says(error) is Says.DOWN
    leased(row, 0)
    assert server.accepts(oauth.token("crm"))


def test_a_token_endpoint_that_is_not_there_is_a_setting_to_look_at(server: OAuthServer) -> None:
    stored_login(server.new_login())
    server.answer_next(404, "{}")
    error = refused(AuthError, "auth")
    assert "CRM_OAUTH_TOKEN_URL" in error.message
    assert says(error) is Says.LOGIN


def test_an_endpoint_that_is_away_is_tried_again_later(server: OAuthServer, settings: Settings) -> None:
    row = stored_login(server.new_login())
    settings.CRM_OAUTH_TOKEN_URL = f"http://127.0.0.1:{free_port()}/token"
    refused(Transient, "unreachable")
    row.refresh_from_db()
    assert row.refresh_until
    assert 0 < (row.refresh_until - clock.now()).total_seconds() <= 2


def test_a_slow_endpoint_counts_as_not_sent(server: OAuthServer, settings: Settings) -> None:
    """What was sent went to the endpoint; the CRM was not called, so the step may be done again freely."""
    stored_login(server.new_login())
    settings.ENGINE_CALL_TIMEOUT = 0.2
    server.latency = 0.6
    refused(Transient, "timeout")


@pytest.mark.parametrize("name", ["CRM_OAUTH_TOKEN_URL", "CRM_OAUTH_CLIENT_ID"])
def test_a_setting_that_is_missing_is_named(server: OAuthServer, settings: Settings, name: str) -> None:
    stored_login(server.new_login())
    setattr(settings, name, "")
    assert name in refused(AuthError, "no_credential").message


def test_without_any_login_the_sentence_says_what_to_do(server: OAuthServer) -> None:
    assert "press Connect in the admin" in refused(AuthError, "no_credential").message


def test_a_login_that_cannot_be_opened_says_which_key_is_missing(server: OAuthServer, ring: Settings) -> None:
    stored_login(server.new_login())
    ring.VAULT_KEYS = [entry("k2", 2)]
    assert "add k1:" in refused(AuthError, "credential_unreadable").message


def test_a_revoked_login_is_not_used(server: OAuthServer) -> None:
    row = stored_login(server.new_login())
    oauth.token("crm")
    store.revoke(row)
    refused(AuthError, "no_credential")


# -- client credentials ------------------------------------------------------------------------


def test_a_client_secret_is_enough_for_its_grant(server: OAuthServer, settings: Settings) -> None:
    settings.CRM_OAUTH_GRANT = "client_credentials"
    first = oauth.token("crm")
    second = oauth.token("crm", not_this=first)
    assert server.accepts(second)
    assert [call.grant for call in server.calls] == ["client_credentials"] * 2
    row = Credential.objects.get()
    assert (row.service, row.kind, row.refresh_token, row.expires_at) == ("crm", "oauth_token", None, None)


def test_a_stored_client_secret_goes_before_the_setting(server: OAuthServer, settings: Settings) -> None:
    settings.CRM_OAUTH_GRANT = "client_credentials"
    settings.CRM_OAUTH_CLIENT_SECRET = "wrong"
    row = Credential(service="crm-client")
    row.set_secret(server.client_secret)
    store.put(row)
    assert server.accepts(oauth.token("crm"))


def test_without_a_client_secret_nobody_is_called(server: OAuthServer, settings: Settings) -> None:
    settings.CRM_OAUTH_GRANT = "client_credentials"
    settings.CRM_OAUTH_CLIENT_SECRET = ""
    assert "credential set crm-client" in refused(AuthError, "no_credential").message
    assert server.calls == []


def test_a_client_secret_that_was_revoked_is_not_replaced_by_the_setting(
    server: OAuthServer, settings: Settings
) -> None:
    settings.CRM_OAUTH_GRANT = "client_credentials"
    row = Credential(service="crm-client")
    row.set_secret(server.client_secret)
    store.put(row)
    store.revoke(row)
    assert "CRM_OAUTH_CLIENT_SECRET is not used" in refused(AuthError, "no_credential").message
    assert server.calls == []


def test_a_client_that_is_refused_ends_no_login(server: OAuthServer, settings: Settings) -> None:
    settings.CRM_OAUTH_GRANT = "client_credentials"
    server.answer_next(400, json.dumps({"error": "invalid_grant"}))
    refused(AuthError, "auth")
    assert Credential.objects.get().status == "active"


def test_after_a_revocation_the_next_token_has_a_row_of_its_own(
    server: OAuthServer, settings: Settings
) -> None:
    settings.CRM_OAUTH_GRANT = "client_credentials"
    first = oauth.token("crm")
    store.revoke(Credential.objects.get())
    assert oauth.token("crm") != first
    assert sorted(Credential.objects.values_list("status", flat=True)) == ["active", "revoked"]


# -- services ----------------------------------------------------------------------------------


def test_two_services_of_one_product_never_mix(server: OAuthServer, settings: Settings) -> None:
    settings.CRM_OAUTH_CLIENT_SECRET = ""
    for service in ("north", "south"):
        client = Credential(service=f"{service}-client")
        client.set_secret(server.client_secret)
        store.put(client)
    north, south = (stored_login(server.new_login(), service) for service in ("north", "south"))
    leased(south, 0.3)  # a lease of one is none of the other
    tokens = {service: oauth.token(service) for service in ("north", "south")}
    assert len(set(tokens.values())) == 2
    assert oauth.fingerprint("north") != oauth.fingerprint("south")
    assert oauth.token("north", not_this=tokens["south"]) == tokens["north"]
    store.mark_refused("north", "forbidden")
    server.answer_next(400, json.dumps({"error": "invalid_grant"}))
    with pytest.raises(AuthError):
        oauth.token("north", not_this=tokens["north"])
    assert oauth.token("south") == tokens["south"]
    south.refresh_from_db()
    north.refresh_from_db()
    assert (south.status, south.refused_at, north.status) == ("active", None, "expired")


def test_a_fingerprint_changes_with_the_login_and_with_the_client(
    server: OAuthServer, settings: Settings
) -> None:
    assert oauth.fingerprint("crm") == ""
    stored_login(server.new_login())
    before = oauth.fingerprint("crm")
    assert before
    assert oauth.fingerprint("crm") == before
    settings.CRM_OAUTH_CLIENT_SECRET = "another"
    store.forget()
    after = oauth.fingerprint("crm")
    stored_login(server.new_login())
    assert len({before, after, oauth.fingerprint("crm"), ""}) == 4
    settings.CRM_OAUTH_GRANT = "client_credentials"
    Credential.objects.all().delete()
    assert oauth.fingerprint("crm")
    assert server.calls == []
