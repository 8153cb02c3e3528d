"""Connections in memory for tests: a pair of `sidecar.simulation.transport`, and a plain protocol for its ends.

pair = TransportPair(client_protocol, server_protocol)
pair.left.split = 1            # bytes from the left end arrive one by one, each in a turn of its own
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sidecar.simulation.transport import MemoryTransport, join


class TransportPair:
    """Two connected protocols; the constructor has called `connection_made` of both."""

    def __init__(
        self, left: asyncio.BaseProtocol, right: asyncio.BaseProtocol, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.left = join(asyncio.get_running_loop(), left, right, extra=extra)
        self.right = self.left.peer


class Wire(asyncio.Protocol):
    """Plain end of a pair, which collects received bytes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_eof = False
        self.is_lost = False
        self.error: Exception | None = None
        self.transport: MemoryTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, MemoryTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.is_eof = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.error = exc

    def write(self, data: bytes) -> None:
        self.transport.write(data)
