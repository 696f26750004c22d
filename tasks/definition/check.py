"""Reading and checking a SOP: every problem at once, each with its place."""

from collections.abc import Iterator, Mapping
from typing import Any

from sopengine.registry import UnknownName
from tasks.definition import approval, graph, names, params, publication, shape, yamlfile
from tasks.definition.records import DefinitionError, Problem, SopDef, from_json, to_json
from tasks.definition.shape import Finding, one_of
from tasks.definition.yamlfile import Document
from tasks.outcome import Handler, handlers


def read(text: str, source: str = "") -> SopDef:
    """Return the SOP in a file's text, or raise DefinitionError with everything that is wrong with it."""
    document = yamlfile.load(text)
    found = document.findings or list(findings(document.value))
    if found:
        raise DefinitionError(_problems(found, document, source))
    return from_json(document.value)


def validate(sop: SopDef, source: str = "") -> list[Problem]:
    """Return everything that is wrong with a SOP that comes from elsewhere than a file."""
    return _problems(findings(to_json(sop)), Document(to_json(sop)), source)


def obstacles(sop: SopDef, source: str = "") -> list[Problem]:
    """Return everything that keeps a SOP from being published: what is wrong with it, or still missing."""
    wrong = validate(sop, source)
    if wrong:
        return wrong
    whole = graph.build(sop, {step.key: handlers.get(step.handler) for step in sop.steps})
    return _problems(publication.findings(whole), Document(to_json(sop)), source)


def findings(values: Any) -> Iterator[Finding]:
    """Yield what is wrong with a SOP's values; the inner checks wait until the outer form is right."""
    outer = list(shape.findings(values))
    yield from outer
    if any(_spoils(finding) for finding in outer) or not isinstance(values, Mapping):
        return
    sop = from_json(values)
    known: dict[str, Handler] = {}
    for number, step in enumerate(sop.steps):
        try:
            known[step.key] = handlers.get(step.handler)
        except UnknownName:
            message = f"unknown handler {step.handler!r}; {one_of(step.handler, handlers)}"
            yield Finding(("steps", number, "handler"), message)
            continue
        yield from params.findings(known[step.key], step.params, ("steps", number, "with"))
    whole = graph.build(sop, known)
    yield from graph.findings(whole)
    yield from graph.messages(whole)
    unapproved = list(approval.findings(whole))
    yield from unapproved
    told = {finding.path for finding in unapproved}
    yield from (finding for finding in names.findings(whole) if finding.path not in told)


def _spoils(finding: Finding) -> bool:
    """Whether the SOP cannot be looked into: something is missing or has no usable form."""
    where = finding.path
    if finding.at_key:
        return False
    if len(where) <= 1:
        return where in ((), ("sop",), ("trigger",), ("inputs",), ("steps",), ("autonomous",))
    if where[0] == "steps":
        return len(where) == 2 or where[2] in ("key", "handler", "with", "on_success", "on_failure")
    return where[0] == "inputs" and len(where) == 2


def _problems(found: Iterator[Finding] | list[Finding], document: Document, source: str) -> list[Problem]:
    has_places = bool(document.places)
    problems = [_problem(finding, document, source, has_places) for finding in found]
    return sorted(problems, key=lambda problem: (problem.line, problem.column)) if has_places else problems


def _problem(finding: Finding, document: Document, source: str, has_places: bool) -> Problem:
    line, column = document.place(finding) if has_places else (0, 0)
    path = finding.path
    step = ""
    if len(path) > 1 and path[0] == "steps" and isinstance(path[1], int):
        step = _step_at(document.value, path[1])
        path = path[2:]
    return Problem(finding.message, source, line, column, step, ".".join(map(str, path)))


def _step_at(values: Any, number: int) -> str:
    """Return the key of the step, or its place in the list where it has none."""
    step = values["steps"][number]
    key = step.get("key") if isinstance(step, Mapping) else None
    return str(key) if key else f"number {number + 1}"
