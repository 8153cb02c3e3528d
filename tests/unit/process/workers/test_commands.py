"""Tests of admin commands for all workers, while workers die or hang."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from sidecar.process.workers.commands import REPLY_SECONDS, JoinedCommands
from tests.support.loop import settle, virtual, virtual_env


class Case:
    """Two workers; a worker answers once a test says so."""

    def __init__(self) -> None:
        self.env = virtual_env()
        self.asked: list[tuple[int, int]] = []
        workers = [SimpleNamespace(number=number, send=self._sender(number)) for number in range(2)]
        children: Any = SimpleNamespace(ready=workers)
        none: Any = None
        self.commands = JoinedCommands(self.env, children, none, none)

    def _sender(self, number: int) -> Any:
        return lambda kind, call, *_: self.asked.append((number, call))

    def reply(self, worker: int, result: Any) -> None:
        call = next(call for number, call in reversed(self.asked) if number == worker)
        assert self.commands.receive(worker, ["reply", call, 200, result])


@virtual
async def test_a_worker_that_dies_while_it_is_asked_holds_nobody() -> None:
    case = Case()
    asking = asyncio.ensure_future(case.commands.call("purge", "all"))
    await settle()
    case.reply(0, {"shop": 3})
    case.commands.leave(1)
    began = case.env.now()
    assert await asking == (503, {"detail": "worker 2 has ended"})
    assert case.env.now() == began


@virtual
async def test_a_worker_that_hangs_holds_a_command_for_a_bounded_time_and_its_late_reply_is_ignored() -> None:
    case = Case()
    asking = asyncio.ensure_future(case.commands.ask("parts"))
    await settle()
    case.reply(0, [])
    began = case.env.now()
    assert await asking == {0: (200, [])}
    assert case.env.now() - began == REPLY_SECONDS
    case.reply(1, [])


@virtual
async def test_a_client_that_leaves_leaves_no_call_behind() -> None:
    case = Case()
    asking = asyncio.ensure_future(case.commands.ask("parts"))
    await settle()
    asking.cancel()
    await settle()
    assert case.commands._calls == {}
