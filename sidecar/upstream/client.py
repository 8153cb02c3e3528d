"""Upstream client: the terminal of every pipeline, which makes one attempt at an endpoint.

Rules:

1. Each set of policies has a new `Upstream`.  Its endpoints, pools, ejection and health are in the state store and
   survive reloads.
2. The breakers of single endpoints are called here, where the endpoint is chosen.  An endpoint whose breaker refuses is
   skipped.
3. If the peer had closed an idle connection, the request is sent again at once on a new one, without retry policy and
   budget.  This happens only for idempotent methods and before any byte of a response (RFC 9112 9.3.1, RFC 9110 9.2.2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from sidecar.core.body import COMPLETE
from sidecar.core.env import Env
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import (
    ABANDONED,
    CONNECT_TIMEOUT,
    DEADLINE,
    ENDPOINT_LEFT,
    LOOKUP_TIMEOUT,
    NO_ENDPOINT,
    SHORT_DEADLINE,
    STALE_CONNECTION,
    Failure,
    Outcome,
    Refusal,
    failed,
)
from sidecar.core.promise import Promise
from sidecar.core.stage import Gate, outcome_to_settle
from sidecar.engine.pipeline import Call, InFlight
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.ejection import Ejector
from sidecar.upstream.balancing.health import HealthChecker, Probe, ProbeCredentials, http_probe
from sidecar.upstream.balancing.strategies import observe
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.discovery.discovery import Discovery, Source
from sidecar.upstream.discovery.names import AddressSource, ServiceSource, ask_loop
from sidecar.upstream.discovery.spec import DiscoverSpec
from sidecar.upstream.endpoint import Endpoint, EndpointSet, literal
from sidecar.upstream.grpc.answer import read_status
from sidecar.upstream.pool import Acquired, Carrier, Connect, Pool
from sidecar.upstream.pools import Pools, open_connection
from sidecar.upstream.resolver import NameResolver
from sidecar.upstream.response_times import SAMPLED
from sidecar.upstream.spec import HealthCheckSpec, UpstreamSpec
from sidecar.upstream.tls import ClientTlsSpec

Obtain = Callable[[tuple[str, ...], Any, Callable[[], Any]], Any]
"""Function that returns an object from the state store (`BuildContext.obtain`)."""


class AttemptInFlight(Attempt):
    """Attempt in flight, from the choice of its endpoint to the last byte of the response."""

    call: Call | None = None
    """Call that waits for the outcome; None while `Upstream.begin` runs, and once it has the outcome."""
    connection: Carrier | None = None
    """Connection or stream that carries the exchange until the head of the response; else None."""
    outcome: Outcome | None = None
    """Outcome that was known within `Upstream.begin`, or whose body is still arriving; else None."""
    ticket: object = None
    """Ticket of the endpoint's breaker."""
    _opening: Promise[Acquired] | None = None
    """Promise of a connection, while the attempt waits for one; else None."""
    _has_repeated = False
    """True once the request was sent again because an idle connection had been closed."""

    def __init__(
        self, x: Exchange, upstream: Upstream, target: Endpoint, pool: Pool, now: float, expires: float
    ) -> None:
        self.number = x.attempt  # inlined `Attempt.__init__`
        self.started = now
        self.why = x.why
        self.upstream = upstream.name
        self.endpoint = target.url
        self.gate: Gate | None = None
        """Breaker of the endpoint, which has admitted the exchange; None without one."""
        self._x: Exchange | None = x
        """Request; None once the attempt has ended, to break the reference cycle with `x.attempts`."""
        self._upstream = upstream
        self._target = target
        self._pool = pool
        self._expires = expires

    def open(self) -> None:
        """Open a connection, or queue for one, and send the request once it is there."""
        self.connection = None  # mypyc does not set the default of the class if the type is a union
        opening = self._pool.open(self._expires, self._x)
        if opening.done():
            self._use(opening)
        else:
            self._opening = opening
            opening.set_waiter(self._use)

    def _use(self, opening: Promise[Acquired]) -> None:
        """Send the request on the connection that the attempt waited for."""
        self._opening = None
        x = self._x
        if x is None or opening.cancelled():
            return
        acquired = opening.result()
        if isinstance(acquired, Outcome):
            if acquired.failure is ENDPOINT_LEFT and self._move(x):
                return
            self.take(_connect_failure(x, acquired, self._pool, self.started, self._upstream.now()))
        else:
            self.connection = acquired
            acquired.exchange(x, self._expires, self.started, self)

    def take(self, outcome: Outcome) -> None:
        """Accept the response or the failure, unless an idle connection had been closed and the request is repeated.

        The attempt is settled now, or at the end of the body.
        """
        self.connection = None
        if outcome.failure is STALE_CONNECTION and self._repeat():
            return
        self.answered = now = self._upstream.now()
        if outcome.failure is None:
            times, x = self._pool.times, self._x
            if x is not None and x.is_grpc:
                read_status(outcome, self._had_little_time)
            times.heard = now
            if now - self.started > times.usual:
                times.learn(now - self.started - (0.0 if x is None or x.stream is None else x.stream.blocked_for(now)))
            else:  # inlined `ResponseTimes.note`
                times.quick += 1
                if times.quick == SAMPLED:
                    times.decay()
        if self._upstream.learns_latency:
            observe(self._target, outcome, now - self.started, now)
        if outcome.stream is None or outcome.stream.state == COMPLETE:
            self._settle(outcome, now)
        else:
            self.outcome = outcome
            outcome.stream.on_close(self._end_body)
        call, self.call = self.call, None
        if call is None:
            self.outcome = outcome
        else:
            call.take(outcome)

    def _move(self, x: Exchange) -> bool:
        """Go on at another endpoint, because this one has left; False if there is none."""
        upstream = self._upstream
        now = upstream.now()
        found = upstream.choose(x, now)
        if isinstance(found, Outcome):
            return False
        if self.gate is not None:
            self.gate.settle(x, self.ticket, ABANDONED)
        self._target.in_flight -= 1
        endpoint, self.gate, self.ticket = found
        endpoint.in_flight += 1
        self._target = endpoint
        self.endpoint = endpoint.url
        self._pool = upstream.pools.of(endpoint)
        connection = self._pool.take(x, now)
        if connection is None:
            self.open()
        else:
            self.connection = connection
            connection.exchange(x, self._expires, self.started, self)
        return True

    def _had_little_time(self) -> bool:
        """True if the caller's deadline has left less than the usual time for the answer."""
        x, started = self._x, self.started
        is_hurried = x is not None and x.deadline == x.caller_deadline
        return is_hurried and self._pool.times.is_too_short(self._upstream.now() - started)

    def _repeat(self) -> bool:
        """Send the request again on a new connection, once; False if that is not possible."""
        x = self._x
        if self._has_repeated or x is None or not x.is_replayable:
            return False
        self._has_repeated = True
        if x.stream is not None:
            x.stream.rewind()
        self.open()
        return True

    def _end_body(self, broken: Failure | None) -> None:
        """Settle the attempt at the end of the body; `broken` is its failure, None if it is complete."""
        outcome, self.outcome = self.outcome, None
        assert outcome is not None
        self._settle(outcome_to_settle(outcome, broken), self._upstream.now())

    def cancel(self) -> None:
        """Cancel the attempt and settle it as abandoned."""
        self.call = None
        opening, connection = self._opening, self.connection
        self._opening = self.connection = None
        if opening is not None:
            opening.cancel()
        if connection is not None:
            connection.abort()
        self.answered = now = self._upstream.now()
        if self._upstream.learns_latency:
            observe(self._target, ABANDONED, now - self.started, now)
        self._settle(ABANDONED, now)

    def _settle(self, outcome: Outcome, now: float) -> None:
        """Record the outcome of the attempt for telemetry, ejection and the endpoint's breaker."""
        x, self._x = self._x, None
        target, ejector = self._target, self._upstream.ejector
        self.ended = now
        target.in_flight -= 1
        failure = outcome.failure
        if failure is None:
            self.status = outcome.status
            self.verdict = outcome.verdict
        else:
            self.reason = failure.code
            self.cause = outcome.cause
            if failure.origin == "upstream":
                target.failed_at = now
                if ejector is None:
                    target.failures += 1
        if ejector is not None:
            if outcome is not ABANDONED:
                ejector.record(target, outcome, self.started, now)
        elif failure is None and target.failures:
            target.failures = 0
        if self.gate is not None and x is not None:
            self.gate.settle(x, self.ticket, outcome)


class Upstream:
    """Upstream with one set of policies: the terminal of the pipelines of its routes."""

    def __init__(
        self,
        name: str,
        spec: UpstreamSpec,
        env: Env,
        obtain: Obtain,
        where: str = "",
        endpoint_gate: Callable[[Endpoint], Gate] | None = None,
        credentials: ProbeCredentials | None = None,
    ) -> None:
        """Take `file:line` of the upstream as `where`, a function that makes an endpoint's breaker as `endpoint_gate`
        (None without such breakers), and the credentials that health checks bear (None without any)."""
        self.name = name
        self.spec = spec
        self.where = where
        self.now = env.now
        self.learns_latency = spec.load_balancing == "latency"
        """True if the balancer needs the latency of each attempt."""
        self._make_gate = endpoint_gate
        self._gates: dict[Endpoint, Gate] = {}
        self.endpoints: EndpointSet = obtain(("endpoints", name), spec, lambda: EndpointSet(name, spec, env))
        self.tls: CertificateWatch | None = None
        """Certificates for `https://` endpoints; None without such endpoints."""
        tls = spec.tls or (ClientTlsSpec() if spec.is_tls else None)
        plain_tls: CertificateWatch | None = None
        if tls is not None:
            tls_key = ("tls", "upstream", name, tls.model_dump_json())
            owner = f"upstream {name}"
            if spec.protocol != "http2":
                plain_tls = obtain(tls_key, None, lambda: CertificateWatch(tls, owner, env).observed())
            self.tls = plain_tls
            if spec.protocol != "http1":
                offered = ["h2"] if spec.protocol == "http2" else ["h2", "http/1.1"]
                make_watch = lambda: CertificateWatch(tls, owner, env, offered).observed()  # noqa: E731 - as the others
                self.tls = obtain((*tls_key, *offered), None, make_watch)
        deadlines: Deadlines = obtain(("deadlines",), None, lambda: Deadlines(env))
        names: NameResolver | None = None if env.names is None else env.names.with_settings(spec.resolve)
        resolved = () if spec.resolve is None else (repr(spec.resolve),)
        make_pools = lambda: Pools(self.endpoints, spec, env, deadlines, self.tls, where, names, plain_tls)  # noqa: E731 - as the others
        spoken = () if spec.protocol == "auto" else (spec.protocol,)
        self.pools: Pools = obtain(("pools", name, repr(tls), *spoken, *resolved), spec, make_pools)
        self._pools = self.pools.by_endpoint
        self._balancer = Balancer(self.endpoints, spec, env, None if endpoint_gate is None else self._accepts)
        self.ejector: Ejector | None = None
        """Ejector of failing endpoints; None without an `ejection` block."""
        if (ejection := spec.ejection) is not None:
            self.ejector = obtain(("ejection", name), ejection, lambda: Ejector(self.endpoints, ejection, env))
        self._background: list[HealthChecker | Discovery | ProbeCredentials] = []
        """Background tasks of the upstream."""
        if credentials is not None:
            self._background.append(credentials)
        if (check := spec.health_check) is not None:
            dns = "" if spec.discover is None else spec.discover.host
            kind: tuple[str, ...] = () if check.grpc is None else ("grpc",)
            probe = self._make_probe(env, plain_tls, names, dns)
            make_checker = lambda: HealthChecker(self.endpoints, check, env, probe, credentials)  # noqa: E731
            bearing = () if credentials is None else (f"credentials {id(credentials)}",)
            checked = ("health", name, repr(spec.tls), dns, *spoken, *resolved, *kind, *bearing)
            self._background.append(obtain(checked, check, make_checker))
        if (discover := spec.discover) is not None:
            make_source = partial(_make_source, env, names)
            make_discovery = lambda: Discovery(self.endpoints, discover, env, make_source)  # noqa: E731 - as the others
            self._background.append(obtain(("discovery", name, discover.kind, *resolved), discover, make_discovery))

    def _make_probe(self, env: Env, plain_tls: CertificateWatch | None, names: NameResolver | None, dns: str) -> Probe:
        """Return the probe of health checks: one that may speak HTTP/2 for endpoints whose requests may."""
        spec, tls = self.spec, self.tls
        if spec.health_check is not None and spec.health_check.grpc is not None:
            from sidecar.upstream.grpc.health import grpc_probe

            return grpc_probe(env, tls, names, dns)
        if not spec.may_use_http2(spec.is_tls):
            return http_probe(None if plain_tls is None else lambda: plain_tls.context, names, dns)
        from sidecar.upstream.http2.probe import stream_probe

        def connect(endpoint: Endpoint) -> Connect:
            known = None if literal(endpoint.host) is not None else names
            return partial(open_connection, endpoint, tls, known)

        over_streams = stream_probe(connect, env, spec.protocol == "http2", dns)
        in_clear = http_probe(None, names, dns)

        def probe(
            endpoint: Endpoint, check: HealthCheckSpec, fields: Iterable[tuple[bytes, bytes]] = ()
        ) -> Awaitable[str]:
            return (over_streams if spec.may_use_http2(endpoint.is_tls) else in_clear)(endpoint, check, fields)

        return probe

    def start(self) -> None:
        """Start health checks and discovery; called once the policies are committed."""
        for task in self._background:
            task.start()

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        """Start one attempt; the result is that of `Terminal.begin`."""
        now = self.now()
        expires = now + x.attempt_timeout
        if x.deadline < expires:
            expires = x.deadline
            if expires <= now:
                return failed(DEADLINE, Refusal("timeout", detail="No time was left for an attempt."))
        endpoint = self._balancer.pick(x, now)
        if endpoint is None:
            return self._refuse()
        gate = ticket = None
        if self._make_gate is not None:
            gate = self._gate(endpoint)
            ticket = gate.admit(x)
            if type(ticket) is Outcome:
                return ticket
        pool = self._pools.get(endpoint) or self.pools.of(endpoint)
        attempt = AttemptInFlight(x, self, endpoint, pool, now, expires)
        if gate is not None:
            attempt.gate, attempt.ticket = gate, ticket
        x.attempts.append(attempt)
        if x.trace is not None:
            x.trace.attempt(x, attempt)
        endpoint.in_flight += 1
        connection = pool.take(x, now)
        if connection is not None:
            attempt.connection = connection
            connection.exchange(x, expires, now, attempt)
        else:
            attempt.open()
        if attempt.outcome is not None:  # refused at once, or the request's body had broken off
            return attempt.outcome
        attempt.call = call
        return attempt

    def choose(self, x: Exchange, now: float) -> tuple[Endpoint, Gate | None, object] | Outcome:
        """Return another endpoint for an attempt, with its breaker and the ticket of that, or the refusal."""
        endpoint = self._balancer.pick(x, now)
        if endpoint is None:
            return self._refuse()
        if self._make_gate is None:
            return endpoint, None, None
        gate = self._gate(endpoint)
        ticket = gate.admit(x)
        return ticket if isinstance(ticket, Outcome) else (endpoint, gate, ticket)

    def reclaim(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        """End the exchange that has waited longest for its own client (`Pools.reclaim`)."""
        return self.pools.reclaim(route, waiting, places)

    def _refuse(self) -> Outcome:
        """Return the refusal of a request for which no endpoint is available."""
        members = self.endpoints.members
        if not members:
            name = "none are listed" if self.spec.discover is None else f"{self.spec.discover.source} has named none"
            detail = f"The upstream {self.name} has no endpoints: {name}."
        elif self._make_gate is not None and any(endpoint.is_up for endpoint in members):
            detail = f"The circuit breakers of all endpoints of {self.name} are open."
        else:
            detail = f"All {len(members)} endpoints of {self.name} are unhealthy or ejected."
        return failed(NO_ENDPOINT, Refusal("endpoints", self.where, detail, limit=len(members), value=0))

    def _gate(self, endpoint: Endpoint) -> Gate:
        """Return the breaker of an endpoint."""
        gate = self._gates.get(endpoint)
        if gate is None:
            assert self._make_gate is not None
            members = self.endpoints.members
            if len(self._gates) > 2 * len(members):  # those of endpoints that have left
                self._gates = {each: self._gates[each] for each in members if each in self._gates}
            gate = self._gates[endpoint] = self._make_gate(endpoint)
        return gate

    def _accepts(self, endpoint: Endpoint) -> bool:
        """True if the breaker of an endpoint would admit a request."""
        would_admit: Callable[[], bool] | None = getattr(self._gate(endpoint), "would_admit", None)
        return would_admit is None or would_admit()

    def __repr__(self) -> str:
        return f"<Upstream {self.name}: {self.endpoints!r}>"


def _make_source(env: Env, names: NameResolver | None, spec: DiscoverSpec) -> Source:
    """Return the source of an upstream's endpoints; the modules of the rarer sources are imported when needed."""
    if spec.kubernetes is not None:
        from sidecar.upstream.discovery.kubernetes import KubernetesSource

        return KubernetesSource(spec, env, names)
    if spec.file is not None:
        from sidecar.upstream.discovery.file import FileSource

        return FileSource(spec)
    if spec.srv is not None:
        return ServiceSource(spec, None if names is None else names.ask_services)
    return AddressSource(spec, ask_loop if names is None else names.ask)


def _connect_failure(x: Exchange, outcome: Outcome, pool: Pool, started: float, now: float) -> Outcome:
    """Return the failure to get a connection; `SHORT_DEADLINE` if the caller's deadline left less than the usual
    time."""
    is_hurried = x.deadline == x.caller_deadline and now >= x.deadline
    if outcome.failure in (CONNECT_TIMEOUT, LOOKUP_TIMEOUT) and is_hurried and pool.times.is_too_short(now - started):
        return failed(SHORT_DEADLINE, cause=outcome.cause)
    return outcome
