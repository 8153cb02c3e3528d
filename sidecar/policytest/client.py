"""Client of a test: sends one request on its own connection, and reads the response."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from sidecar.core.body import UNTIL_CLOSE, Body, BodyReader
from sidecar.core.http1 import body_length, parse_response
from sidecar.core.message import Headers, parse_fields
from sidecar.policytest.script import BODILESS, MAX_HEAD, content
from sidecar.policytest.spec import RequestSpec


class Received(NamedTuple):
    """Response as a client received it.

    - `status`: 0 if the connection ended without a response.
    - `is_whole`: True if the body is complete.
    - `trailers`: those of an answer over HTTP/2.
    """

    status: int
    headers: Headers
    body: bytes
    is_whole: bool
    trailers: Headers


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
            if status < 200:
                continue
            self._status, self._headers = status, fields
            length = 0 if self._spec.method == "HEAD" or status in BODILESS else body_length(fields, version)
            self._reader = BodyReader(self._body, UNTIL_CLOSE if length is None else length)
            self._read(self._reader, self._buffer)
            return

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
        """Set the result, unless it is set already."""
        if not self._done.done():
            self._done.set_result(Received(self._status, self._headers, self._body.whole(), is_whole, []))
