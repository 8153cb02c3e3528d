"""Active health checks: the sidecar asks each endpoint itself, in rounds.

Decisions:

- **Optimistic start**: an endpoint is healthy until `unhealthy_after` probes in a row say otherwise.  A sidecar starts
  together with the service beside it, and to refuse until a first round is over would make every start an outage.
- **Hysteresis** both ways, so that one lost packet changes nothing.
- **One task an upstream**, whose rounds probe all endpoints at once; rounds are jittered by a tenth, and the first
  comes within a tenth of the interval, so that many sidecars do not probe in step.
- **A new connection for each probe**: to accept connections is part of being well.  The body is not read, and redirects
  are not followed.
- The verdict stands apart from ejection: neither overrules the other (`Endpoint`).
- `mode: observe` probes, tells and counts, but takes no endpoint out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import Env, Pending
from sidecar.core.outcome import Outcome
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import HealthCheckSpec

JITTER: Final = 0.1

Probe = Callable[[Endpoint, HealthCheckSpec], Awaitable[str]]
"""Asks an endpoint once: what is wrong with it, or an empty string."""


def http_probe(tls: Callable[[], ssl.SSLContext] | None = None) -> Probe:
    """A GET by aiohttp.  `tls` gives the present context for `https://` endpoints."""

    async def probe(endpoint: Endpoint, spec: HealthCheckSpec) -> str:
        context = tls() if endpoint.tls and tls is not None else True
        connector: aiohttp.BaseConnector
        if endpoint.path:
            connector = aiohttp.UnixConnector(endpoint.path, force_close=True)
            url = f"http://localhost{spec.path}"
        else:
            connector = aiohttp.TCPConnector(ssl=context, force_close=True, use_dns_cache=False)
            url = endpoint.url + spec.path
        timeout = aiohttp.ClientTimeout(total=spec.timeout)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.get(
                    url,
                    allow_redirects=False,
                    server_hostname=endpoint.server_name if endpoint.tls else None,
                    headers={"user-agent": "sidecar-health-check"},
                ) as response,
            ):
                if Conditions(spec.expect).match(Outcome(response.status)):
                    return ""
                return f"status {response.status}"
        except TimeoutError:
            return f"no answer within {spec.timeout:g}s"
        except (aiohttp.ClientError, OSError) as error:
            return str(error) or type(error).__name__

    return probe


class Check:
    """What the last probes of one endpoint said."""

    __slots__ = ("healthy", "reason", "streak")

    def __init__(self, healthy: bool) -> None:
        self.healthy = healthy
        """The verdict."""
        self.streak = 0
        """Probes in a row that contradict it."""
        self.reason = ""
        """What was wrong with the last bad probe."""


class HealthChecker:
    """Checks the endpoints of one upstream.  Kept in the state store as `("health", upstream)`."""

    __slots__ = ("_checks", "_endpoints", "_env", "_probe", "_spec", "_task")

    def __init__(self, endpoints: EndpointSet, spec: HealthCheckSpec, env: Env, probe: Probe) -> None:
        self._endpoints = endpoints
        self._spec = spec
        self._env = env
        self._probe = probe
        self._checks: dict[Endpoint, Check] = {}
        self._task: Pending | None = None

    def start(self) -> None:
        """Begin to check; without effect where that has been done."""
        if self._task is None:
            self._task = self._env.spawn(self._run())

    def retune(self, spec: HealthCheckSpec) -> None:
        """Another policy: verdicts stand until the new probes contradict them."""
        self._spec = spec
        for endpoint, check in self._checks.items():
            check.streak = 0
            endpoint.set_health(check.healthy or not spec.is_enforced)
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.start()

    def retire(self) -> None:
        """Stop checking; nobody is unhealthy for us any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for endpoint in self._endpoints.members:
            endpoint.set_health(True)
        self._checks.clear()

    async def _run(self) -> None:
        random = self._env.rng.random
        await self._env.sleep(self._spec.interval * JITTER * random())
        while True:
            await self.check_all()
            await self._env.sleep(self._spec.interval * (1 - JITTER + 2 * JITTER * random()))

    async def check_all(self) -> None:
        """One round."""
        members = self._endpoints.members
        self._checks = {e: self._checks.get(e) or Check(e.healthy) for e in members}
        await asyncio.gather(*(self._check(endpoint, check) for endpoint, check in self._checks.items()))

    async def _check(self, endpoint: Endpoint, check: Check) -> None:
        try:
            reason = await self._probe(endpoint, self._spec)
        except Exception as error:  # whatever a probe does, the checks of the others and the next round go on
            reason = repr(error)
            self._env.emit(events.BUG, where=f"health check of {endpoint.url}", error=reason)
        if reason:
            check.reason = reason
        healthy = not reason
        if healthy == check.healthy:
            check.streak = 0
            return
        check.streak += 1
        if check.streak >= (self._spec.healthy_after if healthy else self._spec.unhealthy_after):
            self._turn(endpoint, check, healthy)

    def _turn(self, endpoint: Endpoint, check: Check, healthy: bool) -> None:
        probes, check.streak, check.healthy = check.streak, 0, healthy
        if self._spec.is_enforced:
            endpoint.set_health(healthy)
        elif not healthy:
            self._env.meter.counter(
                metrics.WOULD_REFUSE, policy="health_check", upstream=self._endpoints.upstream
            ).value += 1
        self._env.emit(
            events.ENDPOINT_HEALTH,
            upstream=self._endpoints.upstream,
            endpoint=endpoint.url,
            healthy=healthy,
            reason="" if healthy else check.reason,
            probes=probes,
            mode=self._spec.mode,
            up=self._endpoints.count("up"),
        )

    def describe(self) -> dict[str, Any]:
        return {
            "upstream": self._endpoints.upstream,
            "path": self._spec.path,
            "mode": self._spec.mode,
            "endpoints": {
                endpoint.url: {"healthy": check.healthy, "contrary_probes": check.streak, "last_problem": check.reason}
                for endpoint, check in self._checks.items()
            },
        }

    def __repr__(self) -> str:
        bad = sum(not check.healthy for check in self._checks.values())
        return f"<HealthChecker {self._endpoints.upstream}: {bad} of {len(self._checks)} unhealthy>"
