"""B3, Zipkin's trace headers: one `b3` field, or several `x-b3-*` fields.  Pure functions.

Rules (https://github.com/openzipkin/b3-propagation):

1. A trace id of 64 bits is padded with zeros on the left to 128 bits, as OpenTelemetry does.
2. `d` (debug) samples the trace whatever other rules say, and is passed on as `d`.
3. A sampling decision without ids (`b3: 0`) holds for the new trace.  Without a decision, the sampler decides.
4. A malformed context begins a new trace.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sidecar.core.message import Headers, get

DEBUG: Final = 0x100
"""Flag for debug traces, beside the flags of W3C; never written into a `traceparent`."""
SINGLE: Final[bytes] = b"b3"
MULTIPLE: Final[tuple[bytes, ...]] = (
    b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags",
)  # fmt: skip
TRACE_ID, SPAN_ID, PARENT_ID, IS_SAMPLED, FLAGS = MULTIPLE

_ids: Final = re.compile(rb"(?!0+\b)([0-9a-f]{16}|[0-9a-f]{32})-(?!0{16})([0-9a-f]{16})(?:-([01d]))?(?:-[0-9a-f]{16})?")
_DECISIONS: Final = {b"0": False, b"1": True, b"d": True, b"true": True, b"false": False}


class B3Context(NamedTuple):
    """Trace context of a caller."""

    trace_id: bytes = b""
    """Trace id, 32 characters of hex; empty if the caller sent no ids."""
    span_id: bytes = b""
    """Span id, 16 characters of hex; empty if the caller sent no ids."""
    is_sampled: bool | None = None
    """True if the caller sampled the trace; None if it did not decide."""
    is_debug: bool = False
    """True if the trace must be sampled whatever the sampler says."""


def parse_single(fields: Headers) -> B3Context | None:
    """Return the context in the field `b3`; None if the field is absent or malformed."""
    value = (get(fields, SINGLE) or b"").lower()
    if value in (b"0", b"1", b"d"):
        return B3Context(is_sampled=_DECISIONS[value], is_debug=value == b"d")
    match = _ids.fullmatch(value)
    if match is None:
        return None
    trace_id, span_id, decision = match.groups()
    return B3Context(
        trace_id.rjust(32, b"0"), span_id, None if decision is None else _DECISIONS[decision], decision == b"d"
    )


def parse_multiple(fields: Headers) -> B3Context | None:
    """Return the context in the fields `x-b3-*`; None if they are absent or malformed."""
    is_debug = get(fields, FLAGS) == b"1"
    sampled = True if is_debug else _DECISIONS.get((get(fields, IS_SAMPLED) or b"").lower())
    match = _ids.fullmatch(b"%b-%b" % ((get(fields, TRACE_ID) or b"").lower(), (get(fields, SPAN_ID) or b"").lower()))
    if match is None:
        return None if sampled is None else B3Context(is_sampled=sampled, is_debug=is_debug)
    return B3Context(match[1].rjust(32, b"0"), match[2], sampled, is_debug)


def write_single(trace_id: bytes, span_id: int, flags: int) -> bytes:
    """Return the header line `b3` for the next hop."""
    return b"b3: %b-%016x-%b\r\n" % (trace_id, span_id, b"d" if flags & DEBUG else b"%d" % (flags & 1))


def write_multiple(trace_id: bytes, span_id: int, flags: int) -> bytes:
    """Return the header lines `x-b3-*` for the next hop."""
    decision = b"x-b3-flags: 1" if flags & DEBUG else b"x-b3-sampled: %d" % (flags & 1)
    return b"x-b3-traceid: %b\r\nx-b3-spanid: %016x\r\n%b\r\n" % (trace_id, span_id, decision)
