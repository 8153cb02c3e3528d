"""Windows of quotas: the hour, day, week or month that an instant is in, by the clock of a time zone.

Rules:

1. A window begins at the time of the day in `resets`, by the local clock.  So a day has 23 or 25 hours when the clock
   changes.
2. A local time that the clock skips is the instant at which it would have come without the change, and one that comes
   twice is the first (PEP 495, `fold=0`).
3. A week begins on Monday (ISO 8601), and a month on its first day.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

HOUR: Final = 3600.0
DAYS: Final = {"day": 1, "week": 7}
"""Days of each kind of window whose days are always as many."""


def find_zone(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA database.  Raises `ValueError` for an unknown one.

    UTC needs no database.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):  # `ZoneInfoNotFoundError` is a `KeyError`
        raise ValueError from None
    except KeyError:
        raise ValueError from None


def meant_zone(name: str) -> str:
    """Return the name of a time zone in its right case, or with its area; empty without a similar one."""
    zones = sorted({"UTC", *available_timezones()})
    cities = {zone.rpartition("/")[2].lower(): zone for zone in zones}
    return (cities | {zone.lower(): zone for zone in zones}).get(name.lower(), "")


class Windows:
    """Windows of one quota."""

    __slots__ = ("_at", "_per", "_zone", "end", "start")

    def __init__(self, per: str, resets: str, zone: str) -> None:
        """`per` is `hour`, `day`, `week` or `month`, `resets` a time such as `06:00`, `zone` a known time zone."""
        hours, _, minutes = resets.partition(":")
        self._per = per
        self._at = time(int(hours), int(minutes))
        self._zone = find_zone(zone)
        self.start = 0.0
        """Unix time of the start of the window that was found last."""
        self.end = 0.0
        """Unix time of its end."""

    def find(self, wall: float) -> None:
        """Set `start` and `end` to those of the window that a Unix time is in."""
        if self._per == "hour":
            offset = self._offset(wall)
            self.start = (wall + offset) // HOUR * HOUR - offset
            self.end = self.start + HOUR
            return
        day = datetime.fromtimestamp(wall, self._zone).date()
        first = self._first(day)
        if self._instant(first) > wall:  # the window of today begins later today
            first = self._first(first - timedelta(days=1))
        following = self._next(first)
        if self._instant(following) <= wall:  # a clock that was set back has passed the same time of the day again
            first, following = following, self._next(following)
        self.start, self.end = self._instant(first), self._instant(following)

    def _first(self, day: date) -> date:
        """Return the day on which the window of a day begins."""
        if self._per == "week":
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self._per == "month" else day

    def _next(self, first: date) -> date:
        """Return the day on which the next window begins."""
        if self._per == "month":
            return (first + timedelta(days=31)).replace(day=1)
        return first + timedelta(days=DAYS[self._per])

    def _instant(self, day: date) -> float:
        """Return the Unix time at which a window that begins on this day begins."""
        return datetime.combine(day, self._at, self._zone).timestamp()

    def _offset(self, wall: float) -> float:
        """Return the offset of the time zone from UTC in seconds."""
        offset = datetime.fromtimestamp(wall, self._zone).utcoffset()
        return 0.0 if offset is None else offset.total_seconds() % HOUR
