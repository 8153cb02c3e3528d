"""Wire format of Protocol Buffers: tags, varints and lengths.  No schema.

A varint has ten bytes at most, and bits beyond the 64th are dropped, as in Google's parsers.  Groups, which proto3 does
not have, are skipped like any other field.
"""

from __future__ import annotations

from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
GROUP: Final = 3
END_GROUP: Final = 4
FIXED32: Final = 5
MASK: Final = (1 << 64) - 1
"""Bits of a varint."""
TAG_BYTES: Final = 5
"""Most bytes of a tag."""
MAX_TAG: Final = (1 << 32) - 1
MAX_DEPTH: Final = 100
"""Messages and groups within each other; protobuf's own limit."""
ONE_BYTE: Final = [bytes((i,)) for i in range(128)]
"""Varints of one byte."""
MORE: Final = [bytes((i | 128,)) for i in range(128)]
"""Bytes of varints that are not their last."""


class MessageError(ValueError):
    """Raised for bytes that are no message of the expected type; the text completes "The message ..."."""


def varint(number: int) -> bytes:
    """Return the varint of a number; a negative one as two's complement of 64 bits."""
    if number < 0:
        number &= MASK
    if number < 128:
        return ONE_BYTE[number]
    out = MORE[number & 127]
    number >>= 7
    while number >= 128:
        out += MORE[number & 127]
        number >>= 7
    return out + ONE_BYTE[number]


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at an offset and the offset behind it.  Raises `MessageError`."""
    number = 0
    shift = 0
    size = len(data)
    while at < size:
        octet = data[at]
        at += 1
        number |= (octet & 127) << shift
        if octet < 128:
            return number & MASK, at
        shift += 7
        if shift >= 70:
            raise MessageError("has a varint of more than ten bytes")
    raise MessageError("is cut off")


def read_tag(data: bytes, at: int) -> tuple[int, int]:
    """Return the tag at an offset and the offset behind it.  Raises `MessageError`."""
    tag, behind = read_varint(data, at)
    if behind - at > TAG_BYTES or tag > MAX_TAG:
        raise MessageError("has a field whose number is too large")
    return tag, behind


def skip(data: bytes, at: int, end: int, tag: int, depth: int = 0) -> int:
    """Return the offset behind the value of an unknown field, whose tag ends at `at`.  Raises `MessageError`."""
    kind = tag & 7
    if tag >> 3 == 0:
        raise MessageError("has a field with the number 0")
    if kind == VARINT:
        at = read_varint(data, at)[1]
    elif kind == LENGTH:
        size, at = read_varint(data, at)
        at += size
    elif kind == FIXED64:
        at += 8
    elif kind == FIXED32:
        at += 4
    elif kind == GROUP:
        at = group_end(data, at, end, tag, depth)[1]
    else:
        raise MessageError(f"has the wire type {kind}")
    if at > end:
        raise MessageError("is cut off")
    return at


def group_end(data: bytes, at: int, end: int, tag: int, depth: int = 0) -> tuple[int, int]:
    """Return the offsets before and behind the end of the group whose tag ends at `at`.  Raises `MessageError`."""
    if depth >= MAX_DEPTH:
        raise MessageError(f"has more than {MAX_DEPTH} groups within each other")
    while at < end:
        before = at
        inner, at = read_tag(data, at)
        if inner & 7 == END_GROUP:
            if inner >> 3 != tag >> 3:
                break
            return before, at
        at = skip(data, at, end, inner, depth + 1)
    raise MessageError("has a group without its end")


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Return the fields of a message in order: number, and an integer or bytes.  Groups are left out.

    Raises `MessageError`.
    """
    found: list[tuple[int, int | bytes]] = []
    at, end = 0, len(data)
    while at < end:
        tag, start = read_tag(data, at)
        at = skip(data, start, end, tag)
        kind = tag & 7
        if kind == VARINT:
            found.append((tag >> 3, read_varint(data, start)[0]))
        elif kind == LENGTH:
            found.append((tag >> 3, data[read_varint(data, start)[1] : at]))
        elif kind != GROUP:
            found.append((tag >> 3, int.from_bytes(data[start:at], "little")))
    return found
