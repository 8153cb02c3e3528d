"""Durations, shares and names of other formats, as policy files write them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

SECONDS: Final = {
    "ns": Fraction(1, 10**9), "us": Fraction(1, 10**6), "µs": Fraction(1, 10**6), "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600), "d": Fraction(86400),
    "w": Fraction(7 * 86400), "M": Fraction(30 * 86400), "y": Fraction(365 * 86400),
}  # fmt: skip
PIECE: Final = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?)(ns|us|µs|μs|ms|s|m|h|d|w|M|y)?")
UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


def seconds(text: str, unit: str = "") -> Fraction | None:
    """Return a duration such as `1m30s` or `0.25s` in seconds; None if the text is none.

    `unit` is that of a number without one; empty if a number needs its unit.
    """
    total, at = Fraction(0), 0
    text = text.strip()
    while at < len(text):
        match = PIECE.match(text, at)
        if match is None or not (match[2] or unit):
            return None
        total += Fraction(match[1]) * SECONDS[match[2] or unit]
        at = match.end()
    return total if text else None


def duration(value: Fraction) -> str:
    """Return a duration in seconds as a policy file writes it: `250ms`, `15s`."""
    for name, size in (("s", Fraction(1)), ("ms", Fraction(1, 1000))):
        if (value / size).denominator == 1:
            return f"{value / size}{name}"
    return f"{max(1, round(value * 10**6))}us"


def rate(per_second: Fraction) -> str:
    """Return a rate as a policy file writes it: `100/s`, `5/m`, `0.5/h`; one out of its bounds as the nearest bound."""
    per_second = min(per_second, Fraction(10**9))
    for unit, size in (("s", 1), ("m", 60), ("h", 3600)):
        if (per_second * size).denominator == 1:
            return f"{per_second * size}/{unit}"
    whole, rest = divmod(max(1, round(per_second * 3600 * 1000)), 1000)
    return f"{whole}.{rest:03}".rstrip("0").rstrip(".") + "/h"


def shares(weights: list[int]) -> list[str]:
    """Return weights as shares of 100% in all; each weight is at least 1."""
    total = sum(weights)
    parts = [round(Fraction(each * 10**6, total)) for each in weights]
    parts[0] += 10**6 - sum(parts)
    return [_share(each) for each in parts]


def _share(millionths: int) -> str:
    whole, rest = divmod(millionths, 10**4)
    return f"{whole}.{rest:04}".rstrip("0").rstrip(".") + "%"


def share(value: Fraction) -> str:
    """Return a share between 0 and 1 as a policy file writes it: `12.5%`."""
    return _share(round(value * 10**6))


def safe_name(text: str) -> str:
    """Return a text as the name of a route or an upstream."""
    return UNSAFE.sub("-", text).strip("-")[:60].strip("-") or "all"


def literal(text: str) -> str:
    """Return a text as a template that renders to the text itself."""
    return text.replace("{", "{{").replace("}", "}}")
