"""Texts of timestamps, durations and field masks in the JSON mapping of proto3.

Each function raises `ValueError`, whose text completes "the value ...".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FIRST: Final = -62135596800
LAST: Final = 253402300799
"""Seconds of the years 1 and 9999, the bounds of a timestamp."""
LONGEST: Final = 315_576_000_000
"""Seconds of the longest duration."""
BILLION: Final = 1_000_000_000
_DATE: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_SECONDS: Final = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?s")
_PATH: Final = re.compile(r"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*")
_SNAKE: Final = re.compile(r"(?:[a-z0-9]|_[a-z])+(?:\.(?:[a-z0-9]|_[a-z])+)*")
_CAPITAL: Final = re.compile(r"[A-Z]")
_LETTER: Final = re.compile(r"_([a-z])")


def _fraction(nanos: int) -> str:
    """Return a fraction of a second with its point, in 3, 6 or 9 digits; empty for 0."""
    if not nanos:
        return ""
    digits = f"{nanos:09d}"
    if digits.endswith("000000"):
        return f".{digits[:3]}"
    return f".{digits[:6]}" if digits.endswith("000") else f".{digits}"


def _nanos(digits: str | None) -> int:
    return int(digits.ljust(9, "0")) if digits else 0


def timestamp_text(seconds: int, nanos: int) -> str:
    """Return a timestamp as text (RFC 3339)."""
    if not FIRST <= seconds <= LAST or not 0 <= nanos < BILLION:
        raise ValueError("is a timestamp outside of the years 1 to 9999")
    return f"{(_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]}{_fraction(nanos)}Z"


def timestamp_of(text: str) -> tuple[int, int]:
    """Return the seconds and nanoseconds of a timestamp."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError("is no timestamp, such as 2026-05-17T10:20:30.5Z")
    year, month, day, hour, minute, second, digits, sign, hours, minutes = match.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        raise ValueError("is a timestamp that no calendar has") from None
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise ValueError("is a timestamp with an offset of more than a day")
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += -offset if sign == "+" else offset
    if not FIRST <= seconds <= LAST:
        raise ValueError("is a timestamp outside of the years 1 to 9999")
    return seconds, _nanos(digits)


def duration_text(seconds: int, nanos: int) -> str:
    """Return a duration as text: `-1.500s`."""
    if abs(seconds) > LONGEST or abs(nanos) >= BILLION or seconds * nanos < 0:
        raise ValueError("is a duration out of range, or of two signs")
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f"{sign}{abs(seconds)}{_fraction(abs(nanos))}s"


def duration_of(text: str) -> tuple[int, int]:
    """Return the seconds and nanoseconds of a duration; both have its sign."""
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise ValueError("is no duration, such as 1.5s")
    seconds, nanos = int(match[2]), _nanos(match[3])
    if seconds > LONGEST:
        raise ValueError(f"is a duration of more than {LONGEST} seconds")
    return (-seconds, -nanos) if match[1] else (seconds, nanos)


def mask_text(paths: list[str]) -> str:
    """Return a field mask as text: its paths in the names of JSON."""
    for path in paths:
        if _SNAKE.fullmatch(path) is None:
            raise ValueError("is a field mask with a path that JSON cannot name")
    return _LETTER.sub(lambda match: match[1].upper(), ",".join(paths))


def mask_of(text: str) -> list[str]:
    """Return the paths of a field mask in the names of the proto file."""
    paths = text.split(",") if text else []
    for path in paths:
        if _PATH.fullmatch(path) is None:
            raise ValueError("is no field mask, such as title,author.lastName")
    return [_CAPITAL.sub(lambda match: f"_{match[0].lower()}", path) for path in paths]
