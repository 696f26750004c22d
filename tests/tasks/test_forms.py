"""Laws of the generated forms: each handler has one, and what goes in comes out unchanged."""

from collections.abc import Iterator, Sequence
from datetime import date
from enum import StrEnum
from typing import Any, Literal

import pytest
from pydantic import Field

from tasks import forms
from tasks.forms import AddStepForm, ScheduleForm, StepForm, open_params, params_form, run_form
from tasks.models import Sop, Step
from tasks.outcome import Done, Outcome, StepRun, handler, handlers
from tests.tasks.office import drafted

pytestmark = pytest.mark.django_db


class Tone(StrEnum):
    WARM = "warm"
    COOL = "cool"


@pytest.fixture
def everything() -> Iterator[str]:
    """A handler that takes a parameter of each type."""

    @handler("probe.everything")
    def everything(
        step: StepRun,
        *,
        word: str,
        count: int = 3,
        share: float | None = None,
        wait: bool = True,
        tone: Tone = Tone.WARM,
        level: Literal["low", "high"] = "low",
        names: Sequence[str] = (),
        numbers: list[int] | None = None,
        either: str | list[str] | None = None,
        delay: str | int = "2h",
        day: date | None = None,
        extra: dict[str, Any] | None = None,
        text: str = Field("", title="What to say", description="Shown to staff."),  # type: ignore[assignment]
    ) -> Outcome:
        """Take `everything`. And more."""
        return Done()

    yield "probe.everything"
    handlers.remove("probe.everything")


def filled(name: str, /, **values: Any) -> forms.ParamsForm:
    form = params_form(name)(values)
    form.is_valid()
    return form


def kept(name: str, /, **values: Any) -> dict[str, Any]:
    form = filled(name, **values)
    assert form.is_valid(), form.errors
    return form.params()


@pytest.mark.parametrize("name", sorted(handlers))
def test_each_registered_handler_has_a_form_with_a_field_for_each_parameter(name: str) -> None:
    form = params_form(name)()
    assert list(form.fields) == list(handlers.get(name).params.model_fields)
    assert "<script" not in form.as_p()


@pytest.mark.parametrize("name", sorted(handlers))
def test_a_template_is_accepted_for_every_parameter_of_every_handler(name: str) -> None:
    form = params_form(name)()
    data = {
        f"{key}_template" if isinstance(field, forms.ChoiceOrTemplateField) else key: "{{ found.value }}"
        for key, field in form.fields.items()
    }
    assert kept(name, **data) == dict.fromkeys(form.fields, "{{ found.value }}")


def test_each_type_comes_out_as_what_it_is(everything: str) -> None:
    assert kept(
        everything,
        word="  as it is ",
        count="7",
        share="2.5",
        wait="no",
        tone="cool",
        level="high",
        names="ann\n\n bob \n",
        numbers="1\n2",
        either="past",
        delay="90",
        day="2026-02-15",
        extra="a: [1, 2]\nfrom: 2026-02-15",
        text="one\r\ntwo",
    ) == {
        "word": "  as it is ",
        "count": 7,
        "share": 2.5,
        "wait": False,
        "tone": "cool",
        "level": "high",
        "names": ["ann", "bob"],
        "numbers": ["1", "2"],
        "either": ["past"],
        "delay": 90,
        "day": "2026-02-15",
        "extra": {"a": [1, 2], "from": "2026-02-15"},
        "text": "one\ntwo",
    }


def test_what_is_left_empty_follows_its_default_and_is_not_kept(everything: str) -> None:
    assert kept(everything, word="x") == {"word": "x"}


def test_a_needed_parameter_is_asked_for(everything: str) -> None:
    assert "word" in filled(everything).errors


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("count", "many", "Write a number"),
        ("count", "2.5", "integer"),
        ("numbers", "1\ntwo", "integer"),
        ("day", "someday", "date"),
        ("extra", "- not a mapping", "dictionary"),
        ("extra", "a: {{ x }}", "must stand in quotes"),
        ("extra", "a: [1", "cannot be read as YAML in line"),
        ("level_template", "medium", "Choose from the list"),
    ],
)
def test_what_is_no_such_value_is_refused_beside_its_field(
    everything: str, field: str, value: str, told: str
) -> None:
    form = filled(everything, word="x", **{field: value})
    assert told in str(form.errors[field.removesuffix("_template")])


def test_the_docstring_default_and_title_of_a_parameter_stand_beside_it(everything: str) -> None:
    form = params_form(everything)()
    assert forms.kind_label(handlers.get(everything)) == "Take everything. And more (probe.everything)"
    assert form.fields["count"].help_text == "If empty: 3."
    assert (form.fields["text"].label, form.fields["text"].help_text) == ("What to say", "Shown to staff.")
    assert ("", "yes") in form.fields["wait"].words  # type: ignore[attr-defined]


def test_a_saved_step_that_is_opened_and_saved_again_is_unchanged(everything: str) -> None:
    params = {
        "word": "{{ season }}",
        "count": "{{ n }}",
        "wait": False,
        "level": "{{ l }}",
        "names": ["ann"],
        "extra": {"a": {"b": "{{ c }}"}},
    }
    step = Step(pk=5, handler=everything, params=params)
    shown = open_params(step)
    posted: dict[str, Any] = {}
    for bound in shown:
        value = bound.value()
        if isinstance(bound.field, forms.ChoiceOrTemplateField):
            word, template = bound.field.widget.decompress(value)
            posted |= {bound.html_name: word, f"{bound.html_name}_template": template}
        else:
            posted[bound.html_name] = "" if value is None else value
    again = open_params(step, posted)
    assert again.is_valid(), again.errors
    assert again.params() == params


def test_a_step_of_an_unknown_kind_keeps_its_settings_as_yaml() -> None:
    step = Step(pk=5, handler="gone.away", params={"a": [1]})
    form = open_params(step, {"with-5-everything": "a: [1, 2]"})
    assert form.is_valid()
    assert form.params() == {"a": [1, 2]}
    assert not open_params(step, {"with-5-everything": "- a"}).is_valid()


def test_settings_that_a_handler_does_not_know_are_named(everything: str) -> None:
    assert forms.unknown_params(Step(handler=everything, params={"word": "x", "colour": "red"})) == ["colour"]


def test_a_handler_that_starts_a_sop_offers_those_there_are() -> None:
    Sop.objects.create(slug="greet", name="Greet")
    assert "greet" in str(params_form("flow.start")()["sop"])


# -- steps and schedules ---------------------------------------------------------------------------


def test_a_step_says_where_it_goes_by_name_and_keeps_a_target_that_is_gone_in_sight() -> None:
    step = drafted().steps.get(key="one")
    step.on_failure = "gone"
    shown = str(StepForm(instance=step))
    assert "go to “Two”" in shown
    assert "there is no such step" in shown


def test_two_steps_cannot_have_the_same_short_name() -> None:
    step = drafted().steps.get(key="one")
    form = StepForm({"name": "x", "key": "two", "on_success": "next", "max_retries": 3}, instance=step)
    assert "already called" in str(form.errors["key"])


def test_a_new_step_gets_a_short_name_that_no_other_has() -> None:
    sop = drafted()
    form = AddStepForm({"handler": "chat.post", "name": "One"}, sop=sop)
    assert form.is_valid(), form.errors
    assert form.free_key() == "one_2"


def test_a_schedule_goes_through_its_form_unchanged_and_leaves_the_rest_of_the_trigger() -> None:
    trigger = {
        "schedule": "0 9 * * MON",
        "timezone": "Europe/London",
        "from": "02-15",
        "until": "05-31",
        "overlap": "skip",
        "catch_up": "once",
        "api": True,
    }
    form = ScheduleForm(ScheduleForm.initial_of(trigger))
    assert form.is_valid(), form.errors
    assert form.trigger(trigger) == trigger


def test_a_schedule_without_a_time_means_never_by_itself() -> None:
    form = ScheduleForm({"timezone": "Europe/London"})
    assert form.is_valid()
    assert form.trigger({"schedule": "0 9 * * MON", "api": True}) == {"api": True}


def test_a_season_that_is_no_day_of_the_year_is_refused() -> None:
    assert "from_" in ScheduleForm({"schedule": "0 9 * * MON", "from_": "13-45"}).errors


# -- runs ------------------------------------------------------------------------------------------


def test_the_form_of_a_run_has_a_field_for_each_input_by_its_type() -> None:
    form = run_form(
        {
            "season": {"type": "integer"},
            "share": {"type": "number", "default": 0.5},
            "urgent": {"type": "boolean", "default": False},
            "who": {"type": "string", "default": "{{ slot.year }}"},
            "day": {"type": "date", "default": "{{ slot.date }}"},
            "tags": {"type": "list", "default": []},
        }
    )
    given = form({"season": "2026", "urgent": "yes", "day": "2026-03-01", "tags": "a\nb"})
    assert given.is_valid(), given.errors
    assert given.given() == {"season": 2026, "urgent": True, "day": "2026-03-01", "tags": ["a", "b"]}  # type: ignore[attr-defined]
    assert "season" in form({}).errors
    assert form()["who"].help_text == "If empty, it is worked out when the run starts."
