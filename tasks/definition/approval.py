"""A person's yes: nothing that a customer sees goes out unless exactly that was approved."""

import re
from collections.abc import Iterator
from typing import Any

from tasks import templating
from tasks.definition.graph import Graph, spoken
from tasks.definition.records import StepDef
from tasks.definition.shape import Finding, Path

TRANSACTIONAL = "transactional"
MESSAGE = "message"  # the parameter of a step that sends: what the customer gets
DRAFT = "draft"  # the parameter of a step that asks: what the person sees and approves
_WHOLE_NAME = re.compile(r"\{\{\s*([\w-]+)\s*\}\}")


def findings(graph: Graph) -> Iterator[Finding]:
    """Yield every step that would show a customer what nobody approved, unless the SOP is autonomous."""
    if graph.sop.autonomous:
        return
    sends = [step for step in graph.sop.steps if _customer_sees(graph, step)]
    for step in sends:
        yield from _unapproved(graph, step)
    yield from _silent_yes(graph, sends)


def _customer_sees(graph: Graph, step: StepDef) -> bool:
    """Only what is said to be transactional needs no approval; a purpose known only later is none."""
    handler = graph.handlers.get(step.key)
    return bool(handler and handler.sends and step.params.get("purpose") != TRANSACTIONAL)


def _questions(graph: Graph) -> set[str]:
    return {key for key, handler in graph.handlers.items() if handler.asks}


def _way_without(graph: Graph, step: StepDef, questions: set[str]) -> list[str] | None:
    """Return a way to the step on which none of the questions is answered, or None."""
    return graph.way(step.key, lambda edge: not (edge.done and edge.source in questions))


def _unapproved(graph: Graph, step: StepDef) -> Iterator[Finding]:
    path: Path = ("steps", graph.number(step.key))
    parameter = graph.handlers[step.key].params.model_fields.get(MESSAGE)
    given = MESSAGE in step.params
    way = _way_without(graph, step, _questions(graph))
    if way:
        yield Finding(
            path,
            f"a customer would see this, and nobody approved it on the way {spoken(way)}; "
            "put a human.ask before it, or say autonomous: true for the SOP",
        )
    elif parameter and (given or not parameter.is_required()):
        wrong = _not_what_was_approved(graph, step)
        if wrong:
            yield Finding((*path, "with", MESSAGE) if given else path, f"{wrong}; {_expected(graph, step)}")


def _not_what_was_approved(graph: Graph, step: StepDef) -> str:
    """Say why the step's message is not the text that a person approved, or ""."""
    key = _named(step.params.get(MESSAGE))
    if key not in _questions(graph):
        return "a customer would get this, and it is not what a person approved"
    if not _shows_draft(graph, key):
        return f"a customer would get this, and {key!r} asks without showing it"
    way = _way_without(graph, step, {key})
    return f"{key!r} is not answered on the way {spoken(way)}" if way else ""


def _named(value: Any) -> str:
    """Return the name in a text that is one `{{ name }}` and nothing else, or ""."""
    whole = _WHOLE_NAME.fullmatch(value.strip()) if isinstance(value, str) else None
    return whole[1] if whole else ""


def _shows_draft(graph: Graph, key: str) -> bool:
    return DRAFT in graph.handlers[key].params.model_fields and bool(graph.sop.step(key).params.get(DRAFT))


def _expected(graph: Graph, step: StepDef) -> str:
    fit = [
        f'"{{{{ {other.key} }}}}"'
        for other in graph.sop.steps
        if other.key in _questions(graph)
        and _shows_draft(graph, other.key)
        and not _way_without(graph, step, {other.key})
    ]
    if fit:
        return f"expected {' or '.join(fit)}, the text that was approved there"
    return (
        "expected the answer of a step such as human.ask that has a draft"
        " and stands before this one on every way"
    )


def _silent_yes(graph: Graph, sends: list[StepDef]) -> Iterator[Finding]:
    for key in sorted(_questions(graph)):
        params = graph.sop.step(key).params
        then, elsewhere = params.get("then", ""), params.get("expired_to")  # no yes lies on that way
        follows = [step.key for step in sends if graph.way(step.key, start=key)]
        if follows and not elsewhere and (then == "continue" or templating.has_template(then)):
            yield Finding(
                ("steps", graph.number(key), "with", "then"),
                f"no answer never means yes: {follows[0]!r} would write to a customer; "
                "expected decline or escalate",
            )
