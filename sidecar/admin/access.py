"""Access to the admin listener: the bearer of its token, and no page of another site.

A loopback address keeps no browser out: any page can send a POST to 127.0.0.1, and a name that points there (DNS
rebinding) even makes it same-origin.  Therefore a POST that a browser sends, with `Origin` or `Sec-Fetch-Site`, must
come from the listener's own page, reached by address or as localhost.  With a token the name does not matter, since
another site does not know the token.  Others (curl, a probe, Prometheus) send neither field and are let through.
"""

from __future__ import annotations

import ipaddress
from hmac import compare_digest
from typing import Final
from urllib.parse import urlsplit

OWN_SITES: Final = ("same-origin", "none")


def is_bearer(authorization: str, token: str) -> bool:
    """True if the Authorization field has the token; compared in constant time."""
    scheme, _, given = authorization.partition(" ")
    given_bytes = given.strip(" ").encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and compare_digest(given_bytes, token.encode())


def cross_site(host: str, origin: str | None, site: str | None, *, has_token: bool) -> str:
    """Return why a state-changing request is refused as another site's; empty if it is not."""
    if site is not None and site not in OWN_SITES:
        return f"Sec-Fetch-Site is {site}: a page of another site sent this; use this listener's own page or curl"
    if origin is not None and _netloc(origin) != host.lower():
        return f"Origin is {origin} and Host is {host}: a page of another site sent this; use this listener's own page"
    if (site or origin) and not has_token and not _is_address(host):
        return f"Host is {host}: without an admin token a browser must use an address or localhost, not a name"
    return ""


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # not an origin at all
        return None


def _is_address(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
