"""The retry budget of an upstream: how many second tries its routes may make together.

Retries multiply load just when there is least to spare; three attempts without a budget turn an outage into three
times the traffic.  The rule is Finagle's `RetryBudget` (also Linkerd's): in every window of time

    retries and hedges  <=  ratio x first attempts  +  min_per_second x window

The floor lets a route with little traffic retry at all.  Deposits and withdrawals both leave with the window, so a
quiet night saves nothing up for the morning's outage, and what an outage has spent is forgotten a window later.

Decisions: a retry is paid for when it is *scheduled*, not when it is sent, or a storm of sleepers would all be let
through (envoy#30205).  A token is not given back if the retry is then cancelled: scheduling is what is budgeted.
First attempts deposit, retries never do: the ratio is one to real demand.  All in one thread, so no lock.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.spec import Block
from sidecar.core.units import Duration, Share
from sidecar.core.window import SlidingCount


class Spec(Block):
    """How much an upstream may be retried, over all its routes."""

    ratio: Share = 0.2
    """Retries and hedges per first attempt."""
    min_per_second: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """Retries a second that are allowed whatever the traffic."""
    window: Duration = 10.0
    """How far back attempts and retries are counted."""


class RetryBudget:
    """Counts first attempts and second tries over a sliding window."""

    __slots__ = (
        "_emit", "_first", "_floor", "_is_enforced", "_let_through", "_now", "_quiet_until", "_ratio", "_spent",
        "_upstream", "_window",
    )  # fmt: skip

    def __init__(self, spec: Spec, env: Env, upstream: str) -> None:
        self._now = env.now
        self._emit = env.emit
        self._upstream = upstream
        self._window = 0.0
        self._quiet_until = 0.0
        self.retune(spec)
        self._let_through = env.meter.counter(metrics.WOULD_REFUSE, policy="retry_budget", upstream=upstream)
        env.meter.gauge(metrics.BUDGET_TOKENS, lambda: self.tokens, upstream=upstream)

    def retune(self, spec: Spec) -> None:
        """Take new settings; what was counted stays unless the window's length changes."""
        self._ratio = spec.ratio
        self._floor = spec.min_per_second * spec.window
        self._is_enforced = spec.is_enforced
        if spec.window != self._window:
            self._window = spec.window
            self._first = SlidingCount(spec.window)
            self._spent = SlidingCount(spec.window)

    def deposit(self) -> None:
        """A first attempt is being made."""
        self._first.add(self._now())

    def withdraw(self) -> bool:
        """May one more retry or hedge be scheduled?  If so it is paid for.  `mode: observe` always says yes."""
        now = self._now()
        if self._tokens(now) < 1:
            if now >= self._quiet_until:  # once a window: an exhausted budget is asked for every failing request
                self._quiet_until = now + self._window
                self._emit(events.BUDGET_EXHAUSTED, upstream=self._upstream, **self.describe())
            if self._is_enforced:
                return False
            self._let_through.add()
        self._spent.add(now)
        return True

    @property
    def tokens(self) -> float:
        """Retries that could be scheduled now.  Below zero where the first attempts that paid have left the window."""
        return self._tokens(self._now())

    def _tokens(self, now: float) -> float:
        # The rounding is for shares such as 0.1 that no binary fraction hits: ten attempts at 10 % are a whole token.
        return round(self._floor + self._ratio * self._first.total(now) - self._spent.total(now), 6)

    def describe(self) -> dict[str, Any]:
        now = self._now()
        return {
            "tokens": self._tokens(now),
            "first_attempts": self._first.total(now),
            "retries": self._spent.total(now),
            "ratio": self._ratio,
            "floor": self._floor,
            "window": self._window,
        }

    def __repr__(self) -> str:
        return f"<RetryBudget {self._upstream} {self.tokens:g} tokens>"
