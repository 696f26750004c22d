"""Where a run can go: the steps as a graph, and what must hold on every way through it."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sopengine.errors import DataError
from tasks import templating
from tasks.definition import params as parameters
from tasks.definition.records import COMPLETE, NEXT, SopDef, StepDef
from tasks.definition.shape import FAILURE_WORDS, Finding, one_of
from tasks.outcome import Handler, TargetMark


@dataclass(frozen=True, slots=True)
class Edge:
    """One way from a step to another: `done` when the step has done its work on it, `rested` when a run
    takes it only after a rest."""

    source: str
    to: str
    done: bool
    rested: bool = False


Passes = Callable[[Edge], bool]


@dataclass(frozen=True)
class Graph:
    """The steps of a SOP, their handlers as far as known, and the ways between them."""

    sop: SopDef
    handlers: Mapping[str, Handler]
    edges: Mapping[str, list[Edge]] = field(default_factory=dict)

    def number(self, key: str) -> int:
        """Return the place of the step in the list."""
        return next(number for number, step in enumerate(self.sop.steps) if step.key == key)

    def way(self, to: str, passes: Passes = lambda edge: True, *, start: str = "") -> list[str] | None:
        """Return the keys of a shortest way to step `to` over edges that `passes` lets through, or None.

        Without `start` it begins where the run begins, and the step `to` may be the first.
        """
        begin = start or self.sop.first
        if not start and to == begin:
            return [to]
        came_from: dict[str, str] = {}
        waiting = deque([begin])
        while waiting:
            here = waiting.popleft()
            for edge in self.edges.get(here, []):
                if edge.to in came_from or not passes(edge):
                    continue
                came_from[edge.to] = here
                if edge.to == to:
                    return _back(came_from, begin, to)
                waiting.append(edge.to)
        return None

    def reachable(self) -> set[str]:
        """Return the keys of every step that a run can come to."""
        seen, waiting = {self.sop.first}, [self.sop.first]
        while waiting:
            fresh = {edge.to for edge in self.edges.get(waiting.pop(), [])} - seen
            seen |= fresh
            waiting.extend(fresh)
        return seen


def _back(came_from: Mapping[str, str], begin: str, to: str) -> list[str]:
    way = [to]
    while True:
        way.append(came_from[way[-1]])
        if way[-1] == begin:
            return way[::-1]


def build(sop: SopDef, handlers: Mapping[str, Handler]) -> Graph:
    """Return the graph; what names no step leads nowhere."""
    return Graph(
        sop, handlers, {step.key: list(_edges(sop, step, handlers.get(step.key))) for step in sop.steps}
    )


def _edges(sop: SopDef, step: StepDef, handler: Handler | None) -> Iterator[Edge]:
    ways = [] if handler and parameters.leaves_by_target(handler) else [(step.on_success, TargetMark())]
    ways += [(place.value, mark) for place, mark in parameters.ways(handler, step.params)] if handler else []
    for to, mark in ways:
        key = sop.after(step.key) if to == NEXT else to
        if key is not None and key in sop:
            yield Edge(step.key, key, not mark.aside, mark.rested)
    if step.on_failure in sop:
        yield Edge(step.key, step.on_failure, False)


def spoken(way: list[str]) -> str:
    """Return a way as a person reads it."""
    return " → ".join(way)


# -- what must hold -------------------------------------------------------------------------------


def findings(graph: Graph) -> Iterator[Finding]:
    """Yield what is wrong with where the steps lead."""
    for number, step in enumerate(graph.sop.steps):
        yield from _destinations(graph, number, step)
    yield from _unreachable(graph)
    yield from _loops(graph)


def _destinations(graph: Graph, number: int, step: StepDef) -> Iterator[Finding]:
    sop, handler = graph.sop, graph.handlers.get(step.key)
    path = ("steps", number)
    known = [other.key for other in sop.steps]
    if step.on_success not in (NEXT, COMPLETE) and step.on_success not in sop:
        yield Finding(
            (*path, "on_success"),
            f"there is no step {step.on_success!r}; {one_of(step.on_success, [NEXT, COMPLETE, *known])}",
        )
    if step.on_failure and step.on_failure not in FAILURE_WORDS and step.on_failure not in sop:
        yield Finding(
            (*path, "on_failure"),
            f"there is no step {step.on_failure!r}; {one_of(step.on_failure, [*FAILURE_WORDS, *known])}",
        )
    if handler is None:
        return
    if step.on_success != NEXT and parameters.leaves_by_target(handler):
        yield Finding(
            (*path, "on_success"), f"{handler.name} itself says where the run goes; leave on_success out"
        )
    for place, mark in parameters.ways(handler, step.params):
        if mark.rested and place.value in (NEXT, COMPLETE):
            known_steps = one_of(place.value, known)
            yield Finding((*path, "with", *place.path), f"a run goes back to a step from here; {known_steps}")
    for inner, to in parameters.targets(handler, step.params):
        if to not in (NEXT, COMPLETE) and to not in sop:
            where = (*path, "with", *inner)
            if templating.has_template(to):
                yield Finding(where, "where a run goes must be written out, it cannot be a template")
            else:
                yield Finding(where, f"there is no step {to!r}; {one_of(to, [NEXT, COMPLETE, *known])}")


def _unreachable(graph: Graph) -> Iterator[Finding]:
    reachable = graph.reachable()
    for number, step in enumerate(graph.sop.steps):
        if step.key not in reachable:
            yield Finding(("steps", number), "no run can come to this step; lead one here, or take it out")


def _loops(graph: Graph) -> Iterator[Finding]:
    """A run that goes round without a rest would go round for ever, at full speed."""
    rests = {key for key, handler in graph.handlers.items() if handler.waits or handler.asks}
    told: set[str] = set()
    for step in graph.sop.steps:
        if step.key in rests or step.key in told:
            continue
        way = graph.way(
            step.key,
            lambda edge: not edge.rested and edge.to not in rests and edge.source not in rests,
            start=step.key,
        )
        if way:
            told |= set(way)
            yield Finding(
                ("steps", graph.number(step.key)),
                f"the steps {spoken(way)} go round without a wait or a person; "
                "put flow.wait or human.ask between",
            )


def messages(graph: Graph) -> Iterator[Finding]:
    """Yield message templates that are not there."""
    for number, step in enumerate(graph.sop.steps):
        handler = graph.handlers.get(step.key)
        for inner, name in parameters.messages(handler, step.params) if handler else ():
            if not templating.has_template(name):
                try:
                    templating.message_sources(name)
                except DataError as error:
                    yield Finding(("steps", number, "with", *inner), error.message)
