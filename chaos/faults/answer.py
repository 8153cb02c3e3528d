"""Faults in a service's answers: a status by a pattern, delays, and answers that are not what HTTP wants.

`pattern` is a word of `F` and `.` that is repeated over the requests struck by it: `FF.` fails two of three, in order.
`first` strikes only so many requests (`fail the first two`), for each `x-request-id` where `per_request` is set.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Literal

from chaos.parts.http import Fields, response

if TYPE_CHECKING:
    from chaos.parts.service import Connection

Kind = Literal["status", "delay", "dribble", "wrong_length", "malformed", "reset"]
MOST_IDS = 10_000


class AnswerFault:
    """One fault, as long as it is in force."""

    def __init__(
        self, rng: random.Random, kind: Kind, *, status: int = 503, share: float = 1.0, path: str = "/",
        pattern: str = "", first: int | None = None, per_request: bool = False, by: float = 0.0, retry_after: str = "",
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
        self.count = 0
        self.seen: dict[str, int] = {}

    def strikes(self, target: str, fields: Fields) -> bool:
        """Does it strike this request?  Counts it."""
        if not target.startswith(self.path):
            return False
        if self.share < 1.0 and self.rng.random() >= self.share:
            return False
        count = self.count
        self.count += 1
        if self.per_request:
            key = fields.get("x-request-id", "")
            count = self.seen.get(key, 0)
            if len(self.seen) < MOST_IDS:
                self.seen[key] = count + 1
        if self.first is not None and count >= self.first:
            return False
        return not self.pattern or self.pattern[count % len(self.pattern)] == "F"

    async def answer(self, connection: Connection, body: bytes) -> int:
        """Say it; returns the status that was meant."""
        transport = connection.transport
        if self.kind == "status":
            fields = {"retry_after": self.retry_after} if self.retry_after else {}
            connection.answer(response(self.status, b'{"error":"injected"}', **fields))
            return self.status
        if self.kind == "reset":
            reset(transport)
            return 0
        if self.kind == "malformed":
            connection.answer(b"HTTP/1.1 two hundred\r\nno colon\r\n\r\n")
            return 0
        if self.kind == "wrong_length":
            connection.answer(response(200, body).replace(b"content-length: ", b"content-length: 1", 1))
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
        import socket
        import struct

        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
