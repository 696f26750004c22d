"""A CRM of another shape: numbers for ids, values inside `properties`, pages by cursor, its own words."""

from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar
from urllib.parse import quote

from django.conf import settings

from crm.provider import Can, HttpProvider, Row, Rows, providers
from sopengine.errors import DataError, Permanent
from sopengine.http import Answer

PER_PAGE = 100
KINDS = {
    "customers": "people",
    "invoices": "bills",
    "quotes": "offers",
    "appointments": "visits",
    "notes": "remarks",
}
PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "customers": {
        "status": "stage",
        "services": "services",
        "not_signed_for_season": "not_in_season",
        "last_service_before": "visited_before",
        "city": "town",
    },
    "invoices": {"status": "state", "customer_id": "person", "due_before": "due_before"},
    "quotes": {"status": "state", "customer_id": "person"},
    "appointments": {"from": "begins_from", "to": "begins_before"},
    "notes": {"customer_id": "person"},
}


@providers.register("shaped")
class Shaped(HttpProvider):
    """Speaks to /v3/objects/<kind> and /v3/search/<kind>."""

    name = "shaped"
    root = "/v3"
    can: ClassVar[Mapping[str, Can]] = {
        "customers": Can({"query", "find", "search", "create", "update"}, PARAMETERS["customers"]),
        "invoices": Can({"query", "find"}, PARAMETERS["invoices"]),
        "quotes": Can({"query", "find"}, PARAMETERS["quotes"]),
        "appointments": Can({"query", "create", "update"}, PARAMETERS["appointments"]),
        "notes": Can({"query", "create"}, PARAMETERS["notes"], needs={"customer_id"}),
    }

    @property
    def idempotency(self) -> float | None:
        """For as long as the settings say, as with any CRM whose keys somebody has tried."""
        return settings.CRM_IDEMPOTENCY_HOURS or None

    def list_rows(self, entity: str, filters: Mapping[str, Any], cursor: str) -> Rows:
        """Return one page; the cursor is the CRM's own."""
        asked = [
            (PARAMETERS[entity][name], self._text(entity, name, part))
            for name, value in filters.items()
            for part in (value if isinstance(value, tuple) else (value,))
        ]
        return self._page(entity, f"/objects/{KINDS[entity]}", asked, cursor)

    def find_row(self, entity: str, record_id: str) -> Row | None:
        """Return one object, or None for a 404."""
        answer = self.call("GET", f"{_objects(entity)}/{quote(record_id, safe='')}", f"{entity}.find")
        return _object(answer) if answer.found else None

    def search_rows(self, entity: str, text: str, cursor: str) -> Rows:
        """Return one page of the objects that fit the text."""
        return self._page(entity, f"/search/{KINDS[entity]}", [("text", text)], cursor)

    def create_row(self, entity: str, row: Row, key: str) -> Row | None:
        """Create an object."""
        return self._write("POST", entity, _objects(entity), row, key)

    def update_row(self, entity: str, record_id: str, row: Row, key: str) -> Row | None:
        """Change the given properties of an object."""
        return self._write("PATCH", entity, f"{_objects(entity)}/{quote(record_id, safe='')}", row, key)

    def ping(self) -> bool:
        """Ask for one person."""
        self._page("customers", _objects("customers"), [], "", limit=1)
        return True

    def _page(
        self, entity: str, path: str, asked: list[tuple[str, str]], cursor: str, limit: int = PER_PAGE
    ) -> Rows:
        place = [("cursor", cursor)] if cursor else []
        answer = self.call("GET", path, f"{entity}.list", [*asked, ("limit", str(limit)), *place])
        if not answer.found:
            raise Permanent(f"the CRM has no list of {entity}", code="http_404")
        value = answer.value if isinstance(answer.value, dict) else {}
        rows, following = value.get("results"), value.get("next_cursor", "")
        if not isinstance(rows, list):
            raise DataError("crm: the answer has no 'results' with a list", code="shape")
        if following is not None and not isinstance(following, str):
            raise DataError("crm: the answer's 'next_cursor' is no text", code="shape")
        if following and (following == cursor or not rows):
            raise DataError("crm: the pages would never end", code="shape")
        return Rows(rows, following or "")

    def _write(self, method: str, entity: str, path: str, row: Row, key: str) -> Row | None:
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.call(method, path, f"{entity}.{method.lower()}", body=row, headers=headers)
        return _object(answer) if answer.found else None

    def _text(self, entity: str, name: str, value: Any) -> str:
        """Return one value of a filter in the words of this CRM."""
        if (entity, name) == ("customers", "status"):
            row = self.maps.row("customers", {"status": value})
            return str(row["properties"]["stage"])
        return value.isoformat() if isinstance(value, date) else str(value)


def _objects(entity: str) -> str:
    return f"/objects/{KINDS[entity]}"


def _object(answer: Answer) -> Row:
    if not isinstance(answer.value, dict):
        raise DataError("crm: the answer is no object", code="shape", sent="maybe")
    return answer.value
