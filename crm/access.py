"""How our calls to a service are signed in: settings.CRM_AUTH says which way.

    api_key   the key in settings.CRM_API_KEY_HEADER, such as "Authorization: Bearer" or "X-Api-Key"
    oauth     an access token as bearer, renewed by `credentials.oauth`
    hmac      X-Timestamp and X-Signature, see `Signature`

Secrets are found by the name of the service, so that two services with the same product never share
one. None is read before `headers` is asked for.
"""

import hashlib
import hmac
from collections.abc import Mapping

from django.conf import settings

from credentials import oauth, store, vault
from credentials.models import Credential
from credentials.threads import own_connection
from sopengine import clock
from sopengine.errors import AuthError
from sopengine.headers import is_header_value
from sopengine.http import Deadline

Kind = Credential.Kind


class Access:
    """One way to sign calls in, for one service. One call at a time: `renew` is about the last one."""

    kind: str = Kind.API_KEY

    def __init__(self, service: str = "crm", deadline: Deadline | None = None) -> None:
        self.service = service
        self.deadline = deadline
        self._used = ""

    def headers(self, method: str, target: str, body: bytes) -> Mapping[str, str]:
        """Return the headers that sign this request in, or raise AuthError with what is missing.

        `target` is the path with its query, as it is sent.
        """
        self._used = self.current()
        signed = self.signed(self._used, method, target, body)
        if not all(is_header_value(value) for value in signed.values()):
            raise AuthError(self.unfit(), code="credential_unreadable")
        return signed

    def renew(self) -> bool:
        """After a 401: say whether there is another secret now, so that one more try makes sense."""
        return bool(self._used) and self.another(self._used) != self._used

    def fingerprint(self) -> str:
        """Return a keyed hash of the secret in force, "" when there is none that opens; calls nobody."""
        try:
            with own_connection():
                secret = store.secret_now(self.service, self.kind)
                return vault.fingerprint(f"{self.kind} {secret}") if secret else ""
        except (AuthError, vault.VaultError):
            return ""

    def signed(self, secret: str, method: str, target: str, body: bytes) -> Mapping[str, str]:
        """Return the headers for one request."""
        name, _, scheme = settings.CRM_API_KEY_HEADER.partition(":")
        return {name: f"{scheme.strip()} {secret}".strip()}

    def current(self) -> str:
        """Return the secret in force, or raise AuthError."""
        secret = store.secret_for(self.service, self.kind)
        if not secret:
            raise AuthError(self.missing(), code="no_credential")
        return secret

    def another(self, refused: str) -> str:
        """Return the secret that is in force now, after `refused` was; "" counts as the same one."""
        return store.secret_now(self.service, self.kind) or refused

    def missing(self) -> str:
        """Return what to do where no secret is in force."""
        label, command = Kind(self.kind).label, self._command()
        setting = store.ENVIRONMENT.get((self.service, self.kind))
        if over := store.last_ended(self.service, self.kind):
            how = "was revoked" if over.status == Credential.Status.REVOKED else "has run out"
            unused = store.unused_setting(self.service, self.kind)
            return (
                f"The {label} that was stored for {self.service} {how}: store another one with {command}."
                f"{f' {unused} is not used instead of it.' if unused else ''}"
            )
        return (
            f"There is no {label} for {self.service}: store one with "
            f"{command}{f', or set {setting}' if setting else ''}."
        )

    def unfit(self) -> str:
        """Return what to do where a secret is in force that no request can carry."""
        return (
            f"The {Kind(self.kind).label} for {self.service} cannot go into a header: it has letters other "
            f"than ASCII, or too many. Store another one with {self._command()}."
        )

    def _command(self) -> str:
        kind = "" if self.kind == Kind.API_KEY else f" --kind {self.kind}"
        return f"`credential set {self.service}{kind}`"


class ApiKey(Access):
    """The key itself, in the header that the CRM wants."""


class Login(Access):
    """The access token of a login."""

    kind = Kind.OAUTH_TOKEN

    def signed(self, secret: str, method: str, target: str, body: bytes) -> Mapping[str, str]:
        """Return the token as bearer (RFC 6750)."""
        return {"Authorization": f"Bearer {secret}"}

    def current(self) -> str:
        """Return a token that is good for a minute more."""
        return oauth.token(self.service, deadline=self.deadline)

    def another(self, refused: str) -> str:
        """Return the stored token, renewed once if `refused` is still the stored one."""
        return oauth.token(self.service, not_this=refused, deadline=self.deadline)

    def fingerprint(self) -> str:
        """Return a keyed hash of the token and of the client it was made with."""
        return oauth.fingerprint(self.service)

    def missing(self) -> str:
        """Return what to do where nobody is logged in."""
        return oauth.missing(self.service).message


class Signature(Access):
    """Each request signed by a secret that both sides know and that never travels.

    X-Timestamp   seconds since 1970, when it was signed
    X-Signature   HMAC-SHA256 in hex, with the secret as UTF-8, of four lines joined by line feeds:
                  the timestamp, the method, the path with its query as sent, the SHA-256 of the
                  body in hex (of nothing, where there is no body)
    """

    kind = Kind.WEBHOOK_SECRET

    def signed(self, secret: str, method: str, target: str, body: bytes) -> Mapping[str, str]:
        """Return the moment and the signature."""
        timestamp = str(int(clock.now().timestamp()))
        return {"X-Timestamp": timestamp, "X-Signature": signature(secret, timestamp, method, target, body)}


def signature(secret: str, timestamp: str, method: str, target: str, body: bytes) -> str:
    """Return what `X-Signature` must be; both sides compute it."""
    lines = "\n".join([timestamp, method, target, hashlib.sha256(body).hexdigest()])
    return hmac.new(secret.encode(), lines.encode(), hashlib.sha256).hexdigest()


_WAYS: Mapping[str, type[Access]] = {"api_key": ApiKey, "oauth": Login, "hmac": Signature}


def access_for(service: str = "crm", deadline: Deadline | None = None) -> Access:
    """Return how this service is signed in to; nothing is read, and nobody called, before it is used.

    `deadline` bounds how long a call waits for a token that is being renewed.
    """
    return _WAYS[settings.CRM_AUTH](service, deadline)
