"""The choice of an endpoint for one attempt.  No I/O, no waiting.

A choice is made in two steps.  The strategy chooses among all endpoints, as though all were up: they mostly are, and
that is all it costs.  Only if its choice will not do is there a look at each of them:

1. those that are up or due for a trial, were not tried before by this request, and admitted by their own policies;
2. where it has tried all of those, and each failed the last request it had, an ejected one that it has not tried;
3. the tried ones: better the same endpoint once more than none;
4. where no endpoint at all is available, what `panic` says.

A second strategy of the same kind then chooses among what is left, so that the load of one that is out goes to all the
others and not to its neighbour, which is what stepping to the next in a round robin would do.

**Panic.**  Envoy leaves its health checks unheeded once less than half of the endpoints are well, which surprised many:
ejected hosts get traffic while healthy ones are there (envoy#28304).  Ours begins only when none is left, is a key of
its own, and is told and counted.  `spray`, the default, tries them all: when every endpoint looks bad at once, the
check itself is the likelier culprit (a wrong path, a probe's network), and refusing all would make that a total outage,
while trying costs nothing that breaker, deadline and retry budget do not bound.  `fail_fast` is for upstreams that
are hurt by every further request.  An endpoint refused by its own breaker is never a reason to panic.

**The last resort** (2) is for the moment in which the last endpoint goes before the others' ejections are over: in a
rolling restart they are often back already, and a retry that asks the one that has just refused it cannot but fail.
It costs an ejected endpoint no more than the retry budget allows, is no trial (its failure makes no ejection longer),
and where it succeeds the endpoint is back at once.

**Hashing** is rendezvous hashing (Thaler and Ravishankar 1998): the endpoint with the highest score for the key wins.
One that goes takes only its own keys with it, to all the others.  CRC-32 with the finalizer of SplitMix64 (Steele, Lea,
Flood 2014): Python's own hash differs from process to process, and sidecars should agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from zlib import crc32

from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import HashBalancingSpec, UpstreamSpec

MASK: Final = 2**64 - 1

Strategy = Callable[[Sequence[Endpoint], Exchange], Endpoint]
"""Chooses one of at least one."""


class Balancer:
    """Picks endpoints of one upstream.  Holds no state worth keeping: made anew with each set of policies."""

    __slots__ = (
        "_accepts",
        "_choose",
        "_choose_again",
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
        """`accepts` says whether an endpoint's own policies (a breaker per endpoint) would let a request through."""
        self._endpoints = endpoints
        self._choose = strategy(spec, env)
        self._choose_again = strategy(spec, env)  # with a turn of its own: one for both would step over the same ones
        self._sprays = spec.panic == "spray"
        self._accepts = accepts
        self._env = env
        self._is_panicking = False
        self._panic_picks = env.meter.counter(metrics.PANIC_PICKS, upstream=endpoints.upstream, panic=spec.panic)

    def pick(self, x: Exchange, now: float) -> Endpoint | None:
        """An endpoint for this attempt, None where none can take it.  Counting it in flight is the caller's."""
        members = self._endpoints.members
        if members:
            endpoint = self._choose(members, x)
            if (
                endpoint.is_up
                and (not x.avoid or endpoint.key not in x.avoid)
                and (self._accepts is None or self._accepts(endpoint))
            ):
                if self._is_panicking:
                    self._panic(False)
                return endpoint
        return self._pick_of(members, x, now)

    def _pick_of(self, members: Sequence[Endpoint], x: Exchange, now: float) -> Endpoint | None:
        candidates = [endpoint for endpoint in members if endpoint.is_available(now)]
        self._panic(bool(members) and not candidates)
        if self._is_panicking:
            self._panic_picks.value += 1
            if self._sprays:
                candidates = list(members)
        if self._accepts is not None:
            candidates = [endpoint for endpoint in candidates if self._accepts(endpoint)]
        if not candidates:
            return None
        if x.avoid:
            candidates = _untried(candidates, x) or self._last_resort(members, candidates, x) or candidates
        endpoint = self._choose_again(candidates, x)
        if 0 < endpoint.ejected_until <= now and not self._is_panicking:
            endpoint.begin_trial(now)
        return endpoint

    def _last_resort(self, members: Sequence[Endpoint], tried: Sequence[Endpoint], x: Exchange) -> list[Endpoint]:
        if not all(endpoint.failures for endpoint in tried):
            return []
        return [e for e in _untried(members, x) if e.healthy and (self._accepts is None or self._accepts(e))]

    def _panic(self, panics: bool) -> None:
        if panics != self._is_panicking:
            self._is_panicking = panics
            self._env.emit(
                events.ENDPOINT_PANIC,
                upstream=self._endpoints.upstream,
                panics=panics,
                panic="spray" if self._sprays else "fail_fast",
            )


def _untried(endpoints: Sequence[Endpoint], x: Exchange) -> list[Endpoint]:
    return [endpoint for endpoint in endpoints if endpoint.key not in x.avoid]


def strategy(spec: UpstreamSpec, env: Env) -> Strategy:
    """The strategy that a policy names."""
    if isinstance(spec.load_balancing, HashBalancingSpec):
        return Rendezvous(spec.load_balancing.hash.header, env).choose
    if spec.load_balancing == "round_robin":
        return RoundRobin(env).choose
    draw = env.rng.random
    return random_choice(draw) if spec.load_balancing == "random" else least_request(draw)


class RoundRobin:
    """Each in turn, beginning anywhere, so that many sidecars that start together do not march in step."""

    __slots__ = ("_turn",)

    def __init__(self, env: Env) -> None:
        self._turn = int(env.rng.random() * 1000)

    def choose(self, candidates: Sequence[Endpoint], _x: Exchange) -> Endpoint:
        self._turn += 1
        return candidates[self._turn % len(candidates)]


def random_choice(draw: Callable[[], float]) -> Strategy:
    """Any one, each as likely."""

    def choose(candidates: Sequence[Endpoint], _x: Exchange) -> Endpoint:
        return candidates[int(draw() * len(candidates))]

    return choose


def least_request(draw: Callable[[], float]) -> Strategy:
    """The less busy of two different ones drawn at random; of two equally busy ones the first drawn, hence either."""

    def choose(candidates: Sequence[Endpoint], _x: Exchange) -> Endpoint:
        size = len(candidates)
        if size == 1:
            return candidates[0]
        at = draw() * size
        index = int(at)
        other = int((at - index) * (size - 1))  # the fraction is a second draw: one call instead of two
        first = candidates[index]
        second = candidates[other if other < index else other + 1]
        if second.in_flight < first.in_flight and second.is_up:
            return second
        return first

    return choose


class Rendezvous:
    """The highest random weight for a key; requests without a key go to the less busy of two."""

    __slots__ = ("_header", "_keyless")

    def __init__(self, header: str | None, env: Env) -> None:
        self._header = None if header is None else header.lower().encode()
        self._keyless = least_request(env.rng.random)

    def choose(self, candidates: Sequence[Endpoint], x: Exchange) -> Endpoint:
        key = x.client_address.encode() if self._header is None else x.header(self._header)
        if not key:
            return self._keyless(candidates, x)
        hashed = crc32(key)
        best, highest = candidates[0], -1
        for endpoint in candidates:
            score = (hashed ^ endpoint.seed) * 0xBF58476D1CE4E5B9 & MASK
            score = (score ^ score >> 27) * 0x94D049BB133111EB & MASK
            if score > highest:
                best, highest = endpoint, score
        return best
