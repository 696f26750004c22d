"""A step's parameters against the signature of its handler."""

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tasks import templating
from tasks.conditions import Row
from tasks.definition.shape import Finding, Path, one_of
from tasks.outcome import Handler, MessageMark, NamesMark, PersonMark, TargetMark


@dataclass(frozen=True, slots=True)
class Place:
    """One value inside a step's parameters, with the type that the handler gives it there."""

    path: Path
    value: Any
    kind: Any
    marks: tuple[Any, ...]


def findings(handler: Handler, params: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    """Yield missing, extra and ill-typed parameters; the type of a template's value is known only later."""
    for name in params:
        if name not in handler.params.model_fields:
            known = one_of(str(name), handler.params.model_fields)
            yield Finding((*path, name), f"{handler.name} has no parameter {name!r}; {known}", at_key=True)
    try:
        handler.params.model_validate(params)
    except ValidationError as error:
        told: set[Path] = set()
        for detail in error.errors(include_url=False):
            finding = _finding(handler, params, path, detail)
            if finding and finding.path not in told:
                told.add(finding.path)
                yield finding


def _finding(handler: Handler, params: Mapping[str, Any], path: Path, detail: ErrorDetails) -> Finding | None:
    where, value = _reach(params, detail["loc"])
    name = ".".join(map(str, where))
    if detail["type"] == "missing":
        missing = ".".join(map(str, (*where, detail["loc"][-1])))
        return Finding((*path, *where), f"{handler.name} needs the parameter {missing!r}")
    if detail["type"] == "extra_forbidden" and len(where) == 1:
        return None
    if isinstance(value, str) and templating.has_template(value):
        return None
    message = detail["msg"].removeprefix("Value error, ")
    return Finding((*path, *where), f"{name or 'parameters'}: {message}; got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _reach(params: Any, location: Sequence[str | int]) -> tuple[Path, Any]:
    """Follow pydantic's location as far as it leads; the names of a union's branches lead nowhere."""
    path: Path = ()
    value = params
    for part in location:
        in_list = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, Mapping) and part in value):
            value = value[part]
            path = (*path, part)
    return path, value


# -- what the types say of values inside ------------------------------------------------------------


def places(handler: Handler, params: Mapping[str, Any]) -> Iterator[Place]:
    """Yield every value inside the parameters, those left out with their defaults included."""
    for name, info in handler.params.model_fields.items():
        value = params[name] if name in params else info.get_default(call_default_factory=True)
        yield from _places((name,), _plain(value), info.annotation, tuple(info.metadata))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _places(path: Path, value: Any, kind: Any, marks: tuple[Any, ...] = ()) -> Iterator[Place]:
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        yield from _places(path, value, inner, (*marks, *more))
        return
    if get_origin(kind) in (Union, types.UnionType):
        for arm in get_args(kind):
            if _may_be(arm, value):
                yield from _places(path, value, arm, marks)
        return
    yield Place(path, value, kind, marks)
    yield from _inside(path, value, kind)


def _inside(path: Path, value: Any, kind: Any) -> Iterator[Place]:
    arguments = get_args(kind)
    if isinstance(value, Mapping):
        if _is_model(kind):
            for name, info in kind.model_fields.items():
                if name in value:
                    yield from _places((*path, name), value[name], info.annotation, tuple(info.metadata))
        elif len(arguments) == 2:
            for name, inner in value.items():
                yield from _places((*path, name), inner, arguments[1])
    elif isinstance(value, list | tuple) and arguments:
        for index, inner in enumerate(value):
            yield from _places((*path, index), inner, arguments[0])


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _may_be(kind: Any, value: Any) -> bool:
    """Whether a value may be meant as this branch of a union: which model, by the keys it has."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return any(_may_be(arm, value) for arm in get_args(kind))
    if isinstance(value, Mapping):
        return (
            set(value) <= set(kind.model_fields) if _is_model(kind) else get_origin(kind) in (dict, Mapping)
        )
    if isinstance(value, list | tuple):
        return get_origin(kind) in (list, tuple, Sequence)
    return not _is_model(kind) and get_origin(kind) is None


def targets(handler: Handler, params: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """Return every place where the step names where the run goes: (path, step key, "next" or "complete")."""
    return [(place.path, place.value) for place, _ in ways(handler, params)]


def ways(handler: Handler, params: Mapping[str, Any]) -> list[tuple[Place, TargetMark]]:
    """Return the places where the step names where the run goes, with what is said of the way there."""
    return [
        (place, mark)
        for place in places(handler, params)
        for mark in place.marks
        if isinstance(mark, TargetMark) and isinstance(place.value, str) and place.value not in mark.words
    ]


def _marked(marks: Iterable[Any], kind: type) -> bool:
    return any(isinstance(mark, kind) for mark in marks)


def leaves_by_target(handler: Handler) -> bool:
    """Whether the handler itself always says where the run goes, so that on_success means nothing."""
    return any(
        isinstance(mark, TargetMark) and not mark.aside
        for info in handler.params.model_fields.values()
        for mark in info.metadata
    )


def fields_tested(handler: Handler, params: Mapping[str, Any]) -> list[tuple[Path, tuple[str, ...]]]:
    """Return the fields that conditions among the parameters read: (path, the field's path)."""
    return [
        ((*place.path, "field"), tuple(place.value["field"].split(".")))
        for place in places(handler, params)
        if place.kind is Row
        and isinstance(place.value, Mapping)
        and isinstance(place.value.get("field"), str)
    ]


def messages(handler: Handler, params: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """Return the message templates that the step names: (path, name of the folder)."""
    return [
        (place.path, place.value)
        for place in places(handler, params)
        if _marked(place.marks, MessageMark) and isinstance(place.value, str) and place.value
    ]


def people(handler: Handler, params: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """Return the logins and groups that the step names: (path, name as it stands there)."""
    return [
        (place.path, place.value)
        for place in places(handler, params)
        if _marked(place.marks, PersonMark) and isinstance(place.value, str)
    ]


def added_names(handler: Handler, params: Mapping[str, Any]) -> frozenset[str]:
    """Return the names that the step's own parameters add for the templates it renders itself."""
    return frozenset(
        str(name)
        for place in places(handler, params)
        if _marked(place.marks, NamesMark) and isinstance(place.value, Mapping)
        for name in place.value
    )
