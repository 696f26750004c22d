"""Laws of conditions."""

from typing import Any

import pytest
from pydantic import ValidationError

from sopengine.errors import DataError
from tasks import conditions

NAMES: dict[str, Any] = {
    "season": 2027,
    "city": "St. Paul",
    "nothing": None,
    "blank": "  ",
    "yes": True,
    "no": False,
    "services": ["fertilizer", "weed_control"],
    "none_of_them": [],
    "amount": "120.50",
    "due": "2027-02-15",
    "find": {"status": "past", "seasons": [2025, 2026]},
}


def holds(field: str, op: str, *value: Any) -> bool:
    row = {"field": field, "op": op, **({"value": value[0]} if value else {})}
    return conditions.holds(conditions.read(row), NAMES)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("season", "equals", 2027), True),
        (("season", "equals", "2027"), True),
        (("season", "equals", 2026), False),
        (("season", "equals", True), False),
        (("city", "equals", "st. paul"), False),
        (("nothing", "equals", None), True),
        (("yes", "equals", True), True),
        (("yes", "equals", 1), False),
        (("yes", "equals", "true"), False),
        (("city", "not_equals", "Duluth"), True),
        (("city", "not_equals", "St. Paul"), False),
        (("find.status", "in", ["past", "cold"]), True),
        (("find.status", "in", ["active"]), False),
        (("season", "in", ["2026", "2027"]), True),
        (("find.status", "not_in", ["active"]), True),
        (("find.status", "not_in", ["past"]), False),
        (("services", "contains", "fertilizer"), True),
        (("services", "contains", "snow"), False),
        (("find.seasons", "contains", "2026"), True),
        (("city", "contains", "PAUL"), True),
        (("nothing", "contains", "x"), False),
        (("nothing", "empty"), True),
        (("blank", "empty"), True),
        (("none_of_them", "empty"), True),
        (("no", "empty"), False),
        (("city", "empty"), False),
        (("nothing", "not_empty"), False),
        (("services", "not_empty"), True),
        (("season", "greater", 2026), True),
        (("season", "greater", 2027), False),
        (("amount", "greater", 99), True),
        (("nothing", "greater", 0), False),
        (("season", "less", 2028), True),
        (("season", "less", 2027), False),
        (("nothing", "less", 5), False),
        (("due", "before", "2027-02-16"), True),
        (("due", "before", "2027-02-15"), False),
        (("due", "after", "2027-02-14T23:00:00+00:00"), True),
        (("due", "after", "2027-02-15"), False),
        (("nothing", "before", "2027-02-15"), False),
        (("nothing", "after", "2027-02-15"), False),
        (("yes", "is_true"), True),
        (("no", "is_true"), False),
        (("nothing", "is_true"), False),
        (("no", "is_false"), True),
        (("nothing", "is_false"), True),
        (("yes", "is_false"), False),
    ],
)
def test_each_operator_means_what_its_name_says(row: tuple[Any, ...], expected: bool) -> None:
    assert holds(*row) is expected


def test_all_needs_every_part_and_any_needs_one() -> None:
    good, bad = {"field": "yes", "op": "is_true"}, {"field": "no", "op": "is_true"}
    for value, expected in [
        ({"all": [good, good]}, True),
        ({"all": [good, bad]}, False),
        ({"any": [bad, good]}, True),
        ({"any": [bad, bad]}, False),
        ({"all": []}, True),
        ({"any": []}, False),
        ({"all": [good, {"any": [bad, {"all": [good]}]}]}, True),
    ]:
        assert conditions.holds(conditions.read(value), NAMES) is expected


def test_a_field_that_is_not_there_is_an_error_that_names_it() -> None:
    for field in ("sesaon", "find.sttaus", "season.year"):
        with pytest.raises(DataError, match=f"'{field}' is not set"):
            holds(field, "empty")


@pytest.mark.parametrize(
    "row",
    [
        ("city", "greater", 5),
        ("season", "greater", "many"),
        ("yes", "less", 5),
        ("city", "before", "2027-01-01"),
        ("due", "after", "soon"),
        ("season", "contains", 2),
        ("city", "is_true"),
        ("season", "is_false"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_an_error_without_the_value(row: tuple[Any, ...]) -> None:
    with pytest.raises(DataError) as error:
        holds(*row)
    assert repr(row[0]) in str(error.value)
    assert "St. Paul" not in str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        {"field": "a", "op": "is_like", "value": 1},
        {"field": "a", "op": "equals"},
        {"field": "a", "op": "empty", "value": 1},
        {"field": "a", "op": "in", "value": "b"},
        {"field": "a b", "op": "empty"},
        {"field": "__import__('os')", "op": "empty"},
        {"op": "empty"},
        {"field": "a", "op": "empty", "also": 1},
        {"all": {"field": "a", "op": "empty"}},
        {"all": [], "any": []},
        {},
        [],
        "a == 1",
    ],
)
def test_what_is_no_row_is_refused_when_it_is_read(value: Any) -> None:
    with pytest.raises(ValidationError):
        conditions.read(value)


def test_the_list_of_in_may_be_a_template_that_is_filled_in_later() -> None:
    assert conditions.read({"field": "a", "op": "in", "value": "{{ cities }}"})
    with pytest.raises(DataError, match="needs a list"):
        holds("city", "in", "{{ cities }}")


def test_the_fields_of_a_condition_are_known_without_running_it() -> None:
    value = {"all": [{"field": "a.b", "op": "empty"}, {"any": [{"field": "c", "op": "is_true"}]}]}
    assert list(conditions.fields(conditions.read(value))) == [("a", "b"), ("c",)]
