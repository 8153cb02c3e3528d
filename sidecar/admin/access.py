"""Access control of the admin listener: a bearer token, and protection against web pages of other sites.

A loopback address does not protect against browsers.  Any web page can send a request to 127.0.0.1.  If its host name
resolves to 127.0.0.1 (DNS rebinding), the request is even same-origin, and the page can read the response.

Rules:

1. Without a token, `Host` must be an IP address, `localhost`, or a name that the policies list, for every method.  A
   web page of another site sends another name.  Probes and scrapers use the address of a pod.
2. With a token, any name is allowed, because other sites do not know the token.
3. A POST with `Origin` or `Sec-Fetch-Site`, which browsers send, must come from the listener's own page.  curl and
   scripts send neither field.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from hmac import compare_digest
from typing import Final
from urllib.parse import urlsplit

OWN_SITES: Final = ("same-origin", "none")
"""Values of Sec-Fetch-Site for requests of the listener's own page, and of the user."""


class Access:
    """Token and host names of one admin listener."""

    def __init__(self, token: str | None = None, hosts: Iterable[str] = (), *, is_local: bool = False) -> None:
        """`is_local`: True for a Unix socket, for which every name is allowed, because browsers cannot reach it."""
        self.token = token
        """Token that requests must have; None if they need none."""
        self._hosts = frozenset(map(_folded, hosts))
        self._is_local = is_local

    def refuse_host(self, hosts: Iterable[str]) -> str:
        """Return why a request with these values of Host is refused; empty if it is allowed."""
        if self.token is not None or self._is_local:
            return ""
        for host in hosts:
            if not is_address(host) and _folded(_name(host)) not in self._hosts:
                return (
                    f"Host is {host!r}: without a token this listener accepts only IP addresses and localhost; "
                    "list the name under admin.hosts, or give the listener a token"
                )
        return ""


def is_bearer(authorization: str, token: str) -> bool:
    """True if the Authorization field has the token; the comparison takes constant time."""
    scheme, _, given = authorization.partition(" ")
    given_bytes = given.strip(" ").encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and compare_digest(given_bytes, token.encode())


def refuse_site(host: str, origin: str | None, site: str | None) -> str:
    """Return why a state-changing request is refused because of another site; empty if it is allowed."""
    if site is not None and site not in OWN_SITES:
        return f"Sec-Fetch-Site is {site}: a page of another site sent this; use this listener's own page or curl"
    if origin is not None and _netloc(origin) != host.lower():
        return f"Origin is {origin} and Host is {host}: a page of another site sent this; use this listener's own page"
    return ""


def is_address(host: str) -> bool:
    """True if a value of Host is an IP address or `localhost`, with or without a port."""
    name = _name(host)
    try:
        return _folded(name) == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _netloc(origin: str) -> str | None:
    """Return host and port of an origin; None if it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name(host: str) -> str:
    """Return a value of Host without its port; empty if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "" if parts.netloc == host and "@" not in host else ""
    except ValueError:
        return ""


def _folded(name: str) -> str:
    """Return a host name in lower case, without a final dot."""
    return name.lower().removesuffix(".")
