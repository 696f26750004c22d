"""Field maps: which field of a provider is which field of ours. The maps are data, one file each.

    customers:
      - {field: name, provider: full_name, direction: both, required: true, type: text, owner: crm_wins}
      - {field: email, provider: properties.contact.email}

provider   the provider's name of the field; a dot leads into an object
direction  in (read), out (written) or both       required  an absent or blank value is a data error
type       text, number, integer, flag, date, time, texts, integers
owner      whose value wins: crm_wins, local_wins, merge_with_audit, immutable_after_bind, newest
default    our value of a field that is absent     values    the provider's words for ours, {theirs: ours}

What is present must be of its type: a value that cannot be read is a data error that names the
field and the map, never a guess. What the file does not name is left out and remarked on in
`diagnostics`. A field without which there is no record (a customer's name) is required, whatever the
map says. `immutable_after_bind` can be written when a record is created and never afterwards.

The map of a provider is `<name>.yaml` next to its module, else in `crm/mappings/`; a file that
changed is read again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crm.filters import CUSTOMER_STATUSES
from crm.records import ENTITIES, Customer, Record, plain_value
from sopengine.errors import DataError, Unsupported

FOLDER = Path(__file__).parent / "mappings"
OWN_FIELDS = frozenset({"crm_ref", "source_provider", "diagnostics"})


Way = tuple[str, ...]  # the names that lead to a value inside a row
Tree = dict[str, Any]  # the names that a map knows, with the tree of those inside each
Type = Literal["text", "number", "integer", "flag", "date", "time", "texts", "integers"]
Owner = Literal["crm_wins", "local_wins", "merge_with_audit", "immutable_after_bind", "newest"]


class MappingError(ValueError):
    """A field map is not what a field map must be; names the file, the entity and the field."""


class FieldMap(BaseModel):
    """One row of a field map."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str
    provider: str = Field(pattern=r"^[^.]+(\.[^.]+)*$")
    direction: Literal["in", "out", "both"] = "both"
    required: bool = False
    type: Type = "text"
    owner: Owner = "crm_wins"
    default: Any = None
    values: dict[str, str] | None = None

    @property
    def path(self) -> Way:
        """Return the names that lead to the value in a provider's row."""
        return tuple(self.provider.split("."))


@dataclass(frozen=True, slots=True)
class _Inward:
    """One field that is read. `needed`: without it there is no record."""

    item: FieldMap
    path: Way
    read: Callable[[Any], Any]
    needed: bool


@dataclass(frozen=True, slots=True)
class _Outward:
    """One field that is written."""

    item: FieldMap
    path: Way
    write: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The rows of one entity, ready for use."""

    record: type[Record]
    inward: tuple[_Inward, ...]
    outward: Mapping[str, _Outward]
    known: Tree


class FieldMaps:
    """The field maps of one provider; `source` is what errors call the file they come from."""

    def __init__(self, provider: str, rows: Mapping[str, list[FieldMap]], source: str) -> None:
        self.provider = provider
        self.rows = rows
        self.source = source
        self._plans = {entity: _plan(entity, maps, source) for entity, maps in rows.items()}

    def record(self, entity: str, row: Any) -> Any:
        """Return the record of a provider's row; DataError names the field that is wrong."""
        plan = self._plan_of(entity)
        if not isinstance(row, Mapping):
            raise DataError(f"{self.provider}: a row of {entity} is not an object")
        values: dict[str, Any] = {}
        remarks = [f"unmapped: {name}" for name in _unmapped(row, plan.known)]
        for field in plan.inward:
            item = field.item
            try:
                raw = _value_at(row, field.path)
                if raw is not _ABSENT and not _is_blank(raw):
                    values[item.field] = field.read(raw)
                    continue
            except (TypeError, ValueError, InvalidOperation, OverflowError):
                raise DataError(
                    f"{self.provider}: the field {item.provider!r} in a row of {entity} "
                    f"is not a {item.type}; see {item.field} in {self.source}"
                ) from None
            if item.required or (field.needed and item.default is None):
                raise DataError(
                    f"{self.provider}: a row of {entity} lacks the field {item.provider!r}; "
                    f"see {item.field} in {self.source}"
                )
            if item.default is not None:
                values[item.field] = _READERS[item.type](item.default)
            if raw is _ABSENT:
                remarks.append(f"absent: {item.field}")
        return plan.record(
            crm_ref=values["id"], source_provider=self.provider, diagnostics=tuple(remarks), **values
        )

    def row(self, entity: str, attributes: Mapping[str, Any], *, creating: bool = False) -> dict[str, Any]:
        """Return the provider's row for our attributes; an attribute that cannot be written is refused."""
        plan = self._plan_of(entity)
        if unknown := sorted(attributes.keys() - plan.outward.keys()):
            raise Unsupported(
                f"{self.provider} cannot write {', '.join(unknown)} of {entity}; "
                f"it can write: {', '.join(sorted(plan.outward)) or 'nothing'}"
            )
        found: dict[str, Any] = {}
        for name, value in attributes.items():
            field = plan.outward[name]
            if not creating and field.item.owner == "immutable_after_bind":
                raise Unsupported(f"{name!r} of {entity} stays as it was created; see {self.source}")
            _put(found, field.path, self._written(entity, field, value))
        if creating:
            for name, field in plan.outward.items():
                if field.item.default is not None and attributes.get(name) is None:
                    _put(found, field.path, field.write(field.item.default))
            if missing := sorted(self._demanded(plan) - attributes.keys()):
                raise DataError(f"a new record in {entity} needs {', '.join(missing)}; see {self.source}")
        return found

    def owner(self, entity: str, field: str) -> Owner:
        """Return whose value wins for this field of ours."""
        items = [item for item in self.rows.get(entity, ()) if item.field == field]
        return items[0].owner if items else "crm_wins"

    def _written(self, entity: str, field: _Outward, value: Any) -> Any:
        """Return the provider's value of one of ours; DataError names the field that it cannot be."""
        item = field.item
        if item.required and _is_blank(value):
            raise DataError(f"{item.field!r} of {entity} must not be empty; see {self.source}")
        if item.values is not None and value is not None and value not in item.values.values():
            words = ", ".join(dict.fromkeys(item.values.values()))
            raise DataError(f"{item.field!r} of {entity} must be one of {words}; see {self.source}")
        try:
            return None if value is None else field.write(value)
        except (TypeError, ValueError, InvalidOperation, OverflowError):
            raise DataError(f"{item.field!r} of {entity} is not a {item.type}; see {self.source}") from None

    def _plan_of(self, entity: str) -> _Plan:
        try:
            return self._plans[entity]
        except KeyError:
            raise Unsupported(f"{self.provider} has no field map for {entity}") from None

    @staticmethod
    def _demanded(plan: _Plan) -> set[str]:
        return {
            name for name, field in plan.outward.items() if field.item.required and field.item.default is None
        }


def maps_for(provider: str, folders: Iterable[Path] = ()) -> FieldMaps:
    """Return the field maps of a provider: of the first folder that has them, else the shipped ones.

    Raises MappingError when they are wrong or missing.
    """
    name = f"{provider}.yaml"
    path = next((folder / name for folder in folders if (folder / name).is_file()), FOLDER / name)
    try:
        found = path.stat()
    except OSError:
        raise MappingError(f"{name}: there is no such field map") from None
    return _maps_at(path, provider, (found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=64)
def _maps_at(path: Path, provider: str, _version: tuple[int, int]) -> FieldMaps:
    return read_maps(path, provider)


def read_maps(path: Path, provider: str) -> FieldMaps:
    """Read one file of field maps; raises MappingError with file, entity and field."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = TypeAdapter(dict[str, list[FieldMap]]).validate_python(content)
    except OSError:
        raise MappingError(f"{path.name}: there is no such field map") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise MappingError(f"{path.name}: this is not YAML") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MappingError(f"{path.name}: {where}: {first['msg']}") from None
    return FieldMaps(provider, rows, path.name)


# -- what a map must be ----------------------------------------------------------------------------


def _plan(entity: str, maps: list[FieldMap], source: str) -> _Plan:
    """Return the rows of one entity ready for use; MappingError when they do not fit our record."""
    if entity not in ENTITIES:
        raise MappingError(f"{source}: {entity} is no entity; there are: {', '.join(ENTITIES)}")
    record = ENTITIES[entity]
    try:
        for item in maps:
            _demand_sound(item, record)
        inward = [item for item in maps if item.direction != "out"]
        outward = [item for item in maps if item.direction != "in"]
        if "id" not in {item.field for item in inward if item.required}:
            raise MappingError("id must be read and required")
        for chosen in (inward, outward):
            _demand_once("mapped twice", [item.field for item in chosen])
        _demand_once("written by two fields", [item.provider for item in outward])
        needed = _needed(record)
        if missing := sorted(needed - {item.field for item in inward}):
            raise MappingError(f"there is no {record.word} without {', '.join(missing)}: map it")
        known = _tree(maps)
    except MappingError as error:
        raise MappingError(f"{source}: {entity}: {error}") from None
    return _Plan(
        record,
        tuple(
            _Inward(item, item.path, _reader(item), item.required or item.field in needed) for item in inward
        ),
        {item.field: _Outward(item, item.path, _writer(item)) for item in outward},
        known,
    )


def _demand_sound(item: FieldMap, record: type[Record]) -> None:
    """Raise MappingError when one row cannot mean anything: unknown field, wrong type, odd default."""
    if item.field not in {field.name for field in fields(record)} - OWN_FIELDS:
        raise MappingError(f"{item.field} is no field of ours")
    if item.type != (expected := _type_of(record, item.field)):
        raise MappingError(f"{item.field} is of type {expected}, not {item.type}")
    if item.values is not None and item.type != "text":
        raise MappingError(f"{item.field}: values are words, so they go with the type text")
    if (record, item.field) == (Customer, "status"):
        _demand_statuses(item)
    if item.default is None:
        return
    try:
        _writer(item)(item.default)
    except (TypeError, ValueError, InvalidOperation, OverflowError):
        raise MappingError(f"{item.field}: the default is not a {item.type} that it can have") from None


def _demand_statuses(item: FieldMap) -> None:
    """Raise MappingError for a word that no filter and no step would ever meet."""
    if unknown := sorted(set((item.values or {}).values()) - set(CUSTOMER_STATUSES)):
        known = ", ".join(CUSTOMER_STATUSES)
        raise MappingError(f"{item.field}: {', '.join(unknown)} is no status; there are: {known}")


def _demand_once(what: str, names: list[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise MappingError(f"{what}: {', '.join(sorted(twice))}")


def _needed(record: type[Record]) -> set[str]:
    """Return the fields without which this record cannot be."""
    return {field.name for field in fields(record) if field.default is MISSING} - OWN_FIELDS


_TYPES: Mapping[Any, Type] = {
    str: "text",
    Decimal: "number",
    int: "integer",
    bool: "flag",
    date: "date",
    datetime: "time",
    tuple[str, ...]: "texts",
    tuple[int, ...]: "integers",
}


def _type_of(record: type[Record], field: str) -> Type:
    """Return the type that a map must give to this field of ours."""
    hint = get_type_hints(record)[field]
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next(_TYPES[kind] for kind in kinds if kind is not NoneType)


# -- the way into a row ----------------------------------------------------------------------------

_ABSENT = object()


def _is_blank(value: Any) -> bool:
    """Say whether a value is none: nothing, or a text of blanks."""
    return value is None or (isinstance(value, str) and not value.strip())


def _value_at(row: Any, path: Way) -> Any:
    """Return the value at the path, or _ABSENT; TypeError when the way leads through no object."""
    for name in path:
        if row is None:
            return None
        if not isinstance(row, Mapping):
            raise TypeError
        if name not in row:
            return _ABSENT
        row = row[name]
    return row


def _put(row: dict[str, Any], path: Way, value: Any) -> None:
    """Put the value at the path, making the objects on the way."""
    *way, last = path
    for name in way:
        row = row.setdefault(name, {})
    row[last] = value


def _tree(maps: Iterable[FieldMap]) -> Tree:
    """Return the names that these rows know; a name cannot be both a value and an object."""
    tree: Tree = {}
    ends = {item.path for item in maps}
    for path in sorted(ends):
        if any(path[:length] in ends for length in range(1, len(path))):
            raise MappingError(f"{'.'.join(path)} lies inside a field that is mapped as a value")
        inner = tree
        for name in path:
            inner = inner.setdefault(name, {})
    return tree


def _unmapped(row: Mapping[str, Any], known: Tree, before: str = "") -> Iterator[str]:
    """Yield the names in a provider's row that its map does not know."""
    for name in sorted(row.keys() - known.keys(), key=str):
        yield f"{before}{name}"
    for name, inner in known.items():
        if inner and isinstance(row.get(name), Mapping):
            yield from _unmapped(row[name], inner, f"{before}{name}.")


# -- values in -----------------------------------------------------------------------------------


def _read_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):  # ids and zip codes come as numbers too
        return str(value)
    raise TypeError


def _read_number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise TypeError
    number = Decimal(str(value))
    if not number.is_finite() or number.adjusted() > 15:  # no sum of ours has 16 digits
        raise ValueError
    return number


def _read_integer(value: Any) -> int:
    number = _read_number(value)
    if number != number.to_integral_value():
        raise ValueError
    return int(number)


def _read_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError


def _read_date(value: Any) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    return datetime.fromisoformat(value).date() if len(value) > 10 else date.fromisoformat(value)


def _read_time(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _read_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise TypeError
    return tuple(value)


def _read_integers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_read_integer(part) for part in value)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "text": _read_text,
    "number": _read_number,
    "integer": _read_integer,
    "flag": _read_flag,
    "date": _read_date,
    "time": _read_time,
    "texts": _read_texts,
    "integers": _read_integers,
}


def _reader(item: FieldMap) -> Callable[[Any], Any]:
    read = _READERS[item.type]
    if item.values is None:
        return read
    words = item.values

    def read_word(value: Any) -> Any:
        if value not in words:
            raise ValueError
        return words[value]

    return read_word


# -- values out ----------------------------------------------------------------------------------


def _writer(item: FieldMap) -> Callable[[Any], Any]:
    read = _READERS[item.type]
    words: dict[str, str] = {}
    for theirs, ours in (item.values or {}).items():
        words.setdefault(ours, theirs)  # of two words for one of ours the first is written

    def write(value: Any) -> Any:
        if item.values is None:
            return plain_value(read(value))
        if value not in words:
            raise ValueError
        return words[value]

    return write
