"""Writer of request heads for an upstream, one for each attempt.  No I/O.

The downstream side has removed hop-by-hop fields.  This module adds framing, Host, the time left, and the number of the
attempt.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.exchange import NEVER, Exchange
from sidecar.grpc.timeout import format_timeout

METHODS_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))
"""Methods for which a missing body is sent as `Content-Length: 0` (RFC 9110 8.6)."""


def request_head(x: Exchange, now: float, host: bytes) -> bytes:
    """Return the bytes of a request head; `host` is the Host field if the client sent none."""
    fields = x.trace_lines
    if x.stream is not None:
        if x.stream.length is None:
            fields += b"transfer-encoding: chunked\r\n"
        else:
            fields += b"content-length: %d\r\n" % x.stream.length
        if x.expects_continue:
            fields += b"expect: 100-continue\r\n"
    elif x.body or x.method in METHODS_WITH_BODY:
        fields += b"content-length: %d\r\n" % len(x.body)
    if x.upgrade is not None:
        fields += b"connection: Upgrade\r\nupgrade: %b\r\n" % x.upgrade
    if x.accepts_trailers:
        fields += b"connection: te\r\nte: trailers\r\n"
    if x.deadline != NEVER and (x.timeout_header or x.grpc_timeout):
        fields += time_fields(x, now)
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b%bx-sidecar-attempt: %d\r\n\r\n" % (
        x.method,
        x.path if x.query is None else b"%b?%b" % (x.path, x.query),
        x.authority or host,
        x.raw if x.parsed is None else x.lines,
        fields,
        x.forwarding,
        x.attempt + x.marked_attempt,
    )


def time_fields(x: Exchange, now: float) -> bytes:
    """Return the lines that give the upstream the time left; only for an exchange with a deadline."""
    seconds = x.deadline - now
    if seconds > x.attempt_timeout:
        seconds = x.attempt_timeout
    left = int(seconds * 1000)
    if left < 1:
        left = 1
    lines = b"%b: %d\r\n" % (x.timeout_header, left) if x.timeout_header else b""
    return lines + b"grpc-timeout: %b\r\n" % format_timeout(seconds) if x.grpc_timeout else lines
