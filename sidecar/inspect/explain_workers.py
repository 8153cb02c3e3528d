"""Scope of each limit and state of a route, for `sidecar explain`: one process, all workers, or a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sidecar.control.route import Route
from sidecar.core.spec import Block
from sidecar.inspect.documents import SharedBy

EACH: Final = "each worker has its own"


class LimitScope(NamedTuple):
    """Scope of one limit, or of another state."""

    policy: str
    """Name of its block."""
    name: str | None
    """Name of the limit within the block; None for a block with one."""
    shared_by: SharedBy
    """Processes that share it."""
    text: str
    """Words for it with several workers."""


def scopes(route: Route, workers: int) -> list[LimitScope]:
    """Return the scopes of the limits of a route, and of its upstream's states, from the outside in."""
    found = [each for link in route.chain for each in _scopes(link.policy, link.block, workers)]
    found += [
        LimitScope("retry_budget", None, "workers", "one for all workers"),
        LimitScope("ejection", None, "workers", "told to all workers"),
        LimitScope("health_check", None, "workers", "told to all workers; one of them probes"),
        LimitScope("connections", None, "process", f"{EACH} pool, with the limit `max`"),
    ]
    return list(dict.fromkeys(found))


def worker_sentences(route: Route, workers: int) -> list[str] | None:
    """Return what holds over all workers together; None for a sidecar of one process."""
    if workers == 1:
        return None
    found = [f"{workers} workers serve; a connection stays with one of them"]
    for policy, name, _, text in scopes(route, workers):
        found.append(f"{policy}: {text}" if name is None else f"{policy}: `{name}` {text}")
    return found


def _scopes(policy: str, block: Block, workers: int) -> Iterator[LimitScope]:
    """Yield the scopes of one block."""
    facts: Any = block
    if policy == "concurrency" and facts.adaptive is not None:
        yield LimitScope(policy, None, "process", f"{EACH} adaptive limit")
    elif policy == "concurrency":
        yield LimitScope(policy, None, "workers", f"one limit for all workers; a queue has {workers} even parts")
    elif policy == "rate_limit":
        for limit in facts.limits:
            if limit.store is not None:
                yield LimitScope(policy, limit.name, "fleet", f"has one count {_fleet(limit.store)}")
            elif limit.delay is not None:
                text = f"is divided into {workers} even parts, since it has a `delay`"
                yield LimitScope(policy, limit.name, "process", text)
            else:
                yield LimitScope(policy, limit.name, "workers", "has one count for all workers")
    elif policy == "quota":
        for quota in facts.quotas:
            if quota.store is not None:
                yield LimitScope(policy, quota.name, "fleet", f"has one count {_fleet(quota.store)}")
            else:
                text = f"is counted in each of {workers} workers, since it has no `store`"
                yield LimitScope(policy, quota.name, "process", text)
    elif policy == "circuit_breaker":
        text = "each worker counts for itself; what one opens or closes is told to all"
        yield LimitScope(policy, None, "workers", text)
    elif policy == "throttle":
        yield LimitScope(policy, None, "process", f"{EACH} counts")
    elif policy == "pacing":
        yield LimitScope(policy, None, "process", f"{EACH} rate")
    elif policy == "cache":
        yield LimitScope(policy, None, "process", f"{EACH} memory; entries in Redis are shared")


def _fleet(store: str) -> str:
    return f"for all processes that share `{store}`"
