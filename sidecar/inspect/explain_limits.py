"""Text on the rate limits of one request: each limit, the key that the request has, and the scope of the count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.control.compiler import ROUTE
from sidecar.control.route import Route
from sidecar.core.exchange import Exchange
from sidecar.inspect.effective import flow
from sidecar.stages.rate_limit.keys import cost_reader, key_reader
from sidecar.stages.rate_limit.spec import ADDRESS, LimitSpec, Spec

RATE_LIMIT: Final = "rate_limit"
AWAY: Final = {
    "process": "a fair share in each process",
    "allow": "everything passes",
    "deny": "everything is refused",
}
"""Words for what holds without the store."""


def limit_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on the rate limits of a request; None without a limit."""
    found: dict[tuple[str, str], str] = {}
    for link in route.chain:
        if isinstance(link.block, Spec):
            owner = f"the route {route.name}" if link.scope == ROUTE else f"the upstream {route.upstream}"
            for limit in link.block.limits:
                observed = limit.mode == "observe" or not link.block.is_enforced
                found[(link.scope, limit.name)] = "; ".join(_parts(limit, x, owner, observed))
    return list(found.values()) or None


def _parts(limit: LimitSpec, x: Exchange, owner: str, observed: bool) -> Iterator[str]:
    """Yield the parts of the sentence on one limit."""
    scope = "in this sidecar" if limit.store is None else f"in all processes that share the store {limit.store}"
    yield f"{limit.name}: {limit.words}, for {owner} {scope}"
    yield _key(limit, x)
    read = cost_reader(limit)
    cost = limit.cost if read is None else read(x)
    if cost != 1:
        yield f"the request counts as {cost:g}"
    if limit.count == "misses":
        yield "only what the cache does not answer counts"
    if limit.store is not None:
        yield f"while the store is away: {AWAY[limit.on_store_failure]}"
    if limit.delay is not None:
        yield f"a request over the limit waits for up to {limit.delay.max:g}s"
    if observed:
        yield "nothing is refused: mode is observe"


def _key(limit: LimitSpec, x: Exchange) -> str:
    """Return the part on the key of the request."""
    if not limit.is_keyed:
        return "all requests count together"
    for key in (limit.key, limit.otherwise):
        value = key_reader(limit.model_copy(update={"key": key, "otherwise": "none"}))(x)
        if key == ADDRESS and not value:
            return f"the key is the address of the client ({ADDRESS})"
        if value:
            return f"the key is {flow(value)} ({key})"
    return f"the request has no {limit.key}, and counts together with all others that have none"
