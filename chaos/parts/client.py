"""Client of one connection on a raw socket, which can send what no library would."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from types import TracebackType

from chaos.parts.http import Message, read_response, request

PATIENCE = 60.0
"""Seconds after which a request fails rather than hangs."""


class Client:
    """Connection: `async with Client(address) as client`; the address is `host:port` or `unix:/path`."""

    def __init__(self, address: str, *, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> None:
        self.host, _, self.port = address.rpartition(":")
        self.tls = tls
        self.server_name = server_name
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Client:
        if self.host == "unix":
            self.reader, self.writer = await asyncio.open_unix_connection(self.port)
        else:
            self.reader, self.writer = await asyncio.open_connection(
                self.host.strip("[]"), self.port, ssl=self.tls, server_hostname=self.server_name
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), PATIENCE)

    async def request(self, method: str, target: str, body: bytes = b"", **fields: str) -> Message:
        """Send a request and return its response; `x_name="v"` is the field `x-name: v`."""
        await self.send(request(method, target, body, **fields))
        return await self.response(method)

    async def response(self, method: str = "GET") -> Message:
        """Return the next response on the connection."""
        return await asyncio.wait_for(read_response(self.reader, method), PATIENCE)

    async def is_closed(self) -> bool:
        """True if the other side has closed the connection and nothing more can be read."""
        try:
            return await asyncio.wait_for(self.reader.read(1), PATIENCE) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


async def fetch(address: str, method: str, target: str, body: bytes = b"", **fields: str) -> Message:
    """Send one request on a connection of its own and return the response."""
    async with Client(address) as client:
        return await client.request(method, target, body, **fields)
