"""The demo's own arithmetic: what it shows is read back, and what does not add up is said."""

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from crm.mock.state import MockState
from crm.providers.mock import forget_state, shared_state
from tasks import demo, engine
from tasks.management.commands.demo import Screen, summary_lines
from tasks.models import Sop
from tasks.outcome import handlers
from tasks.sweep import sweep

CHICAGO = ZoneInfo("America/Chicago")
GOOD = demo.Summary(found=7, approved=3, declined=1, waiting=1, skipped=2, mails=3, notes=3, problems=())


# -- the clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "now",
    [
        datetime(2026, 11, 21, tzinfo=UTC),
        datetime(2027, 2, 14, 23, tzinfo=UTC),
        datetime(2027, 2, 15, 15, 0, 1, tzinfo=UTC),
        datetime(2027, 5, 31, 20, tzinfo=UTC),
        datetime(2028, 7, 1, tzinfo=UTC),
    ],
)
def test_the_first_slot_is_a_monday_at_nine_in_season_whatever_the_day(now: datetime) -> None:
    slot = demo.first_slot(now).astimezone(CHICAGO)
    assert now < slot
    assert (slot.weekday(), slot.hour, slot.minute) == (0, 9, 0)
    assert (2, 15) <= (slot.month, slot.day) <= (5, 31)


def test_the_demo_refuses_settings_that_are_not_its_own() -> None:
    with pytest.raises(CommandError, match="settings of its own"):
        call_command("demo", "--no-serve")


def test_clearing_the_folder_removes_what_a_demo_leaves_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    for name in ("demo.sqlite3", "demo.sqlite3-wal", "crm-mock.sqlite3", "mail/a.eml", "thesis.txt"):
        (tmp_path / name).write_text("x")
    demo.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# -- what adds up, and what does not -------------------------------------------------------------


def test_a_good_summary_has_no_problem() -> None:
    assert list(demo.sums(GOOD)) == []


@pytest.mark.parametrize("name", ["found", "approved", "declined", "waiting", "skipped", "mails", "notes"])
@pytest.mark.parametrize("by", [1, -1])
def test_one_more_or_less_of_anything_is_said(name: str, by: int) -> None:
    assert list(demo.sums(replace(GOOD, **{name: getattr(GOOD, name) + by})))


def test_a_campaign_that_found_nobody_does_not_pass_as_good() -> None:
    nothing = replace(GOOD, found=0, approved=0, declined=0, waiting=0, skipped=0, mails=0, notes=0)
    assert list(demo.sums(nothing)) == ["nobody was found"]


def mail(to: str, text: str = "Hello") -> demo.Mail:
    return demo.Mail(to, "Spring", text, "<p>Hello</p>")


def draft(to: str, text: str = "Hello") -> dict[str, str]:
    return {"to": to, "subject": "Spring", "text": text, "html": "<p>Hello</p>"}


def test_a_mail_that_is_not_the_approved_draft_is_said() -> None:
    assert not list(demo.texts([mail("a@b.test")], [draft("a@b.test")]))
    assert list(demo.texts([mail("a@b.test")], [draft("a@b.test", "Hallo")]))
    assert list(demo.texts([mail("a@b.test")], [draft("c@d.test")]))
    assert list(demo.texts([mail("a@b.test"), mail("a@b.test")], [draft("a@b.test")]))


@pytest.fixture
def crm() -> Iterator[MockState]:
    """The mock CRM that the product uses, new."""
    forget_state()
    yield shared_state()
    forget_state()


def test_mails_and_notes_must_be_those_of_the_same_customers(crm: MockState) -> None:
    addresses = {"a@b.test": "cus_0001", "c@d.test": "cus_0002"}
    crm.create("notes", {"customer_id": "cus_0001", "text": "invited"}, "k1")
    noted = ["cus_0001"]
    assert not list(demo.journals(crm, [mail("a@b.test")], noted, addresses))
    assert list(demo.journals(crm, [mail("c@d.test")], noted, addresses))
    assert list(demo.journals(crm, [mail("a@b.test"), mail("a@b.test")], noted * 2, addresses))
    assert list(demo.journals(crm, [mail("a@b.test")], [*noted, "cus_0002"], addresses))


def test_a_mail_is_read_back_as_a_customers_program_would_show_it(tmp_path: Path) -> None:
    message = EmailMessage()
    message["To"], message["Subject"] = "zoe@example.test", "Zoë, kommt der Frühling?"
    message.set_content("Grüße")
    message.add_alternative("<p>Grüße</p>", subtype="html")
    (tmp_path / "1.eml").write_bytes(bytes(message))
    (tmp_path / ".half.part").write_bytes(b"To: nobody")
    (read,) = demo.read_mails(tmp_path)
    assert (read.to, read.subject) == ("zoe@example.test", "Zoë, kommt der Frühling?")
    assert (read.text.strip(), read.html.strip()) == ("Grüße", "<p>Grüße</p>")


# -- a whole campaign, in this process ------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_summary_is_read_from_the_journal_and_the_folder_not_from_the_engine(
    crm: MockState, tmp_path: Path, settings: Settings
) -> None:
    settings.EMAIL_FOLDER = str(tmp_path)
    user, _ = demo.make_user()
    demo.publish_sops(user)
    campaign = demo.Campaign(crm)
    assert not campaign.still()
    engine.start(Sop.objects.get(slug=demo.CAMPAIGN).published, {})
    drain()
    assert campaign.still()
    assert len(list(campaign.answer("but-one", user))) == 4
    assert not campaign.still()
    drain()
    good = demo.summary(campaign, tmp_path)
    assert good.problems == ()
    assert (good.found, good.approved, good.waiting, good.skipped, good.mails) == (7, 4, 1, 2, 4)

    lost = next(tmp_path.glob("*.eml"))
    content = lost.read_bytes()
    lost.unlink()
    assert demo.summary(campaign, tmp_path).problems
    lost.write_bytes(content)
    (tmp_path / "twice.eml").write_bytes(content)
    assert "a customer got more than one mail" in demo.summary(campaign, tmp_path).problems


def drain() -> None:
    """Run until nothing is due."""
    while engine.drain().more:
        sweep(force=True)


@pytest.mark.django_db(transaction=True)
def test_a_stopped_run_is_named_in_the_summary(crm: MockState, tmp_path: Path, settings: Settings) -> None:
    settings.EMAIL_FOLDER = str(tmp_path)
    user, _ = demo.make_user()
    demo.publish_sops(user)
    campaign = demo.Campaign(crm)
    engine.start(Sop.objects.get(slug=demo.CAMPAIGN).published, {})
    drain()
    list(campaign.answer("approve", user))
    gone = handlers.remove("crm.note")
    drain()
    handlers.register("crm.note")(gone)
    assert any("stopped" in problem for problem in demo.summary(campaign, tmp_path).problems)


# -- the terminal --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """An output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


ONE = demo.Line("Ann", "draft waits for a person's yes", False)
SENT = demo.Line("Ann", "mail sent, noted in the CRM", True)


def test_a_pipe_gets_one_line_for_each_change() -> None:
    out = io.StringIO()
    with Screen(out, io.StringIO()) as screen:
        for line in (ONE, ONE, SENT, SENT):
            screen.show("Monday", [line])
    assert len(out.getvalue().splitlines()) == 2
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_one_block_and_chat_goes_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, errors = Terminal(), io.StringIO()
    with Screen(out, errors) as screen:
        screen.show("Monday", [ONE])
        sys.stderr.write("[chat] a question\n")
        screen.show("Monday", [SENT])
    assert errors.getvalue() == ""
    assert screen_after(out.getvalue()) == ["[chat] a question", "Monday", "  ✓ Ann" + " " * 20 + SENT.doing]


def screen_after(written: str) -> list[str]:
    """Return the lines that a terminal shows after what was written."""
    lines: list[str] = []
    for piece in written.replace("\x1b[0J", "").split("\x1b["):
        number, letter, rest = piece.partition("F")
        if letter and number.isdigit():
            del lines[len(lines) - int(number) :]
            piece = rest
        lines += piece.splitlines()
    return lines


def test_the_summary_says_mock_and_shows_the_sum(tmp_path: Path) -> None:
    text = "\n".join(summary_lines(GOOD, tmp_path))
    assert "mock" in text
    assert "7 = 3 + 1 + 1 + 2" in text
    assert "7 = " not in "\n".join(summary_lines(replace(GOOD, problems=("no",)), tmp_path))
