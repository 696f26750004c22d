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
# The rows without which there is no customer.
WHOLE = (
    "{field: id, provider: Key, direction: in, required: true}, {field: name, provider: Nm}, "
    "{field: status, provider: Kind}"
)


def maps(tmp_path: Path, text: str) -> FieldMaps:
    path = tmp_path / "acme.yaml"
    path.write_text(text)
    return read_maps(path, "acme")


@pytest.mark.parametrize("provider", ["mock", "rest"])
def test_the_shipped_maps_are_sound_and_speak_of_the_same_fields(provider: str) -> None:
    shipped = maps_for(provider)

    common = maps_for("rest").rows
    assert {entity: [item.field for item in shipped.rows[entity]] for entity in common} == {
        entity: [item.field for item in rows] for entity, rows in common.items()
    }
    assert set(shipped.rows) == (set(ENTITIES) if provider == "mock" else set(common))
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
        ("customers: [{field: id, provider: n, type: integer, required: true}]", "id is of type text"),
        ("customers: [{field: signed_seasons, provider: s}]", "signed_seasons is of type integers, not text"),
        ("customers: [{field: id, provider: a..b, required: true}]", "provider"),
        ("customers: [{field: id, provider: n, required: true}]", "no customer without name, status"),
        (f"customers: [{WHOLE}, {{field: city, provider: Nm}}]", "written by two fields: Nm"),
        (f"customers: [{WHOLE}, {{field: city, provider: Nm.town}}]", "Nm.town lies inside"),
        (
            f"customers: [{WHOLE}, {{field: do_not_contact, provider: d, type: flag, default: no way}}]",
            "default",
        ),
        (f"customers: [{WHOLE}, {{field: city, provider: c, default: X, values: {{a: A}}}}]", "default"),
        (f"customers: [{WHOLE}, {{field: services, provider: s, type: texts, values: {{a: A}}}}]", "values"),
        ("customers: [{field: id, provider: n, owner: nobody}]", "owner"),
        (
            "customers: [{field: id, provider: a, required: true}, {field: name, provider: b}, "
            "{field: status, provider: s, values: {Won: active, Old: pst}}]",
            "status: pst is no status; there are: past, active, lead, cold",
        ),
        (f"customers: {'[' * 5_000}", "not YAML"),
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


NESTED = """
customers:
  - {field: id, provider: id, direction: in, required: true}
  - {field: name, provider: properties.full name, required: true}
  - {field: status, provider: properties.stage, default: lead, values: {Won: active, New: lead}}
  - {field: email, provider: properties.contact.email}
  - {field: phone, provider: properties.contact.phone}
  - {field: created_at, provider: meta.created, direction: in, type: time}
"""


def test_a_dot_leads_into_an_object_both_ways(tmp_path: Path) -> None:
    acme = maps(tmp_path, NESTED)
    row = {
        "id": 7,
        "properties": {"full name": "Ada", "stage": "Won", "contact": {"email": "a@b.c", "fax": "1"}, "x": 1},
        "archived": False,
    }

    record = acme.record("customers", row)

    assert (record.id, record.name, record.status, record.email) == ("7", "Ada", "active", "a@b.c")
    assert record.diagnostics == (
        "unmapped: archived",
        "unmapped: properties.x",
        "unmapped: properties.contact.fax",
        "absent: phone",
        "absent: created_at",
    )
    assert acme.row("customers", {"name": "Ada", "email": None, "phone": "1"}, creating=True) == {
        "properties": {"full name": "Ada", "stage": "New", "contact": {"email": None, "phone": "1"}}
    }


@pytest.mark.parametrize("value", [None, "absent", {}, {"full name": None}])
def test_what_lies_in_an_object_that_is_not_there_is_absent(tmp_path: Path, value: Any) -> None:
    row = {"id": 7} if value == "absent" else {"id": 7, "properties": value}

    with pytest.raises(DataError, match=r"lacks the field 'properties.full name'; see name in acme\.yaml"):
        maps(tmp_path, NESTED).record("customers", row)


@pytest.mark.parametrize("value", ["CANARY", ["CANARY"], 7, True])
def test_an_object_that_is_none_is_a_data_error(tmp_path: Path, value: Any) -> None:
    row = {"id": 7, "properties": {"full name": "Ada", "stage": "Won", "contact": value}}

    with pytest.raises(DataError, match=r"'properties.contact.email'.*acme\.yaml") as caught:
        maps(tmp_path, NESTED).record("customers", row)

    assert "CANARY" not in str(caught.value)


def test_an_error_in_a_record_names_the_map_where_it_can_be_mended() -> None:
    for broken in ({**ROW, "name": None}, {**ROW, "services": "mowing"}):
        with pytest.raises(DataError, match=r"rest\.yaml"):
            maps_for("rest").record("customers", broken)
    for wrong in ({"name": ""}, {"services": "mowing"}):
        with pytest.raises(DataError, match=r"rest\.yaml"):
            maps_for("rest").row("customers", wrong)
    with pytest.raises(DataError, match=r"needs name; see rest\.yaml"):
        maps_for("rest").row("customers", {}, creating=True)


def test_a_record_cannot_be_without_its_name_whatever_the_map_says(tmp_path: Path) -> None:
    acme = maps(tmp_path, f"customers: [{WHOLE}]")

    with pytest.raises(DataError, match="'Nm'"):
        acme.record("customers", {"Key": "7", "Kind": "past"})


def test_a_default_is_in_our_words(tmp_path: Path) -> None:
    acme = maps(
        tmp_path,
        "customers: [{field: id, provider: Key, direction: in, required: true}, {field: name, provider: Nm},"
        " {field: status, provider: Kind, default: lead, values: {Neu: lead, Alt: past}}]",
    )

    assert acme.record("customers", {"Key": "7", "Nm": "Ada"}).status == "lead"
    assert acme.row("customers", {"name": "Ada"}, creating=True) == {"Nm": "Ada", "Kind": "Neu"}


def test_of_two_words_for_one_of_ours_both_are_read_and_the_first_is_written(tmp_path: Path) -> None:
    acme = maps(
        tmp_path,
        "customers: [{field: id, provider: Key, direction: in, required: true}, {field: name, provider: Nm},"
        " {field: status, provider: Kind, values: {Won: active, Closed: active}}]",
    )
    row = {"Key": "7", "Nm": "Ada"}

    assert {acme.record("customers", {**row, "Kind": kind}).status for kind in ("Won", "Closed")} == {
        "active"
    }
    assert acme.row("customers", {"status": "active"}) == {"Kind": "Won"}


def test_what_is_bound_for_ever_can_be_written_once(tmp_path: Path) -> None:
    acme = maps(
        tmp_path,
        f"customers: [{WHOLE}, {{field: source, provider: Origin, owner: immutable_after_bind}}]",
    )

    assert acme.row("customers", {"name": "Ada", "status": "past", "source": "flyer"}, creating=True)[
        "Origin"
    ]
    with pytest.raises(Unsupported, match=r"'source'.*acme\.yaml"):
        acme.row("customers", {"source": "website"})


def test_who_owns_a_field_is_what_the_map_says() -> None:
    rest = maps_for("rest")

    assert (rest.owner("customers", "notes"), rest.owner("customers", "city")) == (
        "merge_with_audit",
        "crm_wins",
    )


def test_a_map_that_was_mended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(f"customers: [{WHOLE}, {{field: shoe, provider: s}}]")
    with pytest.raises(MappingError, match="shoe"):
        maps_for("acme", [tmp_path])

    path.write_text(f"customers: [{WHOLE}]")

    first = maps_for("acme", [tmp_path])
    assert first.record("customers", {"Key": "7", "Nm": "Ada", "Kind": "past"}).name == "Ada"
    assert maps_for("acme", [tmp_path]) is first

    path.write_text(f"customers: [{WHOLE}]".replace("Nm", "FullName"))

    assert maps_for("acme", [tmp_path]).row("customers", {"name": "Ada"}) == {"FullName": "Ada"}


def test_a_map_beside_its_provider_comes_before_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "rest.yaml").write_text(f"customers: [{WHOLE}]")

    assert set(maps_for("rest", [tmp_path / "nowhere", tmp_path]).rows) == {"customers"}
    assert "invoices" in maps_for("rest", [tmp_path / "nowhere"]).rows


def test_a_map_that_is_not_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "acme.yaml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(MappingError, match="not YAML"):
        read_maps(tmp_path / "acme.yaml", "acme")


def test_a_map_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"none\.yaml"):
        read_maps(tmp_path / "none.yaml", "none")
    with pytest.raises(MappingError, match=r"none\.yaml"):
        maps_for("none")


def test_a_word_that_cannot_be_written_is_refused_with_those_that_can() -> None:
    with pytest.raises(
        DataError, match="'status' of customers must be one of past, active, lead, cold; see"
    ) as caught:
        maps_for("rest").row("customers", {"status": "vip"})
    assert "vip" not in caught.value.message


@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_a_blank_name_is_none_in_either_direction(name: str) -> None:
    rest = maps_for("rest")
    with pytest.raises(DataError, match=r"lacks the field 'name'; see name in rest\.yaml"):
        rest.record("customers", {"id": "c1", "name": name, "status": "lead"})
    with pytest.raises(DataError, match="'name' of customers must not be empty"):
        rest.row("customers", {"name": name, "status": "lead"}, creating=True)


def test_a_blank_text_is_an_empty_one() -> None:
    row = {"id": "c1", "name": "Ada", "status": "lead", "email": "  ", "phone": ""}
    record = maps_for("rest").record("customers", row)
    assert (record.email, record.phone) == (None, None)
