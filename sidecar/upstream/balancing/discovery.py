"""Endpoint discovery: resolves a DNS name periodically; each of its addresses is an endpoint.

Rules:

1. While look-ups fail, the last good addresses are kept for `keep_for`, so that the upstream survives an outage of the
   name service.  An empty answer is a failure too: a headless service has no addresses while all its pods fail their
   readiness checks.  After `keep_for` the addresses are dropped, because they may belong to other services by then.
2. IPv4 and IPv6 addresses are used if this host has an address of the family (`AI_ADDRCONFIG`).  They are sorted, since
   name servers rotate their order, and limited to `max_endpoints`.
3. A look-up bypasses the cache.  It runs every `interval`, or when the records expire if that is sooner.
   `sidecar.upstream.resolver` does it; without a resolver (`Env.names`) the loop does, and there is no time to live.
4. While there are no endpoints, a look-up runs at least every `RETRY_INTERVAL`.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Final

from sidecar.core import events
from sidecar.core.env import Env, TaskHandle
from sidecar.upstream.endpoint import EndpointSet, endpoint_address
from sidecar.upstream.errors import describe_error
from sidecar.upstream.resolver import Answer
from sidecar.upstream.spec import DiscoverSpec

RETRY_INTERVAL: Final = 1.0
"""Longest pause between look-ups while there are no endpoints, in seconds."""
LOOKUP_JITTER: Final = 0.1
"""Share of the interval by which a pause is shortened or lengthened at random."""

Resolver = Callable[[str], Awaitable[Answer]]
"""Function that returns the IP addresses of a name and their time to live.  Raises `OSError`."""


async def ask_loop(name: str) -> Answer:
    """Return the addresses of a name from the loop's look-up, without a time to live."""
    found = await asyncio.get_running_loop().getaddrinfo(
        name, 0, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_ADDRCONFIG
    )
    return Answer(tuple({str(sockaddr[0]): None for *_, sockaddr in found}), math.inf)


class Discovery:
    """Updater of an endpoint set from the addresses of a name.

    The state store has it under `("discovery", upstream)`.
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
        """Time to live of the records of the last success in seconds."""
        self._problem = ""
        """Reason for which the last look-up failed; empty if it succeeded."""
        self._task: TaskHandle | None = None

    def start(self) -> None:
        """Start the look-ups; without effect if they are running."""
        if self._task is None:
            self._task = self._env.spawn(self._run())

    def retune(self, spec: DiscoverSpec) -> None:
        """Apply new settings; the present endpoints stay until a look-up with the new settings succeeds."""
        self._spec = spec
        if self._task is not None:
            self.retire()
            self.start()

    def retire(self) -> None:
        """Stop the look-ups; the endpoints do not change."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await self.look_up()
            interval = min(self._spec.interval, self._ttl if self._endpoints.members else RETRY_INTERVAL)
            await self._env.sleep(interval * (1 - LOOKUP_JITTER + 2 * LOOKUP_JITTER * self._env.rng.random()))

    async def look_up(self) -> None:
        """Look the name up once and update the endpoints."""
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
        """Log the first of several failures, and drop the endpoints after `keep_for`."""
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
        """Replace the endpoints and log the change; `found` is the number of addresses before the limit."""
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
