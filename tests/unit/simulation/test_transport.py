"""Tests that connections in memory behave as those of TCP."""

from __future__ import annotations

import asyncio
from typing import Any

from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.transport import HIGH_WATER, MemoryTransport, join
from tests.support.loop import settle


class Peer(asyncio.Protocol):
    """Protocol that records its calls."""

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

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_bytes_arrive_in_order_and_in_a_later_turn() -> None:
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


def test_a_writer_that_is_split_arrives_piece_by_piece_in_turns_of_their_own() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        end.split = 2
        end.write(b"hello")
        arrived = []
        for _ in range(4):
            await asyncio.sleep(0)
            arrived.append(far.data)
        assert arrived == [b"he", b"hell", b"hello", b"hello"]

    play(scene)


def test_half_a_connection_can_be_closed() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        far.eof_received = lambda: True  # type: ignore[method-assign]  # it keeps its half open
        end.write_eof()
        end.write(b"after the end")
        far.transport.write(b"answer")
        await settle()
        assert (near.data, far.data) == (b"answer", b"")
        assert (near.seen, far.seen) == ([], [])

    play(scene)


def test_a_close_waits_until_the_rest_fits_the_peers_buffer() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        far.transport.pause_reading()
        end.write(b"x" * (HIGH_WATER + 1))
        end.close()
        await settle()
        assert (end.is_closing(), near.seen) == (True, ["pause"])
        far.transport.resume_reading()
        await settle(10)
        assert len(far.data) == HIGH_WATER + 1
        assert near.seen[-1] == "lost"

    play(scene)


def test_bytes_for_a_side_that_has_closed_are_discarded() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        near.eof_received = lambda: True  # type: ignore[method-assign]
        far.transport.pause_reading()
        end.write(b"x" * (HIGH_WATER + 1))
        far.transport.close()
        await settle()
        assert (far.data, end.get_write_buffer_size()) == (b"", 0)

    play(scene)


def test_the_end_arrives_last_and_closes_the_other_side() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        end.write(b"last")
        end.close()
        end.write(b"too late")
        await settle(10)
        assert far.data == b"last"
        assert (near.seen, far.seen) == (["lost"], ["eof", "lost"])

    play(scene)


def test_an_abort_resets_the_peer_and_loses_bytes_on_their_way() -> None:
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


def test_writing_to_a_peer_that_has_gone_resets_the_writer() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        near.eof_received = lambda: True  # type: ignore[method-assign]  # it keeps its half open
        far.transport.close()
        await settle()
        end.write(b"anybody there?")
        await settle()
        assert near.seen == ["ConnectionResetError"]

    play(scene)


class Buffered(asyncio.BufferedProtocol):
    """Protocol that reads into a buffer of four bytes, and pauses after a number of reads."""

    def __init__(self, reads: int) -> None:
        self.reads = reads
        self.buffer = bytearray(4)
        self.seen: list[bytes] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.seen.append(bytes(self.buffer[:nbytes]))
        self.reads -= 1
        if not self.reads:
            self.transport.pause_reading()


def test_a_reader_with_a_buffer_gets_no_more_than_fits() -> None:
    async def scene(near: Peer, far: Peer, end: MemoryTransport) -> None:
        buffered = Buffered(reads=2)
        buffered.transport = far.transport
        far.transport.set_protocol(buffered)
        end.write(b"hello, world")
        await settle()
        assert buffered.seen == [b"hell", b"o, w"]
        assert end.get_write_buffer_size() == 4
        far.transport.resume_reading()
        await settle()
        assert buffered.seen == [b"hell", b"o, w", b"orld"]
        assert end.get_write_buffer_size() == 0

    play(scene)
