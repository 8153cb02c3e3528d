"""Cache keys: requests with the same key share a response (RFC 9111 2).

A key consists of the rule's digest, the effective request URI, the request fields that the policy names, and on a
route with `authenticate` the caller.  The method is always GET.

1. The URI has the scheme and the host that the client asked for, also behind a trusted proxy (RFC 9110 7.1).  A
   response to `http`, such as a redirect to `https`, must not be used for `https`.
2. URIs are normalised as in RFC 3986 6.2.2 and RFC 9110 4.2.3, and no further: letter case of scheme and host, default
   port, letter case of escapes, escapes of unreserved characters.
3. The query is not normalised: its order counts, and `/a?` differs from `/a`.

`ignore_query` removes parameters by name or by `prefix*`.  The upstream of the first request still sees them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.cache.rfc.vary import selecting
from sidecar.core.exchange import Exchange
from sidecar.core.uri import canonical

PERCENT: Final = 0x25
"""The octet `%` as a number, for which CPython searches faster than for bytes."""
IN_KEY: Final = re.compile(rb"[^ ]* ([^ \x01]*)")
"""Matches a key up to the end of its URI."""
DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
URI: Final = re.compile(r"(https?)://([^/?#]+)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE)
"""Matches an absolute http URI."""


def uri_of(key: bytes) -> bytes:
    """Return the URI in a key of any rule or variant.  URIs have neither spaces nor control characters."""
    match = IN_KEY.match(key)
    return b"" if match is None else match[1]


def is_keyed_by_fields(key: bytes) -> bool:
    """True if the key holds request fields beside the URI."""
    return key.count(b" ") > 1


@lru_cache(maxsize=256)
def site(scheme: bytes, authority: bytes) -> bytes:
    """Return scheme and host as they stand in a normalised URI (RFC 9110 4.2.3)."""
    authority = authority.lower()
    return b"%b://%b" % (scheme, authority.removesuffix(DEFAULT_PORTS.get(scheme, b":80")).removesuffix(b":"))


class KeyRule:
    """Rule by which one policy makes keys."""

    __slots__ = (
        "_authority", "_exact", "_ignores_some", "_prefixes", "_scheme", "_start", "digest", "headers", "is_plain",
        "namespace", "per_caller",
    )  # fmt: skip

    def __init__(
        self, name: str, headers: tuple[str, ...] = (), ignore_query: tuple[str, ...] = (), per_caller: bool = False
    ) -> None:
        """Make the rule of the policy `name`; `headers` are fields of the key, `ignore_query` parameters left out of
        it, and with `per_caller` callers share no answers."""
        self.headers = tuple(sorted(header.lower().encode() for header in headers))
        ignored = sorted(ignore_query)
        self._exact = frozenset(word.encode() for word in ignored if not word.endswith("*"))
        self._prefixes = tuple(word[:-1].encode() for word in ignored if word.endswith("*"))
        self._ignores_some = bool(ignored)
        self.per_caller = per_caller
        """True if the key holds the authenticated caller."""
        self.is_plain = not self.headers and not per_caller
        """True if the key holds nothing but the URI."""
        parts = (name, self.headers, ignored, "per caller") if per_caller else (name, self.headers, ignored)
        self.digest = blake2b(repr(parts).encode(), digest_size=8).hexdigest()
        """Identity of the rule.  Rules with different digests never share a response."""
        self.namespace = self.digest.encode() + b" "
        """Prefix of all keys of the rule."""
        self._scheme = self._authority = b""
        self._start = b""
        """Prefix of the keys for the scheme and authority seen last."""

    def key(self, x: Exchange) -> bytes:
        """Return the key of a request before `Vary` is applied."""
        authority = x.public_authority or x.authority
        if authority != self._authority or x.scheme != self._scheme:
            self._scheme, self._authority = x.scheme, authority
            self._start = self.namespace + site(x.scheme, authority)
        path, query = x.path, x.query
        if query is None or x.has_escapes or self._ignores_some:
            key = self._start + self._target(path, query)
        else:
            key = b"%b%b?%b" % (self._start, path, query)
        if self.is_plain:
            return key
        if self.headers:
            key = b"%b %b" % (key, selecting(x, self.headers))
        return key if x.caller is None or not self.per_caller else b"%b caller=%b" % (key, x.caller.digest())

    def uri(self, scheme: bytes, authority: bytes, path: bytes, query: bytes | None) -> bytes:
        """Return the normalised target URI, without the ignored parameters."""
        return site(scheme, authority) + self._target(path, query)

    def _target(self, path: bytes, query: bytes | None) -> bytes:
        if PERCENT in path:
            path = canonical(path)
        if query is None:
            return path
        if self._ignores_some:
            kept = [part for part in query.split(b"&") if not self._ignores(part)]
            if not kept:
                return path
            query = b"&".join(kept)
        if PERCENT in query:
            query = canonical(query)
        return path + b"?" + query

    def of_text(self, text: str) -> bytes | None:
        """Return the normalised form of a URI that an operator wrote; None if it is not an absolute http URI."""
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
