"""Exchanges of one process with a store: batches, a breaker of its own, and what waits for an answer.

Rules:

1. All asks that are due go in one call, at most one at a time and `PACE` apart.
2. A request that needs an answer waits for one call, for `timeout` at most.  The first fault opens the breaker: waiting
   requests are released, and later ones do not wait.  A background probe closes the breaker again.
3. A call is sent once: what a lost answer granted is spent by nobody.
4. A fault closes all connections: after a failover the name leads to another server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar

from sidecar.core import events, metrics
from sidecar.core.env import Env, TimerHandle

A = TypeVar("A")

PACE: Final = 0.002
"""Seconds between two calls, at least."""
MAX_ASKS: Final = 500
"""Asks of one call, at most."""
MAX_WAITING: Final = 1000
"""Requests that wait for an answer, at most; more are decided without the store."""
FIRST_PROBE: Final = 0.1
"""Seconds from a fault to the first probe; the time doubles with each probe that fails."""
SLOWEST_PROBE: Final = 5.0
"""Seconds between two probes of a store that stays away."""
NEVER: Final = float("inf")


class Exchanges(Generic[A]):
    """Exchanges with one store; a subclass says what is asked, and what an answer means."""

    def __init__(self, name: str, env: Env) -> None:
        """`name` is that of the store in metrics and events."""
        self.is_up = True
        """False while the breaker is open."""
        self.members = 1
        """Processes that used the store lately, as far as it is known."""
        self.down_at = -NEVER
        """Instant of the last fault that opened the breaker."""
        self.faults = 0
        """Number of times that the breaker has opened."""
        self.last_error = ""
        self.exchanges = 0
        """Calls that were answered."""
        self._name = name
        self._env = env
        self._id = f"{env.rng.getrandbits(64):016x}"
        """Name of this process in the store."""
        self._sent_at = -NEVER
        """Instant of the last call."""
        self._task: Any = None
        self._waiting: list[Any] = []
        """Futures of requests that wait for an answer."""
        self._timer: TimerHandle | None = None
        self._timer_at = NEVER
        self._is_closed = False
        self._pause = FIRST_PROBE
        self._errors = env.meter.counter(metrics.STORE_ERRORS, store=name)
        self._calls = env.meter.counter(metrics.STORE_CALLS, store=name)
        env.meter.gauge(metrics.STORE_UP, lambda: float(self.is_up), store=name)

    # ----- what a subclass adds

    @property
    def _timeout(self) -> float:
        """Longest time of a call in seconds."""
        raise NotImplementedError

    @property
    def _due(self) -> float:
        """Next instant at which something is to be asked; infinite without one."""
        raise NotImplementedError

    @property
    def _is_asking(self) -> bool:
        """True if asks wait to be collected."""
        raise NotImplementedError

    def _collect(self, now: float) -> list[A]:
        """Return the asks to be sent, `MAX_ASKS` at most."""
        raise NotImplementedError

    def _send(self, sent: list[A], now: float) -> Coroutine[Any, Any, Any]:
        """Return the call that sends asks; without any it is a probe."""
        raise NotImplementedError

    def _read(self, found: Any, sent: list[A], began: float, now: float) -> None:
        """Take the result of a call.  Raises any error if it cannot be read."""
        raise NotImplementedError

    def _give_up(self, sent: list[A]) -> None:
        """Give up asks that were not answered."""
        raise NotImplementedError

    def _disconnect(self) -> Coroutine[Any, Any, None]:
        """Return the call that closes all connections."""
        raise NotImplementedError

    # ----- exchanges

    def schedule(self) -> None:
        """Send the asks that are due soon: after those of the same turn of the loop, and not before `PACE`."""
        if self._task is None and self.is_up:
            self._arm(max(0.0, self._sent_at + PACE - self._env.now()))

    def wait(self) -> Any:
        """Return a future that ends with the next answer, or when the store fails; None if too many wait already."""
        if len(self._waiting) >= MAX_WAITING:
            return None
        future = self._env.future()
        self._waiting.append(future)
        self.schedule()
        return future

    def _arm(self, seconds: float) -> None:
        if self._is_closed:
            return
        at = self._env.now() + seconds
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._env.call_later(seconds, self._tick)

    def _tick(self) -> None:
        """Send what is due, or a probe of a store that is away."""
        self._timer, self._timer_at = None, NEVER
        if self._task is not None:
            return
        now = self._env.now()
        sent: list[A] = []
        if self.is_up:
            sent = self._collect(now)
            if not sent and not self._waiting:
                self._rearm()
                return
        self._sent_at = now
        self._task = self._env.spawn(self._send(sent, now))
        timer = self._env.call_later(self._timeout, self._task.cancel)
        self._task.add_done_callback(lambda task: self._finish(task, sent, now, timer))

    def _finish(self, task: Any, sent: list[A], began: float, timer: TimerHandle) -> None:
        timer.cancel()
        self._task = None
        self._calls.value += 1
        try:
            self._read(task.result(), sent, began, self._env.now())
        except asyncio.CancelledError:
            self._fail(TimeoutError(f"no answer within {self._timeout:g} s"), sent)
        except Exception as error:  # a client library may raise anything
            self._fail(error, sent)
        else:
            self.exchanges += 1
            self._recover()
        self._release()
        self._rearm()

    def _fail(self, error: Exception, sent: list[A]) -> None:
        """Count a fault, open the breaker and close all connections."""
        self._give_up(sent)
        self._errors.value += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self._env.spawn(self._disconnect())
        if self.is_up:
            self.is_up = False
            self._pause = FIRST_PROBE
            self.faults += 1
            self.down_at = self._env.now()
            self._env.emit(events.STORE_DOWN, store=self._name, error=self.last_error)
        else:
            self._pause = min(SLOWEST_PROBE, 2 * self._pause)

    def _recover(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._env.emit(events.STORE_UP, store=self._name)

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _rearm(self) -> None:
        """Set the timer for the next ask, renewal or probe."""
        if not self.is_up:
            self._arm(self._pause)
            return
        if self._waiting or self._is_asking:
            self.schedule()
            return
        due = self._due
        if due < NEVER:
            now = self._env.now()
            self._arm(max(PACE, due - now, self._sent_at + PACE - now))

    def describe(self) -> dict[str, Any]:
        """Return the state as JSON-ready values."""
        return {
            "up": self.is_up,
            "processes": self.members,
            "exchanges": self.exchanges,
            "errors": self._errors.value,
            "last_error": self.last_error,
        }

    def _stop(self) -> None:
        """Send nothing more, and release what waits."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.is_up = False
        self._release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} {'up' if self.is_up else 'down'}>"
