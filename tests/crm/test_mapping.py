"""Field maps: what comes in is what was promised, or an error that names the field."""

from dataclasses import fields
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm.mapping import FieldMaps, MappingError, maps_for, read_maps
from crm.records import ENTITIES, Customer, Record, plain
from sopengine.errors import DataError, Unsupported

ROW = {"id": "c1", "name": "Ada", "status": "past"}


def maps(tmp_path: Path, text: str) -> FieldMaps:
    path = tmp_path / "acme.yaml"
    path.write_text(text)
    return read_maps(path, "acme")


@pytest.mark.parametrize("provider", ["mock", "rest"])
def test_the_shipped_maps_are_sound_and_speak_of_the_same_fields(provider: str) -> None:
    shipped = maps_for(provider)

    assert {entity: [item.field for item in rows] for entity, rows in shipped.rows.items()} == {
        entity: [item.field for item in rows] for entity, rows in maps_for("rest").rows.items()
    }
    for entity, rows in shipped.rows.items():
        assert {item.field for item in rows} == {field.name for field in fields(ENTITIES[entity])} - {
            "crm_ref",
            "source_provider",
            "diagnostics",
        }


def test_values_take_our_types() -> None:
    record = maps_for("rest").record(
        "invoices",
        {
            "id": 17,
            "number": "R-1",
            "customer_id": "c1",
            "amount_due": "1200.50",
            "currency": "USD",
            "due_date": "2026-03-01",
            "status": "open",
            "paid_at": "2026-03-02T10:00:00-06:00",
        },
    )

    assert (record.id, record.crm_ref, record.source_provider) == ("17", "17", "rest")
    assert record.amount_due == Decimal("1200.50")
    assert record.due_date == date(2026, 3, 1)
    assert record.paid_at == datetime(2026, 3, 2, 16, tzinfo=UTC)


def test_what_is_absent_or_unknown_is_remarked_by_name() -> None:
    row = {**ROW, "email": "", "shoe_size": 43, **dict.fromkeys(("phone", "address", "city"))}

    record = maps_for("rest").record("customers", row)

    assert "unmapped: shoe_size" in record.diagnostics
    assert "absent: zip" in record.diagnostics
    assert "absent: email" not in record.diagnostics
    assert (record.email, record.services, record.do_not_contact) == (None, (), False)


@pytest.mark.parametrize("field", ["id", "name", "status"])
@pytest.mark.parametrize("value", [None, "", "absent"])
def test_a_record_that_lacks_a_required_field_is_a_data_error_that_names_it(field: str, value: Any) -> None:
    row = {name: text for name, text in ROW.items() if name != field}
    if value != "absent":
        row[field] = value

    with pytest.raises(DataError, match=f"'{field}'"):
        maps_for("rest").record("customers", row)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ["Ada"]),
        ("name", True),
        ("status", "asleep"),
        ("status", {}),
        ("services", "fertilizer"),
        ("services", [1]),
        ("signed_seasons", "2026"),
        ("signed_seasons", [2026.5]),
        ("do_not_contact", "maybe"),
        ("do_not_contact", 17),
        ("last_service_date", "01.03.2026"),
        ("last_service_date", 20260301),
        ("created_at", "today"),
        ("email", {"home": "a@example.com"}),
    ],
)
def test_a_value_of_the_wrong_type_is_a_data_error_that_names_the_field_and_not_the_value(
    field: str, value: Any
) -> None:
    with pytest.raises(DataError, match=f"'{field}'") as caught:
        maps_for("rest").record("customers", {**ROW, field: value})

    assert str(value) not in str(caught.value).replace(f"'{field}'", "")


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1e400", "1e999999999", "twelve", True, None, "", [1]])
def test_an_amount_that_is_no_amount_is_a_data_error(amount: Any) -> None:
    row = {
        "id": "i1",
        "number": "R-1",
        "customer_id": "c1",
        "amount_due": amount,
        "currency": "USD",
        "due_date": "2026-03-01",
        "status": "open",
    }
    with pytest.raises(DataError, match="amount_due"):
        maps_for("rest").record("invoices", row)


@pytest.mark.parametrize("row", [None, [], "c1", 7])
def test_a_row_that_is_no_object_is_a_data_error(row: Any) -> None:
    with pytest.raises(DataError):
        maps_for("rest").record("customers", row)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(Customer.__dataclass_fields__)) | st.text(max_size=5), junk))
def test_any_row_is_a_record_or_a_data_error(row: dict[str, Any]) -> None:
    try:
        record = maps_for("rest").record("customers", {**ROW, **row})
    except DataError:
        return
    assert isinstance(record, Record)
    assert plain(record)


def test_the_providers_words_stop_at_its_map(tmp_path: Path) -> None:
    acme = maps(
        tmp_path,
        """
customers:
  - {field: id, provider: Key, direction: in, required: true}
  - {field: name, provider: FullName, required: true}
  - {field: status, provider: Stage, required: true, values: {Won: active, Open: lead}}
  - {field: city, provider: Town, direction: out}
""",
    )

    record = acme.record("customers", {"Key": "7", "FullName": "Ada", "Stage": "Won", "Town": "Edina"})
    row = acme.row("customers", {"status": "lead", "city": "Edina"})

    assert (record.status, record.city) == ("active", None)
    assert row == {"Stage": "Open", "Town": "Edina"}
    with pytest.raises(DataError, match="status"):
        acme.row("customers", {"status": "past"})
    with pytest.raises(Unsupported):
        acme.record("invoices", {"Key": "7"})


def test_defaults_fill_a_new_record_and_no_update() -> None:
    rest = maps_for("rest")

    assert rest.row("customers", {"name": "Ada"}, creating=True) == {
        "name": "Ada",
        "status": "lead",
        "do_not_contact": False,
    }
    assert rest.row("customers", {"name": "Ada"}) == {"name": "Ada"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("customers: [", "not YAML"),
        ("people: []", "people"),
        ("customers: [{field: name, provider: n}]", "id"),
        ("customers: [{field: id, provider: n}]", "id must be read and required"),
        ("customers: [{field: id, provider: n, required: true}, {field: shoe, provider: s}]", "shoe"),
        ("customers: [{field: id, provider: n, colour: red}]", "colour"),
        ("customers: [{field: id, provider: n, type: money}]", "type"),
        ("customers: [{field: id, provider: n, owner: nobody}]", "owner"),
        ("customers: [{field: id}]", "provider"),
        (
            "customers: [{field: id, provider: a, required: true}, {field: id, provider: b, required: true}]",
            "twice",
        ),
    ],
)
def test_a_map_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(MappingError, match=said) as caught:
        maps(tmp_path, text)

    assert "acme.yaml" in str(caught.value)


def test_a_map_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"none\.yaml"):
        read_maps(tmp_path / "none.yaml", "none")
