"""Endpoints from the name service: a name is looked up again and again, and each of its addresses is an endpoint.

Decisions:

- **The last good addresses are kept** while look-ups fail, for `keep_for`: a name service that is down must not take
  the upstream with it, and an empty answer mostly means the same (a headless service whose pods all fail their
  readiness checks has no addresses; to ask them all the same is no worse than to ask none).  After `keep_for` they are
  let go, since an address can by then be somebody else's.
- IPv4 and IPv6 alike, those that this host has a use for (`AI_ADDRCONFIG`), sorted, so that the order of the answer,
  which name servers rotate, changes nothing; `max_endpoints` bounds them.
- Looked up by the system's resolver in a worker thread: it knows `/etc/hosts`, search domains and the local cache, but
  not a record's time to live, hence `interval`.  One look-up at a time for an upstream, so that a resolver that hangs
  holds one thread.  Before the first success it is tried each second.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Any, Final

from sidecar.core import events
from sidecar.core.env import Env, Pending
from sidecar.upstream.address import address
from sidecar.upstream.endpoint import EndpointSet
from sidecar.upstream.errors import words
from sidecar.upstream.spec import DiscoverSpec

EAGER: Final = 1.0
"""Seconds between look-ups while there is nothing at all."""
JITTER: Final = 0.1

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""The IP addresses of a name (with the port, which only the resolver's interface wants); OSError where it fails."""


async def resolve(name: str, port: int) -> set[str]:
    """By the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(
        name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_ADDRCONFIG
    )
    return {str(sockaddr[0]) for *_, sockaddr in found}


class Discovery:
    """Keeps an endpoint set to what a name resolves to.  Kept in the state store as `("discovery", upstream)`."""

    __slots__ = ("_endpoints", "_env", "_problem", "_resolve", "_resolved_at", "_spec", "_task")

    def __init__(self, endpoints: EndpointSet, spec: DiscoverSpec, env: Env, resolve: Resolve = resolve) -> None:
        self._endpoints = endpoints
        self._spec = spec
        self._env = env
        self._resolve = resolve
        self._resolved_at: float | None = None
        self._problem = ""
        self._task: Pending | None = None

    @property
    def is_resolved(self) -> bool:
        """Has a look-up succeeded since the start?"""
        return self._resolved_at is not None

    def start(self) -> None:
        """Begin to look up; without effect where that has been done."""
        if self._task is None:
            self._task = self._env.spawn(self._run())

    def retune(self, spec: DiscoverSpec) -> None:
        """Another policy: the present endpoints stay until the new look-up has succeeded."""
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
            interval = self._spec.interval if self._endpoints.members else min(EAGER, self._spec.interval)
            await self._env.sleep(interval * (1 - JITTER + 2 * JITTER * self._env.rng.random()))

    async def look_up(self) -> None:
        """One look-up and what follows from it."""
        spec = self._spec
        try:
            found = sorted(
                (ip_address(text) for text in await self._resolve(spec.dns, spec.port)), key=lambda a: (a.version, a)
            )
        except (OSError, ValueError) as error:
            self._failed(words(error))
            return
        if not found:
            self._failed("the answer has no addresses")
            return
        self._problem = ""
        self._resolved_at = self._env.now()
        self._replace([address(spec.scheme, str(ip), spec.port).url for ip in found[: spec.max_endpoints]], len(found))

    def _failed(self, problem: str) -> None:
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
