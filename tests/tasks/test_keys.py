"""A missing key stops the runs that need it, each with a clear reason, and no other."""

import base64
from datetime import timedelta

import pytest
from django.conf import LazySettings

from tasks import engine
from tasks.models import Approval
from tasks.outcome import Ask, Done, Option, Outcome, StepRun, Wait
from tests.tasks.runs import Probe, begun, check_invariants, fresh, published

pytestmark = pytest.mark.django_db

ANOTHER = ["other:" + base64.b64encode(bytes(range(32))).decode()]


def test_a_run_whose_values_cannot_be_opened_is_parked_and_the_others_go_on(
    probe: Probe, settings: LazySettings
) -> None:
    def first(run: StepRun) -> Outcome:
        return Done(values={"text": "Dear Ann"}) if run.sop == "sealed" else Done()

    probe.told = {"s1": first, "s2": lambda _: Wait(event="go", delay=timedelta(days=1))}
    probe.told["s3"] = lambda run: Done(values={"copy": run.context["s1"]["text"]})
    sealed = begun(published("probe.pure", "probe.pure", "probe.pure", slug="sealed"))
    engine.drain()
    kept, settings.VAULT_KEYS = settings.VAULT_KEYS, ANOTHER
    plain = begun(published("probe.pure", slug="plain"))
    engine.signal([sealed.id], "event", name="go")
    engine.drain()
    assert fresh(plain).status == "completed"
    assert (fresh(sealed).status, fresh(sealed).reason) == ("paused", "vault")
    settings.VAULT_KEYS = kept
    engine.signal([sealed.id], "retry")
    engine.drain()
    check_invariants()


def test_an_answer_whose_draft_cannot_be_opened_parks_its_run_and_no_other(
    probe: Probe, settings: LazySettings
) -> None:
    options = (Option("yes", "Yes", "approve"),)
    probe.told["s1"] = lambda _: Ask("Shall we?", options, draft={"text": "Dear Ann"})
    asked = begun(published("probe.pure", "probe.pure"))
    engine.drain()
    settings.VAULT_KEYS = ANOTHER
    approval = Approval.objects.get(task=asked)
    Approval.objects.filter(pk=approval.pk).update(state="answered", choice="yes")
    engine.signal([asked.id], "answer", approval=str(approval.pk))
    engine.drain()
    assert (fresh(asked).status, fresh(asked).reason) == ("paused", "vault")
    assert len(probe.calls) == 1
    check_invariants()
