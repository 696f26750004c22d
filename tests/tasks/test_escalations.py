"""The table of the calls for help: each kind reaches its channel, as bad as it is, and by mail if it must.

A case does what brings the call about, through the engine itself; nothing writes a message by hand.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail as django_mail
from pytest_django import Settings

from credentials import store
from credentials.models import Credential
from crm import health
from sopengine import clock
from sopengine.errors import AuthError, DataError, Permanent, StepError, Transient
from tasks import engine, journal, outbox, watch
from tasks.models import Notification, Pulse, Task
from tasks.outcome import Outcome, StepRun
from tasks.sweep import sweep
from tasks.transition import MOST_CRASHES
from tasks.transports import Message, Transport, transports
from tests.tasks.office import ASKS
from tests.tasks.runs import Probe, begun, published

pytestmark = pytest.mark.django_db
HELP = "#help"
BOSS = "boss@example.test"


@dataclass
class Firm:
    """A chat and a mailbox that remember, and the probe that lets steps go wrong."""

    probe: Probe
    settings: Settings
    chat: list[Message] = field(default_factory=list)
    no_post: Callable[[Message], None] = lambda message: None

    def work(self) -> None:
        """Do what is due, sweep, and post."""
        engine.drain()
        sweep(force=True)
        outbox.pump()

    def later(self, **span: float) -> None:
        """Let every clock go on."""
        self.settings.CLOCK_OFFSET += timedelta(**span).total_seconds()
        health.forget()
        self.work()


@pytest.fixture
def firm(probe: Probe, settings: Settings) -> Iterator[Firm]:
    """A firm whose calls for help go to #help and to the boss."""
    firm = Firm(probe, settings)

    class Chat(Transport):
        def post(self, message: Message) -> str:
            firm.no_post(message)
            firm.chat.append(message)
            return f"ts-{len(firm.chat)}"

    transports.register("firm")(Chat)
    settings.CHAT, settings.ESCALATIONS_CHANNEL, settings.ESCALATIONS_EMAIL = "firm", HELP, [BOSS]
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.EMAIL_FOLDER = ""
    signs = dict(watch._signs)
    watch._signs.update({name: watch.Sign() for name in signs})
    yield firm
    watch._signs.update(signs)
    transports.remove("firm")


def raising(error: Callable[[], StepError], *, of_crm: bool = False) -> Callable[[StepRun], Outcome]:
    def step(_: StepRun) -> Outcome:
        wrong = error()
        if of_crm:
            wrong.origin = "crm"
        raise wrong

    return step


def fails(firm: Firm, error: Callable[[], StepError], handler: str = "probe.read", **line: Any) -> None:
    """Run one step that goes wrong like this, until its retries are used up."""
    of_crm = handler == "probe.crm"
    firm.probe.told["s1"] = raising(error, of_crm=of_crm)
    task = begun(published({"handler": handler, **line}))
    for _ in range(6):
        firm.work()
        Task.objects.filter(pk=task.pk, status="ready").update(wake_at=journal.database_now())


def unreachable() -> StepError:
    return Transient("it cannot be reached", code="unreachable", sent="no")


# -- the cases -------------------------------------------------------------------------------------


def retries_are_used_up(firm: Firm) -> None:
    fails(firm, unreachable)


def a_run_is_parked(firm: Firm) -> None:
    fails(firm, lambda: DataError("a value is missing"))


def a_mail_may_have_been_sent(firm: Firm) -> None:
    fails(firm, lambda: Transient("no answer", code="timeout", sent="maybe"), "probe.once")


def the_crm_refuses_our_login(firm: Firm) -> None:
    health.failed("crm", AuthError("it does not know us", code="auth"))
    firm.work()


def a_credential_is_about_to_run_out(firm: Firm) -> None:
    row = Credential(service="crm", kind="api_key", expires_at=clock.now() + timedelta(days=2))
    row.set_secret("s3cret-s3cret")
    store.put(row)
    firm.work()


def a_credential_has_run_out(firm: Firm) -> None:
    a_credential_is_about_to_run_out(firm)
    firm.chat.clear()
    firm.later(days=3)


def the_crm_falls_silent(firm: Firm) -> None:
    health.used_up("crm", "timeout")
    firm.work()


def the_crm_answers_again(firm: Firm) -> None:
    the_crm_falls_silent(firm)
    firm.chat.clear()
    health.release("crm", "ana")
    firm.work()


def staff_hold_the_crm(firm: Firm) -> None:
    health.hold("crm", "ana", "moving house")
    firm.work()


def a_run_is_quarantined(firm: Firm) -> None:
    task = begun(published("probe.read"))
    Task.objects.filter(pk=task.pk).update(crashes=MOST_CRASHES)
    firm.work()


def nobody_has_answered_for_a_day(firm: Firm) -> None:
    begun(published(ASKS))
    firm.work()
    firm.later(hours=24, minutes=1)


def a_question_expires(firm: Firm) -> None:
    nobody_has_answered_for_a_day(firm)
    firm.chat.clear()
    firm.later(hours=24)


def a_question_expires_and_its_sop_wants_a_person(firm: Firm) -> None:
    begun(published({**ASKS, "with": {**ASKS["with"], "then": "escalate"}}))
    firm.work()
    firm.later(hours=49)


def beat_falls_silent(firm: Firm) -> None:
    firm.settings.REDIS_URL = "redis://127.0.0.1:1/0"
    watch.note_beat()
    firm.work()
    watch._signs[watch.BEAT]._since -= watch.patience(watch.BEAT)
    firm.work()


def the_workers_fall_silent(firm: Firm) -> None:
    firm.work()
    watch.look_for_workers()
    watch._signs[watch.SWEEP]._since -= watch.patience(watch.SWEEP)
    watch.look_for_workers()


def a_message_is_given_up(firm: Firm) -> None:
    def refuse(message: Message) -> None:
        if message.channel == "#gone":
            raise Permanent("no such channel", code="channel_not_found")

    firm.no_post = refuse
    outbox.post("hello", channel="#gone")
    firm.work()
    firm.work()


CASES: dict[str, tuple[Callable[[Firm], None], str, str]] = {
    # the issue's words: what brings it about, severity, how the call begins
    "exhausted retries": (retries_are_used_up, "error", r".* stopped at"),
    "parked tasks": (a_run_is_parked, "error", r".* stopped at"),
    "parked tasks, sent or not": (a_mail_may_have_been_sent, "error", r".* may have been sent, or not"),
    "credential failures": (the_crm_refuses_our_login, "error", r"The CRM does not accept our login"),
    "credential failures, soon": (a_credential_is_about_to_run_out, "warning", r"The login .* runs out soon"),
    "credential failures, over": (a_credential_has_run_out, "error", r"The login .* has run out"),
    "breaker changes, silent": (the_crm_falls_silent, "error", r"The CRM does not answer"),
    "breaker changes, back": (the_crm_answers_again, "info", r"The CRM answers again"),
    "breaker changes, held": (staff_hold_the_crm, "info", r"Staff hold the connection"),
    "quarantines": (a_run_is_quarantined, "critical", r".* is set aside at"),
    "unanswered for a day": (nobody_has_answered_for_a_day, "warning", r""),
    "expired approvals": (a_question_expires, "warning", r".*: a question was closed unanswered"),
    "expired approvals, parked": (
        a_question_expires_and_its_sop_wants_a_person,
        "error",
        r".* stopped at",
    ),
    "silent beat": (beat_falls_silent, "critical", r"Beat is silent"),
    "silent workers": (the_workers_fall_silent, "critical", r"The workers are silent"),
    "dead letters": (a_message_is_given_up, "error", r"A message to staff could not be delivered"),
}
NAMED_IN_THE_ISSUE = (
    "exhausted retries",
    "parked tasks",
    "credential failures",
    "breaker changes",
    "quarantines",
    "expired approvals",
    "silent beat",
    "silent workers",
    "dead letters",
)


@pytest.mark.parametrize("case", CASES)
def test_a_call_for_help_reaches_its_channel_as_bad_as_it_is(firm: Firm, case: str) -> None:
    bring_about, severity, begins = CASES[case]
    bring_about(firm)
    calls = [message for message in firm.chat if message.channel == HELP and re.match(begins, message.text)]
    assert [(call.severity, call.count) for call in calls] == [(severity, 1)], firm.chat
    (call,) = calls
    assert call.link.startswith("http")
    assert len(call.text.splitlines()) >= 2  # what happened, and what can be done
    mailed = [letter for letter in django_mail.outbox if re.search(begins, str(letter.body))]
    assert [letter.to for letter in mailed] == ([[BOSS]] if severity in ("error", "critical") else [])


def test_the_table_has_every_kind_that_must_be_told() -> None:
    missing = [kind for kind in NAMED_IN_THE_ISSUE if not any(case.startswith(kind) for case in CASES)]
    assert missing == []
    assert {severity for _, severity, _ in CASES.values()} == {"info", "warning", "error", "critical"}


def test_nobody_is_called_when_all_is_well(firm: Firm) -> None:
    begun(published("probe.read"))
    firm.work()
    firm.later(minutes=5)
    assert [message for message in firm.chat if message.channel == HELP] == []
    assert django_mail.outbox == []
    assert Pulse.objects.filter(name="sweep").exists()
    assert Notification.objects.count() == 0
