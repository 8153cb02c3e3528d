"""Strategies of load balancing: each chooses one of several endpoints.

Rules:

1. Hashing is rendezvous hashing (Thaler and Ravishankar 1998): if an endpoint is removed, only its own keys move.
2. `latency` is peak EWMA, as in Finagle and Linkerd: an endpoint's cost is its latency times the requests in flight.  A
   slower response replaces the average at once, a quicker one lowers it over `DECAY` seconds, as does time alone.
3. A failed attempt, a 5xx and a sign of pressure count as a response that took `PENALTY` times the average: an endpoint
   that fails quickly must not attract requests.
4. `slow_start` gives an endpoint that has just come up a growing share of the requests that it would get.
"""

from __future__ import annotations

from math import exp
from typing import Final
from zlib import crc32

from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.upstream.balancing.pressure import is_pressure
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import HashBalancingSpec, UpstreamSpec

LOW_64_BITS: Final = 2**64 - 1
DECAY: Final = 10.0
"""Time constant of the average latency, in seconds (Finagle's `decayTime`: 10 s)."""
PENALTY: Final = 4.0
"""Factor by which a failed attempt raises the average."""
SHORTEST: Final = 0.001
"""Least latency in seconds that a failed attempt multiplies."""
LONGEST_PENALTY: Final = 1.0
"""Most seconds for which a quick failure counts: time halves the average every 7 seconds, so more would keep an
endpoint out for minutes."""
UNKNOWN: Final = 1e6
"""Cost of an endpoint with requests in flight whose latency is not known yet: one request finds it out."""
LEAST_SHARE: Final = 0.1
"""Share with which an endpoint begins its slow start (Envoy's `min_weight_percent`: 10 %)."""

Candidates = tuple[Endpoint, ...]
"""Endpoints to choose from, at least one."""


class Strategy:
    """Base of the strategies of load balancing."""

    __slots__ = ()

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        """Return one of the candidates."""
        raise NotImplementedError


def make_strategy(spec: UpstreamSpec, env: Env, endpoints: EndpointSet) -> Strategy:
    """Return a new strategy of the kind in the spec, for the endpoints of a set."""
    strategy = _make_one(spec, env, endpoints)
    if not spec.slow_start:
        return strategy
    return SlowStart(strategy, _make_one(spec, env, endpoints), spec.slow_start, env)


def _make_one(spec: UpstreamSpec, env: Env, endpoints: EndpointSet) -> Strategy:
    if spec.locality is not None or spec.may_have_weights:
        from sidecar.upstream.balancing import weights  # only if they are configured

        return weights.make(spec, env, endpoints, _make_kind)
    return _make_kind(spec, env)


def _make_kind(spec: UpstreamSpec, env: Env) -> Strategy:
    if isinstance(spec.load_balancing, HashBalancingSpec):
        return Rendezvous(spec.load_balancing.hash.header, env, by_caller=spec.load_balancing.hash.caller)
    if spec.load_balancing == "round_robin":
        return RoundRobin(env)
    if spec.load_balancing == "latency":
        return PeakEwma(env)
    return RandomChoice(env) if spec.load_balancing == "random" else LeastRequest(env)


class RoundRobin(Strategy):
    """Strategy that takes the endpoints in turn, with a random start so that sidecars do not run in step."""

    __slots__ = ("_turn",)

    def __init__(self, env: Env) -> None:
        self._turn = int(env.rng.random() * 1000)

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        self._turn += 1
        return candidates[self._turn % len(candidates)]


class RandomChoice(Strategy):
    """Strategy that takes a random endpoint; all are equally likely."""

    __slots__ = ("_draw",)

    def __init__(self, env: Env) -> None:
        self._draw = env.rng.random

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        return candidates[int(self._draw() * len(candidates))]


class LeastRequest(Strategy):
    """Strategy that takes the endpoint with fewer requests in flight of two random ones (power of two choices)."""

    __slots__ = ("_draw",)

    def __init__(self, env: Env) -> None:
        self._draw = env.rng.random

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        size = len(candidates)
        if size == 1:
            return candidates[0]
        at = self._draw() * size
        index = int(at)
        other = int((at - index) * (size - 1))  # the fraction is a second random number, which saves a call
        first = candidates[index]
        second = candidates[other if other < index else other + 1]
        if second.in_flight < first.in_flight and second.is_up:
            return second
        return first


class Rendezvous(Strategy):
    """Strategy that takes the endpoint with the highest score for a key; without a key, that of `LeastRequest`."""

    __slots__ = ("_by_caller", "_header", "_keyless")

    def __init__(self, header: str | None, env: Env, *, by_caller: bool = False) -> None:
        """Take the name of the field whose value is the key; None for the client's address, or the caller's ID."""
        self._by_caller = by_caller
        self._header = None if header is None else header.lower().encode()
        self._keyless: Strategy = LeastRequest(env)

    def _key(self, x: Exchange) -> bytes | None:
        """Return the key of a request; None or empty without one."""
        if self._by_caller:
            return None if x.caller is None else f"{x.caller.identity} {x.caller.id}".encode()
        return x.client_address.encode() if self._header is None else x.header(self._header)

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        key = self._key(x)
        if not key:
            return self._keyless.choose(candidates, x)
        hashed = crc32(key)
        best, highest = candidates[0], -1
        for endpoint in candidates:
            score = (hashed ^ endpoint.seed) * 0xBF58476D1CE4E5B9 & LOW_64_BITS
            score = (score ^ score >> 27) * 0x94D049BB133111EB & LOW_64_BITS
            if score > highest:
                best, highest = endpoint, score
        return best


class PeakEwma(Strategy):
    """Strategy that takes the endpoint with the lower cost of two random ones."""

    __slots__ = ("_draw", "_now")

    def __init__(self, env: Env) -> None:
        self._draw = env.rng.random
        self._now = env.now

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        size = len(candidates)
        if size == 1:
            return candidates[0]
        at = self._draw() * size
        index = int(at)
        other = int((at - index) * (size - 1))
        first = candidates[index]
        second = candidates[other if other < index else other + 1]
        if first.is_up and not second.is_up:
            return first
        now = self._now()
        return second if cost(second, now) < cost(first, now) else first


def cost(endpoint: Endpoint, now: float, weight: int = 1) -> float:
    """Return the cost of one more request at an endpoint: seconds of latency times requests in flight.

    At an endpoint with a higher weight each request in flight adds less.  Those that are equally quick and idle cost
    the same, so that the draw by weight decides.
    """
    if not endpoint.latency:
        return UNKNOWN + endpoint.in_flight if endpoint.in_flight else 0.0
    return endpoint.latency * exp((endpoint.measured_at - now) / DECAY) * (endpoint.in_flight / weight + 1)


def observe(endpoint: Endpoint, outcome: Outcome, seconds: float, now: float) -> None:
    """Record in the average the time from the start of an attempt to the head of its response, or to its failure.

    A failure that is not the upstream's own shows only that the response would have taken at least as long.
    """
    weight = exp((endpoint.measured_at - now) / DECAY)
    average = endpoint.latency * weight
    failure = outcome.failure
    if failure is not None and failure.origin != "upstream":
        if seconds <= average:
            return
    elif failure is not None or outcome.verdict >= 500 or is_pressure(outcome):
        seconds = max(seconds, min(LONGEST_PENALTY, PENALTY * max(average, SHORTEST)))
    endpoint.latency = max(seconds, average + (1 - weight) * seconds)
    endpoint.measured_at = now


class SlowStart(Strategy):
    """Strategy that gives endpoints which have just come up fewer requests than another strategy does.

    The others get these by a strategy object of their own: one more step of the same round robin would always come
    before the neighbour of an endpoint that starts.
    """

    __slots__ = ("_draw", "_now", "_seconds", "_strategy", "_strategy_of_others")

    def __init__(self, strategy: Strategy, strategy_of_others: Strategy, seconds: float, env: Env) -> None:
        """Take the length of the slow start."""
        self._strategy = strategy
        self._strategy_of_others = strategy_of_others
        self._seconds = seconds
        self._draw = env.rng.random
        self._now = env.now

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        chosen = self._strategy.choose(candidates, x)
        if chosen.up_since:
            age = self._now() - chosen.up_since
            if age >= self._seconds:
                chosen.up_since = 0.0
            elif self._draw() > max(LEAST_SHARE, age / self._seconds):
                warm = tuple([e for e in candidates if e.is_up and not e.up_since])
                if warm:
                    return self._strategy_of_others.choose(warm, x)
        return chosen
