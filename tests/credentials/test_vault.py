"""The vault: what is sealed opens in its own place, with its own key, and nowhere else."""

import base64
import hashlib
import logging
import string
import threading
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pytest_django import Settings

from credentials import vault
from credentials.models import HashKey
from tests.credentials.conftest import entry

PLACE = {"table": "tasks_task", "row": "7", "field": "sealed"}
CANARY = "canary-7f3a"
SEALED = (  # {"name": CANARY} at PLACE with the key k1
    "v1|k1|iYzY-mBR3NqqzyUFmVAvFRAcxnITcJpIgpToXHkswe4xio6l8sSJ5rPc8KDiJLffC3s="
)
SEALED_LAST_BUT_BITS = "t"  # for the last letter: base64 that says the same bytes

words = st.text(string.ascii_lowercase + "_", min_size=1, max_size=12)
places = st.fixed_dictionaries({"table": words, "row": words, "field": words})
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(value=values, place=places)
@example(value="\x00\ud800\U0001f33f", place=PLACE)
def test_what_is_sealed_opens_as_it_was(value: Any, place: dict[str, str]) -> None:
    assert vault.unseal(vault.seal(value, **place), **place) == value


@given(home=places, other=places)
def test_a_text_moved_to_another_place_does_not_open(home: dict[str, str], other: dict[str, str]) -> None:
    assume(home != other)
    with pytest.raises(vault.VaultError, match="belongs to another place"):
        vault.unseal(vault.seal(CANARY, **home), **other)


@pytest.mark.parametrize("part", ["table", "row", "field"])
def test_each_part_of_the_place_counts(part: str) -> None:
    text = vault.seal(CANARY, **PLACE)
    with pytest.raises(vault.VaultError, match="belongs to another place"):
        vault.unseal(text, **(PLACE | {part: "other"}))


@given(at=st.integers(0, len(SEALED) - 1), other=st.sampled_from(string.printable + "\x00ä"))
@example(at=SEALED.index("=") - 1, other=SEALED_LAST_BUT_BITS)
def test_no_changed_text_opens(at: int, other: str) -> None:
    changed = SEALED[:at] + other + SEALED[at + 1 :]
    assume(changed != SEALED)
    with pytest.raises(vault.VaultError) as caught:
        vault.unseal(changed, **PLACE)
    assert CANARY not in str(caught.value)


def test_what_an_earlier_version_sealed_still_opens() -> None:
    assert vault.unseal(SEALED, **PLACE) == {"name": CANARY}


@pytest.mark.parametrize(
    "text", ["", "plain words", "v2|k1|AAAA", "v1|k1", "v1|k1|!!!!", "v1|k1|AAAA", "v1|k 1|AAAA", "v1|k1|A"]
)
def test_a_text_that_was_never_sealed_is_called_so(text: str) -> None:
    with pytest.raises(vault.VaultError, match=r"not a (whole )?sealed text"):
        vault.unseal(text, **PLACE)


def test_the_same_value_never_gives_the_same_text() -> None:
    assert vault.seal(CANARY, **PLACE) != vault.seal(CANARY, **PLACE)


def test_a_sealed_text_names_its_format_and_key_and_hides_its_value() -> None:
    version, kid, blob = vault.seal(CANARY, **PLACE).split("|")
    assert (version, kid) == ("v1", "k1")
    assert CANARY.encode() not in base64.urlsafe_b64decode(blob)


@pytest.mark.parametrize("value", [float("nan"), object(), {"x": {1, 2}}, b"bytes"])
def test_only_json_can_be_sealed(value: Any) -> None:
    with pytest.raises(vault.VaultError, match="only JSON"):
        vault.seal(value, **PLACE)


# -- the key ring ------------------------------------------------------------------------------


def test_the_newest_key_seals_and_every_key_of_the_ring_opens(ring: Settings) -> None:
    old = vault.seal(CANARY, **PLACE)
    ring.VAULT_KEYS = [entry("k2", 2), entry("k1", 1)]
    assert vault.seal(CANARY, **PLACE).startswith("v1|k2|")
    assert vault.unseal(old, **PLACE) == CANARY


def test_a_missing_key_is_named_with_the_setting_that_must_hold_it(ring: Settings) -> None:
    text = vault.seal(CANARY, **PLACE)
    ring.VAULT_KEYS = [entry("k2", 2)]
    with pytest.raises(vault.KeyMissing) as caught:
        vault.unseal(text, **PLACE)
    assert str(caught.value) == (
        "tasks_task.sealed of 7 is sealed with the key 'k1', which VAULT_KEYS does not contain "
        "(it has: k2); add k1:<its base64> to VAULT_KEYS"
    )


def test_another_key_under_the_same_id_opens_nothing(ring: Settings) -> None:
    text = vault.seal(CANARY, **PLACE)
    ring.VAULT_KEYS = [entry("k1", 9)]
    with pytest.raises(vault.VaultError, match="another key under this id"):
        vault.unseal(text, **PLACE)


def test_a_text_cannot_be_relabelled_with_another_key_of_the_ring(ring: Settings) -> None:
    ring.VAULT_KEYS = [entry("k1", 1), entry("k2", 1)]
    text = vault.seal(CANARY, **PLACE).replace("|k1|", "|k2|")
    with pytest.raises(vault.VaultError, match="cannot be opened"):
        vault.unseal(text, **PLACE)


@given(key=st.binary(min_size=32, max_size=32), urlsafe=st.booleans(), padded=st.booleans())
def test_keys_are_read_from_any_base64(key: bytes, urlsafe: bool, padded: bool) -> None:
    encode = base64.urlsafe_b64encode if urlsafe else base64.standard_b64encode
    text = encode(key).decode()
    assert vault.parse_keys([f" k1:{text if padded else text.rstrip('=')}\n"]) == {"k1": key}


def test_keys_keep_their_order() -> None:
    assert list(vault.parse_keys([entry("b", 2), entry("a", 1)])) == ["b", "a"]


SECRET_KEY_TEXT = base64.b64encode(b"x" * 31).decode()


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "VAULT_KEYS is empty; expected kid:base64"),
        ([""], "entry 1: expected kid:base64"),
        ([SECRET_KEY_TEXT], "entry 1: expected kid:base64"),
        ([f"a b:{SECRET_KEY_TEXT}"], "entry 1: expected kid:base64"),
        ([entry("k1", 1), f"k2:{SECRET_KEY_TEXT}"], r"entry 2 \('k2'\): the key has 31 bytes, expected 32"),
        (["k1:"], "the key has 0 bytes"),
        (["k1:&&&&"], "the key is not base64"),
        (["k1:ää"], "the key is not base64"),
        ([entry("k1", 1), entry("k1", 2)], "key id 'k1' stands there twice"),
    ],
)
def test_a_malformed_key_is_refused_by_position_without_its_content(
    entries: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        vault.parse_keys(entries)
    assert SECRET_KEY_TEXT not in str(caught.value)


def test_the_vault_logs_nothing_and_its_errors_hold_no_value(
    caplog: pytest.LogCaptureFixture, ring: Settings
) -> None:
    caplog.set_level(logging.DEBUG)
    text = vault.seal(CANARY, **PLACE)
    ring.VAULT_KEYS = [entry("k2", 2)]
    errors = []
    for changed in (text, text[:-6], text.replace("k1", "k2")):
        with pytest.raises(vault.VaultError) as caught:
            vault.unseal(changed, **PLACE)
        errors.append(repr(caught.getrepr(showlocals=False)) + str(caught.value))
    with pytest.raises(vault.VaultError) as caught:
        vault.seal({CANARY: object()}, **PLACE)
    errors.append(str(caught.value))
    assert CANARY not in "".join(errors) + caplog.text
    assert text.split("|")[2][:20] not in "".join(errors)


# -- fingerprints ------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_fingerprint_is_keyed_and_the_same_in_every_process() -> None:
    first = vault.fingerprint("ann@example.test")
    vault.forget_hash_key()  # as another process would begin
    assert vault.fingerprint("ann@example.test") == first
    assert first != vault.fingerprint("bob@example.test")
    assert len(first) == 64
    assert first != hashlib.sha256(b"ann@example.test").hexdigest()


@pytest.mark.django_db
def test_a_fingerprint_needs_the_key_that_seals_its_own(ring: Settings) -> None:
    vault.fingerprint("x")
    vault.forget_hash_key()
    ring.VAULT_KEYS = [entry("k2", 2)]
    with pytest.raises(vault.KeyMissing, match=r"credentials_hashkey\.secret of fingerprint"):
        vault.fingerprint("x")


@pytest.mark.django_db(transaction=True)
def test_a_hash_key_that_was_rolled_back_is_not_used_again() -> None:
    with transaction.atomic():
        lost = vault.fingerprint("x")
        transaction.set_rollback(True)
    assert not HashKey.objects.exists()
    kept = vault.fingerprint("x")
    vault.forget_hash_key()
    assert vault.fingerprint("x") == kept != lost


@pytest.mark.django_db(transaction=True)
def test_a_committed_hash_key_is_read_once() -> None:
    with transaction.atomic():
        first = vault.fingerprint("x")
    HashKey.objects.all().delete()
    assert vault.fingerprint("x") == first


@pytest.mark.django_db(transaction=True)
def test_a_hash_key_is_forgotten_when_the_tables_are_emptied() -> None:
    lost = vault.fingerprint("x")
    call_command("flush", interactive=False)
    kept = vault.fingerprint("x")
    vault.forget_hash_key()
    assert vault.fingerprint("x") == kept != lost


@pytest.mark.django_db
def test_who_comes_second_uses_the_hash_key_of_the_first() -> None:
    rival: list[str] = []

    def interfere(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        """Let another process be first between our look and our insert."""
        if sql.lstrip().startswith("INSERT") and "credentials_hashkey" in sql and not rival:
            rival.append("")
            rival[0] = vault.fingerprint("x")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(interfere):
        assert vault.fingerprint("x") == rival[0]
    assert HashKey.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_thread_leaves_no_connection_behind() -> None:
    closed: list[bool] = []
    hashes: list[str] = []

    def work() -> None:
        close = connection.close
        connection.close = lambda: (close(), closed.append(True))  # type: ignore[method-assign,func-returns-value,assignment]
        hashes.append(vault.fingerprint("x"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert closed == [True]
    assert hashes == [vault.fingerprint("x")]
