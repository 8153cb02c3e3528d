"""Terminal service of every pipeline: choose an endpoint, take a connection, exchange, record.

Rules:

1. An `Upstream` is made anew with each set of policies.  Endpoints, pools, ejection and health live in the state store
   and survive.
2. Breakers per endpoint are asked here, because the endpoint is chosen here: one whose breaker refuses is passed over.
3. A connection that the peer closed while it was idle is replaced by a fresh one and the request sent again at once,
   without retry policy and budget: nothing came back, and the method may be repeated (RFC 9112 9.3.1, RFC 9110 9.2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from sidecar.core.env import Env
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import (
    ABANDONED,
    CONNECT_TIMEOUT,
    DEADLINE,
    NO_ENDPOINT,
    SHORT_DEADLINE,
    STALE_CONNECTION,
    Failure,
    Outcome,
    Refusal,
    failed,
)
from sidecar.core.stage import Gate, final
from sidecar.upstream.answer_times import SAMPLED
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.discovery import Discovery, ask_loop
from sidecar.upstream.balancing.ejection import Ejector
from sidecar.upstream.balancing.health import HealthChecker, http_probe
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.pool import Pool
from sidecar.upstream.pools import Pools
from sidecar.upstream.resolver import Names
from sidecar.upstream.spec import UpstreamSpec
from sidecar.upstream.tls import ClientTlsSpec

Obtain = Callable[[tuple[str, ...], Any, Callable[[], Any]], Any]
"""`BuildContext.obtain`: the object that lives under an identity."""


class AttemptInFlight(Attempt):
    """An attempt from the choice of its endpoint to the last byte of the response: what is settled then."""

    __slots__ = ("exchange", "gate", "target", "ticket")

    target: Endpoint
    gate: Gate | None
    """The endpoint's own breaker; None without one."""
    ticket: object
    """What the gate has admitted the exchange with; unset without one."""
    exchange: Exchange | None
    """What the gate has admitted, until it is settled; unset without one."""


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
        """`where` is `file:line` of the upstream; `endpoint_gate` makes an endpoint's own breaker, where there is
        one."""
        self.name = name
        self.spec = spec
        self.where = where
        self._env = env
        self._make_gate = endpoint_gate
        self._gates: dict[Endpoint, Gate] = {}
        self.endpoints: EndpointSet = obtain(("endpoints", name), spec, lambda: EndpointSet(name, spec, env))
        self.tls: CertificateWatch | None = None
        """Certificates for `https://` endpoints; None where there are none."""
        tls = spec.tls or (ClientTlsSpec() if spec.is_tls else None)
        if tls is not None:
            key = ("tls", "upstream", name, tls.model_dump_json())
            self.tls = obtain(key, None, lambda: CertificateWatch(tls, f"upstream {name}", env))
        deadlines: Deadlines = obtain(("deadlines",), None, lambda: Deadlines(env))
        names: Names | None = None if env.names is None else env.names.tuned(spec.resolve)
        resolved = () if spec.resolve is None else (repr(spec.resolve),)
        make_pools = lambda: Pools(self.endpoints, spec, env, deadlines, self.tls, where, names)  # noqa: E731 - as the others
        self.pools: Pools = obtain(("pools", name, repr(tls), *resolved), spec, make_pools)
        self._balancer = Balancer(self.endpoints, spec, env, None if endpoint_gate is None else self._accepts)
        self._ejector: Ejector | None = None
        if (ejection := spec.ejection) is not None:
            self._ejector = obtain(("ejection", name), ejection, lambda: Ejector(self.endpoints, ejection, env))
        self._background: list[HealthChecker | Discovery] = []
        """What runs beside the requests."""
        if (check := spec.health_check) is not None:
            watch = self.tls
            dns = "" if spec.discover is None else spec.discover.dns
            probe = http_probe(None if watch is None else lambda: watch.context, names, dns)
            make_checker = lambda: HealthChecker(self.endpoints, check, env, probe)  # noqa: E731 - as the others
            self._background.append(obtain(("health", name, repr(spec.tls), dns, *resolved), check, make_checker))
        if (discover := spec.discover) is not None:
            ask = ask_loop if names is None else names.ask
            make_discovery = lambda: Discovery(self.endpoints, discover, env, ask)  # noqa: E731 - as the others
            self._background.append(obtain(("discovery", name, *resolved), discover, make_discovery))

    def start(self) -> None:
        """Start health checks and discovery; called once the policies are committed."""
        for task in self._background:
            task.start()

    async def service(self, x: Exchange) -> Outcome:
        """Make one attempt: return an endpoint's response, or the failure to get one."""
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
        attempt = AttemptInFlight(x.attempt, now)
        attempt.upstream = self.name
        attempt.endpoint = endpoint.url
        attempt.why = x.why
        attempt.target = endpoint
        attempt.gate = gate
        if gate is not None:
            attempt.ticket, attempt.exchange = ticket, x
        x.attempts.append(attempt)
        if x.trace is not None:
            x.trace.attempt(x, attempt)
        endpoint.in_flight += 1
        outcome = ABANDONED
        try:
            pool = self.pools.of(endpoint)
            connection = pool.take(x, now) or await pool.open(expires)
            if connection.__class__ is UpstreamConnection:
                outcome = await connection.exchange(x, expires, now)
                if outcome.failure is STALE_CONNECTION and x.is_replayable:
                    outcome = await self._repeat(x, pool, expires, now)
            else:
                outcome = _judge(x, cast("Outcome", connection), pool, attempt.started, self._env.now())
            return outcome
        finally:
            attempt.answered = now = self._env.now()
            if outcome.failure is None:
                times = pool.times
                times.heard = now
                if now - attempt.started > times.usual:
                    times.learn(now - attempt.started - (0.0 if x.stream is None else x.stream.held_for(now)))
                else:  # `AnswerTimes.note` without its call
                    times.quick += 1
                    if times.quick == SAMPLED:
                        times.decay()
            if outcome.stream is None:
                self._settle(attempt, outcome, now)
            else:
                outcome.stream.on_close(partial(self._end_body, attempt, outcome))

    async def _repeat(self, x: Exchange, pool: Pool, expires: float, now: float) -> Outcome:
        """Make the same attempt on a fresh connection: the idle one had been closed."""
        if x.stream is not None:
            x.stream.rewind()
        fresh = await pool.open(expires)
        if isinstance(fresh, UpstreamConnection):
            return await fresh.exchange(x, expires, now)
        return _judge(x, fresh, pool, now, self._env.now())

    def _end_body(self, attempt: AttemptInFlight, outcome: Outcome, broken: Failure | None) -> None:
        self._settle(attempt, final(outcome, broken), self._env.now())

    def _settle(self, attempt: AttemptInFlight, outcome: Outcome, now: float) -> None:
        """Record how an attempt ended: for telemetry, for ejection and in the endpoint's breaker."""
        attempt.ended = now
        attempt.target.in_flight -= 1
        failure = outcome.failure
        if failure is None:
            attempt.status = outcome.status
        else:
            attempt.reason = failure.code
            attempt.cause = outcome.cause
            if failure.origin == "upstream":
                attempt.target.failed_at = now
                if self._ejector is None:
                    attempt.target.failures += 1
        if self._ejector is not None:
            if outcome is not ABANDONED:
                self._ejector.record(attempt.target, outcome, attempt.started, now)
        elif failure is None and attempt.target.failures:
            attempt.target.failures = 0
        gate = attempt.gate
        if gate is not None and (x := attempt.exchange) is not None:
            attempt.exchange = None  # it holds its attempts: leave no cycle to the garbage collector
            gate.settle(x, attempt.ticket, outcome)

    def make_way(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        """End the exchange that has waited for its own client longest, as `Pools.make_way` does."""
        return self.pools.make_way(route, waiting, places)

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


def _judge(x: Exchange, outcome: Outcome, pool: Pool, started: float, now: float) -> Outcome:
    """Return the failure to get a connection, which is the caller's where its short deadline has ended the attempt."""
    is_hurried = x.deadline == x.caller_deadline and now >= x.deadline
    if outcome.failure is CONNECT_TIMEOUT and is_hurried and pool.times.is_too_short(now - started):
        return failed(SHORT_DEADLINE, cause=outcome.cause)
    return outcome
