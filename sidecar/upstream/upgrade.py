"""An upstream connection that has switched to another protocol (RFC 9110 7.8), until somebody takes it over.

It keeps its place among the connections of its endpoint until it is closed: tunnels count towards `connections.max`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.upstream.connection import Connection


class UpgradedConnection:
    """The `Tunnel` of an outcome."""

    def __init__(self, connection: Connection, early: bytes) -> None:
        """`early` came with the 101."""
        self._connection = connection
        self._early = early

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        transport = self._connection.transport
        if transport is None:
            return None
        self._connection.pool.deadlines.discard(self._connection)
        transport.set_protocol(protocol)
        transport.resume_reading()
        return transport, self._early

    def close(self) -> None:
        self._connection.close()
