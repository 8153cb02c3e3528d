"""URIs that an unsafe request has changed beside its own: those in Location and Content-Location.

A reference is one to the effective request URI, whose scheme and host are those that the client asked for.  Only those
of the same origin count: an origin must not be able to invalidate what belongs to another (RFC 9111 4.4).
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from sidecar.cache.rfc.key import site
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers, get_all

Place = tuple[bytes, bytes | None]
"""Path and query; the query is None if there is none."""


def resolve(x: Exchange, reference: bytes) -> Place | None:
    """Resolve a reference against the request's target; None if it is of another origin or not a URI."""
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
    """Return the places that Location and Content-Location name."""
    references = get_all(headers, b"location") + get_all(headers, b"content-location")
    return [place for reference in references if (place := resolve(x, reference)) is not None]


def is_about_target(x: Exchange, headers: Headers) -> bool:
    """True if Content-Location is the request's own target."""
    own = get_all(headers, b"content-location")
    return len(own) == 1 and resolve(x, own[0]) == (x.path, x.query)
