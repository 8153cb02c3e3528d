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

from sidecar.cache.vary import selecting
from sidecar.core.exchange import Exchange

ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
URI: Final = re.compile(r"(https?)://([^/?#]+)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE)


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

    __slots__ = ("__weakref__", "_exact", "_namespace", "_prefixes", "digest", "headers")

    def __init__(self, name: str, headers: tuple[str, ...] = (), ignore_query: tuple[str, ...] = ()) -> None:
        self.headers = tuple(sorted(header.lower().encode() for header in headers))
        ignored = sorted(ignore_query)
        self._exact = frozenset(word.encode() for word in ignored if not word.endswith("*"))
        self._prefixes = tuple(word[:-1].encode() for word in ignored if word.endswith("*"))
        self.digest = blake2b(repr((name, self.headers, ignored)).encode(), digest_size=8).hexdigest()
        self._namespace = self.digest.encode() + b" "

    def key(self, x: Exchange) -> bytes:
        """The key of a request, before `Vary` has its say: the rule, the URI, and the policy's fields."""
        if self.headers:
            uri = self.uri(x.scheme, x.authority, x.path, x.query)
            return b"%b%b %b" % (self._namespace, uri, selecting(x, self.headers))
        if x.query is None and b"%" not in x.path:
            return b"%b%b%b" % (self._namespace, site(x.scheme, x.authority), x.path)
        return self._namespace + self.uri(x.scheme, x.authority, x.path, x.query)

    def uri_of(self, key: bytes) -> bytes:
        """The URI in a key; it has no spaces."""
        uri = key[len(self._namespace) :]
        return uri.partition(b" ")[0] if self.headers else uri

    def uri(self, scheme: bytes, authority: bytes, path: bytes, query: bytes | None) -> bytes:
        """The target URI, normalised, without what the policy ignores."""
        if b"%" in path:
            path = unescaped(path)
        if query is None:
            return site(scheme, authority) + path
        if self._exact or self._prefixes:
            kept = [part for part in query.split(b"&") if not self._ignores(part)]
            if not kept:
                return site(scheme, authority) + path
            query = b"&".join(kept)
        if b"%" in query:
            query = unescaped(query)
        return b"%b%b?%b" % (site(scheme, authority), path, query)

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
