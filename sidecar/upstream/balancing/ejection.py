"""Passive ejection: an endpoint that fails several requests in a row gets none for a while.

Rules (`docs/design/load-balancing.md` has the reasons):

1. The criterion is consecutive faults, not a rate, which circuit breakers use.
2. At least `min_healthy` endpoints stay up, as counted when an ejection is due.  An endpoint that is not ejected for
   this reason is ejected at its next fault once another endpoint is up again.
3. After an ejection, one request a second is sent on trial (`Endpoint`).  A success restores the endpoint; a fault
   ejects it for twice as long.  The active check does not restore it.
4. `SUCCESSES_PER_EJECTION` consecutive successes undo one doubling.
5. Results of requests sent before the last ejection are ignored.
6. Signs of pressure (`pressure`) are neither fault nor success.  So are failures that `on` does not name.
7. Jitter only shortens ejections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import Env
from sidecar.core.outcome import Outcome
from sidecar.upstream.balancing.pressure import is_pressure
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import EjectionSpec

SUCCESSES_PER_EJECTION: Final = 100
"""Number of consecutive successes that offset one ejection."""
EJECTION_JITTER: Final = 0.2
"""Largest share by which an ejection is shortened at random."""


class Ejector:
    """Ejector of one upstream's endpoints.  The state store has it under `("ejection", upstream)`."""

    __slots__ = ("_ejections", "_endpoints", "_env", "_faults", "_spec", "_tell", "_would_eject")

    def __init__(self, endpoints: EndpointSet, spec: EjectionSpec, env: Env) -> None:
        self._endpoints = endpoints
        self._env = env
        self._ejections = env.meter.counter(metrics.EJECTIONS, upstream=endpoints.upstream)
        self._would_eject = env.meter.counter(metrics.WOULD_REFUSE, policy="ejection", upstream=endpoints.upstream)
        self._tell: Callable[[str, Any], None] | None = None
        """Tells other workers the ejection of an endpoint; None without any."""
        self.retune(spec)
        if env.workers is not None:
            self._tell = env.workers.subscribe(self._topic, self.adopt)
            endpoints.trial_begun = self._share  # other workers then put theirs off

    @property
    def _topic(self) -> str:
        return f"ejection:{self._endpoints.upstream}"

    def adopt(self, url: str, told: dict[str, Any]) -> None:
        """Eject or restore an endpoint, or put off its next trial, as another worker has done."""
        endpoint = next((each for each in self._endpoints.members if each.url == url), None)
        if endpoint is None or not self._spec.is_enforced:
            return
        until, now = told["until"], self._env.now()
        endpoint.ejections = told["ejections"]
        if until and told["on_trial"]:
            endpoint.begin_trial(now)
        elif until:
            endpoint.eject(told["at"], until)
        elif endpoint.ejected_until:
            endpoint.restore(self._env.now())
            endpoint.failures = 0

    def _share(self, endpoint: Endpoint) -> None:
        """Tell other workers the state of an endpoint."""
        if self._tell is not None:
            facts = {
                "until": endpoint.ejected_until,
                "at": endpoint.ejected_at,
                "ejections": endpoint.ejections,
                "on_trial": endpoint.is_on_trial,
            }
            self._tell(endpoint.url, facts)

    def retune(self, spec: EjectionSpec) -> None:
        """Apply new settings.  Running ejections continue, unless the new mode is `observe`."""
        self._spec = spec
        self._faults = Conditions(spec.on)
        if not spec.is_enforced:
            self.retire()

    def retire(self) -> None:
        """Restore all endpoints, because ejection is no longer enforced or configured."""
        for endpoint in self._endpoints.members:
            endpoint.failures = endpoint.successes = endpoint.ejections = 0
            if endpoint.ejected_until:
                self._restore(endpoint, "policy")

    def record(self, endpoint: Endpoint, outcome: Outcome, started: float, now: float) -> None:
        """Record the outcome of an attempt; `started` and `now` are its start and its end (`env.now`)."""
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
        """Count a fault, and eject the endpoint if it is one too many or occurred on trial."""
        endpoint.successes = 0
        if endpoint.ejected_until:
            if endpoint.is_on_trial:  # faults of requests in panic or as a last resort do not lengthen an ejection
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
        """Return the number of other endpoints that are up."""
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
        self._share(endpoint)
        self._env.emit(
            events.ENDPOINT_EJECTED,
            upstream=self._endpoints.upstream,
            endpoint=endpoint.url,
            reason=outcome.label,
            consecutive_failures=failures,
            on_trial=not failures,
            seconds=round(seconds, 3),
            up=self._endpoints.count("up"),
        )

    def _success(self, endpoint: Endpoint) -> None:
        """Restore an ejected endpoint, or count a success towards offsetting an ejection."""
        endpoint.failures = 0
        if endpoint.ejected_until:
            self._restore(endpoint, "trial")
        elif endpoint.ejections:
            endpoint.successes += 1
            if endpoint.successes >= SUCCESSES_PER_EJECTION:
                endpoint.successes = 0
                endpoint.ejections -= 1

    def _restore(self, endpoint: Endpoint, reason: str) -> None:
        endpoint.restore(self._env.now())
        self._share(endpoint)
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
