"""Selection of requests for the cache: those that `when` selects, and all unsafe ones, which always invalidate."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.exchange import SAFE_METHODS, Exchange

Selects = Callable[[Exchange], bool]
"""Function that returns True for a request that the cache handles."""


def selection(when: str | None) -> Selects | None:
    """Return the selection by a condition; None without a condition, which selects all requests."""
    if when is None:
        return None
    from sidecar.expression.condition import Condition
    from sidecar.expression.facts import REQUEST

    holds = Condition(when, REQUEST).holds
    return lambda x: x.method not in SAFE_METHODS or holds(x)
