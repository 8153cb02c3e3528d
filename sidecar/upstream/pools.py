"""Pools of one upstream: one for each of its endpoints, created at its first use.

A pool is retired when its endpoint is removed.  The pools survive reloads: the state store has them under
`("pools", upstream, tls)`.

If the addresses of a name change, idle connections to former addresses are closed.  Otherwise frequent requests would
keep them open forever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.env import Env, TaskHandle
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import Endpoint, EndpointSet, authority, literal
from sidecar.upstream.pool import CONNECTION_STATES, Connect, Pool, patience
from sidecar.upstream.resolver import NameResolver, fixed_addresses
from sidecar.upstream.spec import UpstreamSpec

FOLLOW_SECONDS: Final = 1.0
"""Seconds between two checks of a pool's connections against the addresses of its name."""


class Pools:
    """Pools of an upstream's endpoints."""

    def __init__(
        self,
        endpoints: EndpointSet,
        spec: UpstreamSpec,
        env: Env,
        deadlines: Deadlines,
        tls: CertificateWatch | None = None,
        where: str = "",
        names: NameResolver | None = None,
        plain_tls: CertificateWatch | None = None,
    ) -> None:
        """Take the certificates for `https://` endpoints, `file:line` of the upstream, and the resolver of names.

        Without `names`, the loop resolves the names of endpoints.  `plain_tls` offers HTTP/1.1 alone, for WebSockets;
        None where `tls` does.
        """
        self._upstream = endpoints.upstream
        self._spec = spec
        self._env = env
        self._deadlines = deadlines
        self._tls = tls
        self._where = where
        self._names = names
        self._plain_tls = plain_tls
        self.by_endpoint: dict[Endpoint, Pool] = {}
        """Pools that were made; `of` makes the others."""
        self._followers: dict[Endpoint, TaskHandle] = {}
        """Tasks that check the addresses of the endpoints' names."""
        self._unsubscribe = endpoints.on_removal(self._remove)
        for state in CONNECTION_STATES:
            gauge = partial(self.count, state)
            env.meter.gauge(metrics.POOL_CONNECTIONS, gauge, upstream=endpoints.upstream, state=state)
        if spec.may_use_http2(spec.is_tls):
            env.meter.gauge(metrics.POOL_STREAMS, self.count_streams, upstream=endpoints.upstream)

    def of(self, endpoint: Endpoint) -> Pool:
        """Return the pool of an endpoint."""
        pool = self.by_endpoint.get(endpoint)
        if pool is None:
            names = None if literal(endpoint.host) is not None else self._names
            connect = partial(open_connection, endpoint, self._tls, names)
            awaits = None if names is None else partial(names.is_awaited, endpoint.host)
            if self._spec.may_use_http2(endpoint.is_tls):
                pool = self._make_streams(endpoint, connect, names, awaits)
            else:
                pool = Pool(endpoint.url, self._env, self._deadlines, connect, self._where, awaits)
            self.by_endpoint[endpoint] = pool
            self._tune(endpoint, pool)
            if names is not None and endpoint.host and not fixed_addresses(endpoint.host):
                self._followers[endpoint] = self._env.spawn(self._follow(pool, names, endpoint.host))
        return pool

    def _make_streams(
        self, endpoint: Endpoint, connect: Connect, names: NameResolver | None, awaits: Callable[[], bool] | None
    ) -> Pool:
        """Return a pool of streams, whose package is imported for the first one."""
        from sidecar.upstream.http2.pool import StreamPool

        is_http2_only = self._spec.protocol == "http2"
        plain = None if is_http2_only else partial(open_connection, endpoint, self._plain_tls, names)
        return StreamPool(endpoint.url, self._env, self._deadlines, connect, self._where, awaits, is_http2_only, plain)

    async def _follow(self, pool: Pool, names: NameResolver, host: str) -> None:
        """Close idle connections to addresses that the name no longer has, again and again."""
        while True:
            await self._env.sleep(FOLLOW_SECONDS)
            if pool.has_lasting_connections:
                try:
                    addresses = await names.look_up(host)  # a query only if the cached answer has expired
                except OSError:
                    continue
                pool.leave_addresses(addresses)

    def reclaim(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        """End the exchange that has waited longest for its own client; False if none has waited for too long.

        `route` limits the choice to one route; empty means all.  `waiting` requests for `places` determine the time
        that an exchange may wait (`patience`).
        """
        limit = self._env.now() - patience(waiting, places)
        carriers = (each for pool in self.by_endpoint.values() for each in pool.carriers_in_use())
        blocked = [each for each in carriers if each.blocked_since <= limit and route in ("", each.route)]
        if not blocked:
            return False
        min(blocked, key=lambda carrier: carrier.blocked_since).yield_place()
        return True

    def count(self, state: str) -> int:
        """Return the number of connections in one of the `CONNECTION_STATES`."""
        return sum(pool.count(state) for pool in self.by_endpoint.values())

    def count_streams(self) -> int:
        """Return the number of open streams."""
        return sum(pool.streams for pool in self.by_endpoint.values())

    def retune(self, spec: UpstreamSpec) -> None:
        """Apply new settings to existing and future pools."""
        self._spec = spec
        for endpoint, pool in self.by_endpoint.items():
            self._tune(endpoint, pool)

    def _tune(self, endpoint: Endpoint, pool: Pool) -> None:
        pool.retune(self._spec)
        if (discover := self._spec.discover) is not None and discover.host:
            pool.host = authority(discover.host, endpoint).encode()

    def _remove(self, endpoints: tuple[Endpoint, ...]) -> None:
        for endpoint in endpoints:
            pool = self.by_endpoint.pop(endpoint, None)
            if pool is not None:
                pool.abandon()
            self._stop_following(endpoint)

    def _stop_following(self, endpoint: Endpoint) -> None:
        follower = self._followers.pop(endpoint, None)
        if follower is not None:
            follower.cancel()

    def retire(self) -> None:
        """Retire all pools of an upstream that is no longer configured."""
        self._unsubscribe()
        for endpoint, pool in self.by_endpoint.items():
            pool.retire()
            self._stop_following(endpoint)

    def describe(self) -> dict[str, Any]:
        pools = {endpoint.url: pool.describe() for endpoint, pool in self.by_endpoint.items()}
        return {"upstream": self._upstream, "pools": pools}

    def __repr__(self) -> str:
        return f"<Pools {self._upstream} {list(self.by_endpoint.values())!r}>"


async def open_connection(
    endpoint: Endpoint,
    tls: CertificateWatch | None,
    names: NameResolver | None,
    protocol: Callable[[], asyncio.BaseProtocol],
) -> None:
    """Connect a protocol to an endpoint, with TLS for `https://`.  Raises `OSError`, as which `ssl.SSLError` counts.

    `names` resolves the endpoint's name; without it the loop does.
    """
    loop = asyncio.get_running_loop()
    if endpoint.path:
        await loop.create_unix_connection(protocol, endpoint.path)
        return
    secured: dict[str, Any] = {}
    if tls is not None and endpoint.is_tls:
        secured = {"ssl": tls.context, "server_hostname": endpoint.server_name}
    if names is None:
        await loop.create_connection(protocol, endpoint.host, endpoint.port, **secured)
        return
    sock = await names.open_socket(endpoint.host, endpoint.port)
    try:
        await loop.create_connection(protocol, sock=sock, **secured)
    except BaseException:
        sock.close()
        raise
