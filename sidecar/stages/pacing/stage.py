"""Stage `pacing`: attempts wait for their turn, or are refused, while the upstream asks for less load.

Rules:

1. Answers that ask for less are signs of pressure (`sidecar.upstream.balancing.pressure`), such as 429.  They lower
   the rate (`pace`) for all attempts that share the block.
2. An attempt waits for its turn for `max_wait` at most, within its deadline, and with `waiting` others at most; a
   sheddable one for half of both, and a hedge not at all.  Else it is refused at once; nothing is queued beyond that.
   A client that leaves while it waits has used its turn.
3. A failure of the upstream, be it an answer or none, and a refusal of a stage further in neither lower nor raise the
   rate.
4. With `mode: observe` attempts are counted at the rate that they would have had, and all are sent.  The upstream is
   not spared, so it keeps asking, and the rate falls lower than it would.  Enforcement therefore begins without a
   limit.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import SHEDDABLE, Exchange
from sidecar.core.message import retry_after
from sidecar.core.outcome import ABANDONED, UPSTREAM_OVERLOADED, Outcome, Refusal, failed, grpc_code
from sidecar.core.stage import Stage, Wait
from sidecar.grpc.status import asked_wait
from sidecar.leases.rate import NEVER
from sidecar.stages.pacing.fields import read_allowances
from sidecar.stages.pacing.pace import Pace
from sidecar.stages.pacing.spec import Spec
from sidecar.upstream.balancing.pressure import is_pressure

FAULTY: Final = 500
"""Verdict from which on an answer is a failure of the upstream."""


def _rounded(rate: float) -> float:
    """Return a rate with four digits, since it may be one attempt in an hour."""
    return float(f"{rate:.4g}")


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
        meter.gauge(metrics.PACING_RATE, self._rate, **labels)

    def retune(self, spec: Spec) -> None:
        """Apply new settings.  The rate stays, unless it was only observed so far."""
        was_observed = not self.spec.is_enforced
        self.spec = spec
        if was_observed and spec.is_enforced:
            if self.pace.rate != NEVER:
                self._env.emit(events.PACING_ENDED, **self._labels)
            self.pace = Pace(spec.decrease, spec.min_rate, spec.max_hold, spec.max_wait)
        self.pace.retune(spec.decrease, spec.min_rate, spec.max_hold, spec.max_wait, self._env.now())

    def press(self, sent_at: float, now: float, hold: float) -> None:
        """Take an answer that asks for less."""
        self._lapse(now)
        self.pressure.value += 1
        if self.pace.press(sent_at, now, hold):
            mode = {} if self.spec.is_enforced else {"mode": self.spec.mode}
            self._env.emit(events.PACING_BEGAN, rate=_rounded(self.pace.rate), **mode, **self._labels)

    def accept(self, now: float) -> None:
        """Take an answer of an upstream that accepts the attempt."""
        if self.pace.rate != NEVER:
            self._lapse(now)
            self.pace.accept(now)

    def _lapse(self, now: float) -> None:
        if self.pace.lapse(now):
            self._env.emit(events.PACING_ENDED, **self._labels)

    def _rate(self) -> float:
        """Return the attempts per second that are sent at most; 0 without a limit."""
        limit = self.pace.limit(self._env.now())
        return 0.0 if limit == NEVER else limit

    def describe(self) -> dict[str, Any]:
        """Return rate and counters, JSON-ready."""
        now = self._env.now()
        rate = self._rate()
        return {
            "mode": self.spec.mode,
            "rate": _rounded(rate) if rate else None,
            "sent_per_second": _rounded(self.pace.measured(now)),
            "waiting": self.waiting,
            "delayed": self.delayed.value,
            "refused": self.refused.value,
            "asked_for_less": self.pressure.value,
        }


class PacingStage:
    """Pacing of one route.  A ticket is the instant at which the attempt was given its turn, now or later."""

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
        most = float(spec.max_wait)
        places = float(spec.waiting)
        if x.is_hedge:  # the first attempt has its turn already
            most = 0.0
        elif x.criticality == SHEDDABLE:  # the turns that are left go to the others
            most, places = most / 2, places / 2
        waiting = pacer.waiting if self._observed is None else round(delay * pace.limit(now)) - 1
        may_wait = delay <= most and waiting < places and now + delay < x.deadline
        if self._observed is not None:
            if may_wait:
                pace.send(now, delay)
            else:
                self._observed.value += 1
            return now
        if may_wait:
            pace.send(now, delay)
            return Wait(self._delay(x, delay, now))
        pacer.refused.value += 1
        rate = pace.limit(now)
        detail = f"the upstream `{self._upstream}` has asked for less load, and gets {rate:.3g} attempts per second"
        limit: float | None = None
        value: float | None = None
        if delay > most:
            detail = f"{detail}; the turn of this one is in {delay:.3g} s, and it may wait for {most:.3g} s"
            limit, value = most, _rounded(delay)
        elif waiting >= places:
            detail = f"{detail}; {waiting} wait already"
            limit, value = places, float(waiting)
        else:
            detail = f"{detail}; the turn of this one is in {delay:.3g} s, after its deadline"
        return failed(UPSTREAM_OVERLOADED, Refusal("pacing", self._where, detail, limit, value, delay))

    async def _delay(self, x: Exchange, seconds: float, ticket: float) -> float:
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
        return ticket

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        if outcome is ABANDONED or outcome.failure is not None:
            return
        now, pacer = self._now(), self._pacer
        sent_at = ticket
        assert isinstance(sent_at, float)
        if is_pressure(outcome):
            pacer.press(sent_at, now, self._hold(outcome))
        elif outcome.verdict < FAULTY:
            pacer.accept(now)
        if pacer.spec.ahead:
            left = [each for each in read_allowances(outcome) if each[1]]
            if left:
                remaining, seconds = min(left, key=lambda each: each[0] / each[1])
                pacer.pace.allow_ahead(remaining, seconds, now)

    def _hold(self, outcome: Outcome) -> float:
        """Return the seconds for which the upstream has asked to wait; 0 without any."""
        if grpc_code(outcome.verdict) > 0:
            pushback = asked_wait(outcome)
            if pushback is not None and pushback != inf:  # infinite: the call must not be retried
                return pushback
        asked = retry_after(outcome.headers, self._wall())
        if asked is not None:
            return asked
        return max([seconds for remaining, seconds in read_allowances(outcome) if not remaining], default=0.0)


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a block."""
    return PacingStage(spec, ctx)
