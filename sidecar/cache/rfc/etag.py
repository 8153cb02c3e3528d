"""Entity tags (RFC 9110 8.8.3), read strictly, compared weakly or strongly.  A malformed tag validates nothing."""

from __future__ import annotations

import re
from typing import Final

TAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"')
"""Matches an entity tag."""
LIST: Final = re.compile(rb'[ \t,]*+((?:W/)?"[\x21\x23-\x7e\x80-\xff]*+")[ \t]*+(?=,|\Z)')
"""Matches one member of a list of entity tags."""


def is_tag(value: bytes) -> bool:
    """True if the value is an entity tag (RFC 9110 8.8.3)."""
    return TAG.fullmatch(value) is not None


def is_strong(tag: bytes) -> bool:
    """True if the tag is not marked as weak."""
    return not tag.startswith(b"W/")


def weakly_equal(one: bytes, other: bytes) -> bool:
    """True if two tags are equal but for weakness (RFC 9110 8.8.3.2)."""
    return one.removeprefix(b"W/") == other.removeprefix(b"W/")


def tags_of(value: bytes) -> list[bytes] | None:
    """Return the entity tags of a list, or None if it is malformed."""
    tags: list[bytes] = []
    at = 0
    while at < len(value):
        match = LIST.match(value, at)
        if match is None:
            return tags if tags and not value[at:].strip(b" \t,") else None
        tags.append(match[1])
        at = match.end()
    return tags
