"""The calls to a token endpoint (OAuth 2, RFC 6749), and what their answers mean.

Where and who we are there is in settings.CRM_OAUTH_*; the client secret is a credential of the
service's client (`store.client_of`), else CRM_OAUTH_CLIENT_SECRET. It travels in the form.

An answer is judged by its access token, not by its status: some servers send an error with 200.
An error here says `sent` "no": whatever happened at the token endpoint, the call that needed the
token was not made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings

from credentials.store import client_of, secret_for, unused_setting
from sopengine.errors import AuthError, DataError, Permanent, RateLimited, StepError, Transient
from sopengine.http import Client, Deadline

CODE, REFRESH, CLIENT = "authorization_code", "refresh_token", "client_credentials"
LONGEST_TOKEN = 8_000  # characters: it must fit into a header
LONGEST_LIFE = 10 * 365 * 86_400.0  # seconds
PAUSE_AFTER_TOO_MANY = 900.0  # seconds; who refuses so gives no time

# What the endpoint may say instead of a token, in its own words.
_LOGIN_OVER = {"invalid_grant", "invalid_code", "invalid_token", "invalid_refresh_token"}
_CLIENT_WRONG = {"invalid_client", "invalid_client_secret", "unauthorized_client"} | _LOGIN_OVER
_FOR_NOW = {"temporarily_unavailable", "server_error"}
_TOO_MANY = {"slow_down", "too_many_requests", "access denied"}
_SETTING_WRONG = {
    "invalid_scope": "CRM_OAUTH_SCOPES",
    "invalid_redirect_uri": "PUBLIC_URL, and the redirect address that is registered there",
    "unsupported_grant_type": "CRM_OAUTH_GRANT",
    "invalid_request": "CRM_OAUTH_TOKEN_URL",
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an endpoint gave; `refresh` is "" where it gave none, lives are in seconds, None if unsaid."""

    access: str = field(repr=False)
    refresh: str = field(default="", repr=False)
    life: float | None = None
    refresh_life: float | None = None
    scopes: str = ""


def login_address(service: str, **more: str) -> str:
    """Return where a person logs in; AuthError when the settings lack something for it."""
    _demand("CRM_OAUTH_AUTHORIZE_URL", "CRM_OAUTH_CLIENT_ID", "CRM_OAUTH_TOKEN_URL", service=service)
    asked = {
        "response_type": "code",
        "client_id": settings.CRM_OAUTH_CLIENT_ID,
        "redirect_uri": redirect_address(),
        **({"scope": settings.CRM_OAUTH_SCOPES} if settings.CRM_OAUTH_SCOPES else {}),
        **more,
    }
    address = settings.CRM_OAUTH_AUTHORIZE_URL
    return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}"


def redirect_address() -> str:
    """Return the address that must be registered at the other system."""
    return f"{settings.PUBLIC_URL}/oauth/callback"


def by_code(service: str, code: str, verifier: str) -> Tokens:
    """Return the tokens of a login that a person has just made."""
    fields = {"code": code, "redirect_uri": redirect_address(), "code_verifier": verifier}
    return _asked(service, CODE, fields)


def renewed(service: str, refresh: str, deadline: Deadline | None = None) -> Tokens:
    """Return new tokens of a login: by our client secret, or by the refresh token.

    AuthError "reauth" says that a person must log in again: the refresh token is refused, or there
    is none. Transient "no_token" is an answer that cannot be read.
    """
    if settings.CRM_OAUTH_GRANT == CLIENT:
        scopes = {"scope": settings.CRM_OAUTH_SCOPES} if settings.CRM_OAUTH_SCOPES else {}
        return _asked(service, CLIENT, scopes, deadline)
    if not refresh:
        raise login_over(service)
    return _asked(service, REFRESH, {"refresh_token": refresh}, deadline)


def login_over(service: str) -> AuthError:
    """Return the error for a login that only a person can renew."""
    return AuthError(
        f"The login at {service} has ended: press Connect in the admin, under Logins to other systems.",
        code="reauth",
    )


def no_login(service: str, what: str) -> AuthError:
    """Return the error for a login that was never made, with what is expected."""
    return AuthError(f"There is no login at {service}: {what}", code="no_credential")


def no_client_secret(service: str) -> AuthError:
    """Return the error for a login by client secret without one."""
    command = f"store its client secret with `credential set {client_of(service)}`"
    if unused := unused_setting(client_of(service)):
        return no_login(service, f"{command}. {unused} is not used instead of the one that has ended.")
    return no_login(service, f"{command}, or set CRM_OAUTH_CLIENT_SECRET.")


def _asked(service: str, grant: str, fields: Mapping[str, str], deadline: Deadline | None = None) -> Tokens:
    """Make one call and return its tokens, or raise a StepError whose `sent` is "no"."""
    _demand("CRM_OAUTH_CLIENT_ID", "CRM_OAUTH_TOKEN_URL", service=service)
    secret = secret_for(client_of(service))
    if grant == CLIENT and not secret:
        raise no_client_secret(service)
    known = {"client_id": settings.CRM_OAUTH_CLIENT_ID, **({"client_secret": secret} if secret else {})}
    parts = urlsplit(settings.CRM_OAUTH_TOKEN_URL)
    query = f"?{parts.query}" if parts.query else ""
    try:
        answer = Client(f"{service} login", f"{parts.scheme}://{parts.netloc}").form(
            f"{parts.path or '/'}{query}",
            {"grant_type": grant, **known, **fields},
            label=f"oauth.{grant}",
            deadline=deadline,
        )
        return read_tokens(service, grant, answer.value)
    except StepError as error:
        meant = _meaning(service, error)
        meant.sent = "no"
        raise meant from None


def _meaning(service: str, error: StepError) -> StepError:
    """Return what an error at the endpoint means for whoever needs the token.

    No run can do anything about either of these, so each must say something of the whole line: an answer
    that is no token (a page for people, a value of another shape) is that of a server that is not well;
    one that refuses for good, or is not there, is at an address that somebody must look at.
    """
    if isinstance(error, DataError):
        return Transient(f"{service} login answered with something else than a token", code="no_token")
    if isinstance(error, Permanent):
        return AuthError(f"{error.message} [{error.reason}]: look at CRM_OAUTH_TOKEN_URL.")
    return error


def _demand(*names: str, service: str) -> None:
    missing = [name for name in names if not getattr(settings, name)]
    if missing:
        raise no_login(service, f"expected a value for {', '.join(missing)}.")


def read_tokens(service: str, grant: str, value: Any) -> Tokens:
    """Return the tokens in the answer to this grant, or raise what it says instead of them."""
    found = value if isinstance(value, dict) else {}
    access, refresh = found.get("access_token"), found.get("refresh_token")
    if access is None or access == "":
        raise _refusal(service, grant, found.get("error"))
    if not _is_token(access) or not (refresh is None or refresh == "" or _is_token(refresh)):
        raise DataError(f"{service} login answered with a token that cannot be one", code="shape")
    scopes = found.get("scope")
    return Tokens(
        access,
        refresh or "",
        _life(found.get("expires_in")),
        _life(found.get("refresh_token_expires_in") or found.get("x_refresh_token_expires_in")),
        scopes[:500] if isinstance(scopes, str) else "",
    )


def _refusal(service: str, grant: str, said: object) -> StepError:
    """Return what the endpoint's error means; only words that we know are repeated."""
    word = said.strip().lower() if isinstance(said, str) else ""
    if word in _LOGIN_OVER and grant == REFRESH:
        return login_over(service)
    if word in _LOGIN_OVER and grant == CODE:
        return AuthError(f"{service} did not accept the login ({word}): it is spent or too old.")
    if word in _CLIENT_WRONG:
        return AuthError(
            f"{service} login does not know our client ({word}): compare CRM_OAUTH_CLIENT_ID and its secret "
            "with what is registered there."
        )
    if word in _FOR_NOW:
        return Transient(f"{service} login is not there for now ({word})", code=word)
    if word in _TOO_MANY:
        return RateLimited(f"{service} login was asked too often", retry_after=PAUSE_AFTER_TOO_MANY)
    if word in _SETTING_WRONG:
        return AuthError(f"{service} login refused ({word}): look at {_SETTING_WRONG[word]}.")
    return AuthError(f"{service} login answered without an access token and without a reason that we know.")


def _is_token(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TOKEN and value.isascii() and _is_plain(value)


def _is_plain(text: str) -> bool:
    return text.isprintable() and text == text.strip()


def _life(value: object) -> float | None:
    """Return a life in seconds; None for what is no positive number. Some servers send it as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return float(min(value, LONGEST_LIFE))
