"""Phone numbers: one number is one number, however somebody wrote it."""

from typing import Any

import phonenumbers
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat

from crm.phones import e164, spellings
from crm.providers.mock import forget_state, shared_state
from crm.service import open_service

many = examples(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEPARATORS = st.sampled_from(["", " ", "-", ".", "/", "\u00a0", "\u2011"])


@st.composite
def written(draw: Any) -> tuple[str, str]:
    """Return an American number in E.164, and the same one as somebody may have typed it."""
    area, office, line = (
        draw(st.sampled_from(["612", "651", "952"])),
        "555",
        f"{draw(st.integers(0, 9999)):04}",
    )
    first, second = draw(SEPARATORS), draw(SEPARATORS)
    area_typed = f"({area})" if draw(st.booleans()) else area
    country = draw(st.sampled_from(["", "+1", "+1 ", "1-", "1 ", "+1 ("] if area_typed == area else [""]))
    close = ")" if country.endswith("(") else ""
    return f"+1{area}{office}{line}", f" {country}{area_typed}{close}{first}{office}{second}{line} "


@many
@given(written())
def test_every_way_to_write_a_number_is_the_same_number(number: tuple[str, str]) -> None:
    whole, typed = number

    assert e164(typed) == whole
    assert e164(whole) == whole
    assert whole in spellings(typed)


STORED = (
    PhoneNumberFormat.E164,
    PhoneNumberFormat.NATIONAL,
)


@many
@given(written(), written(), st.sampled_from(STORED))
def test_who_called_before_is_found_however_both_numbers_are_written(
    stored: tuple[str, str], typed: tuple[str, str], form: int
) -> None:
    forget_state()
    others = {row["phone"] for row in shared_state().rows("customers")}
    assume(stored[0] not in others)
    kept = phonenumbers.format_number(phonenumbers.parse(stored[0]), form)
    shared_state().load("customers", [{"id": "x1", "name": "Kept", "phone": kept}])
    crm = open_service(guarded=False)

    found, created = crm.get_or_create({"name": "Caller", "phone": typed[1]}, key="k")

    assert created is (typed[0] not in {stored[0], *others})
    assert e164(found.phone) == typed[0]
    again, created_again = open_service(guarded=False).get_or_create({"phone": stored[1]}, key="k2")
    assert (again.id, created_again) == ("x1", False)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "555-0002",
        "12",
        "1-800-FLOWERS",
        "102 Cedar Avenue 6125550002",
        "6125550002@example.com",
        "612 555 0002 and 612 555 0003",
        "+999 612 555 0002",
        "1" * 60,
        6125550002,
        ["6125550002"],
        "zip 55104-12345",
    ],
)
def test_what_is_no_whole_number_is_none(text: Any) -> None:
    assert e164(text) == ""


@examples(deadline=None, max_examples=200)
@given(st.text(max_size=60) | st.text("0123456789+-(). x#e;=", max_size=60))
def test_any_text_is_a_number_or_none(text: str) -> None:
    found = e164(text)

    assert found == "" or e164(found) == found
    assert spellings(text)[0] == text.strip()


def test_behind_one_number_there_may_be_many_people() -> None:
    assert e164("612-555-0002 x5") == e164("+1 612 555 0002 ext. 5") == "+16125550002;ext=5"
    assert e164("612-555-0002 x5") != e164("612-555-0002")
    assert "+16125550002" in spellings("612-555-0002 x5")


def test_a_number_without_its_country_is_one_of_the_region_that_is_set(settings: Any) -> None:
    settings.PHONE_REGION = "DE"

    assert e164("030 901820") == "+4930901820"
    assert e164("+1 612 555 0002") == "+16125550002"


def test_a_search_brings_nobody_who_has_another_number() -> None:
    shared_state().load("customers", [{"id": "x1", "name": "Near", "phone": "+49 6125550002"}])

    assert [one.id for one in open_service(guarded=False).search("+1 612 555 0002")] == ["cus_0002"]


def test_a_search_by_phone_is_one_call_for_each_spelling_and_any_other_is_one() -> None:
    crm = open_service(guarded=False)
    crm.search("Bergström")
    assert len(crm.calls) == 1

    crm.search("+16125550002")

    assert [call.operation for call in crm.calls] == ["search"] * 5


def test_a_number_that_is_stored_with_hyphens_is_found() -> None:
    forget_state()
    shared_state().load("customers", [{"id": "x1", "name": "Ruth", "phone": "612-555-9134"}])

    found = open_service(guarded=False).search("+16125559134")

    assert [customer.id for customer in found] == ["x1"]
