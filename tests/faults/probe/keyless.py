"""CRMs over REST that say honestly that they ignore idempotency keys."""

from collections.abc import Mapping
from typing import ClassVar

from crm.provider import Can, providers
from crm.providers.rest import Rest


@providers.register("keyless")
class Keyless(Rest):
    """The REST contract without its keys: a repeat must look first."""

    idempotency = None


@providers.register("blind")
class Blind(Keyless):
    """And which cannot list notes either: nobody can look."""

    can: ClassVar[Mapping[str, Can]] = {**Rest.can, "notes": Can({"create"})}
