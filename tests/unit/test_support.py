"""Tests of the tests' own tools."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.outcome import RESET
from tests.support.clock import make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, ScriptedService, after, exchange, response
from tests.support.steps import Engine, steps
from tests.support.transports import TransportPair, Wire
from tests.support.work import calls, grows_with


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
async def test_a_virtual_env_sleeps_on_the_virtual_loop() -> None:
    env = virtual_env()
    start = env.now()
    await env.sleep(3600)
    assert env.now() - start == 3600
    assert await asyncio.to_thread(lambda: "from a thread") == "from a thread"


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
async def test_the_ends_of_a_pair_tell_what_happened_to_them() -> None:
    left, right = Wire(), Wire()
    pair = TransportPair(left, right)
    assert (left.transport, right.transport) == (pair.left, pair.right)
    left.write(b"hello")
    left.transport.close()
    await settle(10)
    assert (bytes(right.received), right.is_eof, right.is_lost) == (b"hello", True, False)
    assert (left.is_lost, left.error) == (True, None)
    right.write(b"too late")
    await settle()
    assert isinstance(right.error, ConnectionResetError)


def test_calls_of_python_and_of_c_are_counted() -> None:
    digit = re.compile("[0-9]")

    def work() -> None:
        for letter in "a1b2":
            digit.match(letter)
            str.upper(letter)

    counted = calls(work)
    assert (counted["Pattern.match '[0-9]'"], counted["str.upper"], counted.total()) == (4, 4, 10)
    assert sys.getprofile() is None


def test_quadratic_work_is_found() -> None:
    def once(size: int) -> Callable[[], object]:
        return lambda: [len("") for _ in range(size)]

    def each_with_each(size: int) -> Callable[[], object]:
        return lambda: [len("") for _ in range(size // 16) for _ in range(size // 16)]

    assert grows_with(once) == ""
    assert "1024 bytes take" in grows_with(each_with_each)


PIECES = ["a", "b", ".", "[ab]", "[^a]", "a*", "b+?", "a?", "(ab)*", "(?:a|b)", "a{1,2}", "[ab]*+", "(?>a|ab)", "(?=a)"]
PIECES += ["(?!b)", "(?<=a)", "(?<!b)"]


@given(st.lists(st.sampled_from(PIECES), max_size=5).map("".join), st.text("ab\n", max_size=8))
def test_steps_are_those_of_a_matcher_that_agrees_with_the_engine(source: str, text: str) -> None:
    pattern = re.compile(source)
    for how in ("match", "fullmatch", "search"):
        engine = Engine(pattern, text.encode())
        found = engine.find(how)
        match = getattr(pattern, how)(text)
        assert found == (None if match is None else match.span()), how


def test_a_dangerous_pattern_takes_many_steps() -> None:
    text = b"a" * 16
    assert steps(re.compile(b"a*b"), text) < 100
    assert steps(re.compile(b"a*a*b"), text) > 256
    assert steps(re.compile(b"(a+)*b"), text) > 2**16
