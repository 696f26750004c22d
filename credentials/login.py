"""A person logs in to another system: from the button Connect there, and back with a code.

`begin` sends the browser to the other system, `callback` is where it comes back (GET /oauth/callback).
What it brings back counts only once, within ten minutes, and in the session that began: `state` goes
through the other system and our table knows its hash; the session alone knows a second text, and the
PKCE verifier is made of both, so that it is stored nowhere.
"""

import base64
import hashlib
import secrets
from datetime import timedelta

from django.contrib import admin, messages
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET

from credentials import grants, oauth
from credentials.models import Credential, LoginAttempt
from sopengine import clock
from sopengine.errors import StepError

LASTS = timedelta(minutes=10)
_SESSION_KEY = "login_browser"
# What the other system may say instead of a code (RFC 6749, 4.1.2.1); other words are not repeated.
_SAID = {
    "access_denied",
    "invalid_request",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_response_type",
}


class LoginRefused(Exception):
    """The browser came back with nothing that can be used; the sentence is for staff."""


def may_connect(user: User | AnonymousUser) -> bool:
    """Say whether this person may log the engine in to other systems."""
    wanted = ("credentials.add_credential", "credentials.change_credential")
    return user.is_active and user.is_staff and user.has_perms(wanted)


def begin(session: SessionBase, service: str) -> HttpResponse:
    """Return the way to the other system's login page; AuthError when the settings lack something for it."""
    state = secrets.token_urlsafe(32)
    browser = session.setdefault(_SESSION_KEY, secrets.token_urlsafe(32))
    address = grants.login_address(
        service,
        state=state,
        code_challenge=_challenge(_verifier(browser, state)),
        code_challenge_method="S256",
    )
    now = clock.now()
    LoginAttempt.objects.filter(until__lte=now).delete()
    LoginAttempt.objects.create(
        state=_hash(state), browser=_hash(browser), service=service, until=now + LASTS
    )
    return HttpResponseRedirect(address)


@require_GET
@never_cache
def callback(request: HttpRequest) -> HttpResponse:
    """Take what the other system sent the browser back with; the page says what came of it."""
    if not may_connect(request.user):
        messages.error(request, _("Log in here first, then press Connect again: nothing was stored."))
        return redirect("admin:index")
    try:
        credential = finish(request.session, request.GET)
    except LoginRefused as refused:
        messages.error(request, str(refused))
    except StepError as error:
        messages.error(request, f"{error.message} {_('Nothing was stored.')}")
    else:
        admin.site.get_model_admin(Credential).log_addition(request, credential, "connected")
        messages.success(request, _("Connected: the engine is logged in at %s.") % credential.service)
    return redirect("admin:credentials_credential_changelist")


@sensitive_variables("code", "browser", "state")
def finish(session: SessionBase, answer: QueryDict) -> Credential:
    """Return the stored credential of the login whose answer this is; else LoginRefused or StepError.

    Whatever the answer is, its state is spent afterwards.
    """
    state, browser = answer.get("state", ""), session.get(_SESSION_KEY, "")
    service = _spent(state, browser)
    if service is None:
        raise LoginRefused(
            _(
                "This login was used already, is older than ten minutes, or was begun in another browser: "
                "press Connect again. Nothing was stored."
            )
        )
    code, said = answer.get("code", ""), answer.get("error", "")
    if said or not code:
        word = said if said in _SAID else _("without a reason that we know")
        raise LoginRefused(
            _("%(service)s did not let us in (%(word)s). Nothing was stored.")
            % {"service": service, "word": word}
        )
    return oauth.new_login(service, grants.by_code(service, code, _verifier(browser, state)))


def _spent(state: str, browser: str) -> str | None:
    """Return the service of an attempt that this browser has begun, and spend it; None if there is none.

    Of two requests with one state, one deletes the row.
    """
    rows = LoginAttempt.objects.filter(state=_hash(state), browser=_hash(browser), until__gt=clock.now())
    attempt = rows.first()
    if attempt is None or not rows.delete()[0]:
        return None
    return attempt.service


def _verifier(browser: str, state: str) -> str:
    return _base64(hashlib.sha256(f"{browser}.{state}".encode()).digest())


def _challenge(verifier: str) -> str:
    return _base64(hashlib.sha256(verifier.encode()).digest())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
