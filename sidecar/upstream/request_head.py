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
MAX_TIMES: Final = 64
"""Most timeouts whose lines are cached."""
_known_times: Final[dict[tuple[float, bytes, bool], bytes]] = {}
"""Lines of attempts that have all their time left, by timeout, field and whether `grpc-timeout` is sent."""


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
    if seconds < x.attempt_timeout:
        return _write_time(seconds, x.timeout_header, x.grpc_timeout)
    key = (x.attempt_timeout, x.timeout_header, x.grpc_timeout)
    known = _known_times.get(key)
    if known is None:
        if len(_known_times) >= MAX_TIMES:
            _known_times.clear()
        known = _known_times[key] = _write_time(*key)
    return known


def _write_time(seconds: float, header: bytes, is_grpc: bool) -> bytes:
    left = int(seconds * 1000)
    if left < 1:
        left = 1
    lines = b"%b: %d\r\n" % (header, left) if header else b""
    return lines + b"grpc-timeout: %b\r\n" % format_timeout(seconds) if is_grpc else lines
