"""Laws of the staff site: who sees what, what is for reading only, and that every page serves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from tasks import admin_skin
from tasks.models import Approval, Notification, ScheduledRun, Sop, SopVersion, Task, TaskEvent
from tests.servers import ROOT
from tests.tasks.office import ACTS, SEES, asking, live, person, seen

pytestmark = pytest.mark.django_db

LISTS = ("sop", "task", "approval", "sopversion", "scheduledrun", "notification", "taskevent")


@pytest.fixture
def boss(admin_client: Client) -> Client:
    """Who may do everything."""
    return admin_client


@pytest.mark.parametrize("name", LISTS)
def test_each_list_serves_empty_and_with_rows(boss: Client, name: str) -> None:
    address = reverse(f"admin:tasks_{name}_changelist")
    seen(boss.get(address))
    asking(2)
    live()
    seen(boss.get(address))


@pytest.mark.parametrize("model", [TaskEvent, Notification, ScheduledRun, SopVersion, Task, Approval])
def test_what_the_machine_writes_nobody_edits(boss: Client, rf: object, model: type) -> None:
    request = boss.get("/admin/").wsgi_request
    model_admin = admin.site._registry[model]
    assert not model_admin.has_add_permission(request)
    assert not model_admin.has_change_permission(request)
    assert not model_admin.has_delete_permission(request)


def test_the_pages_of_rows_that_only_the_machine_writes_open_without_a_form_to_save(boss: Client) -> None:
    version = asking()[0].task.version
    event = TaskEvent.objects.first()
    notice = Notification.objects.first()
    assert event
    assert notice
    for row in (version, event, notice):
        address = reverse(f"admin:tasks_{row._meta.model_name}_change", args=[row.pk])
        page = seen(boss.get(address))
        assert 'name="_save"' not in page
        assert boss.post(address, {}).status_code == 403


def test_the_text_of_a_message_to_staff_is_shown_nowhere(boss: Client) -> None:
    asking()
    notice = Notification.objects.get()
    assert notice.sealed
    page = seen(boss.get(reverse("admin:tasks_notification_change", args=[notice.pk])))
    assert notice.sealed not in page


def test_who_is_not_staff_sees_no_page(client: Client) -> None:
    question = asking()[0]
    for address in (
        "/admin/",
        reverse("admin:tasks_approval_change", args=[question.pk]),
        reverse("admin:tasks_task_story", args=[question.task_id]),
    ):
        response = client.get(address)
        assert response.status_code == 302
        assert "/admin/login/" in response["Location"]


def test_the_login_page_serves_to_a_stranger(client: Client) -> None:
    seen(client.get("/admin/login/"))


@pytest.mark.parametrize("name", LISTS)
def test_staff_without_a_permission_see_no_list(name: str) -> None:
    assert person("otto").get(reverse(f"admin:tasks_{name}_changelist")).status_code == 403


def test_who_may_only_answer_finds_the_inbox_and_the_runs_but_no_sop() -> None:
    ana = person("ana", "answer_approval")
    seen(ana.get(reverse("admin:tasks_approval_changelist")))
    seen(ana.get(reverse("admin:tasks_task_changelist")))
    assert ana.get(reverse("admin:tasks_sop_changelist")).status_code == 403


def test_the_sidebar_has_what_this_person_may_see_with_the_number_of_questions() -> None:
    asking(3)
    request = person("ana", "view_approval").get("/admin/").wsgi_request
    items = {item["title"]: item for group in admin_skin.navigation(request) for item in group["items"]}
    assert list(items) == ["Today", "To answer"]
    assert items["To answer"]["badge"] == "3"


def test_every_page_says_mock_while_the_crm_is_the_mock(boss: Client, settings: object) -> None:
    pages = ["/admin/", "/admin/auth/user/", "/admin/password_change/", reverse("admin:tasks_sop_changelist")]
    for address in pages:
        assert 'class="sp-mock"' in seen(boss.get(address)), address
    settings.CRM_PROVIDER = "rest"  # type: ignore[attr-defined]
    for address in pages:
        assert 'class="sp-mock"' not in seen(boss.get(address)), address


def test_our_pages_have_no_inline_script_or_handler(boss: Client) -> None:
    for path in sorted((ROOT / "templates").rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        assert "onclick" not in text, path
        assert "style=" not in text or "messages" in path.parts, path
        assert text.count("<script") == text.count("<script src="), path


def test_the_history_of_a_sop_tells_who_changed_it(boss: Client) -> None:
    sop = live()
    boss.post(reverse("admin:tasks_sop_switch", args=[sop.pk]))
    assert "Disabled" in seen(boss.get(reverse("admin:tasks_sop_history", args=[sop.pk])))


def test_who_may_see_sees_every_page_and_who_may_act_too() -> None:
    question, sop = asking()[0], live()
    addresses = [
        "/admin/",
        reverse("admin:tasks_sop_change", args=[sop.pk]),
        reverse("admin:tasks_task_change", args=[question.task_id]),
        reverse("admin:tasks_task_story", args=[question.task_id]),
        reverse("admin:tasks_approval_change", args=[question.pk]),
    ]
    for client in (person("vera", *SEES), person("ana", *ACTS)):
        for address in addresses:
            seen(client.get(address))


PLAIN = """
from sopengine.settings import *
INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "unfold"]
"""
VISIT = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.test import Client
from django.contrib.auth.models import User
from django.contrib import admin
from tests.tasks import office
assert type(admin.site).__module__ == "django.contrib.admin.sites", type(admin.site)
boss = User.objects.create_superuser("boss")
client = Client(SERVER_NAME="localhost")
client.force_login(boss)
question, sop = office.asking()[0], office.live()
for address in (
    "/admin/",
    "/admin/tasks/",
    "/admin/tasks/sop/",
    "/admin/tasks/task/",
    "/admin/tasks/approval/",
    "/admin/tasks/taskevent/",
    "/admin/auth/user/",
    "/admin/auth/user/add/",
    f"/admin/auth/user/{boss.pk}/change/",
    f"/admin/tasks/sop/{sop.pk}/change/",
    f"/admin/tasks/sop/{sop.pk}/publish/",
    f"/admin/tasks/sop/{sop.pk}/run/",
    f"/admin/tasks/task/{question.task_id}/change/",
    f"/admin/tasks/approval/{question.pk}/change/",
):
    page = client.get(address)
    assert page.status_code == 200, (address, page.status_code)
    assert b"sp-mock" in page.content, address
    assert b"unfold" not in page.content, address
print("served")
"""


def test_every_page_serves_under_the_plain_admin_too(tmp_path: Path) -> None:
    (tmp_path / "plain_settings.py").write_text(PLAIN)
    environment = {
        "PATH": os.environ["PATH"],
        "DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "plain_settings",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'plain.sqlite3'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", VISIT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.endswith("served\n"), done.stderr[-2000:]


def test_the_first_page_counts_what_its_lists_show(boss: Client) -> None:
    questions = asking(3)
    Task.objects.filter(pk=questions[0].task_id).update(status="paused", reason="data", waiting_for="")
    page = boss.get("/admin/")
    assert "<b>3</b> to answer" in seen(page)
    assert "<b>1</b> stopped run" in seen(page)
    stopped = boss.get(reverse("admin:tasks_task_changelist"), {"needs": "stopped"})
    assert len(stopped.context["rows"]) == 1


def test_sops_are_never_deleted_from_the_site(boss: Client) -> None:
    sop = live()
    assert boss.post(reverse("admin:tasks_sop_delete", args=[sop.pk]), {"post": "yes"}).status_code == 403
    assert Sop.objects.filter(pk=sop.pk).exists()
