"""Tests of long conversations: load and upstream, without a proxy between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench import certificates, load, machine, talk
from bench.talk import CLOSE, ECHO, REQUEST, STAMP, Talker, event
from tests.support.loop import settle


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """Yield the address of a running upstream."""
    port = machine.free_port()
    task = asyncio.create_task(talk.serve(port))
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
            break
        except OSError:
            await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    task.cancel()
    await asyncio.wait([task])
    await settle()


@pytest.mark.parametrize("kind", talk.KINDS)
async def test_a_load_counts_what_comes_back(site: str, kind: str) -> None:
    seen = await talk.load(kind, f"{site}/talk/{kind}", 4, 0.2)

    assert seen["requests"] >= 4
    assert 0 < seen["p50"] <= seen["p99"]
    assert seen["errors"] == 0


@pytest.mark.parametrize("kind", talk.KINDS)
async def test_a_response_of_another_kind_is_an_error(site: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "GRACE", 0.1)
    with pytest.raises(SystemExit, match=f"no {kind} came back"):
        await talk.load(kind, f"{site}/orders/small", 1, 0.1)


def test_an_event_has_the_instant_at_which_it_was_written() -> None:
    before = time.monotonic_ns()
    size, _, rest = event().partition(b"\r\n")
    text = rest[: int(size, 16)]

    found = STAMP.fullmatch(text)
    assert found is not None
    assert before <= int(found[1]) <= time.monotonic_ns()
    assert rest[len(text) :] == b"\r\n"


class Recorded(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("split", [1, 7, len(REQUEST), 1000])
def test_each_message_has_one_echo_however_it_arrives(split: int) -> None:
    talker, transport = Talker(), Recorded()
    talker.connection_made(transport)
    talker.data_received(b"GET /talk/messages HTTP/1.1\r\n\r\n")
    head, transport.written = transport.written, b""
    data = REQUEST * 3 + CLOSE
    for at in range(0, len(data), split):
        talker.data_received(data[at : at + split])

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head, "RFC 6455 1.3 has this pair"
    assert transport.written == ECHO * 3
    assert transport.is_closed


async def test_a_load_over_tls_offers_one_version_and_one_cipher(tmp_path: Path) -> None:
    """A free choice would let each proxy do other work."""
    ciphers: set[object] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ciphers.add(writer.get_extra_info("cipher"))
        with suppress(asyncio.IncompleteReadError, OSError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(talk.GOOD)
        writer.close()

    context = certificates.server_context(certificates.make(tmp_path / "identity"))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for generate in {load.own, load.GENERATORS[load.best()]}:
        seen = await asyncio.to_thread(generate, url, 1, 1.0, machine.cores()[1])
        assert seen.requests > 0
    server.close()
    await server.wait_closed()
    await settle()
    assert ciphers == {("TLS_AES_128_GCM_SHA256", "TLSv1.3", 128)}
