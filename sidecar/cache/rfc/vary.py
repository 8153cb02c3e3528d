"""Selection among the variants of one URI by request fields (RFC 9111 4.1).

1. A variant is keyed by the values that its request had in the fields named by Vary.  Values match if they differ only
   in white space, in their spread over lines, or in ways without meaning by the field's definition.  An absent field
   matches an absent field only.
2. Fields that the sidecar writes anew (X-Forwarded-For and the like) count as they are sent upstream.
3. Values of a field's twins (`X_Tenant`, `x.tenant`) count too, with their names: a service that reads fields as
   variables takes them for the field.
4. Responses of one URI may name different fields.  All are keyed by the union of the names, which is never coarser than
   any of them demands.  This follows the RFC's advice for a response without its usual Vary ("use the most recent valid
   Vary field value available").
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sidecar.cache.rfc.lines import lowered, values
from sidecar.core.exchange import Exchange
from sidecar.core.message import fold, parse_fields

MAX_NAMES: Final = 16
"""Fields named for one URI, at most; a response that names more is not stored."""
ABSENT: Final = b"\x00"
"""Value in place of an absent field; no real value can contain it."""
CASELESS: Final = frozenset((b"accept-language", b"accept-encoding", b"accept-charset"))
"""Lists whose members ignore letter case and white space (RFC 9110 12.5)."""
UNORDERED: Final = frozenset((b"accept-encoding", b"accept-charset"))
"""Lists without order.  Accept-Language is none: many services prefer the first of equal languages (RFC 9110
12.5.4)."""

FieldNames = tuple[bytes, ...]


def field_names(lines: list[bytes]) -> FieldNames | None:
    """Return the names in Vary, sorted and unique; None if it is `*` or too long."""
    if not lines:
        return ()
    return _names(lines[0] if len(lines) == 1 else b",".join(lines))


@lru_cache(maxsize=256)
def _names(value: bytes) -> FieldNames | None:
    names = {name for part in value.lower().split(b",") if (name := part.strip(b" \t"))}
    if b"*" in names or len(names) > MAX_NAMES:
        return None
    return tuple(sorted(names))


def selecting(x: Exchange, names: FieldNames) -> bytes:
    """Return the request's values of the named fields, normalised, as a part of a key."""
    lines = x.lines
    lower = lowered(lines)
    selected = [_selected(x, lines, lower, name) for name in names]
    if x.speaks_to_caches or _are_unusual(names):
        selected += _twins(lines, names)
    return b"\n".join(selected)


def _twins(lines: bytes, names: FieldNames) -> list[bytes]:
    """Return the lines of twins: fields that are not named, but that some servers take for a named one."""
    folded = _folded(names)
    return [b"%b:%b" % field for field in parse_fields(lines) if field[0] not in names and fold(field[0]) in folded]


@lru_cache(maxsize=256)
def _are_unusual(names: FieldNames) -> bool:
    """True if one of the names has separators other than dashes, so that its twin is a usual name."""
    return names != tuple(map(fold, names))


@lru_cache(maxsize=256)
def _folded(names: FieldNames) -> frozenset[bytes]:
    return frozenset(map(fold, names))


def _selected(x: Exchange, lines: bytes, lower: bytes, name: bytes) -> bytes:
    found = values(lines, lower, name)
    if not found and x.forwarding:
        found = values(x.forwarding, lowered(x.forwarding), name)
    if not found:
        return ABSENT
    return normalised(name, found[0] if len(found) == 1 else b",".join(found))


def normalised(name: bytes, value: bytes) -> bytes:
    """Return a normal form: equivalent values have mostly the same, other values never."""
    if len(value) > 256:
        return value
    return _normalised(value, name in CASELESS, name in UNORDERED)


@lru_cache(maxsize=1024)
def _normalised(value: bytes, caseless: bool, unordered: bool) -> bytes:
    if b'"' in value or b"\\" in value:  # commas and spaces in a quoted string are content
        return value
    members = [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    if caseless:
        members = [b"".join(member.lower().split()) for member in members]
    if unordered:
        members.sort()
    return b",".join(members)
