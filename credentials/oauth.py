"""The access token of a service, renewed by one process while all others wait for what it gets.

    token("crm")                    good for a minute more, renewed before if need be
    token("crm", not_this=refused)  another one than the one that was refused

Who renews takes a lease on the credential's row by one conditional UPDATE (`refresh_until`, by the
database's clock), calls without an open transaction, and stores what came at once: with a server
that rotates refresh tokens, the old one is spent by then. Everybody else reads the row again until
the new token is there. What is stored is fenced by `renewals`, so that a late answer never
overwrites a newer one; a process that dies leaves a lease that runs out.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid5

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from credentials import grants, store, vault
from credentials.models import Credential, last_four
from credentials.threads import own_connection
from sopengine import clock
from sopengine.errors import AuthError, StepError, Transient
from sopengine.http import Deadline

T = TypeVar("T")
KIND = Credential.Kind.OAUTH_TOKEN
MARGIN = 60.0  # seconds that a token is good for when it is handed out
_KEPT = 1.0  # seconds a token is used without looking at its row again
_SPARE = 5.0  # seconds beyond the longest call that a lease lasts
_REST = 2.0  # seconds between two calls that fail
_LOOKS = (0.02, 0.25)  # seconds between two looks at a row that another one renews: first and longest
_STORE_AGAIN = (0.1, 0.5, 1.0, 2.0)  # seconds before another try to store what came
_FIRST_ROW = UUID("8d0f2a52-6f4f-4b57-9c0a-2f1f5f6f9b11")  # names the rows of logins by client secret


@dataclass(frozen=True, slots=True)
class _Login:
    """One look at the row of a service's login."""

    pk: UUID
    renewals: int
    renew_at: datetime | None
    access: str = field(repr=False)
    refresh: str = field(repr=False)
    read_at: float = field(default_factory=clock.monotonic)

    def serves(self, not_this: str) -> bool:
        """Say whether its access token can be handed out."""
        if not self.access or self.access == not_this:
            return False
        return self.renew_at is None or clock.now() < self.renew_at


_kept: dict[str, _Login] = {}
_turns: dict[str, threading.Lock] = {}


def token(service: str, *, not_this: str = "", deadline: Deadline | None = None) -> str:
    """Return an access token that is good for a minute more, and is not `not_this`.

    AuthError: "no_credential", "credential_unreadable", "reauth" when a person must log in again,
    "auth" when the endpoint refuses our client, or is not there. Transient when it cannot be had in
    time. Whatever is raised, `sent` is "no".
    """
    if found := _in_memory(service, not_this):
        return found
    patience = _Patience(service, deadline)
    with _my_turn(service, patience), own_connection():
        return _in_memory(service, not_this) or _from_row(service, not_this, patience)


def fingerprint(service: str) -> str:
    """Return a keyed hash of the login in force and of the client it was made with; "" without any."""
    try:
        with own_connection():
            row = store.credential_for(service, KIND)
            secret = store.secret_for(store.client_of(service)) or ""
            login = [str(row.pk), _opened(row).access] if row else []
            if not row and not (secret and settings.CRM_OAUTH_GRANT == grants.CLIENT):
                return ""
            client = [settings.CRM_OAUTH_TOKEN_URL, settings.CRM_OAUTH_CLIENT_ID, settings.CRM_OAUTH_SCOPES]
            return vault.fingerprint("\n".join(["oauth", service, *client, secret, *login]))
    except (AuthError, vault.VaultError):
        return ""


def forget(**_signal: Any) -> None:
    """Read every token again at its next use; called whenever a credential is saved or deleted."""
    _kept.clear()


def new_login(service: str, tokens: grants.Tokens) -> Credential:
    """Return a stored credential of a login that was just made; it takes the place of the older ones."""
    row = Credential(service=service, kind=KIND, label="login", scopes=tokens.scopes)
    row.set_login(tokens.access, tokens.refresh, _renew_at(tokens, clock.now()))
    row.expires_at = _end_of_login(tokens, clock.now(), tokens.refresh)
    row.refreshed_at = clock.now()
    store.put(row)
    return row


# -- handing out -------------------------------------------------------------------------------


def _in_memory(service: str, not_this: str) -> str:
    """Return the token that this process has just seen, or ""."""
    kept = _kept.get(service)
    if kept is None or connection.in_atomic_block or clock.monotonic() - kept.read_at >= _KEPT:
        return ""
    return kept.access if kept.serves(not_this) else ""


def _from_row(service: str, not_this: str, patience: "_Patience") -> str:
    """Return the token of the row, renewed here or by whoever is at it."""
    while True:
        login = _look(service)
        if login.serves(not_this):
            if not connection.in_atomic_block:
                _kept[service] = login
            return login.access
        lease = _lease(login)
        if lease is None:
            patience.pause()
        elif found := _renewed(service, login, lease, patience.deadline):
            return found


@contextmanager
def _my_turn(service: str, patience: "_Patience") -> Iterator[None]:
    """Let one thread of this process look at the row; Transient when the time is over before."""
    turn = _turns.setdefault(service, threading.Lock())
    if not turn.acquire(timeout=patience.left()):
        raise patience.over()
    try:
        yield
    finally:
        turn.release()


class _Patience:
    """How long to wait for a token that somebody else is getting."""

    def __init__(self, service: str, deadline: Deadline | None) -> None:
        self.service = service
        self.deadline = deadline
        self._until = clock.monotonic() + settings.ENGINE_CALL_TIMEOUT
        self._step = _LOOKS[0]

    def left(self) -> float:
        """Return the seconds left, never negative."""
        left = max(self._until - clock.monotonic(), 0.0)
        return min(left, self.deadline.remaining()) if self.deadline else left

    def pause(self) -> None:
        """Wait a little longer than the last time; Transient when the time is over."""
        left = self.left()
        if left <= 0:
            raise self.over()
        time.sleep(min(self._step, left))
        self._step = min(self._step * 1.5, _LOOKS[1])

    def over(self) -> Transient:
        """Return the error of a wait that was in vain."""
        return Transient(
            f"{self.service}: another process is renewing the login and has not got it yet",
            code="renewing",
            sent="no",
        )


# -- the row -----------------------------------------------------------------------------------


def _look(service: str) -> _Login:
    """Return the login in force; AuthError when there is none, or none that opens."""
    row = store.credential_for(service, KIND)
    if row is None and settings.CRM_OAUTH_GRANT == grants.CLIENT:
        row = _first_row(service)
    if row is None:
        raise missing(service)
    return _opened(row)


def _opened(row: Credential) -> _Login:
    place = {"table": Credential._meta.db_table, "row": str(row.pk)}
    try:
        access = str(vault.unseal(row.secret, field="secret", **place))
        refresh = row.refresh_token and str(vault.unseal(row.refresh_token, field="refresh_token", **place))
    except vault.VaultError as error:
        raise AuthError(
            f"The stored login {row} cannot be opened: {error}", code="credential_unreadable"
        ) from None
    return _Login(row.pk, row.renewals, row.renew_at, access, refresh or "")


def _first_row(service: str) -> Credential | None:
    """Return an empty row for a login by client secret: what the first lease is taken on.

    Its id follows from the rows that are out of use, so that two processes make the same one.
    """
    spent = Credential.objects.filter(service=service, kind=KIND).exclude(status__in=store.IN_FORCE).count()
    row = Credential(pk=uuid5(_FIRST_ROW, f"{service} {spent}"), service=service, kind=KIND)
    row.label = "login by client secret"
    row.set_login("")
    Credential.objects.bulk_create([row], ignore_conflicts=True)
    return store.credential_for(service, KIND)


def missing(service: str) -> AuthError:
    """Return the error for a service that has no login in force, with what to do about it."""
    if settings.CRM_OAUTH_GRANT == grants.CLIENT:
        return grants.no_client_secret(service)
    rows = Credential.objects.filter(service=service, kind=KIND)
    if rows.exclude(status=Credential.Status.REVOKED).exists():
        return grants.login_over(service)
    return grants.no_login(service, "press Connect in the admin, under Logins to other systems.")


# -- renewing ----------------------------------------------------------------------------------


def _lease(login: _Login) -> datetime | None:
    """Take the right to renew what was just read; None when another one has it, or has renewed already.

    A transaction that were open around this would hide the lease from everybody and hold the row
    during the call; Django refuses it (`durable`).
    """
    free = Q(refresh_until__isnull=True) | Q(refresh_until__lte=_database_time())
    until = _database_time(settings.ENGINE_CALL_TIMEOUT + _SPARE)
    with transaction.atomic(durable=True):
        rows = _same(login).filter(status__in=store.IN_FORCE)
        if not rows.filter(free).update(refresh_until=until):
            return None
        return rows.values_list("refresh_until", flat=True).get()


def _renewed(service: str, login: _Login, lease: datetime, deadline: Deadline | None) -> str:
    """Call, store, and return the new token; "" when the row has changed and must be looked at again."""
    started = clock.now()
    try:
        tokens = grants.renewed(service, login.refresh, deadline)
    except AuthError as error:
        if error.reason == "reauth" and not _ended(service, login):
            return ""
        _give_back(login, lease, refused=error.reason)
        raise
    except StepError:
        _give_back(login, lease)
        raise
    if not _insist(lambda: _store(login, tokens, started)):
        return ""
    if not connection.in_atomic_block:
        renew_at = _renew_at(tokens, started)
        _kept[service] = _Login(login.pk, login.renewals + 1, renew_at, tokens.access, tokens.refresh)
    return tokens.access


def _store(login: _Login, tokens: grants.Tokens, started: datetime) -> bool:
    """Write what came, unless something newer is there; an answer without a refresh token keeps the old one.

    A new refresh token of which the answer says no end has none: nobody need log in again at the old one.
    A row that ended meanwhile is in force again: it was ended by somebody whom this answer overtook.
    """
    status = Credential.Status
    row = Credential(pk=login.pk)
    changes: dict[str, Any] = {
        "secret": row.sealed("secret", tokens.access),
        "last4": last_four(tokens.access),
        "renew_at": _renew_at(tokens, started),
        "renewals": F("renewals") + 1,
        "refreshed_at": clock.now(),
        "refresh_until": None,
        "refused_at": None,
        "refused_code": "",
        "status": Case(When(status=status.EXPIRED, then=Value(status.ACTIVE)), default=F("status")),
    }
    if tokens.refresh:
        changes["refresh_token"] = row.sealed("refresh_token", tokens.refresh)
    ends = _end_of_login(tokens, started, tokens.refresh or login.refresh)
    if ends or tokens.refresh not in ("", login.refresh):  # the end that was known is of the token before
        changes["expires_at"] = ends
    return bool(_same(login).exclude(status=status.REVOKED).update(**changes))


def _ended(service: str, login: _Login) -> bool:
    """Mark the login as over, unless a newer one is there."""
    _kept.pop(service, None)
    rows = _same(login).filter(status__in=store.IN_FORCE)
    return bool(
        rows.update(
            status=Credential.Status.EXPIRED,
            refused_at=clock.now(),
            refused_code="reauth",
            refresh_until=None,
        )
    )


def _give_back(login: _Login, lease: datetime, refused: str = "") -> None:
    """Let the next one try, after a rest; note who refused."""
    rows = _same(login).filter(refresh_until=lease)
    rows.update(refresh_until=_database_time(_REST))
    if refused:
        _same(login).filter(refused_at__isnull=True).update(refused_at=clock.now(), refused_code=refused)


def _same(login: _Login) -> "QuerySet[Credential]":
    """Return the row, if nothing was stored in it since it was read."""
    return Credential.objects.filter(pk=login.pk, renewals=login.renewals)


def _insist(write: Callable[[], T]) -> T:
    """Write, and again when the database is away: what the endpoint gave cannot be asked for twice."""
    for pause in _STORE_AGAIN:
        try:
            return write()
        except (OperationalError, InterfaceError):
            connection.close()
            time.sleep(pause)
    return write()


def _renew_at(tokens: grants.Tokens, started: datetime) -> datetime | None:
    """Return when to renew: a minute before the end, or half-way through a shorter life."""
    if tokens.life is None:
        return None
    return started + timedelta(seconds=max(tokens.life - MARGIN, tokens.life / 2))


def _end_of_login(tokens: grants.Tokens, started: datetime, refresh: str) -> datetime | None:
    """Return when a person must log in again, None when that is not known."""
    if settings.CRM_OAUTH_GRANT == grants.CLIENT:
        return None
    life = tokens.refresh_life if refresh else tokens.life
    return started + timedelta(seconds=life) if life else None


def _database_time(plus: float = 0.0) -> Combinable:
    """Return the moved clock of the database, `plus` seconds on, as an expression."""
    return Now() + timedelta(seconds=clock.offset() + plus)
