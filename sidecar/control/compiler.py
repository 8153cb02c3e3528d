"""Compiler of policies: builds for each route a pipeline of stages in front of its upstream.

Rules:

1. A policy that is not configured adds no stage.  Stages are in the order of `STAGES`, never in that of a file.
2. A breaker, a concurrency limit, a rate limit or a quota under an upstream is one object for all its routes, under one
   key of the state store.  Its stage is just inside the route's own stage of that kind, so that what a route refuses or
   keeps waiting takes nothing from other routes; both must admit a request.  A breaker with `per: endpoint` is asked by
   the upstream's client, which chooses the endpoint.
3. A fallback to another upstream passes that upstream's own limits, and no other policy of the route.
4. A write invalidates all cached responses of its URI (RFC 9111 4.4).  So a route that may take unsafe methods gets a
   stage for each store that it does not use itself.
5. A candidate is a route of its own without rules: the router chooses among it and the route that was matched.
6. The compiler does no I/O and changes no state in use: state comes from a lease, and the result is immutable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import urlsplit

from sidecar.config.node import BUILT_IN, Mark
from sidecar.config.spec import CANDIDATE, CRITICALITY, PolicySpec, RouteSpec, UpstreamSpec
from sidecar.control.route import InnerRoute, Link, Route
from sidecar.control.state import Lease, StateGroup
from sidecar.core.env import BuildContext, Env, StateKey
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.spec import Block, Problem
from sidecar.core.stage import Gate, Observer, Service, Stage, unbound
from sidecar.engine.pipeline import Call, InFlight, Pipeline
from sidecar.routing.arms import ArmRouter, Candidates
from sidecar.routing.preflight import PreflightRouter
from sidecar.routing.router import Router
from sidecar.routing.rule import Rule
from sidecar.stages import BY_NAME, STAGES, StageKind
from sidecar.stages.cache.spec import Spec as CacheBlock
from sidecar.stages.circuit_breaker.spec import HalfOpenSpec
from sidecar.stages.circuit_breaker.spec import Spec as BreakerBlock
from sidecar.upstream.budget import RetryBudget
from sidecar.upstream.client import Upstream
from sidecar.upstream.endpoint import Endpoint, EndpointSet, parse_endpoint
from sidecar.upstream.slow_places import SlowPlaces

if TYPE_CHECKING:
    from sidecar.cache.store import Store
    from sidecar.control.passthrough import Passthrough
    from sidecar.identity.outgoing.source import Credentials
    from sidecar.identity.outgoing.spec import CredentialsSpec
    from sidecar.identity.verdict import Identity
    from sidecar.rollout.arms import Arms
    from sidecar.store.shared_limits import SharedLimits
    from sidecar.store.shared_quotas import SharedQuotas
    from sidecar.upstream.tls import ClientTlsSpec

ROUTE: Final = "route"
UPSTREAM: Final = "upstream"
BREAKER: Final = "circuit_breaker"
RATE_LIMIT: Final = "rate_limit"
UPSTREAM_WIDE: Final = (BREAKER, "concurrency", RATE_LIMIT, "quota", "pacing")
"""Policies that are allowed under an upstream."""
OF_CALLERS: Final = (RATE_LIMIT, "quota")
"""Policies that count for the arms of a route together where they are equal: no caller has a second quota because of a
rollout."""
RETRY_BUDGET: Final = "retry_budget"
RECLAIM: Final = "reclaim"
CACHE: Final = "cache"
STORE: Final = "store"
QUOTA_STORE: Final = "quota_store"
AUTHENTICATE: Final = "authenticate"
IDENTITY: Final = "identity"
CREDENTIALS: Final = "credentials"
CALLER_FIELDS: Final = "caller_fields"
ORIGINS: Final = "origins"
CORS: Final = "cors"
CHALLENGES: Final = "challenges"


class Terminal(Protocol):
    """End of a pipeline; in a running sidecar it is `sidecar.upstream.client.Upstream`."""

    name: str

    @property
    def endpoints(self) -> EndpointSet:
        """Endpoints of the upstream."""

    def begin(self, x: Exchange, call: Call) -> InFlight | Outcome:
        """Start one attempt, and return it in flight, or its outcome at once."""

    def reclaim(self, route: str = "", waiting: int = 1, places: int = 1) -> bool:
        """End the exchange that has waited longest for its own client, of `route` or of any route if that is empty.

        Return False if no exchange has waited for long.
        """

    def start(self) -> None:
        """Start background work such as health checks; no effect if it runs already."""


MakeUpstream = Callable[..., Terminal]
"""Constructor of the end of a pipeline, with the arguments of `Upstream`."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Compiled set of policies; a reload replaces the whole snapshot."""

    digest: str
    """Digest of the policy files."""
    spec: PolicySpec
    routes: dict[str, Route]
    """Routes by name, in the order of the files."""
    listeners: dict[str, Router[Route]]
    """Router of each listener, by the listener's name."""
    upstreams: dict[str, Terminal]
    """Upstreams by name."""
    identities: dict[str, Identity]
    """Identities that routes use, by name."""
    passthrough: Passthrough | None = None
    """Routes to original destinations; None without a listener that takes redirected connections."""


class CompileError(Exception):
    """Raised for valid policies that cannot be built on this machine, for example without a certificate."""

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
    """Compile policies without a pause, and return their snapshot; see `Compilation`."""
    compilation = Compilation(spec, env, lease, digest=digest, metrics=metrics, make=make)
    for _ in compilation:
        pass
    return compilation.snapshot


def import_stages(spec: PolicySpec) -> None:
    """Import the stages and identities of the policies, with their libraries.

    Call it in a worker thread before the loop compiles the policies, because the imports can take long.
    """
    for kind in _kinds(spec):
        kind.load()
    if spec.identities:
        from sidecar.identity.factory import import_kind

        for identity in {each.kind for each in spec.identities.values()}:
            import_kind(identity)
    if any(upstream.credentials for upstream in spec.upstreams.values()):
        from sidecar.identity.factory import import_kind

        import_kind(CREDENTIALS)


def import_rest(spec: PolicySpec) -> None:
    """Import modules that the stages of the policies need only while serving; call it in a worker thread."""
    for kind in _kinds(spec):
        kind.load_rest()


def _kinds(spec: PolicySpec) -> list[StageKind]:
    """Return the kinds of stages that the policies use."""
    names = {name for route in spec.all_routes for name in route.blocks}
    names |= {name for upstream in spec.upstreams.values() for name in UPSTREAM_WIDE if getattr(upstream, name)}
    return [kind for kind in STAGES if kind.name in names]


class Compilation:
    """Compilation of policies in short steps.

    Iterate to the end, then take `snapshot`.  Requests may be served between two steps, because the policies in force
    do not change before the lease is committed.  The iteration raises `CompileError` with all problems; the caller then
    abandons the lease.
    """

    snapshot: Snapshot
    """Result; set at the end of the iteration."""

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
        """`metrics` returns the value of `Route.metrics`; `make` builds the end of a pipeline."""
        self.spec = spec
        self.env = env
        self.lease = lease
        self.upstreams: dict[str, Terminal] = {}
        """Upstreams built so far, by name."""
        self.stores: dict[str, Store] = {}
        """Caches that routes use, by name."""
        self.credentials: dict[str, Credentials] = {}
        """Sources of the sidecar's credentials at upstreams, by the name of the upstream."""
        self.identities: dict[str, Identity] = {}
        """Identities built so far, by name."""
        self.caller_fields: dict[str, frozenset[bytes]] = {}
        """Fields about callers that any route sends to an upstream, by the upstream's name."""
        self.slow_places: dict[str, SlowPlaces] = {}
        """Places for slow requests, by name of the upstream."""
        self.arms: dict[str, Arms] = {}
        """Arms of the routes with candidates, by the route's name."""
        self.arm_stages: dict[str, Stage | Observer] = {}
        """Stages that report to a rollout, by name of the route or of its candidate."""
        self.problems: list[Problem] = []
        """Problems found so far."""
        self.routes = {route.name: route for route in spec.all_routes}
        """Specs of the routes by name."""
        self.stable = {arm.name: route for route in spec.routes for arm in route.arms}
        """Routes by the names of their candidates."""
        arms = [arm.name for route in spec.routes if route.is_observed for arm in route.arms]
        self.observed = {name for name in self.routes if name.partition(":")[0] in arms}
        """Names of candidates that only observe, and of their parts, which get no requests."""
        self.made: dict[str, Route] = {}
        """Routes built so far, by name."""
        self.caller_routes: set[str] = set()
        """Names of routes that get requests of authenticated callers from parts of other routes."""
        self._digest = digest
        self._metrics = metrics
        self._make = make

    def __iter__(self) -> Iterator[None]:
        spec = self.spec
        for name in spec.upstreams:
            self.add_upstream(name)
            yield
        for name in sorted({block.store for each in self.routes.values() if (block := cache_of(each)) is not None}):
            self.add_store(name)
        self.add_slow_places()
        self.add_identities()
        self.add_rollouts()
        self.raise_problems()
        self.add_caller_routes()
        routes: dict[str, Route] = {}
        for name in self.routes:
            if name not in self.observed:
                routes[name] = self.route_of(name)
                yield
        candidates = self.make_candidates(routes)
        self.raise_problems()
        listeners: dict[str, Router[Route]] = {}
        for name in spec.listeners:
            rules = []
            for each in spec.routes:
                route = routes[each.name]
                if route.listener in (None, name):
                    rules.append(Rule(route.spec.match, route))
                    yield
            listeners[name] = self.make_router(rules, candidates)
            yield
        for route in routes.values():
            route.metrics = self._metrics(route.spec)
        passthrough = self.make_passthrough()
        self.snapshot = Snapshot(self._digest, spec, routes, listeners, self.upstreams, self.identities, passthrough)

    def make_passthrough(self) -> Passthrough | None:
        """Return the routes to original destinations; None without a listener that takes redirected connections."""
        settings = [each.capture for each in self.spec.listeners.values() if each.original_destination]
        if not settings:
            return None
        from sidecar.control.passthrough import Passthrough

        return Passthrough(self.spec, self.env, self.lease.obtain, self._metrics, settings[0])

    def raise_problems(self) -> None:
        """Raise `CompileError` if problems were found so far; a problem that several routes share is raised once."""
        if self.problems:
            masks = self.spec.masks
            found = dict.fromkeys(each._replace(message=masks.text(each.message)) for each in self.problems)
            raise CompileError(list(found))

    def add_upstream(self, name: str) -> None:
        """Build an upstream, with the breakers of its endpoints."""
        spec, mark = self.spec.upstreams[name], self.spec.where("upstreams", name)
        gates = EndpointGates(
            spec.circuit_breaker, self.make_context("*", name, UPSTREAM, self.spec.where("upstreams", name, BREAKER))
        )
        own = {} if spec.credentials is None else {"credentials": self.add_credentials(name, spec.credentials)}
        gate = gates.gate if gates.block else None
        try:
            upstream = self._make(name, spec, self.env, self.lease.obtain, str(mark), gate, **own)
        except (OSError, ValueError) as error:  # such as a certificate that cannot be read
            self.problems.append(Problem(*mark, f"upstreams.{name}", str(error)))
            return
        gates.watch(upstream, self.lease)
        self.upstreams[name] = upstream

    def add_credentials(self, name: str, spec: CredentialsSpec) -> Credentials | None:
        """Return the source of the sidecar's credentials at an upstream; None after a problem."""
        from sidecar.identity.factory import make_credentials
        from sidecar.identity.outgoing.source import describe_file_error

        mark = self.spec.where("upstreams", name, CREDENTIALS)
        connect = partial(self.connect, kind=CREDENTIALS, mark=mark)
        try:
            source = make_credentials(name, spec, self.env, self.lease.obtain, connect)
        except (OSError, ValueError) as error:  # such as a secret that cannot be read
            self.problems.append(Problem(*mark, f"upstreams.{name}.{CREDENTIALS}", describe_file_error(error)))
            return None
        self.credentials[name] = source
        return source

    def add_store(self, name: str) -> None:
        """Obtain a cache from the lease."""
        from sidecar.cache.store import Store

        spec = self.spec.caches[name]
        try:
            self.stores[name] = self.lease.obtain((CACHE, name), spec, partial(Store, name, spec, self.env))
        except ImportError as error:
            message = f"needs a library that is not installed ({error}); install resilience-sidecar[redis]"
            self.problems.append(Problem(*self.spec.where("caches", name, "redis"), f"caches.{name}.redis", message))

    def find_store(self, name: str) -> SharedLimits:
        """Obtain the rate limits of a store.  Raises `ValueError` if it is not declared, or needs a library."""
        from sidecar.store.shared_limits import SharedLimits

        found: SharedLimits = self.obtain_store((STORE, name), name, SharedLimits)
        return found

    def find_quota_store(self, name: str) -> SharedQuotas:
        """Obtain the quotas of a store.  Raises `ValueError` if it is not declared, or needs a library."""
        from sidecar.store.shared_quotas import SharedQuotas

        found: SharedQuotas = self.obtain_store((STORE, name, "quotas"), name, SharedQuotas)
        return found

    def obtain_store(self, key: StateKey, name: str, kind: Any) -> Any:
        """Obtain the part of a store under a key of the state store; `kind` is its class."""
        spec = self.spec.stores.get(name)
        if spec is None:
            raise ValueError(f"names the store `{name}`, which is not declared")
        try:
            return self.lease.obtain(key, spec, partial(kind, name, spec, self.env))
        except ImportError as error:
            raise ValueError(
                f"needs a library that is not installed ({error}); install resilience-sidecar[redis]"
            ) from None

    def add_slow_places(self) -> None:
        """Obtain the places of each upstream for slow requests.

        Their number is a share of the tightest limit of the upstream and its routes.  An adaptive limit counts with its
        minimum.
        """
        upstreams = self.spec.upstreams.items()
        limits = {name: each.connections.max for name, each in upstreams}
        blocks: list[tuple[str, Block | None]] = [(name, each.concurrency) for name, each in upstreams]
        served = [each for each in self.routes.values() if each.name not in self.observed]
        blocks += [(each.upstream, each.blocks.get("concurrency")) for each in served]
        for name, block in blocks:
            if block is not None and name in limits:
                adaptive, limit = getattr(block, "adaptive", None), getattr(block, "max", None)
                lowest = [each for each in (limit, adaptive and adaptive.min) if each is not None]
                limits[name] = min(limits[name], *lowest)
        for name, each in upstreams:
            settings = (each.connections.slow_share, limits[name])
            self.slow_places[name] = self.lease.obtain(("slow_places", name), settings, partial(SlowPlaces, settings))

    def add_identities(self) -> None:
        """Build the identities that routes use, and collect the fields that tell upstreams about callers."""
        blocks = [
            (each, block) for each in self.routes.values() if (block := each.blocks.get(AUTHENTICATE)) is not None
        ]
        if not blocks:
            return
        from sidecar.config.files import read_plain
        from sidecar.identity.factory import IdentityFactory

        factory = IdentityFactory(self.env, self.lease.obtain, self.connect, self.spec.limits.verification, read_plain)
        for route, block in blocks:
            for name in getattr(block, "any_of"):  # noqa: B009 - the spec is imported on demand
                if name in self.identities or name not in self.spec.identities:
                    continue
                try:
                    self.identities[name] = factory.make(name, self.spec.identities[name])
                except (OSError, ValueError) as error:  # such as a key file that cannot be read
                    mark = self.spec.where("identities", name)
                    self.problems.append(Problem(*mark, f"identities.{name}", str(error)))
            fields = self.fields_of(block)
            for upstream in self.targets_of(route):
                self.caller_fields[upstream] = self.caller_fields.get(upstream, frozenset()) | fields

    def fields_of(self, block: Any) -> frozenset[bytes]:
        """Return the names of the fields that an `authenticate` block sends to upstreams."""
        names = block.forward.fields()
        for identity in block.any_of:
            external = self.spec.identities[identity].external if identity in self.spec.identities else None
            names += external.forward if external is not None else ()
        return frozenset(name.encode() for name in names)

    def connect(
        self, name: str, url: str, tls: ClientTlsSpec | None, kind: str = IDENTITY, mark: Mark | None = None
    ) -> Service:
        """Return the upstream of a server of identities or of credentials, with a breaker.

        It survives reloads as other upstreams do.  Its breaker is soon closed again, because answers are cached and so
        few requests come at once.  `mark` is the place of its settings; None for that of the identity.
        """
        parts = urlsplit(url)
        upstream = f"{kind}:{name}"
        mark = mark or self.spec.where("identities", name)
        endpoints = (parse_endpoint(f"{parts.scheme}://{parts.netloc}").url,)
        spec = UpstreamSpec.built_in(endpoints=endpoints, tls=tls)
        terminal = self._make(upstream, spec, self.env, self.lease.obtain, str(mark), None)
        half_open = HalfOpenSpec.built_in(probes=1, verdict_within=2.0, ramp=0.0)
        block = BreakerBlock.built_in(consecutive_failures=5, open_for=1.0, max_open_for=2.0, half_open=half_open)
        breaker = BY_NAME[BREAKER].build(block, self.make_context("*", upstream, UPSTREAM, mark))
        return Pipeline([cast("Stage", breaker)], terminal)

    def route_of(self, name: str) -> Route:
        """Return a route; it is built at the first call, possibly by a route that has it as a part."""
        found = self.made.get(name)
        if found is None:
            found = self.made[name] = self.make_route(self.routes[name])
        return found

    def places_of(self, spec: RouteSpec) -> SlowPlaces:
        """Return the places for slow requests of a route; with `aggregate` those of its first part's upstream."""
        while spec.parts:
            spec = self.routes[next(iter(spec.parts.values()))]
        return self.slow_places[spec.upstream]

    def make_route(self, spec: RouteSpec) -> Route:
        """Return a route with its pipeline."""
        links: list[Link] = []
        observed: list[Link] = []
        stages: list[Stage | Observer] = []
        for kind in STAGES:
            if spec.is_observed and (seen := self.make_observed(kind, spec)) is not None:
                observed.append(seen)
                stages.append(seen.stage)
            if kind.name == CACHE and (others := self.find_other_stores(spec)):
                stages.append(kind.load().invalidating(others))
            if kind.name == AUTHENTICATE and self.caller_fields and kind.name not in spec.blocks:
                stages += self.claim_filter(kind, spec)
            found = self.make_links(kind, spec.name, spec.upstream, spec)
            if kind.name == CACHE:
                found += self.make_links(BY_NAME[RATE_LIMIT], spec.name, spec.upstream, spec, is_inside=True)
            links += found
            stages += [link.stage for link in found]
            if kind.name == CACHE and spec.name in self.arm_stages:
                stages.append(self.arm_stages[spec.name])
        own = self.make_credentials(spec.upstream) if spec.upstream else []
        links += own
        stages += [link.stage for link in own]
        pipeline = Pipeline(stages, self.upstreams[spec.upstream] if spec.upstream else unbound)
        route = Route(spec, tuple(links), pipeline, self.places_of(spec))
        route.observed = tuple(observed)
        return route

    def make_observed(self, kind: StageKind, spec: RouteSpec) -> Link | None:
        """Return the stage of one kind of a route's candidate, which only observes; None if it has none."""
        arm = spec.arms[0]
        if kind.name not in arm.observes:
            return None
        mark = arm.where(kind.name)
        block = arm.blocks[kind.name].model_copy(update={"mode": "observe"})
        places = partial(self.find_place, partial(arm.where, kind.name))
        link = self.make_link(kind, block, self.make_context(arm.name, arm.upstream, ROUTE, mark, places), mark, False)
        return None if link is None else link._replace(scope=CANDIDATE)

    def make_credentials(self, upstream: str) -> list[Link]:
        """Return the stage that puts the sidecar's credentials into requests to an upstream, if it needs one."""
        source, block = self.credentials.get(upstream), self.spec.upstreams[upstream].credentials
        if source is None or block is None:
            return []
        from sidecar.identity.outgoing.stage import CredentialsStage

        mark = self.spec.where("upstreams", upstream, CREDENTIALS)
        stage = CredentialsStage(upstream, source, str(mark), self.env)
        return [Link(CREDENTIALS, UPSTREAM, block, str(mark), cast("Stage", stage))]

    @staticmethod
    def make_router(rules: list[Rule[Route]], candidates: dict[Route, Candidates[Route]]) -> Router[Route]:
        """Return the router of a listener."""
        answering = {rule.target for rule in rules if rule.target.answers_preflights}
        own = {rule.target: candidates[rule.target] for rule in rules if rule.target in candidates}
        if own:
            return ArmRouter(rules, answering, own)
        return PreflightRouter(rules, answering) if answering else Router(rules)

    def add_rollouts(self) -> None:
        """Obtain the arms of routes with candidates, and build the stages that report to them."""
        if not any(each.arms for each in self.spec.routes):
            return
        from sidecar.rollout.arms import Arms, Settings
        from sidecar.rollout.stage import ArmStage, TimedArmStage

        together = sum(each.rollout is self.spec.candidate for each in self.spec.routes)
        for each in self.spec.routes:
            rule = each.rollout
            if rule is None or rule.is_observed:
                continue
            names = tuple(arm.name for arm in (each, *each.arms))
            settings = Settings(names, each.shares, rule.sticky, rule.when, rule.ramp, rule.return_when, each.arms)
            if each.rollout is self.spec.candidate:
                settings = settings._replace(group=CANDIDATE, routes=together)
            make = partial(Arms, each.name, settings, self.env)
            arms: Arms = self.lease.obtain(("rollout", each.name), settings, make)
            self.arms[each.name] = arms
            is_timed = rule.return_when is not None and rule.return_when.p99 is not None
            for number, name in enumerate(names):
                if rule.return_when is None:
                    self.arm_stages[name] = arms.counter(number)
                else:
                    self.arm_stages[name] = (
                        TimedArmStage(arms, number, self.env.now) if is_timed else ArmStage(arms, number)
                    )

    def make_candidates(self, routes: dict[str, Route]) -> dict[Route, Candidates[Route]]:
        """Return the candidates of the routes that have some."""
        found: dict[Route, Candidates[Route]] = {}
        for name, arms in self.arms.items():
            stable = routes[name]
            members = (stable, *(routes[arm.name] for arm in stable.spec.arms))
            for each in members[1:]:
                each.candidate_of = stable
            found[stable] = Candidates(arms, members)
        return found

    def claim_filter(self, kind: StageKind, spec: RouteSpec) -> list[Stage]:
        """Return the stage that drops claims about callers on a route without `authenticate`, if it needs one."""
        fields = self.fields_to_drop(spec)
        return [kind.load().claim_filter(fields)] if fields else []

    def fields_to_drop(self, spec: RouteSpec) -> frozenset[bytes]:
        """Return the names of the fields that tell an upstream of a route about callers."""
        return frozenset().union(*(self.caller_fields.get(name, frozenset()) for name in self.targets_of(spec)))

    def targets_of(self, spec: RouteSpec) -> set[str]:
        """Return the upstreams that may get requests of a route: its own, and those of fallback, mirror and parts."""
        steps = (*getattr(spec.blocks.get("fallback"), "steps", ()), spec.blocks.get("mirror"))
        found = {spec.upstream, *(name for step in steps if (name := getattr(step, "upstream", None)) is not None)}
        for name in spec.parts.values():
            for each in (self.routes[name], *self.routes[name].arms):
                found |= self.targets_of(each)
        return found - {""}

    def add_caller_routes(self) -> None:
        """Collect the routes of all parts, at any depth, of routes with `authenticate`."""
        left = [name for each in self.spec.all_routes if AUTHENTICATE in each.blocks for name in each.parts.values()]
        while left:
            name = left.pop()
            if name not in self.caller_routes:
                self.caller_routes.add(name)
                left += [*self.routes[name].parts.values(), *(arm.name for arm in self.routes[name].arms)]

    def find_other_stores(self, spec: RouteSpec) -> list[Store]:
        """Return the caches, except the route's own, in which unsafe requests of the route invalidate responses."""
        methods, own = spec.match.methods, cache_of(spec)
        if methods is not None and SAFE_METHODS.issuperset(method.encode() for method in methods):
            return []
        return [store for name, store in self.stores.items() if own is None or own.store != name]

    def make_links(
        self, kind: StageKind, route: str, upstream: str, spec: RouteSpec | None, *, is_inside: bool = False
    ) -> list[Link]:
        """Return the stages of one kind for a route: its own first, then its upstream's.

        Without `spec`, only those of the upstream.  `is_inside`: True for the parts of blocks inside the cache.
        """
        found = []
        if spec is not None and (own := spec.blocks.get(kind.name)) is not None:
            mark, counted = spec.where(kind.name), route
            if kind.name in OF_CALLERS and route in self.stable:
                stable = self.stable[route]
                if stable.blocks.get(kind.name) == own:
                    counted = stable.name
            places = partial(self.find_place, partial(spec.where, kind.name))
            ctx = self.make_context(counted, upstream, ROUTE, mark, places)
            found.append(self.make_link(kind, own, ctx, mark, is_inside))
        owner = self.spec.upstreams.get(upstream)
        shared = getattr(owner, kind.name, None) if owner is not None and kind.name in UPSTREAM_WIDE else None
        if shared is not None and getattr(shared, "per", None) is None:
            mark = self.spec.where("upstreams", upstream, kind.name)
            places = partial(self.find_place, partial(self.spec.where, "upstreams", upstream, kind.name))
            ctx = self.make_context(route, upstream, UPSTREAM, mark, places)
            found.append(self.make_link(kind, shared, ctx, mark, is_inside))
        return [link for link in found if link is not None]

    def make_link(self, kind: StageKind, block: Block, ctx: BuildContext, mark: Mark, is_inside: bool) -> Link | None:
        """Return the stage of a block, or with `is_inside` that of its part inside the cache.

        None if the block has no such part, or if it cannot be built, which is added to the problems.
        """
        try:
            stage = kind.build_inside(block, ctx) if is_inside else kind.build(block, ctx)
        except (OSError, ValueError) as error:
            owner = ctx.route if ctx.scope == ROUTE else ctx.upstream
            self.problems.append(Problem(*mark, f"{ctx.scope}s.{owner}.{kind.name}", str(error)))
            return None
        return None if stage is None else Link(kind.name, ctx.scope, block, str(mark), stage)

    def make_context(
        self, route: str, upstream: str, scope: str, mark: Mark, places: Callable[..., str] | None = None
    ) -> BuildContext:
        """Return the context that a stage is built with; `places` finds keys within its block."""
        spec = self.routes.get(route)
        return BuildContext(
            env=self.env,
            route=route,
            upstream=upstream,
            scope=scope,
            where=str(mark),
            obtain=self.lease.obtain,
            resources=partial(self.find_resource, route),
            service=self.spec.service,
            has_callers=spec is not None and (AUTHENTICATE in spec.blocks or route in self.caller_routes),
            places=places,
        )

    @staticmethod
    def find_place(where: Callable[..., Mark], *path: str | int) -> str:
        """Return `file:line` of a path that `where` finds; empty if the files do not have it."""
        mark = where(*path)
        return "" if mark == BUILT_IN else str(mark)

    def find_resource(self, route: str, kind: str, name: str) -> Any:
        """Return a resource that a stage of a route asks for by kind and name.

        Raises `ValueError` for an unknown kind, and for a name that is not declared.
        """
        if kind == CACHE:
            return self.stores[name]
        if kind == STORE:
            return self.find_store(name)
        if kind == QUOTA_STORE:
            return self.find_quota_store(name)
        if kind == IDENTITY:
            return self.identities[name]
        if kind == CRITICALITY:
            return self.routes[name].by_caller
        if kind == CHALLENGES:
            from sidecar.identity.verdict import challenges

            names = getattr(self.routes[name].blocks.get(AUTHENTICATE), "any_of", ())
            found = challenges((self.identities[each] for each in names), self.spec.service)
            return [challenge for _, challenge in found]
        if kind == CALLER_FIELDS:
            return self.fields_to_drop(self.routes[name])
        if kind == ORIGINS:
            return allowed_origins(self.routes[name])
        if kind == ROUTE and name in self.routes:
            inner = self.route_of(name)
            pick = None
            if name in self.arms:
                members = (inner, *(self.route_of(arm.name) for arm in inner.spec.arms))
                pick = Candidates(self.arms[name], members).pick
            return InnerRoute(inner, Rule(inner.spec.match, inner), pick)
        if kind == RECLAIM and not name:  # an aggregated answer holds no exchange of an upstream
            return lambda *_: False
        spec = self.spec.upstreams.get(name)
        if spec is None:
            raise ValueError(f"names the {kind} `{name}`, which is not declared")
        if kind == RETRY_BUDGET:
            # A candidate whose policy retries more must not spend the budget of the stable arm beside it.
            is_tried = route.partition(":")[0].endswith(f"@{CANDIDATE}")
            key = (RETRY_BUDGET, name, route) if is_tried else (RETRY_BUDGET, name)
            make = partial(RetryBudget, spec.retry_budget, self.env, ":".join(key[1:]))
            return self.lease.obtain(key, spec.retry_budget, make)
        if kind == RECLAIM:
            return self.upstreams[name].reclaim
        if kind == UPSTREAM:
            links = [link for kind in STAGES for link in self.make_links(kind, route, name, None)]
            links += self.make_links(BY_NAME[RATE_LIMIT], route, name, None, is_inside=True)
            stages = [link.stage for link in [*links, *self.make_credentials(name)]]
            return Pipeline(stages, self.upstreams[name])
        raise ValueError(
            f"asks for the unknown kind {kind}; known are {CACHE}, {RECLAIM}, {RETRY_BUDGET}, {ROUTE}, {UPSTREAM}"
        )


def allowed_origins(spec: RouteSpec) -> Callable[[bytes], bool]:
    """Return the function that says which origins the `cors` block of a route allows; none without the block."""
    block: Any = spec.blocks.get(CORS)
    if block is None or not block.is_enforced:
        return lambda _: False
    from sidecar.stages.cors.origins import Origins

    return Origins(block.origins).allows


def cache_of(spec: RouteSpec) -> CacheBlock | None:
    """Return the `cache` block of a route; None if it has none."""
    block = spec.blocks.get(CACHE)
    return block if isinstance(block, CacheBlock) else None


class EndpointGates:
    """Breakers of an upstream's endpoints, if its policy has a breaker with `per: endpoint`."""

    def __init__(self, block: BreakerBlock | None, ctx: BuildContext) -> None:
        self.block = block if block is not None and block.per is not None else None
        """Settings of the breakers; None if the endpoints have none."""
        self.ctx = ctx

    def watch(self, upstream: Terminal, lease: Lease) -> None:
        """Keep the breakers in a `StateGroup`, because endpoints come and go while the policies are in force."""
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
