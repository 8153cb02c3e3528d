"""Entity tags (RFC 9110 8.8.3), read strictly and compared weakly or strongly.  What is none validates nothing."""

from __future__ import annotations

import re
from typing import Final

TAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"')
LIST: Final = re.compile(rb'[ \t,]*+((?:W/)?"[\x21\x23-\x7e\x80-\xff]*+")[ \t]*+(?=,|\Z)')


def is_tag(value: bytes) -> bool:
    """Is it an entity tag (RFC 9110 8.8.3)?"""
    return TAG.fullmatch(value) is not None


def is_strong(tag: bytes) -> bool:
    return not tag.startswith(b"W/")


def weakly_equal(one: bytes, other: bytes) -> bool:
    """Equal but for weakness (RFC 9110 8.8.3.2)."""
    return one.removeprefix(b"W/") == other.removeprefix(b"W/")


def tags_of(value: bytes) -> list[bytes] | None:
    """The entity tags of a list, None if it is not one."""
    tags: list[bytes] = []
    at = 0
    while at < len(value):
        match = LIST.match(value, at)
        if match is None:
            return tags if tags and not value[at:].strip(b" \t,") else None
        tags.append(match[1])
        at = match.end()
    return tags
