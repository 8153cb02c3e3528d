"""Passive ejection: an endpoint that fails real requests in a row gets none for a while.

Decisions:

- **Faults in a row**, not a rate: with few requests to an endpoint a rate is noise.  Rates are the breaker's business.
- **Never below `min_healthy`** endpoints up, counted when an ejection is due.  A count, because a percentage of few is
  none: Envoy's 10 % switches ejection off below ten hosts.  What is not ejected for that reason goes on counting and
  is ejected by its next fault after another endpoint has come back.
- **Coming back is earned**: when the time is over one request a second is let through, on trial (`Endpoint`).  A
  success restores the endpoint; a fault ejects it again, for twice as long.  The active check does not restore it: a
  grey failure is one that the check does not see (Envoy's default is the opposite).
- **The doubling decays on evidence**: `EVIDENCE` successes in a row take one back.  Envoy's decays with time, in which
  an endpoint that nobody asked has proved nothing (envoy#21142).
- **Late results are ignored**: what started before the last ejection says nothing about the endpoint since.  Otherwise
  the hundred requests that were under way when an endpoint died would each make its ejection longer.
- **Pressure is no fault**: 429, and 503 with Retry-After, come from an endpoint that works and says slow down.  To
  eject it would put its load on the others, which are next.  Neither is it a success.
- **Jitter** takes up to a fifth off each time, so that many sidecars do not come back to an endpoint at once; never
  more than the file says, hence none on top.
- An upstream's fault that is not in `on` (say a protocol error) is neither fault nor success.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import Env
from sidecar.core.outcome import Outcome
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import EjectionSpec

EVIDENCE: Final = 100
"""Successes in a row that make up for one ejection."""
JITTER: Final = 0.2


def is_pressure(outcome: Outcome) -> bool:
    """Does a working upstream ask for less?"""
    return outcome.failure is None and (
        outcome.status == 429 or (outcome.status == 503 and outcome.header(b"retry-after") is not None)
    )


class Ejector:
    """Ejects endpoints of one upstream.  Kept in the state store as `("ejection", upstream)`."""

    __slots__ = ("_ejections", "_endpoints", "_env", "_faults", "_spec", "_would_eject")

    def __init__(self, endpoints: EndpointSet, spec: EjectionSpec, env: Env) -> None:
        self._endpoints = endpoints
        self._env = env
        self._ejections = env.meter.counter(metrics.EJECTIONS, upstream=endpoints.upstream)
        self._would_eject = env.meter.counter(metrics.WOULD_REFUSE, policy="ejection", upstream=endpoints.upstream)
        self.retune(spec)

    def retune(self, spec: EjectionSpec) -> None:
        """Another policy; ejections that run go on to their end, unless it only observes."""
        self._spec = spec
        self._faults = Conditions(spec.on)
        if not spec.is_enforced:
            self.retire()

    def retire(self) -> None:
        """Ejection is no more: all endpoints come back."""
        for endpoint in self._endpoints.members:
            endpoint.failures = endpoint.successes = endpoint.ejections = 0
            if endpoint.ejected_until:
                self._restore(endpoint, "policy")

    def record(self, endpoint: Endpoint, outcome: Outcome, started: float, now: float) -> None:
        """How a request to the endpoint ended that was sent at `started` (`env.now`)."""
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
            if endpoint.is_on_trial:  # not one of a panic: those say nothing that we did not know
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
        seconds = grown * (1 - JITTER * self._env.rng.random())
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
            if endpoint.successes >= EVIDENCE:
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
