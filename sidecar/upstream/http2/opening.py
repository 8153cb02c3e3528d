"""New connection until its version is known: ALPN selects it over TLS (RFC 9113 3.2), the policy in clear (3.3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from sidecar.core.promise import Promise
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.http2.connection import MultiplexedConnection

if TYPE_CHECKING:
    from sidecar.upstream.http2.pool import StreamPool


class Opening(asyncio.Protocol):
    """Protocol of a new connection, which hands its transport to the one of its version."""

    def __init__(self, pool: StreamPool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self.carrier: UpstreamConnection | MultiplexedConnection | None = None
        """Connection of the version that was selected; None before, and if it is none that may be used."""
        self.ready: Promise[str] = Promise()
        """Promise of a connection that takes requests: empty then, else why there is none."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast("asyncio.Transport", transport)
        tls = made.get_extra_info("ssl_object")
        selected = "h2" if self._pool.scheme == b"http" else None
        if tls is not None:  # a virtual network has no TLS, hence nothing is selected
            selected = tls.selected_alpn_protocol()
        if selected == "h2":
            carrier = MultiplexedConnection(self._pool)
            self.carrier, self.ready = carrier, carrier.ready
            made.set_protocol(carrier)
            carrier.connection_made(made)
        elif self._pool.is_http2_only:
            offered = "nothing" if selected is None else selected
            self.ready.resolve(f"does not select h2 by ALPN but {offered}; set protocol: auto or http1")
            made.abort()
        else:
            plain = UpstreamConnection(self._pool)
            self.carrier = plain
            made.set_protocol(plain)
            plain.connection_made(made)
            self.ready.resolve("")

    def connection_lost(self, error: Exception | None) -> None:
        self.ready.resolve("closed at once")

    def abort(self) -> None:
        """Abort the connection, because it took too long.

        It is closed even if its event loop never reports `connection_lost`, as uvloop after a cancelled connect.
        """
        if isinstance(self.carrier, MultiplexedConnection):
            self.carrier.discard()
        elif self.carrier is not None:
            self.carrier.close()
        if self._transport is not None:
            self._transport.abort()
