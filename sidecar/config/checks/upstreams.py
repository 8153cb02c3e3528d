"""Check of upstreams: enough endpoints for an ejection, no endpoint that is this sidecar itself, a name for TLS."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from sidecar.config.checks.listeners import ANY
from sidecar.config.listen_address import ListenAddress
from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec, UpstreamSpec
from sidecar.upstream.endpoint import parse_endpoint

LOOPBACK: Final = IPv4Address("127.0.0.1")
LOOPBACK_6: Final = IPv6Address("::1")


def check_upstreams(spec: PolicySpec, report: Report) -> None:
    """Warn of ejections that can never happen, and of endpoints that are listeners of this sidecar."""
    for name, upstream in spec.upstreams.items():
        _check_upstream(spec, upstream, spec.node.nearest("upstreams", name), report)


def _check_upstream(spec: PolicySpec, upstream: UpstreamSpec, node: Node, report: Report) -> None:
    """Warn of an ejection without enough endpoints, and of endpoints that are own listeners."""
    endpoints = upstream.urls
    subset = upstream.subset
    if subset is not None:
        count = len(endpoints) or (upstream.discover.most_of_subset if upstream.discover is not None else 0)
        if subset.size >= count:
            found = f"there are {count}" if endpoints else f"max_endpoints is {count}"
            report.warn(node.nearest("subset", "size"), f"takes all: {found}; lower it, or take `subset` out")
    if upstream.ejection is not None and endpoints and upstream.ejection.min_healthy >= upstream.most_in_use:
        least, count = upstream.ejection.min_healthy, upstream.most_in_use
        message = (
            f"never ejects: min_healthy is {least} of {count} endpoint{'s' * (count > 1)}; lower it, or add endpoints"
        )
        report.warn(node.nearest("ejection", "min_healthy"), message)
    kubernetes = upstream.discover.kubernetes if upstream.discover is not None else None
    if kubernetes is not None and upstream.is_tls and not kubernetes.namespace and not _server_name(upstream):
        message = (
            f"checks certificates for the name `{kubernetes.service}` alone; write kubernetes.namespace for "
            f"`{kubernetes.service}.NAMESPACE.svc`, or tls.server_name"
        )
        report.warn(node.nearest("discover", "scheme"), message)
    for place, host, port, path in _destinations(upstream, node):
        for name, listener in spec.listeners.items():
            if _is_reached(listener.address, host, port, path):
                report.warn(place, f"is the sidecar's own listener `{name}`: its requests would come back to it")
                break


def _server_name(upstream: UpstreamSpec) -> str:
    """Return the name that the policy writes for TLS; empty without one."""
    return (upstream.tls.server_name or "") if upstream.tls is not None else ""


def _destinations(upstream: UpstreamSpec, node: Node) -> Iterator[tuple[Node, str, int, str]]:
    """Yield each destination of an upstream: the node that names it, host, port, and path of a Unix socket.

    A destination is an endpoint, or the name that `discover` looks up.
    """
    for index, url in enumerate(upstream.urls):
        address = parse_endpoint(url)
        if (place := node.find(("endpoints", index))) is not None:
            yield place, address.host, address.port, address.path
    if (discover := upstream.discover) is not None and discover.dns is not None:
        yield node.nearest("discover", "dns"), discover.dns, discover.port or 0, ""


def _is_reached(listener: ListenAddress, host: str, port: int, path: str) -> bool:
    """True if a connection to host and port, or to a socket path, reaches the listener."""
    if listener.path or path:
        return bool(path) and os.path.realpath(listener.path) == os.path.realpath(path)
    if listener.port != port or not port:
        return False
    ours, theirs = _addresses(listener.host), _addresses(host)
    if listener.host == host or any(one == other for one in ours for other in theirs):
        return True
    if listener.host not in ANY:
        return False
    is_local = host in _own_names() or any(map(_is_local, theirs))
    return is_local and (listener.host == "::" or not theirs or theirs[0].version == 4)


def _addresses(host: str) -> list[IPv4Address | IPv6Address]:
    """Return the IP addresses of a host that is one itself or `localhost`; none for names that need a look-up."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 6.3
        return [LOOPBACK, LOOPBACK_6]
    with suppress(OSError):  # `inet_aton` also reads short forms such as 127.1, as `connect` does
        return [_reached_address(IPv4Address(socket.inet_aton(host)))]
    with suppress(ValueError):
        return [_reached_address(ip_address(host))]
    return []


def _own_names() -> tuple[str, str]:
    """Return the host name of this machine, with and without its domain."""
    name = socket.gethostname().lower()
    return name, name.partition(".")[0]


def _reached_address(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the address that a connection to `ip` reaches: loopback for an unspecified one, IPv4 for a mapped one."""
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_unspecified:
        return LOOPBACK if ip.version == 4 else LOOPBACK_6
    return ip


def _is_local(ip: IPv4Address | IPv6Address) -> bool:
    """True if the address belongs to this machine; only such an address can be bound."""
    if ip.is_loopback:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((str(ip), 0))
        return True
    return False
