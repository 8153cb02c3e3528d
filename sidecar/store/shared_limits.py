"""Rate limits whose counts are in a store that several processes share.

Rules:

1. A process leases tokens (`sidecar.leases.rate`).  All asks of all limits that are due go in one call of a script
   (`exchanges`); a request that finds tokens waits for nothing.
2. While the store is away a limit holds by its fair share (`find_share`): the rate divided by the processes that were
   seen last.  A key begins with what was left of it when the store was last asked; one that is not known, with room for
   one request.  The store is told afterwards what was admitted.
3. While a call is late, that share admits requests which would wait for it.  The store is told with the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from sidecar.core.env import Env
from sidecar.leases.rate import NEVER, Ask, Grant, RateLessee
from sidecar.limits.gcra import Gcra
from sidecar.store.exchanges import LATE, MAX_ASKS, Counts, Exchanges
from sidecar.store.script import LEASES
from sidecar.store.spec import StoreSpec

MICRO: Final = 1e6
PREFIX: Final = "sidecar:limits:"
"""Beginning of all keys in the store."""
IN_PROCESS_TIMEOUT: Final = 0.05
"""Seconds that a store without Redis may take for an answer."""


class Script(Counts, Protocol):
    """Script that grants leases: in Redis, or of a test."""

    async def run(self, keys: list[str], arguments: list[str]) -> list[Any]: ...


class SharedLimit:
    """One rate limit of a store."""

    def __init__(
        self, store: SharedLimits, name: str, rate: float, capacity: float, lease: float, max_keys: int,
        debt: float = 0.0,
    ) -> None:  # fmt: skip
        self.store = store
        self.name = name
        """Name of the limit in the store, the same in all processes."""
        self.lessee = RateLessee(rate, capacity, lease, max_keys)
        self.lessee.on_ask = store.schedule
        self._rate, self._capacity = rate, capacity
        self.debt = debt
        """Seconds for which costs that were known too late may use up the limit ahead."""
        self._share: Gcra | None = None
        """Limit of this process alone, while the store is away or late."""
        self._share_of = (0, 0)
        """Calls that had been answered, and outages that had begun, when the share began."""
        store.limits[name] = self

    def retune(self, rate: float, capacity: float, lease: float, max_keys: int, debt: float = 0.0) -> None:
        """Apply other settings; leases of the old ones are given up."""
        self.lessee.retune(rate, capacity, lease, max_keys)
        self._rate, self._capacity, self.debt, self._share = rate, capacity, debt, None

    def find_share(self) -> Gcra:
        """Return the limit of this process alone, until the store answers."""
        store = self.store
        share = self._share
        if share is None or self._share_of != (store.exchanges, store.faults):
            members = store.members
            share = Gcra(self._rate / members, max(self._capacity / members, 1.0), self.lessee.max_keys)
            share.max_debt = self.debt
            share.full_at = store.called_at + LATE + share.depth - share.interval
            self._share, self._share_of = share, (store.exchanges, store.faults)
        return share

    def retire(self) -> None:
        """Remove the limit from its store."""
        if self.store.limits.get(self.name) is self:
            del self.store.limits[self.name]


class SharedLimits(Exchanges[SharedLimit, Script]):
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
        super().__init__(name, spec, env, make or self._in_redis, timeout)
        self._epoch = ""
        """Epoch of the store, as the last answer had it."""
        self._answered_at = -NEVER
        """Instant of the last call that was answered."""

    def _in_redis(self, spec: StoreSpec) -> Script:
        if spec.redis is None:
            from sidecar.store.in_process import InProcessScript

            return InProcessScript(self._env.now)
        from sidecar.store.redis import RedisScript

        return RedisScript(spec.redis, LEASES, self._env.names)

    def retune(self, spec: StoreSpec) -> None:
        super().retune(spec)
        self._epoch, self._answered_at = "", -NEVER

    def _turn_late(self) -> None:
        """Let the requests that wait be decided anew, by the fair share."""
        super()._turn_late()
        self._release()

    def _collect(self, now: float) -> list[tuple[SharedLimit, Ask]]:
        """Return the asks that are due, and those that go along with them."""
        found = super()._collect(now)
        if found:
            for limit in self.limits.values():
                if len(found) < MAX_ASKS:
                    found += [(limit, ask) for ask in limit.lessee.collect_old(now, MAX_ASKS - len(found))]
        return found

    async def _send(self, sent: list[tuple[SharedLimit, Ask]], now: float) -> Any:
        return await self._counts.run(*self._write(sent, now))

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
            settings = (lessee.interval * MICRO, lessee.depth * MICRO, lessee.lease * MICRO, limit.debt * MICRO)
            numbers = (*settings, ask.least, ask.firm, ask.want, ask.back, ask.stamp, ask.owed)
            arguments += [f"{number:.17g}" for number in numbers]
        return keys, arguments

    def _read(self, found: Any, sent: list[tuple[SharedLimit, Ask]], began: float, now: float) -> None:
        answers = [float(each) for each in found[3:]]
        stamp = float(found[0])
        self._epoch, self.members, self._answered_at = found[1].decode(), max(1, int(found[2])), began
        for index, (limit, ask) in enumerate(sent):
            tokens, start, wait = answers[3 * index : 3 * index + 3]
            limit.lessee.receive(ask, Grant(tokens, start / MICRO, wait / MICRO, stamp), now)

    def describe(self) -> dict[str, Any]:
        """Return the state as JSON-ready values."""
        return {**super().describe(), "limits": len(self.limits)}

    def retire(self) -> None:
        """Stop; connections are closed in the background."""
        self._stop()
        self.limits.clear()
        self._env.spawn(self._counts.close())
