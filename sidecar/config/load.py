"""Loading of policy files into a `PolicySpec`: values checked, references followed, blocks of routes merged.

Rules:

1. One run reports all problems of all files.
2. Each layer is checked by itself, even if no route uses it.  Then the merged blocks of each route are checked
   (`resolve.py`), and finally the policies as a whole (`checks/`).
3. The content of a file never makes `load` raise: every problem goes to the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sidecar.cache.spec import CacheSpec
from sidecar.config import merge
from sidecar.config.checks import check_policies
from sidecar.config.checks.layers import check_layer
from sidecar.config.checks.references import References
from sidecar.config.files import Source, parse, split
from sidecar.config.node import OFF, Mark, Node
from sidecar.config.process_spec import AdminSpec, LimitsSpec, ListenerSpec, ProcessSpec
from sidecar.config.report import Report
from sidecar.config.resolve import POLICY, RouteResolver
from sidecar.config.second import with_candidates
from sidecar.config.spec import (
    CANDIDATE,
    DEFAULT_CACHE,
    NO_LISTENER,
    POLICIES,
    PolicySpec,
    RouteSpec,
    ServiceSpec,
    UpstreamSpec,
    check_name,
)
from sidecar.config.validate import validate
from sidecar.core.spec import Model, Problem
from sidecar.rollout.spec import CandidateSpec
from sidecar.store.spec import StoreSpec

if TYPE_CHECKING:
    from sidecar.identity.spec import IdentitySpec
    from sidecar.telemetry.spec import TelemetrySpec

M = TypeVar("M", bound=Model)

SECTIONS: Final = (
    "listeners", "admin", "limits", "process", "telemetry", "identities", "upstreams", "stores", "caches",
    "policies", "defaults", "routes", CANDIDATE,
)  # fmt: skip
EMPTY: Final = "holds no policies; begin with `version: 1`, then listeners, upstreams and routes"


class Loaded(NamedTuple):
    """Result of loading policy files."""

    spec: PolicySpec | None
    """Resolved policies; None if there are problems."""
    problems: list[Problem]
    """Errors, in the order of their places."""
    warnings: list[Problem]
    """Warnings, in the order of their places."""


def load(sources: Sequence[Source], environ: Mapping[str, str], pace: Callable[[], object] = lambda: None) -> Loaded:
    """Load policies from the contents of their files.

    `environ` gives the values of `${NAME}`.  `pace` is called regularly, and may pause the thread.
    """
    report = Report()
    first, second = split(sources)
    spec = _load_set(first, environ, report, pace)
    tried = _load_set(second, environ, report, pace) if second else None
    if spec is not None and (second or spec.candidate is not None):
        spec = with_candidates(spec, tried, report)
    return Loaded(None if report.problems else spec, report.problems, report.warnings)


def _load_set(
    sources: Sequence[Source], environ: Mapping[str, str], report: Report, pace: Callable[[], object]
) -> PolicySpec | None:
    """Return the policies of one set of files; the caller ignores them if the report has problems."""
    parsed = [parse(source, environ, report, pace) for source in sources]
    root = merge.join((root for root in parsed if root is not None), report)
    if root is not None:
        return _Loading(root, report, pace).load()
    if not report.problems:
        report.error(Mark(sources[0].name if sources else "", 1, 1), "", EMPTY)
    return None


class _Loading:
    """Run of the loader over the joined document of all files."""

    def __init__(self, root: Node, report: Report, pace: Callable[[], object]) -> None:
        self.pace = pace
        self.root = root
        self.report = report

    def load(self) -> PolicySpec | None:
        """Return the policies of the document; the caller ignores them if the report has problems."""
        root, report = self.root, self.report
        top = {key: node for key, node in root.items.items() if key not in SECTIONS}
        service = validate(ServiceSpec, root.with_items(top), report, partial=not report.is_whole, also=SECTIONS)
        listeners = self._all(ListenerSpec, "listeners")
        admin = None if self._section("admin").value == OFF else validate(AdminSpec, self._section("admin"), report)
        limits = validate(LimitsSpec, self._section("limits"), report)
        process = validate(ProcessSpec, self._section("process"), report)
        upstreams = {name: self._upstream(node) for name, node in self._named("upstreams").items()}
        stores = self._all(StoreSpec, "stores")
        caches = {DEFAULT_CACHE: CacheSpec.built_in(), **self._all(CacheSpec, "caches")}
        caches = {name: self._with_store(name, cache, stores) for name, cache in caches.items()}
        identities = self._identities()
        bundles = self._named("policies")
        defaults = self._section("defaults")
        for name, layer in (*bundles.items(), ("defaults", defaults)):
            check_layer(layer, name, report)
        routes = self._routes(bundles, defaults)
        if report.is_whole and not self._named("listeners"):
            report.error(root.place, "listeners", 'is missing; add `listeners: {inbound: {address: "127.0.0.1:8080"}}`')
        spec = PolicySpec(
            service=service.service if service else "",
            listeners=listeners,
            admin=admin,
            limits=limits or LimitsSpec.built_in(),
            process=process or ProcessSpec.built_in(),
            upstreams={name: upstream for name, upstream in upstreams.items() if upstream is not None},
            routes=routes,
            caches=caches,
            stores=stores,
            identities=identities,
            node=root,
            telemetry=self._telemetry(),
            candidate=self._candidate(),
            masks=report.origins.message_masks(),
            facts=report.origins.output_masks(
                [*(route.name for route in routes), *((service.service,) if service is not None else ())]
            ),
        )
        check_policies(spec, report, self.pace)
        return spec

    def _with_store(self, name: str, cache: CacheSpec, stores: dict[str, StoreSpec]) -> CacheSpec:
        """Return a cache with the Redis of the store that it names."""
        if cache.store is None:
            return cache
        node = self._named("caches")[name]
        if cache.redis is not None:
            self.report.error_in(
                node.nearest("store"), "stands beside `redis`, which it replaces; leave one of them out"
            )
            return cache
        store = stores.get(cache.store)
        return cache if store is None else cache.model_copy(update={"redis": store.redis})

    def _telemetry(self) -> TelemetrySpec | None:
        """Return the spec of the `telemetry` section; None if it is absent or off."""
        node = self.root.items.get("telemetry")
        if node is None or node.value in (None, OFF):
            return None
        from sidecar.telemetry.spec import TelemetrySpec

        return validate(TelemetrySpec, node, self.report)

    def _candidate(self) -> CandidateSpec | None:
        """Return the spec of the `candidate` section; None if it is absent."""
        node = self.root.items.get(CANDIDATE)
        return None if node is None else validate(CandidateSpec, node, self.report)

    def _identities(self) -> dict[str, IdentitySpec]:
        """Return the specs of the `identities` section; its module is imported only if the section is there."""
        if not self._named("identities"):
            return {}
        from sidecar.identity.spec import IdentitySpec

        return self._all(IdentitySpec, "identities")

    def _paced(self, route: RouteSpec | None) -> RouteSpec | None:
        """Call `pace`, and return the route unchanged."""
        self.pace()
        return route

    def _section(self, key: str) -> Node:
        """Return the node of a section; an empty mapping if the files do not have the section."""
        node = self.root.items.get(key)
        return self.root.with_items({}) if node is None or node.value is None else node

    def _named(self, key: str) -> dict[str, Node]:
        """Return the members of a section that maps names to specs, and report wrong names."""
        node = self._section(key)
        if not isinstance(node.value, dict):
            self.report.error_in(node, "must be a mapping of names to their settings")
        for name, member in node.items.items():
            try:
                check_name(name)
            except ValueError as error:
                self.report.error(member.key, member.path, str(error))
            if key == "listeners" and name == NO_LISTENER:
                message = "is the name by which a route says that no listener serves it; rename the listener"
                self.report.error(member.key, member.path, message)
        return node.items

    def _all(self, model: type[M], key: str) -> dict[str, M]:
        """Return the valid specs of a section by name."""
        found = ((name, validate(model, node, self.report)) for name, node in self._named(key).items())
        return {name: spec for name, spec in found if spec is not None}

    def _upstream(self, node: Node) -> UpstreamSpec | None:
        """Return the spec of an upstream, and check its `policy` as one layer."""
        policy = node.items.get(POLICY)
        if policy is not None:
            check_layer(policy, POLICY, self.report)
        own = {key: value for key, value in node.items.items() if key != POLICY}
        for key in own.keys() & set(POLICIES) - set(UpstreamSpec.model_fields):
            misplaced = own.pop(key)
            self.report.error(
                misplaced.key, misplaced.path, f"belongs under `{POLICY}` of the upstream: {POLICY}: {{{key}: ...}}"
            )
        return validate(UpstreamSpec, node.with_items(own) if node.items else node, self.report, also=(POLICY,))

    def _routes(self, bundles: dict[str, Node], defaults: Node) -> list[RouteSpec]:
        """Return the resolved routes without wrong ones, and report repeated names and unused definitions."""
        section = self._section("routes")
        if section.items:
            self.report.error_in(section, "must be a list; begin each route with `- name:`")
        nodes: list[Node] = section.value if isinstance(section.value, list) else []
        shared = {key: self._named(key) for key in ("upstreams", "listeners", "stores", "caches", "identities")}
        references = References(**shared, bundles=bundles, report=self.report)
        resolver = RouteResolver(references, defaults, self.report)
        routes = [self._paced(resolver.route(node)) for node in nodes]
        whole = [each for route in routes if route is not None for each in (route, *route.arms)]
        routes += [part for route in whole for part in resolver.part_routes(route)]
        references.check_use()
        named = ((node.items["name"].value, node.items["name"]) for node in nodes if "name" in node.items)
        merge.unique(((name, node) for name, node in named if isinstance(name, str)), self.report)
        return [route for route in routes if route is not None]
