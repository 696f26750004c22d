"""The people and papers of the mock CRM: fixed ids, fixed names, dates as offsets from today.

`customers_for(12)` is the demo: 12 past customers, 9 of them with fertilizer or weed control, 2 of
those signed for this season; of the 7 that a campaign finds one is not to be contacted and one has
no mail address, which leaves 5 drafts. Other numbers keep the proportions. Beside the past customers
stand some active ones, leads and cold ones, who hold the invoices and quotes.

An offset is {"$days": n}, {"$hours": n} or {"$year": n}; `settled` turns it into a date, a time or a
year when a row is read, so there is always an invoice exactly 7 days overdue.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

Row = dict[str, Any]

FIRST = (
    *("Ada", "Berta", "Carl", "Dora", "Emil", "Frida", "Gustav", "Hanna", "Ivo", "Johanna", "Karl"),
    *("Lena", "Mateo", "Nora", "Otto", "Paula", "Quentin", "Rosa", "Sven", "Tilda", "Umut", "Vera"),
    *("Wanda", "Xaver", "Yusuf", "Zoë", "Åsa", "Bao", "Chidi", "Dolores"),
)
LAST = (
    *("Anderson", "Bergström", "Carlson", "O'Dwyer", "Engel", "Fischer", "García", "Hansen", "Iverson"),
    *("Johnson", "Kowalski", "Lindqvist", "Moua", "Nguyen", "Olson", "Petersen", "Quist", "Rasmussen"),
    *("Swanson", "Torres", "Ueland", "Vang", "Westby", "Xiong", "Young", "Zimmer", "Le Blanc"),
    *("Haugen-Ruiz", "Abdi"),
)
STREETS = ("Birch Lane", "Cedar Avenue", "Dupont Street", "Elm Drive", "Fremont Court", "Hill Road")
CITIES = (("Minneapolis", "55408"), ("Saint Paul", "55104"), ("Edina", "55424"), ("Bloomington", "55420"))
SOURCES = ("referral", "website", "phone", "flyer")

LAWN = ["fertilizer", "weed_control"]
# One line for each of twelve past customers: services, signed this year, not to be contacted, no mail.
PAST: tuple[tuple[list[str], bool, bool, bool], ...] = (
    (LAWN, False, False, False),
    (["fertilizer"], False, False, False),
    (["snow_removal"], False, False, False),
    (["weed_control", "mowing"], True, False, False),
    (["fertilizer", "aeration"], False, False, False),
    (["weed_control"], False, True, False),
    (["mowing"], False, False, False),
    (LAWN, False, False, True),
    (["fertilizer", "snow_removal"], False, False, False),
    (LAWN, True, False, False),
    (["lawn_care"], False, False, False),
    (["weed_control"], False, False, False),
)
OTHERS = ("active", "active", "lead", "cold")
OVERDUE_DAYS = (7, 14, 21, 34)
# Firms and associations that hand over whole streets: name, domain, segment.
ACCOUNTS = (
    ("Birch Lane Association", "birchlane.example.com", "association"),
    ("Fremont Dental", "fremontdental.example.com", "business"),
)


def cast_of(past: int) -> dict[str, list[Row]]:
    """Return the rows of a mock CRM with this many past customers, by entity; none at all for 0."""
    if past == 0:
        return {}
    customers = customers_for(past)
    holders = [row for row in customers if row["status"] == "active"]
    return {
        "customers": customers,
        "invoices": _invoices(holders),
        "quotes": _quotes([row for row in customers if row["status"] in ("lead", "active")]),
        "appointments": _appointments(holders),
        "accounts": _accounts(),
        "contacts": _contacts(),
        "deals": _deals(holders),
        "activities": _activities(holders),
    }


def customers_for(past: int) -> list[Row]:
    """Return `past` past customers, then a third as many (at least four) others."""
    rows = [_past(index) for index in range(past)]
    return rows + [_other(past + index, OTHERS[index % 4]) for index in range(max(4, past // 3))]


def settled(value: Any, now: datetime) -> Any:
    """Return the row with its offsets turned into the dates, times and years that they mean now."""
    if isinstance(value, list):
        return [settled(item, now) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, offset),) = value.items()
        if kind == "$days":
            return (timezone.localdate(now) + timedelta(days=offset)).isoformat()
        if kind == "$hours":
            moment = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            return (moment + timedelta(hours=offset)).isoformat()
        if kind == "$year":
            return timezone.localdate(now).year + int(offset)
    return {name: settled(item, now) for name, item in value.items()}


def _past(index: int) -> Row:
    services, signed, silent, unreachable = PAST[index % len(PAST)]
    row = _person(index, "past", services)
    row["last_service_date"] = {"$days": -(110 + index * 7 % 120)}
    row["signed_seasons"] = [{"$year": -1}, {"$year": 0}] if signed else [{"$year": -1}]
    row["do_not_contact"] = silent
    if unreachable:
        row["email"] = None
    return row


def _other(index: int, status: str) -> Row:
    row = _person(index, status, {"active": LAWN, "lead": ["fertilizer"], "cold": ["mowing"]}[status])
    if status == "active":
        row["last_service_date"] = {"$days": -(2 + index % 20)}
        row["signed_seasons"] = [{"$year": 0}]
    return row


def _person(index: int, status: str, services: list[str]) -> Row:
    """Return a customer whose every value follows from its place in the list."""
    number = index + 1
    first, last = FIRST[index % len(FIRST)], LAST[index % len(LAST)]
    city, code = CITIES[index % len(CITIES)]
    return {
        "id": f"cus_{number:04}",
        "name": f"{first} {last}",
        "email": f"{_ascii(first)}.{_ascii(last)}.{number}@example.com".lower(),
        "phone": f"+1612555{number % 10_000:04}",
        "address": f"{100 + number} {STREETS[index % len(STREETS)]}",
        "city": city,
        "state": "MN",
        "zip": code,
        "services": services,
        "status": status,
        "last_service_date": None,
        "notes": None,
        "source": SOURCES[index % len(SOURCES)],
        "created_at": {"$hours": -24 * (200 + index % 500)},
        "signed_seasons": [],
        "do_not_contact": False,
    }


def _ascii(name: str) -> str:
    replaced = name.translate(str.maketrans("öëÅåí", "oeaai"))
    return "".join(letter for letter in replaced if letter.isascii() and letter.isalpha())


def _invoices(holders: list[Row]) -> list[Row]:
    """Return one open invoice for each age of dunning, one that is not due, and one that is paid."""
    states = [("open", -days) for days in OVERDUE_DAYS] + [("open", 10), ("paid", -40)]
    return [
        {
            "id": f"inv_{number:04}",
            "number": f"R-{1000 + number}",
            "customer_id": holders[number % len(holders)]["id"],
            "amount_due": 180.0 + 45.5 * number if status == "open" else 0.0,
            "currency": "USD",
            "due_date": {"$days": days},
            "status": status,
            "paid_at": {"$hours": -24 * 30} if status == "paid" else None,
        }
        for number, (status, days) in enumerate(states, 1)
    ]


def _quotes(holders: list[Row]) -> list[Row]:
    """Return one quote that has waited three days for an answer, one accepted, and one draft."""
    states: tuple[tuple[str, int | None, int | None], ...] = (
        ("sent", -72, None),
        ("accepted", -240, -200),
        ("draft", None, None),
    )
    return [
        {
            "id": f"quo_{number:04}",
            "number": f"Q-{2000 + number}",
            "customer_id": holders[-number % len(holders)]["id"],
            "version": 1,
            "status": status,
            "total": 380.0 + 20 * number,
            "currency": "USD",
            "sent_at": None if sent is None else {"$hours": sent},
            "responded_at": None if responded is None else {"$hours": responded},
            "valid_until": {"$days": 27},
        }
        for number, (status, sent, responded) in enumerate(states, 1)
    ]


def _appointments(holders: list[Row]) -> list[Row]:
    return [
        {
            "id": f"app_{number:04}",
            "customer_id": holders[number % len(holders)]["id"],
            "start": {"$hours": 24 * number},
            "end": {"$hours": 24 * number + 1},
            "type": "visit",
            "status": "booked",
        }
        for number in (1, 2)
    ]


def _accounts() -> list[Row]:
    return [
        {"id": f"acc_{number:04}", "name": name, "domain": domain, "segment": segment}
        for number, (name, domain, segment) in enumerate(ACCOUNTS, 1)
    ]


def _contacts() -> list[Row]:
    """Return one person at each account; nobody of them is a customer."""
    people = (("Ingrid Sather", "treasurer"), ("Rolf Tveit", "office manager"))
    return [
        {
            "id": f"con_{number:04}",
            "name": name,
            "email": f"{name.split()[0].lower()}@{domain}",
            "phone": f"+1651555{number:04}",
            "account_id": f"acc_{number:04}",
            "role": role,
        }
        for number, ((name, role), (_, domain, _)) in enumerate(zip(people, ACCOUNTS, strict=True), 1)
    ]


def _deals(holders: list[Row]) -> list[Row]:
    """Return one sale that may come about with an account, one with a customer, and one that was lost."""
    states = (("open", 2400.0, 30), ("open", 380.0, 14), ("lost", 1500.0, -60))
    return [
        {
            "id": f"dea_{number:04}",
            "name": f"Season contract {number}",
            "stage": stage,
            "account_id": None if number == 2 else f"acc_{(number + 1) // 2:04}",
            "customer_id": holders[0]["id"] if number == 2 else None,
            "amount": amount,
            "currency": "USD",
            "close_date": {"$days": days},
        }
        for number, (stage, amount, days) in enumerate(states, 1)
    ]


def _activities(holders: list[Row]) -> list[Row]:
    return [
        {
            "id": f"act_{number:04}",
            "customer_id": holders[number % len(holders)]["id"],
            "kind": kind,
            "text": text,
            "at": {"$hours": -24 * number},
        }
        for number, (kind, text) in enumerate([("call", "Asked for a second visit."), ("visit", None)], 1)
    ]
