"""Tests of the load and the upstream of HTTP/2 and gRPC, against each other."""

from __future__ import annotations

import asyncio
import json

import pytest

from bench import calls
from bench.calls import LISTED, LISTING, ORDER, Calling, Leaving, Serving, order
from sidecar.grpc.descriptors import read_descriptors
from sidecar.grpc.to_json import to_json
from sidecar.http2 import frames
from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.transport import join


def run(kind: str, path: str, server: Serving, streams: int = 3, until: float = 0.0) -> Calling:
    """Run a load whose time is over when it begins: one call on each stream."""

    async def go() -> Calling:
        client = Calling(kind, b"shop", path.encode(), streams, until)
        join(asyncio.get_running_loop(), client, server)
        await asyncio.wait_for(client.over, 10)
        return client

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(go())


@pytest.mark.parametrize(
    ("kind", "path", "good"),
    [("unary", "/bench.Shop/Get", 3), ("get", "/http2/small", 3), ("list", "/bench.Shop/List", 3 * LISTED)],
)
def test_good_answers_are_counted(kind: str, path: str, good: int) -> None:
    client = run(kind, path, Serving())
    assert (client.good, client.errors, len(client.microseconds)) == (good, 0, 3)


class Failing(Serving):
    """Server whose calls end with another status."""

    def trail(self, stream: int) -> None:
        lines = b"grpc-status: 14\r\n" if stream == 3 else calls.GOOD_END
        self.out.append(frames.header_frames(stream, self.block((), lines), True))


class Refusing(Serving):
    """Server whose calls end with a status of HTTP, as those of a proxy without gRPC do."""

    def call(self, stream: int, content: bytes) -> None:
        self.out.append(frames.header_frames(stream, self.block(((b":status", b"503"),), b""), True))


class Short(Serving):
    """Server whose good status stands behind no message."""

    def call(self, stream: int, content: bytes) -> None:
        super().call(stream, b"")


class Resetting(Serving):
    """Server that resets its streams."""

    def call(self, stream: int, content: bytes) -> None:
        self.out.append(frames.rst_stream(stream, 7))


@pytest.mark.parametrize(("server", "good"), [(Failing, 2), (Refusing, 0), (Short, 0), (Resetting, 0)])
def test_a_call_is_good_by_its_grpc_status_and_content_only(server: type[Serving], good: int) -> None:
    client = run("unary", "/bench.Shop/Get", server())
    assert (client.good, client.errors) == (good, 3 - good)


def test_calls_that_a_lost_connection_leaves_behind_are_errors() -> None:
    class Closing(Serving):
        def call(self, stream: int, content: bytes) -> None:
            self.transport.abort()

    client = run("unary", "/bench.Shop/Get", Closing())
    assert (client.good, client.errors) == (0, 3)


def test_messages_wait_for_the_windows_of_stream_and_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "WINDOW", 16 * len(LISTING))
    server = Serving()
    client = run("list", "/bench.Shop/List", server, streams=5)
    assert (client.good, client.errors) == (5 * LISTED, 0)


async def test_each_message_of_a_stream_is_counted_once() -> None:
    client = Calling("watch", b"shop", b"/bench.Shop/Watch", 1, 1e12)
    call = calls.Call()
    stamped = b"".join(calls.message(b"%019d" % (number + 1) + bytes(1024 - 19)) for number in range(4))
    for size in (len(stamped), len(LISTING), 1000):  # together, one by one, and cut
        for at in range(0, len(stamped), size):
            piece = stamped[at : at + size]
            client.note_messages(call, piece, 0, len(piece))
            call.size += len(piece)
    assert client.good == 12
    assert len(client.microseconds) == 12


class Counting(Calling):
    """Load that begins calls only when it is told to."""

    def finish(self, stream: int, call: calls.Call) -> None:
        del self.calls[stream]
        self.good += 1


def test_a_leaving_server_answers_what_came_before_its_goaway_and_nothing_later() -> None:
    async def go() -> Counting:
        client = Counting("unary", b"shop", b"/bench.Leaving/Get", 3, 1e12)
        join(asyncio.get_running_loop(), client, Leaving())
        await asyncio.sleep(calls.LIFE + calls.PARTING / 2)
        assert client.good == 3
        client.call()
        client.flush()
        await asyncio.wait_for(client.over, calls.PARTING)
        return client

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        client = runner.run(go())
    assert (client.good, client.errors) == (3, 1)


def test_the_order_is_the_json_that_a_proxy_makes_of_it() -> None:
    types = read_descriptors(calls.DESCRIPTORS.read_bytes())
    text = to_json(types.messages["shop.Order"], order()[5:], types)
    assert json.loads(text) == json.loads(ORDER)
    assert 1100 < len(text) < 1300
