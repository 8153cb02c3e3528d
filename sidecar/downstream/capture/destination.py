"""Original destination of a connection that netfilter's REDIRECT has brought here."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address
from typing import Any, Final, NamedTuple

SO_ORIGINAL_DST: Final = 80
"""Number of `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST` in linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h."""
SOL_IPV6: Final = 41


class Destination(NamedTuple):
    """Address to which a client has connected."""

    host: str
    """IP address, IPv6 without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_destination(sock: Any) -> Destination | None:
    """Return the original destination of an accepted socket; None if the kernel knows none."""
    if sock is None:
        return None
    try:
        if sock.family == socket.AF_INET6:
            found = sock.getsockopt(SOL_IPV6, SO_ORIGINAL_DST, 28)
            address = IPv6Address(found[8:24])
            host = str(address.ipv4_mapped or address)
        else:
            found = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            host = socket.inet_ntoa(found[4:8])
    except OSError:
        return None
    return Destination(host, int.from_bytes(found[2:4], "big"))


def is_local(host: str) -> bool:
    """True if an IP address belongs to this machine or network namespace."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True
