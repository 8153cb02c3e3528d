"""Pools of one upstream: one for each of its endpoints, made when it is first used.

A pool goes when its endpoint goes.  What is kept, in the state store as `("pools", upstream, tls)`, outlives reloads.

When a name moves, its idle connections to addresses that it no longer has are closed: else requests that come often
enough would keep them for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.env import Env, Pending
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import Endpoint, EndpointSet, authority, literal
from sidecar.upstream.pool import CONNECTION_STATES, Pool, patience
from sidecar.upstream.resolver import Names, known
from sidecar.upstream.spec import UpstreamSpec

FOLLOW_SECONDS: Final = 1.0
"""Seconds between two comparisons of a pool's connections with the addresses of its name."""


class Pools:
    """The pools of an upstream's endpoints."""

    def __init__(
        self,
        endpoints: EndpointSet,
        spec: UpstreamSpec,
        env: Env,
        deadlines: Deadlines,
        tls: CertificateWatch | None = None,
        where: str = "",
        names: Names | None = None,
    ) -> None:
        """`tls` gives the context for `https://` endpoints; `where` is `file:line` of the upstream.  `names` looks up
        the names of endpoints; without it the loop does."""
        self._upstream = endpoints.upstream
        self._spec = spec
        self._env = env
        self._deadlines = deadlines
        self._tls = tls
        self._where = where
        self._names = names
        self._pools: dict[Endpoint, Pool] = {}
        self._followers: dict[Endpoint, Pending] = {}
        """Tasks that follow the names of endpoints."""
        self._unsubscribe = endpoints.on_removal(self._remove)
        for state in CONNECTION_STATES:
            gauge = partial(self.count, state)
            env.meter.gauge(metrics.POOL_CONNECTIONS, gauge, upstream=endpoints.upstream, state=state)

    def of(self, endpoint: Endpoint) -> Pool:
        """Return the pool of an endpoint."""
        pool = self._pools.get(endpoint)
        if pool is None:
            names = None if literal(endpoint.host) is not None else self._names
            connect = partial(open_connection, endpoint, self._tls, names)
            awaits = None if names is None else partial(names.awaits, endpoint.host)
            pool = self._pools[endpoint] = Pool(endpoint.url, self._env, self._deadlines, connect, self._where, awaits)
            self._tune(endpoint, pool)
            if names is not None and endpoint.host and not known(endpoint.host):
                self._followers[endpoint] = self._env.spawn(self._follow(pool, names, endpoint.host))
        return pool

    async def _follow(self, pool: Pool, names: Names, host: str) -> None:
        while True:
            await self._env.sleep(FOLLOW_SECONDS)
            if pool.idle:
                try:
                    addresses = await names.look_up(host)  # asks once its answer has expired
                except OSError:
                    continue
                for connection in list(pool.idle):
                    if connection.peer_address() not in addresses:
                        connection.close()

    def make_way(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        """End the exchange that has waited for its own client longest; False if none has for as long as it may.

        `route` is the name of the route whose exchange it has to be; empty for any.  How many requests are `waiting`
        for how many `places` decides how long each may wait (`patience`).
        """
        limit = self._env.now() - patience(waiting, places)
        connections = (each for pool in self._pools.values() for each in pool.connections)
        blocked = [each for each in connections if each.blocked_since <= limit and route in ("", each.route)]
        if not blocked:
            return False
        min(blocked, key=lambda connection: connection.blocked_since).give_way()
        return True

    def count(self, state: str) -> int:
        """Return the number of connections in one of the `CONNECTION_STATES`."""
        return sum(pool.count(state) for pool in self._pools.values())

    def retune(self, spec: UpstreamSpec) -> None:
        """Take new settings, for present and future pools."""
        self._spec = spec
        for endpoint, pool in self._pools.items():
            self._tune(endpoint, pool)

    def _tune(self, endpoint: Endpoint, pool: Pool) -> None:
        pool.retune(self._spec)
        if (discover := self._spec.discover) is not None:
            pool.host = authority(discover.dns, endpoint).encode()

    def _remove(self, endpoints: tuple[Endpoint, ...]) -> None:
        for endpoint in endpoints:
            pool = self._pools.pop(endpoint, None)
            if pool is not None:
                pool.retire()
            self._stop_following(endpoint)

    def _stop_following(self, endpoint: Endpoint) -> None:
        follower = self._followers.pop(endpoint, None)
        if follower is not None:
            follower.cancel()

    def retire(self) -> None:
        """Retire every pool: the upstream is no longer configured."""
        self._unsubscribe()
        for endpoint, pool in self._pools.items():
            pool.retire()
            self._stop_following(endpoint)

    def describe(self) -> dict[str, Any]:
        pools = {endpoint.url: pool.describe() for endpoint, pool in self._pools.items()}
        return {"upstream": self._upstream, "pools": pools}

    def __repr__(self) -> str:
        return f"<Pools {self._upstream} {list(self._pools.values())!r}>"


async def open_connection(
    endpoint: Endpoint,
    tls: CertificateWatch | None,
    names: Names | None,
    protocol: Callable[[], UpstreamConnection],
) -> None:
    """Connect a protocol to the endpoint, with TLS where its URL says so.  Raises OSError, `ssl.SSLError` included.

    `names` connects to an endpoint that has a name; without it the loop does.
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
