"""HTTP/1.1 messages read off an asyncio stream, for both the raw servers and the raw client of the end-to-end tests.

Deliberately naive and independent of the sidecar's own grammar: what it cannot read is an error of the test.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

Fields = list[tuple[str, str]]


@dataclass
class Message:
    """A request or a response as it was on the wire; names of fields in lower case."""

    start: str
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    chunks: int = 0
    """How many chunks the body came in; 0 where it was not chunked."""

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    def get(self, name: str, default: str = "") -> str:
        """The first value of a field."""
        return next((value for key, value in self.fields if key == name), default)

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]


async def read_head(reader: asyncio.StreamReader) -> Message:
    """The start line and the fields; `asyncio.IncompleteReadError` where the stream ends first."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head[:-4].split("\r\n")
    return Message(start, _fields(lines))


async def read_request(reader: asyncio.StreamReader) -> Message:
    """A whole request."""
    message = await read_head(reader)
    await read_body(reader, message, until_close=False)
    return message


async def read_response(reader: asyncio.StreamReader, method: str = "GET") -> Message:
    """A whole response to a request of that method; an interim one (1xx) counts as one too."""
    message = await read_head(reader)
    status = message.status
    if method != "HEAD" and status not in (204, 304) and status >= 200:
        await read_body(reader, message, until_close=True)
    return message


async def read_body(reader: asyncio.StreamReader, message: Message, *, until_close: bool) -> None:
    """The body by its framing: chunked, of a known length, or up to the end of the stream."""
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
    pairs = (line.partition(":") for line in lines)
    return [(name.lower(), value.strip()) for name, _, value in pairs]
