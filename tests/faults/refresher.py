"""A process that asks for the access token, as a worker does: `python -m tests.faults.run refresher VERB …`.

What came of it is the last line of its output: a JSON object, with hashes in the place of tokens.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from credentials import oauth, store
from credentials.models import Credential
from sopengine.errors import StepError

GIVE_UP = 300.0  # seconds


def main(verb: str, folder: str, *more: str) -> None:
    """Do one thing and print what came of it."""
    {"twice": twice, "again": again, "fill": fill, "opened": opened}[verb](Path(folder), *more)


def twice(folder: Path) -> None:
    """Ask for a token when the file `first` is there; when `second` is, for another one than that."""
    wait_for(folder / "first")
    first = asked("")
    wait_for(folder / "second")
    said(first=first, second=asked(first.pop("token", "")))


def again(folder: Path) -> None:
    """Ask for another token again and again, until the file `stop` is there."""
    ready()
    errors, count, token = [], 0, ""
    while not (folder / "stop").exists():
        found = asked(token)
        token = found.get("token", token)
        errors += [found["error"]] if "error" in found else []
        count += 1
    said(count=count, errors=errors)


def fill(folder: Path, count: str) -> None:
    """Store so many secrets."""
    for number in range(int(count)):
        credential = Credential(service=f"s{number}")
        credential.set_secret(f"secret-{number}")
        store.put(credential)
    said(count=int(count))


def opened(folder: Path) -> None:
    """Open everything that is stored; say with which keys it was sealed."""
    rows = list(Credential.objects.all())
    for row in rows:
        store.check(row)
    texts = [text for row in rows for text in (row.secret, row.refresh_token) if text]
    said(count=len(rows), keys=sorted({text.split("|")[1] for text in texts}))


def asked(not_this: str) -> dict[str, Any]:
    """Return the token with its hash, or the error."""
    try:
        token = oauth.token("crm", not_this=not_this)
    except StepError as error:
        return {"error": f"{error.reason}: {error.message}"}
    return {"token": token, "hash": hashlib.sha256(token.encode()).hexdigest()}


def wait_for(path: Path) -> None:
    """Wait for a file, so closely that all who wait for it begin together."""
    ready()
    until = time.monotonic() + GIVE_UP
    while not path.exists():
        if time.monotonic() > until:
            raise SystemExit(f"{path.name} did not come")
        time.sleep(0.001)


def ready() -> None:
    """Say that the next thing can begin."""
    print("ready", flush=True)  # noqa: T201


def said(**found: Any) -> None:
    """Print what came of it, without any token."""
    for part in found.values():
        if isinstance(part, dict):
            part.pop("token", None)
    print(json.dumps(found), flush=True)  # noqa: T201
