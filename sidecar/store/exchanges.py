"""Exchanges of one process with a store: batches, a breaker of its own, and what waits for an answer.

Rules:

1. All asks that are due go in one call, at most one at a time and `PACE` apart.
2. A request that needs an answer waits for one call, for `timeout` at most, whatever the client library does then.
   The first fault opens the breaker: waiting requests are released, and later ones do not wait.  A background probe
   closes the breaker again.  A call that has taken `LATE` seconds is late: some requests then go on without it.
3. A call is sent once: what a lost answer granted is spent by nobody.
4. A fault closes all connections: after a failover the name leads to another server.
5. A call that does not end at its time is cancelled again and again.  There is no other call until it has ended, so
   calls of a store that hangs do not pile up.

Rate limits (`shared_limits`) and quotas (`shared_quotas`) say what is asked, and what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

from sidecar.core import events, metrics
from sidecar.core.env import Env, TimerHandle
from sidecar.leases.rate import NEVER
from sidecar.store.spec import StoreSpec

LATE: Final = 0.01
"""Seconds after which a call is late.  Redis answers in less, also from another zone."""
PACE: Final = 0.002
"""Seconds between two calls, at least."""
MAX_ASKS: Final = 500
"""Asks of one call, at most."""
MAX_WAITING: Final = 1000
"""Requests that wait for an answer, at most; more are decided without the store."""
FIRST_PROBE: Final = 0.1
"""Seconds from a fault to the first probe; the time doubles with each probe that fails."""
SLOWEST_PROBE: Final = 1.0
"""Seconds between two probes of a store that stays away.  Processes that find it again at other times admit more in
all: those that have, by the limit, and each other one by its share."""
PROBE_TIMEOUT: Final = 1.0
"""Longest time of a probe in seconds: nobody waits for it, and it may have to connect first."""
STEADY: Final = 10.0
"""Seconds without a fault after which the pause before a probe begins anew."""


class Counts(Protocol):
    """Counts of a store: in Redis, in a file, in the supervisor, or of a test."""

    async def disconnect(self) -> None: ...
    async def close(self) -> None: ...


class StoreLimit(Protocol):
    """Limit of a store, as this process uses it."""

    lessee: Any
    """Leases of the limit: a `RateLessee` or a `QuotaLessee`."""


L = TypeVar("L", bound=StoreLimit)
C = TypeVar("C", bound=Counts)


class Exchanges(Generic[L, C]):
    """Exchanges with one store, which has limits of one kind."""

    def __init__(self, name: str, spec: StoreSpec, env: Env, make: Callable[[StoreSpec], C], timeout: float) -> None:
        """`name` is that of the store in metrics and events, and `make` returns its counts.

        `timeout` is the longest time of a call in seconds, for a store that is no Redis.
        """
        self.limits: dict[str, L] = {}
        """Limits of this process by name."""
        self.is_up = True
        """False while the breaker is open."""
        self.is_late = False
        """True while a call is under way that has taken longer than usual."""
        self.members = 1
        """Processes that used the store lately, as far as it is known."""
        self.called_at = -NEVER
        """Instant of the last call that was sent while the breaker was closed."""
        self.faults = 0
        """Number of times that the breaker has opened."""
        self.last_error = ""
        self.exchanges = 0
        """Calls that were answered."""
        self._name = name
        self._env = env
        self._spec = spec
        self._make = make
        self._counts = make(spec)
        self._timeout_alone = timeout
        self._patience = timeout
        """Longest time of the call that runs, in seconds."""
        self._id = f"{env.rng.getrandbits(64):016x}"
        """Name of this process in the store."""
        self._sent_at = -NEVER
        """Instant of the last call."""
        self._task: Any = None
        """Call that runs; None without one."""
        self._sent: list[tuple[L, Any]] = []
        """Limits and asks of that call."""
        self._is_given_up = False
        """True once nobody waits for that call any more."""
        self._waiting: list[Any] = []
        """Futures of requests that wait for an answer."""
        self._timer: TimerHandle | None = None
        self._timer_at = NEVER
        self._is_closed = False
        self._pause = FIRST_PROBE
        self._up_at = -NEVER
        """Instant at which the breaker has closed."""
        self._errors = env.meter.counter(metrics.STORE_ERRORS, store=name)
        self._calls = env.meter.counter(metrics.STORE_CALLS, store=name)
        env.meter.gauge(metrics.STORE_UP, lambda: float(self.is_up), store=name)

    # ----- what a subclass adds

    async def _send(self, sent: list[tuple[L, Any]], now: float) -> Any:
        """Send asks, and return the answer; without any it is a probe."""
        raise NotImplementedError

    def _read(self, found: Any, sent: list[tuple[L, Any]], began: float, now: float) -> None:
        """Take the result of a call.  Raises any error if it cannot be read."""
        raise NotImplementedError

    # ----- exchanges

    @property
    def _timeout(self) -> float:
        """Longest time of a call in seconds."""
        return self._timeout_alone if self._spec.redis is None else self._spec.redis.timeout

    def retune(self, spec: StoreSpec) -> None:
        """Apply changed settings: another Redis gets new connections, and another file is opened."""
        before, self._spec, self._counts = self._counts, spec, self._make(spec)
        self._env.spawn(before.close())

    def schedule(self) -> None:
        """Send the asks that are due soon: after those of the same turn of the loop, and not before `PACE`."""
        if self._task is None and self.is_up:
            self._arm(max(0.0, self._sent_at + PACE - self._env.now()))

    def wait(self) -> Any:
        """Return a future that ends with the next answer, or when the store fails.

        None if the store is away, or if too many requests wait.
        """
        if not self.is_up or len(self._waiting) >= MAX_WAITING:
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
        if self._is_given_up:
            self._give_up_call()
            return
        if self._task is not None:
            return
        now = self._env.now()
        sent: list[tuple[L, Any]] = []
        if self.is_up:
            sent = self._collect(now)
            if not sent and not self._waiting:
                self._rearm()
                return
            self.called_at = now
        self._sent_at = now
        self._calls.value += 1
        self._sent = sent
        self._task = self._env.spawn(self._send(sent, now))
        self._patience = self._timeout if self.is_up else max(self._timeout, PROBE_TIMEOUT)
        timers = (
            self._env.call_later(LATE, self._turn_late),
            self._env.call_later(self._patience, self._give_up_call),
        )
        self._task.add_done_callback(lambda task: self._finish(task, now, timers))

    def _collect(self, now: float) -> list[tuple[L, Any]]:
        """Return the asks that are due, with their limits."""
        found: list[tuple[L, Any]] = []
        for limit in self.limits.values():
            if len(found) < MAX_ASKS:
                found += [(limit, ask) for ask in limit.lessee.collect(now, MAX_ASKS - len(found))]
        return found

    def _turn_late(self) -> None:
        """Take note that the call takes longer than usual."""
        self.is_late = True

    def _give_up_call(self) -> None:
        """Cancel a call that takes too long, and go on without its answer."""
        if not self._task.done():
            self._is_given_up = True
            self._task.cancel()
            self._fail(_late(self._patience))
            self._release()
            self._rearm()

    def _finish(self, task: Any, began: float, timers: Iterable[TimerHandle]) -> None:
        """Take the result of a call that has ended."""
        for timer in timers:
            timer.cancel()
        self._task = None
        self.is_late = False
        error = _error_of(task)
        if self._is_given_up:
            self._is_given_up = False
            self._rearm()  # a timer that was due between the end of the task and this call has found it running
            return
        if error is None:
            try:
                self._read(task.result(), self._sent, began, self._env.now())
            except Exception as unreadable:  # a store may answer anything
                error = unreadable
        if error is None:
            self.exchanges += 1
            self._recover()
        else:
            self._fail(error)
        self._release()
        self._rearm()

    def _fail(self, error: BaseException) -> None:
        """Count a fault, open the breaker and close all connections."""
        self._give_up_asks()
        self._errors.value += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self._env.spawn(self._counts.disconnect())
        if self.is_up:
            self.is_up = False
            is_steady = self._env.now() - self._up_at >= STEADY
            self._pause = FIRST_PROBE if is_steady else min(SLOWEST_PROBE, 2 * self._pause)
            self.faults += 1
            self._env.emit(events.STORE_DOWN, store=self._name, error=self.last_error)
        else:
            self._pause = min(SLOWEST_PROBE, 2 * self._pause)

    def _give_up_asks(self) -> None:
        """Give up the asks of the call that was not answered."""
        for limit, ask in self._sent:
            limit.lessee.fail(ask)
        self._sent = []

    def _recover(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._up_at = self._env.now()
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
        if self._waiting or any(limit.lessee.is_asking for limit in self.limits.values()):
            self.schedule()
            return
        due = min((limit.lessee.due for limit in self.limits.values()), default=NEVER)
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

    async def _within(self, last: Coroutine[Any, Any, Any]) -> BaseException | None:
        """Run one of the last calls, no longer than a call may take; return its error."""
        task = self._env.spawn(last)
        try:
            await asyncio.wait([task], timeout=self._timeout)
        finally:
            task.cancel()  # without effect once it has ended
        if task.done():
            return _error_of(task)
        task.add_done_callback(_error_of)
        return _late(self._timeout)

    def _stop(self) -> None:
        """Send nothing more, and release what waits."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._is_given_up = True
            self._task.cancel()
            self._give_up_asks()
        self.is_up = False
        self._release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} {'up' if self.is_up else 'down'}>"


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(f"no answer within {seconds:g} s")


def _error_of(task: Any) -> BaseException | None:
    """Return the error of a task that has ended; None if it has a result."""
    error: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
    return error
