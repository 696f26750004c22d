"""Ids as people type them: the first characters of a UUID, as long as they mean one row."""

import re
from typing import TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet

SHORTEST = 6
_HEX = re.compile(rf"[0-9a-f]{{{SHORTEST},32}}")

M = TypeVar("M", bound=Model)


class NoSuchId(LookupError):
    """No row, or more than one, has an id that begins like this; the message says which."""


def short(id_: UUID | str) -> str:
    """Return the eight characters by which people and logs name a row."""
    return str(id_)[:8]


def find(rows: QuerySet[M], typed: str) -> M:
    """Return the one row whose id begins with `typed`, hyphens or not; NoSuchId when there is not one."""
    name = rows.model._meta.verbose_name
    digits = typed.strip().lower().replace("-", "")
    if not _HEX.fullmatch(digits):
        raise NoSuchId(f"{typed!r} is no id of a {name}; expected its first {SHORTEST} characters or more.")
    first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    found = list(rows.filter(pk__gte=first, pk__lte=last).order_by("pk")[:2])
    if not found:
        raise NoSuchId(f"There is no {name} {typed!r}.")
    if len(found) > 1:
        raise NoSuchId(f"More than one {name} begins with {typed!r}; type more of it.")
    return found[0]
