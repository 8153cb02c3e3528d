"""URIs in Location and Content-Location, which an unsafe request has changed beside its own.

References are resolved against the effective request URI, whose scheme and host are those that the client asked for.
Only URIs of the same origin count: an origin must not be able to invalidate what belongs to another (RFC 9111 4.4).
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from sidecar.cache.rfc.key import site
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers, get_all

Place = tuple[bytes, bytes | None]
"""Path and query; the query is None if the URI has none."""


def resolve(x: Exchange, reference: bytes) -> Place | None:
    """Resolve a reference against the request's URI; return None if it has another origin or is no URI."""
    base = f"{x.scheme.decode()}://{x.host.decode('latin-1')}{x.target.decode('latin-1')}"
    try:
        joined = urlsplit(urljoin(base, reference.decode("latin-1")))
        theirs = site(joined.scheme.encode("latin-1"), joined.netloc.encode("latin-1"))
    except ValueError:
        return None
    if theirs != site(x.scheme, x.host):
        return None
    query = joined.query.encode("latin-1") if joined.query else None
    return joined.path.encode("latin-1") or b"/", query


def others(x: Exchange, headers: Headers) -> list[Place]:
    """Return path and query of the URIs of the same origin in Location and Content-Location."""
    references = get_all(headers, b"location") + get_all(headers, b"content-location")
    return [place for reference in references if (place := resolve(x, reference)) is not None]


def is_about_target(x: Exchange, headers: Headers) -> bool:
    """True if Content-Location is the request's own target."""
    own = get_all(headers, b"content-location")
    return len(own) == 1 and resolve(x, own[0]) == (x.path, x.query)
