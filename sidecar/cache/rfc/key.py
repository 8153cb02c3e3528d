"""Which requests share an answer: the cache key (RFC 9111 2).

The key is the rule's own name, the method (always GET), the target URI, and the request fields that the policy adds.
The URI is normalised as RFC 3986 6.2.2 and RFC 9110 4.2.3 say, and no further: letter case of scheme and host, the
default port, letter case of percent-encoded octets, and those that need no encoding.  A query is part of the identity
as it stands: neither its order nor an empty one (`/a?` and `/a`) is touched.  `ignore_query` takes parameters out by
name, or by `prefix*`; the upstream of the first request still sees them, so name only what it does not look at.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.cache.rfc.vary import selecting
from sidecar.core.exchange import Exchange

ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
PERCENT: Final = 0x25
"""As a number: looking for bytes, CPython first tries to take them for one, and fails (0.3 us)."""
IN_KEY: Final = re.compile(rb"[^ ]* ([^ \x01]*)")
DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
URI: Final = re.compile(r"(https?)://([^/?#]+)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE)


def uri_of(key: bytes) -> bytes:
    """The URI in a key of any rule, of a variant too: it has neither spaces nor control characters."""
    match = IN_KEY.match(key)
    return b"" if match is None else match[1]


def is_more_than_uri(key: bytes) -> bool:
    """Has its rule other keys of the same URI?"""
    return key.count(b" ") > 1


def unescaped(text: bytes) -> bytes:
    """Percent-encoding normalised (RFC 3986 6.2.2.1 and 6.2.2.2)."""
    return ESCAPE.sub(_unescape, text)


def _unescape(match: re.Match[bytes]) -> bytes:
    octet = int(match[1], 16)
    return bytes((octet,)) if octet in UNRESERVED else match[0].upper()


@lru_cache(maxsize=256)
def site(scheme: bytes, authority: bytes) -> bytes:
    """Scheme and host as they stand in a URI (RFC 9110 4.2.3)."""
    authority = authority.lower()
    return b"%b://%b" % (scheme, authority.removesuffix(DEFAULT_PORTS.get(scheme, b":80")).removesuffix(b":"))


class KeyRule:
    """How one policy makes keys.  `digest` is its identity: two rules that differ in it never share an answer."""

    __slots__ = (
        "_authority", "_exact", "_ignores_some", "_prefixes", "_scheme", "_start", "digest", "headers", "namespace",
    )  # fmt: skip

    def __init__(self, name: str, headers: tuple[str, ...] = (), ignore_query: tuple[str, ...] = ()) -> None:
        self.headers = tuple(sorted(header.lower().encode() for header in headers))
        ignored = sorted(ignore_query)
        self._exact = frozenset(word.encode() for word in ignored if not word.endswith("*"))
        self._prefixes = tuple(word[:-1].encode() for word in ignored if word.endswith("*"))
        self._ignores_some = bool(ignored)
        self.digest = blake2b(repr((name, self.headers, ignored)).encode(), digest_size=8).hexdigest()
        self.namespace = self.digest.encode() + b" "
        """What its keys begin with."""
        self._scheme = self._authority = b""
        self._start = b""
        """Of the keys for the scheme and authority seen last."""

    def key(self, x: Exchange) -> bytes:
        """The key of a request, before `Vary` has its say: the rule, the URI, and the policy's fields."""
        if x.authority != self._authority or x.scheme != self._scheme:
            self._scheme, self._authority = x.scheme, x.authority
            self._start = self.namespace + site(x.scheme, x.authority)
        path, query = x.path, x.query
        if query is None or x.has_escapes or self._ignores_some:
            key = self._start + self._target(path, query)
        else:
            key = b"%b%b?%b" % (self._start, path, query)
        return b"%b %b" % (key, selecting(x, self.headers)) if self.headers else key

    def uri(self, scheme: bytes, authority: bytes, path: bytes, query: bytes | None) -> bytes:
        """The target URI, normalised, without what the policy ignores."""
        return site(scheme, authority) + self._target(path, query)

    def _target(self, path: bytes, query: bytes | None) -> bytes:
        if PERCENT in path:
            path = unescaped(path)
        if query is None:
            return path
        if self._ignores_some:
            kept = [part for part in query.split(b"&") if not self._ignores(part)]
            if not kept:
                return path
            query = b"&".join(kept)
        if PERCENT in query:
            query = unescaped(query)
        return path + b"?" + query

    def of_text(self, text: str) -> bytes | None:
        """The normalised form of a URI that an operator wrote; None if it is no absolute http URI."""
        match = URI.fullmatch(text)
        if match is None or not text.isascii():
            return None
        scheme, authority, path, query = (b"" if part is None else part.encode() for part in match.groups())
        return self.uri(scheme.lower(), authority, path or b"/", None if match[4] is None else query)

    def _ignores(self, part: bytes) -> bool:
        name = part.partition(b"=")[0]
        if b"%" in name or b"+" in name:
            name = unquote_to_bytes(name.replace(b"+", b" "))
        return name in self._exact or name.startswith(self._prefixes)

    def __repr__(self) -> str:
        return f"<KeyRule {self.digest}>"
