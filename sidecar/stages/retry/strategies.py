"""Adapter of tenacity: when to stop retrying, and how long to wait before the next attempt.

tenacity supplies the strategies and their argument, the state of a call.  Its loop is not used: entering it costs every
request, and some of its predicates retry a cancellation.

Rules:

1. The state is tenacity's own `RetryCallState`; its times come from `Env`, and its result is the last `Outcome`.
2. The strategies of this module read only documented parts of the state: `outcome`, `attempt_number`, times and sleeps.
3. A request that needs no retry does not come here.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Literal

from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import retry_after
from sidecar.core.outcome import Outcome, grpc_code
from sidecar.core.stage import Service
from sidecar.grpc.status import asked_wait
from sidecar.stages.retry.spec import Spec

State = RetryCallState
"""State of one request that is retried."""
LEAST_JITTER: Final = {"full": 0.0, "equal": 0.5, "none": 1.0}
"""Smallest share of a wait that each kind of jitter draws."""


class WaitRetryAfter(wait_base):
    """Wait for the Retry-After of a response, or for its `grpc-retry-pushback-ms`; zero without one.

    The wait is infinite if a gRPC server asks for no retry.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall

    def __call__(self, retry_state: RetryCallState) -> float:
        assert retry_state.outcome is not None
        outcome: Outcome = retry_state.outcome.result()
        if grpc_code(outcome.verdict) > 0 and (pushback := asked_wait(outcome)) is not None:
            return pushback
        if outcome.header(b"retry-after") is None:  # which does not parse the other fields
            return 0.0
        return retry_after(outcome.headers, self._wall()) or 0.0


class WaitJittered(wait_base):
    """Wait a random part of another wait (Brooker, "Exponential Backoff and Jitter").

    tenacity's own random waits draw from the global generator.
    """

    def __init__(self, wait: wait_base, jitter: Literal["full", "equal", "none"], rng: Random) -> None:
        self._wait = wait
        self._least = LEAST_JITTER[jitter]
        self._rng = rng

    def __call__(self, retry_state: RetryCallState) -> float:
        return self._wait(retry_state) * (self._least + (1 - self._least) * self._rng.random())


class Schedule:
    """Stop and wait strategies of one policy, asked one by one, so that the reason for stopping is known."""

    def __init__(self, spec: Spec, env: Env) -> None:
        backoff = wait_exponential(multiplier=spec.backoff.base, max=spec.backoff.max)
        self._stop = stop_after_attempt(spec.max_attempts)
        self._asked = WaitRetryAfter(env.wall)
        self._backoff = WaitJittered(backoff, spec.backoff.jitter, env.rng)
        self._longest = spec.retry_after.max
        self._retrying = AsyncRetrying(stop=self._stop, wait=self._asked + self._backoff)

    def begin(self, service: Service, x: Exchange, began: float) -> State:
        """Return the state of a request whose first attempt began at an instant of `env.now`."""
        state = State(self._retrying, service, (x,), {})
        state.start_time = began
        return state

    def record(self, state: State, outcome: Outcome, now: float) -> None:
        """Record the outcome of an attempt."""
        state.set_result(outcome)
        state.outcome_timestamp = now

    def is_exhausted(self, state: State) -> bool:
        """True if all attempts are made."""
        return self._stop(state)

    def plan(self, state: State) -> bool:
        """Set the next wait (`state.upcoming_sleep`, in seconds).  Returns False if the upstream asks for too long."""
        asked = self._asked(state)
        if asked > self._longest:
            return False
        state.upcoming_sleep = asked + self._backoff(state)
        return True

    def advance(self, state: State) -> None:
        """Begin the next attempt after the wait."""
        state.idle_for += state.upcoming_sleep
        state.prepare_for_next_attempt()
