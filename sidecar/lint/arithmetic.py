"""Formulas that rules compute with: binomial tails, Erlang's loss formula, Little's law, and numbers as text.

All functions are pure.  Times are in seconds, rates per second.
"""

from __future__ import annotations

from math import ceil, exp, inf, isinf, lgamma, log, log1p
from typing import Final

_NEGLIGIBLE: Final = 1e-12
"""Share of the sum so far below which further terms of a series are left out."""


def binomial_tail(calls: int, probability: float, least: int) -> float:
    """Return the probability that at least `least` of `calls` independent calls fail."""
    if least <= 0:
        return 1.0
    if least > calls or probability <= 0:
        return 0.0
    if probability >= 1:
        return 1.0
    if least < calls * probability:  # the complement is the smaller sum, and its first term does not vanish
        return 1.0 - binomial_tail(calls, 1.0 - probability, calls - least + 1)
    odds = log(probability) - log1p(-probability)
    term = exp(
        lgamma(calls + 1) - lgamma(least + 1) - lgamma(calls - least + 1) + least * odds + calls * log1p(-probability)
    )
    total = 0.0
    for failed in range(least, calls + 1):
        total += term
        term *= (calls - failed) / (failed + 1) * probability / (1 - probability)
        if term < total * _NEGLIGIBLE:
            break
    return min(total, 1.0)


def failures_that_trip(calls: int, rate: float) -> int:
    """Return the least number of failures among `calls` that reaches a failure rate."""
    return max(1, ceil(calls * rate - 1e-9))


def erlang_loss(load: float, permits: int) -> float:
    """Return the share of requests that find all permits taken (Erlang B); `load` is rate times latency."""
    blocked = 1.0
    for count in range(1, permits + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked


def in_flight(rate: float, latency: float) -> float:
    """Return the mean number of requests in flight (Little's law)."""
    return rate * latency


def seconds(value: float) -> str:
    """Return a duration as text, such as `250ms`, `1.5s`, `20min`; `no limit` for infinity."""
    if isinf(value):
        return "no limit"
    if 0 < value < 1:
        return f"{value * 1000:.3g}ms"
    return f"{value:.4g}s" if value < 600 else f"{value / 60:.3g}min" if value < 7200 else f"{value / 3600:.3g}h"


def number(value: float) -> str:
    """Return a number as text with three significant digits at most, without an exponent above one."""
    if value == inf:
        return "any number"
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share as text, such as `2.5%`; small ones keep two digits."""
    return f"{share * 100:.3g}%"


def times(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 call` or `3 calls`."""
    return f"{count} {noun}{'s' * (count != 1)}"
