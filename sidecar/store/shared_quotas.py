"""Quotas whose counts are in a store, so that a restart forgets nothing: in Redis, or in a file.

Rules:

1. A process leases units (`sidecar.leases.quota`), with one call for all asks of all quotas that are due (`exchanges`).
2. While the store is away, each process has a share of what was left (`take_alone`).  What it admits then is told to
   the store later.
3. A process that ends gives back what it has not used (`give_back`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from sidecar.core.env import Env
from sidecar.leases.quota import QuotaAsk, QuotaGrant, QuotaLessee, QuotaTable
from sidecar.store.exchanges import Counts, Exchanges
from sidecar.store.spec import StoreSpec

FILE_TIMEOUT: Final = 0.5
"""Longest wait for a transaction of a file, in seconds."""
MEMBER_FOR: Final = 60.0
"""Seconds for which a process counts as one that uses the store."""


class Order(NamedTuple):
    """Ask, with what the store has to know of the quota."""

    quota: str
    """Name of the quota in the store."""
    most: float
    """Units of each key in a window."""
    max_keys: int
    """Most keys that are counted one by one in a window."""
    ends: float
    """Unix time of the end of the window."""
    ask: QuotaAsk


class Ledger(Counts, Protocol):
    """Counts of quotas: in Redis, in a file, or of a test."""

    epoch: str
    """Epoch of the counts, as the last answer had it: another one if they were lost; empty if they cannot be."""

    async def exchange(self, me: str, orders: Sequence[Order]) -> tuple[int, list[QuotaGrant]]:
        """Return the number of processes that use the counts, and the answer to each order."""


class InProcessLedger:
    """Counts of quotas in this process, for policy tests."""

    def __init__(self) -> None:
        self.epoch = ""
        self._tables: dict[str, QuotaTable] = {}

    async def exchange(self, me: str, orders: Sequence[Order]) -> tuple[int, list[QuotaGrant]]:
        """Return 1, and the answer to each order."""
        return 1, [self.grant(order) for order in orders]

    def grant(self, order: Order) -> QuotaGrant:
        """Return the answer to an order."""
        table = self._tables.setdefault(order.quota, QuotaTable(order.most, order.max_keys))
        return table.grant(order.ask)

    async def disconnect(self) -> None:
        """Do nothing: there is no connection."""

    async def close(self) -> None:
        """Do nothing: there is no connection."""


class SharedQuota:
    """One quota of a store."""

    def __init__(self, store: SharedQuotas, name: str, most: float, max_keys: int) -> None:
        self.store = store
        self.name = name
        """Name of the quota in the store, the same in all processes."""
        self.lessee = QuotaLessee(most, max_keys)
        self.lessee.on_ask = store.schedule
        self.ends = 0.0
        """Unix time of the end of the current window."""
        store.limits[name] = self

    def roll(self, start: float, ends: float) -> None:
        """Begin a window, unless it is the current one."""
        self.lessee.roll(start)
        if self.lessee.start == start:
            self.ends = ends

    def take_alone(self, key: str, cost: float, now: float, *, is_bounded: bool) -> bool:
        """Count a request without the store; False if the share of this process is used up."""
        store = self.store
        return self.lessee.take_alone(key, cost, now, store.faults + 1, store.members, is_bounded=is_bounded)

    def retire(self) -> None:
        """Remove the quota from its store, which gets the units back that are not used."""
        if self.store.limits.get(self.name) is self:
            del self.store.limits[self.name]
            self.store.give_back_soon(self)


class SharedQuotas(Exchanges[SharedQuota, Ledger]):
    """Quotas of one store, and the exchanges with it."""

    def __init__(self, name: str, spec: StoreSpec, env: Env, make: Callable[[StoreSpec], Ledger] | None = None) -> None:
        """`make` returns the counts of a store.  Raises `ImportError` without the library that they need."""
        super().__init__(f"{name}:quotas", spec, env, make or self._open, FILE_TIMEOUT)

    def _open(self, spec: StoreSpec) -> Ledger:
        if spec.redis is not None:
            from sidecar.store.quota_script import RedisLedger

            return RedisLedger(spec.redis, self._env.names, self._env.wall)
        if spec.file is not None:
            from sidecar.store.quota_file import QuotaFile

            return QuotaFile(spec.file, self._env.wall)
        return InProcessLedger()

    async def _send(self, sent: list[tuple[SharedQuota, QuotaAsk]], now: float) -> Any:
        return await self._counts.exchange(self._id, _orders(sent))

    def _read(self, found: Any, sent: list[tuple[SharedQuota, QuotaAsk]], began: float, now: float) -> None:
        members, grants = found
        self.members = max(1, members)
        for (quota, ask), grant in zip(sent, grants, strict=True):
            quota.lessee.receive(ask, grant, now, self._counts.epoch)
        if not self.is_up:
            for quota in self.limits.values():
                quota.lessee.owe()

    def give_back_soon(self, quota: SharedQuota) -> None:
        """Give the units of a quota back in the background."""
        if not self._is_closed:
            self._env.spawn(self._give_back([quota], self._counts))

    async def give_back(self) -> None:
        """Give all units back, and close the store; the process ends.  Waits no longer than two calls may take."""
        quotas, ledger = list(self.limits.values()), self._counts
        if not self._is_closed:
            self._stop()
            await self._give_back(quotas, ledger)
            await self._within(ledger.close())

    async def _give_back(self, quotas: list[SharedQuota], ledger: Ledger) -> None:
        now = self._env.now()
        sent = [(quota, ask) for quota in quotas for ask in quota.lessee.give_back(now)]
        if sent and (error := await self._within(ledger.exchange(self._id, _orders(sent)))) is not None:
            self._errors.value += 1
            self.last_error = f"{type(error).__name__}: {error}"

    def describe(self) -> dict[str, Any]:
        """Return the state as JSON-ready values."""
        return {**super().describe(), "quotas": len(self.limits)}

    def retire(self) -> None:
        """Stop.  Units are given back and connections closed in the background."""
        if not self._is_closed:
            self._env.spawn(self.give_back())


def _orders(sent: list[tuple[SharedQuota, QuotaAsk]]) -> list[Order]:
    return [Order(quota.name, quota.lessee.most, quota.lessee.max_keys, quota.ends, ask) for quota, ask in sent]
