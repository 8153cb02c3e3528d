"""The terminal service of every pipeline: choose an endpoint, take a connection, exchange, record.

An `Upstream` is made anew with each set of policies; what it works with (endpoints, pools, ejection, health) lives in
the state store and survives.  A breaker per endpoint is asked here, because here the endpoint is chosen: an endpoint
whose breaker refuses is passed over for one whose does not.

A connection that the peer closed while it was idle is replaced by a fresh one and the request sent again, at once and
without touching the retry policy or its budget: nothing came back on it, and only methods that may be repeated get here
(RFC 9112 9.3.1, RFC 9110 9.2.2).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import (
    ABANDONED,
    DEADLINE,
    NO_ENDPOINT,
    STALE_CONNECTION,
    Failure,
    Outcome,
    Refusal,
    failed,
)
from sidecar.core.stage import Gate, final
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.discovery import Discovery
from sidecar.upstream.balancing.ejection import Ejector
from sidecar.upstream.balancing.health import HealthChecker, http_probe
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.connection import Connection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.pool import STATES, Pool
from sidecar.upstream.spec import UpstreamSpec
from sidecar.upstream.tls import ClientTlsSpec

Obtain = Callable[[tuple[str, ...], Any, Callable[[], Any]], Any]


class Upstream:
    """One upstream under one set of policies.  `service` ends the pipeline of each of its routes."""

    def __init__(
        self,
        name: str,
        spec: UpstreamSpec,
        env: Env,
        obtain: Obtain,
        where: str = "",
        endpoint_gate: Callable[[Endpoint], Gate] | None = None,
    ) -> None:
        """`endpoint_gate` gives each endpoint's own breaker, where the policy has one `per: endpoint`."""
        self.name = name
        self.spec = spec
        self.where = where
        self._env = env
        self._obtain = obtain
        self._make_gate = endpoint_gate
        self._gates: dict[Endpoint, Gate] = {}
        self._deadlines: Deadlines = obtain(("deadlines",), None, lambda: Deadlines(env))
        self.endpoints: EndpointSet = obtain(("endpoints", name), spec, lambda: EndpointSet(name, spec, env))
        self.tls: CertificateWatch | None = None
        needs_tls = spec.tls is not None or any(endpoint.tls for endpoint in self.endpoints.members)
        if needs_tls or (spec.discover is not None and spec.discover.scheme == "https"):
            tls = spec.tls or ClientTlsSpec()
            key = ("tls", "upstream", name, tls.model_dump_json())
            self.tls = obtain(key, None, lambda: CertificateWatch(tls, f"upstream {name}", env))
        self._pools: Pools = obtain(("pools", name, repr(spec.tls)), spec, lambda: Pools(self))
        accepts = None if endpoint_gate is None else self._accepts
        self._balancer = Balancer(self.endpoints, spec, env, accepts)
        self._ejector: Ejector | None = None
        if (ejection := spec.ejection) is not None:
            self._ejector = obtain(("ejection", name), ejection, lambda: Ejector(self.endpoints, ejection, env))
        self._background: list[HealthChecker | Discovery] = []
        if (check := spec.health_check) is not None:
            watch = self.tls
            probe = http_probe(None if watch is None else lambda: watch.context)
            make = lambda: HealthChecker(self.endpoints, check, env, probe)  # noqa: E731 - one of two of its kind
            self._background.append(obtain(("health", name, repr(spec.tls)), check, make))
        if (discover := spec.discover) is not None:
            self._background.append(
                obtain(("discovery", name), discover, lambda: Discovery(self.endpoints, discover, env))
            )

    def start(self) -> None:
        """Begin what runs beside the requests; after the policies were committed."""
        for task in self._background:
            task.start()

    async def service(self, x: Exchange) -> Outcome:
        """One try: the answer of an endpoint, or why there is none."""
        now = self._env.now()
        expires = now + x.attempt_timeout
        if x.deadline < expires:
            expires = x.deadline
            if expires <= now:
                return failed(DEADLINE, Refusal("timeout", detail="No time was left for a try."))
        endpoint = self._balancer.pick(x, now)
        if endpoint is None:
            return self._refuse()
        gate = ticket = None
        if self._make_gate is not None:
            gate = self._gate(endpoint)
            ticket = gate.admit(x)
            if ticket.__class__ is Outcome:
                return ticket
        attempt = Attempt(x.attempt, now)
        attempt.upstream = self.name
        attempt.endpoint = endpoint.url
        attempt.why = x.why
        x.attempts.append(attempt)
        if x.trace is not None:
            x.trace.attempt(x, attempt)
        endpoint.in_flight += 1
        outcome = ABANDONED
        try:
            pool = self._pools.of(endpoint)
            connection = pool.take(x, now) or await pool.open(expires)
            if connection.__class__ is Connection:
                outcome = await connection.exchange(x, expires, now)
                if outcome.failure is STALE_CONNECTION and x.is_replayable:
                    outcome = await self._repeat(x, pool, expires, now)
            else:
                outcome = cast("Outcome", connection)
            return outcome
        finally:
            if outcome.stream is None:
                attempt.answered = attempt.ended = self._env.now()
                self._settle(x, endpoint, attempt, gate, ticket, outcome)
            else:
                self._settle_later(x, endpoint, attempt, gate, ticket, outcome)

    async def _repeat(self, x: Exchange, pool: Pool, expires: float, now: float) -> Outcome:
        """The same try on a fresh connection: the idle one had been closed."""
        if x.stream is not None:
            x.stream.rewind()
        fresh = await pool.open(expires)
        return await fresh.exchange(x, expires, now) if isinstance(fresh, Connection) else fresh

    def _settle_later(
        self, x: Exchange, endpoint: Endpoint, attempt: Attempt, gate: Gate | None, ticket: object, outcome: Outcome
    ) -> None:
        """The head is there and the body still arriving: it belongs to the try."""
        assert outcome.stream is not None
        attempt.answered = self._env.now()

        outcome.stream.on_close(partial(self._ended, x, endpoint, attempt, gate, ticket, outcome))

    def _ended(
        self, x: Exchange, endpoint: Endpoint, attempt: Attempt, gate: Gate | None, ticket: object, outcome: Outcome,
        broken: Failure | None,
    ) -> None:  # fmt: skip
        attempt.ended = self._env.now()
        self._settle(x, endpoint, attempt, gate, ticket, final(outcome, broken))

    def _settle(
        self, x: Exchange, endpoint: Endpoint, attempt: Attempt, gate: Gate | None, ticket: object, outcome: Outcome
    ) -> None:
        endpoint.in_flight -= 1
        failure = outcome.failure
        if failure is None:
            attempt.status = outcome.status
        else:
            attempt.reason = failure.code
            attempt.cause = outcome.cause
        if self._ejector is not None and outcome is not ABANDONED:
            self._ejector.record(endpoint, outcome, attempt.started, attempt.ended)
        if gate is not None:
            gate.settle(x, ticket, outcome)

    def _refuse(self) -> Outcome:
        members = self.endpoints.members
        if not members:
            name = (
                "none are listed" if self.spec.discover is None else f"{self.spec.discover.dns} could not be looked up"
            )
            detail = f"The upstream {self.name} has no endpoints: {name}."
        elif self._make_gate is not None and any(endpoint.is_up for endpoint in members):
            detail = f"The circuit breakers of all endpoints of {self.name} are open."
        else:
            detail = f"All {len(members)} endpoints of {self.name} are unhealthy or ejected."
        return failed(NO_ENDPOINT, Refusal("endpoints", self.where, detail, limit=len(members), value=0))

    def _gate(self, endpoint: Endpoint) -> Gate:
        gate = self._gates.get(endpoint)
        if gate is None:
            assert self._make_gate is not None
            gate = self._gates[endpoint] = self._make_gate(endpoint)
        return gate

    def _accepts(self, endpoint: Endpoint) -> bool:
        would_admit: Callable[[], bool] | None = getattr(self._gate(endpoint), "would_admit", None)
        return would_admit is None or would_admit()

    def __repr__(self) -> str:
        return f"<Upstream {self.name}: {self.endpoints!r}>"


class Pools:
    """The pools of an upstream's endpoints, made when first used.  Kept in the state store as `("pools", upstream,
    tls)`."""

    def __init__(self, upstream: Upstream) -> None:
        self._env = upstream._env
        self._name = upstream.name
        self._deadlines = upstream._deadlines
        self._tls = upstream.tls
        self._where = upstream.where
        self._spec = upstream.spec
        self._pools: dict[Endpoint, Pool] = {}
        self._unsubscribe = upstream.endpoints.on_removal(self._remove)
        for state in STATES:
            self._env.meter.gauge(
                metrics.POOL_CONNECTIONS, partial(self.count, state), upstream=upstream.name, state=state
            )

    def count(self, state: str) -> int:
        """How many connections are `idle`, `active` or `opening`."""
        return sum(pool.count(state) for pool in self._pools.values())

    def of(self, endpoint: Endpoint) -> Pool:
        """The pool of an endpoint."""
        pool = self._pools.get(endpoint)
        if pool is None:
            pool = self._pools[endpoint] = Pool(
                endpoint.url, self._env, self._deadlines, connector(endpoint, self._tls), where=self._where
            )
            pool.retune(self._spec)
        return pool

    def retune(self, spec: UpstreamSpec) -> None:
        self._spec = spec
        for pool in self._pools.values():
            pool.retune(spec)

    def _remove(self, endpoints: tuple[Endpoint, ...]) -> None:
        for endpoint in endpoints:
            pool = self._pools.pop(endpoint, None)
            if pool is not None:
                pool.retire()

    def retire(self) -> None:
        self._unsubscribe()
        for pool in self._pools.values():
            pool.retire()

    def describe(self) -> dict[str, Any]:
        return {"upstream": self._name, "pools": {e.url: pool.describe() for e, pool in self._pools.items()}}

    def __repr__(self) -> str:
        return f"<Pools {self._name} {list(self._pools.values())!r}>"


def connector(endpoint: Endpoint, tls: CertificateWatch | None) -> Callable[[Callable[[], Connection]], Any]:
    """Opens a connection to the endpoint, with TLS where its URL says so."""

    async def connect(protocol: Callable[[], Connection]) -> None:
        loop = asyncio.get_running_loop()
        context: ssl.SSLContext | None = None if tls is None or not endpoint.tls else tls.context
        if endpoint.path:
            await loop.create_unix_connection(protocol, endpoint.path)
        elif context is None:
            await loop.create_connection(protocol, endpoint.host, endpoint.port)
        else:
            await loop.create_connection(
                protocol, endpoint.host, endpoint.port, ssl=context, server_hostname=endpoint.server_name
            )

    return connect


def make_upstream(
    name: str,
    spec: UpstreamSpec,
    env: Env,
    obtain: Obtain,
    where: str = "",
    endpoint_gate: Callable[[Endpoint], Gate] | None = None,
) -> Upstream:
    """The upstream of one set of policies; its state comes from `obtain`."""
    return Upstream(name, spec, env, obtain, where, endpoint_gate)
