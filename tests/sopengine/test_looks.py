"""What shows a customer on sight: a mail address, a phone number."""

import pytest

from sopengine.looks import is_mail, is_open_id, is_phone, readable


@pytest.mark.parametrize("text", ["ada@example.org", "x:ada.b+c@mail.example.co.uk"])
def test_a_mail_address_is_known_wherever_it_stands(text: str) -> None:
    assert (is_mail(text), readable(text)) == (True, "…")


@pytest.mark.parametrize(
    "text", ["+16125550002", "+1 612 555 0002", "(612) 555-0002", "612.555.0002", "612-555-0002"]
)
def test_a_phone_number_has_a_plus_or_separators(text: str) -> None:
    assert (is_phone(text), readable(text)) == (True, "…")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cus_0002",
        "16125550002",
        "4876543000000123456",
        "2026-11-22",
        "2026-11-22 10:00",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "a@b",
        "12-34",
    ],
)
def test_an_id_or_a_date_is_neither(text: str) -> None:
    assert (is_mail(text), is_phone(text), readable(text)) == (False, False, text)


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("evt_7", True),
        ("0f8fad5b-d9cb-469f-a165-70867728950e", True),
        ("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", True),
        ("body:9f86d081884c7d659a2feaa0c55ad015", True),
        ("1741622520", True),
        ("2027-04-06T15:00:00", True),
        ("ada@example.org", False),
        ("+16125550134/1741622520", False),
        ("call-612-555-0134-7", False),
        ("16125550134-1741622520", False),
        ("6125550134", False),
        ("Ada Olson", False),
        ("", False),
    ],
)
def test_an_open_id_is_one_word_without_an_address_or_a_number(text: str, is_open: bool) -> None:
    assert is_open_id(text) is is_open
