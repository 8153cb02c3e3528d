"""Which requests the cache is for: what `when` selects, and all unsafe ones, since those always invalidate."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.exchange import SAFE_METHODS, Exchange

Selects = Callable[[Exchange], bool]
"""True for a request that the cache is for."""


def selection(when: str | None) -> Selects:
    """Return the selection by a condition; by None, that of all requests."""
    if when is None:
        return _all
    from sidecar.expression.condition import Condition
    from sidecar.expression.facts import REQUEST

    holds = Condition(when, REQUEST).holds
    return lambda x: x.method not in SAFE_METHODS or holds(x)


def _all(_: Exchange) -> bool:
    return True
