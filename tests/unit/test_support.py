"""The tests' own tools have to be right first."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.outcome import RESET
from tests.support.clock import make_env
from tests.support.loop import run, settle, virtual, virtual_env
from tests.support.service import HANG, ScriptedService, after, exchange, response
from tests.support.timing import least
from tests.support.transports import TransportPair, Wire


def test_a_fake_clock_fires_its_timers_in_order() -> None:
    env = make_env()
    fired: list[tuple[str, float]] = []
    start = env.now()
    env.call_later(2, lambda: fired.append(("second", env.now() - start)))
    env.call_later(1, lambda: fired.append(("first", env.now() - start)))
    env.call_later(1.5, fired.append, ("never", 0.0)).cancel()
    env.advance(3)
    assert fired == [("first", 1), ("second", 2)]
    assert env.now() - start == 3


async def test_a_fake_sleep_is_recorded_and_moves_the_clock() -> None:
    env = make_env()
    start = env.now()
    await env.sleep(0.5)
    assert (env.sleeps, env.now() - start) == ([0.5], 0.5)


def test_a_meter_sums_what_bears_the_labels() -> None:
    meter = make_env().meter
    meter.counter("refusals", route="a", policy="x").value += 1
    meter.counter("refusals", route="b", policy="x").add(2)
    meter.gauge("active", lambda: 7, route="a")
    assert [meter.value("refusals"), meter.value("refusals", route="b"), meter.value("active", route="a")] == [3, 2, 7]
    assert meter.value("unknown") == 0


@virtual
async def test_a_virtual_loop_jumps_to_its_timers() -> None:
    env = virtual_env()
    start = env.now()
    await env.sleep(3600)
    assert env.now() - start == pytest.approx(3600)


def test_a_virtual_loop_says_when_it_is_deadlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.loop.THREADS", 0.0)

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock"):
        run(forever())


@virtual
async def test_a_scripted_service_plays_its_script() -> None:
    service = ScriptedService(RESET, after(2, 503), lambda x: response(200, x.path), HANG)
    x = exchange("POST", "/a")
    assert (await service(x)).failure is RESET
    assert (await service(x)).status == 503
    assert (await service(x)).body == b"/a"
    hanging = asyncio.ensure_future(service(x))
    await settle()
    assert service.active == 1
    hanging.cancel()
    await settle()
    assert (service.active, service.cancelled, service.calls) == (0, 1, 4)


@virtual
async def test_a_pair_carries_bytes_split_and_delayed() -> None:
    left, right = Wire(), Wire()
    pair = TransportPair(left, right)
    pair.left.split = 2
    pair.left.delay = 0.5
    start = asyncio.get_running_loop().time()
    left.write(b"hello")
    await asyncio.sleep(0.6)
    assert right.received == b"he"
    await asyncio.sleep(1)
    assert (right.received, pair.left.written) == (b"hello", b"hello")
    left.transport.close()
    await asyncio.sleep(1)
    assert left.is_lost
    assert left.error is None
    assert right.is_eof
    assert not right.is_lost
    right.write(b"too late")
    await settle()
    assert isinstance(right.error, ConnectionResetError)
    assert asyncio.get_running_loop().time() - start < 3


@virtual
async def test_a_reader_that_pauses_pauses_the_writer() -> None:
    class Writer(Wire):
        pauses = 0

        def pause_writing(self) -> None:
            self.pauses += 1

        def resume_writing(self) -> None:
            self.pauses -= 1

    left, right = Writer(), Wire()
    pair = TransportPair(left, right)
    pair.right.pause_reading()
    left.write(b"x" * 100_000)
    await settle()
    assert (left.pauses, len(right.received)) == (1, 0)
    pair.right.resume_reading()
    await settle()
    assert (left.pauses, len(right.received)) == (0, 100_000)


@virtual
async def test_an_abort_resets_the_peer() -> None:
    left, right = Wire(), Wire()
    pair = TransportPair(left, right)
    left.write(b"lost")
    pair.left.abort()
    await settle()
    assert (right.received, left.error) == (b"", None)
    assert isinstance(right.error, ConnectionResetError)


def test_least_ends_with_the_first_that_is_quick_enough() -> None:
    calls: list[int] = []
    assert least(lambda: calls.append(1), times=4) > 0
    assert len(calls) == 4
    assert least(lambda: calls.append(1), times=4, enough=1.0) < 1.0
    assert len(calls) == 5
