"""How settings.py reads the environment: strictly, and with every mistake named at once.

A value may also stand in a file that `NAME_FILE` points to. An empty value counts as not set.
"""

import base64
import binascii
import importlib.util
import re
import warnings
from collections.abc import Iterable, Mapping
from email.utils import parseaddr
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit
from zoneinfo import ZoneInfo

import environ
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import validate_email

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})
DATABASES = {
    "sqlite": "django.db.backends.sqlite3",
    "postgres": "django.db.backends.postgresql",
    "postgresql": "django.db.backends.postgresql",
}
WEEK = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MAIL_BACKENDS = "django.core.mail.backends"
CERTIFICATE_CHECKS = ("required", "optional", "none")


class Misconfigured(ImproperlyConfigured):
    """Settings that must not start; one line for each wrong name."""


class Environment:
    """The environment as typed values; what is wrong is collected until `finish`."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: dict[str, str] = {}
        self.names: set[str] = set()

    def finish(self) -> None:
        """Raise Misconfigured with one line for each problem, if there is any."""
        if self.problems:
            lines = "\n".join(f"  {name}: {problem}" for name, problem in sorted(self.problems.items()))
            raise Misconfigured(f"The settings are not usable:\n{lines}")

    def refuse(self, name: str, problem: str) -> None:
        """Note that `name` is wrong; the first problem of a name is kept."""
        self.problems.setdefault(name, problem)

    def given(self, name: str) -> bool:
        """Tell whether `name` is set, directly or by its file."""
        return bool(self._values.get(name) or self._values.get(f"{name}_FILE"))

    def text(self, name: str, default: str = "", *, by_file: bool = True, keep_empty: bool = False) -> str:
        """Return the value of `name`; `keep_empty` tells an empty value from one that is not set."""
        self.names.add(name)
        direct, path = self._values.get(name, ""), self._values.get(f"{name}_FILE", "") if by_file else ""
        if direct and path:
            self.refuse(name, f"is set and so is {name}_FILE; expected one of them")
        if direct or (keep_empty and name in self._values):
            return direct
        return (self._file(name, path) or default) if path else default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return true or false; any other word is refused."""
        word = self.text(name).strip().lower()
        if word and word not in TRUE_WORDS | FALSE_WORDS:
            self.refuse(
                name, f"{word!r} is neither true nor false; expected 1, true, yes, on, 0, false, no or off"
            )
        return word in TRUE_WORDS if word in TRUE_WORDS | FALSE_WORDS else default

    def number(
        self, name: str, default: float, *, least: float = 0.0, most: float = 0.0, by_file: bool = True
    ) -> float:
        """Return a number of at least `least`, and of at most `most` where that is given."""
        text = self.text(name, by_file=by_file)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least <= value < float("inf") and (not most or value <= most)):
            expected = f"from {least:.0f} to {most:.0f}" if most else f"of at least {least:g}"
            self.refuse(name, f"{text!r} is not usable; expected a number {expected}")
            return default
        return value

    def whole(self, name: str, default: int, *, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        text = self.text(name)
        if not text:
            return default
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
            self.refuse(name, f"{text!r} is not usable; expected a whole number of at least {least}")
            return default
        return int(text)

    def words(self, name: str, default: Iterable[str] = ()) -> list[str]:
        """Return the comma-separated words of `name`."""
        return [word.strip() for word in self.text(name).split(",") if word.strip()] or list(default)

    def numbers(self, name: str, default: Iterable[float], *, most: float) -> list[float]:
        """Return comma-separated numbers, none of them negative or above `most`."""
        words = self.words(name)
        if not all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", word) and float(word) <= most for word in words):
            self.refuse(
                name,
                f"{','.join(words)!r} is not usable; expected numbers with commas, such as 2,4,8, "
                f"each at most {most:.0f}",
            )
            return list(default)
        return [float(word) for word in words] or list(default)

    def choice(self, name: str, default: str, options: Iterable[str]) -> str:
        """Return one of `options`."""
        value, known = self.text(name, default), tuple(options)
        if value not in known:
            self.refuse(name, f"{value!r} is unknown; expected {_either(known)}")
            return default
        return value

    def name(self, name: str, default: str) -> str:
        """Return a short lower-case name, as of a provider; a system check knows which there are."""
        value = self.text(name, default)
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value):
            self.refuse(name, f"{value!r} is not a name; expected lower-case letters, digits and _")
            return default
        return value

    def hooks(self, name: str) -> dict[str, tuple[str, str]]:
        """Return who may post to /hooks: the scheme of its signature and what reads it, by source.

        Written `source=scheme` or `source=scheme:reader`, with commas; system checks know which there are.
        """
        found: dict[str, tuple[str, str]] = {}
        for word in self.words(name):
            parts = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)=([a-z0-9]+)(?::([a-z0-9]+))?", word)
            if not parts or len(parts[1]) > 60:
                self.refuse(name, f"{word!r} is not usable; expected such as billing=standard,mail=hmac:mail")
            elif parts[1] in found:
                self.refuse(name, f"{parts[1]!r} is there twice; expected each source once")
            else:
                found[parts[1]] = (parts[2], parts[3] or "json")
        return found

    def packages(self, name: str) -> list[str]:
        """Return the names of Python packages that can be found; none of them is imported here."""
        words = self.words(name)
        for word in words:
            if not _is_package(word):
                self.refuse(name, f"{word!r} is no Python package that can be found; expected its name")
        return words

    def mailbox(self, name: str, default: str) -> str:
        """Return who mail comes from: an address, or a name with the address in angle brackets."""
        value = self.text(name, default)
        address = parseaddr(value)[1]
        try:
            validate_email(address)
        except ValidationError:
            address = ""
        if not address or not value.isprintable() or not (value == address or value.endswith(f"<{address}>")):
            self.refuse(
                name, "is no address; expected such as office@example.com or Office <office@example.com>"
            )
            return default
        return value

    def mail_addresses(self, name: str) -> list[str]:
        """Return mail addresses, which stand with commas."""
        words = self.words(name)
        for word in words:
            try:
                validate_email(word)
            except ValidationError:
                self.refuse(
                    name, f"{_masked(word)} is no address; expected such as owner@example.com,it@example.com"
                )
        return words

    def address(self, name: str, default: str = "") -> str:
        """Return an http(s) address without a slash at its end."""
        value = self.text(name, default)
        try:
            parts = urlsplit(value)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
            usable = usable and not (parts.username or parts.query or parts.fragment)
        except ValueError:
            usable = False
        if value and not usable:
            self.refuse(name, f"expected an address such as https://www.example.com, not {_masked(value)}")
            return default
        return value.rstrip("/")

    def hook(self, name: str) -> str:
        """Return an http(s) address to post to, exactly as it was given: its query may be its key."""
        value = self.text(name)
        try:
            parts = urlsplit(value)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
            usable = usable and not (parts.username or parts.password or parts.fragment)
            usable = usable and value.isascii() and value.isprintable() and " " not in value
        except ValueError:
            usable = False
        if value and not usable:
            expected = "expected an address such as https://chat.example.com/hooks/1"
            self.refuse(name, f"{_masked(value)} is not usable; {expected}")
            return ""
        return value

    def signing_secret(self, name: str) -> str:
        """Return a secret of Standard Webhooks: base64 of 24 to 64 bytes, mostly with `whsec_` before it."""
        value = self.text(name)
        if value and not 24 <= _key_length(value.removeprefix("whsec_")) <= 64:
            self.refuse(name, "is not usable; expected whsec_ and base64 of 24 to 64 random bytes")
            return ""
        return value

    def zone(self, name: str, default: str) -> str:
        """Return the name of a time zone."""
        value = self.text(name, default)
        try:
            ZoneInfo(value)
        except (LookupError, ValueError, OSError):
            self.refuse(name, f"{value!r} is unknown; expected a time zone such as America/Chicago")
            return default
        return value

    def days(self, name: str, default: str) -> tuple[int, ...]:
        """Return days of the week, 0 for Monday, of a text such as MON-FRI or MON,WED,SAT."""
        days = _days_of_week(self.text(name, default))
        if days is None:
            self.refuse(name, "is not usable; expected days such as MON-FRI, MON-SAT or TUE,THU")
            return _days_of_week(default) or ()
        return days

    def hours(self, name: str, default: str, *, over_midnight: bool = False) -> tuple[int, int]:
        """Return from and to of a text such as 09:00-18:00, in minutes of the day.

        With `over_midnight` the first may be later than the second, and "none" is (0, 0).
        """
        hours = _minutes_of(self.text(name, default), over_midnight)
        if hours is None:
            more = ", over midnight or none" if over_midnight else ", the first before the second"
            self.refuse(name, f"is not usable; expected hours such as {default}{more}")
            return _minutes_of(default, over_midnight) or (0, 0)
        return hours

    def database(self, name: str, default: str) -> dict[str, Any]:
        """Return Django's settings for a sqlite:// or postgres:// address."""
        value = self.text(name, default)
        expected = "expected sqlite:////path/to/file or postgres://user:password@host:5432/name"
        try:
            if urlsplit(value).scheme not in DATABASES:
                raise ValueError
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found: dict[str, Any] = environ.Env.db_url_config(value, DATABASES[urlsplit(value).scheme])
        except (ValueError, UserWarning):
            self.refuse(name, f"{_masked(value)} is not usable; {expected}")
            return {"ENGINE": DATABASES["sqlite"], "NAME": ":memory:"}
        options = dict(found.get("OPTIONS", {}))
        # The form of libpq for a socket, `postgres://user@/name?host=/folder`, and the one of a quoted host.
        found["HOST"] = options.pop("host", "") or unquote(found.get("HOST", ""))
        found["OPTIONS"] = options
        if not found["NAME"]:
            self.refuse(name, f"names no database; {expected}")
        return found

    def redis(self, name: str, certificates: str) -> str:
        """Return an address as redis-py reads it; `certificates` is how rediss:// checks the other side."""
        value = self.text(name)
        if not value:
            return ""
        expected = "expected redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/socket"
        try:
            parts = urlsplit(value.replace("redis+socket://", "unix://", 1))
            usable = (
                bool(parts.path.strip("/"))
                if parts.scheme == "unix"
                else bool(parts.hostname) and (parts.port or 1) > 0
            )
        except ValueError:
            usable = False
        if not usable or parts.scheme not in {"redis", "rediss", "unix"}:
            self.refuse(name, f"{_masked(value)} is not usable; {expected}")
            return ""
        query = dict(parse_qsl(parts.query))
        if parts.scheme == "unix" and "virtual_host" in query:
            query["db"] = query.pop("virtual_host")
        if parts.scheme == "rediss":
            asked = query.get("ssl_cert_reqs", certificates).lower().removeprefix("cert_")
            if asked not in CERTIFICATE_CHECKS:
                self.refuse(
                    name, f"ssl_cert_reqs={asked!r} is unknown; expected {_either(CERTIFICATE_CHECKS)}"
                )
            query["ssl_cert_reqs"] = asked
        asked_for = f"?{urlencode(query)}" if query else ""
        return f"{parts.scheme}://{parts.netloc}{parts.path}{asked_for}"

    def mail(self, name: str, folder: str) -> dict[str, Any]:
        """Return Django's mail settings for an EMAIL_URL; without one, mail goes to `folder`."""
        value = self.text(name)
        expected = (
            "expected smtp+tls://user:password@host:587, smtps://user:password@host:465, "
            "smtp://host:25, filemail:///folder or consolemail://"
        )
        try:
            parts = urlsplit(value)
            port, query = parts.port, dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            self.refuse(name, f"{_masked(value)} is not usable; {expected}")
            return _mail_to_folder(folder)
        if not value:
            return _mail_to_folder(folder)
        if parts.scheme == "filemail":
            return _mail_to_folder(unquote(parts.path) or folder)
        if parts.scheme == "consolemail":
            return {"BACKEND": f"{MAIL_BACKENDS}.console.EmailBackend", "FOLDER": ""}
        if parts.scheme not in {"smtp", "smtp+tls", "smtps", "smtp+ssl"} or not parts.hostname or query:
            self.refuse(name, f"{_masked(value)} is not usable; {expected}")
            return _mail_to_folder(folder)
        at_once = parts.scheme in {"smtps", "smtp+ssl"}
        return {
            "BACKEND": f"{MAIL_BACKENDS}.smtp.EmailBackend",
            "FOLDER": "",
            "HOST": parts.hostname,
            "PORT": port or (465 if at_once else 587 if parts.scheme == "smtp+tls" else 25),
            "HOST_USER": unquote(parts.username or ""),
            "HOST_PASSWORD": unquote(parts.password or ""),
            "USE_SSL": at_once,
            "USE_TLS": parts.scheme == "smtp+tls",
        }

    def keys(self, name: str, default: Iterable[str]) -> list[str]:
        """Return `kid:base64` keys of 32 bytes, newest first, each kid once."""
        words = self.words(name, default)
        kids = []
        for number, word in enumerate(words, start=1):
            kid, _, text = word.partition(":")
            kids.append(kid)
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", kid) or _key_length(text) != 32:
                self.refuse(name, f"key {number} is not usable; expected name:base64 of 32 random bytes")
        if len(set(kids)) < len(kids):
            self.refuse(name, "has two keys of one name; expected a name of its own for each key")
        return words

    def _file(self, name: str, path: str) -> str:
        self.names.add(f"{name}_FILE")
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            self.refuse(
                f"{name}_FILE", f"{path!r} cannot be read; expected a text file with the value of {name}"
            )
            return ""


def _days_of_week(text: str) -> tuple[int, ...] | None:
    """Return the numbers of the days, Monday 0, or None."""
    found: set[int] = set()
    for part in text.upper().replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if first not in WEEK or (dash and last not in WEEK):
            return None
        begin, end = WEEK.index(first), WEEK.index(last or first)
        if end < begin:
            return None
        found.update(range(begin, end + 1))
    return tuple(sorted(found))


def _minutes_of(text: str, over_midnight: bool) -> tuple[int, int] | None:
    """Return from and to in minutes of the day, or None."""
    if over_midnight and text.strip().lower() == "none":
        return 0, 0
    found = re.fullmatch(r"\s*(\d{2}):([0-5]\d)\s*-\s*(\d{2}):([0-5]\d)\s*", text)
    if not found:
        return None
    begin, end = (60 * int(found[i]) + int(found[i + 1]) for i in (1, 3))
    if max(begin, end) > 1440 or begin == end or (begin > end and not over_midnight):
        return None
    return begin, end


def host_and_port(address: str) -> str:
    """Return `host:port` of an http(s) address, in lower case; an IPv6 address stands in brackets."""
    parts = urlsplit(address)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def is_host(word: str) -> bool:
    """Say whether this is a host in lower case, with or without a port."""
    return re.fullmatch(r"([a-z0-9._-]{1,253}|\[[0-9a-f:.]+\])(:\d{1,5})?", word) is not None


def _is_package(name: str) -> bool:
    """Return whether a package is there, without running anything of it."""
    first, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(first) if first else None
        for part in rest:
            folders = spec.submodule_search_locations if spec else None
            first = f"{first}.{part}"
            spec = PathFinder.find_spec(first, folders) if folders is not None else None
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.submodule_search_locations is not None


def _mail_to_folder(folder: str) -> dict[str, Any]:
    return {"BACKEND": f"{MAIL_BACKENDS}.filebased.EmailBackend", "FOLDER": folder}


def _key_length(text: str) -> int:
    """Return how many bytes a base64 text holds (either alphabet, padded or not); -1 if it is none."""
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return len(base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True))
    except (binascii.Error, ValueError):
        return -1


def _masked(value: str) -> str:
    """Return an address for an error text, without what may be a password."""
    scheme, mark, _rest = value.partition("://")
    return f"'{scheme}://…'" if mark and re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme) else "the value"


def _either(options: Iterable[str]) -> str:
    *most, last = options
    return f"{', '.join(most)} or {last}" if most else last
