"""Which of the answers stored for one URI a request means (RFC 9111 4.1).

A stored answer is keyed by the values that its request had in the fields that `Vary` names.  Two values match if they
differ in white space, in how they are spread over lines, or in ways that mean nothing by the field's own definition;
an absent field matches an absent one only.

The fields that the edge takes from the client and writes anew (`X-Forwarded-For` and its kin) count as they go up.

Answers of one URI may name different fields.  All are then keyed by the union of the names: never coarser than any of
them asks, and it settles after a few answers.  The RFC's advice for an answer that forgot its `Vary` ("use the most
recent valid Vary field value available") is thereby kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sidecar.cache.rfc.lines import lowered, values
from sidecar.core.exchange import Exchange

MAX_NAMES: Final = 16
"""Fields that may be named for one URI; an answer that names more is not stored."""
ABSENT: Final = b"\x00"
"""What an absent field is keyed by; no value can contain it."""
CASELESS: Final = frozenset((b"accept-language", b"accept-encoding", b"accept-charset"))
"""Lists whose members are compared without letter case and may hold white space (RFC 9110 12.5)."""
UNORDERED: Final = frozenset((b"accept-encoding", b"accept-charset"))
"""Those in which the order means nothing; of equal languages many services prefer the first (RFC 9110 12.5.4)."""

Names = tuple[bytes, ...]


def names_of(lines: list[bytes]) -> Names | None:
    """The fields that `Vary` names, sorted and each once; None if it is `*` or too long to be taken."""
    if not lines:
        return ()
    return _names(lines[0] if len(lines) == 1 else b",".join(lines))


@lru_cache(maxsize=256)
def _names(value: bytes) -> Names | None:
    names = {name for part in value.lower().split(b",") if (name := part.strip(b" \t"))}
    if b"*" in names or len(names) > MAX_NAMES:
        return None
    return tuple(sorted(names))


def selecting(x: Exchange, names: Names) -> bytes:
    """The request's values of the named fields, normalised, as a part of a key."""
    lines = x.lines
    lower = lowered(lines)
    return b"\n".join([_selected(x, lines, lower, name) for name in names])


def _selected(x: Exchange, lines: bytes, lower: bytes, name: bytes) -> bytes:
    found = values(lines, lower, name)
    if not found and x.forwarding:
        found = values(x.forwarding, lowered(x.forwarding), name)
    if not found:
        return ABSENT
    return normalised(name, found[0] if len(found) == 1 else b",".join(found))


def normalised(name: bytes, value: bytes) -> bytes:
    """A value such that two that mean the same are mostly equal, and two that do not never are."""
    if len(value) > 256:
        return value
    return _normalised(value, name in CASELESS, name in UNORDERED)


@lru_cache(maxsize=1024)
def _normalised(value: bytes, caseless: bool, unordered: bool) -> bytes:
    if b'"' in value or b"\\" in value:  # commas and spaces inside of a quoted string are its content
        return value
    members = [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    if caseless:
        members = [b"".join(member.lower().split()) for member in members]
    if unordered:
        members.sort()
    return b",".join(members)
