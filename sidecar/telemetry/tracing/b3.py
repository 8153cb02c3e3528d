"""B3, Zipkin's propagation: one `b3` field or several `x-b3-*` ones.  Pure functions.

A trace id of 64 bits is padded with zeros on the left, as OpenTelemetry does it, and goes on with 128.  `d` (debug) is
an acceptance that nobody may overrule and travels on as such.  A decision without ids (`b3: 0`) starts a trace that
obeys it; no decision leaves it to the sampler.  What is malformed starts a trace anew.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sidecar.core.headers import get
from sidecar.core.message import Headers

DEBUG: Final = 0x100
"""Beside the flags of the W3C, for ourselves: never in a `traceparent`."""
SINGLE: Final[bytes] = b"b3"
MULTIPLE: Final[tuple[bytes, ...]] = (
    b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags",
)  # fmt: skip
TRACE_ID, SPAN_ID, PARENT_ID, IS_SAMPLED, FLAGS = MULTIPLE

_ids: Final = re.compile(rb"(?!0+\b)([0-9a-f]{16}|[0-9a-f]{32})-(?!0{16})([0-9a-f]{16})(?:-([01d]))?(?:-[0-9a-f]{16})?")
_DECISIONS: Final = {b"0": False, b"1": True, b"d": True, b"true": True, b"false": False}


class Caller(NamedTuple):
    """What a caller said in B3."""

    trace_id: bytes = b""
    """32 characters of hex; empty where it gave no ids."""
    span_id: bytes = b""
    is_sampled: bool | None = None
    """None: it has not decided."""
    is_debug: bool = False


def parse_single(fields: Headers) -> Caller | None:
    """From the field `b3`."""
    value = (get(fields, SINGLE) or b"").lower()
    if value in (b"0", b"1", b"d"):
        return Caller(is_sampled=_DECISIONS[value], is_debug=value == b"d")
    match = _ids.fullmatch(value)
    if match is None:
        return None
    trace_id, span_id, decision = match.groups()
    return Caller(
        trace_id.rjust(32, b"0"), span_id, None if decision is None else _DECISIONS[decision], decision == b"d"
    )


def parse_multiple(fields: Headers) -> Caller | None:
    """From the fields `x-b3-*`."""
    is_debug = get(fields, FLAGS) == b"1"
    sampled = True if is_debug else _DECISIONS.get((get(fields, IS_SAMPLED) or b"").lower())
    match = _ids.fullmatch(b"%b-%b" % ((get(fields, TRACE_ID) or b"").lower(), (get(fields, SPAN_ID) or b"").lower()))
    if match is None:
        return None if sampled is None else Caller(is_sampled=sampled, is_debug=is_debug)
    return Caller(match[1].rjust(32, b"0"), match[2], sampled, is_debug)


def write_single(trace_id: bytes, span_id: int, flags: int) -> bytes:
    """The header line for the next hop."""
    return b"b3: %b-%016x-%b\r\n" % (trace_id, span_id, b"d" if flags & DEBUG else b"%d" % (flags & 1))


def write_multiple(trace_id: bytes, span_id: int, flags: int) -> bytes:
    """The header lines for the next hop."""
    decision = b"x-b3-flags: 1" if flags & DEBUG else b"x-b3-sampled: %d" % (flags & 1)
    return b"x-b3-traceid: %b\r\nx-b3-spanid: %016x\r\n%b\r\n" % (trace_id, span_id, decision)
