"""Rate limits whose counts are in a store that several processes share.

Rules:

1. A process leases tokens (`sidecar.leases.rate`).  All asks of all limits that are due go in one call of a script, at
   most one at a time and `PACE` apart; a request that finds tokens waits for nothing.
2. A request whose key has no lease waits for one answer, for `timeout` at most.  The first fault opens the breaker:
   waiting requests are released, and later ones do not wait.  A background probe closes the breaker again.
3. While the store is away a limit holds by its fair share (`fall_back`): the rate divided by the processes that were
   seen last, with an empty bucket at the beginning.
4. A call is sent once.  Tokens of a lost answer are spent by nobody.
5. A fault closes all connections: after a failover the name leads to another server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from sidecar.core import events, metrics
from sidecar.core.env import Env, TimerHandle
from sidecar.leases.rate import NEVER, Ask, Grant, RateLessee, RateLessor
from sidecar.store.script import LEASES
from sidecar.store.spec import StoreSpec

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
MICRO: Final = 1e6
PREFIX: Final = "sidecar:limits:"
"""Beginning of all keys in the store."""
IN_PROCESS_TIMEOUT: Final = 0.05
"""Seconds that a store without Redis may take for an answer."""


class Script(Protocol):
    """Script that grants leases: in Redis, or of a test."""

    async def run(self, keys: list[str], arguments: list[str]) -> list[Any]: ...
    async def disconnect(self) -> None: ...
    async def close(self) -> None: ...


class SharedLimit:
    """One rate limit of a store."""

    def __init__(
        self, store: SharedLimits, name: str, rate: float, capacity: float, lease: float, max_keys: int
    ) -> None:
        self.store = store
        self.name = name
        """Name of the limit in the store, the same in all processes."""
        self.lessee = RateLessee(rate, capacity, lease, max_keys)
        self.lessee.on_ask = store.schedule
        self._rate, self._capacity = rate, capacity
        self._share: RateLessor | None = None
        """Limit of this process alone, while the store is away."""
        self._share_of = 0
        store.limits[name] = self

    def retune(self, rate: float, capacity: float, lease: float, max_keys: int) -> None:
        """Apply other settings; leases of the old ones are given up."""
        self.lessee.retune(rate, capacity, lease, max_keys)
        self._rate, self._capacity, self._share = rate, capacity, None

    def fall_back(self, key: str, cost: float, now: float) -> float:
        """Count a request by the fair share of this process; return 0 to admit it, or the seconds to wait."""
        members = self.store.members
        if self._share is None or self._share_of != self.store.faults:
            capacity = max(self._capacity / members, 1.0)
            self._share = RateLessor(self._rate / members, capacity, 0.0, self.lessee.max_keys)
            self._share.lost_at = self.store.down_at
            self._share_of = self.store.faults
        cost = min(cost, self._share.depth / self._share.interval)
        return self._share.exchange(Ask(key, cost, cost, cost, 0.0, 0.0), now).wait

    def retire(self) -> None:
        """Remove the limit from its store."""
        if self.store.limits.get(self.name) is self:
            del self.store.limits[self.name]


class SharedLimits:
    """Rate limits of one store, and the exchanges with it."""

    def __init__(
        self,
        name: str,
        spec: StoreSpec,
        env: Env,
        make: Callable[[StoreSpec], Script] | None = None,
        timeout: float = IN_PROCESS_TIMEOUT,
    ) -> None:
        """Take a function `make` that returns the script of a store; by default one in Redis.

        `timeout` is the longest wait for an answer, in seconds, without Redis.  Raises `ImportError` without redis-py.
        """
        self.limits: dict[str, SharedLimit] = {}
        """Limits by name."""
        self.is_up = True
        """False while the breaker is open."""
        self.members = 1
        """Processes that used the store within seconds, as far as it is known."""
        self.down_at = -NEVER
        """Instant of the last fault that opened the breaker."""
        self.faults = 0
        """Number of times that the breaker has opened."""
        self.last_error = ""
        self.exchanges = 0
        """Calls that were answered."""
        self._name = name
        self._spec = spec
        self._timeout_alone = timeout
        self._env = env
        self._make = make or self._in_redis
        self._script = self._make(spec)
        self._id = f"{env.rng.getrandbits(64):016x}"
        """Name of this process in the store."""
        self._epoch = ""
        """Epoch of the store, as the last answer had it."""
        self._sent_at = -NEVER
        """Instant of the last call."""
        self._answered_at = -NEVER
        """Instant of the last call that was answered."""
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

    def _in_redis(self, spec: StoreSpec) -> Script:
        if spec.redis is None:
            from sidecar.store.in_process import InProcessScript

            return InProcessScript(self._env.now)
        from sidecar.store.redis import RedisScript

        return RedisScript(spec.redis, LEASES, self._env.names)

    @property
    def _timeout(self) -> float:
        return self._timeout_alone if self._spec.redis is None else self._spec.redis.timeout

    def retune(self, spec: StoreSpec) -> None:
        """Apply changed settings: another Redis gets new connections."""
        before, self._spec, self._script = self._script, spec, self._make(spec)
        self._epoch, self._answered_at = "", -NEVER
        self._env.spawn(before.close())

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

    # ----- exchanges

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
        sent: list[tuple[SharedLimit, Ask]] = []
        if self.is_up:
            for limit in self.limits.values():
                if len(sent) < MAX_ASKS:
                    sent += [(limit, ask) for ask in limit.lessee.collect(now, MAX_ASKS - len(sent))]
            if not sent and not self._waiting:
                self._rearm()
                return
        self._sent_at = now
        self._task = self._env.spawn(self._script.run(*self._write(sent, now)))
        timer = self._env.call_later(self._timeout, self._task.cancel)
        self._task.add_done_callback(lambda task: self._finish(task, sent, now, timer))

    def _write(self, sent: list[tuple[SharedLimit, Ask]], now: float) -> tuple[list[str], list[str]]:
        """Return keys and arguments of the script."""
        elapsed = now - self._answered_at
        keys = [f"{PREFIX}clock", f"{PREFIX}processes"]
        arguments = [
            "-1" if elapsed == NEVER else f"{elapsed * MICRO:.3f}", self._id, self._epoch,
            f"{self._env.rng.getrandbits(64):016x}",
        ]  # fmt: skip
        for limit, ask in sent:
            lessee = limit.lessee
            keys.append(f"{PREFIX}{limit.name}:{ask.key}")
            settings = (lessee.interval * MICRO, lessee.depth * MICRO, lessee.lease * MICRO)
            numbers = (*settings, ask.least, ask.firm, ask.want, ask.back, ask.stamp)
            arguments += [f"{number:.17g}" for number in numbers]
        return keys, arguments

    def _finish(self, task: Any, sent: list[tuple[SharedLimit, Ask]], began: float, timer: TimerHandle) -> None:
        timer.cancel()
        self._task = None
        self._calls.value += 1
        now = self._env.now()
        try:
            found = task.result()
            answers = [float(each) for each in found[3:]]
            stamp, epoch, members = float(found[0]), found[1].decode(), int(found[2])
        except asyncio.CancelledError:
            self._fail(TimeoutError(f"no answer within {self._timeout:g} s"), sent)
        except Exception as error:  # a client library may raise anything
            self._fail(error, sent)
        else:
            self.exchanges += 1
            self._epoch, self.members, self._answered_at = epoch, max(1, members), began
            for index, (limit, ask) in enumerate(sent):
                tokens, start, wait = answers[3 * index : 3 * index + 3]
                limit.lessee.receive(ask, Grant(tokens, start / MICRO, wait / MICRO, stamp), now)
            self._recover()
        self._release()
        self._rearm()

    def _fail(self, error: Exception, sent: list[tuple[SharedLimit, Ask]]) -> None:
        """Count a fault, open the breaker and close all connections."""
        for limit, ask in sent:
            limit.lessee.fail(ask)
        self._errors.value += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self._env.spawn(self._script.disconnect())
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
            "limits": len(self.limits),
            "exchanges": self.exchanges,
            "errors": self._errors.value,
            "last_error": self.last_error,
        }

    def retire(self) -> None:
        """Stop; connections are closed in the background."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.is_up = False
        self.limits.clear()
        self._release()
        self._env.spawn(self._script.close())

    def __repr__(self) -> str:
        return f"<SharedLimits {self._name} {'up' if self.is_up else 'down'}>"
