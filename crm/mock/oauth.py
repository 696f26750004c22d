"""A login server on loopback, as strict as the strictest: to rehearse with, and for the tests.

    with running(OAuthServer()) as server:
        settings.CRM_OAUTH_AUTHORIZE_URL = server.authorize_url
        settings.CRM_OAUTH_TOKEN_URL = server.token_url

GET /authorize lets everybody in and sends the browser back with a code; POST /token takes the grants
authorization_code (with PKCE), refresh_token and client_credentials. With `rotate` each refresh
token counts once, and whoever brings a spent one back loses the whole login (RFC 9700, 4.14.2).
Every call of /token that was answered is in `calls`, without its secrets; `under_way` counts the others.
"""

import base64
import hashlib
import hmac
import json
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

MAX_BODY = 100_000  # bytes

Form = Mapping[str, str]


class TokenRefused(Exception):
    """The endpoint gives no token; the word is one of RFC 6749, 5.2."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


@dataclass(frozen=True, slots=True)
class TokenCall:
    """One call of the token endpoint; `said` is "" when a token was given."""

    grant: str
    status: int
    said: str


@dataclass(slots=True)
class _Login:
    """One person's consent, with all the tokens that came of it."""

    refresh: str = field(default="", repr=False)
    access: set[str] = field(default_factory=set, repr=False)
    spent: set[str] = field(default_factory=set, repr=False)
    over: bool = False


class OAuthServer(ThreadingHTTPServer):
    """Serves on 127.0.0.1; port 0 takes a free one. `life` and `latency` are in seconds.

    `error_status` is what an error is answered with: some servers say 200.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        port: int = 0,
        *,
        client_id: str = "office",
        client_secret: str = "rehearsal-only",  # noqa: S107
        rotate: bool = True,
        life: float | str | None = 3600.0,
        latency: float = 0.0,
        error_status: int = 400,
    ) -> None:
        self.client_id, self.client_secret = client_id, client_secret
        self.rotate, self.life, self.latency = rotate, life, latency
        self.error_status = error_status
        self.calls: list[TokenCall] = []
        self.denies = False
        self.under_way = 0
        self._told: list[tuple[int, str, str]] = []
        self._codes: dict[str, tuple[str, str]] = {}
        self._logins: list[_Login] = []
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client has not waited for its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Return the address of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def authorize_url(self) -> str:
        """Return where a person logs in."""
        return f"{self.url}/authorize"

    @property
    def token_url(self) -> str:
        """Return the token endpoint."""
        return f"{self.url}/token"

    def new_login(self) -> str:
        """Return the refresh token of a login that a person has made elsewhere."""
        with self._lock:
            self._logins.append(_Login(refresh=_new("refresh")))
            return self._logins[-1].refresh

    def accepts(self, access: str) -> bool:
        """Say whether an access token is in force."""
        with self._lock:
            return any(access in login.access and not login.over for login in self._logins)

    def access_tokens(self) -> list[str]:
        """Return the access tokens in force, of all logins."""
        with self._lock:
            return sorted(access for login in self._logins if not login.over for access in login.access)

    def end_logins(self) -> None:
        """Take every login back, as an owner does who removes an app."""
        with self._lock:
            for login in self._logins:
                login.over = True

    def answer_next(self, status: int, body: str, kind: str = "application/json") -> None:
        """Answer the next call of the token endpoint with this, whatever it asks; it changes nothing here."""
        with self._lock:
            self._told.append((status, body, kind))

    # -- what a request gets ---------------------------------------------------------------------

    def authorized(self, asked: Form) -> str:
        """Return where the browser is sent; TokenRefused for a request that must not be sent anywhere."""
        if asked.get("client_id") != self.client_id or not asked.get("redirect_uri"):
            raise TokenRefused("invalid_request")
        given: dict[str, str] = {"state": asked.get("state", "")}
        if self.denies:
            given["error"] = "access_denied"
        elif asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            given["error"] = "invalid_request"
        else:
            given["code"] = _new("code")
            with self._lock:
                self._codes[given["code"]] = (asked["redirect_uri"], asked.get("code_challenge", ""))
        return f"{asked['redirect_uri']}?{urlencode(given)}"

    def token(self, form: Form) -> tuple[int, str, str]:
        """Return status, body and type of the answer to one call of the token endpoint."""
        with self._lock:
            self.under_way += 1
        time.sleep(self.latency)
        with self._lock:
            self.under_way -= 1
            status, body, kind, said = self._answer(form)
            self.calls.append(TokenCall(form.get("grant_type", ""), status, said))
        return status, body, kind

    def _answer(self, form: Form) -> tuple[int, str, str, str]:
        if self._told:
            return *self._told.pop(0), "told to"
        try:
            return 200, json.dumps(self._granted(form)), "application/json", ""
        except TokenRefused as refused:
            return self.error_status, json.dumps({"error": refused.word}), "application/json", refused.word

    def _granted(self, form: Form) -> dict[str, Any]:
        """Return what is given for a form, or raise TokenRefused."""
        if form.get("client_id") != self.client_id or not _same(
            form.get("client_secret", ""), self.client_secret
        ):
            raise TokenRefused("invalid_client")
        grant = form.get("grant_type", "")
        if grant == "authorization_code":
            return self._for_code(form)
        if grant == "refresh_token":
            return self._for_refresh(form.get("refresh_token", ""))
        if grant == "client_credentials":
            self._logins.append(_Login())
            return self._access(self._logins[-1])
        raise TokenRefused("unsupported_grant_type")

    def _for_code(self, form: Form) -> dict[str, Any]:
        address, challenge = self._codes.pop(form.get("code", ""), ("", ""))
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if not address or address != form.get("redirect_uri") or not _same(proof, challenge):
            raise TokenRefused("invalid_grant")
        self._logins.append(_Login(refresh=_new("refresh")))
        login = self._logins[-1]
        return {**self._access(login), "refresh_token": login.refresh}

    def _for_refresh(self, refresh: str) -> dict[str, Any]:
        for one in self._logins:
            if refresh and refresh in one.spent:
                one.over = True
        login = next((one for one in self._logins if refresh and one.refresh == refresh), None)
        if login is None or login.over:
            raise TokenRefused("invalid_grant")
        if not self.rotate:
            return self._access(login)
        login.spent.add(login.refresh)
        login.access.clear()
        login.refresh = _new("refresh")
        return {**self._access(login), "refresh_token": login.refresh}

    def _access(self, login: _Login) -> dict[str, Any]:
        """Return a new access token of the login, as the endpoint gives it."""
        access = _new("access")
        login.access.add(access)
        life = {} if self.life is None else {"expires_in": self.life}
        return {"access_token": access, "token_type": "Bearer", **life}


def _new(kind: str) -> str:
    return f"{kind}-{secrets.token_urlsafe(24)}"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OAuthServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path != "/authorize":
            self._send(404, "{}")
            return
        try:
            address = self.server.authorized(dict(parse_qsl(parts.query)))
        except TokenRefused as refused:
            self._send(400, json.dumps({"error": refused.word}))
        else:
            self._send(302, "", Location=address)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send(413, "{}")
            return
        text = self.rfile.read(int(length)).decode("utf-8", "replace")
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        if urlsplit(self.path).path != "/token" or not form:
            self._send(404, "{}")
            return
        status, body, kind = self.server.token(dict(parse_qsl(text)))
        self._send(status, body, kind)

    def _send(self, status: int, body: str, kind: str = "application/json", **headers: str) -> None:
        raw = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Cache-Control": "no-store", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_args: Any) -> None:
        """Write nothing: the address may hold a code."""


@contextmanager
def running(server: OAuthServer) -> Iterator[OAuthServer]:
    """Serve in a thread of this process until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
