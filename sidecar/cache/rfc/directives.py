"""Cache directives: Cache-Control (RFC 9111 5.2), its targeted forms (RFC 9213), and known extensions (RFC 5861, 8246).

Malformed or contradictory directives are read the safe way: "caches are encouraged to consider responses that have
invalid freshness information to be stale" (RFC 9111 4.2.1).

1. An unusable number, or two different ones for a directive, is a lifetime of 0 or no permission to be stale.
2. A restriction (`no-store`, `private`, `no-cache`, `must-revalidate`) holds whatever its argument is.
3. A quoted string without end makes all lifetimes 0 and all permissions void: the rest of the list is unknown.
4. An argument may be a token or a quoted string (RFC 9111 5.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from sidecar.cache.rfc.structured import parse_dictionary

FOREVER: Final = 2**31
"""Seconds as which larger numbers count (RFC 9111 1.2.2)."""
MEMBER: Final = re.compile(
    rb"[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)"
    rb'(?:=(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]++)))?[ \t]*+(?=,|\Z)',
    re.DOTALL,
)
"""Matches a well-formed directive."""
MALFORMED: Final = re.compile(rb"[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]*+)([^,]*+)")
"""Matches any text up to the next comma, in the place of a directive."""
NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]++")
MEMORABLE: Final = 200
"""Bytes of the longest value whose directives are cached, so that the cache is bounded."""
UNUSABLE: Final = b"?"
"""Argument that replaces an unreadable one."""

FLAGS: Final = {
    b"no-store": "no_store",
    b"must-revalidate": "must_revalidate",
    b"proxy-revalidate": "proxy_revalidate",
    b"only-if-cached": "only_if_cached",
    b"public": "public",
    b"must-understand": "must_understand",
    b"immutable": "immutable",  # RFC 8246
}
"""Directives without an argument, with their attributes."""
PERMISSIVE: Final = frozenset((b"public", b"must-understand", b"immutable"))
"""Directives that allow more than their absence, and so must be well-formed to count."""
LIFETIMES: Final = {b"max-age": "max_age", b"s-maxage": "s_maxage"}
"""Directives that state a lifetime, with their attributes.  The lowest number is the safe one; in doubt it is 0."""
WINDOWS: Final = {
    b"stale-while-revalidate": "stale_while_revalidate",  # RFC 5861 3
    b"stale-if-error": "stale_if_error",  # RFC 5861 4
    b"min-fresh": "min_fresh",
    b"max-stale": "max_stale",
}
"""Directives that state another time, with their attributes."""
SECONDS: Final = LIFETIMES | WINDOWS


class Directives:
    """Directives of a field.

    Numbers are seconds, None if the directive is absent.  Objects are shared and must not be changed.
    """

    no_store = False
    no_cache = False
    """True for `no-cache` without field names, which applies to the whole response."""
    no_cache_fields: frozenset[bytes] = frozenset()
    """Fields that `no-cache` names, in lower case."""
    private = False
    private_fields: frozenset[bytes] = frozenset()
    """Fields that `private` names, in lower case."""
    public = False
    must_revalidate = False
    proxy_revalidate = False
    must_understand = False
    immutable = False
    only_if_cached = False
    max_age: int | None = None
    s_maxage: int | None = None
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    """Seconds of staleness that are accepted; `FOREVER` if any are."""

    def __repr__(self) -> str:
        return f"<Directives {vars(self)}>"


NOTHING: Final = Directives()
"""Directives of an absent field."""


def parse(lines: Sequence[bytes]) -> Directives:
    """Return the directives of all lines of Cache-Control, read as one list (RFC 9110 5.3)."""
    if not lines:
        return NOTHING
    value = lines[0] if len(lines) == 1 else b", ".join(lines)
    return _remembered(value) if len(value) <= MEMORABLE else _parse(value)


def parse_targeted(lines: Sequence[bytes]) -> Directives | None:
    """Return the directives of a targeted field; None if the field must be ignored.

    An absent, empty or malformed field must be ignored (RFC 9213 2.1).
    """
    members = parse_dictionary(b", ".join(lines)) if lines else None
    if not members:
        return None
    found = Directives()
    for name, (kind, text) in members.items():
        if kind == "boolean":
            if name in SECONDS:
                return None
            if text == b"?1":
                _add(found, name, None)
        elif kind == "integer" and name in SECONDS and not text.startswith(b"-"):
            _add(found, name, text)
        elif kind == "string" and name in (b"no-cache", b"private"):
            _add(found, name, None)  # the qualified form counts as the unqualified one, which is stricter
        elif name in SECONDS or name in FLAGS or name in (b"no-cache", b"private"):
            return None
    return found


def _parse(value: bytes) -> Directives:
    found = Directives()
    at, end = 0, len(value)
    broken = False
    while at < end:
        if match := MEMBER.match(value, at):
            name, quoted, token = match.groups()
            argument = re.sub(rb"\\(.)", rb"\1", quoted) if quoted and b"\\" in quoted else quoted
            _add(found, name.lower(), token if quoted is None else argument)
        else:
            match = MALFORMED.match(value, at)
            assert match is not None  # the pattern also matches nothing
            broken = broken or b'"' in match[2]
            if match[1].lower() not in PERMISSIVE:
                _add(found, match[1].lower(), UNUSABLE)
        at = match.end() + 1
    if broken:
        _distrust(found)
    return found


_remembered = lru_cache(maxsize=1024)(_parse)


def _distrust(found: Directives) -> None:
    """Remove lifetimes and permissions: the list that stated them is malformed."""
    found.public = found.must_understand = found.immutable = False
    found.max_age = 0
    found.s_maxage = None if found.s_maxage is None else 0
    found.stale_while_revalidate = found.stale_if_error = found.max_stale = None


def _add(found: Directives, name: bytes, argument: bytes | None) -> None:
    if name in SECONDS:
        _add_seconds(found, name, argument)
    elif name in FLAGS:
        setattr(found, FLAGS[name], True)
    elif name in (b"no-cache", b"private"):
        fields = _field_names(argument)
        word = "no_cache" if name == b"no-cache" else "private"
        if fields:
            setattr(found, f"{word}_fields", getattr(found, f"{word}_fields") | fields)
        else:
            setattr(found, word, True)


def _add_seconds(found: Directives, name: bytes, argument: bytes | None) -> None:
    word = SECONDS[name]
    if argument is None and name == b"max-stale":  # RFC 9111 5.2.1.2: any age
        seconds = FOREVER
    elif argument is not None and argument.isdigit():
        seconds = min(FOREVER, int(argument)) if len(argument) < 11 else FOREVER
    else:
        seconds = FOREVER if name == b"min-fresh" else 0
    before = getattr(found, word)
    if before is not None and before != seconds:  # RFC 9111 4.2.1
        seconds = 0 if name in LIFETIMES else max(before, seconds) if name == b"min-fresh" else min(before, seconds)
    setattr(found, word, seconds)


def _field_names(argument: bytes | None) -> frozenset[bytes]:
    """Return the field names of a qualified form; empty if the argument is absent or not a list of names."""
    if argument is None:
        return frozenset()
    names = [name for part in argument.lower().split(b",") if (name := part.strip(b" \t"))]
    return frozenset(names) if all(NAME.fullmatch(name) for name in names) else frozenset()
