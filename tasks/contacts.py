"""Who was written to, or wants no mail: a person as a keyed hash, and the link by which one leaves.

Neither the hash nor the link says who the person is; only who knows the address finds its mark.
"""

import base64
from dataclasses import dataclass

from django.conf import settings
from django.core import signing

from credentials import vault

_SALT = "tasks.unsubscribe"
_LENGTH = 32  # hex digits: 128 bits


@dataclass(frozen=True, slots=True)
class Leaving:
    """What an unsubscribe link stands for: the hash of an address, and the CRM's id of its customer."""

    person: str
    customer_id: str


def person_of_customer(customer_id: str) -> str:
    """Return the hash under which a customer of the CRM is marked."""
    return vault.fingerprint(f"customer:{customer_id}")[:_LENGTH]


def person_of_address(address: str) -> str:
    """Return the hash under which a mail address is marked; its case says nothing."""
    return vault.fingerprint(f"mail:{address.strip().casefold()}")[:_LENGTH]


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


def _signer() -> signing.Signer:
    # Mail programs end a link at a colon; what is signed has neither that nor a full stop.
    return signing.Signer(salt=_SALT, sep=".")
