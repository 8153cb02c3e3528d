"""Sources of endpoints in DNS: the addresses of a name, and SRV records.

Rules:

1. An empty answer is a failure: a headless service has no addresses while all its pods fail their readiness checks.
2. IPv4 and IPv6 addresses are used if this host has an address of the family (`AI_ADDRCONFIG`).  They are sorted, since
   name servers rotate their order.
3. A look-up bypasses the cache.  It runs every `interval`, or when the records expire if that is sooner.
   `sidecar.upstream.resolver` does it; without a resolver (`Env.names`) the loop does, and there is no time to live.
4. While there are no endpoints, a look-up runs at least every `RETRY_INTERVAL`.
5. SRV records (RFC 2782): each target and port is an endpoint, whose name the upstream's pools look up.  The priorities
   are tiers, weights hold within one.  The target `.` says that there is no such service, which is a failure too.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Final

from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.discovery.spec import DiscoverSpec
from sidecar.upstream.endpoint import HOST_NAME, Target, endpoint_address
from sidecar.upstream.errors import describe_error
from sidecar.upstream.resolver import Answer, Service

RETRY_INTERVAL: Final = 1.0
"""Longest pause between look-ups while there are no endpoints, in seconds."""
LOOKUP_JITTER: Final = 0.1
"""Share of the interval by which a pause is shortened or lengthened at random."""

Resolve = Callable[[str], Awaitable[Answer]]
"""Function that returns the IP addresses of a name and their time to live.  Raises `OSError`."""
ResolveServices = Callable[[str], Awaitable[tuple[list[Service], float]]]
"""Function that returns the SRV records of a name and their time to live.  Raises `OSError`."""


async def ask_loop(name: str) -> Answer:
    """Return the addresses of a name from the loop's look-up, without a time to live."""
    found = await asyncio.get_running_loop().getaddrinfo(
        name, 0, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_ADDRCONFIG
    )
    return Answer(tuple({str(sockaddr[0]): None for *_, sockaddr in found}), math.inf)


class NameSource:
    """Source whose endpoints are the records of a name."""

    def __init__(self, spec: DiscoverSpec) -> None:
        self.spec = spec
        self.ttl = math.inf
        """Time to live of the records of the last success in seconds."""

    async def run(self, sink: Discovery) -> None:
        """Look the name up, again and again."""
        random = sink.env.rng.random
        while True:
            await self.look_up(sink)
            interval = min(self.spec.interval, self.ttl if sink.endpoints.members else RETRY_INTERVAL)
            await sink.env.sleep(interval * (1 - LOOKUP_JITTER + 2 * LOOKUP_JITTER * random()))

    async def look_up(self, sink: Discovery) -> None:
        """Look the name up once, and report the endpoints."""
        try:
            targets = await self.ask()
        except (OSError, ValueError) as error:
            sink.fail(describe_error(error))
        else:
            sink.find(targets)

    async def ask(self) -> list[Target]:
        """Return the endpoints of a look-up.  Raises `OSError` or `ValueError`."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"ttl": None if self.ttl == math.inf else self.ttl}


class AddressSource(NameSource):
    """Source whose endpoints are the addresses of a name."""

    def __init__(self, spec: DiscoverSpec, resolve: Resolve = ask_loop) -> None:
        super().__init__(spec)
        self._resolve = resolve

    async def ask(self) -> list[Target]:
        spec = self.spec
        answer = await self._resolve(spec.dns or "")
        found = sorted((ip_address(text) for text in answer.addresses), key=lambda a: (a.version, a))
        if not found:
            raise ValueError("the answer has no addresses")
        self.ttl = answer.ttl
        return [Target(endpoint_address(spec.scheme, str(ip), spec.port or 0).url) for ip in dict.fromkeys(found)]


class ServiceSource(NameSource):
    """Source whose endpoints are the SRV records of a name."""

    def __init__(self, spec: DiscoverSpec, resolve: ResolveServices | None) -> None:
        """`resolve` is None without a resolver, which SRV records need."""
        super().__init__(spec)
        self._resolve = resolve

    async def ask(self) -> list[Target]:
        if self._resolve is None:
            raise ValueError("SRV records need a resolver, which this process does not have")
        records, ttl = await self._resolve(self.spec.srv or "")
        targets: dict[str, Target] = {}
        for record in sorted(records):
            host = record.target.rstrip(".").lower()
            if host and record.port and HOST_NAME.fullmatch(host):
                url = endpoint_address(self.spec.scheme, host, record.port).url
                targets.setdefault(url, Target(url, record.priority, record.weight))
        if not targets:
            raise ValueError("the answer says that there is no such service" if records else "the answer is empty")
        self.ttl = ttl
        return list(targets.values())
