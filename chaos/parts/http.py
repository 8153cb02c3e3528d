"""HTTP/1.1 as far as services and clients of scenarios, tests and benchmarks speak it.

Rules:

1. It is written without the sidecar's grammar: what tests a proxy must not share its mistakes.
2. It is naive: bodies are chunked, of a known length, or end with the connection.  Anything else is an error of the
   sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

Fields = list[tuple[str, str]]
PHRASES: Final = {
    200: "OK", 201: "Created", 429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip
LONGEST_HEAD: Final = 64 * 1024
"""Bytes of the longest head; a longer one is malformed."""


class MalformedError(ValueError):
    """Raised for bytes that are not a message."""


@dataclass(slots=True)
class Message:
    """Request or response as it was on the wire.

    - `start`: first line.
    - `fields`: header fields in order, names in lower case.
    - `chunks`: number of chunks of the body; 0 where it was not chunked.
    """

    start: str
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    chunks: int = 0

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    @property
    def closes(self) -> bool:
        """True if the sender closes the connection after this message."""
        return self.get("connection").lower() == "close"

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of a field."""
        for key, value in self.fields:
            if key == name:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for key, value in self.fields if key == name]


# ----- writing


def request(method: str, target: str, body: bytes = b"", **fields: str) -> bytes:
    """Return a request as bytes; `x_name="v"` is the field `x-name: v`.  Host and, with a body, Content-Length are
    added."""
    lines = [f"{method} {target} HTTP/1.1"]
    fields.setdefault("host", "localhost")
    if body or method in ("POST", "PUT", "PATCH"):
        fields.setdefault("content_length", str(len(body)))
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def response(
    status: int = 200, body: bytes = b"ok", fields: Iterable[tuple[str, str]] = (), reason: str | None = None
) -> bytes:
    """Return a response with its Content-Length; the reason phrase is that of the status unless it is given."""
    lines = [
        f"HTTP/1.1 {status} {PHRASES.get(status, 'Unknown') if reason is None else reason}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in fields),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# ----- reading from a buffer


def take(buffer: bytearray, *, is_response: bool = False) -> Message | None:
    """Take the first whole message off a buffer; None while it is incomplete.  Raises `MalformedError`."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > LONGEST_HEAD:
            raise MalformedError("the head is too long")
        return None
    start, *lines = buffer[:end].decode("latin-1").split("\r\n")
    words = start.split(" ", 2)
    if len(words) < 2 or not (words[0] if is_response else words[-1]).startswith("HTTP/1."):
        raise MalformedError(f"{start!r} is not the first line of a message")
    for line in lines:
        if ":" not in line:
            raise MalformedError(f"{line!r} is not a field")
    if is_response and not (words[1].isdigit() and len(words[1]) == 3):
        raise MalformedError(f"{words[1]!r} is not a status")
    message = Message(start, _fields(lines))
    if "chunked" in message.get("transfer-encoding"):
        return _take_chunked(buffer, end + 4, message)
    length = message.get("content-length", "0")
    if not length.isdigit():
        raise MalformedError(f"{length!r} is not a length")
    until = end + 4 + int(length)
    if len(buffer) < until:
        return None
    message.body = bytes(buffer[end + 4 : until])
    del buffer[:until]
    return message


def _take_chunked(buffer: bytearray, at: int, message: Message) -> Message | None:
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(buffer[at:line].partition(b";")[0], 16)
        except ValueError:
            raise MalformedError("the size of a chunk is not a number") from None
        at = line + 2
        if len(buffer) < at + size + 2:
            return None
        message.body += buffer[at : at + size]
        at += size + 2
        if size == 0:
            del buffer[:at]
            return message
        message.chunks += 1


# ----- reading from a stream


async def read_head(reader: asyncio.StreamReader) -> Message:
    """Return the start line and the fields of the next message.  Raises `asyncio.IncompleteReadError` where the stream
    ends before."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head[:-4].split("\r\n")
    return Message(start, _fields(lines))


async def read_request(reader: asyncio.StreamReader) -> Message:
    """Return the next request, whole."""
    message = await read_head(reader)
    await read_body(reader, message, until_close=False)
    return message


async def read_response(reader: asyncio.StreamReader, method: str = "GET") -> Message:
    """Return the next response to a request of that method, whole; an interim one (1xx) counts as one too."""
    message = await read_head(reader)
    status = message.status
    if method != "HEAD" and status not in (204, 304) and status >= 200:
        await read_body(reader, message, until_close=True)
    return message


async def read_body(reader: asyncio.StreamReader, message: Message, *, until_close: bool) -> None:
    """Read the body of a message whose head was read; without framing it is empty, or `until_close`."""
    if message.get("transfer-encoding").lower() == "chunked":
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            if await reader.readexactly(2) != b"\r\n":
                raise AssertionError("a chunk does not end where its size says")
        lines = []
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            lines.append(line[:-2].decode("latin-1"))
        message.trailers = _fields(lines)
        message.chunks = len(pieces)
        message.body = b"".join(pieces)
    elif length := message.get("content-length"):
        message.body = await reader.readexactly(int(length))
    elif until_close:
        message.body = await reader.read(-1)


def _fields(lines: list[str]) -> Fields:
    pairs = [line.partition(":") for line in lines]
    return [(name.lower(), value.strip()) for name, _, value in pairs]
