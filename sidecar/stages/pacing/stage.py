"""Stage `pacing`: attempts wait for their turn, or are refused, while the upstream asks for less load.

Rules:

1. Answers that ask for less are signs of pressure (`sidecar.upstream.balancing.pressure`): 429, 503 with Retry-After,
   and RESOURCE_EXHAUSTED of gRPC.  They lower the rate (`pace`) for all attempts that share the block.
2. An attempt waits for its turn for `max_wait` at most, within its deadline, and with `waiting` others at most.  Else
   it is refused at once; nothing is queued beyond that.  A client that leaves while it waits has used its turn.
3. A failure of the upstream, and a refusal of a stage further in, neither lower nor raise the rate.
4. With `mode: observe` all attempts are sent, and those that would have been refused are counted.  The upstream is not
   spared, so it keeps asking, and the rate falls lower than it would.  Enforcement therefore begins without a limit.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import retry_after
from sidecar.core.outcome import ABANDONED, OVERLOADED, Outcome, Refusal, failed, grpc_code
from sidecar.core.stage import Stage, Wait
from sidecar.grpc.status import asked_wait
from sidecar.leases.rate import NEVER
from sidecar.stages.pacing.pace import Pace
from sidecar.stages.pacing.spec import Spec
from sidecar.upstream.balancing.pressure import is_pressure

_ITEM: Final = re.compile(rb";[ ]*r=([0-9]{1,15})\b[^,]*?;[ ]*t=([0-9]{1,9})\b")
"""Matches what remains, and the seconds until the reset, of one limit in the field RateLimit."""
LONGEST: Final = 1000
"""Longest field RateLimit that is read."""


class Pacer:
    """State of a block that survives a reload: its rate and its counters."""

    def __init__(self, spec: Spec, env: Env, labels: dict[str, str]) -> None:
        self.pace = Pace(spec.decrease, spec.min_rate, spec.max_hold, spec.max_wait)
        self.waiting = 0
        """Attempts that wait for their turn."""
        self.spec = spec
        self._env = env
        self._labels = labels
        meter = env.meter
        self.delayed = meter.counter(metrics.PACED, result="delayed", **labels)
        self.refused = meter.counter(metrics.PACED, result="refused", **labels)
        self.pressure = meter.counter(metrics.PACING_PRESSURE, **labels)
        meter.gauge(metrics.PACING_RATE, lambda: self.pace.limit(env.now()), **labels)

    def retune(self, spec: Spec) -> None:
        """Apply new settings.  The rate stays, unless it was only observed so far."""
        was_observed = not self.spec.is_enforced
        self.spec = spec
        if was_observed and spec.is_enforced:
            if self.pace.rate != NEVER:
                self._env.emit(events.PACING_ENDED, **self._labels)
            self.pace = Pace(spec.decrease, spec.min_rate, spec.max_hold, spec.max_wait)
        self.pace.retune(spec.decrease, spec.min_rate, spec.max_hold, spec.max_wait)

    def press(self, sent_at: float, now: float, hold: float) -> None:
        """Take an answer that asks for less."""
        self.pressure.value += 1
        if self.pace.press(sent_at, now, hold):
            mode = {} if self.spec.is_enforced else {"mode": self.spec.mode}
            self._env.emit(events.PACING_BEGAN, rate=round(self.pace.rate, 3), **mode, **self._labels)

    def accept(self, now: float) -> None:
        """Take an answer that does not ask for less."""
        if self.pace.rate != NEVER and self.pace.accept(now):
            self._env.emit(events.PACING_ENDED, **self._labels)

    def describe(self) -> dict[str, Any]:
        """Return rate and counters, JSON-ready."""
        now = self._env.now()
        limit = self.pace.limit(now)
        return {
            "mode": self.spec.mode,
            "rate": None if limit == NEVER else round(limit, 3),
            "sent_per_second": round(self.pace.measured(now), 3),
            "waiting": self.waiting,
            "delayed": self.delayed.value,
            "refused": self.refused.value,
            "asked_for_less": self.pressure.value,
        }


class PacingStage:
    """Pacing of one route.  A ticket is the instant at which the attempt was sent."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        env = ctx.env
        labels = {ctx.scope: ctx.owner[1]}
        self._pacer: Pacer = ctx.obtain(("pacing", *ctx.owner), spec, lambda: Pacer(spec, env, labels))
        self._upstream = ctx.upstream
        self._where = ctx.where
        self._now = env.now
        self._wall = env.wall
        self._sleep = env.sleep
        self._observed = None
        if not spec.is_enforced:
            self._observed = env.meter.counter(metrics.WOULD_REFUSE, policy="pacing", route=ctx.route)

    def admit(self, x: Exchange) -> object:
        pacer, now = self._pacer, self._now()
        pace = pacer.pace
        delay = pace.delay(now)
        if delay <= 0.0:
            pace.send(now, 0.0)
            return now
        spec = pacer.spec
        may_wait = delay <= spec.max_wait and pacer.waiting < spec.waiting and now + delay < x.deadline
        if self._observed is not None:
            if may_wait:
                pace.send(now, delay)
            else:
                self._observed.value += 1
            return now
        if may_wait:
            pace.send(now, delay)
            return Wait(self._delay(x, delay))
        pacer.refused.value += 1
        rate = pace.limit(now)
        detail = (
            f"the upstream `{self._upstream}` has asked for less load: {rate:.3g} attempts per second are sent to it"
        )
        refusal = Refusal("pacing", self._where, detail, round(rate, 3), round(pace.measured(now), 3), delay)
        return failed(OVERLOADED, refusal)

    async def _delay(self, x: Exchange, seconds: float) -> float:
        """Wait for the turn of an attempt that is already counted; return its ticket."""
        pacer = self._pacer
        pacer.waiting += 1
        pacer.delayed.value += 1
        try:
            await self._sleep(seconds)
        finally:
            pacer.waiting -= 1
        if x.trace is not None:
            x.trace.note(events.PACED, waited=round(seconds, 6))
        return self._now()

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        if outcome is ABANDONED or outcome.failure is not None:
            return
        now, pacer = self._now(), self._pacer
        sent_at = ticket
        assert isinstance(sent_at, float)
        if is_pressure(outcome):
            pacer.press(sent_at, now, self._hold(outcome))
        else:
            pacer.accept(now)
        if pacer.spec.ahead and (left := self._left(outcome)) is not None:
            pacer.pace.allow_ahead(*left, now)

    def _hold(self, outcome: Outcome) -> float:
        """Return the seconds for which the upstream has asked to wait; 0 without any."""
        if grpc_code(outcome.verdict) > 0 and (pushback := asked_wait(outcome)) is not None:
            return pushback
        if outcome.header(b"retry-after") is not None:
            return max(0.0, retry_after(outcome.headers, self._wall()) or 0.0)
        left = self._left(outcome)
        return 0.0 if left is None or left[0] > 0 else left[1]

    @staticmethod
    def _left(outcome: Outcome) -> tuple[float, float] | None:
        """Return what remains and the seconds until the reset, of the limit that allows least; None without one."""
        value = outcome.header(b"ratelimit")
        if value is None or len(value) > LONGEST:
            return None
        found = [(float(remaining), float(seconds)) for remaining, seconds in _ITEM.findall(value) if int(seconds)]
        return min(found, key=lambda each: each[0] / each[1]) if found else None


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a block."""
    return PacingStage(spec, ctx)
