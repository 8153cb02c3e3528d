"""Faults in a service's responses: a status by a pattern, delays, and answers that are not valid HTTP.

- `pattern`: a word of `F` and `.`, repeated over the requests: `FF.` fails two of three, in order.
- `first`: only that many requests fail; with `per_request` that many of each `x-request-id`.
- `grpc_status`: a call of gRPC ends with a code in its trailers, `by` seconds after the head, and without a message.
  Any other request gets the HTTP status of that code.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from typing import TYPE_CHECKING, Final, Literal

from chaos.parts.http import Message, response
from sidecar.core.outcome import GRPC_STATUSES
from sidecar.grpc.status import status_to_http

if TYPE_CHECKING:
    from chaos.parts.service import ServiceConnection

Kind = Literal["status", "delay", "dribble", "wrong_length", "malformed", "reset", "grpc_status"]
MAX_IDS: Final = 10_000
"""Request ids that are counted one by one."""


class AnswerFault:
    """Fault while it is in force.

    - `count`: requests that met it; `seen`: the same by `x-request-id`.
    """

    def __init__(
        self, rng: random.Random, kind: Kind, *, status: int = 503, share: float = 1.0, path: str = "/",
        pattern: str = "", first: int | None = None, per_request: bool = False, by: float = 0.0, retry_after: str = "",
        code: str = "unavailable",
    ) -> None:  # fmt: skip
        self.rng = rng
        self.kind = kind
        self.status = status
        self.share = share
        self.path = path
        self.pattern = pattern
        self.first = first
        self.per_request = per_request
        self.by = by
        self.retry_after = retry_after
        self.code = code
        self.count = 0
        self.seen: dict[str, int] = {}

    def strikes(self, request: Message) -> bool:
        """Count a request; True if the fault strikes it."""
        if not request.target.startswith(self.path):
            return False
        if self.share < 1.0 and self.rng.random() >= self.share:
            return False
        count = self.count
        self.count += 1
        if self.per_request:
            key = request.get("x-request-id")
            count = self.seen.get(key, 0)
            if len(self.seen) < MAX_IDS:
                self.seen[key] = count + 1
        if self.first is not None and count >= self.first:
            return False
        return not self.pattern or self.pattern[count % len(self.pattern)] == "F"

    async def answer(self, connection: ServiceConnection, body: bytes) -> int:
        """Send the response; return the status that the service meant, 0 for none."""
        transport = connection.transport
        if self.kind == "status":
            fields = [("retry-after", self.retry_after)] if self.retry_after else []
            connection.answer(response(self.status, b'{"error":"injected"}', fields))
            return self.status
        if self.kind == "grpc_status":
            await asyncio.sleep(self.by)
            status = status_to_http(GRPC_STATUSES.index(self.code))
            connection.answer(response(status, b'{"error":"injected"}'))
            return status
        if self.kind == "reset":
            reset(transport)
            return 0
        if self.kind == "malformed":
            connection.answer(b"HTTP/1.1 two hundred\r\nno colon\r\n\r\n")
            return 0
        if self.kind == "wrong_length":
            connection.answer(response(200, body).replace(b"Content-Length: ", b"Content-Length: 1", 1))
            transport.close()
            return 0
        if self.kind == "delay":
            await asyncio.sleep(self.by)
            connection.answer(response(200, body))
            return 200
        whole = response(200, body)
        for at in range(len(whole)):  # a byte at a time
            if transport.is_closing():
                return 0
            transport.write(whole[at : at + 1])
            await asyncio.sleep(self.by)
        connection.answer(b"")
        return 200


def reset(transport: asyncio.Transport) -> None:
    """Close with RST instead of FIN."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
