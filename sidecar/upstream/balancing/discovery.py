"""Endpoint discovery: resolves a DNS name again and again; each of its addresses is an endpoint.

Rules:

1. The last good addresses are kept for `keep_for` while lookups fail: a name service that is down must not take the
   upstream with it.  An empty answer counts as a failure: a headless service whose pods all fail their readiness checks
   has no addresses.  After `keep_for` they are dropped, since an address can by then belong to another service.
2. IPv4 and IPv6 alike, if this host has an address of the family (`AI_ADDRCONFIG`).  They are sorted, so that the order
   of the answer, which name servers rotate, changes nothing, and cut off at `max_endpoints`.
3. A lookup asks the name servers and not a cache, every `interval`, or sooner when the records expire.  `Names` of
   `sidecar.upstream.resolver` looks up; on a loop without it, the loop does, and knows no time to live.
4. Before the first success a lookup is made every `RETRY_INTERVAL`.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Final

from sidecar.core import events
from sidecar.core.env import Env, Pending
from sidecar.upstream.endpoint import EndpointSet, endpoint_address
from sidecar.upstream.errors import describe_error
from sidecar.upstream.resolver import Answer
from sidecar.upstream.spec import DiscoverSpec

RETRY_INTERVAL: Final = 1.0
"""Longest pause between lookups while there are no endpoints."""
LOOKUP_JITTER: Final = 0.1
"""Share of the interval by which a pause is shortened or lengthened at random."""

Resolver = Callable[[str], Awaitable[Answer]]
"""Returns the IP addresses of a name and their time to live.  Raises OSError."""


async def ask_loop(name: str) -> Answer:
    """Return the addresses that the loop finds; they have no time to live."""
    found = await asyncio.get_running_loop().getaddrinfo(
        name, 0, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_ADDRCONFIG
    )
    return Answer(tuple({str(sockaddr[0]): None for *_, sockaddr in found}), math.inf)


class Discovery:
    """Keeps an endpoint set equal to what a name resolves to.

    Kept in the state store as `("discovery", upstream)`.
    """

    __slots__ = ("_endpoints", "_env", "_problem", "_resolve", "_resolved_at", "_spec", "_task", "_ttl")

    def __init__(self, endpoints: EndpointSet, spec: DiscoverSpec, env: Env, resolve: Resolver = ask_loop) -> None:
        self._endpoints = endpoints
        self._spec = spec
        self._env = env
        self._resolve = resolve
        self._resolved_at: float | None = None
        """Instant of the last success; None before the first."""
        self._ttl = math.inf
        """Seconds for which the records of the last success are valid."""
        self._problem = ""
        """Why the last lookup failed; empty if it did not."""
        self._task: Pending | None = None

    def start(self) -> None:
        """Begin to look up; without effect while that is running."""
        if self._task is None:
            self._task = self._env.spawn(self._run())

    def retune(self, spec: DiscoverSpec) -> None:
        """Take new settings; the present endpoints stay until a lookup by the new ones succeeds."""
        self._spec = spec
        if self._task is not None:
            self.retire()
            self.start()

    def retire(self) -> None:
        """Stop looking up; the endpoints stay as they are."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await self.look_up()
            interval = min(self._spec.interval, self._ttl if self._endpoints.members else RETRY_INTERVAL)
            await self._env.sleep(interval * (1 - LOOKUP_JITTER + 2 * LOOKUP_JITTER * self._env.rng.random()))

    async def look_up(self) -> None:
        """Look up once and update the endpoints."""
        spec = self._spec
        try:
            answer = await self._resolve(spec.dns)
            found = sorted((ip_address(text) for text in answer.addresses), key=lambda a: (a.version, a))
        except (OSError, ValueError) as error:
            self._note_failure(describe_error(error))
            return
        if not found:
            self._note_failure("the answer has no addresses")
            return
        self._problem = ""
        self._resolved_at = self._env.now()
        self._ttl = answer.ttl
        urls = [endpoint_address(spec.scheme, str(ip), spec.port).url for ip in found[: spec.max_endpoints]]
        self._replace(urls, len(found))

    def _note_failure(self, problem: str) -> None:
        if not self._problem:
            self._env.emit(
                events.DISCOVERY_FAILED,
                upstream=self._endpoints.upstream,
                dns=self._spec.dns,
                reason=problem,
                kept=len(self._endpoints.members),
            )
        self._problem = problem
        if self._resolved_at is not None and self._env.now() - self._resolved_at > self._spec.keep_for:
            self._replace([], 0)

    def _replace(self, urls: list[str], found: int) -> None:
        before = {endpoint.url for endpoint in self._endpoints.members}
        if before == set(urls):
            return
        self._endpoints.replace(urls)
        self._env.emit(
            events.DISCOVERY_CHANGED,
            upstream=self._endpoints.upstream,
            dns=self._spec.dns,
            added=sorted(set(urls) - before),
            removed=sorted(before - set(urls)),
            found=found,
            used=len(urls),
        )

    def describe(self) -> dict[str, Any]:
        age = None if self._resolved_at is None else round(self._env.now() - self._resolved_at, 3)
        return {
            "upstream": self._endpoints.upstream,
            "dns": self._spec.dns,
            "resolved_ago": age,
            "problem": self._problem,
        }

    def __repr__(self) -> str:
        return f"<Discovery {self._spec.dns}: {len(self._endpoints.members)} endpoints {self._problem or 'ok'}>"
