"""Cache directives: `Cache-Control` (RFC 9111 5.2), its targeted forms (RFC 9213) and the extensions that we know.

What is malformed or contradicts itself is read the safe way (RFC 9111 4.2.1: "caches are encouraged to consider
responses that have invalid freshness information to be stale"):

- an unusable number, or one directive twice with different numbers: a lifetime of 0, no permission to be stale;
- a restriction (`no-store`, `private`, `no-cache`, `must-revalidate`) counts whatever argument it was given;
- a quoted string that does not end: nobody knows where the list goes on, so lifetimes are 0 and permissions void;
- both forms of an argument, token and quoted string, are accepted (RFC 9111 5.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from sidecar.cache.rfc.structured import parse_dictionary

FOREVER: Final = 2**31
"""Seconds: what larger numbers count as (RFC 9111 1.2.2)."""
MEMBER: Final = re.compile(
    rb"[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)"
    rb'(?:=(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]++)))?[ \t]*+(?=,|\Z)',
    re.DOTALL,
)
MALFORMED: Final = re.compile(rb"[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]*+)([^,]*+)")
NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]++")
MEMORABLE: Final = 200
"""Bytes: only shorter values are remembered parsed, so that the memory of them is bounded."""
UNUSABLE: Final = b"?"
"""Stands for an argument that could not be read."""

FLAGS: Final = {
    b"no-store": "no_store",
    b"must-revalidate": "must_revalidate",
    b"proxy-revalidate": "proxy_revalidate",
    b"only-if-cached": "only_if_cached",
    b"public": "public",
    b"must-understand": "must_understand",
    b"immutable": "immutable",  # RFC 8246
}
PERMISSIVE: Final = frozenset((b"public", b"must-understand", b"immutable"))
LIFETIMES: Final = {b"max-age": "max_age", b"s-maxage": "s_maxage"}
WINDOWS: Final = {
    b"stale-while-revalidate": "stale_while_revalidate",  # RFC 5861 3
    b"stale-if-error": "stale_if_error",  # RFC 5861 4
    b"min-fresh": "min_fresh",
    b"max-stale": "max_stale",
}
SECONDS: Final = LIFETIMES | WINDOWS


class Directives:
    """What a field says.  Numbers are seconds, None where the directive is absent; shared, so never changed."""

    no_store = False
    no_cache = False
    """Without field names, that is: for the whole answer."""
    no_cache_fields: frozenset[bytes] = frozenset()
    private = False
    private_fields: frozenset[bytes] = frozenset()
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
    """`FOREVER` for any staleness."""

    def __repr__(self) -> str:
        return f"<Directives {vars(self)}>"


NOTHING: Final = Directives()


def parse(lines: Sequence[bytes]) -> Directives:
    """The directives of all lines of `Cache-Control`, as one list (RFC 9110 5.3)."""
    if not lines:
        return NOTHING
    value = lines[0] if len(lines) == 1 else b", ".join(lines)
    return _remembered(value) if len(value) <= MEMORABLE else _parse(value)


def parse_targeted(lines: Sequence[bytes]) -> Directives | None:
    """The directives of a targeted field; None where it must be ignored: absent, empty or malformed (RFC 9213 2.1)."""
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
            _add(found, name, None)  # the qualified form, taken as the unqualified: more than is asked, never less
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
            assert match is not None  # it matches nothing, too
            broken = broken or b'"' in match[2]
            if match[1].lower() not in PERMISSIVE:
                _add(found, match[1].lower(), UNUSABLE)
        at = match.end() + 1
    if broken:
        _distrust(found)
    return found


_remembered = lru_cache(maxsize=1024)(_parse)


def _distrust(found: Directives) -> None:
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
    if argument is None and name == b"max-stale":  # RFC 9111 5.2.1.2: any age will do
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
    """The names of a qualified form; none if it has no argument or one that is not a list of names."""
    if argument is None:
        return frozenset()
    names = [name for part in argument.lower().split(b",") if (name := part.strip(b" \t"))]
    return frozenset(names) if all(NAME.fullmatch(name) for name in names) else frozenset()
