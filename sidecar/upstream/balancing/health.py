"""Active health checks: the sidecar probes all endpoints periodically.

Rules:

1. An endpoint is healthy until `unhealthy_after` consecutive probes have failed.  A sidecar starts together with its
   service, so refusing requests until the end of the first round would make every start an outage.
2. Because of `unhealthy_after` and `healthy_after`, a single lost packet does not change the result.
3. Each upstream has one task.  A round probes all endpoints at once.  Rounds have jitter, and the first one starts at a
   random time, so that sidecars do not probe in step.
4. Each probe opens a new connection, because a healthy endpoint accepts connections.  The body is not read, and
   redirects are not followed.
5. `Host` is the block's `host`, else the endpoint's name; with `discover` it is the discovered name.
6. Health and ejection are independent (`Endpoint`).
7. `mode: observe` probes, logs and counts, but excludes no endpoint.
8. Probes bear the sidecar's own credentials at the upstream, if it has some.  Without any at present there is no round,
   and an endpoint that rejects them is not judged if others can be had: neither says anything about the endpoint.
9. Of several workers, one probes and tells the others.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from typing import Any, Final, Protocol

from sidecar.core import events, metrics
from sidecar.core.conditions import Conditions
from sidecar.core.env import Env, TaskHandle
from sidecar.core.message import Headers
from sidecar.core.outcome import Outcome
from sidecar.upstream.endpoint import Endpoint, EndpointSet, authority
from sidecar.upstream.resolver import NameResolver
from sidecar.upstream.spec import HealthCheckSpec

ROUND_JITTER: Final = 0.1
"""Share of the interval by which the pause between rounds is shortened or lengthened at random."""

REJECTED: Final = ("status 401", "UNAUTHENTICATED")
"""Beginnings of reasons that credentials were rejected."""


class Probe(Protocol):
    """Function that probes an endpoint once."""

    def __call__(
        self, endpoint: Endpoint, spec: HealthCheckSpec, fields: Iterable[tuple[bytes, bytes]] = (), /
    ) -> Awaitable[str]:
        """Return the reason for a failure; an empty string for a success.  `fields` are sent too."""


class ProbeCredentials(Protocol):
    """Credentials of the sidecar at the upstream (`sidecar.identity.outgoing`)."""

    def start(self) -> None:
        """Start the background work; without effect if it runs."""

    def fields(self, now: float) -> Headers | None:
        """Return the fields of a probe; None if there are no credentials at present."""

    def reject(self, value: bytes) -> bool:
        """Take note that an endpoint has rejected the value of a field.  True if another one may be had."""


def http_probe(
    tls: Callable[[], ssl.SSLContext] | None = None, names: NameResolver | None = None, discovered: str = ""
) -> Probe:
    """Return a probe that sends a GET with aiohttp, which the first probe imports.

    `tls` returns the current context for `https://` endpoints.  `names` resolves the names of endpoints; without it the
    loop does.  `discovered` is the name whose addresses are the endpoints; empty without discovery.
    """

    async def probe(endpoint: Endpoint, spec: HealthCheckSpec, fields: Iterable[tuple[bytes, bytes]] = ()) -> str:
        await asyncio.to_thread(import_module, "aiohttp")  # the import takes long and must not block the loop
        import aiohttp

        context = tls() if endpoint.is_tls and tls is not None else True
        connector: aiohttp.BaseConnector
        if endpoint.path:
            connector = aiohttp.UnixConnector(endpoint.path, force_close=True)
            url = f"http://localhost{spec.path}"
        else:
            resolver = aiohttp.ThreadedResolver() if names is None else aiohttp_resolver(names)
            connector = aiohttp.TCPConnector(ssl=context, force_close=True, use_dns_cache=False, resolver=resolver)
            url = f"{endpoint.url}{spec.path}"
        headers = {"user-agent": "sidecar-health-check"}
        headers |= {name.decode(): value.decode("latin-1") for name, value in fields}
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
            if names is not None and names.is_awaited(endpoint.host):
                return f"the look-up of {endpoint.host} took longer than {spec.timeout:g}s"
            return f"no answer within {spec.timeout:g}s"
        except (aiohttp.ClientError, OSError) as error:
            return str(error) or type(error).__name__

    return probe


def aiohttp_resolver(names: NameResolver) -> Any:
    """Return an aiohttp resolver that uses `names`; aiohttp itself does Happy Eyeballs."""
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
    """Health of one endpoint by its latest probes."""

    __slots__ = ("is_healthy", "reason", "streak")

    def __init__(self, is_healthy: bool) -> None:
        self.is_healthy = is_healthy
        """True if the endpoint is healthy."""
        self.streak = 0
        """Number of consecutive probes with a result contrary to `is_healthy`."""
        self.reason = ""
        """Reason for the last failed probe; empty without one."""


class HealthChecker:
    """Checker of one upstream's endpoints.  The state store has it under `("health", upstream, tls)`."""

    __slots__ = ("_checks", "_credentials", "_endpoints", "_env", "_is_retired", "_probe", "_spec", "_task", "_tell")

    def __init__(
        self,
        endpoints: EndpointSet,
        spec: HealthCheckSpec,
        env: Env,
        probe: Probe,
        credentials: ProbeCredentials | None = None,
    ) -> None:
        """`credentials` are those that probes bear; None without any."""
        self._credentials = credentials
        self._endpoints = endpoints
        self._spec = spec
        self._env = env
        self._probe = probe
        self._checks: dict[Endpoint, EndpointHealth] = {}
        self._task: TaskHandle | None = None
        self._is_retired = False
        self._tell: Callable[[str, Any], None] | None = None
        """Tells other workers the health of an endpoint; None without any."""

    def start(self) -> None:
        """Start the checks; without effect if they are running, or if another worker probes."""
        workers = self._env.workers
        if workers is not None and self._tell is None:
            self._tell = workers.subscribe(self._topic, self.adopt)
            workers.when_first(self._topic, self._begin)
        self._begin()

    @property
    def _topic(self) -> str:
        return f"health:{self._endpoints.upstream}"

    def _begin(self) -> None:
        """Start the checks in the worker that probes for all; without effect if they are running."""
        workers = self._env.workers
        if self._task is None and not self._is_retired and (workers is None or workers.is_first):
            self._task = self._env.spawn(self._run())

    def adopt(self, url: str, told: dict[str, Any]) -> None:
        """Take the health of an endpoint from the worker that probes."""
        endpoint = next((each for each in self._endpoints.members if each.url == url), None)
        if endpoint is None:
            return
        health = self._checks.setdefault(endpoint, EndpointHealth(endpoint.is_healthy))
        health.is_healthy, health.reason, health.streak = told["healthy"], told["reason"], 0
        if self._spec.is_enforced:
            endpoint.set_health(health.is_healthy, self._env.now())

    def retune(self, spec: HealthCheckSpec) -> None:
        """Apply new settings; endpoints stay healthy or unhealthy until new probes change that."""
        self._spec = spec
        for endpoint, health in self._checks.items():
            health.streak = 0
            endpoint.set_health(health.is_healthy or not spec.is_enforced, self._env.now())
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.start()

    def retire(self) -> None:
        """Stop the checks and set all endpoints healthy."""
        self._is_retired = True
        if self._env.workers is not None:
            self._env.workers.leave(self._topic, self.adopt)
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for endpoint in self._endpoints.members:
            endpoint.set_health(True, self._env.now())
        self._checks.clear()

    async def _run(self) -> None:
        random, workers = self._env.rng.random, self._env.workers
        await self._env.sleep(self._spec.interval * ROUND_JITTER * random())
        while workers is None or workers.is_first:
            await self.check_all()
            await self._env.sleep(self._spec.interval * (1 - ROUND_JITTER + 2 * ROUND_JITTER * random()))
        self._task = None

    async def check_all(self) -> None:
        """Probe all endpoints once, in parallel."""
        members = self._endpoints.members
        self._checks = {e: self._checks.get(e) or EndpointHealth(e.is_healthy) for e in members}
        fields = [] if self._credentials is None else self._credentials.fields(self._env.now())
        if fields is not None:
            await asyncio.gather(*(self._check(endpoint, health, fields) for endpoint, health in self._checks.items()))

    async def _check(self, endpoint: Endpoint, health: EndpointHealth, fields: Headers) -> None:
        """Probe an endpoint, and change its health after enough contrary results."""
        try:
            reason = await self._probe(endpoint, self._spec, fields)
        except Exception as error:  # a bug in a probe must not stop other probes or later rounds
            reason = repr(error)
            self._env.emit(events.BUG, where=f"health check of {endpoint.url}", error=reason)
        own = self._credentials if fields and reason.startswith(REJECTED) else None
        if own is not None and own.reject(fields[0][1]):
            return
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
        """Change the health of an endpoint and log it; in `mode: observe`, only count and log it."""
        probes, health.streak, health.is_healthy = health.streak, 0, is_healthy
        if self._tell is not None:
            self._tell(endpoint.url, {"healthy": is_healthy, "reason": health.reason})
        if self._spec.is_enforced:
            endpoint.set_health(is_healthy, self._env.now())
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
            **({} if self._spec.grpc is None else {"grpc": self._spec.grpc}),
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
