"""Stage `throttle`: refuses attempts with a probability that grows with the share that the upstream did not accept.

Rules:

1. With `r` attempts and `a` accepts in the window, an attempt is refused with the probability
   (r - ratio * a) / (r + 1), from 0 to `max_refused` (Site Reliability Engineering, chapter 21).
2. An attempt that this stage refuses counts as an attempt, so it refuses more while callers keep asking.
3. Each criticality has counts of its own: sheddable requests that the upstream refuses do not throttle critical ones.
   One with fewer attempts than `min_calls` is judged by the next higher one that has as many: rare sheddable requests
   do not pass where critical ones are refused, and a client gains nothing by calling its requests less critical.
4. An upstream accepts an attempt unless it fails, answers 503 or UNAVAILABLE, or asks for less load (429,
   RESOURCE_EXHAUSTED).  A client that leaves, and a refusal of a stage further in, count as nothing.
5. Attempts are counted when they end.  A burst in flight is no sign of refusal.
"""

from __future__ import annotations

from typing import Any

from sidecar.core import metrics
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import CRITICALITIES, Exchange
from sidecar.core.outcome import ABANDONED, UPSTREAM_OVERLOADED, Outcome, Refusal, failed
from sidecar.core.stage import Stage
from sidecar.core.window import SlidingCount
from sidecar.stages.throttle.spec import Spec
from sidecar.upstream.balancing.pressure import is_refusal


class Throttle:
    """State of a throttle that survives a reload: its counts by criticality."""

    def __init__(self, spec: Spec, env: Env, labels: dict[str, str]) -> None:
        self._env = env
        self.refused = env.meter.counter(metrics.THROTTLED, **labels)
        self.spec = spec
        self._clear()

    def _clear(self) -> None:
        """Count from 0."""
        self.attempts = [SlidingCount(self.spec.window) for _ in CRITICALITIES]
        self.accepts = [SlidingCount(self.spec.window) for _ in CRITICALITIES]

    def retune(self, spec: Spec) -> None:
        """Apply new settings.  The counts stay, unless the window is another one."""
        is_same = spec.window == self.spec.window
        self.spec = spec
        if not is_same:
            self._clear()

    def chance(self, criticality: int, now: float) -> float:
        """Return the probability with which an attempt is refused."""
        rank = self.judged_by(criticality, now)
        if rank < 0:
            return 0.0
        attempts = self.attempts[rank].total(now)
        surplus = attempts - self.spec.ratio * self.accepts[rank].total(now)
        return min(self.spec.max_refused, max(0.0, surplus / (attempts + 1)))

    def judged_by(self, criticality: int, now: float) -> int:
        """Return the criticality whose counts decide; -1 if none has enough attempts."""
        for rank in range(criticality, -1, -1):
            if self.attempts[rank].total(now) >= self.spec.min_calls:
                return rank
        return -1

    def describe(self) -> dict[str, Any]:
        """Return counts and probabilities by criticality, JSON-ready."""
        now = self._env.now()
        return {
            "mode": self.spec.mode,
            "refused": self.refused.value,
            "by_criticality": {
                name: {
                    "attempts": self.attempts[rank].total(now),
                    "accepts": self.accepts[rank].total(now),
                    "refusal_probability": round(self.chance(rank, now), 4),
                }
                for name, rank in CRITICALITIES.items()
            },
        }


class ThrottleStage:
    """Throttle of one route.  A ticket is None."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        env = ctx.env
        labels = {ctx.scope: ctx.owner[1]}
        self._throttle: Throttle = ctx.obtain(("throttle", *ctx.owner), spec, lambda: Throttle(spec, env, labels))
        self._where = ctx.where
        self._now = env.now
        self._draw = env.rng.random
        self._observed = None
        if not spec.is_enforced:
            self._observed = env.meter.counter(metrics.WOULD_REFUSE, policy="throttle", route=ctx.route)

    def admit(self, x: Exchange) -> Outcome | None:
        throttle, rank, now = self._throttle, x.criticality, self._now()
        chance = throttle.chance(rank, now)
        if chance <= 0.0 or self._draw() >= chance:
            return None
        if self._observed is not None:
            self._observed.value += 1
            return None
        throttle.attempts[rank].add(now)
        throttle.refused.value += 1
        judge = max(0, throttle.judged_by(rank, now))
        value = round(throttle.attempts[judge].total(now) / max(1, throttle.accepts[judge].total(now)), 3)
        detail = f"the upstream accepts too little: {chance:.0%} of the attempts of this criticality are refused"
        return failed(UPSTREAM_OVERLOADED, Refusal("throttle", self._where, detail, throttle.spec.ratio, value))

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        failure = outcome.failure
        if outcome is ABANDONED or (failure is not None and failure.origin != "upstream"):
            return
        throttle, rank, now = self._throttle, x.criticality, self._now()
        throttle.attempts[rank].add(now)
        if failure is None and not is_refusal(outcome):
            throttle.accepts[rank].add(now)


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a throttle."""
    return ThrottleStage(spec, ctx)
