"""HTTP/2 in tests: the connection of a client that makes one call, and the scripted end of an upstream's connection.

An upstream takes a response of the script for each stream, and then ends its connection as over HTTP/1.1.  So a refused
connection is taken for the next attempt.  Attempts that begin at the same time share a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.message import Headers, get, parse_fields, write_http_date
from sidecar.grpc.status import decode_message, encode_message, is_grpc, parse_status, status_from_http
from sidecar.http2.errors import INTERNAL_ERROR
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.policytest.spec import GRPC_NAMES, RequestSpec, ResponseSpec

if TYPE_CHECKING:
    from sidecar.http2.heads import Head
    from sidecar.http2.stream import Stream

LIMITS: Final = Limits(max_head=2**20, window=2**24, connection_window=2**26)
BODILESS: Final = frozenset((204, 205, 304))


class Message:
    """Message of HTTP/2 as far as it has arrived."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.body = bytearray()
        self.trailers: Headers = []


class StreamConnection(asyncio.Protocol):
    """Transport of a session, and its handler: collects the message of each stream."""

    def __init__(self, is_client: bool) -> None:
        self.session = Session(self, LIMITS, is_client)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.session.receive(data, asyncio.get_running_loop().time())
        self.flush()

    def flush(self) -> None:
        """Write what the session has to send, and close the connection once it has ended."""
        transport = self.transport
        if transport is None:
            return
        while output := self.session.take_output():
            transport.write(output)
        if self.session.has_failed or self.session.is_done:
            transport.close()

    def whole(self, stream: Stream, message: Message) -> None:
        """Take a message that is complete."""

    # ----- handler of the session

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        message = stream.user = Message(head)
        if is_end:
            self.whole(stream, message)

    def on_interim(self, stream: Stream, head: Head) -> None:
        """Ignore it."""

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        message = cast("Message", stream.user)
        message.body += data
        if is_end:
            self.whole(stream, message)

    def on_trailers(self, stream: Stream, head: Head) -> None:
        message = cast("Message", stream.user)
        message.trailers = parse_fields(head.lines)
        self.whole(stream, message)

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        """Ignore it; a client overrides this."""

    def on_writable(self, stream: Stream) -> None:
        """Ignore it: messages are handed over as a whole."""

    def on_goaway(self, last: int, code: int) -> None:
        """Ignore it: no further stream is opened."""

    def on_pong(self, payload: bytes) -> None:
        """End the second step of the drain."""
        self.session.finish_drain()


class CallConnection(StreamConnection):
    """Connection of a client that makes one call; `done` is called once with what has come.

    The arguments of `done`: status (0 without a head), head, body, trailers, and True if the answer is whole.
    """

    def __init__(
        self, spec: RequestSpec, body: bytes, done: Callable[[int, Headers, bytes, Headers, bool], None]
    ) -> None:
        super().__init__(is_client=True)
        self._spec = spec
        self._body = body
        self._done = done
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        fields = {name.lower(): value for name, value in self._spec.headers.items()}
        host = fields.pop("host", "sidecar.test")
        call = self._spec.grpc
        assert call is not None
        fields = {"content-type": "application/grpc", "te": "trailers", **fields}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
        session = self.session
        self._stream = session.open(b"POST", b"http", host.encode(), call.path.encode(), lines, False)
        session.send(self._stream, self._body, True)
        super().connection_made(transport)

    def whole(self, stream: Stream, message: Message) -> None:
        self._finish(stream, is_whole=True)

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        self._finish(stream, is_whole=False)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._finish(self._stream, is_whole=False)

    def give_up(self) -> None:
        """Stop waiting for the rest of the response."""
        self._finish(self._stream, is_whole=False)
        if self.transport is not None:
            self.transport.abort()

    def _finish(self, stream: Stream | None, *, is_whole: bool) -> None:
        """Report what has come, and end the connection."""
        message = None if stream is None else stream.user
        if isinstance(message, Message):
            self._done(
                message.head.status, parse_fields(message.head.lines), bytes(message.body), message.trailers, is_whole
            )
        else:
            self._done(0, [], b"", [], False)
        self.session.drain()


def grpc_status_of(status: int, headers: Headers, trailers: Headers) -> tuple[str, str]:
    """Return name and text of the status that a client of gRPC sees; the name is empty without an answer."""
    for fields in (trailers, headers):
        value = get(fields, b"grpc-status")
        if value is not None:
            return GRPC_NAMES[parse_status(value)], decode_message(get(fields, b"grpc-message") or b"")
    if not status:
        return "", ""
    is_call = status == 200 and is_grpc(get(headers, b"content-type") or b"")
    return GRPC_NAMES[2 if is_call else status_from_http(status)], ""


class ScriptedStreams(StreamConnection):
    """Upstream's end of one connection: each stream gets a response of the script.

    - `take`: returns the response to a request, by its method, path, fields and body.
    - `written`: returns body and media type of a response to a path.
    - `wall`: Unix time in seconds.
    """

    def __init__(
        self,
        take: Callable[[bytes, bytes, Headers, bytes], ResponseSpec],
        written: Callable[[ResponseSpec, str], tuple[bytes, str]],
        wall: Callable[[], float],
    ) -> None:
        super().__init__(is_client=False)
        self._take = take
        self._written = written
        self._wall = wall

    def whole(self, stream: Stream, message: Message) -> None:
        head = message.head
        self.session.drain()  # the next attempt makes a connection of its own
        answer = self._take(head.method, head.path, parse_fields(head.lines), bytes(message.body))
        if answer.after:
            asyncio.get_running_loop().call_later(answer.after, self._reply, stream, head, answer)
        else:
            self._reply(stream, head, answer)

    def _reply(self, stream: Stream, request: Head, answer: ResponseSpec) -> None:
        """Send the response, or fail as the response says."""
        session = self.session
        if self.transport is None or answer.fail == "timeout":
            return
        if answer.fail in ("reset", "protocol_error"):
            if answer.fail == "protocol_error":
                session.respond(stream, 101, b"", False)
            else:
                session.reset(stream, INTERNAL_ERROR)
        else:
            self._send(stream, request, answer)
        self.flush()

    def _send(self, stream: Stream, request: Head, answer: ResponseSpec) -> None:
        """Send head, body and trailers; for `cut` only the half of the body."""
        session = self.session
        body, kind = self._written(answer, request.path.decode("latin-1"))
        is_cut = answer.fail == "cut"
        if is_cut and len(body) < 2:
            body = b"cut off here"
            is_call = is_grpc(get(parse_fields(request.lines), b"content-type") or b"")
            kind = "application/grpc" if is_call else kind
        fields = {name.lower(): value for name, value in answer.headers.items()}
        fields.setdefault("date", write_http_date(self._wall()).decode())
        if kind:
            fields.setdefault("content-type", kind)
        trailers: dict[str, str] = {}
        if answer.is_grpc:
            trailers["grpc-status"] = str(GRPC_NAMES.index(answer.grpc_status or "OK"))
            if answer.grpc_message is not None:
                trailers["grpc-message"] = encode_message(answer.grpc_message).decode()
            trailers.update({name.lower(): value for name, value in answer.trailers.items()})
            if not body:
                fields, trailers = {**fields, **trailers}, {}
        elif answer.status not in BODILESS:
            fields.setdefault("content-length", str(len(body)))
        if request.method == b"HEAD" or answer.status in BODILESS:
            body = b""
        session.respond(stream, answer.status, _lines(fields), not body and not trailers)
        if is_cut:
            session.send(stream, body[: len(body) // 2], False)
            asyncio.get_running_loop().call_later(0.001, self._cut, stream)
        elif body:
            session.send(stream, body, not trailers)
        if trailers and not is_cut:
            session.send_trailers(stream, _lines(trailers))

    def _cut(self, stream: Stream) -> None:
        """Reset a stream in the middle of its body."""
        self.session.reset(stream, INTERNAL_ERROR)
        self.flush()


def _lines(fields: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
