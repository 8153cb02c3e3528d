"""Load balancer: chooses the endpoint for one attempt, without I/O or waiting.

Rules (`docs/design/load-balancing.md` has the reasons):

1. For a first attempt the strategy chooses among all endpoints, since usually all are up.  If its choice is not up, and
   for further attempts, it chooses among those that are available, admitted by their breakers, and not yet tried.
   Without such an endpoint, the last resort applies (rule 4), then the endpoints already tried.
2. These choices use a second strategy object, retries and hedges a third one.
3. Panic begins when no endpoint is available: `spray` then uses all endpoints, `fail_fast` refuses.
4. Last resort: if a request has failed at every available endpoint, and each of these has failed its last request, the
   request may try an ejected one.
5. Hashing is rendezvous hashing (Thaler and Ravishankar 1998): if an endpoint is removed, only its own keys move.
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
    """Base of the strategies of load balancing."""

    __slots__ = ()

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        """Return one of the candidates."""
        raise NotImplementedError


class Balancer:
    """Load balancer of one upstream; each set of policies has its own."""

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
        """Take `accepts`, which returns True if an endpoint's own breaker would admit a request; None without such
        breakers."""
        self._endpoints = endpoints
        self._choose = make_strategy(spec, env)
        self._choose_again = make_strategy(spec, env)
        self._choose_further = make_strategy(spec, env)
        self._sprays = spec.panic == "spray"
        self._accepts = accepts
        self._env = env
        self._is_panicking = False
        """True while no endpoint is available."""
        self._panic_picks = env.meter.counter(metrics.PANIC_PICKS, upstream=endpoints.upstream, panic=spec.panic)

    def pick(self, x: Exchange, now: float) -> Endpoint | None:
        """Return an endpoint for this attempt; None if none can take it.  The caller updates `in_flight`."""
        members = self._endpoints.members
        if members and not x.avoid:
            endpoint = members[0] if len(members) == 1 else self._choose.choose(members, x)
            if endpoint.is_up and (self._accepts is None or self._accepts(endpoint)):
                if self._is_panicking:
                    self._panic(False)
                return endpoint
        return self._pick_from(members, x, now)

    def _pick_from(self, members: Candidates, x: Exchange, now: float) -> Endpoint | None:
        """Return an endpoint for an attempt whose first choice is not up, or for a further attempt."""
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
            told = self._endpoints.trial_begun
            if told is not None:
                told(endpoint)
        return endpoint

    def _last_resort(self, members: Candidates, tried: Candidates, x: Exchange) -> Candidates:
        """Return the ejected endpoints that the request may try; none unless all `tried` ones are failing."""
        if not all(endpoint.failures for endpoint in tried):
            return ()
        untried = _untried(members, x)
        return tuple([e for e in untried if e.is_healthy and (self._accepts is None or self._accepts(e))])

    def _panic(self, is_panicking: bool) -> None:
        """Begin or end panic, and log the change."""
        if is_panicking != self._is_panicking:
            self._is_panicking = is_panicking
            self._env.emit(
                events.ENDPOINT_PANIC,
                upstream=self._endpoints.upstream,
                panics=is_panicking,
                panic="spray" if self._sprays else "fail_fast",
            )


def _untried(endpoints: Candidates, x: Exchange) -> Candidates:
    """Return the endpoints that the request has not yet tried."""
    return tuple([endpoint for endpoint in endpoints if endpoint.key not in x.avoid])


def make_strategy(spec: UpstreamSpec, env: Env) -> Strategy:
    """Return a new strategy of the kind in the spec."""
    if isinstance(spec.load_balancing, HashBalancingSpec):
        return Rendezvous(spec.load_balancing.hash.header, env, by_caller=spec.load_balancing.hash.caller)
    if spec.load_balancing == "round_robin":
        return RoundRobin(env)
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
        self._keyless = LeastRequest(env)

    def choose(self, candidates: Candidates, x: Exchange) -> Endpoint:
        key: bytes | None
        if self._by_caller:
            key = None if x.caller is None else f"{x.caller.identity} {x.caller.id}".encode()
        else:
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
