"""Client of services and load: keep-alive connections, a timeout for the whole response, and never an exception.

Rules:

1. The client is naive: no retries, and no limit but its own bound on connections.
2. A connection that the peer closed while it was idle is replaced once if the method is safe, as browsers and libraries
   do.
3. Calls by plain TCP are lines (`plain`); where the server speaks first, its greeting is awaited.
4. Calls of gRPC go over connections of their own (`http2`), and are never repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, cast

from chaos.parts import plain
from chaos.parts.http import MalformedError, Message, request, take
from chaos.parts.http2 import Channels
from chaos.parts.part import split
from sidecar.core.outcome import GRPC_STATUSES
from sidecar.grpc.status import status_to_http

MAX_CONNECTIONS: Final = 512
"""Bound on connections to all addresses together; a request beyond it fails with `client_full`."""


SERVER_FIRST: Final = "server_first"
take_response: Final = partial(take, is_response=True)


class Answer(NamedTuple):
    """Result of a request.

    - `status`: 0 where there was no response.
    - `reason`: why there was none (`refused`, `timeout`, `reset`, `malformed`, `client_full`), or the value of
      `x-sidecar-reason`; else, of a call of gRPC that has failed, the name of its status.
    """

    status: int
    reason: str = ""
    body: bytes = b""

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 400


class ClientConnection(asyncio.Protocol):
    """Connection that carries one exchange at a time; `waiter` gets the response, or why there is none.

    - `take`: function that takes a whole response off a buffer.
    """

    def __init__(self, take: Callable[[bytearray], Message | None]) -> None:
        self.take = take
        self.buffer = bytearray()
        self.waiter: asyncio.Future[Message | str] | None = None
        self.transport: asyncio.Transport | None = None
        self.is_open = False
        self.is_used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        try:
            message = self.take(self.buffer)
        except MalformedError:
            self._resolve("malformed")
            self.close()
            return
        if message is not None:
            if message.closes:
                self.close()
            self._resolve(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._resolve("reset")

    def _resolve(self, value: Message | str) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(value)

    def close(self) -> None:
        self.is_open = False
        if self.transport is not None:
            self.transport.close()


class PooledClient:
    """Connections to any number of addresses."""

    def __init__(self) -> None:
        self.idle: dict[str, list[ClientConnection]] = {}
        self.channels = Channels()
        self.connections = 0

    async def fetch(
        self,
        address: str,
        method: str,
        path: str,
        host: str,
        fields: dict[str, str],
        body: bytes = b"",
        timeout: float = 10.0,
        *,
        is_call: bool = False,
        tcp: str = "",
    ) -> Answer:
        """Send one request; return the complete response, or one with the reason why there is none.

        `is_call`: True for a call of gRPC, whose path names service and method.  `tcp`: side that speaks first in plain
        TCP; empty for HTTP.
        """
        if self.connections >= MAX_CONNECTIONS:
            return Answer(0, "client_full")
        loop = asyncio.get_running_loop()
        self.connections += 1
        waiter: asyncio.Future[Any] = loop.create_future()
        if is_call:
            timed = [*fields.items(), ("grpc-timeout", f"{max(1, round(timeout * 1000))}m")]
            task = loop.create_task(self._call(address, path, host, timed, body))
        else:
            data = plain.request(path, fields) if tcp else request(method, path, body, host=host, **fields)
            task = loop.create_task(self._exchange(address, data, method == "GET", tcp))

        def finish(done: asyncio.Task[Answer] | None = None) -> None:
            if not waiter.done():
                waiter.set_result(done)

        task.add_done_callback(finish)
        timer = loop.call_later(timeout, finish)
        try:
            done = await waiter
        finally:
            timer.cancel()
            self.connections -= 1
            if not task.done():
                task.cancel()
        return Answer(0, "timeout") if done is None else cast("Answer", done.result())

    async def _exchange(self, address: str, data: bytes, is_safe: bool, tcp: str) -> Answer:
        loop = asyncio.get_running_loop()
        connection = self._take(address)
        if connection is None:
            host, port = split(address)
            connection = ClientConnection(plain.take_answer if tcp else take_response)
            greeting = connection.waiter = loop.create_future()
            try:
                made = connection
                await loop.create_connection(lambda: made, host, port)
            except OSError:
                return Answer(0, "refused")
        assert connection.transport is not None
        try:
            if tcp == SERVER_FIRST and not connection.is_used and isinstance(await greeting, str):
                return Answer(0, "reset")
            connection.waiter = loop.create_future()
            connection.transport.write(data)
            answer = await connection.waiter
        except asyncio.CancelledError:
            connection.close()
            raise
        if isinstance(answer, str):
            if answer == "reset" and connection.is_used and is_safe and not connection.buffer:
                return await self._exchange(address, data, False, tcp)
            connection.close()
            return Answer(0, answer)
        if connection.is_open:
            connection.is_used = True
            self.idle.setdefault(address, []).append(connection)
        return Answer(answer.status, answer.get("x-sidecar-reason"), answer.body)

    async def _call(self, address: str, path: str, host: str, fields: list[tuple[str, str]], body: bytes) -> Answer:
        try:
            reply = await self.channels.call(address, path, host, fields, body)
        except OSError:
            return Answer(0, "refused")
        if reply is None:
            return Answer(0, "reset")
        reason = dict(reply.fields).get("x-sidecar-reason") or (GRPC_STATUSES[reply.code] if reply.code else "")
        return Answer(status_to_http(reply.code), reason, reply.body)

    def _take(self, address: str) -> ClientConnection | None:
        idle = self.idle.get(address, [])
        while idle:
            connection = idle.pop()
            if connection.is_open and not connection.buffer:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Close the idle connections, and those of calls."""
        self.channels.close()
        for idle in self.idle.values():
            for connection in idle:
                connection.close()
        self.idle.clear()
