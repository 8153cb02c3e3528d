"""Check of `aggregate` blocks: names of parts and routes, circles, paths, and the worst case in time and calls.

Errors are what can never work: a part that needs itself, a route that does not exist or does not take the path.  The
worst case in calls is a product of numbers in the files, and an error beyond `max_calls`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isinf
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.spec import AGGREGATE, AUTHENTICATE, NO_LISTENER, PolicySpec, RouteSpec
from sidecar.core.exchange import NEVER
from sidecar.core.uri import canonical
from sidecar.routing.rule import MatchError, Rule

if TYPE_CHECKING:
    from sidecar.stages.aggregate.plan import Cost
    from sidecar.stages.aggregate.spec import PartSpec, Spec
    from sidecar.stages.authorize.spec import Spec as AuthorizeSpec

CACHE: Final = "cache"
AUTHORIZE: Final = "authorize"
WITH_BODY: Final = frozenset(("POST", "PUT", "PATCH"))
"""Methods of requests with a body."""
MANY_CALLS: Final = 100
"""Calls in the worst case of one request, retries included, above which there is a warning."""


def check_aggregations(spec: PolicySpec, report: Report) -> None:
    """Report errors and warnings about the `aggregate` blocks of all routes, and routes that nothing uses."""
    used = {name for route in spec.all_routes for name in route.parts.values()}
    for route in spec.routes:
        if route.listener == NO_LISTENER and route.name not in used:
            message = "serves nothing: it has no listener, and no part of an `aggregate` block names it"
            report.warn(route.node.nearest("listener"), f"{message}; use it or take it out")
    blocks = {route.name: route for route in spec.all_routes if AGGREGATE in route.blocks}
    if not blocks:
        return
    from sidecar.stages.aggregate.plan import MOST_DEPTH, find_cycle

    routes = {route.name: route for route in spec.all_routes}
    is_sound = False not in {name: _check_block(route, routes, report) for name, route in blocks.items()}.values()
    needs = {
        name: [each for part in route.parts.values() for each in _arms(part, routes) if each in blocks]
        for name, route in blocks.items()
    }
    if cycle := find_cycle(needs):
        circle = " > ".join([*cycle, cycle[0]])
        report.error_in(_node(blocks[cycle[0]]), f"asks itself by its parts: {circle}; break this circle")
        return
    for name, route in blocks.items():
        if (depth := _depth(name, needs)) > MOST_DEPTH:
            report.error_in(_node(route), f"has {depth} levels of aggregates; at most {MOST_DEPTH} are allowed")
            is_sound = False
    if is_sound:
        for route in blocks.values():
            _check_worst(route, routes, report)
            _check_cache(route, routes, report)


def _arms(name: str, routes: Mapping[str, RouteSpec]) -> list[str]:
    """Return the names of a route and of its candidates, any of which a part may get."""
    return [name, *(arm.name for arm in routes[name].arms)] if name in routes else []


def _node(route: RouteSpec, *path: str) -> Node:
    return route.node.nearest(AGGREGATE, *path)


def _depth(name: str, needs: Mapping[str, list[str]]) -> int:
    """Return the number of levels of aggregates from a route on."""
    return 1 + max((_depth(each, needs) for each in needs[name]), default=0)


def _check_block(route: RouteSpec, routes: Mapping[str, RouteSpec], report: Report) -> bool:
    """Report errors in one block; False if there are some."""
    from sidecar.stages.aggregate.plan import find_problems

    block: Spec = route.blocks[AGGREGATE]  # type: ignore[assignment]
    is_sound = True
    if route.match.grpc is not None:
        message = "cannot answer calls of gRPC, which the route takes; match paths, and name routes with `translate`"
        report.error_in(_node(route), message)
        is_sound = False
    if with_body := WITH_BODY & set(route.match.methods or ()):
        message = f"passes no body of a request to its parts, but the route takes {', '.join(sorted(with_body))}"
        report.warn(_node(route), f"{message}; leave these methods out, or write the body of a part as json")
    mirror: Any = route.blocks.get("mirror")
    if mirror is not None and mirror.compare is not None and mirror.compare.noise:
        message = "asks the upstream of the route again, and a route made of parts has none; leave it out"
        report.error_in(route.node.nearest("mirror", "compare", "noise"), message)
        is_sound = False
    for place, message in find_problems(block):
        report.error_in(_node(route, *place), message)
        is_sound = False
    for name, part in block.parts.items():
        target = routes.get(route.parts[name])
        if target is None:
            is_sound = False
            if part.route is not None and report.is_whole:
                known = [each for each in routes if ":" not in each]
                message = f"names no route: there is no `{part.route}`; {report.suggest(part.route, known)}"
                report.error_in(_node(route, "parts", name, "route"), message)
            continue
        if part.route is not None:
            is_sound &= _check_match(route, name, part, target, report)
        if any(each.stale for each in part.otherwise) and "cache" not in target.blocks:
            message = f"never finds a response: the route `{target.name}` has no cache; give it a `cache` block"
            report.warn(_node(route, "parts", name, "otherwise"), message)
    return is_sound


def _check_match(route: RouteSpec, name: str, part: PartSpec, target: RouteSpec, report: Report) -> bool:
    """Report a part whose request its route does not take; False if so."""
    from sidecar.stages.aggregate.plan import path_of
    from sidecar.stages.aggregate.texts import sample

    try:
        rule = Rule(target.match, None)
    except MatchError:
        return True  # reported by check_matches
    node = _node(route, "parts", name, "path")
    if rule.is_grpc:
        report.error_in(
            node, f"goes to the route `{target.name}`, which takes calls of gRPC; name one with `translate`"
        )
        return False
    if not rule.covers(canonical(sample(path_of(part)).encode())):
        message = f"is no path of the route `{target.name}`, which takes {target.match.template}"
        report.error_in(node, f"{message}; write such a path, or name another route")
        return False
    if rule.methods is not None and part.method.encode() not in rule.methods:
        message = f"has the method {part.method}, which the route `{target.name}` does not take"
        report.error_in(node, f"{message}; write one of {', '.join(sorted(target.match.methods or ()))}")
        return False
    return True


# ----- answers that are stored


def _check_cache(route: RouteSpec, routes: Mapping[str, RouteSpec], report: Report) -> None:
    """Report a cache in front of parts that would refuse some of the clients who get the stored answer."""
    if CACHE not in route.blocks:
        return
    node = route.node.nearest(CACHE)
    for name, part in _parts_of(route, routes):
        if AUTHENTICATE in part.blocks and AUTHENTICATE not in route.blocks:
            message = f"stores answers for everyone, but the route `{part.name}` of the part {name} authenticates"
            report.error_in(node, f"{message}; add such an `authenticate` here too, or leave the cache out")
        elif AUTHORIZE in part.blocks and AUTHORIZE not in route.blocks and not _is_by_caller(route, part):
            message = f"stores answers that `authorize` of the route `{part.name}` of the part {name} may refuse"
            report.error_in(node, f"{message} to the next client; repeat `authorize` here, or leave the cache out")


def _parts_of(route: RouteSpec, routes: Mapping[str, RouteSpec]) -> Iterator[tuple[str, RouteSpec]]:
    """Yield the parts of a route and those of its parts, by the name of the part."""
    for name, target in route.parts.items():
        for arm in _arms(target, routes):
            yield name, routes[arm]
            yield from ((f"{name}.{inner}", each) for inner, each in _parts_of(routes[arm], routes))


def _is_by_caller(route: RouteSpec, part: RouteSpec) -> bool:
    """True if all clients that share a stored answer of a route are alike for the `authorize` block of a part."""
    cache: Any = route.blocks[CACHE]
    if AUTHENTICATE not in route.blocks or cache.shared:
        return False
    block: AuthorizeSpec = part.blocks[AUTHORIZE]  # type: ignore[assignment]
    allowed = [rule.allow for rule in block.rules]
    return not any(each is None or each.networks or each.headers or each.when for each in allowed)


# ----- the worst case


def worst_of(route: RouteSpec, routes: Mapping[str, RouteSpec]) -> Cost:
    """Return the worst case of one request through a route, with all parts of its parts.

    The blocks must be without errors.
    """
    from sidecar.stages.aggregate.plan import Cost, worst_case

    blocks: Any = route.blocks
    timeout, retry, hedge = blocks.get("timeout"), blocks.get("retry"), blocks.get("hedge")
    seconds = timeout.request if timeout else NEVER
    if AGGREGATE in blocks:
        names = route.parts
        block: Spec = blocks[AGGREGATE]
        whole = worst_case(block, lambda part: worst_of(routes[names[_name_of(block, part)]], routes))
        return whole._replace(seconds=min(seconds, whole.seconds))
    attempts = retry.max_attempts if retry else 1
    if timeout and retry and not isinf(timeout.attempt) and not hedge:
        pauses = (attempts - 1) * max(retry.backoff.max, 0.0)
        seconds = min(seconds, attempts * timeout.attempt + pauses)
    elif timeout:
        seconds = min(seconds, attempts * timeout.attempt)
    return Cost(seconds, attempts * (1 + hedge.max_extra if hedge else 1), 1)


def _name_of(block: Spec, part: PartSpec) -> str:
    return next(name for name, each in block.parts.items() if each is part)


def _check_worst(route: RouteSpec, routes: Mapping[str, RouteSpec], report: Report) -> None:
    """Report a block that may make more requests than it allows, and times that cannot be."""
    from sidecar.stages.aggregate.plan import levels, needs_of

    block: Spec = route.blocks[AGGREGATE]  # type: ignore[assignment]
    worst = worst_of(route, routes)
    if worst.requests > block.max_calls:
        message = f"may make {worst.requests} requests for one, but max_calls allows {block.max_calls}"
        report.error_in(_node(route, "max_calls"), f"{message}; lower `each.max`, or raise max_calls")
    elif worst.calls > MANY_CALLS:
        message = f"makes up to {worst.calls} calls for one request, retries included"
        report.warn(_node(route, "parts"), f"{message}; lower `each.max` or the retries of the parts")
    timeout: Any = route.blocks.get("timeout")
    request = timeout.request if timeout else NEVER
    if isinf(request):
        return
    whole = route.node.printable(f"{request:g}s", "timeout", "request")
    ends: dict[str, float] = {}
    for name in (name for level in levels(block) for name in level):
        own = block.parts[name].timeout
        before = max((ends[need] for need in needs_of(block.parts[name])), default=0.0)
        ends[name] = before + (own or 0.0)
        if own is None:
            continue
        node = _node(route, "parts", name, "timeout")
        if own >= request:
            report.warn(node, f"has no effect: timeout.request ({whole}) ends first; make it shorter than that")
        elif ends[name] > request * (1 + 1e-9):
            message = f"does not fit: with the parts before it, it ends after {ends[name]:g}s, but timeout.request"
            report.warn(node, f"{message} is {whole}; shorten the timeouts of these parts")
