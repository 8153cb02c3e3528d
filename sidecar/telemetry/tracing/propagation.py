"""Where a request stands in its caller's trace, and the header lines that tell the next hop.  No I/O.

Every request is asked once, so the usual cases are read straight from the lines that came: no trace headers, or one
`traceparent` with at most one `tracestate`.  Everything else goes through the field list.  The caller's headers are
taken off the request; each try upstream gets its own.  A `tracestate` stays where it is, since we add no member of our
own to it, and goes with the trace that it belongs to where that is malformed.

Several formats: the first that says something wins, and all are written.
"""

from __future__ import annotations

import re
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
"""Header lines from trace id (hex), span id and flags."""

FIELDS: Final = {"w3c": (TRACEPARENT, TRACESTATE), "b3": (b3.SINGLE,), "b3multi": b3.MULTIPLE}


Caller = tuple[bytes, bytes, int, bytes, bool]
"""What the caller said: trace id (32 characters of hex) and span id (16), both empty where it only decided; flags
(the W3C's, and `b3.DEBUG`); tracestate; do the flags say whether to sample?  A plain tuple: one is made per request."""

_usual: Final = re.compile(rb"[ \t]*00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-0([01])[ \t]*\r\n").match
"""The rest of a `traceparent` line as almost all of them are."""


def read_w3c(x: Exchange) -> Caller | None:
    """The caller's trace; None where there is none that can be trusted, and a new one begins."""
    lines = x.lines
    lower = lines.lower()
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
    """The same from the list of fields, for whatever is unusual."""
    parent = extract(x.take(FIELDS["w3c"]))
    if parent is None:
        return None
    if parent.state:
        x.add(TRACESTATE, parent.state)
    return *parent, True


def write_w3c(trace_id: bytes, span_id: int, flags: int) -> bytes:
    """The header line for the next hop."""
    return b"traceparent: 00-%b-%016x-%02x\r\n" % (trace_id, span_id, flags & KNOWN_FLAGS)


class Propagation:
    """`read` and `write` for a choice of formats."""

    def __init__(self, formats: Sequence[str]) -> None:
        """`w3c`, `b3`, `b3multi`; none of them is a choice too: then every trace begins and ends here."""
        self._formats = tuple(formats)
        self._fields = frozenset(name for each in self._formats for name in FIELDS[each])
        only_w3c = self._formats == ("w3c",)
        self.read: Callable[[Exchange], Caller | None] = read_w3c if only_w3c else self._read
        self.write: Write = write_w3c if only_w3c else self._write

    def _read(self, x: Exchange) -> Caller | None:
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
        return b"".join([WRITERS[each](trace_id, span_id, flags) for each in self._formats])


def _from_b3(said: b3.Caller | None) -> Caller | None:
    if said is None:
        return None
    flags = (SAMPLED if said.is_sampled else 0) | (b3.DEBUG if said.is_debug else 0)
    return said.trace_id, said.span_id, flags, b"", said.is_sampled is not None


WRITERS: Final[dict[str, Write]] = {"w3c": write_w3c, "b3": b3.write_single, "b3multi": b3.write_multiple}
