"""gRPC with other implementations at either end: grpclib and @grpc/grpc-js, where they are installed.

`make node` installs the latter.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from sidecar.process.children import tied_to_parent
from tests.support.grpc_server import EchoServer
from tests.support.node import NODE, NODE_ENV, needs_node_package
from tests.support.process import NOTHING, Sidecar, policies

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 60.0
EXPECTED = {
    "unary": [0, 70_000], "out": 100, "in": "3 73094", "both": [27182, 8, 45904], "status": [9, "nö"], "unknown": 12,
}  # fmt: skip
"""Answers that every client has to get."""


PEERS = [
    pytest.param(
        [sys.executable, "-m", "tests.support.grpclib_peer"],
        id="grpclib",
        marks=pytest.mark.skipif(importlib.util.find_spec("grpclib") is None, reason="there is no grpclib"),
    ),
    pytest.param(
        [NODE, str(Path(__file__).with_name("grpc_peer.cjs"))],
        id="grpc-js",
        marks=needs_node_package("@grpc/grpc-js"),
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    async with Sidecar(NOTHING, tmp_path_factory.mktemp("sidecar")) as running:
        yield running


@asynccontextmanager
async def through(shared: Sidecar, port: int) -> AsyncIterator[Sidecar]:
    """Run the sidecar in front of a server of gRPC."""
    policy = policies(
        upstreams={"app": {"endpoints": [f"http://127.0.0.1:{port}"], "protocol": "http2"}},
        routes=[{"name": "calls", "match": {"path_prefix": "/shop.Echo"}, "upstream": "app", "retry": {}}],
    )
    async with shared.under(policy) as sidecar:
        yield sidecar


@asynccontextmanager
async def started(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a peer; its input ends with the context."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *words, stdin=pipe, stdout=pipe, env=NODE_ENV, preexec_fn=tied_to_parent()
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            await asyncio.wait_for(process.wait(), PATIENCE)


@pytest.mark.parametrize("peer", PEERS)
async def test_its_client(shared: Sidecar, peer: list[str]) -> None:
    async with EchoServer() as server, through(shared, server.port) as sidecar:
        async with started(*peer, "client", sidecar.inbound.rpartition(":")[2]) as process:
            out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert json.loads(out) == EXPECTED


@pytest.mark.parametrize("peer", PEERS)
async def test_its_server(shared: Sidecar, peer: list[str]) -> None:
    async with started(*peer, "server") as process:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        async with through(shared, port) as sidecar, grpc.aio.insecure_channel(sidecar.inbound) as channel:
            found = await call(channel)
    assert found == EXPECTED


async def call(channel: grpc.aio.Channel) -> dict[str, object]:
    """Call all methods with grpcio; return what came."""
    sent = [bytes(27182), bytes(8), bytes(45904)]
    unary = channel.unary_unary("/shop.Echo/Unary")
    both = channel.stream_stream("/shop.Echo/Both")(timeout=PATIENCE)
    sizes = []
    for message in sent:
        await both.write(message)
        sizes.append(len(await both.read()))
    await both.done_writing()
    assert await both.code() is grpc.StatusCode.OK
    status = channel.unary_unary("/shop.Echo/Status")(b'{"code": 9, "message": "n\\u00f6"}', timeout=PATIENCE)
    unknown = channel.unary_unary("/shop.Echo/Nothing")(b"", timeout=PATIENCE)
    return {
        "unary": [len(await unary(bytes(size), timeout=PATIENCE)) for size in (0, 70_000)],
        "out": len([each async for each in channel.unary_stream("/shop.Echo/Out")(b"100", timeout=PATIENCE)]),
        "in": (await channel.stream_unary("/shop.Echo/In")(iter(sent), timeout=PATIENCE)).decode(),
        "both": sizes,
        "status": [(await status.code()).value[0], await status.details()],
        "unknown": (await unknown.code()).value[0],
    }
