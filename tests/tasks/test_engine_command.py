"""`manage.py engine`: the engine by hand."""

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from pytest_django.fixtures import Settings

from credentials import vault
from sopengine import clock
from tasks import doctor, engine, journal
from tasks.models import Notification, Pulse, SpentKey, Task, TaskEvent
from tasks.outcome import Child, Done, Notice, Start
from tests.servers import free_port
from tests.tasks.runs import Probe, begun, fresh, published

REST = {"CRM_PROVIDER": "rest", "CRM_BASE_URL": "https://crm.example.com"}
pytestmark = pytest.mark.django_db(transaction=True)


def told(*arguments: str) -> Any:
    """Run the command with --json and return what it printed."""
    out = io.StringIO()
    call_command("engine", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def finding(about: str) -> doctor.Finding:
    """Return what the doctor finds about one thing."""
    return next(one for one in doctor.examine() if one.about == about)


# -- drain and sweep -------------------------------------------------------------------------------


def test_a_drain_runs_what_is_due_to_the_last_child_and_the_last_message(probe: Probe) -> None:
    published("probe.pure", slug="drain-child")
    probe.told["s1"] = lambda run: (
        Start([Child("drain-child", {}, key=str(n)) for n in range(3)])
        if run.sop == "drain-parent"
        else Done()
    )
    probe.told["s2"] = lambda _: Done(notify=(Notice("all three"),))
    task = begun(published("probe.read", "probe.pure", slug="drain-parent"))
    said = told("drain")
    assert fresh(task).status == "completed"
    assert (said["ended"], said["due"], said["messages_left"]) == (4, 0, 0)
    assert Notification.objects.get(task=task).state == Notification.State.SENT


def test_a_drain_with_a_time_limit_ends_when_it_is_over(probe: Probe) -> None:
    begun(published({"handler": "probe.read", "on_success": "s1"}))  # as no published SOP could
    said = told("drain", "--seconds", "0.3")
    assert said["due"] == 1
    assert said["steps"] > 1


def test_a_sweep_by_hand_is_kept_from_following_another_unless_forced() -> None:
    assert told("sweep")["ran"]
    assert not told("sweep")["ran"]
    assert told("sweep", "--force")["ran"]


# -- doctor ----------------------------------------------------------------------------------------


@pytest.fixture
def well(settings: Settings, tmp_path: Path) -> None:
    """An installation in order."""
    settings.EMAIL_FOLDER = str(tmp_path / "mail")
    journal.beat_once("sweep", 0)


def test_the_doctor_finds_nothing_wrong_in_an_installation_in_order(well: None) -> None:
    said = told("doctor")
    assert said["well"]
    assert {check["state"] for check in said["checks"]} == {"ok"}


def test_the_doctor_ends_with_an_error_and_names_what_is_broken(well: None) -> None:
    Pulse.objects.all().delete()
    out = io.StringIO()
    with pytest.raises(CommandError, match="Broken: Sweep"):
        call_command("engine", "doctor", stdout=out)
    assert "BROKEN" in out.getvalue()
    assert " 1. ok      Database" in out.getvalue()


def test_an_old_sweep_is_broken(well: None) -> None:
    Pulse.objects.update(at=clock.now() - timedelta(hours=5))
    assert finding("Sweep").state == "broken"
    assert "5 hours ago" in finding("Sweep").sentence


def test_work_that_has_been_due_for_long_is_broken(well: None, probe: Probe) -> None:
    task = begun(published("probe.pure"))
    assert finding("Due work").state == "ok"
    Task.objects.filter(pk=task.pk).update(wake_at=clock.now() - timedelta(hours=1))
    assert finding("Due work").state == "broken"


def test_a_handler_that_an_open_run_needs_and_nobody_registers_is_broken(well: None, probe: Probe) -> None:
    task = begun(published("probe.pure", "gone.handler"))
    assert finding("Handlers").state == "broken"
    assert "gone.handler" in finding("Handlers").sentence
    engine.signal([task.pk], "cancel")
    engine.drain()
    assert finding("Handlers").state == "ok"


def test_a_text_whose_key_is_not_in_the_ring_is_broken(well: None, settings: Settings, probe: Probe) -> None:
    vault.fingerprint("makes the installation's own key")
    settings.VAULT_KEYS = ["other:" + "B" * 43 + "="]
    assert finding("Vault").state == "broken"
    assert "'dev'" in finding("Vault").sentence
    settings.VAULT_KEYS = ["other:" + "B" * 43 + "=", "dev:" + "A" * 43 + "="]
    assert finding("Vault").state == "ok"


def test_a_row_sealed_with_a_key_that_is_gone_is_broken_though_the_first_text_opens(
    well: None, settings: Settings, probe: Probe
) -> None:
    task = begun(published("probe.pure"))
    Task.objects.filter(pk=task.pk).update(sealed="v1|lost|AAAA")
    assert finding("Vault").state == "broken"
    assert "lost" in finding("Vault").sentence


def test_a_missing_migration_is_broken_and_named(well: None) -> None:
    recorder = MigrationRecorder(connection)
    ((app, newest),) = MigrationLoader(connection).graph.leaf_nodes("tasks")
    recorder.record_unapplied(app, newest)
    try:
        found = doctor.examine()
        assert [one.about for one in found if one.state == "broken"] == ["Migrations"]
        assert f"{app}.{newest}" in found[1].sentence
    finally:
        recorder.record_applied(app, newest)


@pytest.mark.parametrize(
    ("changes", "about", "state"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:{port}/0"}, "Redis", "broken"),
        ({"CRM_PROVIDER": "nobody"}, "CRM", "broken"),
        ({"CRM_PROVIDER": "rest", "CRM_BASE_URL": ""}, "CRM", "broken"),
        (
            {"CRM_PROVIDER": "rest", "CRM_BASE_URL": "https://crm.example.com", "CRM_API_KEY": ""},
            "CRM",
            "note",
        ),
        (
            {"CRM_PROVIDER": "rest", "CRM_BASE_URL": "https://crm.example.com", "CRM_API_KEY": "k"},
            "CRM",
            "ok",
        ),
        ({"EMAIL_FOLDER": "/dev/null/mail"}, "Mail", "broken"),
        (
            {
                "EMAIL_FOLDER": "",
                "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                "EMAIL_HOST": "127.0.0.1",
                "EMAIL_PORT": "{port}",
            },
            "Mail",
            "broken",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_found(
    well: None, settings: Settings, changes: dict[str, str], about: str, state: str
) -> None:
    port = free_port()
    for name, value in changes.items():
        setattr(settings, name, value.format(port=port))
    assert finding(about).state == state


def test_parked_and_failed_runs_are_noted_and_not_broken(well: None, probe: Probe) -> None:
    paused = begun(published("probe.pure"))
    engine.signal([paused.pk], "pause")
    begun(published("gone.handler"))
    engine.drain()
    engine.signal([paused.pk], "pause")
    found = finding("Stopped runs")
    assert found.state == "note"
    assert "1 are parked" in found.sentence


def test_a_message_that_was_given_up_is_noted(well: None) -> None:
    Notification.objects.create(created_at=clock.now(), state=Notification.State.DEAD)
    assert finding("Messages to staff").state == "note"


# -- prune -----------------------------------------------------------------------------------------


def ended_long_ago(*tasks: Task) -> None:
    """Let these runs have ended 100 days ago."""
    ids = [task.pk for task in tasks]
    Task.objects.filter(pk__in=ids).update(finished_at=clock.now() - timedelta(days=100))


def test_prune_removes_old_ended_runs_keeps_their_keys_and_says_the_same_before(probe: Probe) -> None:
    published("probe.pure", slug="prune-child")
    probe.told["s1"] = lambda run: (
        Start([Child("prune-child", {}, key="only")]) if run.sop == "prune-parent" else Done()
    )
    version = published("probe.read", slug="prune-parent")
    whole, torn = begun(version, key="whole"), begun(published("probe.read", slug="torn"))
    young, still_open = begun(published("probe.pure")), begun(published("probe.pure"))
    call_command("engine", "drain", stdout=io.StringIO())
    Task.objects.filter(pk=still_open.pk).update(status="waiting", finished_at=None)
    child = Task.objects.get(parent=whole)
    ended_long_ago(whole, torn, child)
    Task.objects.filter(pk=young.pk).update(parent=torn)  # its parent is old, it is not

    expected = told("prune", "--dry-run")
    assert (expected["runs"], Task.objects.count()) == (2, 5)
    assert told("prune", "--older-than", "90d")["runs"] == 2
    assert set(Task.objects.values_list("pk", flat=True)) == {torn.pk, young.pk, still_open.pk}
    assert not TaskEvent.objects.filter(task__in=[whole.pk, child.pk]).exists()
    assert SpentKey.objects.count() == 2
    assert engine.start(version, {}, key="whole") is None


def test_prune_wants_a_span_of_time() -> None:
    with pytest.raises(CommandError, match="not a duration"):
        call_command("engine", "prune", "--older-than", "long")
