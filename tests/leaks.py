"""What must never be written, and how it is found: secrets by where they come from, people by their looks."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|API_KEY|VAULT_KEYS")
NO_SECRET = re.compile(r"_(URL|HEADER|FILE|VALIDATORS|HASHERS|AGE|NAME|DOMAIN|PATH|TIMEOUT)$")
SHORTEST = 8  # characters; a shorter one stands in other words by chance
# Tokens of the login that the mock plays: no setting and no row has them in clear.
TOKEN = r"\b(?:access|refresh|code)-[A-Za-z0-9_-]{32}\b"
# The people of the mock CRM and those of the stories.
PERSON = r"\b[a-z]+\.[a-z]+\.\d+@example\.com|\+1612555\d{4}|kanari|zwitscher"


def is_name_of_secret(name: str) -> bool:
    """Say whether what has this name is a secret."""
    return SECRET_NAME.search(name) is not None and NO_SECRET.search(name) is None


def secrets_in(named: Mapping[str, Any]) -> set[str]:
    """Return the values of names that are those of secrets."""
    found: set[str] = set()
    for name, value in named.items():
        if is_name_of_secret(name):
            values = value if isinstance(value, list | tuple) else str(value).split(",")
            found.update(str(one).rpartition(":")[2] if "VAULT" in name else str(one) for one in values)
    return {one for one in found if worth_looking(one)}


def worth_looking(secret: str) -> bool:
    """Say whether a secret is long enough, and of enough different characters, to be looked for."""
    return len(secret) >= SHORTEST and len(set(secret)) > 2


def leaks(texts: Iterable[str], secrets: Iterable[str] = (), *, people: bool = False) -> list[str]:
    """Return the places in these texts where something stands that must not, with their surroundings."""
    texts = [text for text in texts if text]
    if not texts:
        return []
    wanted = [*map(re.escape, sorted(secrets)), TOKEN, *([PERSON] if people else [])]
    pattern = re.compile("|".join(wanted), re.IGNORECASE)
    found = ((text, pattern.search(text)) for text in texts)
    return [text[max(0, hit.start() - 200) : hit.end() + 60] for text, hit in found if hit]


def check_output(output: str, environment: Mapping[str, str]) -> None:
    """Fail when a process wrote one of the secrets that it was given."""
    found = leaks([output], secrets_in(environment))
    assert not found, f"a process wrote a secret: …{found[0]}…"
