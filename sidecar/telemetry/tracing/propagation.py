"""Propagation of trace context: read from the caller's headers, written for each attempt.

Rules:

1. The usual cases are read directly from the received lines, because this happens for every request.  They are: no
   trace headers, or one `traceparent` with at most one `tracestate`.  All other cases use the list of fields.
2. The caller's headers are removed from the request, and each attempt gets its own.  A `tracestate` stays in place,
   because no member is added to it; it is dropped together with a malformed `traceparent`.
3. With several formats, the first one that the caller used is read, and all are written.
"""

from __future__ import annotations

import re
from binascii import hexlify
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.core.exchange import Exchange
from sidecar.telemetry.tracing import b3
from sidecar.telemetry.tracing.w3c import (
    KNOWN_FLAGS,
    SAMPLED,
    TRACEPARENT,
    TRACESTATE,
    extract,
    parse_tracestate,
)

Write = Callable[[bytes, int, int], bytes]
"""Function that returns header lines for a trace id (hex), a span id and flags."""

FIELDS: Final = {"w3c": (TRACEPARENT, TRACESTATE), "b3": (b3.SINGLE,), "b3multi": b3.MULTIPLE}
"""Header fields of each format."""

_FLAGS: Final = tuple(b"%02x" % flags for flags in range(KNOWN_FLAGS + 1))
"""Text of each value of the flags."""

Caller = tuple[bytes, bytes, int, bytes, bool]
"""Trace context of a caller: trace id (32 characters of hex), span id (16), flags, tracestate, is_decided.

`is_decided` is True if the caller made a sampling decision.  The ids are empty if it sent only that decision.  The
flags are those of W3C and `b3.DEBUG`.  This is a plain tuple, because one is made for each request."""

_usual: Final = re.compile(rb"[ \t]*00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-0([01])[ \t]*\r\n").match
"""Pattern of the value and the line end of an ordinary `traceparent`."""


def read_w3c(x: Exchange) -> Caller | None:
    """Remove the W3C trace headers from a request; return the caller's context, None if it is absent or malformed."""
    lines = x.lines
    lower = lines.lower()
    if lower.find(b"trace") < 0:  # `find` is faster than `in` for more than one octet
        return None
    at = lower.find(b"traceparent:")
    state_at = lower.find(b"tracestate:")
    if at < 0 and state_at < 0:
        return None
    usual = _usual(lines, at + 12) if at >= 0 else None
    if usual is None or (at and lower[at - 1] != 10) or lower.find(b"traceparent:", at + 12) >= 0:
        return _read_fields(x)
    state = b""
    if state_at >= 0:
        if (state_at and lower[state_at - 1] != 10) or lower.find(b"tracestate:", state_at + 11) >= 0:
            return _read_fields(x)
        said = lines[state_at + 11 : lines.index(b"\r\n", state_at)].strip(b" \t")
        state = parse_tracestate((said,))
        if not state or state != said:
            return _read_fields(x)
    x.lines = lines[:at] + lines[usual.end() :]
    trace_id, span_id, flags = usual.groups()
    return trace_id, span_id, SAMPLED if flags == b"1" else 0, state, True


def _read_fields(x: Exchange) -> Caller | None:
    """Return the same as `read_w3c`, from the list of fields, for unusual cases."""
    parent = extract(x.take(FIELDS["w3c"]))
    if parent is None:
        return None
    if parent.state:
        x.add(TRACESTATE, parent.state)
    return *parent, True


def write_w3c(trace_id: bytes, span_id: int, flags: int) -> bytes:
    """Return the header line `traceparent` for the next hop."""
    parent = hexlify(span_id.to_bytes(8, "big"))  # faster than %016x
    return b"traceparent: 00-%b-%b-%b\r\n" % (trace_id, parent, _FLAGS[flags & KNOWN_FLAGS])


class Propagation:
    """Reader and writer of trace context in the configured formats."""

    def __init__(self, formats: Sequence[str]) -> None:
        """`formats` are among `w3c`, `b3` and `b3multi`.  Without any, trace headers are neither read nor written."""
        self._formats = tuple(formats)
        self._fields = frozenset(name for each in self._formats for name in FIELDS[each])
        only_w3c = self._formats == ("w3c",)
        self.read: Callable[[Exchange], Caller | None] = read_w3c if only_w3c else self._read
        self.write: Write = write_w3c if only_w3c else self._write

    def _read(self, x: Exchange) -> Caller | None:
        """Remove the trace headers from a request; return the context of the first format that the caller used."""
        if not self._fields:
            return None
        fields = x.take(self._fields)
        found: Caller | None = None
        for each in self._formats:
            if each == "w3c":
                parent = extract(fields)
                caller = None if parent is None else (*parent, True)
            else:
                caller = _from_b3(b3.parse_single(fields) if each == "b3" else b3.parse_multiple(fields))
            if caller is not None and (found is None or (caller[0] and not found[0])):
                found = caller
        if found is not None and found[3]:
            x.add(TRACESTATE, found[3])
        return found

    def _write(self, trace_id: bytes, span_id: int, flags: int) -> bytes:
        """Return the header lines of all formats for the next hop."""
        return b"".join([WRITERS[each](trace_id, span_id, flags) for each in self._formats])


def _from_b3(said: b3.B3Context | None) -> Caller | None:
    """Return a B3 context as `Caller`."""
    if said is None:
        return None
    flags = (SAMPLED if said.is_sampled else 0) | (b3.DEBUG if said.is_debug else 0)
    return said.trace_id, said.span_id, flags, b"", said.is_sampled is not None


WRITERS: Final[dict[str, Write]] = {"w3c": write_w3c, "b3": b3.write_single, "b3multi": b3.write_multiple}
