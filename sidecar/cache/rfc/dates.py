"""HTTP dates (RFC 9110 5.6.7): exactly the three formats that a recipient must accept.

Reading is strict, since a date decides how long a response is fresh.  A year of two digits in the preferred format, a
missing comma, an hour of one digit or a zone other than GMT is not a date.  An `Expires` that is not a date is in the
past (RFC 9111 5.3).  Letter case is ignored, and the weekday is not compared with the day.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from email.utils import formatdate
from functools import lru_cache
from typing import Final

MONTHS: Final = {name: n for n, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
MONTH: Final = rb"(" + b"|".join(MONTHS) + rb")"
DAY: Final = rb"(?:mon|tue|wed|thu|fri|sat|sun)"
LONG_DAY: Final = rb"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
TIME: Final = rb"(\d\d):(\d\d):(\d\d)"
IMF: Final = re.compile(DAY + rb", (\d\d) " + MONTH + rb" (\d{4}) " + TIME + rb" gmt", re.IGNORECASE)
RFC850: Final = re.compile(LONG_DAY + rb", (\d\d)-" + MONTH + rb"-(\d\d) " + TIME + rb" gmt", re.IGNORECASE)
ASCTIME: Final = re.compile(DAY + rb" " + MONTH + rb" ([ \d]\d) " + TIME + rb" (\d{4})", re.IGNORECASE)
EPOCH: Final = date(1970, 1, 1).toordinal()
"""Ordinal of the first day of 1970."""
LONGEST: Final = 33
"""Bytes of the longest date, such as `Wednesday, 01-Jan-25 00:00:00 GMT`."""


def parse_date(value: bytes, now: float) -> float | None:
    """Return an HTTP date in seconds since 1970; None if the value is not one.

    `now`, in seconds since 1970, decides the century of a year of two digits.
    """
    if len(value) > LONGEST:
        return None
    known = _parse(value)
    if known is not None:
        return known
    match = RFC850.fullmatch(value)
    if match is None:
        return None
    day, month, year, hour, minute, second = match.groups()
    # a year more than 50 years ahead is the latest past one with these digits (RFC 9110 5.6.7)
    this_year = datetime.fromtimestamp(now, UTC).year
    full = this_year - this_year % 100 + int(year)
    if full > this_year + 50:
        full -= 100
    return _instant(full, month, day, hour, minute, second)


@lru_cache(maxsize=512)
def _parse(value: bytes) -> float | None:
    if match := IMF.fullmatch(value):
        day, month, year, hour, minute, second = match.groups()
        return _instant(int(year), month, day, hour, minute, second)
    if match := ASCTIME.fullmatch(value):
        month, day, hour, minute, second, year = match.groups()
        return _instant(int(year), month, day, hour, minute, second)
    return None


def _instant(year: int, month: bytes, day: bytes, hour: bytes, minute: bytes, second: bytes) -> float | None:
    try:
        days = date(year, MONTHS[month.lower()], int(day)).toordinal() - EPOCH
    except ValueError:
        return None
    hours, minutes, seconds = int(hour), int(minute), int(second)
    if hours > 23 or minutes > 59 or seconds > 60:  # 60 is a leap second
        return None
    return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


@lru_cache(maxsize=8)
def _format(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def format_date(wall: float) -> bytes:
    """Return an IMF-fixdate; `wall` is in seconds since 1970."""
    return _format(int(wall))
