"""Field maps: which field of a provider is which field of ours. The maps are data, one file each.

    customers:
      - {field: name, provider: full_name, direction: both, required: true, type: text, owner: crm_wins}

direction  in (read), out (written) or both       required  an absent or empty value is a data error
type       text, number, integer, flag, date, time, texts, integers
owner      whose value wins: crm_wins, local_wins, merge_with_audit, immutable_after_bind, newest
default    the value of a field that is absent     values    the provider's words for ours, {theirs: ours}

What is present must be of its type: a value that cannot be read is a data error that names the
field, never a guess. What the file does not name is left out and remarked on in `diagnostics`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from crm.records import ENTITIES, Record
from sopengine.errors import DataError, Unsupported

FOLDER = Path(__file__).parent / "mappings"
OWN_FIELDS = frozenset({"crm_ref", "source_provider", "diagnostics"})


Type = Literal["text", "number", "integer", "flag", "date", "time", "texts", "integers"]
Owner = Literal["crm_wins", "local_wins", "merge_with_audit", "immutable_after_bind", "newest"]


class MappingError(ValueError):
    """A field map is not what a field map must be; names the file, the entity and the field."""


class FieldMap(BaseModel):
    """One row of a field map."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str
    provider: str
    direction: Literal["in", "out", "both"] = "both"
    required: bool = False
    type: Type = "text"
    owner: Owner = "crm_wins"
    default: Any = None
    values: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """The rows of one entity, ready for use."""

    record: type[Record]
    inward: tuple[tuple[FieldMap, Callable[[Any], Any]], ...]
    outward: Mapping[str, tuple[FieldMap, Callable[[Any], Any]]]
    known: frozenset[str]


class FieldMaps:
    """The field maps of one provider."""

    def __init__(self, provider: str, rows: Mapping[str, list[FieldMap]], source: str) -> None:
        self.provider = provider
        self.rows = rows
        self._plans = {entity: _plan(entity, maps, source) for entity, maps in rows.items()}

    def record(self, entity: str, row: Any) -> Any:
        """Return the record of a provider's row; DataError names the field that is wrong."""
        plan = self._plan_of(entity)
        if not isinstance(row, Mapping):
            raise DataError(f"{self.provider}: a row of {entity} is not an object")
        values: dict[str, Any] = {}
        remarks = [f"unmapped: {name}" for name in sorted(row.keys() - plan.known)]
        for item, read in plan.inward:
            raw = row.get(item.provider)
            if raw is None or raw == "":
                if item.required:
                    raise DataError(f"{self.provider}: a row of {entity} lacks the field {item.provider!r}")
                if item.default is not None:
                    values[item.field] = read(item.default)
                if item.provider not in row:
                    remarks.append(f"absent: {item.field}")
                continue
            try:
                values[item.field] = read(raw)
            except (TypeError, ValueError, InvalidOperation, OverflowError):
                raise DataError(
                    f"{self.provider}: the field {item.provider!r} in a row of {entity} is not a {item.type}"
                ) from None
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
            item, write = plan.outward[name]
            if item.required and value in (None, ""):
                raise DataError(f"{name!r} of {entity} must not be empty")
            try:
                found[item.provider] = None if value is None else write(value)
            except (TypeError, ValueError, InvalidOperation, OverflowError):
                raise DataError(f"{name!r} of {entity} is not a {item.type}") from None
        if creating:
            for name, (item, write) in plan.outward.items():
                if item.default is not None and attributes.get(name) is None:
                    found[item.provider] = write(item.default)
        if creating and (missing := sorted(self._demanded(plan) - attributes.keys())):
            raise DataError(f"a new record in {entity} needs {', '.join(missing)}")
        return found

    def _plan_of(self, entity: str) -> _Plan:
        try:
            return self._plans[entity]
        except KeyError:
            raise Unsupported(f"{self.provider} has no field map for {entity}") from None

    @staticmethod
    def _demanded(plan: _Plan) -> set[str]:
        return {name for name, (item, _) in plan.outward.items() if item.required and item.default is None}


@cache
def maps_for(provider: str) -> FieldMaps:
    """Return the shipped field maps of a provider; MappingError when they are wrong."""
    return read_maps(FOLDER / f"{provider}.yaml", provider)


def read_maps(path: Path, provider: str) -> FieldMaps:
    """Read one file of field maps; raises MappingError with file, entity and field."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = TypeAdapter(dict[str, list[FieldMap]]).validate_python(content)
    except OSError:
        raise MappingError(f"{path.name}: there is no such field map") from None
    except yaml.YAMLError:
        raise MappingError(f"{path.name}: this is not YAML") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MappingError(f"{path.name}: {where}: {first['msg']}") from None
    return FieldMaps(provider, rows, path.name)


def _plan(entity: str, maps: list[FieldMap], source: str) -> _Plan:
    if entity not in ENTITIES:
        raise MappingError(f"{source}: {entity} is no entity; there are: {', '.join(ENTITIES)}")
    record = ENTITIES[entity]
    ours = {item.name for item in fields(record)} - OWN_FIELDS
    for item in maps:
        if item.field not in ours:
            raise MappingError(f"{source}: {entity}: {item.field} is no field of ours")
    inward = [item for item in maps if item.direction != "out"]
    if "id" not in {item.field for item in inward if item.required}:
        raise MappingError(f"{source}: {entity}: id must be read and required")
    for chosen in (inward, [item for item in maps if item.direction != "in"]):
        names = [item.field for item in chosen]
        if twice := {name for name in names if names.count(name) > 1}:
            raise MappingError(f"{source}: {entity}: mapped twice: {', '.join(sorted(twice))}")
    return _Plan(
        record,
        tuple((item, _reader(item)) for item in inward),
        {item.field: (item, _writer(item)) for item in maps if item.direction != "in"},
        frozenset(item.provider for item in maps),
    )


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
    if not item.values:
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
    words = {ours: theirs for theirs, ours in (item.values or {}).items()}

    def write(value: Any) -> Any:
        if words:
            return words[value] if value in words else _refuse()
        return _json_safe(read(value))

    return write


def _refuse() -> Any:
    raise ValueError


def _json_safe(value: Any) -> Any:
    if isinstance(value, date):  # a datetime is a date too
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
