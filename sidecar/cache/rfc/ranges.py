"""Range requests on a stored response (RFC 9110 14): the requested bytes, and the partial response.

A Range is ignored if it is malformed, or asks for many or overlapping ranges, a known denial of service (14.2).  The
response to one satisfiable range is a plain 206, to several `multipart/byteranges` (15.3.7), to none a 416 (15.5.17).
"""

from __future__ import annotations

import re
from hashlib import blake2b
from itertools import pairwise
from typing import Final

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.dates import parse_date
from sidecar.cache.rfc.etag import is_strong, is_tag
from sidecar.core.message import Headers, get, without

BYTES: Final = re.compile(rb"bytes=(.*)", re.IGNORECASE)
SPEC: Final = re.compile(rb"[ \t]*+(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))[ \t]*+")
MAX_RANGES: Final = 16
"""Ranges of one request, at most; a field with more is ignored."""

Range = tuple[int, int]
"""Index of the first byte, and of the byte after the last."""


def parse_ranges(value: bytes, size: int) -> list[Range] | None:
    """Return the satisfiable ranges in the order given, or None if the field must be ignored."""
    match = BYTES.fullmatch(value)
    if match is None:
        return None
    ranges: list[Range] = []
    parts = [part for part in match[1].split(b",") if part.strip(b" \t")]
    if not parts or len(parts) > MAX_RANGES:
        return None
    for part in parts:
        spec = SPEC.fullmatch(part)
        if spec is None:
            return None
        first, last, suffix = spec.groups()
        if suffix is not None:
            start, end = max(0, size - int(suffix)), size
        else:
            start, end = int(first), size if last is None else int(last) + 1
            if last is not None and end <= start:
                return None
        if start < min(end, size):
            ranges.append((start, min(end, size)))
    ordered = sorted(ranges)
    overlap = any(after[0] < before[1] for before, after in pairwise(ordered))
    return None if overlap else ranges


def is_applicable(if_range: bytes | None, entry: Entry, now: float) -> bool:
    """True if If-Range holds (RFC 9110 13.1.5) or is absent."""
    if if_range is None:
        return True
    if is_tag(if_range):
        return is_strong(if_range) and if_range == entry.etag
    date = parse_date(if_range, now)
    # a date is a strong validator if it is a second or more before Date (8.8.2.2)
    return date is not None and date == entry.last_modified and entry.date >= date + 1


def partial(entry: Entry, ranges: list[Range]) -> tuple[int, Headers, bytes]:
    """Return status, fields and body of the response to satisfiable ranges: a 206, or a 416 if there are none."""
    size = len(entry.body)
    if not ranges:
        return 416, [(b"content-range", b"bytes */%d" % size)], b""
    if len(ranges) == 1:
        start, end = ranges[0]
        headers = [*without(entry.headers, b"content-range"), (b"content-range", _content_range(start, end, size))]
        return 206, headers, entry.body[start:end]
    kind = get(entry.headers, b"content-type")
    boundary = blake2b(entry.body, digest_size=12, key=entry.key[:64]).hexdigest().encode()
    parts = []
    for start, end in ranges:
        head = b"\r\n--%b\r\n" % boundary
        if kind is not None:
            head += b"content-type: %b\r\n" % kind
        parts += [head, b"content-range: %b\r\n\r\n" % _content_range(start, end, size), entry.body[start:end]]
    parts.append(b"\r\n--%b--\r\n" % boundary)
    headers = without(entry.headers, b"content-type", b"content-range")
    return 206, [*headers, (b"content-type", b"multipart/byteranges; boundary=%b" % boundary)], b"".join(parts)[2:]


def _content_range(start: int, end: int, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (start, end - 1, size)
