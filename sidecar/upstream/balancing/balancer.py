"""Load balancer: chooses the endpoint for one attempt.  No I/O, no waiting.

Rules:

1. The strategy chooses among all endpoints as though all were up, which they mostly are.  Only if its choice is not
   usable, or for a further attempt, are all endpoints looked at: those available, not yet tried by this request and
   admitted by their own policies; else the last resort (rule 4); else the tried ones, since the same endpoint again is
   better than none.
2. A second strategy of the same kind chooses among what is left.  Stepping on in a round robin would put the load of an
   endpoint that is out on its neighbour alone.  A third one chooses for further attempts (retries and hedges), which
   are no turns: with two endpoints, of which each request tries both, one would get all first attempts.
3. Panic begins only when no endpoint is available, not at Envoy's half (envoy#28304: ejected hosts get traffic while
   healthy ones are there).  `spray` tries all: when every endpoint looks bad, the check is the likelier culprit, and
   breaker, deadline and retry budget bound the cost.  `fail_fast` refuses.  A breaker's refusal is no reason to panic.
4. Last resort: a request that has failed at every available endpoint, each of which failed its last request, may try
   an ejected one.  In a rolling restart that is often back already.  Its failure lengthens no ejection.
5. Hashing is rendezvous hashing (Thaler and Ravishankar 1998): an endpoint that goes takes only its own keys along.
   CRC-32 with the finalizer of SplitMix64 (Steele, Lea, Flood 2014): Python's hash differs from process to process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import HashBalancingSpec, UpstreamSpec

LOW_64_BITS: Final = 2**64 - 1

Candidates = tuple[Endpoint, ...]
"""Endpoints to choose from, at least one."""


class Strategy:
    """Way to choose one of several endpoints."""

    __slots__ = ()

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        """Return one of the candidates."""
        raise NotImplementedError


class Balancer:
    """Picks endpoints of one upstream.  It holds no state worth keeping: each set of policies makes it anew."""

    __slots__ = (
        "_accepts",
        "_choose",
        "_choose_again",
        "_choose_further",
        "_endpoints",
        "_env",
        "_is_panicking",
        "_panic_picks",
        "_sprays",
    )

    def __init__(
        self,
        endpoints: EndpointSet,
        spec: UpstreamSpec,
        env: Env,
        accepts: Callable[[Endpoint], bool] | None = None,
    ) -> None:
        """`accepts` returns True if an endpoint's own breaker would admit a request; None without such breakers."""
        self._endpoints = endpoints
        self._choose = make_strategy(spec, env)
        self._choose_again = make_strategy(spec, env)  # not the same object: its turns would skip endpoints
        self._choose_further = make_strategy(spec, env)
        self._sprays = spec.panic == "spray"
        self._accepts = accepts
        self._env = env
        self._is_panicking = False
        """True while no endpoint is available."""
        self._panic_picks = env.meter.counter(metrics.PANIC_PICKS, upstream=endpoints.upstream, panic=spec.panic)

    def pick(self, x: Exchange, now: float) -> Endpoint | None:
        """Return an endpoint for this attempt, None if none can take it.  The caller counts it in flight."""
        members = self._endpoints.members
        if members and not x.avoid:
            endpoint = members[0] if len(members) == 1 else self._choose.choose(members, x)
            if endpoint.is_up and (self._accepts is None or self._accepts(endpoint)):
                if self._is_panicking:
                    self._panic(False)
                return endpoint
        return self._pick_from(members, x, now)

    def _pick_from(self, members: Candidates, x: Exchange, now: float) -> Endpoint | None:
        candidates = tuple([endpoint for endpoint in members if endpoint.is_available(now)])
        self._panic(bool(members) and not candidates)
        if self._is_panicking:
            self._panic_picks.value += 1
            if self._sprays:
                candidates = members
        if self._accepts is not None:
            candidates = tuple([endpoint for endpoint in candidates if self._accepts(endpoint)])
        if not candidates:
            return None
        if x.avoid:
            candidates = _untried(candidates, x) or self._last_resort(members, candidates, x) or candidates
            endpoint = self._choose_further.choose(candidates, x)
        else:
            endpoint = self._choose_again.choose(candidates, x)
        if 0 < endpoint.ejected_until <= now and not self._is_panicking:
            endpoint.begin_trial(now)
        return endpoint

    def _last_resort(self, members: Candidates, tried: Candidates, x: Exchange) -> Candidates:
        if not all(endpoint.failures for endpoint in tried):
            return ()
        untried = _untried(members, x)
        return tuple([e for e in untried if e.is_healthy and (self._accepts is None or self._accepts(e))])

    def _panic(self, is_panicking: bool) -> None:
        if is_panicking != self._is_panicking:
            self._is_panicking = is_panicking
            self._env.emit(
                events.ENDPOINT_PANIC,
                upstream=self._endpoints.upstream,
                panics=is_panicking,
                panic="spray" if self._sprays else "fail_fast",
            )


def _untried(endpoints: Candidates, x: Exchange) -> Candidates:
    return tuple([endpoint for endpoint in endpoints if endpoint.key not in x.avoid])


def make_strategy(spec: UpstreamSpec, env: Env) -> Strategy:
    """Return a new strategy of the kind that the policy names."""
    if isinstance(spec.load_balancing, HashBalancingSpec):
        return Rendezvous(spec.load_balancing.hash.header, env)
    if spec.load_balancing == "round_robin":
        return RoundRobin(env)
    return RandomChoice(env) if spec.load_balancing == "random" else LeastRequest(env)


class RoundRobin(Strategy):
    """Each endpoint in turn, from a random start, so that sidecars started together are not in step."""

    __slots__ = ("_turn",)

    def __init__(self, env: Env) -> None:
        self._turn = int(env.rng.random() * 1000)

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        self._turn += 1
        return candidates[self._turn % len(candidates)]


class RandomChoice(Strategy):
    """Any endpoint, each equally likely."""

    __slots__ = ("_draw",)

    def __init__(self, env: Env) -> None:
        self._draw = env.rng.random

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        return candidates[int(self._draw() * len(candidates))]


class LeastRequest(Strategy):
    """The endpoint with fewer requests in flight of two drawn at random; the first drawn if they are equal."""

    __slots__ = ("_draw",)

    def __init__(self, env: Env) -> None:
        self._draw = env.rng.random

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        size = len(candidates)
        if size == 1:
            return candidates[0]
        at = self._draw() * size
        index = int(at)
        other = int((at - index) * (size - 1))  # the fraction is a second draw: one call instead of two
        first = candidates[index]
        second = candidates[other if other < index else other + 1]
        if second.in_flight < first.in_flight and second.is_up:
            return second
        return first


class Rendezvous(Strategy):
    """The endpoint with the highest score for a key; a request without a key goes to the less busy of two."""

    __slots__ = ("_header", "_keyless")

    def __init__(self, header: str | None, env: Env) -> None:
        """`header` names the field whose value is the key; None for the client's address."""
        self._header = None if header is None else header.lower().encode()
        self._keyless = LeastRequest(env)

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        key = x.client_address.encode() if self._header is None else x.header(self._header)
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
