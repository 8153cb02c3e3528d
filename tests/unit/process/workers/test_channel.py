"""Tests of the channel between supervisor and worker: pieces of messages, and bytes that are no message."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from sidecar.process.workers.channel import MAX_BYTES, Channel


def framed(message: Any) -> bytes:
    text = json.dumps(message).encode()
    return len(text).to_bytes(4, "big") + text


class FakeTransport:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("size", [1, 3, 5, 1000])
def test_messages_arrive_whole_however_they_are_cut(size: int) -> None:
    found: list[Any] = []
    channel = Channel(found.append, lambda: None)
    data = framed(["a", 1]) + framed(["b"]) + framed(["c", {"d": []}])
    for at in range(0, len(data), size):
        channel.data_received(data[at : at + size])
    assert found == [["a", 1], ["b"], ["c", {"d": []}]]


def test_a_length_beyond_the_bound_closes_the_channel_and_nothing_is_buffered_for_it() -> None:
    channel, transport = Channel(lambda _: None, lambda: None), FakeTransport()
    channel.connection_made(transport)  # type: ignore[arg-type]
    channel.data_received((MAX_BYTES + 1).to_bytes(4, "big"))
    assert transport.is_closed


@pytest.mark.parametrize("garbage", [b"\0\0\0\2{]", framed(["no such kind"]), b"\xff" * 100])
def test_garbage_ends_the_channel_once_and_later_messages_are_not_handled(garbage: bytes) -> None:
    """The end of a channel is the end of the worker, which then is replaced."""
    found: list[Any] = []

    def receive(message: list[Any]) -> None:
        if message[0] != "known":
            raise KeyError(message[0])
        found.append(message)

    async def run() -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        ends: list[int] = []
        loop.set_exception_handler(lambda *_: None)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        channel = Channel(receive, lambda: (ends.append(1), ended.set()))  # type: ignore[func-returns-value, arg-type]
        with theirs:
            await loop.create_unix_connection(lambda: channel, sock=ours)
            theirs.sendall(framed(["known"]) + garbage + framed(["known"]))
            await ended.wait()
        assert not channel.is_open
        return len(ends)

    assert asyncio.run(run()) == 1
    assert found == [["known"]]
