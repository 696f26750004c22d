"""Laws of templates: typed, strict, bounded, rendered once."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from sopengine.errors import DataError
from tasks import templating
from tasks.templating import TemplateError, render, render_message

NAMES: dict[str, Any] = {
    "season": 2027,
    "name": "Ana",
    "blank_text": "",
    "nothing": None,
    "now": "2027-02-15T09:00:00-06:00",
    "customer_name": "",
    "customer_city": None,
    "customer_services": [],
    "customer_email": "ana@example.test",
    "services": ["fertilizer", "weed_control"],
    "find": {"id": "cus_1", "count": 3, "flag": True},
    "children": {"total": 3, "sent": 3},
}


# -- parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ season }}", 2027),
        ("  {{ season }}  ", 2027),
        ("{{ season | plus: 1 }}", 2028),
        ("{{ find }}", NAMES["find"]),
        ("{{ services }}", ["fertilizer", "weed_control"]),
        ("{{ find.flag }}", True),
        ("{{ nothing }}", None),
        ("{{ services[1] }}", "weed_control"),
        ("{{ services | first }}", "fertilizer"),
        ("{{ (1..3) }}", [1, 2, 3]),
        ("{{ season }}!", "2027!"),
        ("{{ season }}{{ season }}", "20272027"),
        ("{{ nothing }}-", "-"),
        ("{{ name | append: nothing }}-", "Ana-"),
        ("{{ services | join: ', ' | replace: '_', ' ' }}", "fertilizer, weed control"),
        ("{% if find.flag %}yes{% endif %}", "yes"),
        ("{% for s in services %}{{ forloop.index }}{{ s }} {% endfor %}", "1fertilizer 2weed_control "),
        ("no template", "no template"),
        ("}} {", "}} {"),
    ],
)
def test_one_expression_keeps_its_type_and_a_mixture_is_text(source: str, expected: Any) -> None:
    assert render(source, NAMES) == expected


def test_lists_and_mappings_are_rendered_all_the_way_down() -> None:
    value = {"a": ["{{ season }}", {"b": "x{{ name }}"}], "c": 5, "d": None}
    assert render(value, NAMES) == {"a": [2027, {"b": "xAna"}], "c": 5, "d": None}


def test_a_value_without_a_template_is_returned_as_it_is() -> None:
    value = {"a": [1, {"b": "c"}]}
    assert render(value, {}) is value
    assert not templating.has_template(value)
    assert templating.has_template({"a": [1, {"b": "{% if x %}"}]})


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{{ missing }}", "missing"),
        ("x {{ find.emial }}", "find.emial"),
        ("{% if missing %}a{% endif %}", "missing"),
        ("{% if missing == 'a' %}a{% endif %}", "missing"),
        ("{% for x in missing %}a{% endfor %}", "missing"),
        ("{% assign x = missing %}", "missing"),
        ("{{ 'a' | append: missing }}", "missing"),
        ("{{ missing | date: '%Y' }}", "missing"),
        ("{{ missing | size }}", "missing"),
        ("{{ season.year }}", "season.year"),
        ("{{ today }}", "today"),
    ],
)
def test_a_name_that_is_not_set_is_an_error_that_names_it(source: str, named: str) -> None:
    with pytest.raises(DataError, match=f"'{named}' is not set"):
        render(source, NAMES)


def test_a_default_stands_in_for_a_name_that_is_not_set_and_for_an_empty_one() -> None:
    for source in (
        "{{ missing | default: 'x' }}",
        "{{ find.nope | default: 'x' }}",
        "{{ blank_text | default: 'x' }}",
    ):
        assert render(source, NAMES) == "x"
    assert render("{{ find.count | default: 9 }}", NAMES) == 3
    with pytest.raises(DataError, match="'missing' is not set"):
        render("{{ nope | default: missing }}", NAMES)


def test_of_a_result_that_no_child_came_to_there_are_none() -> None:
    assert render("{{ children.sent }} sent, {{ children.declined }} declined", NAMES) == "3 sent, 0 declined"


@pytest.mark.parametrize(
    "source",
    [
        "{{ name.__class__ }}",
        "{{ find.items }}",
        "{{ services.append }}",
        "{{ season.real }}",
        "{{ name['upper'] }}",
    ],
)
def test_a_template_reaches_no_attribute_of_python(source: str) -> None:
    with pytest.raises(DataError, match="is not set"):
        render(source, NAMES)


def test_an_error_repeats_no_value() -> None:
    secret = {"who": "Zoe Canary", "find": {}, "n": 5}
    for source in (
        "{{ find[who] }}",
        "{{ who | plus: 1 | date: who }}",
        "{{ who | divided_by: who }}",
        "{% if who > n %}{% endif %}",
        "{{ who | slice: who }}",
    ):
        with pytest.raises(DataError) as error:
            render(source, secret)
        assert "Zoe" not in str(error.value)
        assert error.value.__cause__ is None


def test_dates_are_formatted_from_what_they_say_and_never_from_the_wall_clock() -> None:
    assert render("{{ now | date: '%d %B %Y' }}.", NAMES) == "15 February 2027."
    assert render("{{ '2026-09-14' | date: '%B' }}", NAMES) == "September"
    for source in ("{{ 'now' | date: '%Y' }}", "{{ 'today' | date: '%Y' }}", "{{ nothing | date: '%Y' }}"):
        with pytest.raises(DataError, match="date cannot use the value it got"):
            render(source, NAMES)
    with pytest.raises(DataError, match="'now' is not set"):
        render("{{ now }}", {})


# -- bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in (1..1000000) %}x{% endfor %}",
        "{% for i in (1..900) %}{% for j in (1..900) %}x{% endfor %}{% endfor %}",
        "{% assign s = 'aaaaaaaaaa' %}{% for i in (1..40) %}{% assign s = s | append: s %}{% endfor %}",
        "{% assign s = 'aaaaaaaaaa' %}{% for i in (1..9) %}{% assign s = s | replace: 'a', s %}{% endfor %}",
        "{% assign n = 9 %}{% for i in (1..60) %}{% assign n = n | times: n %}{% endfor %}{{ n }}",
        "{{ (1..90000000) | join: 'x' }}",
        "{% capture s %}" + "x" * 900 + "{% endcapture %}{% for i in (1..900) %}{{ s }}{% endfor %}",
        "{{ (1..90000000) }}",
        "{{ (1..99999999999999999999) | reverse }}",
        "{{ name " + "| append: name " * 3000 + "| replace: 'Ana', '" + "x" * 9000 + "' }}",
    ],
)
def test_a_template_that_would_explode_is_stopped_at_once(source: str) -> None:
    began = time.monotonic()
    with pytest.raises(DataError):
        render(source, NAMES)
    assert time.monotonic() - began < 2


def test_a_word_of_liquid_is_no_value() -> None:
    for source in ("{{ empty }}", "{{ blank }}"):
        with pytest.raises(DataError, match="no value that can be passed on"):
            render(source, NAMES)


def test_a_template_that_is_too_long_or_too_deep_is_refused() -> None:
    with pytest.raises(TemplateError, match="at most 50,000"):
        render("{{ name }}" + "x" * templating.LONGEST_TEMPLATE, NAMES)
    with pytest.raises(TemplateError):
        render("{% if name %}" * 200 + "{% endif %}" * 200, NAMES)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ name", "cannot be read"),
        ("{{ a b }}", "cannot be read"),
        ("{% nonsense %}", "unexpected tag"),
        ("{% include 'x' %}", "unexpected tag"),
        ("{% render 'x' %}", "unexpected tag"),
        ("{{ name | nonsense }}", "unknown filter 'nonsense'; known: abs"),
        ("{{ name | safe }}", "unknown filter 'safe'"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_before_it_runs(source: str, message: str) -> None:
    for attempt in (lambda: templating.uses(source), lambda: render(source, NAMES)):
        with pytest.raises(TemplateError, match=message):
            attempt()


# -- rendered once ------------------------------------------------------------------------------------


def test_what_a_value_says_is_never_rendered() -> None:
    assert render("{{ a }}", {"a": "{{ b }}", "b": "secret"}) == "{{ b }}"
    with pytest.raises(DataError, match=r"contains \{\{"):
        render("Hi {{ a }}", {"a": "{{ b }}", "b": "secret"})
    with pytest.raises(DataError, match=r"contains \{\{"):
        render("{% raw %}{{ b }}{% endraw %} {{ b }}", {"b": "secret"})


@given(st.text(), st.text())
def test_rendered_text_never_contains_the_marks_of_a_template(a: str, b: str) -> None:
    try:
        text = render("-{{ a }}{{ b }}-", {"a": a, "b": b})
    except DataError:
        return
    assert text == f"-{a}{b}-"
    assert "{{" not in text
    assert "{%" not in text


# -- what a template names ----------------------------------------------------------------------------


def test_the_names_of_a_template_are_known_without_running_it() -> None:
    source = (
        "{{ a.b }}{% for s in list %}{{ s.x }}{{ forloop.index }}{% endfor %}{% assign t = c %}{{ t }}"
        "{{ q[z].y }}{% if d.e == 'x' %}{{ f[0].g }}{% endif %}{{ h | append: i }}"
    )
    expected = {("a", "b"), ("list",), ("c",), ("q",), ("z",), ("d", "e"), ("f",), ("h",), ("i",)}
    assert templating.variables({"deep": [source, 5]}) == expected
    assert templating.variables("no template {a}") == set()


def test_a_name_with_a_default_behind_it_is_known_to_be_guarded() -> None:
    found = {
        use.path[0]: use.guarded
        for use in templating.uses("{{ a | default: b }}{{ c | upcase | default: 1 }}")
    }
    assert found == {"a": True, "b": False, "c": True}


# -- messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["customer_name", "customer_city", "customer_services"])
def test_an_empty_value_of_the_customer_without_a_default_fails_the_message(name: str) -> None:
    for source in (f"Hi {{{{ {name} }}}}", f"{{% assign x = {name} %}}", f"{{{{ 'a' | append: {name} }}}}"):
        with pytest.raises(DataError, match=f"'{name}' is empty and the text gives no default"):
            render_message({"subject": "s", "text": source}, NAMES)
    assert render_message({"text": f"{{{{ {name} | default: 'you' }}}}"}, NAMES)["text"] == "you"
    assert render(f"{{{{ {name} }}}}.", NAMES).endswith("."), "a parameter that no customer sees may be empty"
    with pytest.raises(DataError, match="is empty"):
        render(f"{{{{ {name} }}}}", NAMES, customer_facing=True)


def test_a_message_may_ask_whether_a_value_of_the_customer_is_there() -> None:
    source = "{% if customer_city %}in {{ customer_city }}{% else %}here{% endif %}"
    assert render_message({"text": source}, NAMES)["text"] == "here"
    assert render_message({"text": source}, {"customer_city": "Duluth"})["text"] == "in Duluth"


def test_the_html_of_a_message_escapes_every_value_and_the_text_none() -> None:
    source = "{{ a }}{{ a | append: '<i>' }}{% capture c %}{{ a }}{% endcapture %}{{ c }}"
    message = render_message({"subject": "{{ a }}", "text": "{{ a }}", "html": source}, {"a": "<b>&"})
    assert message["text"] == message["subject"] == "<b>&"
    assert "<b>" not in message["html"]
    assert message["html"].startswith("&lt;b&gt;&amp;")


def test_the_subject_of_a_message_is_one_line() -> None:
    message = render_message({"subject": "Hello\n{{ a }} ", "text": "x"}, {"a": "x\r\nBcc: all@example.test"})
    assert message["subject"] == "Hello x Bcc: all@example.test"


def test_a_message_has_three_parts_and_no_other() -> None:
    assert render_message({"text": "x"}, {}) == {"subject": "", "text": "x", "html": ""}
    with pytest.raises(DataError, match="no part 'body'; it has subject, text, html"):
        render_message({"body": "x"}, {})


@pytest.mark.parametrize("name", ["reactivatoin", "..", "../messages/reactivation", "", "a/b"])
def test_a_message_template_that_is_not_there_is_an_error_that_lists_those_that_are(name: str) -> None:
    with pytest.raises(DataError, match=r"there is no such message template.*known: .*reactivation"):
        render_message(name, NAMES)


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    """A folder of message templates of our own."""
    settings.BASE_DIR = tmp_path
    made = tmp_path / "templates" / "messages" / "hello"
    made.mkdir(parents=True)
    return made


def test_a_message_template_is_read_again_when_its_file_changes(folder: Path) -> None:
    file = folder / "text.txt"
    file.write_text("one")
    assert render_message("hello", {})["text"] == "one"
    file.write_text("two, which is longer")
    assert render_message("hello", {})["text"] == "two, which is longer"


# -- the shipped invitation -----------------------------------------------------------------------------

LEAVE = "https://firm.test/unsubscribe/a?b&c"
FIRM = {
    "season": 2027,
    "business": {"name": "Green & Sons", "address": "1 Main St\nSpringfield"},
    "unsubscribe_url": LEAVE,
}
KNOWN = {
    "customer_name": "Ana <Lee>",
    "customer_services": ["weed_control"],
    "customer_last_service": "2026-09-14",
}
UNKNOWN = {"customer_name": None, "customer_services": [], "customer_last_service": None}


@pytest.mark.parametrize("customer", [KNOWN, UNKNOWN])
@pytest.mark.parametrize("template", ["reactivation", "reactivation-follow-up"])
def test_the_invitation_says_season_service_firm_and_what_to_do(
    customer: dict[str, Any], template: str
) -> None:
    message = render_message(template, {**FIRM, **customer})
    assert "2027" in message["subject"]
    for part in ("text", "html"):
        for word in ("2027", "reply", "1 Main St", "Springfield"):
            assert word.lower() in message[part].lower(), (part, word)
        assert ("weed control" if customer is KNOWN else "lawn care") in message[part]
        assert ("September 2026" in message[part]) is (customer is KNOWN and template == "reactivation")
        assert "None" not in message[part]
    assert "Green & Sons" in message["text"]
    assert "Green &amp; Sons" in message["html"]
    assert "<Lee>" not in message["html"]
    assert "\n\n\n" not in message["text"]
    assert LEAVE in message["text"]
    assert LEAVE.replace("&", "&amp;") in message["html"]


def test_the_invitation_of_a_firm_without_an_address_has_no_empty_line_for_it() -> None:
    message = render_message("reactivation", {**FIRM, **KNOWN, "business": {"name": "Green", "address": ""}})
    assert f"Green\n\nNo more offers by mail, please: {LEAVE}" in message["text"]
