"""Addresses in a response, mapped back to the client's, for requests whose path or host was rewritten.

1. The mapping follows from the request.  The received path and the path sent upstream end with the same segments, and
   the prefixes before these differ.  If `/orders/7` was sent as `/internal/v2/orders/7`, the service's `/internal/v2`
   is the client's root.  This holds for templates, prefixes and patterns, and needs no configuration.
2. An address of another host, or not below the service's prefix, stays.  The endpoint's own address is mapped if a
   policy says so.
3. Location, Content-Location and, in Set-Cookie, Path and Domain are rewritten (nginx: `proxy_redirect`,
   `proxy_cookie_path`, `proxy_cookie_domain`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sidecar.core.outcome import Outcome
from sidecar.transform.cookies import Attributes, parse_cookie, write_cookie

FIELDS: Final = re.compile(rb"\n(?:location|content-location|set-cookie):")
"""Matches a field that is rewritten."""
URI: Final = re.compile(rb"(?:(https?):)?//([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
"""Matches a URI reference with an authority: scheme, authority, path, rest."""
_ADDRESS: Final = re.compile(rb"\[[0-9a-f:.]+\]|[0-9.]+")


class ReverseRewrite:
    """Mapping of the service's addresses to the client's."""

    __slots__ = ("_endpoints", "_host", "_own_host", "_own_prefix", "_prefix", "_scheme")

    def __init__(
        self,
        scheme: bytes,
        host: bytes,
        path: bytes,
        own_host: bytes,
        own_path: bytes,
        endpoints: Iterable[str] = (),
    ) -> None:
        """Map `own_host` and `own_path`, sent upstream, to the scheme, authority and path that the client sent.

        `endpoints` are URLs of endpoints whose own addresses are mapped too.
        """
        self._scheme = scheme
        self._host = host
        self._own_host = own_host
        self._endpoints = {authority for url in endpoints for authority in _authorities(url)}
        """Authorities of these endpoints, with and without default port."""
        self._prefix, self._own_prefix = _prefixes(path, own_path)

    def apply(self, outcome: Outcome) -> None:
        """Rewrite the fields of a response."""
        if outcome.is_raw and FIELDS.search(b"\n" + outcome.lines.lower()) is None:
            return
        outcome.headers = [(name, self._field(name, value)) for name, value in outcome.headers]

    def _field(self, name: bytes, value: bytes) -> bytes:
        if name in (b"location", b"content-location"):
            return self.address(value)
        return self.cookie(value) if name == b"set-cookie" else value

    def address(self, value: bytes) -> bytes:
        """Return a URI reference of the service as the client must use it."""
        found = URI.fullmatch(value)
        if found is None:
            path, mark, rest = _split(value)
            return self.path(path) + mark + rest if path.startswith(b"/") else value
        scheme, host, path, rest = found.groups()
        is_endpoint = host.lower() in self._endpoints
        if not is_endpoint and host.lower() not in (self._own_host.lower(), self._host.lower()):
            return value
        if is_endpoint or host.lower() == self._own_host.lower() != self._host.lower():
            scheme, host = scheme and self._scheme, self._host
        colon = b":" if scheme else b""
        return b"%b%b//%b%b%b" % (scheme or b"", colon, host, self.path(path) if path else path, rest)

    def path(self, path: bytes) -> bytes:
        """Return an absolute path of the service as the client must use it."""
        own = self._own_prefix
        if path.startswith(own) and path[len(own) : len(own) + 1] in (b"/", b""):
            return self._prefix + path[len(own) :] or b"/"
        return path

    def cookie(self, value: bytes) -> bytes:
        """Return a Set-Cookie field (RFC 6265 4.1) with Path and Domain mapped for the client."""
        pair, attributes = parse_cookie(value)
        changed: Attributes = []
        for name, given in attributes:
            key = name.lower()
            if key == b"path" and given and given.startswith(b"/") and self._own_prefix:
                changed.append((name, self.path(given)))
            elif key == b"domain" and given:
                domain = self._domain(given)
                if domain:
                    changed.append((name, domain))
            else:
                changed.append((name, given))
        return value if changed == attributes else write_cookie(pair, changed)

    def _domain(self, given: bytes) -> bytes:
        """Return a cookie's domain for the client; empty for the client's host alone."""
        domain, host = given.lstrip(b".").lower(), _name(self._host)
        own = {_name(self._own_host), *map(_name, self._endpoints)} - {host}
        if _covers(domain, host) or not any(_covers(domain, name) for name in own):
            return given
        return host if domain in own and not _ADDRESS.fullmatch(host) else b""


def _prefixes(path: bytes, own: bytes) -> tuple[bytes, bytes]:
    """Return the prefixes of both paths before the segments with which both end."""
    ours, theirs = path.split(b"/"), own.split(b"/")
    while len(ours) > 1 and len(theirs) > 1 and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return b"/".join(ours), b"/".join(theirs)


def _authorities(url: str) -> tuple[bytes, ...]:
    """Return the authority of an endpoint's URL, and also without its port if that is the default."""
    scheme, _, authority = url.lower().partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    if default is None:  # a Unix socket
        return ()
    return authority.encode(), authority.removesuffix(default).encode()


def _split(value: bytes) -> tuple[bytes, bytes, bytes]:
    at = min((place for place in (value.find(b"?"), value.find(b"#")) if place >= 0), default=len(value))
    return value[:at], value[at : at + 1], value[at + 1 :]


def _name(authority: bytes) -> bytes:
    """Return the host of an authority, without its port."""
    host, colon, port = authority.lower().rpartition(b":")
    return host if colon and port.isdigit() else authority.lower()


def _covers(domain: bytes, host: bytes) -> bool:
    """True if the host domain-matches (RFC 6265 5.1.3)."""
    return host == domain or (host.endswith(b"." + domain) and not _ADDRESS.fullmatch(host))
