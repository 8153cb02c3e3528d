"""Networks that the addresses of clients are looked up in.

An IPv4 address in IPv6 form (RFC 4291 2.5.5.2) is the IPv4 address, in requests and in policies.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network
MAPPED: Final = 96
"""Bits before the IPv4 address in an IPv6 address that maps it."""
MAX_CACHED: Final = 1024
"""Most addresses whose results are cached."""


def plain_network(network: Network) -> Network:
    """Return a network; one of mapped addresses as IPv4."""
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - MAPPED))
    return network


class Networks:
    """Set of networks."""

    __slots__ = ("_cached", "_networks")

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(plain_network(network) for network in networks)
        self._cached: dict[str, bool | None] = {}

    def find(self, address: str) -> bool | None:
        """Return True if an address is in one of the networks, False if not; None if it is no address."""
        found = self._cached.get(address, self)
        if found is not self:
            return found  # type: ignore[return-value]
        try:
            ip = ip_address(address)
        except ValueError:
            result = None
        else:
            ip = ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
            result = any(ip in network for network in self._networks)
        if len(self._cached) >= MAX_CACHED:  # clients choose the keys, so the cache is bounded
            self._cached.clear()
        self._cached[address] = result
        return result

    def cover(self, network: Network) -> bool:
        """True if a whole network is in one of these."""
        inner = plain_network(network)
        return any(outer.version == inner.version and inner.subnet_of(outer) for outer in self._networks)  # type: ignore[arg-type]
