"""Records of a shared store as bytes.

    "SC" version kind crc32 | key generation | parts of the kind

Rules:

1. Numbers are big-endian, and each part has its length before it.  Instants are written as Unix time and read as
   instants of the reader's clock.
2. Reading is strict.  Another version, a wrong checksum, a length that exceeds the record, a field that is not HTTP or
   belongs to a connection or its framing, a status that does not fit the body, or a list that no writer writes raise
   `ValueError`; the caller takes that for a miss.
3. Nothing in a record is executed.

Whether a record belongs to the key under which it was found is for the caller to check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf, isfinite, isnan, nan
from struct import Struct
from typing import Final
from zlib import crc32

from sidecar.cache.entry import Entry, Variants, tags_of
from sidecar.cache.rfc.etag import is_tag
from sidecar.cache.rfc.facts import UNSTORABLE, Facts
from sidecar.cache.rfc.freshness import Plan
from sidecar.cache.rfc.key import is_keyed_by_fields
from sidecar.cache.rfc.vary import MAX_NAMES, FieldNames
from sidecar.core.http1 import FIELDS
from sidecar.core.message import HOP_BY_HOP, fold, parse_fields

MAGIC: Final = b"SC\x02"
HEAD: Final = Struct(">3scI")
"""Magic bytes, kind and checksum."""
LENGTH: Final = Struct(">I")
RESPONSE: Final = Struct(">HB6d")
"""Status, flags, then five instants as Unix time (born, fresh, stale-while-revalidate, stale-if-error, keep), then
Date."""
MODIFIED: Final = Struct(">d")
"""Last-Modified in seconds since 1970; NaN if it is absent."""
VALID: Final = re.compile(FIELDS)
"""Matches valid field lines."""
FOREIGN: Final = HOP_BY_HOP | UNSTORABLE - {b"age"} | {b"content-range"}
"""Fields that are never stored: those of one connection and those of framing."""
NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
"""Matches a field name in lower case."""
LONGEST_FIELDS: Final = 256 * 1024
"""Bytes of all fields of a response."""
BODILESS: Final = frozenset((204, 205))
"""Statuses without a body."""
UNSTORED: Final = frozenset((206, 304))
"""Statuses that are never stored."""
NO_FACTS: Final = Facts()
NO_PLAN: Final = Plan()
NO_CACHE, MUST_VALIDATE, IMMUTABLE = 1, 2, 4
FURTHEST: Final = 2.0**33
"""Unix time beyond which an instant is refused."""


@dataclass(frozen=True, slots=True)
class Record:
    """Entry or list of variants, with the generation in which it was written."""

    item: Entry | Variants
    generation: bytes
    """Counts of purges that were read before the response was fetched (`sidecar.cache.redis_tier`)."""


def encode(record: Record, now: float, wall: float) -> bytes:
    """Return a record as bytes; `now` and `wall` are the same instant on both clocks."""
    item = record.item
    parts = [item.key, record.generation]
    if isinstance(item, Variants):
        kind = b"V"
        parts.append(b",".join(item.names))
    else:
        kind = b"E"
        shift = wall - now
        flags = NO_CACHE * item.no_cache | MUST_VALIDATE * item.must_validate | IMMUTABLE * item.immutable
        instants = (item.born, item.fresh_until, item.stale_until, item.stale_if_error_until, item.keep_until)
        parts.append(RESPONSE.pack(item.status, flags, *(instant + shift for instant in instants), item.date))
        parts.append(MODIFIED.pack(nan if item.last_modified is None else item.last_modified))
        parts += [item.etag or b"", b",".join(item.vary), b"\n".join(item.tags)]
        parts.append(item.lines)
        parts.append(item.body)
    payload = b"".join([LENGTH.pack(len(part)) + part for part in parts])
    return HEAD.pack(MAGIC, kind, crc32(payload)) + payload


def decode(data: bytes, now: float, wall: float) -> Record:
    """Return the record that the bytes encode.  Raises `ValueError` if they encode none."""
    if len(data) < HEAD.size:
        raise ValueError("a record ends within its head")
    magic, kind, checksum = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("a record is of another version")
    if crc32(memoryview(data)[HEAD.size :]) != checksum:
        raise ValueError("a record's checksum is wrong")
    parts = _parts(data)
    expected = {b"E": 9, b"V": 3}.get(kind)
    if len(parts) != expected:
        raise ValueError("a record does not have the parts of its kind")
    if kind == b"V":
        names = _names(parts[2])
        if not names:
            raise ValueError("a record names no request fields")
        return Record(Variants(parts[0], names), parts[1])
    return Record(_entry(parts, now, wall), parts[1])


def _parts(data: bytes) -> list[bytes]:
    parts, at, end = [], HEAD.size, len(data)
    while at < end:
        if at + LENGTH.size > end:
            raise ValueError("a record ends within a length")
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        if at + length > end:
            raise ValueError("a record is shorter than it says")
        parts.append(data[at : at + length])
        at += length
    return parts


def _names(part: bytes) -> FieldNames:
    """Return the request fields by which a response varies.  Raises `ValueError` for a list that no writer writes."""
    names = tuple(part.split(b",")) if part else ()
    if len(names) > MAX_NAMES or list(names) != sorted(set(names)) or not all(map(NAME.fullmatch, names)):
        raise ValueError("a record's list of request fields is not valid")
    return names


def _tags(part: bytes) -> tuple[bytes, ...]:
    """Return the tags of a response.  Raises `ValueError` for tags that no writer writes."""
    tags = tuple(part.split(b"\n")) if part else ()
    if tags != tags_of(tags):
        raise ValueError("a record's tags are not valid")
    return tags


def _check_fields(fields: bytes) -> None:
    """Check the field lines of a response.  Raises `ValueError` for invalid lines and fields that are never stored."""
    if len(fields) > LONGEST_FIELDS or VALID.fullmatch(fields) is None:
        raise ValueError("a record's fields are not valid HTTP")
    names = {fold(name) for name, _ in parse_fields(fields)}
    if not FOREIGN.isdisjoint(names):
        raise ValueError("a record has fields that are never stored")


def _entry(parts: list[bytes], now: float, wall: float) -> Entry:
    key, _, response, modified, etag, vary, tags, fields, body = parts
    if len(response) != RESPONSE.size or len(modified) != MODIFIED.size:
        raise ValueError("a record's numbers have the wrong size")
    status, flags, *instants = RESPONSE.unpack(response)
    if not all(isfinite(instant) and abs(instant) < FURTHEST for instant in instants) or not 200 <= status <= 599:
        raise ValueError("a record's numbers are impossible")
    if status in UNSTORED or (body and status in BODILESS):
        raise ValueError("a record's status does not fit what it holds")
    if etag and not is_tag(etag):
        raise ValueError("a record's entity tag is not valid")
    _check_fields(fields)
    (seconds,) = MODIFIED.unpack(modified)
    if not isnan(seconds) and not abs(seconds) < FURTHEST:
        raise ValueError("a record's Last-Modified is impossible")
    # the writer derived the plan from the fields; the stored values are set below
    entry = Entry(key, status, fields, body, NO_FACTS, NO_PLAN, 0.0, now, wall, 0.0, is_keyed_by_fields(key))
    born, fresh, stale, if_error, keep, entry.date = instants
    shift = now - wall
    entry.born = min(now, born + shift)  # the writer's clock may be ahead
    entry.fresh_until, entry.stale_until = fresh + shift, stale + shift
    entry.stale_if_error_until, entry.keep_until = if_error + shift, keep + shift
    entry.no_cache, entry.must_validate, entry.immutable = (bool(flags & bit) for bit in (1, 2, 4))
    entry.last_modified = None if isnan(seconds) else seconds
    entry.etag = etag or None
    entry.vary = _names(vary)
    entry.tags = _tags(tags)
    entry.recompute()
    return entry


def ttl_of(item: Entry | Variants, now: float, longest: float) -> float:
    """Return the seconds for which a shared store must keep the item, `longest` at most."""
    return longest if item.keep_until == inf else min(longest, item.keep_until - now)
