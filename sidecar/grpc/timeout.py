"""The field `grpc-timeout`: a number of at most eight digits and a unit (gRPC over HTTP/2, "Requests")."""

from __future__ import annotations

from typing import Final

UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
"""Number of seconds in each unit."""
MOST: Final = 99_999_999
"""Largest number that the field has room for."""
FINE: Final = 0.01
"""Seconds below which milliseconds are too coarse."""


def parse_timeout(value: bytes) -> float | None:
    """Return the seconds of a `grpc-timeout`; None if it is invalid."""
    digits, unit = value[:-1], UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        return None
    return int(digits) * unit


def format_timeout(seconds: float) -> bytes:
    """Return the value for a number of seconds, rounded down: in microseconds if it is short, else in milliseconds or
    seconds.

    It is never zero: a timeout of zero ends a call before it begins.
    """
    if seconds < FINE:
        return b"%du" % max(1, int(seconds * 1e6))
    milliseconds = int(seconds * 1000)
    if milliseconds <= MOST:
        return b"%dm" % milliseconds
    return b"%dS" % min(milliseconds // 1000, MOST)
