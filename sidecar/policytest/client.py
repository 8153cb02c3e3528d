"""Client of a test: sends one request on its own connection, and reads the response or the messages of a WebSocket."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from sidecar.core.body import UNTIL_CLOSE, Body, BodyReader
from sidecar.core.http1 import body_length, parse_response
from sidecar.core.message import Headers, parse_fields
from sidecar.policytest.script import BODILESS, MAX_HEAD, content
from sidecar.policytest.spec import RequestSpec
from sidecar.stages.translate import frames

SWITCHING: Final = 101
HANDSHAKE_KEY: Final = {"sec-websocket-key": "c2VydmVyIHRlc3Qga2V5IQ=="}
"""Field with 16 bytes (RFC 6455 4.1), the same in each test."""


class Received(NamedTuple):
    """Response as a client received it.

    - `status`: 0 if the connection ended without a response.
    - `is_whole`: True if the body is complete.
    - `trailers`: those of an answer over HTTP/2.
    - `messages`: those that came over a WebSocket, and `close` the code of its Close frame; empty and 0 without one.
    """

    status: int
    headers: Headers
    body: bytes
    is_whole: bool
    trailers: Headers
    messages: tuple[bytes, ...] = ()
    close: int = 0


def request_bytes(spec: RequestSpec) -> bytes:
    """Return the bytes of a request."""
    parts = urlsplit(spec.path)
    target = spec.path if spec.path.startswith("/") else f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    body, kind = content(spec)
    fields = {name.lower(): value for name, value in spec.headers.items()}
    if kind:
        fields.setdefault("content-type", kind)
    if body or spec.method in ("POST", "PUT", "PATCH"):
        fields.setdefault("content-length", str(len(body)))
    host = fields.pop("host", parts.netloc or "sidecar.test")
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": host, **fields}.items())
    return f"{spec.method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body


class ClientConnection(asyncio.Protocol):
    """Connection that sends one request, and sets the response as result of `done`."""

    def __init__(self, spec: RequestSpec, done: asyncio.Future[Received]) -> None:
        self._spec = spec
        self._done = done
        self._buffer = b""
        self._transport: Any = None
        self._status = 0
        self._headers: Headers = []
        self._body = Body()
        self._reader: BodyReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(request_bytes(self._spec))

    def data_received(self, data: bytes) -> None:
        if self._reader is not None:
            self._read(self._reader, data)
            return
        self._buffer += data
        while (parsed := parse_response(self._buffer, MAX_HEAD)) is not None:
            status, version, start, end = parsed
            fields, self._buffer = parse_fields(self._buffer[start : end - 2]), self._buffer[end:]
            if status == SWITCHING and self._switch(fields):
                return
            if status < 200:
                continue
            self._status, self._headers = status, fields
            length = 0 if self._spec.method == "HEAD" or status in BODILESS else body_length(fields, version)
            self._reader = BodyReader(self._body, UNTIL_CLOSE if length is None else length)
            self._read(self._reader, self._buffer)
            return

    def _switch(self, fields: Headers) -> bool:
        """Go on with another protocol after a 101; False if the client has asked for none."""
        return False

    def _read(self, reader: BodyReader, data: bytes) -> None:
        """Read a piece of the response's body, and finish at its end."""
        if reader.feed(data):
            self._finish(is_whole=True)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        reader = self._reader
        self._finish(is_whole=reader is not None and reader.ends_with_the_connection and error is None)

    def give_up(self) -> None:
        """Stop waiting for the rest of the response."""
        self._finish(is_whole=False)
        self._transport.abort()

    def _finish(self, *, is_whole: bool) -> None:
        """Set the response as the result, unless there is one."""
        self._set(Received(self._status, self._headers, self._body.whole(), is_whole, []))

    def _set(self, received: Received) -> None:
        if not self._done.done():
            self._done.set_result(received)


class WebSocketConnection(ClientConnection):
    """Connection that opens a WebSocket, sends its messages, and reads until the Close frame."""

    def __init__(self, spec: RequestSpec, done: asyncio.Future[Received]) -> None:
        fields = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", **HANDSHAKE_KEY}
        super().__init__(spec.model_copy(update={"headers": {**fields, **spec.headers}}), done)
        self._is_open = False
        self._messages: list[bytes] = []

    def _switch(self, fields: Headers) -> bool:
        self._status, self._headers, self._is_open = SWITCHING, fields, True
        for message in self._spec.websocket or ():
            self._transport.write(masked(frames.TEXT, json.dumps(message, ensure_ascii=False).encode()))
        self._transport.write(masked(frames.TEXT, b""))
        self._read_frames()
        return True

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            super().data_received(data)
            return
        self._buffer += data
        self._read_frames()

    def _read_frames(self) -> None:
        while (found := split_frame(self._buffer)) is not None:
            opcode, payload, self._buffer = found
            if opcode == frames.CLOSE:
                code = int.from_bytes(payload[:2], "big")
                self._set(Received(SWITCHING, self._headers, b"", True, [], tuple(self._messages), code))
                self._transport.write(masked(frames.CLOSE, payload[:2]))
                self._transport.close()
                return
            if opcode in (frames.TEXT, frames.BINARY):
                self._messages.append(payload)


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a whole frame of a client.  Its key is zero, which changes nothing."""
    frame = frames.encode_frame(opcode, payload)
    head = len(frame) - len(payload)
    return bytes((frame[0], frame[1] | 0x80)) + frame[2:head] + bytes(4) + payload


def split_frame(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Return opcode and payload of a server's first frame, and what follows; None before it is complete."""
    if len(data) < 2:
        return None
    size, at = data[1], 2
    if size > frames.LONGEST_CONTROL:
        at = 4 if size == frames.LONGEST_CONTROL + 1 else 10
        size = int.from_bytes(data[2:at], "big")
    end = at + size
    return (data[0] & 15, data[at:end], data[end:]) if len(data) >= end else None
