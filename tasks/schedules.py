"""When SOPs start by themselves, in words and as moments."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tasks import triggers

WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SHORT_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def next_slots(trigger: Mapping[str, Any], after: datetime, count: int) -> list[datetime]:
    """Return the next starts of a schedule, at most `count`; none when it has no schedule or a wrong one."""
    found: list[datetime] = []
    try:
        while len(found) < count and (slot := triggers.next_slot(trigger, found[-1] if found else after)):
            found.append(slot)
    except ValueError:
        return []
    return found


def schedule_in_words(trigger: Mapping[str, Any]) -> str:
    """Return when a SOP starts by itself, such as: Each Monday at 09:00, from 02-15 until 05-31."""
    cron, event = str(trigger.get("schedule", "")), _event_in_words(trigger)
    if not cron:
        return event or "Only when a person or another SOP starts it"
    season = f", from {trigger['from']}" if trigger.get("from") else ""
    season += f" until {trigger['until']}" if trigger.get("until") else ""
    zone = str(trigger.get("timezone", "")).replace("_", " ")
    also = f"; also {event[0].lower()}{event[1:]}" if event else ""
    return f"{_cron_in_words(cron)}{season}{f' ({zone})' if zone else ''}{also}"


def _event_in_words(trigger: Mapping[str, Any]) -> str:
    """Return which events start a SOP, such as: On “job.completed” or “job.closed” from crm; "" for none."""
    names = trigger.get("event") or []
    told = " or ".join(f"“{name}”" for name in ([names] if isinstance(names, str) else names))
    source = f" from {trigger['source']}" if trigger.get("source") else ""
    return f"On {told}{source}" if told else ""


def _cron_in_words(cron: str) -> str:
    fields = cron.split()
    if len(fields) != 5 or not (fields[0].isdigit() and fields[1].isdigit()) or fields[3] != "*":
        return f"By the schedule {cron}"
    at = f"at {int(fields[1]):02}:{int(fields[0]):02}"
    if fields[2] == "*":
        days = _days_in_words(fields[4])
        return f"{days} {at}" if days else f"By the schedule {cron}"
    if fields[2].isdigit() and fields[4] == "*":
        return f"On day {fields[2]} of each month {at}"
    return f"By the schedule {cron}"


def _days_in_words(field: str) -> str:
    if field == "*":
        return "Each day"
    if field.upper() in ("MON-FRI", "1-5"):
        return "On weekdays"
    names = [_day_in_words(part) for part in field.split(",")]
    return f"Each {' and '.join(names)}" if all(names) else ""


def _day_in_words(text: str) -> str:
    if text.upper() in SHORT_DAYS:
        return WEEKDAYS[SHORT_DAYS.index(text.upper())]
    return WEEKDAYS[int(text)] if text.isdigit() and int(text) < 8 else ""
