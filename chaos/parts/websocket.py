"""WebSocket frames (RFC 6455) on a raw stream, and a server that echoes them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Final, NamedTuple

from chaos.parts.http import Message
from chaos.parts.servers import Connection

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
MASK: Final = b"\x12\x34\x56\x78"


class Frame(NamedTuple):
    """Frame of a WebSocket."""

    opcode: int
    payload: bytes
    final: bool = True
    masked: bool = False

    def encode(self) -> bytes:
        """Return the frame as bytes."""
        size = len(self.payload)
        head = bytes((self.final << 7 | self.opcode,))
        flag = self.masked << 7
        if size < 126:
            head += bytes((flag | size,))
        elif size < 65536:
            head += bytes((flag | 126,)) + size.to_bytes(2, "big")
        else:
            head += bytes((flag | 127,)) + size.to_bytes(8, "big")
        return head + (MASK + mask(self.payload, MASK) if self.masked else self.payload)


def mask(data: bytes, key: bytes) -> bytes:
    """Mask or unmask a payload (RFC 6455 5.3)."""
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(data))


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Return the next frame, unmasked."""
    first, second = await reader.readexactly(2)
    size = second & 127
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    key = await reader.readexactly(4) if second & 128 else b""
    payload = await reader.readexactly(size)
    return Frame(first & 15, mask(payload, key) if key else payload, bool(first & 128), bool(key))


def accept(key: str) -> str:
    """Return the response to a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def handshake(target: str) -> bytes:
    """Return a client's opening request."""
    return (
        f"GET {target} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


async def echo(connection: Connection, request: Message) -> None:
    """Behave as a server that sends every message back, answers pings and returns the close code."""
    if request.get("upgrade").lower() != "websocket":
        await connection.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
        return
    await connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept(request.get("sec-websocket-key")).encode() + b"\r\n\r\n"
    )  # fmt: skip
    while True:
        frame = await read_frame(connection.reader)
        opcode = PONG if frame.opcode == PING else frame.opcode
        await connection.send(Frame(opcode, frame.payload, frame.final).encode())
        if frame.opcode == CLOSE:
            await connection.close()
            return
