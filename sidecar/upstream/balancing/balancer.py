"""Load balancer: chooses the endpoint for one attempt, without I/O or waiting.

Rules (`docs/design/load-balancing.md` has the reasons):

1. For a first attempt the strategy chooses among all endpoints, since usually all are up.  If its choice is not up, and
   for further attempts, it chooses among those that are available, admitted by their breakers, and not yet tried.
   Without such an endpoint, the last resort applies (rule 4), then the endpoints already tried.
2. These choices use a second strategy object, retries and hedges a third one.
3. Panic begins when no endpoint is available: `spray` then uses all endpoints, `fail_fast` refuses.
4. Last resort: if a request has failed at every available endpoint, and each of these has failed its last request, the
   request may try an ejected one.
5. First attempts choose in the first tier of endpoints.  The next tier is used if no endpoint of those before it can
   take the request.  Where tiers are zones, a share of the requests spills over before: while less than
   1 / `OVERPROVISIONING` of the first tier is available, the rest of its load goes to the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.upstream.balancing.strategies import Candidates, make_strategy
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import UpstreamSpec

OVERPROVISIONING: Final = 1.4
"""Load that the available endpoints of a zone take, relative to their share of the zone (Envoy's factor: 1.4)."""


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
        self._choose = make_strategy(spec, env, endpoints)
        self._choose_again = make_strategy(spec, env, endpoints)
        self._choose_further = make_strategy(spec, env, endpoints)
        self._sprays = spec.panic == "spray"
        self._accepts = accepts
        self._env = env
        self._is_panicking = False
        """True while no endpoint is available."""
        self._panic_picks = env.meter.counter(metrics.PANIC_PICKS, upstream=endpoints.upstream, panic=spec.panic)

    def pick(self, x: Exchange, now: float) -> Endpoint | None:
        """Return an endpoint for this attempt; None if none can take it.  The caller updates `in_flight`."""
        members = self._endpoints.preferred
        if members and not x.avoid:
            endpoint = members[0] if len(members) == 1 else self._choose.choose(members, x)
            if endpoint.is_up and (self._accepts is None or self._accepts(endpoint)):
                if self._is_panicking:
                    self._panic(False)
                return endpoint
        return self._pick_from(self._endpoints.members, x, now)

    def _pick_from(self, members: Candidates, x: Exchange, now: float) -> Endpoint | None:
        """Return an endpoint for an attempt whose first choice is not up, or for a further attempt."""
        candidates = tuple([endpoint for endpoint in members if endpoint.is_available(now)])
        self._panic(bool(members) and not candidates)
        if self._is_panicking:
            self._panic_picks.value += 1
            if self._sprays:
                candidates = members
        elif self._endpoints.tiers != (members,):
            candidates = self._pick_tier(x, now)
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

    def _pick_tier(self, x: Exchange, now: float) -> Candidates:
        """Return the available endpoints of the tier that takes the request; none if no tier has any."""
        kept: Candidates = ()
        tiers, is_first = self._endpoints.tiers, True
        for tier in tiers:
            usable = tuple([e for e in tier if e.is_available(now) and (self._accepts is None or self._accepts(e))])
            goes_on = is_first and self._endpoints.spills and not x.avoid and self._spills(len(usable), len(tier))
            is_first = False
            if not usable:
                continue
            if goes_on or (x.avoid and not _untried(usable, x)):
                kept = kept or usable
            elif not usable[0].is_draining or not kept:
                return usable
        return kept

    def _spills(self, usable: int, size: int) -> bool:
        """True if a request goes on to the next tier.

        Its first choice was not up, which happens as often as the share of endpoints that are out.
        """
        available = usable / size
        return available < 1 and self._env.rng.random() * (1 - available) < 1 - OVERPROVISIONING * available

    def _last_resort(self, members: Candidates, tried: Candidates, x: Exchange) -> Candidates:
        """Return the ejected endpoints that the request may try; none unless all `tried` ones are failing."""
        if not all(endpoint.failures for endpoint in tried):
            return ()
        untried = _untried(members, x)
        return tuple(
            [e for e in untried if e.is_ready and e.is_healthy and (self._accepts is None or self._accepts(e))]
        )

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
