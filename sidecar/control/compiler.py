"""Compiler of policies: for each route its chain of stages around the service of its upstream.

Rules:

1. A policy that is not configured adds nothing to the chain.  The order is that of `STAGES`, never that of a file.
2. A breaker or a concurrency limit under an upstream is one object for all its routes (by its key in the state store).
   It stands just outside the route's own of the same kind: both must let a request through, the wider one first.  A
   breaker `per: endpoint` is asked where the endpoint is chosen, by the upstream's client.
3. A fallback to another upstream goes through that upstream's own limits, and through no other policy of this route.
4. A write invalidates what any route has cached of its URI (RFC 9111 4.4): a route that may take unsafe methods gets a
   stage for the stores that it does not use itself, if there are any.
5. Nothing here does I/O or changes living state: state comes from a lease, and the result is an immutable snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from sidecar.config.node import Mark
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.control.route import Link, Route
from sidecar.control.state import Lease, StateGroup
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.spec import Block, Problem
from sidecar.core.stage import Gate, Stage
from sidecar.engine.pipeline import Call, InFlight, Pipeline
from sidecar.routing.router import Router
from sidecar.routing.rule import Rule
from sidecar.stages import BY_NAME, STAGES, StageKind
from sidecar.stages.cache.spec import Spec as CacheBlock
from sidecar.stages.circuit_breaker.spec import Spec as BreakerBlock
from sidecar.upstream.budget import RetryBudget
from sidecar.upstream.client import Upstream
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.slow_places import SlowPlaces

if TYPE_CHECKING:
    from sidecar.cache.store import Store

ROUTE: Final = "route"
UPSTREAM: Final = "upstream"
BREAKER: Final = "circuit_breaker"
UPSTREAM_WIDE: Final = (BREAKER, "concurrency")
"""Policies that can stand under an upstream."""
RETRY_BUDGET: Final = "retry_budget"
MAKE_WAY: Final = "make_way"
CACHE: Final = "cache"


class Terminal(Protocol):
    """End of a pipeline, as `sidecar.upstream.client.Upstream` is one."""

    name: str

    @property
    def endpoints(self) -> EndpointSet:
        """Endpoints of the upstream."""

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        """Make one attempt; as the end of a pipeline."""

    def make_way(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        """End the exchange of a route, or of any, that has waited for its own client longest; False if none has waited
        for long."""

    def start(self) -> None:
        """Begin what runs beside the requests; without effect where it runs."""


MakeUpstream = Callable[..., Terminal]
"""Makes the end of a pipeline; called as `Upstream` is."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One set of policies, compiled; replaced whole by the next."""

    digest: str
    """Identity of the files that it was made from."""
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
    make: MakeUpstream = Upstream,
) -> Snapshot:
    """Return the snapshot of policies, compiled at once; see `Compilation`."""
    compilation = Compilation(spec, env, lease, digest=digest, metrics=metrics, make=make)
    for _ in compilation:
        pass
    return compilation.snapshot


def import_stages(spec: PolicySpec) -> None:
    """Import the stages that the policies have, with their libraries.

    For a worker thread, before the loop compiles the policies: the first policy of a kind may need many imports.
    """
    for kind in _kinds(spec):
        kind.load()


def import_rest(spec: PolicySpec) -> None:
    """Import what the stages that the policies have need only once they serve; for a worker thread."""
    for kind in _kinds(spec):
        kind.load_rest()


def _kinds(spec: PolicySpec) -> list[StageKind]:
    names = {name for route in spec.routes for name in route.blocks}
    names |= {name for upstream in spec.upstreams.values() for name in UPSTREAM_WIDE if getattr(upstream, name)}
    return [kind for kind in STAGES if kind.name in names]


class Compilation:
    """Policies on their way to a snapshot, step by step.

    Iterate over it to the end; `snapshot` is there then.  A step is short, and requests may be served after each: the
    policies in force do not change before the lease is committed.  The iteration raises `CompileError` with all
    problems, and the lease is then to be abandoned.
    """

    snapshot: Snapshot

    def __init__(
        self,
        spec: PolicySpec,
        env: Env,
        lease: Lease,
        *,
        digest: str,
        metrics: Callable[[RouteSpec], Any],
        make: MakeUpstream,
    ) -> None:
        """`metrics` returns the `Route.metrics` of a route, `make` the end of its pipeline."""
        self.spec = spec
        self.env = env
        self.lease = lease
        self.upstreams: dict[str, Terminal] = {}
        self.stores: dict[str, Store] = {}
        """Caches that routes use."""
        self.slow_places: dict[str, SlowPlaces] = {}
        """Places for slow requests, by upstream."""
        self.problems: list[Problem] = []
        self._digest = digest
        self._metrics = metrics
        self._make = make

    def __iter__(self) -> Iterator[None]:
        spec = self.spec
        for name in spec.upstreams:
            self.add_upstream(name)
            yield
        for name in sorted({block.store for each in spec.routes if (block := cache_of(each)) is not None}):
            self.add_store(name)
        self.add_slow_places()
        self.check()
        routes: dict[str, Route] = {}
        for each in spec.routes:
            routes[each.name] = self.route(each)
            yield
        self.check()
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
            route.metrics = self._metrics(route.spec)
        self.snapshot = Snapshot(self._digest, spec, routes, listeners, self.upstreams)

    def check(self) -> None:
        """Raise what was found so far; what routes share is found for each of them, and reported once."""
        if self.problems:
            masks = self.spec.masks
            found = dict.fromkeys(each._replace(message=masks.text(each.message)) for each in self.problems)
            raise CompileError(list(found))

    def add_upstream(self, name: str) -> None:
        """Make an upstream, with the breakers of its endpoints."""
        spec, mark = self.spec.upstreams[name], self.spec.where("upstreams", name)
        gates = EndpointGates(
            spec.circuit_breaker, self.context("*", name, UPSTREAM, self.spec.where("upstreams", name, BREAKER))
        )
        try:
            upstream = self._make(
                name, spec, self.env, self.lease.obtain, str(mark), gates.gate if gates.block else None
            )
        except (OSError, ValueError) as error:  # such as a certificate that cannot be read
            self.problems.append(Problem(*mark, f"upstreams.{name}", str(error)))
            return
        gates.watch(upstream, self.lease)
        self.upstreams[name] = upstream

    def add_store(self, name: str) -> None:
        """Obtain a cache that routes use."""
        from sidecar.cache.store import Store

        spec = self.spec.caches[name]
        try:
            self.stores[name] = self.lease.obtain((CACHE, name), spec, partial(Store, name, spec, self.env))
        except ImportError as error:
            message = f"needs a library that is not here ({error}): install resilience-sidecar[redis]"
            self.problems.append(Problem(*self.spec.where("caches", name, "redis"), f"caches.{name}.redis", message))

    def add_slow_places(self) -> None:
        """Obtain the places of each upstream for slow requests: a share of its tightest limit, or its routes'.  An
        adaptive limit counts as low as it may become."""
        upstreams = self.spec.upstreams.items()
        limits = {name: each.connections.max for name, each in upstreams}
        blocks: list[tuple[str, Block | None]] = [(name, each.concurrency) for name, each in upstreams]
        blocks += [(each.upstream, each.blocks.get("concurrency")) for each in self.spec.routes]
        for name, block in blocks:
            if block is not None and name in limits:
                adaptive, limit = getattr(block, "adaptive", None), getattr(block, "max", None)
                lowest = [each for each in (limit, adaptive and adaptive.min) if each is not None]
                limits[name] = min(limits[name], *lowest)
        for name, each in upstreams:
            settings = (each.connections.slow_share, limits[name])
            self.slow_places[name] = self.lease.obtain(("slow_places", name), settings, partial(SlowPlaces, settings))

    def route(self, spec: RouteSpec) -> Route:
        """Return a route with its pipeline."""
        links: list[Link] = []
        stages: list[Stage] = []
        for kind in STAGES:
            if kind.name == CACHE and (others := self.other_stores(spec)):
                stages.append(kind.load().invalidating(others))
            found = self.links(kind, spec.name, spec.upstream, spec)
            links += found
            stages += [link.stage for link in found]
        pipeline = Pipeline(stages, self.upstreams[spec.upstream])
        return Route(spec, tuple(links), pipeline, self.slow_places[spec.upstream])

    def other_stores(self, spec: RouteSpec) -> list[Store]:
        """Return the caches that a route's unsafe requests invalidate, beside its own."""
        methods, own = spec.match.methods, cache_of(spec)
        if methods is not None and SAFE_METHODS.issuperset(method.encode() for method in methods):
            return []
        return [store for name, store in self.stores.items() if own is None or own.store != name]

    def links(self, kind: StageKind, route: str, upstream: str, spec: RouteSpec | None) -> list[Link]:
        """Return the stages of one kind for a route, those of its upstream first; without `spec` those alone."""
        found = []
        shared = getattr(self.spec.upstreams[upstream], kind.name, None) if kind.name in UPSTREAM_WIDE else None
        if shared is not None and getattr(shared, "per", None) is None:
            mark = self.spec.where("upstreams", upstream, kind.name)
            found.append(self.link(kind, shared, route, upstream, UPSTREAM, mark))
        if spec is not None and (own := spec.blocks.get(kind.name)) is not None:
            found.append(self.link(kind, own, route, upstream, ROUTE, spec.where(kind.name)))
        return [link for link in found if link is not None]

    def link(self, kind: StageKind, block: Block, route: str, upstream: str, scope: str, mark: Mark) -> Link | None:
        """Return the stage of a block, None where it cannot be built, which becomes a problem."""
        try:
            stage = kind.build(block, self.context(route, upstream, scope, mark))
        except (OSError, ValueError) as error:
            self.problems.append(
                Problem(*mark, f"{scope}s.{route if scope == ROUTE else upstream}.{kind.name}", str(error))
            )
            return None
        return Link(kind.name, scope, block, str(mark), stage)

    def context(self, route: str, upstream: str, scope: str, mark: Mark) -> BuildContext:
        """Return what a stage is built with."""
        resources = partial(self.resource, route)
        return BuildContext(
            self.env, route, upstream, scope, str(mark), self.lease.obtain, resources, self.spec.service
        )

    def resource(self, route: str, kind: str, name: str) -> Any:
        """Return what a stage of a route asks for by kind and name.  Raises `ValueError` for what is not declared."""
        if kind == CACHE:
            return self.stores[name]
        spec = self.spec.upstreams.get(name)
        if spec is None:
            raise ValueError(f"names the {kind} `{name}`, which is not declared")
        if kind == RETRY_BUDGET:
            make = partial(RetryBudget, spec.retry_budget, self.env, name)
            return self.lease.obtain((RETRY_BUDGET, name), spec.retry_budget, make)
        if kind == MAKE_WAY:
            return self.upstreams[name].make_way
        if kind == UPSTREAM:
            stages = [link.stage for kind in STAGES for link in self.links(kind, route, name, None)]
            return Pipeline(stages, self.upstreams[name])
        raise ValueError(f"asks for a {kind}, and there is only {CACHE}, {MAKE_WAY}, {RETRY_BUDGET} and {UPSTREAM}")


def cache_of(spec: RouteSpec) -> CacheBlock | None:
    """Return the `cache` block of a route, None where it has none."""
    block = spec.blocks.get(CACHE)
    return block if isinstance(block, CacheBlock) else None


class EndpointGates:
    """Breakers of an upstream's endpoints, where its policy has one `per: endpoint`."""

    def __init__(self, block: BreakerBlock | None, ctx: BuildContext) -> None:
        self.block = block if block is not None and block.per is not None else None
        """None: the endpoints have no breakers."""
        self.ctx = ctx

    def watch(self, upstream: Terminal, lease: Lease) -> None:
        """Keep the breakers in a group: endpoints come and go while these policies are in force."""
        if self.block is None:
            return

        endpoints = upstream.endpoints
        make = partial(StateGroup, self.block, lease.series, lambda: [endpoint.url for endpoint in endpoints.members])
        group: StateGroup = lease.obtain(("breakers", upstream.name), self.block, make)
        self.ctx = replace(self.ctx, obtain=group.obtain)

    def gate(self, endpoint: Endpoint) -> Gate:
        """Return the breaker of an endpoint."""
        assert self.block is not None
        gate = BY_NAME[BREAKER].build(self.block, replace(self.ctx, endpoint=endpoint.url))
        return cast("Gate", gate)
