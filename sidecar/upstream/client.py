"""End of every pipeline: choose an endpoint, take a connection, exchange, record.

Rules:

1. An `Upstream` is made anew with each set of policies.  Endpoints, pools, ejection and health live in the state store
   and survive.
2. Breakers per endpoint are asked here, because the endpoint is chosen here: one whose breaker refuses is passed over.
3. A connection that the peer closed while it was idle is replaced by a fresh one and the request sent again at once,
   without retry policy and budget: nothing came back, and the method may be repeated (RFC 9112 9.3.1, RFC 9110 9.2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.core.env import Env
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import (
    ABANDONED,
    CONNECT_TIMEOUT,
    DEADLINE,
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
from sidecar.core.stage import Gate, final
from sidecar.engine.pipeline import Call, InFlight
from sidecar.upstream.answer_times import SAMPLED
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.discovery import Discovery, ask_loop
from sidecar.upstream.balancing.ejection import Ejector
from sidecar.upstream.balancing.health import HealthChecker, http_probe
from sidecar.upstream.certificates import CertificateWatch
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.pool import Acquired, Pool
from sidecar.upstream.pools import Pools
from sidecar.upstream.resolver import Names
from sidecar.upstream.spec import UpstreamSpec
from sidecar.upstream.tls import ClientTlsSpec

Obtain = Callable[[tuple[str, ...], Any, Callable[[], Any]], Any]
"""`BuildContext.obtain`: the object that lives under an identity."""


class AttemptInFlight(Attempt):
    """An attempt from the choice of its endpoint to the last byte of the response."""

    call: Call | None = None
    """Takes the outcome; None while `Upstream.begin` runs, and once it was told."""
    connection: UpstreamConnection | None = None
    """Connection that carries the exchange; None while there is none."""
    outcome: Outcome | None = None
    """Outcome that came while `Upstream.begin` ran, or whose body is still arriving."""
    ticket: object = None
    """Ticket of the endpoint's own breaker."""
    _opening: Promise[Acquired] | None = None
    """Promise of a connection, while there is none."""
    _has_repeated = False
    """True if the exchange was sent again, because the idle connection had been closed."""

    def __init__(
        self, x: Exchange, upstream: Upstream, target: Endpoint, pool: Pool, now: float, expires: float
    ) -> None:
        self.number = x.attempt  # `Attempt.__init__` without its call
        self.started = now
        self.why = x.why
        self.upstream = upstream.name
        self.endpoint = target.url
        self.gate: Gate | None = None
        """The endpoint's own breaker, which has admitted the exchange; None without one."""
        self._x: Exchange | None = x
        """None at the end: it holds its attempts, and cycles wait for the garbage collector."""
        self._upstream = upstream
        self._target = target
        self._pool = pool
        self._expires = expires

    def open(self) -> None:
        """Open a connection, or queue for one, and send the request."""
        opening = self._pool.open(self._expires)
        if opening.done():
            self._use(opening)
        else:
            self._opening = opening
            opening.wake(self._use)

    def _use(self, opening: Promise[Acquired]) -> None:
        """Use the connection that was waited for."""
        self._opening = None
        x = self._x
        if x is None or opening.cancelled():
            return
        acquired = opening.result()
        if isinstance(acquired, UpstreamConnection):
            self.connection = acquired
            acquired.exchange(x, self._expires, self.started, self)
        else:
            self.take(_judge(x, acquired, self._pool, self.started, self._upstream.now()))

    def take(self, outcome: Outcome) -> None:
        """Take the head of the response, or the failure to get one."""
        self.connection = None
        if outcome.failure is STALE_CONNECTION and self._repeat():
            return
        self.answered = now = self._upstream.now()
        if outcome.failure is None:
            times = self._pool.times
            times.heard = now
            if now - self.started > times.usual:
                x = self._x
                times.learn(now - self.started - (0.0 if x is None or x.stream is None else x.stream.held_for(now)))
            else:  # `AnswerTimes.note` without its call
                times.quick += 1
                if times.quick == SAMPLED:
                    times.decay()
        if outcome.stream is None:
            self._settle(outcome, now)
        else:
            self.outcome = outcome
            outcome.stream.on_close(self._end_body)
        call, self.call = self.call, None
        if call is None:
            self.outcome = outcome
        else:
            call.take(outcome)

    def _repeat(self) -> bool:
        """Send the request again on a fresh connection, once; False if that is not possible."""
        x = self._x
        if self._has_repeated or x is None or not x.is_replayable:
            return False
        self._has_repeated = True
        if x.stream is not None:
            x.stream.rewind()
        self.open()
        return True

    def _end_body(self, broken: Failure | None) -> None:
        outcome, self.outcome = self.outcome, None
        assert outcome is not None
        self._settle(final(outcome, broken), self._upstream.now())

    def cancel(self) -> None:
        """Give the attempt up."""
        self.call = None
        opening, connection = self._opening, self.connection
        self._opening = self.connection = None
        if opening is not None:
            opening.cancel()
        if connection is not None:
            connection.abort()
        self.answered = now = self._upstream.now()
        self._settle(ABANDONED, now)

    def _settle(self, outcome: Outcome, now: float) -> None:
        """Record how the attempt ended: for telemetry, for ejection and in the endpoint's breaker."""
        x, self._x = self._x, None
        target, ejector = self._target, self._upstream.ejector
        self.ended = now
        target.in_flight -= 1
        failure = outcome.failure
        if failure is None:
            self.status = outcome.status
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
    """One upstream under one set of policies: the end of the pipeline of each of its routes."""

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
        self.now = env.now
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
        self.ejector: Ejector | None = None
        """Ejects endpoints that fail; None where no policy says so."""
        if (ejection := spec.ejection) is not None:
            self.ejector = obtain(("ejection", name), ejection, lambda: Ejector(self.endpoints, ejection, env))
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

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        """Make one attempt: get an endpoint's response, or the failure to get one."""
        now = self.now()
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
        pool = self.pools.of(endpoint)
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
    if outcome.failure in (CONNECT_TIMEOUT, LOOKUP_TIMEOUT) and is_hurried and pool.times.is_too_short(now - started):
        return failed(SHORT_DEADLINE, cause=outcome.cause)
    return outcome
