"""The doctor: is everything there that the engine needs, and does the work move?

Each check is one sentence. `broken` stops work or loses it from sight; `note` asks for a look.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import redis
from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Min

from credentials import vault
from credentials.models import HashKey
from crm.access import access_for
from crm.service import open_service
from sopengine.errors import StepError
from tasks import definition, journal
from tasks.models import Notification, Pulse, SopVersion, Task
from tasks.outcome import handlers

State = Literal["ok", "note", "broken"]
SECONDS = 3.0  # that Redis or a mail server may take to answer
OPEN = (Task.Status.READY, Task.Status.RUNNING, Task.Status.WAITING, Task.Status.PAUSED)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found."""

    about: str
    state: State
    sentence: str


def examine() -> list[Finding]:
    """Make every check; what needs the database is left out when it does not answer."""
    found = [_database()]
    if found[0].state == "ok":
        found.append(_migrations())
    if all(one.state == "ok" for one in found):
        found += [check() for check in WITH_TABLES]
    return [*found, _redis(), _mail()]


# -- the ground ----------------------------------------------------------------------------------


def _database() -> Finding:
    try:
        moment = journal.database_now()
    except DatabaseError as error:
        return Finding(
            "Database", "broken", f"It does not answer ({type(error).__name__}); see DATABASE_URL."
        )
    name = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}.get(connection.vendor, connection.vendor)
    return Finding("Database", "ok", f"{name} answers; its clock shows {moment:%Y-%m-%d %H:%M:%S} UTC.")


def _migrations() -> Finding:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing[:3])
        return Finding(
            "Migrations", "broken", f"{len(missing)} are not applied ({names} …); run manage.py migrate."
        )
    return Finding("Migrations", "ok", "All are applied.")


def _redis() -> Finding:
    if not settings.REDIS_URL:
        said = "Not used: only serve, demo and engine drain run steps; a live site needs REDIS_URL."
        return Finding("Redis", "ok", said)
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=None
    )
    try:
        with client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        why = type(error).__name__
        return Finding(
            "Redis", "broken", f"It does not answer ({why}); workers hear of work only by their own sweep."
        )
    return Finding("Redis", "ok", "It answers.")


def _mail() -> Finding:
    """Tell where mail goes, and whether it can; a server is greeted, and no mail is sent."""
    if settings.EMAIL_FOLDER:
        return _mail_folder(Path(settings.EMAIL_FOLDER))
    if not settings.EMAIL_BACKEND.endswith("smtp.EmailBackend"):
        return Finding("Mail", "ok", f"It goes to {settings.EMAIL_BACKEND.rsplit('.', 2)[-2]}.")
    where = f"{settings.EMAIL_HOST}:{settings.EMAIL_PORT}"
    try:
        socket.create_connection((settings.EMAIL_HOST, settings.EMAIL_PORT), timeout=SECONDS).close()
    except OSError as error:
        return Finding("Mail", "broken", f"The server {where} does not answer ({type(error).__name__}).")
    return Finding("Mail", "ok", f"The server {where} answers.")


def _mail_folder(folder: Path) -> Finding:
    why = " because the CRM is the mock" if settings.CRM_PROVIDER == "mock" else ""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return Finding("Mail", "broken", f"It goes to the folder {folder}, which cannot be written.")
    return Finding("Mail", "ok", f"It goes to the folder {folder}{why}; no customer gets any.")


# -- the work ------------------------------------------------------------------------------------


def _sweep() -> Finding:
    swept = Pulse.objects.filter(name="sweep").values_list("at", flat=True).first()
    if swept is None:
        return Finding(
            "Sweep",
            "broken",
            "There was none yet; start a worker, beat or manage.py serve, or run engine sweep.",
        )
    age = (journal.database_now() - swept).total_seconds()
    if age > settings.READY_SWEEP_AGE:
        return Finding(
            "Sweep",
            "broken",
            f"The last one was {_long(age)} ago, expected at most {settings.READY_SWEEP_AGE:g} s; "
            "is a worker running?",
        )
    return Finding("Sweep", "ok", f"The last one was {_long(age)} ago.")


def _overdue() -> Finding:
    now = journal.database_now()
    first = Task.objects.filter(wake_at__lte=now).aggregate(first=Min("wake_at"))["first"]
    if first is None:
        return Finding("Due work", "ok", "No run is due.")
    age = (now - first).total_seconds()
    said = f"{journal.due_count()} runs are due, the oldest for {_long(age)}"
    if age > settings.READY_OVERDUE:
        return Finding("Due work", "broken", f"{said}; expected at most {settings.READY_OVERDUE:g} s.")
    return Finding("Due work", "ok", f"{said}.")


def _brake() -> Finding:
    if journal.braked():
        return Finding(
            "Workers",
            "broken",
            "They died again and again without finishing a step; nothing is begun for some minutes.",
        )
    return Finding("Workers", "ok", "None died again and again.")


def _vault() -> Finding:
    """Open one sealed text of each key that any table was sealed with."""
    try:
        row = HashKey.objects.first()
        if row is not None:
            vault.unseal(row.secret, table=HashKey._meta.db_table, row=str(row.pk), field="secret")
    except vault.VaultError as error:
        return Finding("Vault", "broken", f"{error}.")
    held = vault.parse_keys(settings.VAULT_KEYS)
    strange = sorted(_keys_in_use() - set(held))
    if strange:
        return Finding(
            "Vault",
            "broken",
            f"Texts are sealed with the key {', '.join(strange)}, which VAULT_KEYS does not contain.",
        )
    return Finding("Vault", "ok", f"VAULT_KEYS opens what is sealed (newest key: {next(iter(held))}).")


def _keys_in_use() -> set[str]:
    """Return the ids of the keys that sealed the newest texts of each sealed column."""
    kids: set[str] = set()
    for column in vault.sealed_columns:
        rows = apps.get_model(column.model)._default_manager.exclude(**{f"{column.field}__isnull": True})
        for text in rows.order_by("-pk").values_list(column.field, flat=True)[:1000]:
            kids.update(str(text).split("|")[1:2])
    return kids


def _handlers() -> Finding:
    """Every step that an open run may still come to has its handler."""
    missing = sorted(set(_missing_handlers()))
    if missing:
        return Finding(
            "Handlers",
            "broken",
            f"Open runs need {', '.join(missing)}, which nothing registers; see PLUGINS.",
        )
    return Finding("Handlers", "ok", "Those of all open runs are there.")


def _missing_handlers() -> Iterator[str]:
    used = Task.objects.filter(status__in=OPEN).order_by().values("version").distinct()
    for version in SopVersion.objects.filter(pk__in=used):
        for step in definition.from_json(version.definition).steps:
            if step.handler not in handlers:
                yield step.handler


def _crm() -> Finding:
    """The CRM is set; nobody is called (`crm status` does that)."""
    try:
        crm = open_service()
        access = access_for(crm.service)
        login = None if crm.is_mock else access.fingerprint()
    except (StepError, vault.VaultError) as error:
        return Finding("CRM", "broken", str(error))
    if crm.is_mock:
        return Finding("CRM", "ok", "It is the mock: no customer is real.")
    if crm.provider_name == "rest" and not settings.CRM_BASE_URL:
        return Finding("CRM", "broken", "CRM_BASE_URL is not set; expected the address of the CRM.")
    where = urlsplit(settings.CRM_BASE_URL).hostname or "its own address"
    if not login:
        return Finding("CRM", "note", f"{crm.provider_name} at {where}. {access.missing()}")
    return Finding("CRM", "ok", f"{crm.provider_name} at {where}, with a login; crm status asks it.")


def _parked() -> Finding:
    parked = Task.objects.filter(status=Task.Status.PAUSED).exclude(reason="paused").count()
    failed = Task.objects.filter(status=Task.Status.FAILED).count()
    if parked or failed:
        return Finding(
            "Stopped runs", "note", f"{parked} are parked and {failed} have failed; see manage.py task list."
        )
    return Finding("Stopped runs", "ok", "None is parked, none has failed.")


def _messages() -> Finding:
    dead = Notification.objects.filter(state=Notification.State.DEAD).count()
    late = Notification.objects.filter(wake_at__lte=journal.database_now(), attempts__gt=1).count()
    if dead or late:
        return Finding(
            "Messages to staff",
            "note",
            f"{late} could not be posted yet and {dead} were given up; see CHAT ({settings.CHAT}).",
        )
    return Finding("Messages to staff", "ok", f"All are posted ({settings.CHAT}).")


def _long(seconds: float) -> str:
    """Return a span as people say it."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


WITH_TABLES: Sequence[Callable[[], Finding]] = (
    _vault,
    _sweep,
    _overdue,
    _brake,
    _handlers,
    _crm,
    _parked,
    _messages,
)
