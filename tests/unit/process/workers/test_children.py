"""Tests of workers as the supervisor sees them: workers that end in a loop, hang, or cannot be started."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.core import events
from sidecar.process.workers import children as module
from sidecar.process.workers import inbox
from sidecar.process.workers.board import BEAT, HANDED
from sidecar.process.workers.children import (
    KILL_SECONDS,
    LONGEST_PAUSE,
    SETTLED_SECONDS,
    START_SECONDS,
    Child,
    Children,
)
from tests.support.clock import FakeEnv
from tests.support.loop import virtual, virtual_env


class FakeProcess:
    """Process that ends when it is told to, or killed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self.killed: Callable[[], None] = lambda: None

    def poll(self) -> int | None:
        return self.code

    def wait(self) -> int:
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        self.code = -signal.SIGKILL
        self.killed()


async def at_once(call: Callable[[], Any]) -> Any:
    return call()


class Case:
    """Workers whose processes are fakes, without channels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
        self.env: FakeEnv = virtual_env()
        self.starts: list[float] = []
        self.fault: OSError | None = None
        self.codes: list[int] = []
        self.children = Children(
            count, self.env, lambda *_: None, lambda _: None, lambda _, code: self.codes.append(code)
        )
        monkeypatch.setattr(module, "start_again", self._start)
        monkeypatch.setattr(module, "_connect", self._connect)
        monkeypatch.setattr(asyncio, "to_thread", at_once)  # virtual time does not wait for threads

    def _start(self, environ: object, handles: object, *, is_session: bool) -> Any:
        if self.fault is not None:
            raise self.fault
        self.starts.append(self.env.now())
        return FakeProcess(len(self.starts))

    async def _connect(self, channel: object, sock: socket.socket) -> None:
        sock.close()

    async def watch(self, seconds: float) -> None:
        """Look at the workers for a while, as the supervisor does."""
        for _ in range(int(seconds)):
            await self.env.sleep(1.0)
            self.children.look()

    def end(self, child: Child, code: int) -> None:
        """End a worker's process, and with it its channel."""
        process: Any = child.process
        process.code = code
        self.children._lose(child)

    def beat(self, worker: int) -> None:
        """Note a turn of a worker's loop."""
        self.children.board.set(worker, BEAT, int(self.env.now() * 1e9))

    def ended(self) -> list[dict[str, Any]]:
        return [facts for name, facts in self.env.events if name == events.WORKER_ENDED]


@virtual
async def test_a_worker_that_ends_in_a_loop_is_started_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, 1)
    (child,) = case.children
    case.children.start()
    for _ in range(12):
        case.end(child, 3)
        await case.env.sleep(LONGEST_PAUSE + 1)
    pauses = [facts["starts_again_in"] for facts in case.ended()]
    assert pauses[:4] == [0.0, 0.1, 0.2, 0.4]
    assert pauses[-3:] == [LONGEST_PAUSE] * 3
    assert {facts["cause"] for facts in case.ended()} == {"exit code 3"}
    case.children.greet(child)
    await case.env.sleep(SETTLED_SECONDS)
    case.end(child, -signal.SIGSEGV)
    await case.env.sleep(0.1)
    assert (case.ended()[-1]["starts_again_in"], case.ended()[-1]["cause"]) == (0.0, "signal SIGSEGV")
    await case.children.close()


@pytest.mark.parametrize("place", ["socketpair", "process"])
def test_a_worker_that_cannot_be_started_for_want_of_descriptors_is_started_later(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    @virtual
    async def run() -> None:
        case = Case(monkeypatch, 1)
        (child,) = case.children
        fault = OSError(errno.EMFILE, "Too many open files")
        with monkeypatch.context() as patch:
            if place == "process":
                case.fault = fault
            else:

                def refuse() -> None:
                    raise fault

                patch.setattr(socket, "socketpair", refuse)
            case.children.start()
            await case.env.sleep(1.0)
            assert case.starts == []
            case.fault = None
        assert len(case.ended()) > 2
        assert {facts["cause"] for facts in case.ended()} == {"cannot start: Too many open files"}
        await case.env.sleep(LONGEST_PAUSE)
        assert len(case.starts) == 1
        assert child.state == "starting"
        await case.children.close()

    run()


@virtual
async def test_a_worker_that_never_becomes_ready_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    first, second = case.children
    case.children.start()
    case.children.greet(first)
    await case.watch(START_SECONDS + 1)
    assert [each.process.poll() for each in (first, second) if each.process] == [None, -signal.SIGKILL]
    assert [each.number for each in case.children.ready] == [0]
    await case.children.close()


@virtual
async def test_a_worker_whose_loop_hangs_is_no_longer_first_and_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    first, second = case.children
    case.children.start()
    case.children.greet(first)
    case.children.greet(second)
    assert case.children.first == 0
    await case.watch(1)
    case.beat(0)
    await case.env.sleep(3.0)
    case.beat(1)
    case.children.look()
    assert (first.state, second.state, case.children.first) == ("stuck", "ready", 1)
    await case.watch(KILL_SECONDS)
    assert first.process is not None
    assert first.process.poll() == -signal.SIGKILL
    await case.children.close()


@virtual
async def test_workers_that_were_stopped_with_their_supervisor_are_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.children.start()
    for child in case.children:
        case.children.greet(child)
        case.beat(child.number)
    await case.watch(1)
    await case.env.sleep(2 * KILL_SECONDS)
    case.children.look()  # before the workers have made a turn
    case.beat(0)
    await case.watch(1)
    assert [child.state for child in case.children] == ["ready", "stuck"]
    assert [each.process.poll() for each in case.children if each.process] == [None, -signal.SIGKILL]
    await case.children.close()


@virtual
async def test_a_connection_stays_with_a_worker_that_hangs_while_the_other_inbox_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch)
    first, second = case.children
    board = case.children.board
    case.children.start()
    for child in case.children:
        case.children.greet(child)
        case.beat(child.number)
    with socket.socket() as sock:
        while inbox.send(second.inbox, ["client", "other"], sock):
            pass
        board.add(1, HANDED)
        assert inbox.send(first.inbox, ["client", "in"], sock)
        await case.env.sleep(3.0)
        case.beat(1)
        case.children.look()
        assert (first.state, board.on_their_way(0), board.on_their_way(1)) == ("stuck", 1, 0)
        while (packet := inbox.receive(second.read_inbox)) is not None:
            packet[1].close()
        await case.watch(1)
    assert (board.on_their_way(0), board.on_their_way(1)) == (0, 1)
    packet = inbox.receive(second.read_inbox)
    assert packet is not None
    assert packet[0] == ["client", "in"]
    packet[1].close()
    await case.children.close()
