"""HTTP/2 in tests: what both ends of a connection have in common, and scripted upstreams that speak it.

A scripted upstream takes a response for each request.  Attempts share its connection, which ends with the step, and
before an attempt that is to get none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.message import get, parse_fields, write_http_date
from sidecar.core.outcome import GRPC_STATUSES
from sidecar.grpc.framing import PREFIX
from sidecar.grpc.status import is_grpc, status_fields
from sidecar.http2.heads import Head
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream
from sidecar.policytest.spec import ResponseSpec

if TYPE_CHECKING:
    from sidecar.policytest.script import Script

INTERNAL: Final = 13
CALL_TYPE: Final = "application/grpc"
CUT: Final = b"cut off here"
"""Message of which only a half is sent."""


def lines_of(fields: dict[str, str]) -> bytes:
    """Return fields as HTTP/1.1 lines."""
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


class End(asyncio.Protocol):
    """End of a connection; base of both, which are the handlers of their sessions."""

    def __init__(self, *, is_client: bool) -> None:
        self.session = Session(self, Limits(), is_client)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.session.receive(data, asyncio.get_running_loop().time())
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def flush(self) -> None:
        """Send what waits, and close a connection that has come to its end."""
        if self.transport is None:
            return
        while out := self.session.take_output():
            self.transport.write(out)
        if self.session.is_done or self.session.has_failed:
            self.transport.close()

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None: ...

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None: ...

    def on_trailers(self, stream: Stream, head: Head) -> None: ...

    def on_interim(self, stream: Stream, head: Head) -> None: ...

    def on_reset(self, stream: Stream, code: int, text: str) -> None: ...

    def on_writable(self, stream: Stream) -> None: ...

    def on_goaway(self, last: int, code: int) -> None: ...

    def on_pong(self, payload: bytes) -> None: ...


class Request:
    """Request on a stream of a scripted upstream."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.body = b""


class ScriptedStreams(End):
    """Upstream's end of an HTTP/2 connection."""

    def __init__(self, script: Script, upstream: str) -> None:
        super().__init__(is_client=False)
        self._script = script
        self._upstream = upstream

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        stream.user = Request(head)
        if is_end:
            self._reply(stream)

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        cast("Request", stream.user).body += data
        if is_end:
            self._reply(stream)

    def on_trailers(self, stream: Stream, head: Head) -> None:
        self._reply(stream)

    def _reply(self, stream: Stream) -> None:
        """Record a request, and send the response after its time."""
        request = cast("Request", stream.user)
        head = request.head
        path = head.path.decode("latin-1")
        self._script.note(self._upstream, head.method.decode(), path, parse_fields(head.lines), request.body)
        answer = self._script.take(self._upstream)
        if answer.after:
            self._script.env.call_later(answer.after, self._send, stream, answer, path)
        else:
            self._send(stream, answer, path)

    def _send(self, stream: Stream, answer: ResponseSpec, path: str) -> None:
        """Send the response, or fail as the response says."""
        transport, session, request = self.transport, self.session, cast("Request", stream.user)
        if transport is None or answer.fail in ("timeout", "connect_timeout"):
            return
        if answer.fail in ("reset", "connect_failure"):  # the latter came while an attempt had a connection already
            transport.abort()
            return
        if answer.fail == "protocol_error":
            transport.write(b"this is not HTTP\r\n\r\n")
            return
        if answer.fail == "cut" and is_grpc(get(parse_fields(request.head.lines), b"content-type") or b""):
            session.respond(stream, 200, lines_of({"content-type": CALL_TYPE}), False)
            session.send(stream, PREFIX.pack(0, len(CUT)) + CUT[: len(CUT) // 2], False)
        elif answer.is_call:
            self._send_call(stream, answer, path)
        else:
            fields, body = self._script.written(answer, request.head.method.decode())
            session.respond(stream, answer.status, lines_of(fields), not body)
            is_cut = answer.fail == "cut"
            session.send(stream, body[: len(body) // 2] if is_cut else body, not is_cut)
        if answer.fail == "cut":
            self._script.env.call_later(0.001, transport.abort)
        elif self._script.is_refusing:
            session.finish_drain()
        self.flush()

    def leave(self) -> None:
        """End the connection, once what has begun is answered."""
        self.session.finish_drain()
        self.flush()

    def _send_call(self, stream: Stream, answer: ResponseSpec, path: str) -> None:
        """Send the answer of a call: a status with no message before it stands in the head."""
        code = GRPC_STATUSES.index(answer.grpc_status)
        try:
            messages = self._script.messages.encode(path, answer, is_answer=True)
        except ValueError as error:
            self._script.unsendable.append(str(error))
            messages, code = b"", INTERNAL
        fields = {name.lower(): value for name, value in answer.headers.items()}
        fields.setdefault("date", write_http_date(self._script.env.wall()).decode())
        head = lines_of({"content-type": CALL_TYPE, **fields})
        end = b"".join(b"%b: %b\r\n" % field for field in status_fields(code, answer.grpc_message))
        if code and "message" not in answer.model_fields_set:
            self.session.respond(stream, 200, head + end, True)
            return
        self.session.respond(stream, 200, head, False)
        self.session.send(stream, messages, False)
        self.session.send_trailers(stream, end)
