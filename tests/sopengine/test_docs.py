"""What the README says is so: its settings, its commands, its procedure, its examples, its links."""

import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command, get_commands, load_command_class
from django.test import Client

from crm.mock.contract import Contract, Request
from crm.mock.state import MockState
from crm.provider import Connection, providers
from crm.providers.mock import forget_state, shared_state
from crm.service import CrmService, open_service
from sopengine.errors import Unsupported
from tasks import api_keys, approvals, definition, demo, engine, outbox, plan, triggers
from tasks.management.commands.demo import summary_lines
from tasks.models import Approval, Task
from tasks.outcome import Done, StepRun, handlers
from tasks.transports import transports
from tests.servers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
READS = {"flag", "text", "number", "whole", "words", "numbers", "choice", "name", "address", "zone"}
OTHER_READS = {
    "database",
    "redis",
    "mail",
    "keys",
    "hook",
    "signing_secret",
    "packages",
    "mailbox",
    "hooks",
    "mail_addresses",
    "days",
    "hours",
}


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its head."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines[2:]]


def blocks(language: str) -> list[str]:
    """Return the code of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


# -- settings ------------------------------------------------------------------------------------


def settings_read() -> dict[str, ast.Call]:
    """Return the call that first reads each name in settings.py."""
    found: dict[str, ast.Call] = {}
    for node in ast.walk(ast.parse((ROOT / "sopengine/settings.py").read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        reader = ast.unparse(node.func)
        name = node.args[0]
        ours = reader == "os.environ.get" or reader in {f"env.{verb}" for verb in READS | OTHER_READS}
        if ours and isinstance(name, ast.Constant):
            found.setdefault(name.value, node)
    return found


def test_every_way_to_read_a_setting_is_known_here() -> None:
    """A new kind of value in sopengine/environment.py must be looked for, or its names would be missed."""
    source = (ROOT / "sopengine/environment.py").read_text(encoding="utf-8")
    verbs = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    public = {
        verb for verb in verbs if re.search(rf"env\.{verb}\(", (ROOT / "sopengine/settings.py").read_text())
    }
    assert public - {"refuse", "finish", "given"} <= READS | OTHER_READS


def test_the_table_of_settings_has_every_name_once_and_no_other() -> None:
    told = [re.findall(r"`(\w+)`", row[0])[0] for row in rows_of("Settings")]
    assert sorted(told) == sorted(set(told))
    assert sorted(told) == sorted(settings_read())


def test_the_table_of_settings_tells_the_defaults_of_the_code() -> None:
    wrong = []
    for name, default, _meaning in rows_of("Settings"):
        call = settings_read()[re.findall(r"`(\w+)`", name)[0]]
        given = call.args[1] if len(call.args) > 1 else None
        if isinstance(given, ast.Constant) and given.value:
            expected = f"{given.value:g}" if isinstance(given.value, float) else str(given.value)
            if expected not in default.replace("`", ""):
                wrong.append(f"{name}: {default!r}, in the code {expected!r}")
    assert wrong == []


def test_what_must_be_set_is_what_a_start_asks_for() -> None:
    source = (ROOT / "sopengine/settings.py").read_text(encoding="utf-8")
    asked = next(
        {key.value for key in node.iter.func.value.keys if isinstance(key, ast.Constant)}
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.For)
        and isinstance(node.iter, ast.Call)
        and isinstance(node.iter.func, ast.Attribute)
        and isinstance(node.iter.func.value, ast.Dict)
    )
    marked = {re.findall(r"`(\w+)`", row[0])[0] for row in rows_of("Settings") if row[0].endswith("*")}
    assert marked == asked


# -- commands ------------------------------------------------------------------------------------


def verbs_of(command: str) -> set[str]:
    """Return the verbs of a management command; none when it has none."""
    found = load_command_class(get_commands()[command], command)
    parser = found.create_parser("manage.py", command)
    choices = [action.choices for action in parser._actions if action.dest == "verb"]
    return set(choices[0] or ()) if choices else set()


OURS = ("demo", "serve", "sop", "task", "approval", "crm", "credential", "apikey", "engine")


def test_the_table_of_commands_has_each_verb_of_ours() -> None:
    told = {
        tuple(found.split()) for found in re.findall(r"^\| `manage\.py ([a-z -]+)`", README, re.MULTILINE)
    }
    there = {(command, verb) for command in OURS for verb in verbs_of(command)}
    there |= {(command,) for command in OURS if not verbs_of(command)}
    assert told == there


def test_every_command_that_is_named_anywhere_exists() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command, verb in re.findall(
            r"`(?:manage\.py )?(sop|task|approval|crm|credential|apikey|engine) ([a-z-]+)", text
        ):
            assert verb in verbs_of(command), f"{page.name}: {command} {verb}"
        for command in re.findall(r"`manage\.py ([a-z]+)", text):
            assert command in get_commands(), f"{page.name}: {command}"


def test_every_target_of_make_that_is_named_anywhere_exists() -> None:
    there = set(re.findall(r"^([a-z][a-z ]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {name for line in there for name in line.split()}
    named = {(page.name, name) for page in PAGES for name in re.findall(r"`make ([a-z]+)", page.read_text())}
    assert {(page, name) for page, name in named if name not in targets} == set()
    assert ("README.md", "test") in named
    assert "make test" in (ROOT / ".ci/run").read_text()


# -- the first screen ------------------------------------------------------------------------------


def procedure() -> definition.SopDef:
    """Return the SOP of the README, which reads only when nothing is wrong with it."""
    (text,) = blocks("yaml")
    assert len(text.splitlines()) == 12
    return definition.read(text, "README.md")


def test_the_procedure_is_well_formed() -> None:
    assert definition.validate(procedure()) == []


def test_the_procedure_is_refused_without_its_approval() -> None:
    (text,) = blocks("yaml")
    lines = [line for line in text.splitlines() if "human.ask" not in line]
    with pytest.raises(definition.DefinitionError) as refused:
        definition.read("\n".join(lines).replace("{{ approve }}", "{{ draft }}"), "README.md")
    (problem,) = refused.value.problems
    assert (problem.step, problem.line > 0) == ("send", True)


@pytest.fixture
def office(settings: Any, tmp_path: Path) -> Iterator[User]:
    """An owner, a mock CRM of its own, and a folder for mail."""
    settings.EMAIL_FOLDER = settings.EMAIL_FILE_PATH = str(tmp_path)
    forget_state()
    plan.forget()
    yield User.objects.create_superuser("owner")
    forget_state()


@pytest.mark.django_db
def test_the_procedure_sends_what_was_approved_and_notes_it(office: User, tmp_path: Path) -> None:
    sop = definition.save_rows(procedure())
    definition.publish(sop)
    customer = next(row for row in shared_state().rows("customers") if row["email"])
    task = triggers.start_now(sop, {"crm_customer_id": customer["id"]}, by="test")
    engine.drain()
    assert demo.read_mails(tmp_path) == []
    approvals.answer(Approval.objects.get(task=task).pk, "approve", by=office)
    engine.drain()
    assert (Task.objects.get(pk=task.pk).status, Task.objects.get(pk=task.pk).result) == ("completed", "sent")
    (mail,) = demo.read_mails(tmp_path)
    assert mail.text.startswith(f"Dear {customer['name']}, shall we come by in April? No more offers: http")
    (note,) = shared_state().rows("notes")
    assert note["text"].startswith("Offered the spring check-up by mail.")


def test_the_demo_is_told_as_it_is() -> None:
    """The summary is the demo's own, word for word, and so is what it says of each run."""
    told = blocks("console")[0].splitlines()
    printed = summary_lines(demo.Summary(7, 4, 0, 1, 2, 4, 4, ()), Path(".demo/mail"))[1:]
    assert [line for line in printed if line not in told] == []
    source = (ROOT / "tasks/demo.py").read_text(encoding="utf-8")
    doing = {line[27:].strip() for line in told if line.startswith(("  ✓", "  ·"))}
    assert len(doing) == 3
    assert [words for words in doing if words not in source] == []


def test_every_link_leads_to_a_file() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_picture_is_one_and_small() -> None:
    picture = ROOT / "docs/pictures/run-waiting.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 200_000
    assert "docs/pictures/run-waiting.png" in README


# -- the API ---------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_request_of_the_readme_starts_a_run(office: User) -> None:
    (example,) = [block for block in blocks("console") if "/api/v1/" in block]
    told = shlex.split(example.removeprefix("$ "))
    path = next(word for word in told if word.startswith("https://")).partition(".com")[2]
    headers = dict(word.split(": ", 1) for word in told if re.match(r"[A-Z][\w-]+: ", word))
    body = json.loads(told[told.index("-d") + 1])
    call_command("sop", "import", "--publish", str(ROOT / f"tasks/sops/{body['sop']}.yaml"), verbosity=0)
    headers["Authorization"] = f"Bearer {api_keys.make('web shop', office, ['runs:start'])[1]}"

    answers = [
        Client().post(path, body, content_type=headers["Content-Type"], headers=headers) for _ in range(2)
    ]

    assert [answer.status_code for answer in answers] == [201, 200], answers[0].content


# -- the REST contract -----------------------------------------------------------------------------


def test_the_contract_tells_every_request_that_the_provider_may_make() -> None:
    text = (ROOT / "docs/rest-contract.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+ /[\w/:]+)` \| (.*) \|$", text, re.MULTILINE))
    for entity, able in providers.get("rest").can.items():
        parent = "/customers/:id/notes" if entity == "notes" else f"/{entity}"
        methods = {"query": "GET", "find": "GET", "search": "GET", "create": "POST", "update": "PATCH"}
        ends = {"find": "/:id", "update": "/:id", "search": "/search"}
        for verb in able.verbs:
            assert f"{methods[verb]} {parent}{ends.get(verb, '')}" in told, f"{verb} {entity}"
        filters = set(able.filters) - ({"customer_id"} if entity == "notes" else set())
        assert {name for name in filters if f"`{name}`" not in told.get(f"GET {parent}", "")} == set()


def test_the_served_mock_has_every_address_of_the_contract() -> None:
    text = (ROOT / "docs/rest-contract.md").read_text(encoding="utf-8")
    contract = Contract(MockState())
    bearer = {"authorization": "Bearer any"}
    nothing_there = contract.answer(Request("GET", "/api/v1/nothing", headers=bearer)).value
    assert "error" in nothing_there
    for method, path in re.findall(r"^\| `(\w+) (/[\w/:]+)`", text, re.MULTILINE):
        request = Request(method, f"/api/v1{path.replace(':id', 'none')}", headers=bearer)
        reply = contract.answer(request)
        assert reply.status != 405, path
        assert reply.value != nothing_there, path


# -- examples --------------------------------------------------------------------------------------


def example(path: str) -> ModuleType:
    """Run the example that says it is this file, as if it were a module of that name."""
    (code,) = [block for block in blocks("python") if block.startswith(f"# {path}\n")]
    name = f"readme_{Path(path).stem}"
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, path, "exec"), module.__dict__)
    return module


@pytest.fixture
def taken_back() -> Iterator[None]:
    """Take out again whatever an example has registered."""
    before = {registry: set(registry) for registry in (handlers, providers, transports)}
    yield
    for registry, names in before.items():
        for name in set(registry) - names:
            registry.remove(name)
    for name in [name for name in sys.modules if name.startswith("readme_")]:
        del sys.modules[name]


def test_the_example_of_a_handler_counts_customers(taken_back: None) -> None:
    forget_state()
    example("tasks/handlers/census.py")
    known = handlers.get("crm.census")
    crm = open_service(guarded=False)
    city = next(crm.query(status="past")).city
    step = StepRun(**{**dict.fromkeys(StepRun.__slots__), "crm": crm})  # type: ignore[arg-type]
    answer = known.run(step, **known.params.model_validate({"city": city}).model_dump())
    assert isinstance(answer, Done)
    assert answer.values["customers"] == sum(one.city == city for one in crm.query(status="past")) > 0
    assert known.open_fields == {"customers"}
    assert str(city) in answer.notify[0].text


def test_the_example_of_a_provider_reads_a_spreadsheet(
    taken_back: None, settings: Any, tmp_path: Path
) -> None:
    settings.VAR_DIR = tmp_path
    (tmp_path / "customers.csv").write_text(
        "No,Name,Kind\n1,Ann Bird,past\n2,Bo Crow,lead\n", encoding="utf-8"
    )
    example("crm/providers/spreadsheet.py")
    crm = CrmService(providers.get("spreadsheet")(Connection()), guarded=False)
    assert [one.name for one in crm.query(status="past")] == ["Ann Bird"]
    found = crm.find("2")
    assert found is not None
    assert (found.name, crm.find("3")) == ("Bo Crow", None)
    with pytest.raises(Unsupported):
        list(crm.query(city="Edina"))


@pytest.mark.django_db
def test_the_example_of_a_transport_takes_what_staff_is_told(
    taken_back: None, settings: Any, tmp_path: Path
) -> None:
    settings.VAR_DIR, settings.CHAT = tmp_path, "logbook"
    example("tasks/transports/logbook.py")
    assert outbox.post("The mower is back.", channel="#office")
    assert outbox.pump() == 1
    assert (tmp_path / "logbook.txt").read_text().startswith("#office info: The mower is back. http")


def test_no_example_is_left_out() -> None:
    assert len(blocks("python")) == 3


# -- the pages themselves --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_is_finished_and_fit_for_strangers(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"\b(actor|doorbell|door)s?\b|\b(TODO|FIXME)\b", text, re.IGNORECASE)
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|opt)/", text), "a path of somebody's machine"


def test_no_number_is_still_to_be_filled_in() -> None:
    open_ = [f"{page.name}: {found}" for page in PAGES for found in re.findall(r"@@\w+@@", page.read_text())]
    assert open_ == []


def test_each_decision_says_why_and_what_follows() -> None:
    records = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("## ")] == [
            "## Context",
            "## Decision",
            "## Consequences",
        ]
        assert 12 <= len(lines) <= 45, f"{path.name}: {len(lines)} lines"
