"""Scope of each limit of a route under several workers, for `sidecar explain`."""

from __future__ import annotations

from typing import Any, Final

from sidecar.control.route import Route
from sidecar.core.spec import Block

EACH: Final = "each worker has its own"
TOLD: Final = "each worker counts for itself; what one opens or closes is told to all"
SCOPES: Final = {
    "circuit_breaker": TOLD,
    "throttle": f"{EACH} counts",
    "cache": f"{EACH} memory; entries in Redis are shared",
}
"""Sentences about blocks with one scope, by the name of the block."""


def worker_sentences(route: Route, workers: int) -> list[str] | None:
    """Return what holds over all workers together; None for a sidecar of one process."""
    if workers == 1:
        return None
    found = [f"{workers} workers serve; a connection stays with one of them"]
    for link in route.chain:
        found += [f"{link.policy}: {sentence}" for sentence in _scopes(link.policy, link.block, workers)]
    found += [
        "retry_budget: one for all workers",
        "ejection, health_check: told to all workers; one of them probes",
        f"connections: {EACH} pool, with the limit `max`",
    ]
    return list(dict.fromkeys(found))


def _scopes(policy: str, block: Block, workers: int) -> list[str]:
    """Return the sentences about one block."""
    facts: Any = block
    if policy == "concurrency":
        return [f"{EACH} adaptive limit" if facts.adaptive is not None else "one limit for all workers"]
    if policy == "rate_limit":
        return [f"`{limit.name}` {_rate_scope(limit, workers)}" for limit in facts.limits]
    return [SCOPES[policy]] if policy in SCOPES else []


def _rate_scope(limit: Any, workers: int) -> str:
    if limit.store is not None:
        return f"has one count for all processes that share `{limit.store}`"
    if limit.delay is not None:
        return f"is divided into {workers} even parts, since it has a `delay`"
    return "has one count for all workers"
