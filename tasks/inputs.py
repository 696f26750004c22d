"""The inputs of a run: checked against what its SOP declares, defaults filled in."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from tasks import templating
from tasks.definition import SopDef

LARGEST = 2**53  # beyond it JSON numbers lose their last digits


class InputError(ValueError):
    """A run cannot start with these inputs; the sentence says which one and what is expected."""


def bind(sop: SopDef, given: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's inputs. `names` is what a default's template may use (slot, now, business)."""
    extra = sorted(set(given) - set(sop.inputs))
    if extra:
        known = ", ".join(sorted(sop.inputs)) or "none"
        raise InputError(f"SOP {sop.slug} has no input {extra[0]!r}; its inputs: {known}")
    return {name: _value(sop.slug, name, spec, given, names) for name, spec in sop.inputs.items()}


def _value(
    sop: str, name: str, spec: Mapping[str, Any], given: Mapping[str, Any], names: Mapping[str, Any]
) -> Any:
    if name in given:
        value = given[name]
    elif "default" in spec:
        value = templating.render(spec["default"], names)
    elif spec.get("required", True):
        raise InputError(f"SOP {sop} needs the input {name!r} ({spec.get('type', 'string')})")
    else:
        return None
    try:
        return _READERS[spec.get("type", "string")](value)
    except (TypeError, ValueError, KeyError):
        # The value may be a customer's, and this sentence goes to logs and to the chat.
        raise InputError(f"SOP {sop}: input {name!r} must be of type {spec.get('type', 'string')}") from None


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    number = int(value)
    if abs(number) > LARGEST:
        raise ValueError(value)
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(value)
    number = float(value)
    if not abs(number) <= LARGEST:  # NaN is not, either
        raise ValueError(value)
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "false": False, "no": False}[_string(value).lower()]


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value)


def _date(value: Any) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    return (value if isinstance(value, date) else date.fromisoformat(value)).isoformat()


_READERS = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "list": _list,
    "date": _date,
}
