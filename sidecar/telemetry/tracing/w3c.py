"""W3C Trace Context: parsers of `traceparent` and `tracestate`.  Pure functions.

Rules, with the section of the recommendation (Level 1, with the additions of Level 2):

- 3.2.2: hex is in lower case.  An id of zeros and the version `ff` are invalid.  Version 00 has 55 characters.  The
  first 55 characters of a higher version are read as version 00, if a dash or nothing follows.  Version 00 is written.
- 3.2.2.5: only known flags are passed on: `sampled` and (Level 2) `random`.
- 3.3.1: several tracestate fields are joined in order; empty members are dropped; at most 32 members are allowed.
- 3.4: each attempt has its own parent-id, even without a span, so that the access logs of both sides can be joined.
- 3.5: the left-most member of a repeated key stays, because it is the latest.
- 4.3: a malformed or repeated traceparent begins a new trace and drops the tracestate.  A malformed tracestate (a bad
  key or value, a 33rd member) is dropped as a whole, without effect on the traceparent.

A valid tracestate is passed on in full; the limit on header bytes bounds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sidecar.core.message import Headers

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Flag of Level 2: the right-most 7 bytes of the trace id are random."""
KNOWN_FLAGS: Final = SAMPLED | RANDOM
MAX_MEMBERS: Final = 32
TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"

_traceparent: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
).fullmatch
_KEY: Final = rb"[a-z0-9][a-z0-9_*/@-]{0,255}"
_VALUE: Final = rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_member: Final = re.compile(rb"(" + _KEY + rb")=" + _VALUE).fullmatch
_FLAGS: Final = {b"%02x" % flags: flags & KNOWN_FLAGS for flags in range(256)}


class Parent(NamedTuple):
    """Span of the caller, which becomes the parent of the next span."""

    trace_id: bytes
    """Trace id, 32 characters of lower-case hex, not all zero."""
    span_id: bytes
    """Span id, 16 characters of lower-case hex, not all zero."""
    flags: int
    """Known flags: `SAMPLED`, `RANDOM`."""
    state: bytes = b""
    """Tracestate, joined to one field value; empty if there is none."""

    @property
    def is_sampled(self) -> bool:
        """True if the caller records the trace."""
        return self.flags & SAMPLED != 0


def parse_traceparent(value: bytes) -> Parent | None:
    """Return the span in a `traceparent` field, without a tracestate; None if the field is malformed."""
    match = _traceparent(value) or _traceparent(value.strip(b" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, future = match.groups()
    if future is not None and version == b"00":
        return None
    return Parent(trace_id, span_id, _FLAGS[flags])


def parse_tracestate(values: Iterable[bytes]) -> bytes:
    """Return the `tracestate` fields of a message joined in order; empty if they are malformed."""
    members: dict[bytes, bytes] = {}
    for value in values:
        for member in value.split(b","):
            stripped = member.strip(b" \t")
            if not stripped:
                continue
            match = _member(stripped)
            if match is None:
                return b""
            members.setdefault(match[1], stripped)
    if len(members) > MAX_MEMBERS:
        return b""
    return b",".join(members.values())


def extract(fields: Headers) -> Parent | None:
    """Return the span of the caller; None if it is absent or malformed, so that a new trace begins."""
    parents: Sequence[bytes] = [value for name, value in fields if name == TRACEPARENT]
    parent = parse_traceparent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        return None
    return parent._replace(state=parse_tracestate(value for name, value in fields if name == TRACESTATE))
