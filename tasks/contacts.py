"""Who was written to, or wants no mail: a person as a keyed hash, and the link by which one leaves.

Neither the hash nor the link says who the person is; only who knows the address finds its mark.
"""

import base64
import re
from dataclasses import dataclass

from django.conf import settings
from django.core import signing

from credentials import vault

_SALT = "tasks.unsubscribe"
_LENGTH = 32  # hex digits: 128 bits
_LINK = re.compile(r"https?://[^\s\"'<>]{1,300}?/unsubscribe/([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")
_GOES_ON = re.compile(r"[A-Za-z0-9_-]")
_USUAL_WORDS = "No more mail like this:"


@dataclass(frozen=True, slots=True)
class Leaving:
    """What an unsubscribe link stands for: the hash of an address, and the CRM's id of its customer."""

    person: str
    customer_id: str

    @property
    def people(self) -> tuple[str, ...]:
        """The hashes under which the wish is kept: the address, and the customer if there is one."""
        return (self.person, *people_of(customer_id=self.customer_id))


def person_of_customer(customer_id: str) -> str:
    """Return the hash under which a customer of the CRM is marked."""
    return vault.fingerprint(f"customer:{customer_id}")[:_LENGTH]


def person_of_address(address: str) -> str:
    """Return the hash under which a mail address is marked; its case says nothing."""
    return vault.fingerprint(f"mail:{address.strip().casefold()}")[:_LENGTH]


def people_of(address: str = "", customer_id: str = "") -> tuple[str, ...]:
    """Return the hashes under which somebody is marked: as an address and as a customer, what is known."""
    as_address = (person_of_address(address),) if address else ()
    return (*as_address, person_of_customer(customer_id)) if customer_id else as_address


def unsubscribe_url(address: str, customer_id: str = "") -> str:
    """Return where the owner of this address says that no marketing mail is wanted: always the same."""
    said = bytes.fromhex(person_of_address(address)) + customer_id.encode()
    token = _signer().sign(base64.urlsafe_b64encode(said).decode().rstrip("="))
    return f"{settings.PUBLIC_URL}/unsubscribe/{token}"


def read_token(token: str) -> Leaving | None:
    """Return what a link of ours stands for, or None when it is none."""
    try:
        text = _signer().unsign(token)
    except signing.BadSignature:
        return None
    said = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return Leaving(said[: _LENGTH // 2].hex(), said[_LENGTH // 2 :].decode())


# -- in a text --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WayOut:
    """How a text says where one unsubscribes: the link, and the words before it with the link itself."""

    link: str
    line: str

    def is_in(self, text: str) -> bool:
        """Return whether the whole link stands in a text."""
        return any(not _GOES_ON.match(rest) for rest in text.split(self.link)[1:])


def way_out(text: str) -> WayOut | None:
    """Return how a text of ours says where its reader unsubscribes, or None when it does not."""
    found = next((one for one in _LINK.finditer(text) if read_token(one[1])), None)
    if found is None:
        return None
    before = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
    sentences = [one.strip() for one in re.split(r"(?<=[.!?])\s+", before) if one.strip()]
    return WayOut(found[0], f"{sentences[-1] if sentences else _USUAL_WORDS} {found[0]}")


def _signer() -> signing.Signer:
    # Mail programs end a link at a colon; what is signed has neither that nor a full stop.
    return signing.Signer(salt=_SALT, sep=".")
