"""Laws of the shipped messages to customers: text and HTML say the same, and nothing is left open."""

import re
from html import unescape
from typing import Any

import pytest

from tasks import templating

LEAVE = "https://firm.test/unsubscribe/abc"
NAMES: dict[str, Any] = {
    "customer_name": "Ana <Lee>",
    "customer_services": ["weed_control"],
    "customer_last_service": "2026-09-14",
    "lead_name": "Ana <Lee>",
    "season": 2027,
    "number": "Q-2100",
    "sent_at": "2027-03-11T16:00:00-06:00",
    "valid_until": "2027-04-10",
    "due": "2027-03-11T18:42:00-06:00",
    "unsubscribe_url": LEAVE,
    "business": {"name": "Green & Sons", "address": "1 Main St\nSpringfield", "hears_replies": True},
}
OURS = (
    "reactivation",
    "reactivation-follow-up",
    "lead-acknowledgment",
    "quote-follow-up",
    "quote-second-follow-up",
)
UNKNOWN: dict[str, Any] = {
    "customer_name": None,
    "customer_services": [],
    "customer_last_service": None,
    "lead_name": "",
}


def words(html: str) -> str:
    """Return what a reader of the page reads, in one line; a link is its address too."""
    plain = re.sub(r'<a href="([^"]*)"[^>]*>(.*?)</a>', r"\2: \1", html)
    return straight(unescape(re.sub(r"<[^>]+>", " ", plain)))


def straight(text: str) -> str:
    return (
        " ".join(text.replace("“", '"').replace("”", '"').split())
        .replace(" ,", ",")
        .replace(" .", ".")
        .replace(" ?", "?")
    )


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("more", [{}, UNKNOWN], ids=["known", "nothing known"])
def test_text_and_html_say_the_same(name: str, more: dict[str, Any]) -> None:
    message = templating.render_message(name, {**NAMES, **more})
    assert message["subject"]
    assert words(message["html"]) == straight(message["text"])
    assert "None" not in message["text"]
    assert "\n\n\n" not in message["text"]


@pytest.mark.parametrize("name", OURS)
def test_a_firm_without_an_address_leaves_no_gap(name: str) -> None:
    message = templating.render_message(name, {**NAMES, "business": {**NAMES["business"], "address": ""}})
    assert "\n\n\n" not in message["text"]
    assert 'font-size:13px;color:#5b6755"></p>' not in message["html"]
    assert words(message["html"]) == straight(message["text"])


@pytest.mark.parametrize("name", OURS)
def test_a_name_is_escaped_in_the_page_and_nowhere_else(name: str) -> None:
    message = templating.render_message(name, NAMES)
    assert "Hi Ana <Lee>," in message["text"]
    assert "Hi Ana &lt;Lee&gt;," in message["html"]
    assert "<Lee>" not in message["html"]


@pytest.mark.parametrize("name", OURS)
def test_only_offers_have_a_way_to_leave_and_all_of_them(name: str) -> None:
    message = templating.render_message(name, NAMES)
    offers = name.startswith("reactivation")
    assert (LEAVE in message["text"], LEAVE in message["html"]) == (offers, offers)


def test_a_quote_that_holds_for_ever_names_no_day() -> None:
    message = templating.render_message("quote-second-follow-up", {**NAMES, "valid_until": None})
    assert "holds until" not in message["text"] + message["html"]
    assert words(message["html"]) == straight(message["text"])
