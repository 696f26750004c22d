"""System checks: what the settings allow one by one, but not together; E stops a start, W warns.

E001  a text sealed in the database cannot be opened with VAULT_KEYS      (check --deploy)
E002  the times of the engine do not fit into each other
E003  CRM_PROVIDER is no provider
E004  CHAT is no transport
E005  HOOKS names a scheme or a reader that is none
W001  the mock CRM serves with DEBUG off
W002  Redis may throw wake-ups away                                        (check --deploy)
W003  more database connections than the server gives                      (check --deploy)
W004  PUBLIC_URL or DEFAULT_FROM_EMAIL is that of the development          (check --deploy)
W005  SQLite with DEBUG off                                                (check --deploy)
W006  what CHAT names lacks something that it needs                         (check --deploy)
W007  MAIL_IN is on, and no source of HOOKS takes mail in
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import redis
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as Warned
from django.db import DatabaseError, connection

from credentials import vault
from credentials.models import HashKey
from crm.provider import load_providers, providers
from sopengine import sns
from sopengine.registry import Registry, UnknownName
from sopengine.signatures import schemes
from tasks.readers import readers
from tasks.transports import load_transports, transports

Apps = Sequence[AppConfig] | None
SHARE = 0.8  # of the server's connections that the processes of the Procfile may take
# Connections beside web and worker children: the worker's parent, beat, a release, a one-off command.
OTHER_CONNECTIONS = 4
RESERVED = "superuser_reserved_connections"


@register("engine")
def times_fit(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """A call ends before its step's deadline, that before the lease, and all before Celery's limits."""
    order = [
        ("ENGINE_CALL_TIMEOUT", settings.ENGINE_CALL_TIMEOUT),
        ("ENGINE_DEADLINE", settings.ENGINE_DEADLINE),
        ("ENGINE_LEASE", settings.ENGINE_LEASE),
        ("CELERY_TASK_SOFT_TIME_LIMIT", settings.CELERY_TASK_SOFT_TIME_LIMIT),
        ("CELERY_TASK_TIME_LIMIT", settings.CELERY_TASK_TIME_LIMIT),
        ("the broker's visibility_timeout", settings.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"]),
    ]
    problems = [
        f"{name} ({seconds:g} s) must be shorter than {next_name} ({longer:g} s)"
        for (name, seconds), (next_name, longer) in pairwise(order)
        if not seconds < longer
    ]
    drain = settings.ENGINE_SLICE + settings.ENGINE_DEADLINE
    if not drain < settings.CELERY_TASK_SOFT_TIME_LIMIT:
        problems.append(
            f"ENGINE_SLICE + ENGINE_DEADLINE ({drain:g} s) must be shorter than Celery's soft limit"
        )
    if not settings.ENGINE_SWEEP <= settings.ENGINE_LEASE:
        problems.append("ENGINE_SWEEP must not be longer than ENGINE_LEASE")
    return [Error(problem, id="sopengine.E002") for problem in problems]


@register("engine")
def names_are_known(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """What CRM_PROVIDER, CHAT and HOOKS name is there."""
    load_providers()
    load_transports()
    found: list[CheckMessage] = []
    if refused := _refusal(providers, settings.CRM_PROVIDER):
        found.append(Error(f"CRM_PROVIDER: {refused}", id="sopengine.E003"))
    if refused := _refusal(transports, settings.CHAT):
        found.append(Error(f"CHAT: {refused}", id="sopengine.E004"))
    for source, (scheme, reader) in settings.HOOKS.items():
        for refused in filter(None, (_refusal(schemes, scheme), _refusal(readers, reader))):
            found.append(Error(f"HOOKS: {source}: {refused}", id="sopengine.E005"))
    return found


@register("engine")
def mail_comes_in(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """With MAIL_IN our mail asks for answers to an address that something here reads."""
    if not settings.MAIL_IN or any(_hears_mail(*ways) for ways in settings.HOOKS.values()):
        return []
    text = "MAIL_IN is on, but no source of HOOKS takes mail in: answers to our mail would reach nobody"
    hint = "Give HOOKS a source for mail, such as mail=hmac:mail, or mail=sns with MAIL_SNS_TOPIC."
    return [Warned(text, hint=hint, id="sopengine.W007")]


def _hears_mail(scheme: str, reader: str) -> bool:
    if _refusal(readers, reader) or not readers.get(reader).hears_mail:
        return False
    return scheme != sns.SCHEME or bool(settings.MAIL_SNS_TOPIC)


@register("engine", deploy=True)
def chat_can_post(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """The transport that CHAT names has what it needs, such as an address and a secret."""
    load_transports()
    if settings.CHAT not in transports:
        return []  # names_are_known says so
    try:
        problem = transports.get(settings.CHAT)().problem()
    except DatabaseError:
        return []  # as for the vault: nothing is migrated yet, or nobody answers
    return [Warned(f"CHAT: {problem}", id="sopengine.W006")] if problem else []


def _refusal(registry: Registry[Any], name: str) -> str:
    """Return what a registry says against a name; "" when it knows it."""
    try:
        registry.get(name)
    except UnknownName as error:
        return str(error)
    return ""


@register("engine")
def mock_is_said_aloud(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """With DEBUG off the mock CRM is allowed, for a trial, but never silent."""
    if settings.DEBUG or settings.CRM_PROVIDER != "mock":
        return []
    return [Warned("CRM_PROVIDER is mock: no customer is real, mail goes to a folder", id="sopengine.W001")]


@register("engine", deploy=True)
def vault_opens(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """The one text that every installation has sealed, the key of its fingerprints, opens with VAULT_KEYS."""
    try:
        row = HashKey.objects.first()
    except DatabaseError:
        return []  # nothing is migrated yet, or nobody answers: the migration and /readyz say so
    if row is None:
        return []
    try:
        vault.unseal(row.secret, table=HashKey._meta.db_table, row=row.pk, field="secret")
    except vault.VaultError as error:
        return [Error(str(error), id="sopengine.E001")]
    return []


@register("engine", deploy=True)
def redis_keeps_wakeups(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """Redis refuses when it is full; it must not throw our messages away."""
    if not settings.REDIS_URL:
        return []
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2) as client:
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except (redis.RedisError, OSError):
        return []  # it forbids CONFIG, as hosted ones do, or is not there yet
    if policy == "noeviction":
        return []
    text = f"Redis has maxmemory-policy {policy}; expected noeviction, or work waits for the sweep"
    return [Warned(text, id="sopengine.W002")]


@register("engine", deploy=True)
def connections_suffice(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """All processes of the Procfile together stay below most of what PostgreSQL gives."""
    if connection.vendor != "postgresql":
        return []
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('max_connections'), current_setting(%s)", [RESERVED])
            most, reserved = (int(text) for text in cursor.fetchone())
    except DatabaseError:
        return []
    needed = settings.WEB_CONCURRENCY * settings.WEB_THREADS + settings.WORKER_CONCURRENCY + OTHER_CONNECTIONS
    if needed <= SHARE * (most - reserved):
        return []
    web = f"web ({settings.WEB_CONCURRENCY} x {settings.WEB_THREADS})"
    text = (
        f"{web}, worker ({settings.WORKER_CONCURRENCY}) and {OTHER_CONNECTIONS} others need {needed} "
        f"connections; PostgreSQL gives {most - reserved}"
    )
    hint = "Lower WEB_CONCURRENCY, WEB_THREADS or WORKER_CONCURRENCY."
    return [Warned(text, hint=hint, id="sopengine.W003")]


@register("engine", deploy=True)
def links_and_senders_are_ours(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """Links in messages lead here, and mail comes from the firm."""
    found: list[CheckMessage] = []
    if not settings.PUBLIC_URL.startswith("https://"):
        found.append(Warned("PUBLIC_URL: expected the https:// address of this site", id="sopengine.W004"))
    if settings.DEFAULT_FROM_EMAIL.rstrip(">").endswith("example.test"):
        found.append(Warned("DEFAULT_FROM_EMAIL: expected an address of the firm", id="sopengine.W004"))
    return found


@register("engine", deploy=True)
def database_is_shared(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """Where web and worker run on machines of their own, a file of one is not seen by the other."""
    if connection.vendor != "sqlite":
        return []
    text = "DATABASE_URL is a SQLite file: good for one machine; expected postgres:// where there are more"
    return [Warned(text, id="sopengine.W005")]
