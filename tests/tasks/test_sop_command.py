"""Laws of the `sop` command: what it prints, what it refuses, and how it ends."""

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.signals import post_save
from pytest_django import Settings

from tasks import definition
from tasks.models import Approval, Sop, SopVersion, Task
from tasks.outcome import (
    Ask,
    Branch,
    DataError,
    Done,
    Handler,
    Option,
    Outcome,
    Start,
    StepRun,
    Target,
    Wait,
    handler,
    handlers,
)
from tasks.outcome import Child as ChildRun

pytestmark = pytest.mark.django_db

FILE = """\
sop: try-it
name: Try it
inputs: {season: {type: integer, default: "{{ slot.year }}"}}
steps:
  - {key: only, name: The only step, handler: t.told, with: {text: "in {{ season }}"}}
"""


class Told:
    """What the one step of these tests does, and what it heard."""

    def __init__(self) -> None:
        self.outcome: Outcome | Exception = Done(result="well")
        self.heard: list[str] = []


@pytest.fixture(autouse=True)
def told() -> Iterator[Told]:
    """Register a step that does what the test says."""
    told = Told()

    def do(step: StepRun, *, text: str = "") -> Outcome:
        """Do what the test says."""
        told.heard.append(text)
        if isinstance(told.outcome, Exception):
            raise told.outcome
        return told.outcome

    def go(step: StepRun, *, to: Target = "complete") -> Outcome:
        """Go somewhere."""
        return Branch(to=to, result="went")

    handler("t.told", sets=("children",))(do)
    handler("t.go")(go)
    yield told
    handlers.remove("t.told")
    handlers.remove("t.go")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good SOP file."""
    path = tmp_path / "try-it.yaml"
    path.write_text(FILE)
    return path


class Said(str):
    """What a command printed; `errors` and `code` beside it."""

    errors: str
    code: int


def sop(*arguments: str) -> Said:
    """Run the command; return what it printed, and its exit code as `code`."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    try:
        call_command("sop", *arguments, stdout=out, stderr=errors)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    said = Said(out.getvalue())
    said.errors, said.code = errors.getvalue(), code
    return said


def refused(*arguments: str) -> str:
    """Run the command, which must refuse; return its sentence."""
    with pytest.raises(CommandError) as error:
        call_command("sop", *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    assert error.value.returncode == 1
    return str(error.value)


def published(file: Path) -> None:
    sop("import", str(file), "--publish")


# -- files, drafts, versions -----------------------------------------------------------------------------


def test_without_a_file_the_shipped_sops_are_checked_and_imported() -> None:
    shipped = [path.stem for path in definition.shipped()]
    assert f"{len(shipped)} checked, nothing is wrong." in sop("validate")
    assert sop("validate", "--json") == "[]\n"
    imported = json.loads(sop("import", "--publish", "--json"))
    assert imported == [{"sop": slug, "version": 1} for slug in shipped]
    assert {s.slug: s.state for s in Sop.objects.all()} == {row["sop"]: "active" for row in imported}


def test_a_wrong_file_is_told_with_its_places_and_changes_nothing(file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(FILE.replace("t.told", "t.gone").replace("{{ season }}", "{{ sesaon }}"))
    for verb in ("validate", "import"):
        sentence = refused(verb, str(file), str(wrong))
        assert f"{wrong}:5:" in sentence
        assert "step 'only', handler: unknown handler 't.gone'" in sentence
        assert "unknown variable 'sesaon'; did you mean 'season'?" in sentence
    assert Sop.objects.count() == 0


def test_problems_as_json_have_file_line_column_step_key_and_message(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(FILE + "prioriti: 1\n")
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("sop", "validate", str(wrong), "--json", stdout=out)
    (problem,) = json.loads(out.getvalue())
    assert {k: problem[k] for k in ("file", "line", "column", "step", "key")} == {
        "file": str(wrong),
        "line": 6,
        "column": 1,
        "step": "",
        "key": "prioriti",
    }
    assert "did you mean 'priority'?" in problem["message"]


def test_a_draft_is_checked_by_its_slug(file: Path) -> None:
    sop("import", str(file))
    assert "1 checked" in sop("validate", "try-it")
    Sop.objects.get().steps.update(handler="t.gone")
    assert "try-it: step 'only', handler: unknown handler 't.gone'" in refused("validate", "try-it")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/none.yaml cannot be read: No such file" in refused("import", f"{tmp_path}/none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "it is not text in UTF-8" in refused("validate", str(tmp_path / "binary.yaml"))


def test_importing_over_a_draft_replaces_it_and_runs_stay_on_their_version(file: Path) -> None:
    published(file)
    task = Task.objects.get(pk=str(sop("run", "try-it")).strip())
    file.write_text(FILE.replace("Try it", "Try this"))
    assert "try-it: imported as the draft." in sop("import", str(file))
    assert definition.from_rows(Sop.objects.get()).name == "Try this"
    assert Task.objects.get(pk=task.pk).version.number == 1
    assert "try-it: version 2 is published." in sop("publish", "try-it")
    assert Task.objects.get(pk=task.pk).version.number == 1


def test_what_is_missing_is_imported_and_what_is_there_is_not_touched(file: Path, tmp_path: Path) -> None:
    published(file)
    sop("disable", "try-it")
    Sop.objects.update(name="As staff wrote it")
    file.write_text(FILE.replace("Try it", "Try this"))
    other = tmp_path / "other.yaml"
    other.write_text(FILE.replace("sop: try-it", "sop: other"))

    said = sop("import", "--missing", "--publish", str(file), str(other))

    assert said.splitlines() == [
        "try-it: is there already and stays as it is.",
        "other: imported as the draft, published as version 1.",
    ]
    there = Sop.objects.get(slug="try-it")
    assert (there.name, there.state, there.versions.count()) == ("As staff wrote it", "disabled", 1)
    assert Sop.objects.get(slug="other").state == "active"
    again = sop("import", "--missing", "--publish", "--json", str(file), str(other))
    assert json.loads(again) == []
    assert SopVersion.objects.count() == 2


def test_an_import_that_cannot_be_published_leaves_nothing_behind(file: Path, tmp_path: Path) -> None:
    """Else a SOP would be there, never published, and never again missing."""
    other = tmp_path / "other.yaml"
    other.write_text("sop: other\nname: Other\nsteps: [{key: only, handler: t.go}]\n")
    taken: list[Handler] = []

    def goes_meanwhile(**_saved: object) -> None:
        taken.append(handlers.remove("t.go"))

    post_save.connect(goes_meanwhile, sender=SopVersion)
    try:
        assert "unknown handler 't.go'" in refused("import", "--missing", "--publish", str(file), str(other))
    finally:
        post_save.disconnect(goes_meanwhile, sender=SopVersion)
        handlers.register("t.go")(taken[0])

    assert Sop.objects.count() == 0


def test_of_the_shipped_sops_those_that_can_be_are_published_and_the_others_say_what_they_lack(
    settings: Settings,
) -> None:
    settings.REVIEW_LINK = settings.BUSINESS_ADDRESS = ""
    said = sop("import", "--publish")
    lines = {line.split(":")[0]: line for line in said.splitlines()}
    assert said.code == 0
    assert set(lines) == {path.stem for path in definition.shipped()}
    assert lines["collections"] == "collections: imported as the draft, published as version 1."
    assert lines["reactivate-customer"] == (
        "reactivate-customer: imported as the draft, not published: marketing mail must name the firm's "
        "postal address; set BUSINESS_ADDRESS first. Then: manage.py sop publish reactivate-customer"
    )
    assert "BUSINESS_ADDRESS" in lines["review-request"]
    assert "REVIEW_LINK" in lines["review-request"]
    left = {slug for slug, line in lines.items() if "not published" in line}
    assert set(Sop.objects.filter(state="draft").values_list("slug", flat=True)) == left
    assert Sop.objects.filter(state="active").count() == len(lines) - len(left)


def test_what_is_not_published_says_why_as_json_too_and_its_version_stays(settings: Settings) -> None:
    sop("import", "--publish")
    settings.REVIEW_LINK = ""
    rows = {row["sop"]: row for row in json.loads(sop("import", "--publish", "--json"))}
    assert rows["collections"] == {"sop": "collections", "version": 1}
    (problem,) = rows["review-request"]["problems"]
    assert rows["review-request"]["version"] is None
    assert "set REVIEW_LINK first" in problem["message"]
    there = Sop.objects.get(slug="review-request")
    assert (there.state, there.published and there.published.number) == ("active", 1)
    assert "; version 1 stays published" in sop("import", "--publish")


def test_a_file_that_is_named_and_cannot_be_published_is_refused(settings: Settings) -> None:
    settings.REVIEW_LINK = ""
    (file,) = [path for path in definition.shipped() if path.stem == "review-request"]
    assert "set REVIEW_LINK first" in refused("import", "--publish", str(file))
    assert Sop.objects.count() == 0


def test_what_is_exported_imports_as_the_same(file: Path, tmp_path: Path) -> None:
    published(file)
    copy = tmp_path / "copy.yaml"
    copy.write_text(sop("export", "try-it"))
    assert definition.read_file(copy) == definition.read_file(file)
    Sop.objects.update(name="Changed")
    assert definition.read(sop("export", "try-it")).name == "Changed"
    assert definition.read(sop("export", "try-it", "--number", "1")).name == "Try it"
    assert json.loads(sop("export", "try-it", "--json"))["name"] == "Changed"
    assert "has no version 7" in refused("export", "try-it", "--number", "7")


def test_the_list_says_state_version_and_next_hour(file: Path) -> None:
    assert "There is no SOP" in sop("list")
    sop("import", str(file))
    sop("import", "--publish")
    rows = {row["slug"]: row for row in json.loads(sop("list", "--json"))}
    assert (rows["try-it"]["state"], rows["try-it"]["version"], rows["try-it"]["next"]) == (
        "draft",
        None,
        None,
    )
    assert rows["past-customer-reactivation"]["version"] == 1
    assert rows["past-customer-reactivation"]["next"]
    assert "next Mon" in sop("list")


def test_an_unknown_sop_is_refused_with_those_that_are_known(file: Path) -> None:
    sop("import", str(file))
    for verb in ("export", "publish", "disable", "run"):
        assert "There is no SOP 'try'; known: try-it." in refused(verb, "try")


# -- runs --------------------------------------------------------------------------------------------------


def test_a_run_prints_its_id_and_is_due(file: Path, told: Told) -> None:
    published(file)
    task = Task.objects.get(pk=str(sop("run", "try-it", "--set", "season=2030")).strip())
    assert (task.status, task.context["season"]) == ("ready", 2030)
    assert told.heard == []
    assert json.loads(sop("run", "try-it", "--json"))["task"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "season"], "--set 'season' is not understood; expected name=value"),
        (["--set", "season=1", "--set", "season=2"], "--set season is there twice"),
        (["--set", "season=soon"], "input 'season' must be of type integer"),
        (["--set", "sesaon=1"], "has no input 'sesaon'; its inputs: season"),
        (["--dry-run", "--set", "sesaon=1"], "has no input 'sesaon'; its inputs: season"),
    ],
)
def test_a_run_with_wrong_inputs_is_refused(file: Path, arguments: list[str], sentence: str) -> None:
    published(file)
    assert sentence in refused("run", "try-it", *arguments)
    assert Task.objects.count() == 0


def test_a_run_of_a_draft_or_a_disabled_sop_is_refused(file: Path) -> None:
    sop("import", str(file))
    assert "is a draft; publish it" in refused("run", "try-it")
    sop("publish", "try-it")
    assert "disabled; nothing new is started" in sop("disable", "try-it")
    for more in ([], ["--dry-run"]):
        assert "is disabled; publish it again" in refused("run", "try-it", *more)


def test_a_dry_run_says_what_would_start_and_writes_nothing(file: Path, told: Told) -> None:
    published(file)
    said = sop("run", "try-it", "--dry-run", "--set", "season=2030")
    assert "Would start try-it version 1 with season=2030; nothing is written." in said
    assert "1. The only step  (t.told: Do what the test says.)\n     text: in 2030" in said
    foreseen = json.loads(sop("run", "try-it", "--dry-run", "--json", "--set", "season=2030"))
    assert foreseen["inputs"] == {"season": 2030}
    assert foreseen["steps"][0]["with"] == {"text": "in 2030"}
    assert (Task.objects.count(), told.heard) == (0, [])


def test_waiting_drains_in_this_process_and_ends_with_the_result(file: Path, told: Told) -> None:
    published(file)
    said = sop("run", "try-it", "--wait", "--set", "season=2030")
    assert said.code == 0
    assert said.splitlines()[-1] == "completed, result well"
    assert said.splitlines()[0] == str(Task.objects.get().pk)
    assert told.heard == ["in 2030"]
    answer = json.loads(sop("run", "try-it", "--wait", "--json"))
    assert (answer["status"], answer["result"]) == ("completed", "well")


def test_waiting_for_a_run_that_fails_ends_with_1(file: Path, told: Told) -> None:
    file.write_text(FILE.replace("handler: t.told", "handler: t.told, on_failure: fail"))
    published(file)
    told.outcome = DataError("nothing fits")
    said = sop("run", "try-it", "--wait")
    assert said.code == 1
    assert "failed, result failed (data)" in said


QUESTION = Ask("Shall we?", [Option("yes", "Yes", "approve"), Option("no", "No", "decline")])


def test_waiting_ends_with_3_when_only_people_are_awaited(file: Path, told: Told) -> None:
    published(file)
    told.outcome = QUESTION
    said = sop("run", "try-it", "--wait")
    assert said.code == 3
    assert "Only people are awaited: 1 waiting for an answer" in said
    assert Approval.objects.count() == 1
    told.outcome = DataError("stop")
    said = sop("run", "try-it", "--wait", "--json")
    assert said.code == 3
    assert json.loads(said)["open"] == {"stopped until a person decides": 1}


def test_waiting_shows_the_whole_family_and_ends_when_all_of_it_rests_on_people(
    file: Path, told: Told, tmp_path: Path
) -> None:
    published(file)
    child = tmp_path / "child.yaml"
    child.write_text(
        "sop: child\nname: Child\ninputs: {ask: {type: boolean}}\nsteps:\n"
        "  - key: choose\n    handler: flow.branch\n    with:\n"
        "      rules: [{when: {field: ask, op: is_false}, to: complete, result: skipped}]\n"
        "  - {key: question, handler: human.ask, with: {question: 'Shall we?'}}\n"
    )
    published(child)
    told.outcome = Start([ChildRun("child", {"ask": n < 2}, key=str(n)) for n in range(5)])
    said = sop("run", "try-it", "--wait")
    assert said.code == 3
    assert "Only people are awaited: 3 skipped, 2 waiting for an answer" in said
    assert "3 skipped, 2 waiting for an answer" in said.errors


def test_waiting_goes_on_while_an_hour_is_awaited_until_the_time_is_up(file: Path, told: Told) -> None:
    published(file)
    told.outcome = Wait(delay=timedelta(days=5))
    said = sop("run", "try-it", "--wait", "--timeout", "0.5")
    assert said.code == 4
    assert "Not over yet: 1 waiting for their hour" in said


def test_the_shipped_campaign_runs_from_this_command_to_its_questions(settings: Any) -> None:
    sop("import", "--publish")
    said = sop("run", "past-customer-reactivation", "--wait", "--set", "season=2027")
    assert said.code == 3
    assert "waiting for an answer" in said
    assert Approval.objects.count() >= 1
    assert SopVersion.objects.count() == len(definition.shipped())
