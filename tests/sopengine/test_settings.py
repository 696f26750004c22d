"""The settings as a start sees them: each bad value stops it and is named."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sopengine.environment import Misconfigured
from tests.processes import live_environment, product_environment
from tests.servers import ROOT, bare_environment

SHIPPED = [path.stem for path in (ROOT / "tasks" / "transports").glob("[a-z]*.py")]
MANAGE = ("manage.py", "check")


def start(environment: dict[str, str], argv: tuple[str, ...] = MANAGE) -> dict[str, Any]:
    """Run settings.py with this environment and command line, and return what it sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        patch.setattr(sys, "argv", list(argv))
        spec = importlib.util.spec_from_file_location(
            "settings_of_a_start", ROOT / "sopengine" / "settings.py"
        )
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return vars(module)


def shown(environment: dict[str, str], *names: str, argv: tuple[str, ...] = MANAGE) -> list[Any]:
    """Return these settings of a start that must succeed."""
    found = start(environment, argv)
    return [found[name] for name in names]


def refusal(environment: dict[str, str], argv: tuple[str, ...] = MANAGE) -> str:
    """Return what is said by a start that must not succeed."""
    with pytest.raises(Misconfigured) as refused:
        start(environment, argv)
    return f"{refused.value}\n"


def live(**more: str) -> dict[str, str]:
    return live_environment("postgres://u:p@db.example.com/sop", "redis://redis.example.com", **more)


def test_nothing_set_is_not_enough_with_debug_off() -> None:
    said = refusal(bare_environment())
    for name in ("SECRET_KEY", "ALLOWED_HOSTS", "VAULT_KEYS", "CRM_PROVIDER", "CHAT"):
        assert f"  {name}: is not set; with DEBUG off expected " in said


def test_a_management_command_says_it_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("The settings are not usable:\n  ALLOWED_HOSTS: ")
    assert "Traceback" not in done.stderr


def test_nothing_set_in_development_is_sqlite_the_mock_a_console_and_a_folder() -> None:
    found = shown(
        bare_environment(DEBUG="1"), "REDIS_URL", "CRM_PROVIDER", "CHAT", "EMAIL_FOLDER", "CELERY_BROKER_URL"
    )
    assert found == ["", "mock", "console", str(ROOT / "var" / "mail"), "memory://"]


def test_a_live_start_is_locked_down() -> None:
    assert shown(
        live(),
        *[
            "DEBUG",
            "SESSION_COOKIE_SECURE",
            "CSRF_COOKIE_SECURE",
            "SECURE_SSL_REDIRECT",
            "SECURE_HSTS_SECONDS",
        ],
        *["SECURE_PROXY_SSL_HEADER", "LOG_FORMAT", "CSRF_TRUSTED_ORIGINS", "SESSION_COOKIE_HTTPONLY"],
    ) == [
        *[False, True, True, True, 31536000],
        *[("HTTP_X_FORWARDED_PROTO", "https"), "json", ["https://sop.example.com"], True],
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "short"),
        ("SECRET_KEY", "a" * 60),
        ("SECRET_KEY", ""),
        ("ALLOWED_HOSTS", "*"),
        ("ALLOWED_HOSTS", ""),
        ("VAULT_KEYS", "dev:" + "A" * 43 + "="),
        ("VAULT_KEYS", "k1:short"),
        ("VAULT_KEYS", ""),
        ("CRM_PROVIDER", ""),
        ("CRM_PROVIDER", "No Such"),
        ("CHAT", "console"),
        ("CHAT", ""),
        ("PLUGINS", "nope"),
        ("PLUGINS", "tests.nope"),
        ("PLUGINS", "tests.nope.deeper"),
        ("PLUGINS", "tests.servers"),
        ("PLUGINS", ".tests"),
        ("DEFAULT_FROM_EMAIL", "office"),
        ("DEFAULT_FROM_EMAIL", "Office <office>"),
        ("DEFAULT_FROM_EMAIL", "office@example.com, other@example.com"),
        ("EMAIL_URL", ""),
        ("EMAIL_URL", "filemail:///tmp/x"),
        ("EMAIL_URL", "consolemail://"),
        ("EMAIL_URL", "smtp://user:password@mail.example.com:25"),
        ("CLOCK_OFFSET", "60"),
        ("CLOCK_OFFSET", "soon"),
        ("CLOCK_OFFSET_FILE", "/tmp/clock"),
        ("SOP_CRASH", "m1:0.5"),
        ("DEBUG", "maybe"),
        ("DATABASE_URL", "mysql://u:p@h/d"),
        ("DATABASE_URL", "sqlite://"),
        ("REDIS_URL", "amqp://h"),
        ("REDIS_SSL_CERT_REQS", "maybe"),
        ("TIME_ZONE", "Chicago"),
        ("PUBLIC_URL", "sop.example.com"),
        ("CRM_BASE_URL", "crm"),
        ("CRM_AUTH", "basic"),
        ("CRM_API_KEY", "schl\u00fcssel-12345"),
        ("CRM_API_KEY", "k" * 8_000),
        ("CHAT_WEBHOOK_URL", ""),
        ("CHAT_WEBHOOK_URL", "chat.example.com/hook"),
        ("HTTP_ALLOWED_HOSTS", "https://hooks.example.com"),
        ("HTTP_ALLOWED_HOSTS", "10.0.0.5:port"),
        ("CHAT_WEBHOOK_URL", "https://user:password@chat.example.com/hook"),
        ("CHAT_WEBHOOK_SECRET", "whsec_short"),
        ("CHAT_WEBHOOK_SECRET", "a sentence that is long enough but no base64"),
        ("LOG_FORMAT", "xml"),
        ("ENGINE_LEASE", "-1"),
        ("ENGINE_RETRY_WAITS", "2;4"),
        ("ENGINE_RETRY_WAITS", "2,86401"),
        ("WEB_CONCURRENCY", "0"),
        ("CRM_SYNC", "1"),
        ("SENTRY_DSN", "https://key@sentry.example.com/1"),
    ],
)
def test_a_bad_value_stops_the_start_and_is_named(name: str, value: str) -> None:
    said = refusal(live(**{name: value}))
    assert f"\n  {name}: " in said
    assert "expected" in said.partition(f"\n  {name}: ")[2].splitlines()[0]


def test_the_address_of_a_hook_stays_as_it_was_given() -> None:
    """Its query may be its key, and a slash at its end another address."""
    url, secret = "https://chat.example.com/hook/?key=1", "whsec_" + "A" * 32
    found = shown(
        live(CHAT_WEBHOOK_URL=url, CHAT_WEBHOOK_SECRET=secret), "CHAT_WEBHOOK_URL", "CHAT_WEBHOOK_SECRET"
    )
    assert found == [url, secret]


def test_the_mock_sends_no_mail_to_a_server() -> None:
    environment = live(CRM_PROVIDER="mock")
    assert shown(environment, "EMAIL_FOLDER", "EMAIL_HOST") == [str(ROOT / "var" / "mail"), "localhost"]
    environment = live(CRM_PROVIDER="mock", EMAIL_URL="", EMAIL_FOLDER="/srv/letters")
    assert shown(environment, "EMAIL_FOLDER") == ["/srv/letters"]


def test_static_files_are_collected_before_anything_is_set() -> None:
    """A platform builds without the settings of the run, and what it builds holds no secret."""
    argv = ("manage.py", "collectstatic", "--noinput")
    first, second = (shown(bare_environment(), "SECRET_KEY", argv=argv)[0] for _ in range(2))
    assert len(first) > 50
    assert first != second


def test_only_the_command_that_builds_may_skip_the_secrets() -> None:
    for argv in (
        ("gunicorn", "collectstatic"),
        ("manage.py", "serve", "collectstatic"),
        ("celery", "collectstatic"),
    ):
        assert "SECRET_KEY: is not set" in refusal(bare_environment(), argv)


def test_postgres_gives_up_instead_of_hanging() -> None:
    (databases,) = shown(live(DATABASE_STATEMENT_TIMEOUT="7"), "DATABASES")
    default = databases["default"]
    assert (default["CONN_MAX_AGE"], default["CONN_HEALTH_CHECKS"]) == (60, True)
    assert default["OPTIONS"]["options"] == (
        "-c lock_timeout=5s -c statement_timeout=7s -c idle_in_transaction_session_timeout=30s"
    )


def test_redis_over_tls_reaches_celery_with_its_certificate_rule() -> None:
    found = shown(
        live(REDIS_URL="rediss://h:6380", REDIS_SSL_CERT_REQS="none"), "REDIS_URL", "CELERY_BROKER_URL"
    )
    assert found == ["rediss://h:6380?ssl_cert_reqs=none"] * 2


def test_celery_gets_a_socket_under_its_own_name() -> None:
    (broker,) = shown(product_environment("", "unix:///run/r.sock?db=3"), "CELERY_BROKER_URL")
    assert broker == "redis+socket:///run/r.sock?virtual_host=3"


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("f" * 20 + "0123456789" * 4)
    environment = live(SECRET_KEY="", SECRET_KEY_FILE=str(tmp_path / "key"))
    assert shown(environment, "SECRET_KEY") == ["f" * 20 + "0123456789" * 4]


def test_the_file_of_the_clock_is_a_setting_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("3600")
    environment = product_environment("", CLOCK_OFFSET_FILE=str(tmp_path / "clock"))
    assert shown(environment, "CLOCK_OFFSET", "CLOCK_OFFSET_FILE") == [0.0, str(tmp_path / "clock")]


def test_the_file_of_the_clock_must_be_there(tmp_path: Path) -> None:
    said = refusal(product_environment("", CLOCK_OFFSET_FILE=str(tmp_path / "nowhere")))
    assert "  CLOCK_OFFSET_FILE: " in said
    assert "is no file; expected one with a number of seconds" in said


@pytest.mark.parametrize("offset", ["1577880001", "-1577880001"])
def test_a_clock_is_moved_by_fifty_years_at_most(offset: str) -> None:
    said = refusal(product_environment("", CLOCK_OFFSET=offset))
    assert "  CLOCK_OFFSET: " in said
    assert "expected a number from -1577880000 to 1577880000" in said
    assert shown(product_environment("", CLOCK_OFFSET=offset[:-1] + "0"), "CLOCK_OFFSET") == [
        float(offset[:-1] + "0")
    ]


def test_who_mail_comes_from_may_have_a_name() -> None:
    for sender in ("office@example.com", "The Office <office@example.com>", "Büro <office@example.com>"):
        assert shown(live(DEFAULT_FROM_EMAIL=sender), "DEFAULT_FROM_EMAIL") == [sender]


def test_plugins_that_are_there_are_taken_and_not_yet_imported() -> None:
    before = set(sys.modules)
    assert shown(live(PLUGINS="tests.faults.probe"), "PLUGINS") == [["tests.faults.probe"]]
    assert "tests.faults.probe" not in set(sys.modules) - before


@pytest.mark.parametrize("chat", ["", "console"])
def test_a_chat_that_cannot_be_is_refused_with_each_transport_that_exists(chat: str) -> None:
    (line,) = [line for line in refusal(live(CHAT=chat)).splitlines() if line.startswith("  CHAT: ")]
    named = line.partition("transport: ")[2]
    assert named.split(", ") == sorted(set(SHIPPED) - {"console"})


def test_our_processes_inherit_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's shell with the address of a live database reaches no test process."""
    monkeypatch.setenv("DATABASE_URL", "postgres://live")
    monkeypatch.setenv("EMAIL_URL", "smtp://live")
    assert "DATABASE_URL" not in bare_environment()
    assert "EMAIL_URL" not in product_environment("sqlite:////tmp/x")
    assert os.environ["EMAIL_URL"] == "smtp://live"


def test_mail_leaves_when_the_firm_is_open_unless_it_says_otherwise() -> None:
    names = ("SENDING_DAYS", "SENDING_HOURS", "QUIET_HOURS", "HOLIDAYS")
    days, hours, quiet, holidays = shown({"DEBUG": "1", "BUSINESS_DAYS": "TUE,SAT"}, *names)
    assert (days, hours, quiet, len(holidays)) == ((1, 5), (540, 1080), (1200, 480), 6)
    days, hours, quiet, holidays = shown(
        {
            "DEBUG": "1",
            "SENDING_DAYS": "MON",
            "SENDING_HOURS": "10:00-12:00",
            "QUIET_HOURS": "none",
            "HOLIDAYS": "none",
        },
        *names,
    )
    assert (days, hours, quiet, holidays) == ((0,), (600, 720), (0, 0), [])
    assert shown({"DEBUG": "1", "HOLIDAYS": "labor,christmas"}, "HOLIDAYS") == [["labor", "christmas"]]


@pytest.mark.parametrize(
    ("hours", "quiet", "usable"),
    [
        ("06:00-08:00", "20:00-08:00", False),
        ("20:00-23:00", "20:00-08:00", False),
        ("10:00-11:00", "09:00-12:00", False),
        ("06:00-08:01", "20:00-08:00", True),
        ("19:59-23:00", "20:00-08:00", True),
        ("00:00-24:00", "none", True),
        ("00:00-24:00", "00:01-23:59", True),
    ],
)
def test_hours_in_which_no_mail_could_ever_leave_stop_the_start(hours: str, quiet: str, usable: bool) -> None:
    said = {"DEBUG": "1", "SENDING_HOURS": hours, "QUIET_HOURS": quiet}
    if usable:
        shown(said, "SENDING_HOURS")
    else:
        assert "SENDING_HOURS: lie within QUIET_HOURS" in refusal(said)


def test_a_holiday_that_is_not_shipped_is_no_word() -> None:
    assert "HOLIDAYS: expected none, or some of new_year" in refusal({"DEBUG": "1", "HOLIDAYS": "easter"})
