"""The rules of the house that no linter knows, checked on the source itself."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.servers import ROOT

PACKAGES = ("sopengine", "tasks", "crm", "credentials")
VAGUE_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "base",
    "manager",
    "managers",
    "core",
    "lib",
}
# The journal owns the tasks' rows. The check reads two settings of the server and no table.
RAW_SQL = {"tasks/journal/sql.py", "sopengine/checks.py"}
# Who may set the status of a task: what decides it, and what writes it.
STATUS_WRITERS = {
    "tasks/journal/settle.py",
    "tasks/transition.py",
    "tasks/children.py",
    "tasks/engine.py",
    "tasks/models.py",
}
ENVIRONMENT_READERS = {"sopengine/settings.py"}
METAPHORS = re.compile(r"\b(actor|doorbell|door)s?\b", re.IGNORECASE)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def product_files() -> list[Path]:
    return [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "migrations" not in path.parts
    ]


def files_of_tests() -> list[Path]:
    return sorted(path for path in (ROOT / "tests").rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def places(kind: type[ast.AST] | tuple[type[ast.AST], ...], path: Path) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, kind))


def dotted(node: ast.AST) -> str:
    """Return "a.b.c" for such an expression, else the part of it that is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imports_inside_functions(path: Path) -> list[str]:
    """Return where a function imports; AppConfig.ready may, since models are ready only then."""
    found = []
    for function in places((ast.FunctionDef, ast.AsyncFunctionDef), path):
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        if path.name == "apps.py" and function.name == "ready":
            continue
        found += [
            f"{name_of(path)}:{node.lineno}"
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
    return found


def test_no_function_imports() -> None:
    assert [
        place for path in [*product_files(), *files_of_tests()] for place in imports_inside_functions(path)
    ] == []


def test_no_module_has_a_vague_name() -> None:
    assert [name_of(path) for path in product_files() if path.stem in VAGUE_NAMES] == []


def test_no_sentence_uses_our_metaphors() -> None:
    assert [name_of(path) for path in product_files() if METAPHORS.search(path.read_text())] == []


def test_nothing_is_left_unfinished() -> None:
    found = [name_of(path) for path in product_files() if UNFINISHED.search(path.read_text())]
    found += [
        f"{name_of(path)}:{node.lineno}"
        for path in product_files()
        for node in places(ast.Raise, path)
        if isinstance(node, ast.Raise) and node.exc and "NotImplementedError" in ast.dump(node.exc)
    ]
    assert found == []


def test_no_error_is_swallowed_whatever_it_is() -> None:
    """A handler of every exception must do something with it."""
    found = []
    for path in product_files():
        for node in places(ast.ExceptHandler, path):
            assert isinstance(node, ast.ExceptHandler)
            broad = node.type is None or dotted(node.type) in {"Exception", "BaseException"}
            idle = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
            if broad and idle:
                found.append(f"{name_of(path)}:{node.lineno}")
    assert found == []


def test_only_the_settings_read_the_environment() -> None:
    """Whether a terminal can be drawn on is no setting, nor is where Django finds the settings."""
    no_setting = re.compile(r"\"(TERM|DJANGO_SETTINGS_MODULE)\"")
    found = []
    for path in product_files():
        lines = path.read_text().splitlines()
        found += [
            f"{name_of(path)}:{node.lineno}"
            for node in places(ast.Attribute, path)
            if isinstance(node, ast.Attribute)
            and dotted(node) in {"os.environ", "os.environb", "os.getenv"}
            and not no_setting.search(lines[node.lineno - 1])
        ]
    assert [place for place in found if place.partition(":")[0] not in ENVIRONMENT_READERS] == []


def test_only_the_journal_speaks_sql() -> None:
    spoken = {"cursor", "raw", "RawSQL", "extra"}
    found = {
        name_of(path)
        for path in product_files()
        for node in places(ast.Call, path)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in spoken and dotted(node.func.value))
            or (isinstance(node.func, ast.Name) and node.func.id == "RawSQL")
        )
        and (
            dotted(node.func).startswith("connection")
            or dotted(node.func).endswith(("objects.raw", "objects.extra", "RawSQL"))
        )
    }
    assert found <= RAW_SQL


def test_only_the_engine_sets_the_status_of_a_task() -> None:
    """No other file assigns `.status`, or updates tasks, with a status of tasks."""
    found = []
    for path in product_files():
        if name_of(path) in STATUS_WRITERS or not name_of(path).startswith("tasks/"):
            continue
        for node in places((ast.Assign, ast.Call), path):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Attribute)
                and target.attr == "status"
                and "Status" in ast.dump(node.value)
                for target in node.targets
            ):
                found.append(f"{name_of(path)}:{node.lineno}")
            if isinstance(node, ast.Call) and dotted(node.func).endswith(".update"):
                written = ast.dump(node.func)
                if "'Task'" in written and any(word.arg == "status" for word in node.keywords):
                    found.append(f"{name_of(path)}:{node.lineno}")
    assert found == []


def test_tests_use_no_stand_ins_for_our_own_modules() -> None:
    """Fakes are product code: the mock CRM, the console chat, the mail folder."""
    mocked = re.compile(
        r"\b(mock\.patch|patch\.object|MagicMock|mocker|from unittest import mock|unittest\.mock)\b"
    )
    found = [
        name_of(path)
        for path in files_of_tests()
        if path != Path(__file__) and mocked.search(path.read_text())
    ]
    assert found == []


def test_tests_are_whole_words() -> None:
    """The name of a test is a sentence: at least three words."""
    short = [
        f"{name_of(path)}:{node.name}"
        for path in files_of_tests()
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and node.name.count("_") < 3
    ]
    assert short == []


def test_every_public_function_says_its_law() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in product_files()
        if path.name != "apps.py"
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and node.name != "Command"  # it has a help text
        and not ast.get_docstring(node)
    ]
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    assert [
        name_of(path)
        for path in product_files()
        if path.read_text().strip() and not ast.get_docstring(tree(path))
    ] == []


def test_no_file_knows_a_machine_or_a_package_host() -> None:
    """What is committed runs anywhere: no path of somebody's machine, no address of a package index."""
    told = re.compile(r"/home/|/root/|/Users/|pythonhosted|pypi\.org|--index-url|--find-links")
    files = [*product_files(), *files_of_tests()]
    files += [
        ROOT / name
        for name in ("Makefile", "Procfile", "app.json", "requirements.txt", "requirements-dev.txt")
    ]
    found = [name_of(path) for path in files if path != Path(__file__) and told.search(path.read_text())]
    assert found == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_is_pinned_exactly(name: str) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    loose = [
        line for line in lines if line and not re.fullmatch(r"-r requirements\.txt|[\w.\[\]-]+==[\w.]+", line)
    ]
    assert loose == []


def test_the_rule_about_imports_finds_one(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import os\n\ndef f():\n    import sys\n    return sys, os\n")
    assert imports_inside_functions(tmp_path / "late.py") == ["late.py:4"]
