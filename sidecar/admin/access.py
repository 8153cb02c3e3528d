"""Access to the admin listener: the bearer of its token, and no page of another site.

A loopback address keeps no browser out: any page can send a request to 127.0.0.1, and a name that points there (DNS
rebinding) even makes it same-origin, so that the page may read the answer.

Rules:

1. Without a token, `Host` must be an IP address, `localhost`, or a name that the policies list; whatever the method.
   A page of another site has another name.  Probes and scrapers that use the address of a pod are let through.
2. With a token the name does not matter, since another site does not know the token.
3. A POST that a browser sends, with `Origin` or `Sec-Fetch-Site`, must come from the listener's own page.  Others
   (curl, a script) send neither field.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from hmac import compare_digest
from typing import Final
from urllib.parse import urlsplit

OWN_SITES: Final = ("same-origin", "none")


class Access:
    """Token and names of one admin listener."""

    def __init__(self, token: str | None = None, hosts: Iterable[str] = (), *, is_local: bool = False) -> None:
        """`is_local`: it is a Unix socket, which no browser reaches, so that every name is allowed."""
        self.token = token
        """Token that requests must bear; None: none."""
        self._hosts = frozenset(map(_folded, hosts))
        self._is_local = is_local

    def misdirected(self, hosts: Iterable[str]) -> str:
        """Return why a request with these values of Host is not answered; empty if it is."""
        if self.token is not None or self._is_local:
            return ""
        for host in hosts:
            if not is_address(host) and _folded(_name(host)) not in self._hosts:
                return (
                    f"Host is {host!r}: without a token this listener answers to addresses and to localhost alone; "
                    "list the name under admin.hosts, or give the listener a token"
                )
        return ""


def is_bearer(authorization: str, token: str) -> bool:
    """True if the Authorization field has the token; compared in constant time."""
    scheme, _, given = authorization.partition(" ")
    given_bytes = given.strip(" ").encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and compare_digest(given_bytes, token.encode())


def cross_site(host: str, origin: str | None, site: str | None) -> str:
    """Return why a state-changing request is refused as another site's; empty if it is not."""
    if site is not None and site not in OWN_SITES:
        return f"Sec-Fetch-Site is {site}: a page of another site sent this; use this listener's own page or curl"
    if origin is not None and _netloc(origin) != host.lower():
        return f"Origin is {origin} and Host is {host}: a page of another site sent this; use this listener's own page"
    return ""


def is_address(host: str) -> bool:
    """True if a value of Host is an IP address or `localhost`, with a port or without."""
    name = _name(host)
    try:
        return _folded(name) == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # not an origin at all
        return None


def _name(host: str) -> str:
    """Return a value of Host without its port; empty where it is not one."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "" if parts.netloc == host and "@" not in host else ""
    except ValueError:
        return ""


def _folded(name: str) -> str:
    return name.lower().removesuffix(".")
