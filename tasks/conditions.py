"""Conditions as rows: a field, an operator, a value; all of them or any of them. No code.

    {field: customer_email, op: empty}
    {all: [{field: season, op: equals, value: 2027}, {any: [...]}]}

A field is a path such as `customer_email` or `find.status`. A field that is not there is an
error, as it is in a template; one that is null is empty, and neither greater nor less.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, model_validator

from sopengine.errors import DataError

Operator = Literal[
    "equals",
    "not_equals",
    "in",
    "not_in",
    "contains",
    "empty",
    "not_empty",
    "greater",
    "less",
    "before",
    "after",
    "is_true",
    "is_false",
]
WITHOUT_VALUE = frozenset({"empty", "not_empty", "is_true", "is_false"})


class Row(BaseModel):
    """One comparison; `value` is left out for empty, not_empty, is_true and is_false."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: Annotated[str, Field(pattern=r"^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*$")]
    op: Operator
    value: Any = None

    @model_validator(mode="after")
    def _value_fits(self) -> "Row":
        given = "value" in self.model_fields_set
        if given == (self.op in WITHOUT_VALUE):
            raise ValueError(f"{self.op} {'takes no' if given else 'needs a'} value")
        listed = isinstance(self.value, list | tuple) or "{{" in str(self.value)
        if self.op in ("in", "not_in") and not listed:
            raise ValueError(f"{self.op} needs a list of values")
        return self


class All(BaseModel):
    """True when every part is; with no part it is true."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    all: "tuple[Condition, ...]"


class Any_(BaseModel):  # noqa: N801 - `Any` is taken
    """True when at least one part is; with no part it is false."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    any: "tuple[Condition, ...]"


def _kind(value: Any) -> str:
    for kind in ("all", "any"):
        if kind in value if isinstance(value, Mapping) else hasattr(value, kind):
            return kind
    return "row"


Condition = Annotated[
    Annotated[Row, Tag("row")] | Annotated[All, Tag("all")] | Annotated[Any_, Tag("any")],
    Discriminator(_kind),
]
All.model_rebuild()
Any_.model_rebuild()
_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)


def read(value: Any) -> Condition:
    """Return the condition that these JSON values describe, or raise pydantic's ValidationError."""
    return _CONDITION.validate_python(value)


def holds(condition: Condition, names: Mapping[str, Any]) -> bool:
    """Return whether `condition` is true of `names`; DataError names a field that is not there or no use."""
    if isinstance(condition, All):
        return all(holds(part, names) for part in condition.all)
    if isinstance(condition, Any_):
        return any(holds(part, names) for part in condition.any)
    return _TESTS[condition.op](_look_up(condition.field, names), condition.value, condition)


def fields(condition: Condition) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field that `condition` reads."""
    if isinstance(condition, Row):
        yield tuple(condition.field.split("."))
        return
    for part in condition.all if isinstance(condition, All) else condition.any:
        yield from fields(part)


def _look_up(path: str, names: Mapping[str, Any]) -> Any:
    value: Any = names
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise DataError(f"condition: {path!r} is not set")
        value = value[name]
    return value


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | tuple | Mapping) and not value)


def _same(left: Any, right: Any) -> bool:
    """A text compares with a number by what it says: "2027" equals 2027. Flags equal only flags."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, str):
        left, right = right, left
    if isinstance(left, str) and isinstance(right, int | float):
        number = _number_in(left)
        return number is not None and number == right
    return bool(left == right)


def _number_in(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _among(value: Any, several: Any, row: Row) -> bool:
    if not isinstance(several, list | tuple):
        raise DataError(f"condition on {row.field!r}: {row.op} needs a list of values")
    return any(_same(value, one) for one in several)


def _contains(value: Any, part: Any, row: Row) -> bool:
    if value is None:
        return False
    if isinstance(value, str):
        return str(part).casefold() in value.casefold()
    if isinstance(value, list | tuple):
        return any(_same(one, part) for one in value)
    raise DataError(f"condition on {row.field!r}: contains needs a text or a list in the field")


def _compare(value: Any, bound: Any, row: Row, as_one: Callable[[Any, Row], Any]) -> int | None:
    """Return -1, 0 or 1 as value stands to bound; None when the field is empty."""
    if _is_empty(value):
        return None
    left, right = as_one(value, row), as_one(bound, row)
    return int(left > right) - int(left < right)


def _number(value: Any, row: Row) -> float:
    number = _number_in(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise DataError(f"condition on {row.field!r}: {row.op} compares numbers")
    return number


def _moment(value: Any, row: Row) -> datetime:
    """A date is its midnight; a time without a zone is UTC."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        return value if value.tzinfo else value.replace(tzinfo=UTC)  # type: ignore[no-any-return]
    except (ValueError, AttributeError):
        raise DataError(f"condition on {row.field!r}: {row.op} compares dates such as 2027-02-15") from None


def _flag(value: Any, row: Row) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise DataError(f"condition on {row.field!r}: {row.op} needs true or false in the field")


_TESTS: dict[str, Callable[[Any, Any, Row], bool]] = {
    "equals": lambda value, other, row: _same(value, other),
    "not_equals": lambda value, other, row: not _same(value, other),
    "in": _among,
    "not_in": lambda value, several, row: not _among(value, several, row),
    "contains": _contains,
    "empty": lambda value, _, row: _is_empty(value),
    "not_empty": lambda value, _, row: not _is_empty(value),
    "greater": lambda value, bound, row: _compare(value, bound, row, _number) == 1,
    "less": lambda value, bound, row: _compare(value, bound, row, _number) == -1,
    "before": lambda value, bound, row: _compare(value, bound, row, _moment) == -1,
    "after": lambda value, bound, row: _compare(value, bound, row, _moment) == 1,
    "is_true": lambda value, _, row: _flag(value, row),
    "is_false": lambda value, _, row: not _flag(value, row),
}
