"""Retry budget of an upstream: limits the retries and hedges of all its routes together.  And what these were worth.

Retries multiply the load of an overloaded upstream: without a budget, three attempts triple the traffic in an outage.
The formula is that of Finagle's and Linkerd's `RetryBudget`.  In every window of time

    retries and hedges  <=  ratio x first attempts  +  min_per_second x window

Rules:

1. `min_per_second` allows retries even if there is little traffic.
2. First attempts and retries both leave the count with the window, so quiet times save nothing up for an outage.
3. A retry is charged when it is scheduled, not when it is sent.  Otherwise a burst of delayed retries would all be
   allowed (envoy#30205).  A retry that is cancelled later is not refunded.
4. Only first attempts add to the budget, so the ratio is one to real demand.
5. Of several workers, each spends tokens that the supervisor has lent to it out of one budget.  It holds what its own
   first attempts have earned and an even part of the rest, so that many failures at once are retried as by one process.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import Env, TokenLease
from sidecar.core.window import SlidingCount
from sidecar.upstream.spec import RetryBudgetSpec


class RetryBudget:
    """Sliding counts of first attempts, and of retries and hedges, with the limit on the latter."""

    __slots__ = (
        "_deposits", "_emit", "_first", "_floor", "_is_enforced", "_lease", "_let_through", "_now", "_quiet_until",
        "_ratio", "_spent", "_upstream", "_window", "_workers",
    )  # fmt: skip

    def __init__(self, spec: RetryBudgetSpec, env: Env, upstream: str) -> None:
        self._now = env.now
        self._emit = env.emit
        self._upstream = upstream
        self._window = 0.0
        self._quiet_until = 0.0
        self._workers = 1
        """Number of workers that share the budget."""
        self._deposits = 0
        """First attempts since the start."""
        self._lease: TokenLease | None = None
        """Tokens that this worker holds; None if the process decides alone."""
        if env.workers is not None:
            self._workers = env.workers.count
            self._lease = env.workers.lease_tokens(f"retry_budget:{upstream}", lambda: self._deposits, self._part)
        self.retune(spec)
        self._let_through = env.meter.counter(metrics.WOULD_REFUSE, policy="retry_budget", upstream=upstream)
        env.meter.gauge(metrics.BUDGET_TOKENS, lambda: self.tokens, upstream=upstream)
        env.meter.gauge(metrics.BUDGET_OBSERVED, lambda: float(not self._is_enforced), upstream=upstream)

    def retune(self, spec: RetryBudgetSpec) -> None:
        """Apply new settings; counts are kept unless the length of the window changes."""
        self._ratio = spec.ratio
        self._floor = spec.min_per_second * spec.window
        self._is_enforced = spec.is_enforced
        if spec.window != self._window:
            self._window = spec.window
            self._first = SlidingCount(spec.window)
            self._spent = SlidingCount(spec.window)
        lease = self._lease
        if lease is not None:
            lease.retune(self._ratio, self._floor, spec.window)

    def retire(self) -> None:
        """Give back the tokens that the worker holds, because no policy has the budget any more."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.end()

    def _part(self) -> int:
        """Return the tokens of this worker's first attempts, with an even part of those that need none."""
        return int(self._floor / self._workers + self._ratio * self._first.total(self._now()))

    def deposit(self, now: float) -> None:
        """Count a first attempt at the instant `now`."""
        self._first.add(now)
        self._deposits += 1

    def withdraw(self) -> bool:
        """Charge one retry or hedge; True if it may be scheduled, which is always the case with `mode: observe`."""
        now, lease = self._now(), self._lease
        if self._tokens(now) < 1 if lease is None else not lease.withdraw():
            if now >= self._quiet_until:  # one event a window: in an outage every failed request gets here
                self._quiet_until = now + self._window
                self._emit(events.BUDGET_EXHAUSTED, upstream=self._upstream, **self.describe())
            if self._is_enforced:
                return False
            self._let_through.add()
        self._spent.add(now)
        return True

    @property
    def tokens(self) -> float:
        """Number of retries that could be scheduled now; negative if first attempts leave the window before the retries
        that they paid for."""
        return self._tokens(self._now())

    def _tokens(self, now: float) -> float:
        lease = self._lease
        if lease is not None:
            return float(lease.held)
        # Rounded because shares such as 0.1 are not exact in binary: ten times 0.1 would be less than one token.
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


WORTH_WINDOW: Final = 30.0
"""Seconds in which it is counted what retries are worth."""
LEAST_REQUESTS: Final = 20
"""Requests with retries in that time, below which nothing is said about their worth."""
USELESS_SHARE: Final = 0.05
"""Share of rescued requests, below which retries are useless."""


class RetryWorth:
    """Requests of a route that were retried or hedged of late, and how many of them that has rescued.

    A request is rescued if it is answered well by an attempt after its first.
    """

    __slots__ = ("_attempts", "_counters", "_now", "_requests", "_rescued")

    def __init__(self, env: Env, route: str, by: str) -> None:
        """`by` is `retry` or `hedge`."""
        self._now = env.now
        self._requests = SlidingCount(WORTH_WINDOW)
        self._rescued = SlidingCount(WORTH_WINDOW)
        self._attempts = SlidingCount(WORTH_WINDOW)
        self._counters = tuple(
            env.meter.counter(metrics.REPEATED_REQUESTS, route=route, by=by, result=result)
            for result in ("lost", "rescued")
        )

    def record(self, attempts: int, is_rescued: bool) -> None:
        """Count a request that has ended, with the number of its attempts after the first."""
        now = self._now()
        self._requests.add(now)
        for _ in range(attempts):
            self._attempts.add(now)
        if is_rescued:
            self._rescued.add(now)
        self._counters[is_rescued].value += 1

    @property
    def is_useless(self) -> bool:
        """True if enough requests were retried, and hardly one was rescued.

        If retries then stop, the window empties, and the next ones show whether that still holds.
        """
        now = self._now()
        requests = self._requests.total(now)
        return requests >= LEAST_REQUESTS and self._rescued.total(now) < USELESS_SHARE * requests

    def describe(self) -> dict[str, Any]:
        now = self._now()
        return {
            "requests": self._requests.total(now),
            "rescued": self._rescued.total(now),
            "attempts": self._attempts.total(now),
            "is_useless": self.is_useless,
            "window": WORTH_WINDOW,
        }
