"""Requests on a stream: the field lines of a head, and the writer of a streamed body.

The fields are those of HTTP/1.1 (`upstream.request_head`) without the ones of a connection, which the encoder drops
(RFC 9113 8.2.2).  `te` is sent with `trailers` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.http1 import can_be_trailer
from sidecar.core.message import Headers
from sidecar.upstream.request_body import SLOW_RATE, RequestBody
from sidecar.upstream.request_head import METHODS_WITH_BODY, time_fields

if TYPE_CHECKING:
    import asyncio

    from sidecar.core.body import Body
    from sidecar.upstream.http2.stream import UpstreamStream

MAX_HOPS: Final = 256
"""Most results of `hop_lines` that are cached."""
_known_hops: Final[dict[tuple[bytes, int, bool], bytes]] = {}


def own_lines(x: Exchange, now: float) -> bytes:
    """Return the field lines that the sidecar adds to this request alone."""
    lines = x.trace_lines
    if x.stream is not None:
        if x.stream.length is not None:
            lines += b"content-length: %d\r\n" % x.stream.length
        if x.expects_continue:
            lines += b"expect: 100-continue\r\n"
    elif not x.is_grpc and (x.body or x.method in METHODS_WITH_BODY):  # the length of a call says nothing
        lines += b"content-length: %d\r\n" % len(x.body)
    if x.deadline != NEVER and (x.timeout_header or x.grpc_timeout):
        lines += time_fields(x, now)
    return lines


def split_lines(x: Exchange) -> tuple[bytes, bytes]:
    """Return the field lines of the client, and the request's id if it stands behind them; else it is empty."""
    lines = x.raw if x.parsed is None else x.lines
    request_id = x.request_id
    last = b"x-request-id: %b\r\n" % request_id
    return (lines[: -len(last)], request_id) if lines.endswith(last) else (lines, b"")


def hop_lines(x: Exchange) -> bytes:
    """Return the field lines of this hop, which many requests have in common."""
    key = (x.forwarding, x.attempt + x.marked_attempt, x.accepts_trailers)
    known = _known_hops.get(key)
    if known is None:
        if len(_known_hops) >= MAX_HOPS:
            _known_hops.clear()
        trailers = b"te: trailers\r\n" if x.accepts_trailers else b""
        known = _known_hops[key] = b"%b%bx-sidecar-attempt: %d\r\n" % (trailers, x.forwarding, key[1])
    return known


def request_lines(x: Exchange, now: float) -> bytes:
    """Return all field lines of a request."""
    return (x.raw if x.parsed is None else x.lines) + own_lines(x, now) + hop_lines(x)


class StreamedBody(RequestBody):
    """Sink of a streamed request body: sends it on a stream."""

    __slots__ = ("_carrier",)

    def __init__(self, carrier: UpstreamStream, transport: asyncio.Transport | None, x: Exchange, stream: Body) -> None:
        super().__init__(carrier, cast("asyncio.Transport", transport), x, stream)
        self._carrier = carrier

    def write(self, data: bytes) -> None:
        if self._is_ended or not data:
            return
        carrier = self._carrier
        self.starved_since = min(carrier.pool.env.now(), self.starved_since + len(data) / SLOW_RATE)
        if not carrier.send(data):
            self.pause()

    def finish(self, trailers: Headers) -> None:
        self.is_sent = True
        self._measure()
        if not self._is_ended:
            fields = [field for field in trailers if can_be_trailer(field[0])]
            lines = b"".join([b"%b: %b\r\n" % field for field in fields])
            self._carrier.send_end(lines)
