"""The mock CRM inside this process, or shared by all processes through settings.CRM_MOCK_FILE."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django.conf import settings

from crm.mock.state import KEY_HOURS, MockState, Refused, Written
from crm.provider import Can, Provider, Row, Rows, page_number, providers
from sopengine.errors import Permanent

PER_PAGE = 100

_states: dict[str, MockState] = {}
_opening = threading.Lock()


def shared_state() -> MockState:
    """Return the state that the mock provider uses: its journal and its notes can be read back."""
    path = settings.CRM_MOCK_FILE
    with _opening:
        if path not in _states:
            _states[path] = MockState(path)
        return _states[path]


def forget_state() -> None:
    """Let go of every state: the next use opens the file again, or begins a new memory."""
    with _opening:
        _states.clear()


@providers.register("mock")
class Mock(Provider):
    """Same verbs, filters and refusals as the REST contract, and deals, accounts, contacts and activities."""

    name = "mock"
    is_mock = True
    idempotency = KEY_HOURS
    can: ClassVar[Mapping[str, Can]] = {
        "customers": Can(
            {"query", "find", "search", "create", "update"},
            {"status", "services", "not_signed_for_season", "last_service_before", "city"},
        ),
        "invoices": Can({"query", "find"}, {"status", "customer_id", "due_before"}),
        "quotes": Can({"query", "find"}, {"status", "customer_id"}),
        "appointments": Can({"query", "create", "update"}, {"from", "to"}),
        "notes": Can({"query", "create"}, {"customer_id"}, needs={"customer_id"}),
        "deals": Can({"query", "find", "create", "update"}, {"stage", "customer_id", "account_id"}),
        "accounts": Can({"query", "find", "search", "create", "update"}, {"segment"}),
        "contacts": Can({"query", "find", "search", "create", "update"}, {"account_id"}),
        "activities": Can({"query", "create"}, {"customer_id", "kind"}),
    }

    def list_rows(self, entity: str, filters: Mapping[str, Any], cursor: str) -> Rows:
        """Return one page; the cursor is its number."""
        self._check()
        page = page_number(cursor)
        try:
            rows, total = shared_state().query(entity, filters, page, PER_PAGE)
        except Refused as refusal:
            raise self._refusal(refusal) from None
        return Rows(rows, str(page + 1) if page * PER_PAGE < total else "")

    def find_row(self, entity: str, record_id: str) -> Row | None:
        """Return one row, or None."""
        self._check()
        return shared_state().find(entity, record_id)

    def search_rows(self, entity: str, text: str, cursor: str) -> Rows:
        """Return one page of the rows that fit."""
        self._check()
        page = page_number(cursor)
        rows, total = shared_state().search(text, page, PER_PAGE, entity)
        return Rows(rows, str(page + 1) if page * PER_PAGE < total else "")

    def create_row(self, entity: str, row: Row, key: str) -> Row | None:
        """Create a row once per key."""
        return self._applied(lambda: shared_state().create(entity, row, key))

    def update_row(self, entity: str, record_id: str, row: Row, key: str) -> Row | None:
        """Change a row once per key."""
        return self._applied(lambda: shared_state().update(entity, record_id, row, key))

    def _applied(self, write: Callable[[], "Written"]) -> Row | None:
        """Return the row that the write made; a refusal means what its status would mean over HTTP."""
        self._check()
        try:
            written = write()
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise self._refusal(refusal) from None
        self.replayed = written.replayed
        return written.row

    def _refusal(self, refusal: Refused) -> Permanent:
        code = f"http_{refusal.status}"
        return Permanent(f"{self.name} refused the request: {refusal.message}", code=code)

    def _check(self) -> None:
        """Stop where a call over the network would: when the step's time is over."""
        if self.connection.deadline is not None:
            self.connection.deadline.check()
