"""Laws of staff mail: what is an error goes by mail too, whatever the chat does."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from sopengine.errors import AuthError, Transient
from tasks import demo, engine, journal, outbox
from tasks.mail import SMTP_BACKEND
from tasks.models import Notification, Pulse
from tasks.outcome import Done, Notice
from tasks.transports import Message, Transport, transports
from tests.faults.postoffice import PostOffice
from tests.tasks.runs import Probe, begun, published

pytestmark = pytest.mark.django_db
State, Medium = Notification.State, Notification.Medium


class Away(Transport):
    """A chat that does not answer."""

    error: Exception = Transient("away")
    pace = 0.0

    def post(self, message: Message) -> str:
        raise self.error


@pytest.fixture
def away() -> Iterator[type[Away]]:
    transports.register("away")(Away)
    yield Away
    transports.remove("away")
    Away.error = Transient("away")


@pytest.fixture
def folder(settings: Settings, tmp_path: Path, away: type[Away]) -> Path:
    """A mail folder, two who get mail, and a chat that is away."""
    settings.CHAT = "away"
    settings.EMAIL_FOLDER = settings.EMAIL_FILE_PATH = str(tmp_path)
    settings.ESCALATIONS_EMAIL = ["owner@example.test", "it@example.test"]
    settings.BUSINESS_NAME = "Green & Sons"
    return tmp_path


@pytest.mark.parametrize(("severity", "mails"), [("info", 0), ("warning", 0), ("error", 2), ("critical", 2)])
def test_an_error_goes_by_mail_too_though_the_chat_is_away(folder: Path, severity: str, mails: int) -> None:
    outbox.post("Help\nWhy: it broke", severity=severity, channel="#help", dedupe="once")
    assert not outbox.post("Help\nWhy: it broke", severity=severity, channel="#help", dedupe="once")

    outbox.pump()

    sent = demo.read_mails(folder)
    assert sorted(mail.to for mail in sent) == ["it@example.test", "owner@example.test"][:mails]
    for mail in sent:
        assert mail.subject == f"[Green & Sons] {severity.upper()}: Help"
        assert "Why: it broke" in mail.text
        assert "http" in mail.text
    assert Notification.objects.filter(medium=Medium.CHAT, state=State.PENDING).count() == 1
    assert Notification.objects.filter(medium=Medium.MAIL, state=State.SENT).count() == mails


def test_what_a_run_calls_for_goes_by_mail_as_well(folder: Path, probe: Probe) -> None:
    probe.told["s1"] = lambda _: Done(notify=(Notice("The gate is locked", severity="error"),))
    task = begun(published("probe.pure"))
    engine.drain()

    for mail in demo.read_mails(folder):
        assert "The gate is locked" in mail.text
        assert f"Run {str(task.pk)[:8]}: " in mail.text
    kept = Notification.objects.filter(medium=Medium.MAIL).values_list("sealed", flat=True)
    assert list(kept) == [None, None]


def test_without_anybody_who_gets_mail_none_is_written(folder: Path, settings: Settings) -> None:
    settings.ESCALATIONS_EMAIL = []
    outbox.post("Help", severity="critical")

    outbox.pump()

    assert demo.read_mails(folder) == []
    assert Notification.objects.count() == 1


def test_equal_errors_are_folded_in_the_mail_as_in_the_chat(folder: Path) -> None:
    for _ in range(5):
        outbox.post("Help", severity="error", fold="gate")
    outbox.pump()

    assert len(demo.read_mails(folder)) == 2


def test_a_mail_for_one_person_goes_to_that_one_alone(folder: Path) -> None:
    ann = User.objects.create_user("ann", "ann@example.test")
    outbox.post("A question is yours", medium=Medium.MAIL, recipient_id=ann.pk)

    outbox.pump()

    assert [mail.to for mail in demo.read_mails(folder)] == ["ann@example.test"]


def test_somebody_who_has_left_gets_no_mail(folder: Path) -> None:
    ann = User.objects.create_user("ann", "ann@example.test", is_active=False)
    outbox.post("A question is yours", medium=Medium.MAIL, recipient_id=ann.pk)

    outbox.pump()

    row = Notification.objects.get(recipient=ann)
    assert (row.state, row.reason) == (State.DEAD, "no_address")
    assert [mail.to for mail in demo.read_mails(folder) if "yours" in mail.text] == []


def test_one_bad_address_does_not_keep_the_mail_from_the_other(folder: Path, settings: Settings) -> None:
    settings.ESCALATIONS_EMAIL = ["nobody at all", "it@example.test"]
    outbox.post("Help", severity="error")

    outbox.pump()

    assert [mail.to for mail in demo.read_mails(folder)] == ["it@example.test"]
    bad, good = Notification.objects.filter(medium=Medium.MAIL).exclude(kind="dead_letter").order_by("state")
    assert (bad.state, bad.reason) == (State.DEAD, "mail_address")
    assert good.state == State.SENT


def test_a_chat_that_refuses_our_login_is_told_by_mail_once(folder: Path, away: type[Away]) -> None:
    away.error = AuthError("The chat does not know us.", code="token_revoked")
    for _ in range(4):
        outbox.post("Look")
        outbox.pump()
        soon()

    first, second = demo.read_mails(folder)
    assert {first.to, second.to} == {"it@example.test", "owner@example.test"}
    assert "does not accept our login" in first.subject
    assert "token_revoked" in first.text


def test_a_chat_that_is_silent_for_long_is_told_by_mail_once(folder: Path) -> None:
    outbox.post("Look")
    for tries in range(12):
        outbox.pump()
        assert len(demo.read_mails(folder)) == (2 if tries > 6 else 0)
        soon()


def test_a_mailbox_that_is_full_delays_its_own_mail_alone_and_nobody_gets_it_twice(
    folder: Path, settings: Settings
) -> None:
    settings.EMAIL_FOLDER, settings.EMAIL_BACKEND = "", SMTP_BACKEND
    with PostOffice() as post:
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", urlsplit(post.url).port
        post.puts_off = {"owner@example.test"}
        outbox.post("Help", severity="error")
        for _ in range(12):
            outbox.pump()
            soon()
        helps = [letter["To"] for letter in post.letters if str(letter["Subject"]).endswith("ERROR: Help")]

    assert helps == ["it@example.test"]
    assert set(post.ids.values()) == {1}
    rows = Notification.objects.filter(medium=Medium.MAIL, kind="info")
    assert sorted(rows.values_list("state", "reason")) == [(State.DEAD, "mail_mailbox"), (State.SENT, "")]
    assert not Pulse.objects.filter(name="mail:away").exists()


def soon() -> None:
    now = journal.database_now()
    Notification.objects.filter(wake_at__isnull=False).update(wake_at=now)
    Pulse.objects.filter(name="chat:away").update(at=now)


def test_a_subject_is_one_line_whatever_the_text(folder: Path) -> None:
    outbox.post("Help\r\nBcc: evil@example.test\nmore " + "x" * 500, severity="error")
    outbox.post("\u202ekcab\u0007 it goes", severity="error")

    outbox.pump()

    subjects = {mail.subject for mail in demo.read_mails(folder)}
    assert subjects == {"[Green & Sons] ERROR: Help", "[Green & Sons] ERROR: kcab it goes"}
