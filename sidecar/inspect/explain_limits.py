"""Text on the rate limits and quotas of a request: each with the key of the request, and the scope of its count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.control.compiler import ROUTE
from sidecar.control.route import Link, Route
from sidecar.core.exchange import Exchange
from sidecar.core.units import as_written
from sidecar.inspect.effective import flow
from sidecar.limits.keys import cost_reader, key_reader
from sidecar.limits.spec import ADDRESS, AnswerSize, fixed_cost, plain
from sidecar.stages.quota.spec import QuotaSpec
from sidecar.stages.quota.spec import Spec as Quotas
from sidecar.stages.rate_limit.spec import LimitSpec, Spec

AWAY: Final = {
    "process": "a fair share in each process",
    "allow": "everything passes",
    "deny": "everything is refused",
}
"""Words for what holds without the store of a rate limit."""
QUOTA_AWAY: Final = {
    "process": "a share of what was left in each process",
    "allow": "everything passes",
    "deny": "what this process has not leased is refused",
}
"""Words for what holds without the store of a quota."""


def limit_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on the rate limits of a request; None without a limit."""
    found: dict[tuple[str, str], str] = {}
    for link in route.chain:
        if isinstance(link.block, Spec):
            owner = _owner_of(link, route)
            for limit in link.block.limits:
                observed = limit.mode == "observe" or not link.block.is_enforced
                found[(link.scope, limit.name)] = "; ".join(_parts(limit, x, owner, observed))
    return list(found.values()) or None


def quota_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on the quotas of a request; None without a quota."""
    found = []
    for link in route.chain:
        if isinstance(link.block, Quotas):
            owner = _owner_of(link, route)
            for quota in link.block.quotas:
                observed = quota.mode == "observe" or not link.block.is_enforced
                found.append("; ".join(_quota_parts(quota, x, owner, observed)))
    return found or None


def _owner_of(link: Link, route: Route) -> str:
    return f"the route {route.name}" if link.scope == ROUTE else f"the upstream {route.upstream}"


def _parts(limit: LimitSpec, x: Exchange, owner: str, observed: bool) -> Iterator[str]:
    """Yield the parts of the sentence on one limit."""
    scope = "in this sidecar" if limit.store is None else f"in all processes that share the store {limit.store}"
    yield f"{limit.name}: {limit.words}, for {owner} {scope}"
    yield _key(limit, x)
    yield from _cost(limit.cost, float(limit.capacity), x)
    if limit.count == "misses":
        yield "only what the cache does not answer counts"
    if limit.store is not None:
        yield f"while the store is away: {AWAY[limit.on_store_failure]}"
    if limit.delay is not None:
        yield f"a request over the limit waits for up to {as_written('1s', limit.delay.max)}"
    if observed:
        yield "nothing is refused: mode is observe"


def _quota_parts(quota: QuotaSpec, x: Exchange, owner: str, observed: bool) -> Iterator[str]:
    """Yield the parts of the sentence on one quota."""
    scope = "in this process until it ends" if quota.store is None else f"counted in the store {quota.store}"
    yield f"{quota.name}: {quota.words}, for {owner}, {scope}"
    yield _key(quota, x)
    yield from _cost(quota.cost, float(quota.max), x)
    if quota.store is not None:
        yield f"while the store is away: {QUOTA_AWAY[quota.on_store_failure]}"
    if observed:
        yield "nothing is refused: mode is observe"


def _cost(spec: int | float | str | AnswerSize, most: float, x: Exchange) -> Iterator[str]:
    """Yield the part on a request that counts as more or less than one."""
    if isinstance(spec, AnswerSize):
        yield f"the request counts as one, or as one for each {spec.words} of its answer's body"
        return
    read = cost_reader(spec, most)
    cost = fixed_cost(spec) if read is None else read(x)
    if cost != 1:
        yield f"the request counts as {plain(cost)}"


def _key(limit: LimitSpec | QuotaSpec, x: Exchange) -> str:
    """Return the part on the key of the request."""
    if not limit.is_keyed:
        return "all requests count together"
    unknown = "without a token or a key of a caller, " if limit.needs_callers and x.caller is None else ""
    for key in (limit.key, limit.otherwise):
        value = key_reader(limit.model_copy(update={"key": key, "otherwise": "none"}))(x)
        if key == ADDRESS and not value:
            return f"{unknown}the key is the address of the client ({ADDRESS})"
        if value:
            return f"{unknown}the key is {flow(value)} ({key})"
    if unknown:
        return f"{unknown}the request counts together with all others that have none"
    return f"the request has no {limit.key}, and counts together with all others that have none"
