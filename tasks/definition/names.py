"""What the templates and conditions of a SOP name: whether it exists, and is set on every way there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sopengine.errors import DataError
from tasks import templating
from tasks.definition import params as parameters
from tasks.definition.graph import Graph, spoken
from tasks.definition.records import StepDef
from tasks.definition.shape import SURROUNDINGS, Finding, Path, one_of, unknown_surrounding
from tasks.outcome import DRAFT_NAMES, ROW_NAMES, Handler

ANY = frozenset({"*"})  # the fields of a result that are counts by result of the children
_ASKED = frozenset({"choice", "to", "subject", "text", "html"})
_WAITED = frozenset({"event", "timed_out"})


@dataclass(frozen=True, slots=True)
class Use:
    """One name that a step reads, and the place where it is written."""

    where: Path
    path: tuple[str, ...]
    guarded: bool = False

    @property
    def spoken(self) -> str:
        """Return the name as a template writes it."""
        return ".".join(self.path)


@dataclass(frozen=True)
class Catalogue:
    """Every name there is in a SOP: which steps set it, and which fields it has."""

    inputs: frozenset[str]
    setters: Mapping[str, frozenset[str]]
    fields: Mapping[str, frozenset[str]]

    @property
    def names(self) -> set[str]:
        """Return every first word that a template may use."""
        return {*self.inputs, *self.setters, *SURROUNDINGS}


def catalogue(graph: Graph) -> Catalogue:
    """Return what the inputs and the steps of a SOP bring into its context."""
    setters: dict[str, set[str]] = {}
    fields: dict[str, frozenset[str]] = {}
    for step in graph.sop.steps:
        handler = graph.handlers.get(step.key)
        setters.setdefault(step.key, set()).add(step.key)
        fields[step.key] = _fields(handler) if handler else ANY
        for name in _on_top(handler) if handler else ():
            setters.setdefault(name, set()).add(step.key)
    return Catalogue(
        frozenset(graph.sop.inputs), {name: frozenset(keys) for name, keys in setters.items()}, fields
    )


def _on_top(handler: Handler) -> frozenset[str]:
    """Return the names that a handler sets at the top: those it says, and the customer's."""
    results = handler.results.model_fields if handler.results else ()
    return frozenset({*handler.sets, *filter(_is_customers, results)})


def _fields(handler: Handler) -> frozenset[str]:
    if "children" in handler.sets or (
        handler.results and handler.results.model_config.get("extra") == "allow"
    ):
        return ANY
    if handler.results:
        return frozenset(name for name in handler.results.model_fields if not _is_customers(name))
    return _ASKED if handler.asks else _WAITED if handler.waits else frozenset()


def _is_customers(name: str) -> bool:
    return name.startswith("customer_") or name == "crm_customer_id"


# -- what a step uses -----------------------------------------------------------------------------


def findings(graph: Graph) -> Iterator[Finding]:
    """Yield templates that cannot be read, and names that do not exist or may not be set yet."""
    known = catalogue(graph)
    reachable = graph.reachable()
    for number, step in enumerate(graph.sop.steps):
        told: set[tuple[Path, tuple[str, ...]]] = set()
        for found in uses_of(("steps", number, "with"), step, graph.handlers.get(step.key)):
            if isinstance(found, Finding):
                yield found
            elif (found.where, found.path) not in told:
                told.add((found.where, found.path))
                wrong = _unknown(found, known)
                if not wrong and not found.guarded and step.key in reachable:
                    wrong = _unset(found, known, graph, step.key)
                if wrong:
                    yield Finding(found.where, wrong)


def uses_of(path: Path, step: StepDef, handler: Handler | None) -> Iterator[Use | Finding]:
    """Yield every name that the step's parameters read, its message templates and conditions included."""
    added = parameters.added_names(handler, step.params) if handler else frozenset()
    if handler and handler.drafts:
        added |= DRAFT_NAMES
    for name, value in step.params.items():
        extra: frozenset[str] = frozenset()
        if handler and name in handler.raw_params:
            extra = added | (ROW_NAMES if name in handler.row_params else frozenset())
        yield from _in_templates((*path, name), value, extra)
    if handler is None:
        return
    for inner, field in parameters.fields_tested(handler, step.params):
        yield Use((*path, *inner), field)
    for inner, message in parameters.messages(handler, step.params):
        yield from _in_message((*path, *inner), message, added)


def _in_templates(path: Path, value: object, extra: frozenset[str]) -> Iterator[Use | Finding]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _in_templates((*path, key), inner, extra)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _in_templates((*path, index), inner, extra)
    elif isinstance(value, str):
        try:
            uses = templating.uses(value)
        except DataError as error:
            yield Finding(path, error.message)
            return
        yield from (Use(path, use.path, use.guarded) for use in uses if use.path[0] not in extra)


def _in_message(path: Path, name: str, extra: frozenset[str]) -> Iterator[Use | Finding]:
    if templating.has_template(name):
        return
    try:
        sources = templating.message_sources(name)
    except DataError:
        return  # told by graph.messages
    for part, source in sources.items():
        for found in _in_templates(path, source, extra):
            if isinstance(found, Finding):
                yield Finding(path, f"{name}/{templating.PARTS[part]}: {found.message}")
            else:
                yield found


# -- what is wrong with it --------------------------------------------------------------------------


def _unknown(use: Use, known: Catalogue) -> str:
    root = use.path[0]
    if root in SURROUNDINGS:
        return unknown_surrounding(use.path)
    if root in known.fields and len(use.path) > 1:
        fields = known.fields[root]
        if fields is not ANY and use.path[1] not in fields:
            hint = one_of(use.path[1], fields)
            return f"unknown variable {use.spoken!r} in the result of {root!r}; {hint}"
    if root not in known.names:
        return f"unknown variable {use.spoken!r}; {one_of(root, known.names)}"
    return ""


def _unset(use: Use, known: Catalogue, graph: Graph, step: str) -> str:
    """Say on which way to the step the name is not set, or ""."""
    root = use.path[0]
    if root in known.inputs or root in SURROUNDINGS:
        return ""
    setters = known.setters[root]
    way = graph.way(step, lambda edge: not (edge.done and edge.source in setters))
    if way is None:
        return ""
    by = " or ".join(repr(key) for key in sorted(setters))
    if not any(graph.way(step, start=setter) for setter in setters):
        return f"variable {use.spoken!r} is used before it is set: {by} sets it only after this step"
    return (
        f"variable {use.spoken!r} is not set on every way here: {by} sets it, but not on the way"
        f" {spoken(way)}; set it on each, or give a default"
    )
