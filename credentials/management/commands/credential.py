"""credential set | list | test | revoke | rotate-keys: secrets of other systems, from a terminal."""

import argparse
import getpass
import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive, make_aware

from credentials import store, wording
from credentials.models import Credential, checked_secret
from credentials.rotation import Progress, rotate
from credentials.vault import BadKeys, VaultError, sealed_prefix
from sopengine import clock

FARTHEST = timedelta(days=36_500)  # so far ahead every time zone can still count


class Command(BaseCommand):
    """Secrets go in through the standard input or a prompt and never come out again."""

    help = "Store, list, test and revoke secrets of other systems; re-encrypt what is sealed"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.error = _discreet(parser.error)  # type: ignore[assignment]
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

        verb = verbs.add_parser("set", help="store a secret, read from the standard input or a prompt")
        verb.add_argument("service", help="the system it opens, such as crm or slack")
        verb.add_argument("--kind", choices=Credential.Kind.values, default=Credential.Kind.API_KEY.value)
        verb.add_argument("--label", default="", help="a note for staff")
        verb.add_argument("--scopes", default="", help="separated by spaces")
        verb.add_argument("--expires-at", type=_end, help="such as 2027-01-31T12:00")
        verb.add_argument(
            "--refresh-token",
            action="store_true",
            help="of an oauth_token: what is read is its refresh token; the first call fetches the other",
        )

        verb = verbs.add_parser("list", help="show what is stored, without the secrets")
        verb.add_argument("--json", action="store_true")

        verb = verbs.add_parser("test", help="open the secret that is in force; calls nobody")
        verb.add_argument("service")
        verb.add_argument("--kind", choices=Credential.Kind.values, default=Credential.Kind.API_KEY.value)
        verb.add_argument("--json", action="store_true")

        verb = verbs.add_parser("revoke", help="take out of use; the row stays")
        verb.add_argument("which", help="an id from the list, or a service: all that it has in force")
        verb.add_argument("--kind", choices=Credential.Kind.values, help="only this kind of the service")

        verb = verbs.add_parser(
            "rotate-keys",
            help="re-encrypt everything with the first key of VAULT_KEYS",
            description="Add the new key at the second place of VAULT_KEYS and restart every process; move "
            "it to the first place and restart again; run this; then take the old key out. It may be stopped "
            "at any moment and run again, and runs beside a working engine.",
        )
        verb.add_argument("--batch", type=_count, default=500, help="rows read at a time")
        verb.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        verb = {
            "set": self._set,
            "list": self._list,
            "test": self._test,
            "revoke": self._revoke,
            "rotate-keys": self._rotate_keys,
        }[options["verb"]]
        verb(options)

    def _set(self, options: dict[str, Any]) -> None:
        credential = Credential(
            service=options["service"],
            kind=options["kind"],
            label=options["label"],
            scopes=options["scopes"],
            expires_at=options["expires_at"],
        )
        if options["refresh_token"] and options["kind"] != Credential.Kind.OAUTH_TOKEN:
            raise CommandError("--refresh-token goes with --kind oauth_token")
        try:
            if options["refresh_token"]:
                credential.set_login("", checked_secret(_read_secret()))
            else:
                credential.set_secret(_read_secret())
            credential.full_clean()
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        except VaultError as error:
            raise CommandError(str(error)) from None
        store.put(credential)
        self.stdout.write(f"Stored {credential} as {credential.pk}; earlier ones are revoked.")

    def _list(self, options: dict[str, Any]) -> None:
        rows = [_shown(credential) for credential in Credential.objects.all()]
        if options["json"]:
            self.stdout.write(json.dumps(rows))
            return
        for row in rows:
            ending = f"····{row['last4']}" if row["last4"] else "····"
            self.stdout.write(
                f"{row['id']}  {row['service']:<12} {row['kind']:<14} {ending:<8} {row['status']:<9} "
                f"{'; '.join(filter(None, [row['label'], row['remarks']]))}".rstrip()
            )
        if not rows:
            self.stdout.write("No credential is stored. Store one with: credential set SERVICE")

    def _test(self, options: dict[str, Any]) -> None:
        service, kind = options["service"], options["kind"]
        credential = store.credential_for(service, kind)
        if credential is None:
            if store.from_environment(service, kind) is None:
                unused = _unused(service, kind)
                raise CommandError(
                    f"There is no {kind} for {service!r}: none stored is in force"
                    f"{f', and {unused}' if unused else ', and no setting holds one'}. "
                    f"Store one with: credential set {service} --kind {kind}"
                )
            source = store.ENVIRONMENT[service, kind]
        else:
            source = str(credential.pk)
            try:
                store.check(credential)
            except VaultError as error:
                raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps({"service": service, "kind": kind, "source": source, "opens": True}))
            return
        self.stdout.write(f"The {kind} of {service} opens. It comes from {source}.")
        if credential and (remarks := wording.remarks(credential, clock.now())):
            self.stdout.write(f"But look: {remarks}.")

    def _revoke(self, options: dict[str, Any]) -> None:
        found = list(_named(options["which"], options["kind"]))
        if not found:
            raise CommandError(f"Nothing in force is called {options['which']!r}; see: credential list")
        for credential in found:
            store.revoke(credential)
            self.stdout.write(f"Revoked {credential} {credential.pk}.")
            if unused := _unused(credential.service, credential.kind):
                self.stdout.write(f"{unused}; store another one with: credential set {credential.service}")

    def _rotate_keys(self, options: dict[str, Any]) -> None:
        done: list[Progress] = []
        try:
            kid = sealed_prefix().split("|")[1]
            for progress in rotate(options["batch"]):
                if progress.over:
                    done.append(progress)
                if not options["json"]:
                    self.stdout.write(_sentence(progress))
        except BadKeys as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps([_counts(progress) for progress in done]))
        self._judge(kid, done, quiet=options["json"])

    def _judge(self, kid: str, done: list[Progress], *, quiet: bool) -> None:
        """End with what the operator may do now, or with an error that says what is in the way."""
        closed = [sentence for progress in done for sentence in progress.closed.values()]
        for sentence in closed:
            self.stderr.write(sentence)
        left = sum(progress.left for progress in done)
        if left:
            self.stderr.write(
                f"{left} values were sealed with an older key meanwhile: some process still runs with the "
                f"old VAULT_KEYS. Restart it and run this again."
            )
        if closed or left:
            raise CommandError("Not everything is sealed with the newest key; keep the older keys.")
        if not quiet:
            self.stdout.write(f"Everything is sealed with the key {kid!r}; the database needs no older key.")


def _unused(service: str, kind: str) -> str:
    """Return in words that a setting does not stand in for what has ended; "" where none is set."""
    name = store.unused_setting(service, kind)
    return name and f"{name} is not used instead of it"


def _read_secret() -> str:
    """Return the secret from a prompt, or from the standard input without its last line end."""
    if sys.stdin.isatty():
        return getpass.getpass("Secret: ")
    return sys.stdin.read().rstrip("\r\n")


def _moment(text: str) -> datetime:
    """Return the moment that `text` names, in the business' time zone unless it says another."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a moment; expected such as 2027-01-31T12:00")
    return make_aware(moment) if is_naive(moment) else moment


def _end(text: str) -> datetime:
    """Return the moment that `text` names, if a credential can end then."""
    moment, now = _moment(text), clock.now()
    if not now < moment < now + FARTHEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be its end; expected a moment from now on, within a hundred years"
        )
    return moment


def _discreet(complain: Callable[[str], NoReturn]) -> Callable[[str], NoReturn]:
    """Return a parser's `error` that repeats nothing of what it has no use for: it may be a secret."""

    def error(message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message = (
                "unrecognized arguments, not repeated here: a secret is read from the standard input or a "
                "prompt, never from the command line, where others can see it"
            )
        complain(message)

    return error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _named(which: str, kind: str | None) -> "QuerySet[Credential]":
    """Return the credentials in force that `which` names: one by its id, or a service's."""
    rows = Credential.objects.exclude(status=Credential.Status.REVOKED)
    try:
        return rows.filter(pk=UUID(which))
    except ValueError:
        return rows.filter(service=which, **({"kind": kind} if kind else {}))


def _shown(credential: Credential) -> dict[str, Any]:
    """Return what may be shown of a credential."""
    return {
        "id": str(credential.pk),
        "service": credential.service,
        "kind": credential.kind,
        "label": credential.label,
        "last4": credential.last4,
        "status": credential.status_at(clock.now()),
        "scopes": credential.scopes,
        "remarks": wording.remarks(credential, clock.now()),
        "expires_at": _plain(credential.expires_at),
        "renews_itself": credential.refresh_token is not None,
        "renew_at": _plain(credential.renew_at),
        "refreshed_at": _plain(credential.refreshed_at),
        "refused_at": _plain(credential.refused_at),
        "refused_code": credential.refused_code,
        "created_at": credential.created_at.isoformat(),
        "changed_at": credential.changed_at.isoformat(),
    }


def _plain(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _counts(progress: Progress) -> dict[str, Any]:
    return {
        "model": progress.column.model,
        "field": progress.column.field,
        "moved": progress.moved,
        "closed": len(progress.closed),
        "left": progress.left,
    }


def _sentence(progress: Progress) -> str:
    state = "done" if progress.over else "so far"
    return f"{progress.column.model} {progress.column.field}: {progress.moved} re-encrypted {state}"
