"""Connections in memory have the manners of TCP."""

from __future__ import annotations

import asyncio
from typing import Any

from sidecar.simulation.network import HIGH_WATER, MemoryLoop, MemoryTransport, join
from tests.support.loop import settle


class Peer(asyncio.Protocol):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.data = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def pause_writing(self) -> None:
        self.seen.append("pause")

    def resume_writing(self) -> None:
        self.seen.append("resume")

    def eof_received(self) -> bool:
        self.seen.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.seen.append(type(exc).__name__ if exc else "lost")


def play(scene: Any) -> None:
    async def main() -> None:
        near, far = Peer(), Peer()
        end = join(asyncio.get_running_loop(), near, far, ("10.0.0.1", 80))
        await scene(near, far, end)

    with asyncio.Runner(loop_factory=MemoryLoop) as runner:
        runner.run(main())


def test_what_is_written_arrives_in_order_and_later() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        end.write(b"a")
        end.writelines([b"b", b"c"])
        assert far.data == b""
        await settle()
        assert far.data == b"abc"
        assert end.get_extra_info("peername") == ("10.0.0.1", 80)

    play(scene)


def test_a_reader_that_pauses_holds_up_the_writer() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        far.transport.pause_reading()
        end.write(b"x" * HIGH_WATER)
        assert near.seen == []
        end.write(b"y")
        await settle()
        assert near.seen == ["pause"]
        assert end.get_write_buffer_size() == HIGH_WATER + 1
        far.transport.resume_reading()
        await settle()
        assert near.seen == ["pause", "resume"]
        assert len(far.data) == HIGH_WATER + 1

    play(scene)


def test_an_end_follows_what_was_written_and_closes_the_other_side() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        end.write(b"last")
        end.close()
        end.write(b"too late")
        await settle(10)
        assert far.data == b"last"
        assert (near.seen, far.seen) == (["lost"], ["eof", "lost"])

    play(scene)


def test_an_abort_is_a_reset_and_loses_what_is_on_its_way() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        far.transport.pause_reading()
        end.write(b"lost")
        await settle()
        end.abort()
        far.transport.resume_reading()
        await settle()
        assert far.data == b""
        assert (near.seen, far.seen) == (["lost"], ["ConnectionResetError"])

    play(scene)


def test_who_writes_to_somebody_that_has_gone_is_reset() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        near.eof_received = lambda: True  # type: ignore[method-assign]  # it keeps its half open
        far.transport.close()
        await settle()
        end.write(b"anybody there?")
        await settle()
        assert near.seen == ["ConnectionResetError"]

    play(scene)
