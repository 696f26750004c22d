"""How calls to the CRM are signed in: by key, by token, by signature; and what a 401 is good for."""

import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from credentials import oauth, store, vault
from credentials.models import Credential
from crm.access import access_for
from crm.mock.oauth import OAuthServer, running
from crm.mock.scenario import Scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.service import open_service
from sopengine.errors import AuthError

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def bare(settings: Settings) -> Iterator[None]:
    """Run each test without a secret, and with nothing kept from the test before."""
    settings.CRM_AUTH, settings.CRM_API_KEY, settings.CRM_HMAC_SECRET = "api_key", "", ""
    store.forget()
    oauth.forget()
    vault.forget_hash_key()
    yield
    store.forget()
    oauth.forget()
    vault.forget_hash_key()


def stored(secret: str, service: str = "crm", kind: str = "api_key") -> Credential:
    """Return a stored credential."""
    credential = Credential(service=service, kind=kind)
    credential.set_secret(secret)
    store.put(credential)
    return credential


# -- by key ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "headers"),
    [
        ("Authorization: Bearer", {"Authorization": "Bearer key-1"}),
        ("Authorization:Token", {"Authorization": "Token key-1"}),
        ("X-Api-Key", {"X-Api-Key": "key-1"}),
    ],
)
def test_the_key_goes_where_the_crm_wants_it(
    settings: Settings, header: str, headers: dict[str, str]
) -> None:
    settings.CRM_API_KEY_HEADER = header
    stored("key-1")
    assert access_for().headers("GET", "/api/v1/customers", b"") == headers


@pytest.mark.parametrize(
    ("auth", "service", "said"),
    [
        ("api_key", "crm", "store one with `credential set crm`, or set CRM_API_KEY."),
        ("api_key", "south", "There is no API key for south: store one with `credential set south`."),
        ("hmac", "crm", "`credential set crm --kind webhook_secret`, or set CRM_HMAC_SECRET."),
        ("oauth", "crm", "There is no login at crm: press Connect in the admin"),
    ],
)
def test_a_secret_that_is_missing_is_told(settings: Settings, auth: str, service: str, said: str) -> None:
    settings.CRM_AUTH = auth
    access = access_for(service)
    with pytest.raises(AuthError) as caught:
        access.headers("GET", "/", b"")
    assert (caught.value.reason, caught.value.sent) == ("no_credential", "no")
    assert said in caught.value.message
    assert (access.renew(), access.fingerprint()) == (False, "")


@pytest.mark.parametrize("auth", ["api_key", "oauth", "hmac"])
def test_no_secret_is_read_before_it_is_needed(settings: Settings, auth: str) -> None:
    settings.CRM_AUTH = auth
    with CaptureQueriesContext(connection) as queries:
        access_for()
    assert len(queries) == 0


@pytest.mark.parametrize("key", ["schl\u00fcssel-12345", "k" * 8_000])
def test_a_key_that_cannot_go_into_a_header_is_told_as_one_that_cannot_be_used(key: str) -> None:
    """One that was stored before such a key was refused."""
    credential = Credential(service="crm")
    credential.set_login(key)
    store.put(credential)

    with pytest.raises(
        AuthError, match=r"API key .* cannot go into a header: .*credential set crm"
    ) as caught:
        access_for("crm").headers("GET", "/x", b"")

    assert caught.value.reason == "credential_unreadable"
    assert key not in caught.value.message


@pytest.mark.parametrize(("end", "said"), [("revoked", "was revoked"), ("expired", "has run out")])
def test_a_key_that_is_over_is_told_with_the_setting_that_does_not_stand_in(
    settings: Settings, end: str, said: str
) -> None:
    settings.CRM_API_KEY = "from-settings"
    stored("key-1")
    Credential.objects.update(status=end)
    store.forget()

    with pytest.raises(AuthError) as caught:
        access_for("crm").headers("GET", "/x", b"")

    assert caught.value.reason == "no_credential"
    assert caught.value.message == (
        f"The API key that was stored for crm {said}: store another one with `credential set crm`. "
        "CRM_API_KEY is not used instead of it."
    )


def test_a_refused_key_is_tried_again_only_when_there_is_another() -> None:
    stored("key-1")
    access = access_for()
    access.headers("GET", "/", b"")
    assert not access.renew()
    stored("key-2")
    assert access.renew()
    assert access.headers("GET", "/", b"") == {"Authorization": "Bearer key-2"}
    store.revoke(Credential.objects.get(status="active"))
    assert not access.renew()


def test_a_fingerprint_is_that_of_the_secret_in_force() -> None:
    access = access_for()
    assert access.fingerprint() == ""
    stored("key-1")
    first = access.fingerprint()
    assert "key-1" not in first
    stored("key-2")
    assert access.fingerprint() not in ("", first)
    stored("key-1")
    assert access.fingerprint() == first


def test_two_services_never_share_a_key(settings: Settings) -> None:
    settings.CRM_API_KEY = "of-crm-alone"
    stored("key-south", "south")
    assert access_for("south").headers("GET", "/", b"") == {"Authorization": "Bearer key-south"}
    assert access_for("crm").headers("GET", "/", b"") == {"Authorization": "Bearer of-crm-alone"}
    with pytest.raises(AuthError, match="for north"):
        access_for("north").headers("GET", "/", b"")
    prints = [access_for(service).fingerprint() for service in ("south", "crm", "north")]
    assert len(set(prints)) == 3


# -- by signature ------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b'{"name": "Ann"}', bytes(range(256))])
def test_a_signature_is_what_the_contract_says(settings: Settings, body: bytes) -> None:
    """Computed here from the words of docs/rest-contract.md."""
    settings.CRM_AUTH = "hmac"
    stored("geheim-\u00e4", kind="webhook_secret")
    headers = access_for().headers("POST", "/api/v1/customers?page=1", body)
    lines = [headers["X-Timestamp"], "POST", "/api/v1/customers?page=1", hashlib.sha256(body).hexdigest()]
    expected = hmac.new("geheim-\u00e4".encode(), "\n".join(lines).encode(), "sha256").hexdigest()
    assert headers == {"X-Timestamp": headers["X-Timestamp"], "X-Signature": expected}
    assert headers["X-Timestamp"].isdecimal()


@pytest.mark.parametrize("change", ["method", "target", "body", "secret"])
def test_a_signature_covers_the_whole_request(settings: Settings, change: str) -> None:
    settings.CRM_AUTH = "hmac"
    settings.CRM_HMAC_SECRET = "one"
    asked = {"method": "POST", "target": "/a?b=1", "body": b"{}"}
    before = access_for().headers(**asked)  # type: ignore[arg-type]
    if change == "secret":
        settings.CRM_HMAC_SECRET = "two"
        store.forget()
    else:
        asked[change] = {"method": "PATCH", "target": "/a?b=2", "body": b"{} "}[change]
    after = access_for().headers(**asked)  # type: ignore[arg-type]
    assert after["X-Signature"] != before["X-Signature"]


# -- by token ----------------------------------------------------------------------------------


@pytest.fixture
def server(settings: Settings) -> Iterator[OAuthServer]:
    """Return a login server, and a login there that is stored here."""
    with running(OAuthServer()) as server:
        settings.CRM_AUTH = "oauth"
        settings.CRM_OAUTH_GRANT = "authorization_code"
        settings.CRM_OAUTH_TOKEN_URL = server.token_url
        settings.CRM_OAUTH_CLIENT_ID = server.client_id
        settings.CRM_OAUTH_CLIENT_SECRET = server.client_secret
        row = Credential(service="crm", kind="oauth_token")
        row.set_login("", server.new_login())
        store.put(row)
        yield server


def bearer(headers: object) -> str:
    assert isinstance(headers, dict)
    return str(headers["Authorization"]).removeprefix("Bearer ")


def test_a_token_goes_along_as_bearer(server: OAuthServer) -> None:
    assert server.accepts(bearer(access_for().headers("GET", "/", b"")))


def test_a_refused_token_is_renewed_once(server: OAuthServer) -> None:
    first, second = access_for(), access_for()
    for access in (first, second):
        access.headers("GET", "/", b"")
    assert first.renew()
    assert second.renew()  # the other one's renewal serves it too
    assert first.headers("GET", "/", b"") == second.headers("GET", "/", b"")
    assert len(server.calls) == 2


def test_a_login_that_ended_is_told_by_the_renewal(server: OAuthServer) -> None:
    access = access_for()
    access.headers("GET", "/", b"")
    server.end_logins()
    with pytest.raises(AuthError) as caught:
        access.renew()
    assert caught.value.reason == "reauth"
    assert access.fingerprint() == ""


# -- a 401 from the CRM (row C4 of the fault matrix) -----------------------------------------------


@contextmanager
def crm_that_answers(settings: Settings, *statuses: int) -> Iterator[MockServer]:
    """Serve a mock CRM that answers so at first, and as it should from then on."""
    faults = [{"call": number, "status": status} for number, status in enumerate(statuses, 1)]
    crm = MockServer(MockState(customers=3), scenario=Scenario.model_validate({"faults": faults}))
    thread = threading.Thread(target=crm.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    settings.CRM_PROVIDER, settings.CRM_BASE_URL = "rest", crm.url
    try:
        yield crm
    finally:
        crm.shutdown()
        thread.join()
        crm.server_close()


def outcome() -> str:
    """Ask for the first page of customers; return "ok", or the code of the error."""
    try:
        open_service(guarded=False).pages()
    except AuthError as error:
        return error.reason
    return "ok"


@pytest.mark.parametrize(
    ("statuses", "told", "calls", "tokens"),
    [((401,), "ok", 2, 2), ((401, 401), "auth", 2, 2), ((403,), "forbidden", 1, 1)],
)
def test_a_refused_login_costs_one_more_call_at_most(
    server: OAuthServer, settings: Settings, statuses: tuple[int, ...], told: str, calls: int, tokens: int
) -> None:
    with crm_that_answers(settings, *statuses) as crm:
        assert outcome() == told
        assert (len(crm.journal.entries()), len(server.calls)) == (calls, tokens)


@pytest.mark.parametrize(("auth", "kind"), [("api_key", "api_key"), ("hmac", "webhook_secret")])
@pytest.mark.parametrize(("status", "told"), [(401, "auth"), (403, "forbidden")])
def test_a_refused_key_is_not_tried_again(
    settings: Settings, auth: str, kind: str, status: int, told: str
) -> None:
    settings.CRM_AUTH = auth
    stored("key-1", kind=kind)
    with crm_that_answers(settings, status) as crm:
        assert outcome() == told
        assert len(crm.journal.entries()) == 1
