"""The vault: values of customers and secrets of other systems, encrypted for one place in one table.

A sealed text is `v1|<key id>|<base64url of nonce and ciphertext>`, AES-256-GCM. The place (table,
row, field) and the key's id are authenticated with it, so a text copied to another row, field or
table cannot be opened there. `VAULT_KEYS` is the key ring, newest first: the first key seals, every
key opens. What a key of the ring cannot open stays closed.

A key may seal 2^32 values before its random nonces become a risk; `credential rotate-keys` moves
everything to a new key long before.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.apps import apps
from django.conf import settings
from django.db import connection, models, transaction

from credentials.threads import own_connection

_FORMAT = "v1"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,40}")
_MAKE_ONE = "make one with: openssl rand -base64 32"


class VaultError(Exception):
    """A sealed text cannot be opened, or a value cannot be sealed. The sentence holds no value."""


class KeyMissing(VaultError):
    """The text was sealed with a key that `VAULT_KEYS` does not contain."""


class BadKeys(VaultError, ValueError):
    """`VAULT_KEYS` is not a list of kid:base64 entries."""


# -- the key ring ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ring:
    newest: str
    ciphers: dict[str, AESGCM]


def parse_keys(entries: Sequence[str]) -> dict[str, bytes]:
    """Return the 32-byte keys of `kid:base64` entries by key id, in their order (newest first).

    Standard and URL-safe base64 are read, padded or not. BadKeys says which entry is wrong and
    what is expected, never what the entry holds.
    """
    keys: dict[str, bytes] = {}
    for position, entry in enumerate(entries, start=1):
        kid, colon, text = entry.strip().partition(":")
        where = f"VAULT_KEYS, entry {position}"
        if not colon or not _KEY_ID.fullmatch(kid):
            raise BadKeys(
                f"{where}: expected kid:base64, where kid is 1 to 40 letters, digits, dots, dashes "
                f"or underscores; {_MAKE_ONE}"
            )
        if kid in keys:
            raise BadKeys(f"{where}: key id {kid!r} stands there twice; every key needs its own id")
        keys[kid] = _decoded_key(text.strip(), f"{where} ({kid!r})")
    if not keys:
        raise BadKeys(f"VAULT_KEYS is empty; expected kid:base64, newest first; {_MAKE_ONE}")
    return keys


def _decoded_key(text: str, where: str) -> bytes:
    """Return the key that `text` holds as base64, or raise BadKeys."""
    try:
        key = base64.b64decode(_padded(text.replace("-", "+").replace("_", "/")), validate=True)
    except (binascii.Error, ValueError):
        raise BadKeys(f"{where}: the key is not base64; {_MAKE_ONE}") from None
    if len(key) != _KEY_BYTES:
        raise BadKeys(f"{where}: the key has {len(key)} bytes, expected {_KEY_BYTES}; {_MAKE_ONE}")
    return key


def _padded(text: str) -> str:
    bare = text.rstrip("=")
    return bare + "=" * (-len(bare) % 4)


@lru_cache(maxsize=8)
def _ring_of(entries: tuple[str, ...]) -> _Ring:
    keys = parse_keys(entries)
    return _Ring(newest=next(iter(keys)), ciphers={kid: AESGCM(key) for kid, key in keys.items()})


def _ring() -> _Ring:
    """Return the ring of the present settings; the ciphers of one ring are made once."""
    return _ring_of(tuple(settings.VAULT_KEYS))


def sealed_prefix() -> str:
    """Return how every text begins that the newest key has sealed."""
    return f"{_FORMAT}|{_ring().newest}|"


# -- seal and unseal ---------------------------------------------------------------------------


def seal(value: Any, *, table: str, row: str, field: str) -> str:
    """Return `value` (JSON) as a text that only this field of this row of this table can open.

    VaultError if the value is not JSON: no NaN, no dates, no objects.
    """
    try:
        plain = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise VaultError(f"{table}.{field} of {row}: only JSON values can be sealed") from None
    ring = _ring()
    nonce = os.urandom(_NONCE_BYTES)
    cipher = ring.ciphers[ring.newest].encrypt(
        nonce, plain.encode("utf-8", "surrogatepass"), _place(table, row, field, ring.newest)
    )
    return f"{_FORMAT}|{ring.newest}|{base64.urlsafe_b64encode(nonce + cipher).decode()}"


def unseal(text: str, *, table: str, row: str, field: str) -> Any:
    """Return the value that `seal` was given for the same table, row and field.

    KeyMissing if the ring lacks the key; VaultError if the text was changed, moved here from
    another place, or never sealed.
    """
    kid, blob = _parts(text, f"{table}.{field} of {row}")
    ring = _ring()
    cipher = ring.ciphers.get(kid)
    if cipher is None:
        raise KeyMissing(
            f"{table}.{field} of {row} is sealed with the key {kid!r}, which VAULT_KEYS does not contain "
            f"(it has: {', '.join(ring.ciphers)}); add {kid}:<its base64> to VAULT_KEYS"
        )
    try:
        plain = cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], _place(table, row, field, kid))
    except InvalidTag:
        raise VaultError(
            f"{table}.{field} of {row} cannot be opened with the key {kid!r}: the text was changed, "
            f"belongs to another place, or VAULT_KEYS holds another key under this id"
        ) from None
    return json.loads(plain.decode("utf-8", "surrogatepass"))


def _place(table: str, row: str, field: str, kid: str) -> bytes:
    return f"{table}|{row}|{field}|{kid}".encode()


def _parts(text: str, where: str) -> tuple[str, bytes]:
    """Return the key id and the bytes (nonce, ciphertext) of a sealed text."""
    fields = text.split("|")
    if len(fields) != 3 or fields[0] != _FORMAT or not _KEY_ID.fullmatch(fields[1]):
        raise VaultError(f"{where} is not a sealed text; expected {_FORMAT}|key id|base64")
    try:
        blob = base64.urlsafe_b64decode(fields[2])
    except (binascii.Error, ValueError):
        blob = b""
    if not blob or base64.urlsafe_b64encode(blob).decode() != fields[2]:  # one value has one text
        raise VaultError(f"{where} is not a sealed text; its last part is not base64")
    if len(blob) <= _NONCE_BYTES:
        raise VaultError(f"{where} is not a whole sealed text; its end is missing")
    return fields[1], blob


# -- fingerprints ------------------------------------------------------------------------------

_HASH_KEY = "fingerprint"
_hash_key: bytes | None = None


def fingerprint(text: str) -> str:
    """Return the keyed hash of `text`, 64 hex digits: the same in every process and for ever.

    Its key is a row of its own, sealed like everything else, so changing VAULT_KEYS does not change
    a hash. For what must be recognised again but not read: idempotency keys, suppression lists.
    """
    key = _hash_key or _read_hash_key()
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def forget_hash_key(**_signal: Any) -> None:
    """Read the fingerprint's key again at its next use, as after the tables were emptied."""
    global _hash_key
    _hash_key = None


def _read_hash_key() -> bytes:
    """Return the fingerprint's key, made by whoever needs it first, and keep it in this process.

    It is kept only once it is committed: a key that a rollback took away must hash nothing more.
    """
    with own_connection():
        rows: models.Manager[Any] = apps.get_model("credentials", "HashKey").objects
        place = {"table": rows.model._meta.db_table, "row": _HASH_KEY, "field": "secret"}
        text = rows.filter(pk=_HASH_KEY).values_list("secret", flat=True).first()
        if text is None:
            fresh = seal(base64.b64encode(os.urandom(_KEY_BYTES)).decode(), **place)
            rows.bulk_create([rows.model(name=_HASH_KEY, secret=fresh)], ignore_conflicts=True)
            text = rows.values_list("secret", flat=True).get(pk=_HASH_KEY)
        key = base64.b64decode(unseal(text, **place))
        if connection.in_atomic_block:
            transaction.on_commit(lambda: _keep_hash_key(key))
        else:
            _keep_hash_key(key)
    return key


def _keep_hash_key(key: bytes) -> None:
    global _hash_key
    _hash_key = key


# -- signatures of others ----------------------------------------------------------------------


def is_signed_by(certificate: bytes, signature: bytes, text: bytes, *, digest: str) -> bool:
    """Whether the RSA key in this PEM certificate made the signature (PKCS #1 v1.5; digest: sha1, sha256).

    Whose certificate it is, is for the caller to know: only from where it came can say that.
    """
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
    except ValueError:
        return False
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    by = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256()}[digest]  # noqa: S303 - the sender's choice  # nosec B303
    try:
        key.verify(signature, text, padding.PKCS1v15(), by)
    except InvalidSignature:
        return False
    return True


# -- which columns are sealed ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class SealedColumn:
    """One column that holds sealed texts: the model as "app.Model", and the field."""

    model: str
    field: str


sealed_columns: set[SealedColumn] = set()


def register_sealed(model: str, *fields: str) -> None:
    """Say that these fields of "app.Model" are sealed with its table, its primary key and their name.

    Called beside the model; `credential rotate-keys` re-encrypts what is registered.
    """
    sealed_columns.update(SealedColumn(model, field) for field in fields)
