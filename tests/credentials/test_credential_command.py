"""The credential command: secrets go in by the standard input and never come out."""

import io
import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from credentials import store, vault
from credentials.models import Credential
from sopengine import clock
from tests.credentials.conftest import entry
from tests.credentials.test_store import stored

pytestmark = pytest.mark.django_db

CANARY = "canary-secret-4321"


def credential(*words: str, typed: str = "", monkeypatch: pytest.MonkeyPatch | None = None) -> str:
    """Run the command with `typed` as its standard input; return what it printed."""
    printed = io.StringIO()
    if monkeypatch:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    call_command("credential", *words, stdout=printed, stderr=printed)
    return printed.getvalue()


def listed() -> list[dict[str, Any]]:
    """Return what `list --json` prints."""
    rows: list[dict[str, Any]] = json.loads(credential("list", "--json"))
    return rows


@pytest.mark.parametrize("line_end", ["", "\n", "\r\n"])
def test_set_reads_the_secret_from_the_standard_input(monkeypatch: pytest.MonkeyPatch, line_end: str) -> None:
    credential("set", "crm", typed=CANARY + line_end, monkeypatch=monkeypatch)
    assert store.secret_for("crm") == CANARY


def test_set_prompts_without_echo_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("ignored"))
    monkeypatch.setattr("getpass.getpass", lambda prompt: CANARY)
    credential("set", "crm")
    assert store.secret_for("crm") == CANARY


def test_set_takes_no_secret_as_an_argument() -> None:
    for words in (
        ["crm", CANARY],
        ["crm", "--kind", "api_key", CANARY],
        ["crm", "--token", CANARY],
        ["crm", f"--key={CANARY}"],
    ):
        with pytest.raises(
            CommandError, match="standard input or a prompt, never from the command line"
        ) as caught:
            credential("set", *words)
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize("typed", ["", "\n", "two\nlines\n"])
def test_set_refuses_what_is_no_secret(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    with pytest.raises(CommandError, match="one line of printable characters"):
        credential("set", "crm", typed=typed, monkeypatch=monkeypatch)
    assert not Credential.objects.exists()


def test_set_refuses_a_service_that_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="letters, numbers, underscores or hyphens"):
        credential("set", "my crm!", typed=CANARY, monkeypatch=monkeypatch)


def test_set_says_what_is_wrong_with_the_key_ring(monkeypatch: pytest.MonkeyPatch, ring: Settings) -> None:
    ring.VAULT_KEYS = ["nonsense"]
    with pytest.raises(CommandError, match="VAULT_KEYS, entry 1: expected kid:base64"):
        credential("set", "crm", typed=CANARY, monkeypatch=monkeypatch)


def test_set_keeps_label_scopes_and_date(monkeypatch: pytest.MonkeyPatch) -> None:
    credential(
        "set", "crm", "--label", "Office", "--scopes", "read write", "--expires-at", "2099-01-31T12:00",
        typed=CANARY, monkeypatch=monkeypatch,
    )  # fmt: skip
    [row] = listed()
    assert row["label"] == "Office"
    assert row["scopes"] == "read write"
    assert row["expires_at"].startswith("2099-01-31T18:00")  # noon in Chicago


@pytest.mark.parametrize("date", ["tomorrow", "2027-13-01T00:00"])
def test_set_refuses_a_date_that_is_none(date: str) -> None:
    with pytest.raises(CommandError, match="is not a moment; expected such as"):
        credential("set", "crm", "--expires-at", date)


@pytest.mark.parametrize(
    "date", ["2020-01-31T12:00", "9999-12-31T23:59", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00"]
)
def test_set_refuses_an_end_that_is_over_or_out_of_reach(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    with pytest.raises(CommandError, match="expected a moment from now on, within a hundred years"):
        credential("set", "crm", "--expires-at", date, typed=CANARY, monkeypatch=monkeypatch)
    assert not Credential.objects.exists()


@pytest.mark.parametrize("words", [["crm"], ["crm", "--kind", "api_key"]])
def test_revoke_says_that_no_setting_stands_in(ring: Settings, words: list[str]) -> None:
    stored(CANARY)
    assert "CRM_API_KEY" not in credential("revoke", *words)
    ring.CRM_API_KEY = "from-environment"
    stored(CANARY)
    said = credential("revoke", *words)
    assert "CRM_API_KEY is not used instead of it; store another one with: credential set crm" in said
    with pytest.raises(CommandError, match="CRM_API_KEY is not used instead of it"):
        credential("test", "crm")


def test_list_shows_everything_but_the_secret() -> None:
    row = stored(CANARY)
    [shown] = listed()
    assert shown["id"] == str(row.pk)
    assert (shown["service"], shown["kind"], shown["status"], shown["last4"]) == (
        "crm",
        "api_key",
        "active",
        "4321",
    )
    assert "secret" not in shown
    assert "crm" in credential("list")


def test_set_takes_a_refresh_token_for_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    credential(
        "set", "crm", "--kind", "oauth_token", "--refresh-token", typed=CANARY, monkeypatch=monkeypatch
    )
    row = Credential.objects.get()
    assert store.secret_of(row) == ""
    assert store.secret_for("crm", "oauth_token") is None
    assert row.refresh_token
    place = {"table": "credentials_credential", "row": str(row.pk), "field": "refresh_token"}
    assert vault.unseal(row.refresh_token, **place) == CANARY
    [shown] = listed()
    assert (shown["renews_itself"], shown["refused_at"]) == (True, None)
    assert CANARY not in str(shown)


def test_a_refresh_token_is_of_a_login_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="goes with --kind oauth_token"):
        credential("set", "crm", "--refresh-token", typed=CANARY, monkeypatch=monkeypatch)
    with pytest.raises(CommandError, match="one line of printable characters"):
        credential(
            "set", "crm", "--kind", "oauth_token", "--refresh-token", typed="\n", monkeypatch=monkeypatch
        )
    assert not Credential.objects.exists()


def test_test_opens_the_refresh_token_too(ring: Settings) -> None:
    row = stored(CANARY, kind=Credential.Kind.OAUTH_TOKEN)
    Credential.objects.update(refresh_token=row.secret)
    with pytest.raises(CommandError, match=r"refresh_token of .* belongs to another place"):
        credential("test", "crm", "--kind", "oauth_token")


def test_what_ends_or_was_refused_is_told(ring: Settings) -> None:
    stored(CANARY, expires_at=clock.now() + timedelta(days=5, minutes=1))
    store.mark_refused("crm", "auth")
    for said in (credential("list"), credential("test", "crm"), listed()[0]["remarks"]):
        assert "expires in 5 days" in said
        assert "refused by crm at 20" in said
    assert listed()[0]["status"] == "expiring"


def test_list_says_how_to_begin() -> None:
    assert "credential set" in credential("list")
    assert listed() == []


def test_test_says_where_the_secret_comes_from(ring: Settings) -> None:
    with pytest.raises(CommandError, match="no api_key for 'crm'"):
        credential("test", "crm")
    ring.CRM_API_KEY = CANARY
    assert "CRM_API_KEY" in credential("test", "crm")
    row = stored(CANARY)
    assert json.loads(credential("test", "crm", "--json")) == {
        "service": "crm",
        "kind": "api_key",
        "source": str(row.pk),
        "opens": True,
    }


def test_test_fails_when_the_secret_cannot_be_opened(ring: Settings) -> None:
    stored(CANARY)
    ring.VAULT_KEYS = [entry("k2", 2)]
    with pytest.raises(CommandError, match="add k1:<its base64> to VAULT_KEYS"):
        credential("test", "crm")


def test_revoke_keeps_the_row_and_takes_the_secret_out_of_use() -> None:
    row = stored(CANARY)
    credential("revoke", str(row.pk))
    assert store.secret_for("crm") is None
    assert listed()[0]["status"] == "revoked"


def test_revoke_by_service_reaches_only_the_kind_that_is_named() -> None:
    stored(CANARY)
    stored("hook", kind=Credential.Kind.WEBHOOK_SECRET)
    stored("other", service="slack")
    credential("revoke", "crm", "--kind", "webhook_secret")
    assert store.secret_for("crm") == CANARY
    credential("revoke", "crm")
    assert store.secret_for("crm") is None
    assert store.secret_for("slack") == "other"
    with pytest.raises(CommandError, match="Nothing in force is called 'crm'"):
        credential("revoke", "crm")


def test_rotate_keys_says_when_the_old_key_can_go(ring: Settings) -> None:
    stored(CANARY)
    vault.fingerprint("x")
    ring.VAULT_KEYS = [entry("k2", 2), entry("k1", 1)]
    said = credential("rotate-keys", "--batch", "1")
    assert "credentials.Credential secret: 1 re-encrypted done" in said
    assert "Everything is sealed with the key 'k2'" in said
    counts = json.loads(credential("rotate-keys", "--json"))
    assert {
        "model": "credentials.Credential",
        "field": "secret",
        "moved": 0,
        "closed": 0,
        "left": 0,
    } in counts


def test_rotate_keys_fails_and_names_the_row_that_no_key_opens(ring: Settings) -> None:
    row = stored(CANARY)
    ring.VAULT_KEYS = [entry("k2", 2)]
    printed = io.StringIO()
    with pytest.raises(CommandError, match="keep the older keys"):
        call_command("credential", "rotate-keys", stdout=printed, stderr=printed)
    assert f"credentials_credential.secret of {row.pk} is sealed with the key 'k1'" in printed.getvalue()


def test_rotate_keys_refuses_an_empty_batch() -> None:
    with pytest.raises(CommandError, match="not a number from 1"):
        credential("rotate-keys", "--batch", "0")


def test_no_verb_prints_or_logs_a_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ring: Settings
) -> None:
    caplog.set_level(logging.DEBUG)
    said = credential("set", "crm", typed=CANARY, monkeypatch=monkeypatch)
    said += credential("list") + credential("list", "--json") + credential("test", "crm")
    ring.VAULT_KEYS = [entry("k2", 2), entry("k1", 1)]
    said += credential("rotate-keys") + credential("revoke", "crm")
    assert CANARY not in said + caplog.text
    assert "4321" in said
