"""When to stop and how long to wait: tenacity's strategies, and those that it does not have."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any, Literal

from tenacity.stop import stop_after_attempt, stop_base
from tenacity.wait import wait_base, wait_exponential

__all__ = [
    "StopBeforeDeadline",
    "StopWhenAskedToStayAway",
    "Try",
    "WaitJittered",
    "WaitRetryAfter",
    "stop_after_attempt",
    "wait_exponential",
]


class Try:
    """What tenacity's strategies are asked about: the attributes of its RetryCallState that they read, and ours."""

    __slots__ = (
        "asked", "attempt_number", "deadline", "idle_for", "outcome", "seconds_since_start",
        "upcoming_sleep",
    )  # fmt: skip

    def __init__(self) -> None:
        self.attempt_number = 1
        self.outcome: Any = None
        self.idle_for = 0.0
        """Seconds slept so far."""
        self.upcoming_sleep = 0.0
        self.seconds_since_start = 0.0
        self.asked = 0.0
        """Retry-After in seconds."""
        self.deadline = inf
        """Seconds since the start at which another try could no longer finish."""


class WaitJittered(wait_base):
    """A part of another wait, drawn at random (Brooker, "Exponential Backoff and Jitter").

    Not tenacity's own random waits: they draw from the global generator.
    """

    def __init__(self, wait: wait_base, jitter: Literal["full", "equal", "none"], rng: Random) -> None:
        self._wait = wait
        self._least = {"full": 0.0, "equal": 0.5, "none": 1.0}[jitter]
        self._rng = rng

    def __call__(self, retry_state: Any) -> float:
        return self._wait(retry_state) * (self._least + (1 - self._least) * self._rng.random())


class WaitRetryAfter(wait_base):
    """As long as the upstream asked for."""

    def __call__(self, retry_state: Any) -> float:
        return float(retry_state.asked)


class StopWhenAskedToStayAway(stop_base):
    """The upstream asked for more patience than we have."""

    def __init__(self, longest: float) -> None:
        self._longest = longest

    def __call__(self, retry_state: Any) -> bool:
        return bool(retry_state.asked > self._longest)


class StopBeforeDeadline(stop_base):
    """`stop_before_delay` with the request's own limit."""

    def __call__(self, retry_state: Any) -> bool:
        return bool(retry_state.seconds_since_start + retry_state.upcoming_sleep >= retry_state.deadline)
