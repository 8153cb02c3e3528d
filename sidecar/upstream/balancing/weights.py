"""Strategies of load balancing for endpoints with weights and zones; without those, `strategies` alone is in use.

Listed endpoints, those of SRV records and those of a file have weights, and so have zones with shares.

Rules:

1. In the long run endpoints get requests in proportion to their weights.  `round_robin` spreads them evenly over time
   (nginx's smooth weighted round robin).  `least_request` and `latency` draw two endpoints by weight and take the one
   with fewer requests in flight for its weight, or with the lower cost, to which requests in flight add by weight.
   Where zones have shares, both are of one zone.
2. Hashing by weight is weighted rendezvous hashing (Schindelhauer and Schomaker 2005, the logarithmic method): a
   changed weight moves only keys of that endpoint.
3. A zone gets all requests while `spill_below` of its endpoints are up.  With fewer up, its share falls in proportion.
   A retry finds an untried endpoint of another zone only if the own zone has none, or by that share.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Final
from zlib import crc32

from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.upstream.balancing.strategies import LOW_64_BITS, Candidates, Rendezvous, Strategy, cost
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import HashBalancingSpec, UpstreamSpec

MOST_TURNS: Final = 20_000
"""Most endpoints whose place in the turn is remembered; twice as many as an upstream may have."""


def make(
    spec: UpstreamSpec, env: Env, endpoints: EndpointSet, make_plain: Callable[[UpstreamSpec, Env], Strategy]
) -> Strategy:
    """Return a strategy for weights or zones; `make_plain` makes one for endpoints of equal weight."""
    locality = spec.locality
    has_shares = locality is not None and bool(locality.shares)

    def make_one() -> Strategy:
        if not spec.may_have_weights:
            return make_plain(spec, env)
        if has_shares:
            return make_weighted()
        return ByWeight(make_plain(spec, env), make_weighted(), endpoints)

    def make_weighted() -> Strategy:
        if isinstance(spec.load_balancing, HashBalancingSpec):
            key = spec.load_balancing.hash
            return WeightedRendezvous(key.header, env, by_caller=key.caller)
        if spec.load_balancing == "round_robin":
            return SmoothRoundRobin()
        return WeightedChoice(spec.load_balancing, env, has_shares)

    if locality is None or locality.zone is None:
        return make_one()
    return Nearest(make_one(), make_one(), locality.zone, locality.spill_below, endpoints, env)


class ByWeight(Strategy):
    """Strategy that chooses by weight while weights differ; equal ones need no sums."""

    __slots__ = ("_endpoints", "_plain", "_weighted")

    def __init__(self, plain: Strategy, weighted: Strategy, endpoints: EndpointSet) -> None:
        self._plain = plain
        self._weighted = weighted
        self._endpoints = endpoints

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        return (self._weighted if self._endpoints.is_weighted else self._plain).choose(candidates, x)


class SmoothRoundRobin(Strategy):
    """Strategy that takes the endpoints in turn, each as often as its weight says."""

    __slots__ = ("_credits",)

    def __init__(self) -> None:
        self._credits: dict[str, int] = {}

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        credits = self._credits
        if len(credits) > MOST_TURNS:
            credits.clear()
        total, most, best = 0, 0, candidates[0]
        for number, endpoint in enumerate(candidates):
            total += endpoint.weight
            credit = credits[endpoint.key] = credits.get(endpoint.key, 0) + endpoint.weight
            if not number or credit > most:
                most, best = credit, endpoint
        credits[best.key] -= total
        return best


class WeightedChoice(Strategy):
    """Strategy that draws by weight: one endpoint (`random`), or the better of two."""

    __slots__ = ("_draw", "_is_single", "_now", "_sees_latency", "_within_zone")

    def __init__(self, kind: str, env: Env, within_zone: bool = False) -> None:
        """`within_zone`: True to choose between endpoints of one zone alone, so that the first draw decides on it."""
        self._within_zone = within_zone
        self._draw = env.rng.random
        self._now = env.now
        self._is_single = kind == "random"
        self._sees_latency = kind == "latency"

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        first = self._draw_by_weight(candidates)
        if self._is_single or len(candidates) == 1:
            return first
        others = tuple([e for e in candidates if e is not first and (not self._within_zone or e.zone == first.zone)])
        if not others:
            return first
        second = self._draw_by_weight(others)
        if not second.is_up:
            return first
        if self._sees_latency:
            now = self._now()
            is_better = cost(second, now, second.weight) < cost(first, now, first.weight)
        else:
            is_better = second.in_flight * first.weight < first.in_flight * second.weight
        return second if is_better or not first.is_up else first

    def _draw_by_weight(self, candidates: Candidates) -> Endpoint:
        point = self._draw() * sum([endpoint.weight for endpoint in candidates])
        for endpoint in candidates:
            point -= endpoint.weight
            if point < 0:
                return endpoint
        return candidates[-1]


class WeightedRendezvous(Rendezvous):
    """Strategy that takes the endpoint with the highest score for a key, weighted; without a key, one by weight."""

    __slots__ = ()

    def __init__(self, header: str | None, env: Env, *, by_caller: bool = False) -> None:
        super().__init__(header, env, by_caller=by_caller)
        self._keyless = WeightedChoice("least_request", env)

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        key = self._key(x)
        if not key:
            return self._keyless.choose(candidates, x)
        hashed = crc32(key)
        best, least = candidates[0], -1.0
        for endpoint in candidates:
            score = (hashed ^ endpoint.seed) * 0xBF58476D1CE4E5B9 & LOW_64_BITS
            score = (score ^ score >> 27) * 0x94D049BB133111EB & LOW_64_BITS
            distance = -log(((score >> 11) + 1) / 2.0**53) / endpoint.weight
            if least < 0 or distance < least:
                best, least = endpoint, distance
        return best


class Nearest(Strategy):
    """Strategy that prefers the endpoints of one zone."""

    __slots__ = ("_draw", "_endpoints", "_far", "_near", "_spill_below", "_zone")

    def __init__(
        self, near: Strategy, far: Strategy, zone: str, spill_below: float, endpoints: EndpointSet, env: Env
    ) -> None:
        """Take the strategies within the zone and outside of it, and the set whose endpoints count."""
        self._near = near
        self._far = far
        self._zone = zone
        self._spill_below = spill_below
        self._endpoints = endpoints
        self._draw = env.rng.random

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        zone = self._zone
        near = tuple([endpoint for endpoint in candidates if endpoint.zone == zone])
        if not near or len(near) == len(candidates):
            return self._far.choose(candidates, x)
        share = self.share()
        if share >= 1 or self._draw() < share:
            return self._near.choose(tuple([endpoint for endpoint in near if endpoint.is_up]) or near, x)
        far = tuple([endpoint for endpoint in candidates if endpoint.zone != zone])
        return self._far.choose(tuple([endpoint for endpoint in far if endpoint.is_up]) or far, x)

    def share(self) -> float:
        """Return the share of the requests that the zone gets at this instant."""
        up = all_of_zone = 0
        for endpoint in self._endpoints.members:
            if endpoint.zone == self._zone:
                all_of_zone += 1
                up += endpoint.is_up
        return up / all_of_zone / self._spill_below if all_of_zone else 0.0
