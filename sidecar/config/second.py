"""Second set of policies: the routes of the directory `candidate` become candidates of those beside it.

Rules:

1. Both sets are whole.  Each is loaded and checked by itself, and has the same routes with the same matches.
2. What is not of a single route is the same in both, such as listeners, identities and stores.
3. A route that means the same in both has no candidate.  A route means something else too if its upstream, its cache or
   a part of its answer does.
4. Upstreams and caches that differ are `NAME@candidate`, with pools, breakers, budgets and responses of their own.
   Equal ones are shared by both arms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from sidecar.config.checks.values import DECISIVE, check_rollout
from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.resolve import UNOBSERVED
from sidecar.config.spec import AGGREGATE, CANDIDATE, NO_LISTENER, PolicySpec, RouteSpec, name_of_part
from sidecar.core.spec import Block

SHARED: Final = ("service", "listeners", "admin", "limits", "process", "telemetry", "identities", "stores")
"""Sections that are the same in both sets."""
HEAD: Final = ("listener", "match")
"""Keys of a route that are the same in both sets."""


def with_candidates(stable: PolicySpec, tried: PolicySpec | None, report: Report) -> PolicySpec:
    """Return policies with the routes of a second set as candidates, and report what cannot be one.

    `tried` is None if there is no second set.
    """
    if report.problems:
        return stable
    section = stable.node.items.get(CANDIDATE)
    if tried is None:
        assert section is not None
        message = "has no policies; put a whole set of policy files into the directory `candidate` beside these files"
        report.error(section.key, section.path, message)
        return stable
    if stable.candidate is None or section is None:
        message = (
            "has no share of the requests; add such as `candidate: {share: 5%}` to the policies above the directory"
        )
        report.error(tried.node.place, "", message)
        return stable
    found = _Second(stable, tried, section, report)
    return stable if report.problems else found.whole()


class _Second:
    """Second set of policies, beside the first one."""

    def __init__(self, stable: PolicySpec, tried: PolicySpec, section: Node, report: Report) -> None:
        self._stable = stable
        self._tried = tried
        self._section = section
        self._report = report
        self._twins = {route.name: route for route in stable.routes}
        self._routes = {route.name: route for route in tried.routes}
        is_observed = stable.candidate is not None and stable.candidate.is_observed
        self._upstreams = _renamed(stable.upstreams, tried.upstreams, is_observed)
        self._caches = _renamed(stable.caches, tried.caches, is_observed)
        self._known: dict[str, bool] = {}
        self._check()

    def _check(self) -> None:
        """Report what differs between the two sets and must not."""
        report, stable, tried = self._report, self._stable, self._tried
        if (nested := tried.node.items.get(CANDIDATE)) is not None:
            report.error(nested.key, nested.path, "belongs to the policies beside the directory `candidate`; remove it")
        for name in SHARED:
            if getattr(stable, name) != getattr(tried, name):
                at = tried.node.nearest(name)
                message = "differs from that of the policies in force; write the same, since both arms have it"
                report.error(at.place, name, message)
        for name in _declared(self._twins.keys() - self._routes.keys()):
            node = self._twins[name].node
            report.error(node.mark, node.path, f"is missing in the directory `{CANDIDATE}`; add the route there")
        for name in _declared(self._routes.keys() - self._twins.keys()):
            node = self._routes[name].node
            report.error(node.mark, node.path, "is no route of the policies in force; add it there, or remove it here")
        for name in _declared(self._routes.keys() & self._twins.keys()):
            route, twin = self._routes[name], self._twins[name]
            for key in HEAD:
                if getattr(route, key) != getattr(twin, key):
                    at = route.node.nearest(key)
                    report.error(at.place, at.path, f"has another `{key}` than the route in force; write the same")
            if (route.arms or twin.arms) and (route.arms, route.rollout) != (twin.arms, twin.rollout):
                message = "has a rollout of its own; write the same one in both sets, for its evidence"
                report.error(route.node.mark, route.node.path, message)

    def whole(self) -> PolicySpec:
        """Return the policies with their candidates."""
        rule = self._stable.candidate
        assert rule is not None
        routes: list[RouteSpec] = []
        different = []
        for twin in self._stable.routes:
            if ":" in twin.name or not self._differs(twin.name):
                routes.append(twin)
            elif rule.is_observed:
                routes.append(self._observed(twin))
            else:
                different.append(twin.name)
                arm = self._arm(self._routes[twin.name])
                if twin.listener == NO_LISTENER:  # requests meet it as a part of a candidate
                    routes += [twin, arm]
                    continue
                if twin.arms:
                    message = "differs beside a rollout of its own; end one of them first"
                    self._report.error(arm.node.mark, arm.node.path, message)
                placed = twin.node.with_items(twin.node.items | {CANDIDATE: self._section})
                routes.append(replace(twin, arms=(arm,), shares=(rule.share or 0.0,), rollout=rule, node=placed))
                check_rollout(routes[-1], self._stable.node, self._report)
        names = {name_of_part(each, part) for each in different for part in self._routes[each].parts}
        routes += [self._arm(each) for each in self._tried.routes if each.name in names]
        if not any(each.rollout is rule for each in routes):
            self._report.warn(self._section, f"has no effect: the directory `{CANDIDATE}` has the same policies")
        node = self._stable.node
        sections = {
            "upstreams": _with_renamed(node, self._tried.node, "upstreams", self._upstreams),
            "caches": _with_renamed(node, self._tried.node, "caches", self._caches),
        }
        return replace(
            self._stable,
            routes=routes,
            upstreams=self._stable.upstreams
            | {new: self._tried.upstreams[old] for old, new in self._upstreams.items()},
            caches=self._stable.caches | {new: self._tried.caches[old] for old, new in self._caches.items()},
            node=node.with_items(node.items | {key: each for key, each in sections.items() if each is not None}),
            masks=self._report.origins.message_masks(),
            facts=self._report.origins.output_masks([*(each.name for each in routes), self._stable.service]),
        )

    def _differs(self, name: str) -> bool:
        """True if a route of the second set, or a part of its answer, means something else than its twin."""
        found = self._known.get(name)
        if found is None:
            arm, twin = self._arm(self._routes[name], name), self._twins.get(name)
            found = self._known[name] = (
                twin is None
                or arm.upstream != twin.upstream
                or any(getattr(arm, key) != getattr(twin, key) for key in DECISIVE)
                or any(map(self._is_another, (twin.upstream, *(each.upstream for each in arm.arms))))
                or any(map(self._differs, self._routes[name].parts.values()))
            )
        return found

    def _is_another(self, upstream: str) -> bool:
        """True if an upstream means something else in the second set."""
        return self._stable.upstreams.get(upstream) != self._tried.upstreams.get(upstream)

    def _arm(self, route: RouteSpec, name: str = "") -> RouteSpec:
        """Return a route of the second set under the names that both sets have together."""
        return replace(
            route,
            name=name or self._name(route.name),
            upstream=self._upstreams.get(route.upstream, route.upstream),
            blocks={key: self._block(key, block) for key, block in route.blocks.items()},
        )

    def _name(self, name: str) -> str:
        """Return the name of a route of the second set."""
        owner, colon, part = name.partition(":")
        return name_of_part(f"{owner}@{CANDIDATE}", part) if colon else f"{owner}@{CANDIDATE}"

    def _block(self, key: str, block: Any) -> Block:
        """Return a block with the names that both sets have together."""
        if key == "cache":
            changes: dict[str, Any] = {"store": self._caches.get(block.store, block.store)}
        elif key == "mirror":
            changes = {"upstream": self._upstreams.get(block.upstream, block.upstream)}
        elif key == "fallback":
            changes = {"steps": type(block.steps)(map(self._with_upstream, block.steps))}
        elif key == AGGREGATE:
            changes = {"parts": {name: self._part(part) for name, part in block.parts.items()}}
        else:
            return block  # type: ignore[no-any-return]
        return block.model_copy(update=changes)  # type: ignore[no-any-return]

    def _part(self, part: Any) -> Any:
        """Return a part of an answer that asks the candidate of its route, if that has one."""
        if part.route is not None and self._differs(part.route):
            return part.model_copy(update={"route": self._name(part.route)})
        return self._with_upstream(part)

    def _with_upstream(self, spec: Any) -> Any:
        """Return a spec whose upstream has the name that both sets have together."""
        new = self._upstreams.get(spec.upstream)
        return spec if new is None else spec.model_copy(update={"upstream": new})

    def _observed(self, twin: RouteSpec) -> RouteSpec:
        """Return a route with a candidate that observes what differs, and warn of differences that nobody sees."""
        arm = self._arm(self._routes[twin.name])
        different = [key for key in twin.blocks | arm.blocks if twin.blocks.get(key) != arm.blocks.get(key)]
        unseen = [key for key in different if key in UNOBSERVED or key not in arm.blocks]
        unseen += ["upstream"] * (arm.upstream != twin.upstream or self._is_another(twin.upstream))
        if unseen:
            message = (
                f"differs in {', '.join(unseen)}, which mode: observe does not show; a share of the requests would"
            )
            self._report.warn(arm.node, message)
        seen = tuple(key for key in different if key not in unseen)
        return (
            replace(twin, arms=(replace(arm, observes=seen),), rollout=self._stable.candidate, shares=(0.0,))
            if seen
            else twin
        )


def _renamed(stable: dict[str, Any], tried: dict[str, Any], is_observed: bool) -> dict[str, str]:
    """Return the names that members of a section get which differ from those in force.

    Of an observed set these are new members alone, since none of its requests are sent.
    """
    found = [name for name, spec in tried.items() if spec != stable.get(name)]
    return {name: f"{name}@{CANDIDATE}" for name in found if not is_observed or name not in stable}


def _with_renamed(stable: Node, tried: Node, section: str, names: dict[str, str]) -> Node | None:
    """Return the node of a section with the renamed members of the second set, so that their places are found."""
    own, other = stable.items.get(section), tried.items.get(section)
    if own is None or other is None:
        return own
    return own.with_items(own.items | {new: other.items[old] for old, new in names.items() if old in other.items})


def _declared(names: Iterable[str]) -> list[str]:
    """Return the names of routes that a file has, in their order; those of parts have a colon."""
    return sorted(name for name in names if ":" not in name)
