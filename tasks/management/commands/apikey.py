"""apikey create | list | revoke: who may use the API, from a terminal."""

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tasks import api_keys
from tasks.models import ApiKey


class Command(BaseCommand):
    """A key is printed when it is made, and never again."""

    help = "Make, list and revoke keys for the API."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare create, list and revoke."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="make a key and print it, once")
        create.add_argument("name", help="what it is for, such as “web shop”")
        create.add_argument("--user", required=True, help="in whose name it acts")
        create.add_argument(
            "--scope",
            action="append",
            required=True,
            dest="scopes",
            choices=[*api_keys.SCOPES],
            help="what it may do; several times for several",
        )
        create.add_argument("--json", action="store_true")
        listing = verbs.add_parser("list", help="all keys, without their secrets")
        listing.add_argument("--json", action="store_true")
        revoking = verbs.add_parser("revoke", help="take a key out of use, for ever")
        revoking.add_argument("which", help="the key's name, or its first part as in the list")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the verb says; every refusal is one sentence and a non-zero exit."""
        verbs = {"create": self._create, "list": self._list, "revoke": self._revoke}
        verbs[options["verb"]](options)

    def _create(self, options: dict[str, Any]) -> None:
        user = get_user_model().objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"--user: there is no user {options['user']!r}.")
        try:
            key, shown = api_keys.make(options["name"], user, options["scopes"])
        except api_keys.KeyRefused as refusal:
            raise CommandError(str(refusal)) from None
        if options["json"]:
            self.stdout.write(json.dumps({**_told(key), "key": shown}))
        else:
            self.stdout.write(f"{shown}\nKeep it now: it is not shown again.")

    def _list(self, options: dict[str, Any]) -> None:
        rows = [_told(key) for key in ApiKey.objects.select_related("user")]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        for row in rows:
            state = "revoked" if row["revoked_at"] else f"used {row['last_used_at'] or 'never'}"
            self.stdout.write(
                f"{row['prefix']}  {row['name']}  by {row['user']}  {', '.join(row['scopes'])}  {state}"
            )
        if not rows:
            self.stdout.write("There is no key. Make one with: apikey create NAME --user USER --scope SCOPE")

    def _revoke(self, options: dict[str, Any]) -> None:
        which = options["which"]
        prefix = which.removeprefix("sop_")[:8]
        key = ApiKey.objects.filter(name=which).first() or ApiKey.objects.filter(prefix=prefix).first()
        if key is None:
            raise CommandError(f"There is no key {which!r}; see: apikey list")
        if not api_keys.revoke(key):
            raise CommandError(f"The key {key.name!r} was revoked before.")
        self.stdout.write(f"{key.name} is revoked; whoever has it gets 401 from now on.")


def _told(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "prefix": key.prefix,
        "user": key.user.get_username(),
        "scopes": key.scopes,
        "created_at": key.created_at.isoformat(),
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
