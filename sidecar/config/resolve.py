"""A route's policies, resolved: the route itself, its bundles (the last one nearest), its upstream's policy, defaults.

What many routes inherit unchanged is merged and validated once and shared.
"""

from __future__ import annotations

from typing import Final

from sidecar.config.checks.matches import check_match
from sidecar.config.merge import inherit
from sidecar.config.node import OFF, Node
from sidecar.config.report import Report, suggest
from sidecar.config.spec import (
    CRITICALITY,
    DEFAULT_CACHE,
    INBOUND,
    POLICIES,
    CriticalitySpec,
    RouteHead,
    RouteSpec,
    UpstreamSpec,
)
from sidecar.config.validate import validate
from sidecar.core.spec import Block
from sidecar.stages import BY_NAME

POLICY: Final = "policy"
"""Under an upstream: what its routes inherit."""
_UPSTREAM_ONLY: Final = frozenset(UpstreamSpec.model_fields) - {*POLICIES, *RouteHead.model_fields}


def check_layer(layer: Node, name: str, report: Report) -> None:
    """Check one layer where it stands: keys may be missing, but those that are there must be right."""
    if layer.value is None:
        return
    if not isinstance(layer.value, dict):
        report.at(layer, f"must be a mapping of policies, such as {name}: {{timeout: {{request: 3s}}}}")
    for key, node in layer.items.items():
        if key not in POLICIES:
            report.error(node.key, node.path, f"is not a policy; {_hint(key)}")
        elif key == CRITICALITY:
            validate(CriticalitySpec, layer.only({key: node}), report)
        elif node.value != OFF:
            _block(key, node, report, partial=True)


def _block(key: str, node: Node, report: Report, *, partial: bool = False) -> Block | None:
    if node.value is None:
        report.at(node, "is empty; write {} for its defaults, off to turn it off, or leave it out")
        return None
    return validate(BY_NAME[key].spec, node, report, partial=partial)


def _hint(key: str) -> str:
    return "it stands under an upstream itself" if key in _UPSTREAM_ONLY else suggest(key, POLICIES)


class Resolver:
    """Resolves routes against the sections of one document, and remembers what they use of them."""

    def __init__(
        self,
        *,
        upstreams: dict[str, Node],
        bundles: dict[str, Node],
        defaults: Node,
        listeners: dict[str, Node],
        caches: dict[str, Node],
        report: Report,
    ) -> None:
        self._upstreams = upstreams
        self._bundles = bundles
        self._defaults = defaults
        self._listeners = listeners
        self._caches = caches
        self._report = report
        self._used: set[int] = set()
        self._blocks: dict[tuple[str, tuple[int, ...]], tuple[Node, Block | None]] = {}
        """By name, and by the identities of the nodes that were merged."""

    def route(self, node: Node) -> RouteSpec | None:
        """A route resolved; None where its head is wrong."""
        own = {key: value for key, value in node.items.items() if key not in POLICIES}
        for key in own.keys() & _UPSTREAM_ONLY:
            misplaced = own.pop(key)
            self._report.error(misplaced.key, misplaced.path, "stands under an upstream; one holds for all its routes")
        head = validate(RouteHead, node.only(own) if node.items else node, self._report, also=POLICIES)
        layers = self._layers(node)
        blocks: dict[str, Block] = {}
        effective = dict(own)
        for key in BY_NAME:
            merged, block = self._merged(key, layers)
            if merged is not None:
                effective[key] = merged
            if block is not None:
                blocks[key] = block
        self._check_fallback(effective)
        self._check_cache(effective)
        criticality = inherit([layer.items[CRITICALITY] for layer in layers if CRITICALITY in layer.items])
        chosen = CriticalitySpec()
        if criticality is not None:
            effective[CRITICALITY] = criticality
            chosen = validate(CriticalitySpec, node.only({CRITICALITY: criticality}), self._report) or chosen
        if head is None:
            check_match(node.child("match") or node, self._report)
            return None
        listener = head.listener or (INBOUND if INBOUND in self._listeners else None)
        return RouteSpec(
            name=head.name,
            listener=listener,
            scheme=self._scheme(listener),
            match=head.match,
            upstream=head.upstream,
            use=tuple(head.use),
            criticality=chosen.criticality,
            blocks=blocks,
            node=node.only(effective),
        )

    def _scheme(self, listener: str | None) -> str:
        reached = [node for name, node in self._listeners.items() if listener in (None, name)]
        schemes = {"http" if (tls := node.child("tls")) is None or tls.value is None else "https" for node in reached}
        return schemes.pop() if len(schemes) == 1 else ""

    def check_use(self) -> None:
        """Warn of what no route uses."""
        sections = {"upstream": self._upstreams, "cache": self._caches, "bundle": self._bundles}
        for kind, nodes in {**sections, "listener": self._listeners}.items():
            for name, node in nodes.items():
                if id(node) not in self._used and self._report.is_whole:
                    self._report.warn(node, f"no route uses the {kind} `{name}`; use it or take it out")

    def _layers(self, node: Node) -> list[Node]:
        """The layers of a route, nearest first, every reference checked."""
        upstream = self._refer("upstream", node.child("upstream"), self._upstreams)
        listener = node.child("listener")
        if listener is not None:
            self._refer("listener", listener, self._listeners)
        else:
            self._used.update(id(each) for name, each in self._listeners.items() if INBOUND in (name, *self._listeners))
        use = node.child("use")
        names: list[Node] = use.value if use is not None and isinstance(use.value, list) else []
        bundles = [self._refer("bundle", name, self._bundles) for name in names]
        inherited = upstream.child(POLICY) if upstream is not None else None
        return [layer for layer in (node, *reversed(bundles), inherited, self._defaults) if layer is not None]

    def _refer(self, kind: str, node: Node | None, known: dict[str, Node]) -> Node | None:
        if node is None or not isinstance(node.value, str):
            return None  # told by the route's validation
        found = known.get(node.value)
        if found is None and self._report.is_whole:
            self._report.at(node, f"names no {kind}: there is no `{node.value}`; {suggest(node.value, known)}")
        self._used.add(id(found))
        return found

    def _merged(self, key: str, layers: list[Node]) -> tuple[Node | None, Block | None]:
        nodes = [layer.items[key] for layer in layers if key in layer.items]
        identity = (key, tuple(map(id, nodes)))
        if identity not in self._blocks:
            merged = inherit(nodes)
            if merged is None or merged.value == OFF:
                return None, None
            self._blocks[identity] = merged, _block(key, merged, self._report)
        return self._blocks[identity]

    def _check_fallback(self, blocks: dict[str, Node]) -> None:
        """The upstreams that a fallback goes to must exist, and be others than the one that failed."""
        fallback, upstream = blocks.get("fallback"), blocks.get("upstream")
        steps = (fallback.child("steps") or fallback) if fallback is not None else None
        for step in steps.value if steps is not None and isinstance(steps.value, list) else ():
            if step.value == "stale" and "cache" not in blocks:
                self._report.warn(step, "never has anything: this route has no cache; give it a `cache` block")
            target = step.child("upstream")
            if target is None:
                continue
            self._refer("upstream", target, self._upstreams)
            if upstream is not None and target.value == upstream.value:
                self._report.warn(target, f"falls back to `{target.value}`, the upstream that failed; name another one")

    def _check_cache(self, blocks: dict[str, Node]) -> None:
        """The store of a cache must be declared, unless it is the one that is always there."""
        cache = blocks.get("cache")
        store = cache.child("store") if cache is not None else None
        if store is not None and store.value != DEFAULT_CACHE:
            self._refer("cache", store, {DEFAULT_CACHE: store, **self._caches})
        elif cache is not None:
            self._used.add(id(self._caches.get(DEFAULT_CACHE)))
