"""Resolution of routes: the policies of each route, merged from its layers.

The layers are, nearest first: the route itself, its bundles from the last to the first, the `policy` of its upstream,
and `defaults`.  The nearest layer wins key by key (`merge.py`).  A block that many routes inherit unchanged is merged
and validated once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from sidecar.config.checks.layers import UPSTREAM_ONLY, check_block, check_layer
from sidecar.config.checks.matches import check_match
from sidecar.config.checks.references import References
from sidecar.config.checks.values import check_rollout
from sidecar.config.merge import inherit
from sidecar.config.node import OFF, Node
from sidecar.config.report import Report
from sidecar.config.spec import (
    AGGREGATE,
    CANDIDATE,
    CRITICALITY,
    INBOUND,
    NO_LISTENER,
    POLICIES,
    CriticalitySpec,
    RouteHead,
    RouteSpec,
    name_of_part,
)
from sidecar.config.validate import validate
from sidecar.core.spec import Block
from sidecar.rollout.spec import SplitSpec
from sidecar.routing.match_spec import MatchSpec
from sidecar.stages import BY_NAME

OUTER: Final = ("cors", "authenticate", "authorize")
"""Blocks about clients, which the route that a part has of its own does not inherit."""
INNER: Final = ("translate", "hedge", "retry", "circuit_breaker", "fault")
"""Blocks that a route with `aggregate` cannot have, since its parts have them."""
UNOBSERVED: Final = ("authenticate", "translate", AGGREGATE, CRITICALITY)
"""Policies that a candidate with `mode: observe` cannot have, since they decide who asks, or who answers."""
POLICY: Final = "policy"
"""Key under an upstream for policies that its routes inherit."""


class RouteResolver:
    """Resolver of the routes of one document."""

    def __init__(self, references: References, defaults: Node, report: Report) -> None:
        self._references = references
        self._defaults = defaults
        self._report = report
        self._schemes: dict[str | None, str] = {}
        self._blocks: dict[tuple[str, tuple[int, ...]], tuple[Node, Block | None]] = {}
        """Merged blocks, by block name and the `id` of each node that was merged."""

    def route(self, node: Node) -> RouteSpec | None:
        """Return the resolved route of a node; None if the keys beside its policies are wrong."""
        own = {key: value for key, value in node.items.items() if key not in POLICIES}
        for key in own.keys() & UPSTREAM_ONLY:
            misplaced = own.pop(key)
            self._report.error(
                misplaced.key, misplaced.path, "belongs under an upstream, where it holds for all routes to it"
            )
        kept = dict(own)
        if (tried := node.child(CANDIDATE)) is not None and tried.items:
            kept[CANDIDATE] = tried.with_items({key: each for key, each in tried.items.items() if key not in POLICIES})
        head = validate(RouteHead, node.with_items(kept) if node.items else node, self._report, also=POLICIES)
        candidate = own.pop(CANDIDATE, None)
        given = node.child("upstream")
        if given is not None and given.items:  # the first upstream of a split
            given = next((_name_of(*each) for each in node.nearest("upstream", "split").items.items()), None)
        layers = self._layers(node, given)
        spec = self._resolve(node, own, head, layers, given)
        if spec is None or head is None:
            return None
        whole = self._with_arms(spec, node, own, head, candidate)
        check_rollout(whole, node, self._report)
        return whole

    def _with_arms(
        self, spec: RouteSpec, node: Node, own: dict[str, Node], head: RouteHead, candidate: Node | None
    ) -> RouteSpec:
        """Return a route with its candidates: other upstreams of a split, or a candidate of its policies."""
        split = head.upstream
        if isinstance(split, SplitSpec) and candidate is not None and head.candidate is not None:
            self._report.error(
                candidate.key, candidate.path, "stands beside a split; roll out one of them at a time, for its evidence"
            )
        elif isinstance(split, SplitSpec):
            members = node.nearest("upstream", "split").items
            arms = []
            for name, _ in split.candidates:
                upstream = _name_of(name, members[name])
                arm = self._resolve(node, own, head, self._layers(node, upstream), upstream, name)
                if arm is not None:
                    arms.append(arm)
            return replace(spec, arms=tuple(arms), shares=tuple(share for _, share in split.candidates), rollout=split)
        elif candidate is not None and head.candidate is not None:
            layer = candidate.with_items({key: each for key, each in candidate.items.items() if key in POLICIES})
            check_layer(layer, CANDIDATE, self._report)
            arm = self._resolve(node, own, head, [layer, *self._layers(node, node.child("upstream"))], None, CANDIDATE)
            if arm is not None:
                if head.candidate.is_observed:
                    arm = replace(arm, observes=self._observed(layer, arm))
                placed = spec.node.with_items(spec.node.items | {CANDIDATE: candidate})
                shares = (head.candidate.share or 0.0,)
                return replace(spec, arms=(arm,), shares=shares, rollout=head.candidate, node=placed)
        return spec

    def _observed(self, layer: Node, arm: RouteSpec) -> tuple[str, ...]:
        """Return the blocks of a candidate with `mode: observe` that can observe, and report those that cannot."""
        for key, node in layer.items.items():
            if key in UNOBSERVED:
                remedy = "leave it out, or write a share instead of mode: observe"
                self._report.error(node.key, node.path, f"cannot be observed beside that of the route; {remedy}")
            elif node.value == OFF:
                self._report.warn(node, "is off, which mode: observe does not show; a share of the requests would")
        if not layer.items:
            message = "has no policies to observe; write them beside `mode`, such as timeout: {request: 1s}"
            self._report.error(layer.key, layer.path, message)
        return tuple(key for key in layer.items if key in arm.blocks and key not in UNOBSERVED)

    def _resolve(
        self,
        node: Node,
        own: dict[str, Node],
        head: RouteHead | None,
        layers: list[Node],
        upstream: Node | None,
        arm: str = "",
    ) -> RouteSpec | None:
        """Return a route with the policies of its layers; `arm` is the name of a candidate."""
        blocks: dict[str, Block] = {}
        effective = dict(own)
        if upstream is not None:
            effective["upstream"] = upstream
        aggregates = self._aggregates(layers)
        if aggregates or (head is not None and head.upstream is None):
            self._check_upstream(node, layers, aggregates)
        for key in BY_NAME:
            if key in INNER and aggregates:
                continue
            merged, block = self._merged(key, layers)
            if merged is not None:
                effective[key] = merged
            if block is not None:
                blocks[key] = block
        self._references.check_fallback(effective)
        self._references.check_mirror(effective)
        self._references.check_cache(effective)
        self._references.check_authenticate(effective)
        self._references.check_limits(None, effective)
        criticality = inherit([layer.items[CRITICALITY] for layer in layers if CRITICALITY in layer.items])
        chosen = CriticalitySpec.built_in()
        if criticality is not None:
            effective[CRITICALITY] = criticality
            chosen = validate(CriticalitySpec, node.with_items({CRITICALITY: criticality}), self._report) or chosen
        if head is None:
            check_match(node.child("match") or node, self._report)
            return None
        listener = head.listener or (INBOUND if INBOUND in self._references.listeners else None)
        return RouteSpec(
            name=f"{head.name}@{arm}" if arm else head.name,
            listener=listener,
            scheme=self._scheme(listener),
            match=head.match,
            upstream=str(effective["upstream"].value) if "upstream" in effective else "",
            use=tuple(head.use),
            criticality=chosen.general,
            by_caller=chosen.by_caller,
            blocks=blocks,
            node=node.with_items(effective),
            is_open=any(layer.items["authenticate"].value == OFF for layer in layers if "authenticate" in layer.items),
        )

    def _aggregates(self, layers: list[Node]) -> bool:
        """True if a route has an `aggregate` block."""
        merged = inherit([layer.items[AGGREGATE] for layer in layers if AGGREGATE in layer.items])
        return merged is not None and merged.value != OFF

    def _check_upstream(self, node: Node, layers: list[Node], aggregates: bool) -> None:
        """Report a route that has neither an upstream nor `aggregate`, or both, or blocks that only its parts have."""
        given = node.child("upstream")
        if not aggregates:
            if given is None:
                path = f"{node.path}.upstream" if node.path else "upstream"
                self._report.error(node.place, path, "is missing; add `upstream: ...`")
            return
        if given is not None:
            self._report.error(given.key, given.path, "stands beside `aggregate`, which answers itself; leave one out")
        for key in INNER:
            for layer in layers:
                if layer is not self._defaults and key in layer.items and layer.items[key].value != OFF:
                    block = layer.items[key]
                    message = "has no place beside `aggregate`; write it on the routes of its parts"
                    self._report.error(block.key, block.path, message)

    def part_routes(self, route: RouteSpec) -> list[RouteSpec]:
        """Return the routes that the parts of a route have of their own, because they name an upstream."""
        block: Any = route.blocks.get(AGGREGATE)
        found = []
        for name, part in {} if block is None else block.parts.items():
            node = route.node.nearest(AGGREGATE, "parts", name)
            if part.route is not None:
                continue
            upstream = self._references.upstream(node.child("upstream"))
            inherited = upstream.child(POLICY) if upstream is not None else None
            layers = [layer for layer in (inherited, self._defaults) if layer is not None]
            effective: dict[str, Node] = {}
            blocks: dict[str, Block] = {}
            for key in BY_NAME:
                if key in OUTER or key == AGGREGATE:
                    continue
                merged, own = self._merged(key, layers)
                if merged is not None:
                    effective[key] = merged
                if own is not None:
                    blocks[key] = own
            found.append(
                RouteSpec(
                    name=name_of_part(route.name, name),
                    listener=NO_LISTENER,
                    scheme=route.scheme,
                    match=MatchSpec.built_in(),
                    upstream=part.upstream,
                    use=(),
                    criticality=route.criticality,
                    blocks=blocks,
                    node=node.with_items(effective),
                    is_open=True,
                )
            )
        return found

    def _scheme(self, listener: str | None) -> str:
        """Return the scheme of a listener, `http` or `https`.

        None stands for all listeners; the result is empty if their schemes differ.
        """
        if listener not in self._schemes:
            self._schemes[listener] = self._scheme_of(listener)
        return self._schemes[listener]

    def _scheme_of(self, listener: str | None) -> str:
        known = self._references.listeners
        reached = known.values() if listener is None else [known[listener]] if listener in known else []
        schemes = {"http" if (tls := node.child("tls")) is None or tls.value is None else "https" for node in reached}
        return schemes.pop() if len(schemes) == 1 else ""

    def _layers(self, node: Node, named: Node | None) -> list[Node]:
        """Return the layers of a route, nearest first, and report names in it that are not declared.

        `named` names its upstream.
        """
        upstream = self._references.upstream(named)
        listener = node.child("listener")
        if listener is None or listener.value != NO_LISTENER:
            self._references.listener(listener)
        use = node.child("use")
        names: list[Node] = use.value if use is not None and isinstance(use.value, list) else []
        bundles = [self._references.bundle(name) for name in names]
        inherited = upstream.child(POLICY) if upstream is not None else None
        return [layer for layer in (node, *reversed(bundles), inherited, self._defaults) if layer is not None]

    def _merged(self, key: str, layers: list[Node]) -> tuple[Node | None, Block | None]:
        """Return a block of a route as merged node and spec; both are None if it is absent or off.

        The spec alone is None if the block is wrong, which is reported.
        """
        nodes = [layer.items[key] for layer in layers if key in layer.items]
        identity = (key, tuple(map(id, nodes)))
        if identity not in self._blocks:
            merged = inherit(nodes)
            if merged is None or merged.value == OFF:
                return None, None
            self._blocks[identity] = merged, check_block(key, merged, self._report)
        return self._blocks[identity]


def _name_of(name: str, member: Node) -> Node:
    """Return the key of a member as a value: the name of an upstream in a split."""
    return Node(name, member.key, member.key, member.path)
