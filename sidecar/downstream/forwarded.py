"""Forwarded fields: what trusted proxies state about the client, its address, scheme and requested host.  No I/O.

The fields are `X-Forwarded-For`, `-Proto` and `-Host`.  If one is absent, the same part of `Forwarded` (RFC 7239) is
used.  Rules:

1. The client is the last hop that is not a trusted proxy.  At most `MAX_HOPS` hops are examined; if all of them are
   trusted, the last one examined is the client.
2. A list of schemes or hosts with as many members as hops has the client's value at the client's index.  Otherwise its
   last member is used, which the nearest proxy has written.
3. An address may have a port, brackets, quotes or a zone (RFC 7239 6; Azure and IIS write ports).  An IPv4-mapped IPv6
   address is read as its IPv4 address (RFC 4291 2.5.5.2).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from sidecar.core.http1 import HOST
from sidecar.core.message import Headers

Networks = tuple[IPv4Network | IPv6Network, ...]
Address = IPv4Address | IPv6Address

BRACKETED: Final = re.compile(r"\[([^\]]*)\](?::\w*)?")
WITH_PORT: Final = re.compile(r"([0-9.]+):\w*")
TOKEN: Final = re.compile(rb'"[^"]*"?|[^",;]+|[,;]')
"""Part of a `Forwarded` field: a quoted text, other text, or a separator."""
MAX_HOPS: Final = 100
"""Most hops that are examined, from the nearest one towards the client."""
SCHEMES: Final = {b"http": b"http", b"https": b"https", b"ws": b"http", b"wss": b"https"}
"""Scheme of a request, by the scheme that proxies write."""


def parse_address(node: str) -> Address | None:
    """Return the IP address in a node (RFC 7239 6); None for a node without one, such as `unknown`."""
    node = node.strip(' \t"')
    found = BRACKETED.fullmatch(node) or WITH_PORT.fullmatch(node)
    try:
        ip = ip_address((found[1] if found else node).partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def plain_address(node: str) -> str:
    """Return the IP address of a node without port, brackets and zone; the node itself if it has no address."""
    ip = parse_address(node)
    return node if ip is None else str(ip)


def is_within(address: str, networks: Networks) -> bool:
    """True if an address is in one of the networks."""
    ip = parse_address(address)
    return ip is not None and any(ip in network for network in networks)


class Claims:
    """Forwarded fields of one request: its client, and the request that the client made."""

    __slots__ = ("authority", "chain", "client", "proto", "scheme")

    def __init__(self, fields: Headers, peer_address: str, networks: Networks) -> None:
        """Parse the forwarded fields of a trusted peer; `networks` are those of the trusted proxies."""
        elements = [parse_element(each) for each in members(joined(fields, b"forwarded"))]
        told = joined(fields, b"x-forwarded-for")
        if told or not elements:
            hops = listed(told)
            self.chain = told
            """Value of X-Forwarded-For without the peer."""
        else:
            hops = [each.get(b"for", b"unknown") for each in elements]
            known = [parse_address(hop.decode("latin-1")) for hop in hops] if len(hops) <= MAX_HOPS else [None]
            self.chain = b"" if None in known else b", ".join([str(ip).encode() for ip in known])
        self.client = peer_address
        """IP address of the client, or what the proxies have written instead, such as `unknown`."""
        place = len(hops)
        last = max(0, place - MAX_HOPS)
        while place > last:
            place -= 1
            hop = hops[place].decode("latin-1")
            ip = parse_address(hop)
            self.client = hop if ip is None else str(ip)
            if ip is None or not any(ip in network for network in networks):
                break
        self.proto = _of_client(listed(joined(fields, b"x-forwarded-proto")), len(hops), place)
        """Scheme as the proxy has written it, such as `wss`; empty if it is absent or unknown."""
        if not self.proto and elements:
            self.proto = _of_client([each.get(b"proto", b"") for each in elements], len(hops), place)
        self.scheme = SCHEMES.get(self.proto.lower(), b"")
        """Scheme of the request, `http` or `https`; empty if no proxy states it."""
        if not self.scheme:
            self.proto = b""
        self.authority = _of_client(listed(joined(fields, b"x-forwarded-host")), len(hops), place)
        """Host that the client requested; empty if no proxy states it."""
        if not self.authority and elements:
            self.authority = _of_client([each.get(b"host", b"") for each in elements], len(hops), place)
        if HOST.fullmatch(self.authority) is None:
            self.authority = b""


def joined(fields: Headers, name: bytes) -> bytes:
    """Return the values of a field joined with commas."""
    return b", ".join([value for key, value in fields if key == name and value])


def listed(value: bytes) -> list[bytes]:
    """Return the non-empty members of a list that has no quoted commas."""
    return [part for piece in value.split(b",") if (part := piece.strip(b' \t"'))]


def members(value: bytes) -> list[list[bytes]]:
    """Return the elements of a `Forwarded` field, each as a list of its `name=value` pairs (RFC 7239 4)."""
    found: list[list[bytes]] = [[]]
    pair: list[bytes] = []
    for token in [*TOKEN.findall(value), b","]:
        if token not in (b",", b";"):
            pair.append(token)
            continue
        found[-1].append(b"".join(pair))
        pair = []
        if token == b",":
            found.append([])
    return [pairs for pairs in found if any(pair.strip(b" \t") for pair in pairs)]


def parse_element(pairs: list[bytes]) -> dict[bytes, bytes]:
    """Return the parameters of an element of `Forwarded` by name."""
    parts = [pair.partition(b"=") for pair in pairs]
    return {name.strip(b" \t").lower(): value.strip(b' \t"') for name, _, value in parts}


def _of_client(values: list[bytes], hops: int, place: int) -> bytes:
    """Return the value for the client, which is hop number `place` of `hops`; empty if there is no value."""
    if not values:
        return b""
    return values[place] if len(values) == hops else values[-1]
