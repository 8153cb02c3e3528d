"""Active health checks: the sidecar sends each endpoint a probe, in rounds.

Rules:

1. An endpoint is healthy until `unhealthy_after` consecutive probes say otherwise.  A sidecar starts together with its
   service: refusing requests until the end of a first round would make every start an outage.
2. `unhealthy_after` and `healthy_after` keep a single lost packet from changing a verdict.
3. One task an upstream.  A round probes all endpoints at once; rounds are jittered and the first one starts within a
   tenth of the interval, so that sidecars do not probe in step.
4. Each probe opens a new connection: accepting connections is part of being healthy.  The body is not read, redirects
   are not followed.
5. `Host` is `host` of the block, else the endpoint's name; with `discover` the name that was looked up.
6. Health and ejection are judged separately (`Endpoint`).
7. `mode: observe` probes, reports and counts, but takes no endpoint out.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import Env, Pending
from sidecar.core.outcome import Outcome
from sidecar.upstream.endpoint import Endpoint, EndpointSet, authority
from sidecar.upstream.resolver import Names
from sidecar.upstream.spec import HealthCheckSpec

ROUND_JITTER: Final = 0.1
"""Share of the interval by which the pause between rounds is shortened or lengthened at random."""

Probe = Callable[[Endpoint, HealthCheckSpec], Awaitable[str]]
"""Asks an endpoint once; returns what is wrong with it, or an empty string."""


def http_probe(
    tls: Callable[[], ssl.SSLContext] | None = None, names: Names | None = None, discovered: str = ""
) -> Probe:
    """Return a probe that sends a GET by aiohttp, which the first probe loads.

    `tls` returns the present context for `https://` endpoints.  `names` connects to endpoints that have a name; without
    it the loop does.  `discovered` is the name whose addresses the endpoints are, if they are discovered.
    """

    async def probe(endpoint: Endpoint, spec: HealthCheckSpec) -> str:
        await asyncio.to_thread(import_module, "aiohttp")  # the loop goes on meanwhile; a lookup once it is loaded
        import aiohttp

        context = tls() if endpoint.is_tls and tls is not None else True
        connector: aiohttp.BaseConnector
        if endpoint.path:
            connector = aiohttp.UnixConnector(endpoint.path, force_close=True)
            url = f"http://localhost{spec.path}"
        else:
            resolver = aiohttp.ThreadedResolver() if names is None else _resolver(names)
            connector = aiohttp.TCPConnector(ssl=context, force_close=True, use_dns_cache=False, resolver=resolver)
            url = endpoint.url + spec.path
        headers = {"user-agent": "sidecar-health-check"}
        if host := spec.host or (authority(discovered, endpoint) if discovered else ""):
            headers["host"] = host
        timeout = aiohttp.ClientTimeout(total=spec.timeout)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.get(
                    url,
                    allow_redirects=False,
                    server_hostname=endpoint.server_name if endpoint.is_tls else None,
                    headers=headers,
                ) as response,
            ):
                if Conditions(spec.expect).match(Outcome(response.status)):
                    return ""
                return f"status {response.status}"
        except TimeoutError:
            if names is not None and names.awaits(endpoint.host):
                return f"the look-up of {endpoint.host} took longer than {spec.timeout:g}s"
            return f"no answer within {spec.timeout:g}s"
        except (aiohttp.ClientError, OSError) as error:
            return str(error) or type(error).__name__

    return probe


def _resolver(names: Names) -> Any:
    """Return these names as aiohttp's resolver; aiohttp connects by Happy Eyeballs itself."""
    from aiohttp.abc import AbstractResolver, ResolveResult

    class NamesResolver(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                {
                    "hostname": host,
                    "host": address,
                    "port": port,
                    "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                    "proto": socket.IPPROTO_TCP,
                    "flags": socket.AI_NUMERICHOST,
                }
                for address in await names.look_up(host)
            ]

        async def close(self) -> None: ...

    return NamesResolver()


class EndpointHealth:
    """Verdict on one endpoint, and the latest probes."""

    __slots__ = ("is_healthy", "reason", "streak")

    def __init__(self, is_healthy: bool) -> None:
        self.is_healthy = is_healthy
        self.streak = 0
        """Consecutive probes that contradict the verdict."""
        self.reason = ""
        """What was wrong at the last failed probe."""


class HealthChecker:
    """Checks the endpoints of one upstream.  Kept in the state store as `("health", upstream, tls)`."""

    __slots__ = ("_checks", "_endpoints", "_env", "_probe", "_spec", "_task")

    def __init__(self, endpoints: EndpointSet, spec: HealthCheckSpec, env: Env, probe: Probe) -> None:
        self._endpoints = endpoints
        self._spec = spec
        self._env = env
        self._probe = probe
        self._checks: dict[Endpoint, EndpointHealth] = {}
        self._task: Pending | None = None

    def start(self) -> None:
        """Begin to check; without effect while that is running."""
        if self._task is None:
            self._task = self._env.spawn(self._run())

    def retune(self, spec: HealthCheckSpec) -> None:
        """Take new settings; verdicts stand until probes by the new ones contradict them."""
        self._spec = spec
        for endpoint, health in self._checks.items():
            health.streak = 0
            endpoint.set_health(health.is_healthy or not spec.is_enforced)
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.start()

    def retire(self) -> None:
        """Stop checking; all endpoints count as healthy again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for endpoint in self._endpoints.members:
            endpoint.set_health(True)
        self._checks.clear()

    async def _run(self) -> None:
        random = self._env.rng.random
        await self._env.sleep(self._spec.interval * ROUND_JITTER * random())
        while True:
            await self.check_all()
            await self._env.sleep(self._spec.interval * (1 - ROUND_JITTER + 2 * ROUND_JITTER * random()))

    async def check_all(self) -> None:
        """Probe all endpoints once, at the same time."""
        members = self._endpoints.members
        self._checks = {e: self._checks.get(e) or EndpointHealth(e.is_healthy) for e in members}
        await asyncio.gather(*(self._check(endpoint, health) for endpoint, health in self._checks.items()))

    async def _check(self, endpoint: Endpoint, health: EndpointHealth) -> None:
        try:
            reason = await self._probe(endpoint, self._spec)
        except Exception as error:  # a bug in a probe must not end the checks of the others or the next round
            reason = repr(error)
            self._env.emit(events.BUG, where=f"health check of {endpoint.url}", error=reason)
        if reason:
            health.reason = reason
        is_healthy = not reason
        if is_healthy == health.is_healthy:
            health.streak = 0
            return
        health.streak += 1
        if health.streak >= (self._spec.healthy_after if is_healthy else self._spec.unhealthy_after):
            self._change(endpoint, health, is_healthy)

    def _change(self, endpoint: Endpoint, health: EndpointHealth, is_healthy: bool) -> None:
        probes, health.streak, health.is_healthy = health.streak, 0, is_healthy
        if self._spec.is_enforced:
            endpoint.set_health(is_healthy)
        elif not is_healthy:
            self._env.meter.counter(
                metrics.WOULD_REFUSE, policy="health_check", upstream=self._endpoints.upstream
            ).value += 1
        self._env.emit(
            events.ENDPOINT_HEALTH,
            upstream=self._endpoints.upstream,
            endpoint=endpoint.url,
            healthy=is_healthy,
            reason="" if is_healthy else health.reason,
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
                endpoint.url: {
                    "healthy": health.is_healthy,
                    "contrary_probes": health.streak,
                    "last_problem": health.reason,
                }
                for endpoint, health in self._checks.items()
            },
        }

    def __repr__(self) -> str:
        unhealthy = sum(not health.is_healthy for health in self._checks.values())
        return f"<HealthChecker {self._endpoints.upstream}: {unhealthy} of {len(self._checks)} unhealthy>"
