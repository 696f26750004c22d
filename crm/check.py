"""The self-test of the way to the CRM, step by step, and which login is in force. It prints nothing.

    for step in Check(write=False).steps():
        step.number, step.name, step.result, step.text

A step that needs one that failed, or that the provider cannot do, is skipped and says why. It goes
past the guard: staff test a line that is silent, refused or held, too.
"""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from django.conf import settings
from django.utils import timezone

from credentials import store
from crm.access import access_for
from crm.records import Customer
from crm.service import CrmService, open_service
from sopengine import clock
from sopengine.errors import StepError

Result = Literal["ok", "failed", "skipped"]

# The one record that a test may write: no lead that anybody follows up, and no address that mail reaches.
RECORD: Mapping[str, Any] = {
    "name": "Self-test of the SOP engine",
    "email": "self-test@sop-engine.invalid",
    "status": "cold",
}
CONTACT_BARRED = "do_not_contact"


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step: what came of it, in one sentence, with the code of the error if it failed."""

    number: int
    name: str
    result: Result
    text: str
    code: str = ""
    ms: int = 0


class Skipped(Exception):
    """A step is not made; the message says why."""


@dataclass(frozen=True, slots=True)
class Login:
    """The login that calls are made with, as far as it may be shown; `source` is stored or a setting."""

    kind: str
    source: str
    last4: str = ""
    status: str = ""
    expires_at: str | None = None
    refused_at: str | None = None

    @property
    def masked(self) -> str:
        """Return it for people: its kind and the last four characters."""
        return f"{self.kind} ····{self.last4}"


def login_in_force(service: str = "crm") -> Login | None:
    """Return the login of a service, or None when there is none; opens no secret."""
    kind = store.KIND_OF_AUTH[settings.CRM_AUTH]
    found = store.credential_for(service, kind)
    if found is None:
        name = store.ENVIRONMENT.get((service, kind.value), "")
        return Login(kind.value, name) if name and store.from_environment(service, kind) else None
    return Login(
        kind=kind.value,
        source="stored",
        last4=found.last4,
        status=found.status_at(clock.now()),
        expires_at=found.expires_at.isoformat() if found.expires_at else None,
        refused_at=found.refused_at.isoformat() if found.refused_at else None,
    )


class Check:
    """One run of the self-test. With `write` it makes one record, or takes the one it made before."""

    def __init__(self, service: str = "crm", *, write: bool = False) -> None:
        self.service = service
        self.write = write
        self._crm: CrmService | None = None
        self._listed: tuple[Customer, ...] | None = None
        self._record: Customer | None = None
        self._bad: set[str] = set()

    def steps(self) -> Iterator[Step]:
        """Make the steps in order, each as it is asked for."""
        plan: list[tuple[str, tuple[str, ...], Callable[[], str]]] = [
            ("configured", (), self._configured),
            ("authenticated", ("configured",), self._authenticated),
            ("token stored", ("configured",), self._token_stored),
            ("list", ("configured", "authenticated"), self._list),
            ("find", ("configured", "authenticated", "list"), self._find),
            ("record", ("configured", "authenticated"), self._write_record),
            ("note", ("configured", "authenticated", "record"), self._write_note),
            ("update", ("configured", "authenticated", "record"), self._update_record),
        ]
        for number, (name, needs, make) in enumerate(plan if self.write else plan[:5], 1):
            yield self._made(number, name, needs, make)

    def _made(self, number: int, name: str, needs: tuple[str, ...], make: Callable[[], str]) -> Step:
        began = time.perf_counter()
        result: Result = "ok"
        code = ""
        try:
            missing = next((need for need in needs if need in self._bad), "")
            if missing:
                raise Skipped(f"It needs the step “{missing}”.")
            text = make()
        except Skipped as reason:
            result, text = "skipped", str(reason)
        except StepError as error:
            result, text, code = "failed", error.message, error.reason
        if result != "ok":
            self._bad.add(name)
        return Step(number, name, result, _sentence(text), code, round((time.perf_counter() - began) * 1000))

    # -- the steps ---------------------------------------------------------------------------------

    @property
    def crm(self) -> CrmService:
        """Return the service under test."""
        assert self._crm is not None
        return self._crm

    def _configured(self) -> str:
        self._crm = open_service(service=self.service, guarded=False)
        if self.crm.is_mock:
            return "CRM_PROVIDER is mock: its customers are invented, no address is needed."
        host = urlsplit(settings.CRM_BASE_URL).hostname
        where = f", at {host}" if host else ", without an address of ours"
        return f"CRM_PROVIDER is {self.crm.provider_name}{where}."

    def _authenticated(self) -> str:
        self.crm.ping()
        if self.crm.is_mock:
            return "The mock answers; it asks for no login."
        return "The CRM takes our login."

    def _token_stored(self) -> str:
        if self.crm.is_mock:
            raise Skipped("The mock needs no login.")
        login = login_in_force(self.service)
        if login is None:
            raise StepError(access_for(self.service).missing(), code="no_credential")
        if login.source != "stored":
            return f"The login comes from the setting {login.source}; none is stored."
        ends = f", until {_day(login.expires_at)}" if login.expires_at else ", without an end"
        return f"The login in force is stored: {login.masked}, {login.status}{ends}."

    def _list(self) -> str:
        self._demand("query")
        self._listed = self.crm.pages().records
        count = len(self._listed)
        return f"The first page of customers has {count} record{'' if count == 1 else 's'}."

    def _find(self) -> str:
        self._demand("find")
        if not self._listed:
            raise Skipped("The list is empty: there is nobody to find.")
        wanted = self._listed[0].id
        if self.crm.find(wanted, fresh=True) is None:
            raise StepError(f"The list has the customer {wanted}, and asked for it the CRM has none")
        return f"The first customer of the list is found by its id, {wanted}."

    def _write_record(self) -> str:
        for verb in ("search", "create", "update"):
            self._demand(verb)
        barred = {CONTACT_BARRED: True} if self._takes(CONTACT_BARRED) else {}
        self._record, created = self.crm.get_or_create({**RECORD, **barred}, key=_key("record"))
        done = "was created" if created else "was there already and is used again"
        return f"The self-test record {self._record.id} {done}."

    def _write_note(self) -> str:
        if not self.crm.notes.can("create"):
            raise Skipped(f"{self.crm.provider_name} cannot create notes.")
        text = f"Self-test of the SOP engine at {_now_in_words()}."
        made = self.crm.note(self._tested.id, text, key=_key("note"))
        return f"The note {made.id} was put on the self-test record."

    def _update_record(self) -> str:
        if not self._takes("source"):
            raise Skipped(f"{self.crm.provider_name} has no field “source” that can be written.")
        wanted = f"Self-test at {_now_in_words()}"
        changed = self.crm.update(self._tested.id, {"source": wanted}, key=_key("update"))
        if changed.source != wanted:
            raise StepError("The CRM took the change of “source” and answered with another value")
        return "A field of the self-test record was changed, and the answer has the new value."

    # -- what the steps share ----------------------------------------------------------------------

    @property
    def _tested(self) -> Customer:
        assert self._record is not None
        return self._record

    def _demand(self, verb: str) -> None:
        """Skip the step when the provider cannot do this with customers."""
        if not self.crm.customers.can(verb):
            raise Skipped(f"{self.crm.provider_name} cannot {verb} customers.")

    def _takes(self, field: str) -> bool:
        """Return whether this field of a customer can be written."""
        rows = self.crm.provider.maps.rows.get("customers", ())
        return any(item.field == field and item.direction != "in" for item in rows)


def _key(name: str) -> str:
    """Return a key of this run alone: an older one could bring back a record that was deleted since."""
    return f"self-test:{name}:{uuid.uuid4()}"


def _now_in_words() -> str:
    return f"{timezone.localtime(clock.now()):%Y-%m-%d %H:%M:%S}"


def _day(moment: str | None) -> str:
    return (moment or "")[:10]


def _sentence(text: str) -> str:
    """Return the text with a capital at its beginning and a full stop at its end."""
    text = re.sub(r"^crm\b", "CRM", text.strip())  # errors of a call begin with the name of the service
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
