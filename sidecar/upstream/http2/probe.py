"""Health probe of endpoints that may speak HTTP/2: the version is selected as for requests.

Each probe opens a connection, sends a GET, and closes the connection, as the probe of HTTP/1.1 does
(`balancing.health`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sidecar.core.conditions import Conditions
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Promise
from sidecar.upstream.balancing.health import Probe
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import Endpoint, authority
from sidecar.upstream.http2.pool import StreamPool
from sidecar.upstream.pool import Connect
from sidecar.upstream.spec import HealthCheckSpec


class Told:
    """Receiver of a probe's outcome."""

    def __init__(self) -> None:
        self.outcome: Promise[Outcome] = Promise()

    def take(self, outcome: Outcome) -> None:
        self.outcome.resolve(outcome)


def stream_probe(
    connect: Callable[[Endpoint], Connect], env: Env, is_http2_only: bool = False, discovered: str = ""
) -> Probe:
    """Return a probe.  `connect` returns the function that opens connections to an endpoint.

    `discovered` is the name whose addresses are the endpoints; empty without discovery.
    """

    async def probe(endpoint: Endpoint, spec: HealthCheckSpec, fields: Iterable[tuple[bytes, bytes]] = ()) -> str:
        pool = StreamPool(endpoint.url, env, Deadlines(env), connect(endpoint), is_http2_only=is_http2_only)
        pool.connect_timeout = spec.timeout
        path, mark, query = (spec.path or "/").encode().partition(b"?")
        x = Exchange(b"GET", path, [(b"user-agent", b"sidecar-health-check"), *fields])
        x.query = query if mark else None
        x.attempt_timeout = spec.timeout
        x.authority = (spec.host or (authority(discovered, endpoint) if discovered else "")).encode()
        expires = env.now() + spec.timeout
        opening = pool.open(expires)
        try:
            acquired = await opening
            if isinstance(acquired, Outcome):
                outcome = acquired
            else:
                told = Told()
                acquired.exchange(x, expires, env.now(), told)
                try:
                    outcome = await told.outcome
                finally:
                    acquired.abort()
        finally:
            pool.retire()
        outcome.discard()
        if outcome.failure is not None:
            late = f"no answer within {spec.timeout:g}s"
            return late if outcome.failure.code in ("timeout", "connect_timeout") else outcome.cause
        return "" if Conditions(spec.expect).match(outcome) else f"status {outcome.status}"

    return probe
