"""A clock for the engine's tests: every clock, the database's included, stands where a test says."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pytest_django import Settings

from tasks import holidays

CHICAGO = ZoneInfo("America/Chicago")


def chicago(*parts: int) -> datetime:
    """Return a moment on the wall clock of Chicago."""
    return datetime(*parts, tzinfo=CHICAGO)  # type: ignore[misc, arg-type]


def wall(moment: datetime | None) -> str:
    """Return a moment as the wall clock of Chicago shows it."""
    return f"{moment.astimezone(CHICAGO):%a %Y-%m-%d %H:%M}" if moment else ""


def mover(settings: Settings) -> Callable[[datetime], None]:
    """Return a function that lets every clock show a moment."""

    def stand_at(moment: datetime) -> None:
        settings.CLOCK_OFFSET = (moment - datetime.now(UTC)).total_seconds()

    return stand_at


def keep_office_hours(settings: Settings) -> None:
    """Let mail leave on weekdays from nine to six and on no holiday, as is the default."""
    settings.BUSINESS_DAYS = settings.SENDING_DAYS = (0, 1, 2, 3, 4)
    settings.BUSINESS_HOURS = settings.SENDING_HOURS = (540, 1080)
    settings.QUIET_HOURS = (1200, 480)
    settings.HOLIDAYS = list(holidays.RULES)
