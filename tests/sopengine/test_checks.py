"""The system checks: each finds what it is for, and nothing on a sound installation."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.db import connection
from pytest_django import Settings

from credentials import vault
from credentials.models import HashKey
from sopengine import checks
from tests.servers import Redis


def ids(check: Callable[..., list[CheckMessage]]) -> list[str]:
    return [str(message.id) for message in check(None)]


def test_the_times_of_production_fit() -> None:
    assert ids(checks.times_fit) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"ENGINE_CALL_TIMEOUT": 45.0},
            "ENGINE_CALL_TIMEOUT (45 s) must be shorter than ENGINE_DEADLINE (45 s)",
        ),
        ({"ENGINE_DEADLINE": 61.0}, "ENGINE_DEADLINE (61 s) must be shorter than ENGINE_LEASE (60 s)"),
        (
            {"ENGINE_LEASE": 900.0},
            "ENGINE_LEASE (900 s) must be shorter than CELERY_TASK_SOFT_TIME_LIMIT (150 s)",
        ),
        (
            {"ENGINE_SLICE": 120.0},
            "ENGINE_SLICE + ENGINE_DEADLINE (165 s) must be shorter than Celery's soft limit",
        ),
        ({"ENGINE_SWEEP": 90.0}, "ENGINE_SWEEP must not be longer than ENGINE_LEASE"),
        (
            {"CELERY_TASK_TIME_LIMIT": 4000},
            "CELERY_TASK_TIME_LIMIT (4000 s) must be shorter than the broker's",
        ),
    ],
)
def test_times_that_do_not_fit_are_named(settings: Settings, changes: dict[str, Any], said: str) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    messages = checks.times_fit(None)
    assert {message.id for message in messages} == {"sopengine.E002"}
    assert any(message.msg.startswith(said) for message in messages)


def test_a_hook_that_nobody_can_check_or_read_is_named(settings: Settings) -> None:
    settings.HOOKS = {"mail": ("sns", "sns"), "jobs": ("md5", "csv")}
    scheme, reader = checks.names_are_known(None)
    assert {scheme.id, reader.id} == {"sopengine.E005"}
    assert scheme.msg.startswith("HOOKS: jobs: unknown signature scheme 'md5'; known: hmac, sha256")
    assert reader.msg.startswith("HOOKS: jobs: unknown reader 'csv'; known: form, json, mail")


@pytest.mark.parametrize(
    ("hooks", "topics", "found"),
    [
        ({}, [], ["sopengine.W007"]),
        ({"jobs": ("sha256", "json"), "site": ("token", "form")}, [], ["sopengine.W007"]),
        ({"mail": ("sns", "sns")}, [], ["sopengine.W007"]),
        ({"mail": ("sns", "sns")}, ["arn:aws:sns:us-east-1:1:mail"], []),
        ({"jobs": ("sha256", "json"), "office": ("hmac", "mail")}, [], []),
        ({"mail": ("hmac", "nosuch")}, [], ["sopengine.W007"]),
    ],
)
def test_mail_in_without_a_source_for_mail_is_warned_of(
    settings: Settings, hooks: dict[str, tuple[str, str]], topics: list[str], found: list[str]
) -> None:
    settings.HOOKS, settings.MAIL_SNS_TOPIC, settings.MAIL_IN = hooks, topics, True
    assert ids(checks.mail_comes_in) == found
    settings.MAIL_IN = False
    assert ids(checks.mail_comes_in) == []


def test_unknown_providers_and_transports_are_named_with_those_there_are(settings: Settings) -> None:
    assert ids(checks.names_are_known) == []
    settings.CRM_PROVIDER, settings.CHAT = "nosuch", "pigeon"
    provider, transport = checks.names_are_known(None)
    assert (provider.id, transport.id) == ("sopengine.E003", "sopengine.E004")
    assert "mock" in provider.msg
    assert "console" in transport.msg


@pytest.mark.django_db
def test_slack_without_a_token_is_warned_of(settings: Settings) -> None:
    settings.CHAT, settings.SLACK_BOT_TOKEN = "slack", ""
    assert ids(checks.names_are_known) == []
    (message,) = checks.chat_can_post(None)
    assert message.id == "sopengine.W006"
    assert "SLACK_BOT_TOKEN" in message.msg


@pytest.mark.django_db
def test_a_chat_that_lacks_what_it_needs_is_warned_of(settings: Settings) -> None:
    assert ids(checks.chat_can_post) == []
    settings.CHAT, settings.CHAT_WEBHOOK_URL = "webhook", ""
    assert ids(checks.names_are_known) == []
    (message,) = checks.chat_can_post(None)
    assert message.id == "sopengine.W006"
    assert "CHAT_WEBHOOK_URL is not set" in message.msg
    settings.CHAT_WEBHOOK_URL = "https://chat.example.com/1"
    settings.CHAT_WEBHOOK_SECRET = "whsec_" + "A" * 32
    assert ids(checks.chat_can_post) == []
    settings.CHAT = "pigeon"
    assert ids(checks.chat_can_post) == []


def test_the_mock_is_said_aloud_with_debug_off(settings: Settings) -> None:
    settings.DEBUG, settings.CRM_PROVIDER = False, "mock"
    assert ids(checks.mock_is_said_aloud) == ["sopengine.W001"]
    settings.CRM_PROVIDER = "rest"
    assert ids(checks.mock_is_said_aloud) == []
    settings.DEBUG, settings.CRM_PROVIDER = True, "mock"
    assert ids(checks.mock_is_said_aloud) == []


@pytest.mark.django_db
def test_a_vault_that_lost_its_key_is_an_error(settings: Settings) -> None:
    assert ids(checks.vault_opens) == []  # nothing is sealed yet
    row = HashKey(name="probe")
    row.secret = vault.seal("x", table=HashKey._meta.db_table, row=row.pk, field="secret")
    row.save()
    assert ids(checks.vault_opens) == []
    settings.VAULT_KEYS = ["other:" + "B" * 43 + "="]
    (message,) = checks.vault_opens(None)
    assert message.id == "sopengine.E001"
    assert "VAULT_KEYS does not contain" in message.msg


def test_a_redis_that_throws_messages_away_is_warned_of(settings: Settings, redis_server: Redis) -> None:
    settings.REDIS_URL = redis_server.url
    assert ids(checks.redis_keeps_wakeups) == []
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert ids(checks.redis_keeps_wakeups) == ["sopengine.W002"]
        client.config_set("maxmemory-policy", "noeviction")


def test_a_redis_that_is_not_there_does_not_stop_a_release(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert ids(checks.redis_keeps_wakeups) == []


@pytest.mark.django_db
def test_more_connections_than_the_server_gives_are_warned_of(settings: Settings) -> None:
    settings.WEB_CONCURRENCY = 500
    expected = ["sopengine.W003"] if connection.vendor == "postgresql" else []
    assert ids(checks.connections_suffice) == expected
    settings.WEB_CONCURRENCY = 2
    assert ids(checks.connections_suffice) == []


def test_links_and_senders_of_the_development_are_warned_of(settings: Settings) -> None:
    assert ids(checks.links_and_senders_are_ours) == ["sopengine.W004"] * 2
    settings.PUBLIC_URL, settings.DEFAULT_FROM_EMAIL = "https://sop.example.com", "Office <a@example.com>"
    assert ids(checks.links_and_senders_are_ours) == []
