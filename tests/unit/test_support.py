"""Tests of the tests' own tools."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.outcome import RESET
from tests.support.clock import make_env
from tests.support.forked import CAN_FORK, ForkedProcess, fork_server
from tests.support.loop import settle, virtual, virtual_env
from tests.support.process import COMMAND, Sidecar, policies
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


@pytest.mark.skipif(not CAN_FORK, reason="there is no fork server here")
async def test_a_forked_sidecar_is_like_a_started_one(tmp_path: Path) -> None:
    async def described(command: Path | None) -> dict[str, Any]:
        directory = tmp_path / ("forked" if command is None else "started")
        directory.mkdir()
        async with Sidecar(policies(), directory, {"OF_THE_TEST": "yes"}, command=command) as sidecar:
            status = Path(f"/proc/{sidecar.pid}/status").read_text().splitlines()
            found: dict[str, Any] = dict(line.split(":\t", 1) for line in status if re.match("Sig(Blk|Ign|Cgt)", line))
            found["group"] = os.getpgid(sidecar.pid)
            found["directory"] = os.readlink(f"/proc/{sidecar.pid}/cwd")
            handles = []
            for handle in Path(f"/proc/{sidecar.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # a file that is read once
                    handles.append(os.readlink(handle))
            handles = [re.sub(r"\d+", "", handle) for handle in handles if not handle.startswith(str(tmp_path))]
            found["handles"] = sorted(handles)
            found["sections"] = sorted(await sidecar.state())
            assert await sidecar.stop() == 0
            found["events"] = [event["event"] for event in sidecar.events if event["event"] != "loop.stalled"]
            found["noise"] = sidecar.noise
            return found

    assert await described(None) == await described(COMMAND)


@pytest.mark.skipif(not CAN_FORK, reason="there is no fork server here")
async def test_a_forked_process_tells_how_it_ended() -> None:
    environ = {**os.environ, "_SIDECAR_COMPLETE": "bash_source"}
    process = await ForkedProcess.start(["sidecar"], environ, 2**16)
    assert b"complete -o nosort" in await process.stdout.read(), "it has this environment"
    assert await process.stderr.read() == b""
    assert await process.wait() == process.returncode == 0
    killed = await ForkedProcess.start(["sidecar", "run", "-"], environ, 2**16)
    killed.kill()
    assert await killed.wait() == -signal.SIGKILL
    await asyncio.gather(killed.stdout.read(), killed.stderr.read())
    killed.kill()  # nothing happens


@pytest.mark.skipif(not CAN_FORK, reason="there is no fork server here")
def test_a_command_that_is_forked_has_its_streams_signals_and_exit_code(tmp_path: Path) -> None:
    command, policy = tmp_path / "sidecar", tmp_path / "policies.yaml"
    fork_server().write_command(command)
    policy.write_text(json.dumps(policies()))
    handles = [fork_server().channel.fileno()]
    done = subprocess.run([command, "check", "nowhere"], cwd=tmp_path, capture_output=True, text=True, pass_fds=handles)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file or directory" in done.stderr
    running = subprocess.Popen([command, "run", policy], stderr=subprocess.PIPE, text=True, pass_fds=handles)
    with running as process:
        assert process.stderr is not None
        assert any('"ready"' in line for line in process.stderr)
        process.terminate()
        assert '"stopped"' in process.stderr.read()
    assert process.returncode == 0
