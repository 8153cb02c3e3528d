"""Selection of requests for the cache: those that `when` selects, and all unsafe ones, which always invalidate."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.exchange import SAFE_METHODS, Exchange

Selects = Callable[[Exchange], bool]
"""Function that returns True for a request that the cache handles."""


def selection(when: str | None, *, has_callers: bool = False) -> Selects | None:
    """Return the selection by a condition; None if all requests are selected, as without a condition.

    `has_callers`: True on a route with `authenticate`, where a request whose credentials were refused in
    `mode: observe` passes by the cache.
    """
    if when is None:
        return _is_verified if has_callers else None
    from sidecar.expression.condition import Condition
    from sidecar.expression.facts import REQUEST

    holds = Condition(when, REQUEST).holds
    if has_callers:
        return lambda x: x.method not in SAFE_METHODS or (not x.is_unverified and holds(x))
    return lambda x: x.method not in SAFE_METHODS or holds(x)


def _is_verified(x: Exchange) -> bool:
    return x.method not in SAFE_METHODS or not x.is_unverified
