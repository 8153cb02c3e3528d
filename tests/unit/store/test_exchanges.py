"""Tests of exchanges with a store whose client library hangs: requests are released, and calls do not pile up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import events
from sidecar.leases.quota import QuotaGrant
from sidecar.store.exchanges import FIRST_PROBE, SLOWEST_PROBE
from sidecar.store.shared_quotas import Order, SharedQuota, SharedQuotas
from sidecar.store.spec import StoreSpec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env

TIMEOUT = 0.02
SPEC = StoreSpec.model_validate({"redis": {"url": "redis://127.0.0.1:1/0", "timeout": "20ms"}})


class StubbornLedger:
    """Client library that goes on after a cancellation, until `end` is set."""

    def __init__(self) -> None:
        self.epoch = ""
        self.end = asyncio.Event()
        self.is_stubborn = True
        self.calls = self.running = 0
        self.error: Exception | None = None

    async def exchange(self, me: str, orders: list[Order]) -> tuple[int, list[QuotaGrant]]:
        self.calls += 1
        self.running += 1
        await self._hang()
        self.running -= 1
        if self.error is not None:
            raise self.error
        return 1, [QuotaGrant(order.ask.want, 0.0, False) for order in orders]

    async def disconnect(self) -> None:
        await self._hang()

    async def close(self) -> None:
        await self._hang()

    async def _hang(self) -> None:
        while not self.end.is_set():
            try:
                await self.end.wait()
            except asyncio.CancelledError:
                if not self.is_stubborn:  # else it goes on, as a library does that waits in its own clean-up
                    raise


class Case:
    """Store with one quota."""

    def __init__(self, env: FakeEnv | None = None) -> None:
        self.env = env or virtual_env()
        self.ledger = StubbornLedger()
        self.store = SharedQuotas("fleet", SPEC, self.env, lambda _: self.ledger)
        self.quota = SharedQuota(self.store, "day", 10.0, 100)
        self.quota.roll(0.0, 86_400.0)

    def ask(self) -> Any:
        """Ask for one unit, as a request does; return the future that it waits for."""
        self.quota.lessee.take("k", 1.0, self.env.now())
        self.quota.lessee.wait("k", 1.0)
        return self.store.wait()


async def test_a_probe_follows_although_the_loop_was_late() -> None:
    """Timers of uvloop run before callbacks of the same turn: here, after the task has ended and before it is told."""
    case = Case(make_env())
    case.ask()
    case.env.advance(0.0)
    await asyncio.sleep(0)
    case.ledger.is_stubborn = False
    case.env.advance(TIMEOUT)
    await asyncio.sleep(0)  # the cancelled task has ended, and nobody has been told
    case.env.advance(FIRST_PROBE)
    await settle()
    case.ledger.end.set()
    case.env.advance(FIRST_PROBE)
    await settle()
    assert case.ledger.calls == 2
    assert case.store.is_up


@virtual
async def test_a_call_that_does_not_end_holds_requests_no_longer_than_its_time() -> None:
    case = Case()
    began = case.env.now()
    await case.ask()
    assert case.env.now() - began == pytest.approx(TIMEOUT, abs=0.001)
    assert not case.store.is_up
    assert case.store.wait() is None, "nothing waits for a store that is away"
    case.ledger.end.set()


@virtual
async def test_calls_that_do_not_end_do_not_pile_up_and_the_store_comes_back_with_the_last() -> None:
    case = Case()
    await case.ask()
    await case.env.sleep(600.0)
    assert case.ledger.calls == case.ledger.running == 1
    assert case.store.last_error == "TimeoutError: no answer within 0.02 s"
    case.ledger.end.set()
    await case.env.sleep(SLOWEST_PROBE + 1.0)
    assert case.store.is_up
    assert [name for name, _ in case.env.events] == [events.STORE_DOWN, events.STORE_UP]
    await case.ask()
    assert case.quota.lessee.leases["k"].held >= 1


@virtual
async def test_a_late_error_of_a_call_is_no_second_fault() -> None:
    case = Case()
    await case.ask()
    faults = case.store.describe()["errors"]
    case.ledger.error = OSError("gone")
    case.ledger.end.set()
    await settle()
    assert case.store.describe()["errors"] == faults


@virtual
async def test_the_end_of_the_process_waits_no_longer_than_two_calls() -> None:
    case = Case()
    case.quota.lessee.take("k", 1.0, case.env.now())
    case.quota.lessee.leases["k"].held = 5.0
    began = case.env.now()
    await case.store.give_back()
    assert case.env.now() - began == pytest.approx(2 * TIMEOUT, abs=0.001)
    assert case.ledger.calls == 1
    case.ledger.end.set()


@virtual
async def test_a_debt_of_a_call_in_flight_is_told_at_the_end_of_the_process() -> None:
    case = Case()
    told: list[float] = []

    async def exchange(me: str, orders: list[Order]) -> tuple[int, list[QuotaGrant]]:
        told.extend(order.ask.owed for order in orders)
        await case.env.sleep(0.01)
        return 1, [QuotaGrant(0.0, 0.0, False) for _ in orders]

    case.ledger.exchange = exchange  # type: ignore[method-assign]
    case.ledger.end.set()
    assert case.quota.take_alone("k", 3.0, case.env.now(), is_bounded=False)
    case.quota.lessee.owe()
    await case.env.sleep(0.005)
    assert told == [3.0]
    await case.store.give_back()
    assert told == [3.0, 3.0]


class FarLedger:
    """Redis 5 ms away: a connection takes four round trips before the first call (TCP, SELECT, EVALSHA, EVAL)."""

    def __init__(self, env: Any) -> None:
        self.epoch, self.env, self.is_connected = "", env, False

    async def exchange(self, me: str, orders: list[Order]) -> tuple[int, list[QuotaGrant]]:
        if not self.is_connected:
            await self.env.sleep(0.020)
            self.is_connected = True
        await self.env.sleep(0.005)
        return 1, [QuotaGrant(order.ask.want, 0.0, False) for order in orders]

    async def disconnect(self) -> None:
        self.is_connected = False

    async def close(self) -> None: ...


@virtual
async def test_a_store_whose_calls_take_a_quarter_of_the_timeout_comes_up() -> None:
    env = virtual_env()
    store = SharedQuotas("fleet", SPEC, env, lambda _: FarLedger(env))
    quota = SharedQuota(store, "day", 10.0, 100)
    quota.roll(0.0, 86_400.0)
    quota.lessee.take("k", 1.0, env.now())
    quota.lessee.wait("k", 1.0)
    await store.wait()
    await env.sleep(10 * SLOWEST_PROBE)
    assert store.is_up, store.last_error


@virtual
async def test_a_store_that_comes_and_goes_is_probed_less_and_less_often() -> None:
    case = Case()
    case.ledger.is_stubborn = False
    case.ledger.end.set()
    for turn in range(200):
        if case.store.is_up:
            case.ledger.error = OSError("gone")
            case.quota.lessee.take(f"{turn}", 1.0, case.env.now())
            case.quota.lessee.wait(f"{turn}", 1.0)
            await case.store.wait()
            case.ledger.error = None
        await case.env.sleep(0.2)
    went = [name for name, _ in case.env.events].count(events.STORE_DOWN)
    assert 10 <= went <= 60, "40 s; a first probe after 0.1 s each time would find it 200 times"
