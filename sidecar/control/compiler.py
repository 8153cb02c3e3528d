"""Policies -> running pipelines: for each route its chain of stages around the service of its upstream.

Rules:

1. What is not configured is not in the chain.  The order is that of `STAGES`, never that of a file.
2. A breaker or a concurrency limit under an upstream is one object for all its routes (by its key in the state store),
   and stands just outside the route's own of the same kind: both must let a request through, the wider one first.  A
   breaker `per: endpoint` is asked where the endpoint is chosen, by the upstream's client.
3. A fallback to another upstream goes through that upstream's own limits, and through no other policy of this route.
4. A write invalidates what any route has cached of its URI (RFC 9111 4.4): a route that may take unsafe methods gets a
   layer for the stores that it does not use itself, where there are such.
5. Nothing here does I/O or changes what lives: state comes from a lease, and the result is one immutable snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from sidecar.cache.store import Store
from sidecar.config.node import Mark
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.control.state import Family, Lease
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import CRITICALITIES, SAFE_METHODS, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.spec import Block, Problem
from sidecar.core.stage import Gate, Service, Stage, stack
from sidecar.routing.router import Router
from sidecar.routing.rule import Rule
from sidecar.stages import STAGES, Entry
from sidecar.stages.cache import stage as cache
from sidecar.stages.circuit_breaker import stage as breaker
from sidecar.upstream.budget import RetryBudget
from sidecar.upstream.client import make_upstream
from sidecar.upstream.endpoint import Endpoint, EndpointSet

ROUTE: Final = "route"
UPSTREAM: Final = "upstream"
BREAKER: Final = "circuit_breaker"
UPSTREAM_WIDE: Final = (BREAKER, "concurrency")
"""Policies that can stand under an upstream."""
RETRY_BUDGET: Final = "retry_budget"
CACHE: Final = "cache"


class Terminal(Protocol):
    """What ends a pipeline (`sidecar.upstream.client.Upstream`)."""

    name: str

    @property
    def endpoints(self) -> EndpointSet: ...

    async def service(self, x: Exchange) -> Outcome:
        """One try."""

    def start(self) -> None:
        """Begin what runs beside the requests; without effect where it runs."""


MakeUpstream = Callable[..., Terminal]
"""As `sidecar.upstream.client.make_upstream`."""


class Link(NamedTuple):
    """One stage of a chain, for people."""

    policy: str
    """The name of its block."""
    scope: str
    """`route` or `upstream`: where the block stands."""
    block: Block
    where: str
    """`file:line` of the block."""
    stage: Stage


class Route:
    """A route ready to serve.  An exchange is pinned to the one that it was matched to."""

    __slots__ = ("chain", "criticality", "listener", "metrics", "name", "service", "spec", "upstream")

    def __init__(self, spec: RouteSpec, chain: tuple[Link, ...], service: Service) -> None:
        self.name = spec.name
        self.listener = spec.listener
        """None: it serves every listener."""
        self.upstream = spec.upstream
        self.spec = spec
        self.chain = chain
        """The stages, outermost first."""
        self.service = service
        self.criticality = CRITICALITIES[spec.criticality]
        self.metrics: Any = None
        """Where its durations are recorded (`sidecar.telemetry.metrics.durations.RouteMetrics`)."""

    def __repr__(self) -> str:
        return f"<Route {self.name}: {' > '.join([*(link.policy for link in self.chain), self.upstream])}>"


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One set of policies, compiled; replaced whole by the next."""

    digest: str
    spec: PolicySpec
    routes: dict[str, Route]
    listeners: dict[str, Router[Route]]
    upstreams: dict[str, Terminal]


class CompileError(Exception):
    """Policies that are well-formed and cannot be built here, for example because a certificate is missing."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def compile_policies(
    spec: PolicySpec,
    env: Env,
    lease: Lease,
    *,
    digest: str = "",
    metrics: Callable[[RouteSpec], Any] = lambda _: None,
    make: MakeUpstream = make_upstream,
) -> Snapshot:
    """Build everything that the policies say.  Raises `CompileError` with all problems; the lease is then to be
    abandoned.  `metrics` gives each route its `Route.metrics`."""
    steps = compile_steps(spec, env, lease, digest=digest, metrics=metrics, make=make)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            snapshot: Snapshot = end.value
            return snapshot


def compile_steps(
    spec: PolicySpec, env: Env, lease: Lease, *, digest: str, metrics: Callable[[RouteSpec], Any], make: MakeUpstream
) -> Generator[None, None, Snapshot]:
    """The same a step at a time, each of them well below a millisecond, so that requests need not wait for the whole:
    what is in force does not change before a lease is committed."""
    compiler = _Compiler(spec, env, lease)
    for name in spec.upstreams:
        compiler.add_upstream(name, make)
        yield
    for name in sorted({block.store for each in spec.routes if (block := cache_of(each)) is not None}):
        compiler.add_store(name)
    compiler.check()
    routes: dict[str, Route] = {}
    for each in spec.routes:
        routes[each.name] = compiler.route(each)
        yield
    compiler.check()
    listeners: dict[str, Router[Route]] = {}
    for name in spec.listeners:
        rules = []
        for route in routes.values():
            if route.listener in (None, name):
                rules.append(Rule(route.spec.match, route))
                yield
        listeners[name] = Router(rules)
        yield
    for route in routes.values():
        route.metrics = metrics(route.spec)
    return Snapshot(digest, spec, routes, listeners, compiler.upstreams)


class _Compiler:
    """One run over the policies."""

    def __init__(self, spec: PolicySpec, env: Env, lease: Lease) -> None:
        self.spec = spec
        self.env = env
        self.lease = lease
        self.upstreams: dict[str, Terminal] = {}
        self.stores: dict[str, Store] = {}
        """The caches that routes use."""
        self.problems: list[Problem] = []

    def check(self) -> None:
        if self.problems:
            raise CompileError(list(dict.fromkeys(self.problems)))  # what routes share fails for each of them

    def add_upstream(self, name: str, make: MakeUpstream) -> None:
        spec, mark = self.spec.upstreams[name], self.spec.where("upstreams", name)
        gates = Gates(
            spec.circuit_breaker, self.context("*", name, UPSTREAM, self.spec.where("upstreams", name, BREAKER))
        )
        try:
            upstream = make(name, spec, self.env, self.lease.obtain, str(mark), gates.gate if gates.block else None)
        except (OSError, ValueError) as error:  # a certificate that cannot be read, say
            self.problems.append(Problem(*mark, f"upstreams.{name}", str(error)))
            return
        gates.watch(upstream, self.lease)
        self.upstreams[name] = upstream

    def add_store(self, name: str) -> None:
        spec = self.spec.caches[name]
        try:
            self.stores[name] = self.lease.obtain((CACHE, name), spec, partial(Store, name, spec, self.env))
        except ImportError as error:
            message = f"needs a library that is not here ({error}): install resilience-sidecar[redis]"
            self.problems.append(Problem(*self.spec.where("caches", name, "redis"), f"caches.{name}.redis", message))

    def route(self, spec: RouteSpec) -> Route:
        links: list[Link] = []
        stages: list[Stage] = []
        for entry in STAGES:
            if entry.name == CACHE and (others := self.other_stores(spec)):
                stages.append(cache.heeding(others))
            found = self.links(entry, spec.name, spec.upstream, spec)
            links += found
            stages += [link.stage for link in found]
        return Route(spec, tuple(links), stack(stages, self.upstreams[spec.upstream].service))

    def other_stores(self, spec: RouteSpec) -> list[Store]:
        """The caches that a route's unsafe requests have to be told to, beside its own."""
        methods, own = spec.match.methods, cache_of(spec)
        if methods is not None and SAFE_METHODS.issuperset(method.encode() for method in methods):
            return []
        return [store for name, store in self.stores.items() if own is None or own.store != name]

    def links(self, entry: Entry, route: str, upstream: str, spec: RouteSpec | None) -> list[Link]:
        """The stages of one kind in a route's way, those of its upstream first; those alone where `spec` is None."""
        found = []
        shared = getattr(self.spec.upstreams[upstream], entry.name, None) if entry.name in UPSTREAM_WIDE else None
        if shared is not None and getattr(shared, "per", None) is None:
            mark = self.spec.where("upstreams", upstream, entry.name)
            found.append(self.link(entry, shared, route, upstream, UPSTREAM, mark))
        if spec is not None and (own := spec.blocks.get(entry.name)) is not None:
            found.append(self.link(entry, own, route, upstream, ROUTE, spec.where(entry.name)))
        return [link for link in found if link is not None]

    def link(self, entry: Entry, block: Block, route: str, upstream: str, scope: str, mark: Mark) -> Link | None:
        try:
            stage = entry.build(block, self.context(route, upstream, scope, mark))
        except (OSError, ValueError) as error:
            self.problems.append(
                Problem(*mark, f"{scope}s.{route if scope == ROUTE else upstream}.{entry.name}", str(error))
            )
            return None
        return Link(entry.name, scope, block, str(mark), stage)

    def context(self, route: str, upstream: str, scope: str, mark: Mark) -> BuildContext:
        resources = partial(self.resource, route)
        return BuildContext(
            self.env, route, upstream, scope, str(mark), self.lease.obtain, resources, self.spec.service
        )

    def resource(self, route: str, kind: str, name: str) -> Any:
        """What a stage of a route may ask for by kind and name.  Raises `ValueError` for what is not declared."""
        if kind == CACHE:
            return self.stores[name]
        spec = self.spec.upstreams.get(name)
        if spec is None:
            raise ValueError(f"names the {kind} `{name}`, which is not declared")
        if kind == RETRY_BUDGET:
            make = partial(RetryBudget, spec.retry_budget, self.env, name)
            return self.lease.obtain((RETRY_BUDGET, name), spec.retry_budget, make)
        if kind == UPSTREAM:
            stages = [link.stage for entry in STAGES for link in self.links(entry, route, name, None)]
            return stack(stages, self.upstreams[name].service)
        raise ValueError(f"asks for a {kind}, and there is only {CACHE}, {RETRY_BUDGET} and {UPSTREAM}")


def cache_of(spec: RouteSpec) -> cache.Spec | None:
    block = spec.blocks.get(CACHE)
    return block if isinstance(block, cache.Spec) else None


class Gates:
    """The breakers of an upstream's endpoints, where its policy has one `per: endpoint`."""

    def __init__(self, block: breaker.Spec | None, ctx: BuildContext) -> None:
        self.block = block if block is not None and block.per is not None else None
        self.ctx = ctx

    def watch(self, upstream: Terminal, lease: Lease) -> None:
        """Keep them in a family: endpoints come and go while these policies are in force."""
        if self.block is None:
            return

        endpoints = upstream.endpoints
        make = partial(Family, self.block, lease.series, lambda: [endpoint.url for endpoint in endpoints.members])
        family: Family = lease.obtain(("breakers", upstream.name), self.block, make)
        self.ctx = replace(self.ctx, obtain=family.obtain)

    def gate(self, endpoint: Endpoint) -> Gate:
        assert self.block is not None
        return breaker.endpoint_breaker(self.block, self.ctx, endpoint.url)
