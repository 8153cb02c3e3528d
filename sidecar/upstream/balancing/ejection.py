"""Passive ejection: an endpoint whose requests fail several times in a row gets none for a while.

Rules:

1. Consecutive faults decide, not a rate: the few requests of one endpoint make no rate.  Rates are the breaker's.
2. At least `min_healthy` endpoints stay up, counted when an ejection is due.  Envoy's 10 % switches ejection off below
   ten hosts.  An endpoint spared for this is ejected by its next fault after another one has come back.
3. After an ejection one request a second is let through, on trial (`Endpoint`).  A success restores the endpoint, a
   fault ejects it for twice as long.  The active check does not restore it (Envoy's default is the opposite): it does
   not see a grey failure.
4. `SUCCESSES_PER_EJECTION` successes in a row take one doubling back.  Envoy's decays with time, in which an endpoint
   without requests has proved nothing (envoy#21142).
5. Results of requests sent before the last ejection are ignored.  Otherwise each one in flight when an endpoint fails
   would lengthen its ejection.
6. 429, and 503 with Retry-After, are neither fault nor success: the endpoint works and asks for less.  Neither are
   upstream failures that `on` does not name, such as a protocol error.
7. Jitter shortens an ejection, never lengthens it, so that sidecars do not all come back at once.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import Env
from sidecar.core.outcome import Outcome
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import EjectionSpec

SUCCESSES_PER_EJECTION: Final = 100
"""Consecutive successes that offset one ejection."""
EJECTION_JITTER: Final = 0.2
"""Largest share by which an ejection is shortened at random."""


def is_pressure(outcome: Outcome) -> bool:
    """True if the response is that of a working upstream that asks for less load."""
    return outcome.failure is None and (
        outcome.status == 429 or (outcome.status == 503 and outcome.header(b"retry-after") is not None)
    )


class Ejector:
    """Ejects and restores endpoints of one upstream.  Kept in the state store as `("ejection", upstream)`."""

    __slots__ = ("_ejections", "_endpoints", "_env", "_faults", "_spec", "_would_eject")

    def __init__(self, endpoints: EndpointSet, spec: EjectionSpec, env: Env) -> None:
        self._endpoints = endpoints
        self._env = env
        self._ejections = env.meter.counter(metrics.EJECTIONS, upstream=endpoints.upstream)
        self._would_eject = env.meter.counter(metrics.WOULD_REFUSE, policy="ejection", upstream=endpoints.upstream)
        self.retune(spec)

    def retune(self, spec: EjectionSpec) -> None:
        """Take new settings.  Running ejections go on to their end, unless the new mode only observes."""
        self._spec = spec
        self._faults = Conditions(spec.on)
        if not spec.is_enforced:
            self.retire()

    def retire(self) -> None:
        """Restore all endpoints: ejection is no longer configured."""
        for endpoint in self._endpoints.members:
            endpoint.failures = endpoint.successes = endpoint.ejections = 0
            if endpoint.ejected_until:
                self._restore(endpoint, "policy")

    def record(self, endpoint: Endpoint, outcome: Outcome, started: float, now: float) -> None:
        """Record how a request to the endpoint ended.  `started` and `now` are instants of `env.now`."""
        if self._faults.match(outcome):
            if started >= endpoint.ejected_at and not is_pressure(outcome):
                self._fault(endpoint, outcome, now)
        elif (
            (endpoint.failures or endpoint.ejections)
            and outcome.failure is None
            and started >= endpoint.ejected_at
            and not is_pressure(outcome)
        ):
            self._success(endpoint)

    def _fault(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        endpoint.successes = 0
        if endpoint.ejected_until:
            if endpoint.is_on_trial:  # a request sent in panic or as a last resort says nothing new
                self._eject(endpoint, outcome, now)
            return
        endpoint.failures += 1
        if endpoint.failures < self._spec.consecutive_failures:
            return
        if not self._spec.is_enforced:
            endpoint.failures = 0
            self._would_eject.value += 1
        elif self._others_up(endpoint) >= self._spec.min_healthy:
            self._eject(endpoint, outcome, now)

    def _others_up(self, endpoint: Endpoint) -> int:
        return sum(other.is_up for other in self._endpoints.members if other is not endpoint)

    def _eject(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        spec = self._spec
        grown = min(spec.eject_for * 2.0**endpoint.ejections, spec.max_eject_for)
        seconds = grown * (1 - EJECTION_JITTER * self._env.rng.random())
        failures = endpoint.failures
        endpoint.eject(now, now + seconds)
        if grown < spec.max_eject_for or not endpoint.ejections:
            endpoint.ejections += 1
        self._ejections.value += 1
        self._env.emit(
            events.ENDPOINT_EJECTED,
            upstream=self._endpoints.upstream,
            endpoint=endpoint.url,
            reason=outcome.reason or str(outcome.status),
            consecutive_failures=failures,
            on_trial=not failures,
            seconds=round(seconds, 3),
            up=self._endpoints.count("up"),
        )

    def _success(self, endpoint: Endpoint) -> None:
        endpoint.failures = 0
        if endpoint.ejected_until:
            self._restore(endpoint, "trial")
        elif endpoint.ejections:
            endpoint.successes += 1
            if endpoint.successes >= SUCCESSES_PER_EJECTION:
                endpoint.successes = 0
                endpoint.ejections -= 1

    def _restore(self, endpoint: Endpoint, reason: str) -> None:
        endpoint.restore()
        self._env.emit(
            events.ENDPOINT_RESTORED,
            upstream=self._endpoints.upstream,
            endpoint=endpoint.url,
            reason=reason,
            up=self._endpoints.count("up"),
        )

    def describe(self) -> dict[str, Any]:
        return {
            "upstream": self._endpoints.upstream,
            "ejected": self._endpoints.count("ejected"),
            **self._spec.model_dump(),
        }

    def __repr__(self) -> str:
        return f"<Ejector {self._endpoints.upstream}: {self._endpoints.count('ejected')} ejected>"
