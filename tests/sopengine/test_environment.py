"""How the environment is read: strictly, and all mistakes at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sopengine.environment import Environment, Misconfigured

KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="


def problem(read: Callable[[Environment], Any], **values: str) -> str:
    """Return what is said against the values when they are read so; "" when nothing is."""
    env = Environment(values)
    read(env)
    return "; ".join(f"{name}: {text}" for name, text in env.problems.items())


@pytest.mark.parametrize(
    ("word", "meant"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("No", False)]
)
def test_a_flag_knows_words_for_true_and_false(word: str, meant: bool) -> None:
    env = Environment({"X": word})
    assert env.flag("X", default=not meant) is meant
    assert env.problems == {}


@pytest.mark.parametrize("word", ["2", "ja", "t", "enabled", "None"])
def test_a_flag_refuses_every_other_word(word: str) -> None:
    said = problem(lambda env: env.flag("DEBUG"), DEBUG=word)
    assert said.startswith("DEBUG: ")
    assert "expected 1, true, yes, on, 0, false, no or off" in said


def test_an_empty_value_is_not_set() -> None:
    env = Environment({"X": ""})
    assert (env.flag("X", default=True), env.text("X", "d"), env.whole("X", 3), env.given("X")) == (
        True,
        "d",
        3,
        False,
    )


def test_all_problems_are_named_at_once() -> None:
    env = Environment({"A": "maybe", "B": "x"})
    env.flag("A")
    env.whole("B", 1)
    with pytest.raises(Misconfigured, match=r"(?s)A: .*B: "):
        env.finish()


def test_a_value_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file\n")
    env = Environment({"X_FILE": str(tmp_path / "secret")})
    assert env.given("X")
    assert env.text("X") == "from the file"
    assert env.problems == {}


def test_a_value_and_its_file_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("b")
    assert "X_FILE" in problem(lambda env: env.text("X"), X="a", X_FILE=str(tmp_path / "secret"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    said = problem(lambda env: env.text("X"), X_FILE=str(tmp_path / "none"))
    assert said.startswith("X_FILE: ")
    assert "value of X" in said


@pytest.mark.parametrize("text", ["-1", "1.5", "ten", "1e3", "٣x", "99999999999"])
def test_a_whole_number_is_one(text: str) -> None:
    assert problem(lambda env: env.whole("X", 1), X=text).startswith("X: ")


@pytest.mark.parametrize("text", ["nan", "inf", "-2", "ten"])
def test_a_number_is_finite_and_not_too_small(text: str) -> None:
    assert "at least 0" in problem(lambda env: env.number("X", 1.0), X=text)


def test_numbers_with_commas() -> None:
    assert Environment({"X": "2, 4,8.5"}).numbers("X", [1.0], most=10) == [2.0, 4.0, 8.5]
    assert problem(lambda env: env.numbers("X", [1.0], most=10), X="2,-4").startswith("X: ")
    assert "each at most 10" in problem(lambda env: env.numbers("X", [1.0], most=10), X="2,11")


def test_a_choice_lists_what_there_is() -> None:
    assert "expected json or text" in problem(lambda env: env.choice("X", "json", ["json", "text"]), X="xml")


def test_a_time_zone_exists() -> None:
    assert "America/Chicago" in problem(lambda env: env.zone("X", "UTC"), X="Mars/Base")


@pytest.mark.parametrize(
    "text", ["example.com", "ftp://example.com", "https://", "https://a:b@c.de", "http://x:99999"]
)
def test_an_address_is_http(text: str) -> None:
    said = problem(lambda env: env.address("X"), X=text)
    assert said.startswith("X: expected an address")
    assert "a:b" not in said


def test_an_address_loses_its_last_slash() -> None:
    assert Environment({"X": "https://crm.example.com/base/"}).address("X") == "https://crm.example.com/base"


@pytest.mark.parametrize(
    "text", ["mysql://u:secret@h/d", "postgres://u:secret@h:port/d", "db", "postgres://u:secret@h:5432/"]
)
def test_a_database_is_sqlite_or_postgres(text: str) -> None:
    said = problem(lambda env: env.database("DATABASE_URL", ""), DATABASE_URL=text)
    assert said.startswith("DATABASE_URL: ")
    assert "secret" not in said


def test_a_database_keeps_what_its_address_says() -> None:
    found = Environment({"X": "postgres://u:p%40ss@db.example.com:6432/name?sslmode=require"}).database(
        "X", ""
    )
    assert (found["USER"], found["PASSWORD"], found["HOST"]) == ("u", "p@ss", "db.example.com")
    assert (found["PORT"], found["NAME"], found["OPTIONS"]) == (6432, "name", {"sslmode": "require"})


@pytest.mark.parametrize("text", ["postgresql://u@/name?host=/run/Pg", "postgresql://u@%2Frun%2Fpg/name"])
def test_a_database_may_be_behind_a_socket(text: str) -> None:
    found = Environment({"X": text}).database("X", "")
    assert (found["HOST"].lower(), found["NAME"], found["OPTIONS"]) == ("/run/pg", "name", {})


def test_redis_over_tls_says_how_certificates_are_checked() -> None:
    assert (
        Environment({"X": "rediss://:p@h:6380/1"}).redis("X", "none")
        == "rediss://:p@h:6380/1?ssl_cert_reqs=none"
    )
    told = Environment({"X": "rediss://h:1?ssl_cert_reqs=CERT_NONE"}).redis("X", "required")
    assert told == "rediss://h:1?ssl_cert_reqs=none"


def test_redis_behind_a_socket_has_one_name() -> None:
    for text in ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2"):
        assert Environment({"X": text}).redis("X", "required") == "unix:///run/r.sock?db=2"


@pytest.mark.parametrize(
    "text", ["amqp://u:secret@h", "redis://", "h:6379", "rediss://h?ssl_cert_reqs=maybe", "redis://h:x"]
)
def test_redis_is_refused_with_what_is_expected(text: str) -> None:
    said = problem(lambda env: env.redis("REDIS_URL", "required"), REDIS_URL=text)
    assert said.startswith("REDIS_URL: ")
    assert "expected" in said
    assert "secret" not in said


def test_mail_goes_to_a_folder_when_nothing_is_said() -> None:
    assert Environment({}).mail("EMAIL_URL", "/var/mail")["FOLDER"] == "/var/mail"
    assert (
        Environment({"EMAIL_URL": "filemail:///srv/letters"}).mail("EMAIL_URL", "/x")["FOLDER"]
        == "/srv/letters"
    )


@pytest.mark.parametrize(
    ("text", "port", "tls", "ssl"),
    [
        ("smtp://h", 25, False, False),
        ("smtp+tls://u:p@h", 587, True, False),
        ("smtps://u:p@h", 465, False, True),
        ("smtp+ssl://u:p@h:4465", 4465, False, True),
    ],
)
def test_mail_to_a_server_is_encrypted_as_asked(text: str, port: int, tls: bool, ssl: bool) -> None:
    found = Environment({"X": text}).mail("X", "/x")
    assert (found["HOST"], found["PORT"], found["USE_TLS"], found["USE_SSL"]) == ("h", port, tls, ssl)
    assert found["FOLDER"] == ""


@pytest.mark.parametrize("text", ["pop://h", "smtp://", "smtp://u:secret@h?tls=1", "office@example.com"])
def test_mail_is_refused_with_what_is_expected(text: str) -> None:
    said = problem(lambda env: env.mail("EMAIL_URL", "/x"), EMAIL_URL=text)
    assert said.startswith("EMAIL_URL: ")
    assert "smtp+tls://" in said
    assert "secret" not in said


def test_keys_are_32_bytes_with_a_name() -> None:
    url_safe = "_-" + "A" * 41
    assert problem(lambda env: env.keys("X", []), X=f"new:{KEY},old:{url_safe}") == ""


@pytest.mark.parametrize(
    "text", ["AAAA", "k:AAAA", f"{KEY}", f"k 1:{KEY}", f"k:{KEY},k:{KEY}", "k:not base64!"]
)
def test_other_keys_are_refused_and_not_repeated(text: str) -> None:
    said = problem(lambda env: env.keys("VAULT_KEYS", []), VAULT_KEYS=text)
    assert said.startswith("VAULT_KEYS: ")
    assert KEY not in said


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("MON-FRI", (0, 1, 2, 3, 4)),
        ("mon, wed ,SAT-SUN", (0, 2, 5, 6)),
        ("SUN", (6,)),
        ("TUE-TUE", (1,)),
    ],
)
def test_days_of_the_week(text: str, days: tuple[int, ...]) -> None:
    assert Environment({"D": text}).days("D", "MON-FRI") == days
    assert Environment({}).days("D", text) == days


@pytest.mark.parametrize("text", ["MONDAY", "FRI-MON", "MON-", "1-5", "MON,,TUE", "MON-TUE-WED"])
def test_what_names_no_days_is_refused(text: str) -> None:
    assert "expected days such as MON-FRI" in problem(lambda env: env.days("D", "MON-FRI"), D=text)


@pytest.mark.parametrize(
    ("text", "hours"),
    [("09:00-18:00", (540, 1080)), (" 00:00 - 24:00 ", (0, 1440)), ("07:30-07:31", (450, 451))],
)
def test_hours_of_the_day(text: str, hours: tuple[int, int]) -> None:
    assert Environment({"H": text}).hours("H", "09:00-18:00") == hours


@pytest.mark.parametrize(
    "text", ["9-18", "18:00-09:00", "09:00-09:00", "09:00-24:01", "09:60-10:00", "none", "09:00"]
)
def test_what_names_no_hours_is_refused(text: str) -> None:
    assert "expected hours such as 09:00-18:00" in problem(lambda env: env.hours("H", "09:00-18:00"), H=text)


@pytest.mark.parametrize(
    ("text", "hours"), [("20:00-08:00", (1200, 480)), ("none", (0, 0)), ("12:00-13:00", (720, 780))]
)
def test_quiet_hours_may_go_over_midnight_or_be_none(text: str, hours: tuple[int, int]) -> None:
    assert Environment({"H": text}).hours("H", "20:00-08:00", over_midnight=True) == hours


def test_hooks_are_sources_with_a_scheme_and_a_reader() -> None:
    found = Environment({"H": "billing=standard, mail=hmac:mail,site-2=token:form"}).hooks("H")
    assert found == {
        "billing": ("standard", "json"), "mail": ("hmac", "mail"), "site-2": ("token", "form"),
    }  # fmt: skip
    assert Environment({}).hooks("H") == {}


@pytest.mark.parametrize(
    "text", ["billing", "billing=", "=hmac", "Bill=hmac", "a b=hmac", "a=hmac:", "a/b=hmac"]
)
def test_what_is_no_hook_is_refused(text: str) -> None:
    assert "expected such as billing=standard,mail=hmac:mail" in problem(lambda env: env.hooks("H"), H=text)


def test_a_source_is_there_once() -> None:
    assert "'a' is there twice" in problem(lambda env: env.hooks("H"), H="a=hmac,a=token")
