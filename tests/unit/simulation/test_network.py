"""Tests of the virtual network: listeners, names, and sockets that a server takes over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from sidecar.downstream.capture.destination import read_destination
from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.network import FIRST_PORT, Network


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(coroutine)


def network() -> Network:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.network


async def read(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    data = await reader.read()
    writer.close()
    return data


def test_a_redirected_connection_reaches_the_listener_and_knows_where_it_was_to_go() -> None:
    class Named(Greeter):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(str(read_destination(transport.get_extra_info("socket"))).encode())
            transport.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Named, "127.0.0.1", 0)
        alias = network().redirect(("10.0.0.9", 3306), server.sockets[0].getsockname())
        assert await read(*alias) == b"10.0.0.9:3306"
        assert await read(*server.sockets[0].getsockname()) == b"None"

    run(main())


def test_a_socket_connects_to_the_address_that_it_was_given() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0)
        opened = await network().open_socket("127.0.0.1", 80)
        other = await network().open_socket("127.0.0.1", 80)
        assert opened.getsockname() != other.getsockname()
        await loop.sock_connect(opened, server.sockets[0].getsockname())
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=opened)
        assert transport.get_extra_info("peername") == server.sockets[0].getsockname()

    run(main())


def test_a_listener_is_reached_until_it_closes() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0)
        other = await loop.create_server(Greeter, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        assert address == ("127.0.0.1", FIRST_PORT)
        assert other.sockets[0].getsockname() == ("127.0.0.1", FIRST_PORT + 1)
        assert await read(*address) == b"hello"
        with pytest.raises(OSError, match="in use"):
            await loop.create_server(Greeter, *address)
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await read(*address)
        await loop.create_server(Greeter, *address)
        assert await read(*address) == b"hello"

    run(main())


def test_connecting_to_a_listener_that_hangs_waits() -> None:
    async def main() -> None:
        server = network().listen(Greeter, ("127.0.0.1", 80))
        server.hang()
        reading = [asyncio.ensure_future(read("127.0.0.1", 80)) for _ in range(2)]
        gone = asyncio.ensure_future(read("127.0.0.1", 80))
        await asyncio.sleep(10)
        assert not any(task.done() for task in reading)
        gone.cancel()
        server.resume()
        assert await asyncio.gather(*reading) == [b"hello", b"hello"]
        server.hang()
        late = asyncio.ensure_future(read("127.0.0.1", 80))
        await asyncio.sleep(1)
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await late

    run(main())


def test_a_socket_is_bound_first_and_served_later() -> None:
    async def main() -> None:
        one = network().socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setblocking(False)
        one.bind(("127.0.0.1", 0))
        one.listen(100)
        address = one.getsockname()
        server = await asyncio.get_running_loop().create_server(Greeter, sock=one.dup(), start_serving=False)
        one.close()
        early = asyncio.ensure_future(read(*address))
        await asyncio.sleep(1)
        assert not early.done()
        await server.start_serving()
        assert await early == b"hello"

    run(main())


def test_names_are_resolved_in_their_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert [info[4] for info in await loop.getaddrinfo("shop.test", 80)] == [("shop.test", 80)]

        def resolve(name: str) -> tuple[float, list[str]]:
            if name != "shop.test":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return 2.5, ["127.0.0.1", "127.0.0.2"]

        network().resolve = resolve
        began = loop.time()
        found = await loop.getaddrinfo("shop.test", 80)
        assert [info[4] for info in found] == [("127.0.0.1", 80), ("127.0.0.2", 80)]
        assert loop.time() - began == 2.5
        assert [info[4] for info in await loop.getaddrinfo("127.0.0.9", 80)] == [("127.0.0.9", 80)]
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("other.test", 80)

    run(main())


def test_accept_can_be_replaced() -> None:
    async def main() -> None:
        asked: list[Any] = []

        async def accept(address: Any) -> asyncio.Protocol:
            asked.append(address)
            return Greeter()

        network().accept = accept
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.create_unix_connection(lambda: asyncio.StreamReaderProtocol(reader), "/run/app.sock")
        assert await reader.read() == b"hello"
        assert await read("nowhere", 1) == b"hello"
        assert asked == [("/run/app.sock", None), ("nowhere", 1)]

    run(main())
