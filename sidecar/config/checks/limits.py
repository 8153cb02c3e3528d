"""Check of rate limits and quotas: warnings for those that refuse nothing, refuse too much, or can be evaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sidecar.config.node import Node
from sidecar.config.process_spec import OUTBOUND
from sidecar.config.report import Report, suggest
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.core.message import HOP_BY_HOP
from sidecar.limits.spec import ADDRESS, CALLER, NO_KEY, answer_unit, counts_all_of
from sidecar.routing.rule import MatchError, Rule
from sidecar.stages.quota.spec import QuotaSpec
from sidecar.stages.quota.spec import Spec as Quotas
from sidecar.stages.rate_limit.spec import LimitSpec, Spec

AUTHENTICATE: Final = "authenticate"
RATE_LIMIT: Final = "rate_limit"
QUOTA: Final = "quota"
HEADER: Final = "header."
PATH: Final = "path."
SLOWEST: Final = 1024
"""Bytes of answers in a second that a limit by their size may let pass without a warning."""
TAKEN: Final = HOP_BY_HOP | {
    b"host", b"content-length", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
    b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms", b"grpc-timeout", b"x-sidecar-attempt",
}  # fmt: skip
"""Fields that listeners take out of requests, so that no key finds them."""
SPANNED_BY: Final = {
    "hour": ("hour", "day", "week", "month"), "day": ("day", "week", "month"), "week": ("week",), "month": ("month",)
}  # fmt: skip
"""Windows that contain each kind of window as a whole, if they begin at the same time of the day."""
NEVER_REACHED: Final = "is never reached: `{}` refuses earlier; lower it, or leave it out"
Limits = Sequence[LimitSpec | QuotaSpec]
"""Limits of one block."""


def check_limits(spec: PolicySpec, report: Report) -> None:
    """Report captures that are missing, and warn of rate limits and quotas that do not limit what they seem to."""
    seen: set[int] = set()
    used: set[str | None] = set()
    known = spec.routes_with_callers()
    for name, upstream in spec.upstreams.items():
        routes = [route for route in spec.all_routes if route.upstream == name]
        for block, node in (
            (upstream.rate_limit, spec.node.find(("upstreams", name, RATE_LIMIT))),
            (upstream.quota, spec.node.find(("upstreams", name, QUOTA))),
        ):
            if block is None or node is None:
                continue
            limits = _limits_of(block)
            used.update(limit.store for limit in limits)
            _check_block(block, node, report)
            _check_shared(limits, node, len({route.name.partition("@")[0] for route in routes}), report)
            if any(_is_open(spec, route) for route in routes):
                _check_evasion(limits, upstream.rate_limit, node, report)
            for route in routes:
                _check_captures(limits, node, route, report)
            if not any(route.name in known for route in routes):
                _check_callers(limits, node, f"no route of the upstream `{name}` has", report)
    for route in spec.all_routes:
        if (route.node.child(RATE_LIMIT) or route.node.child(QUOTA)) is not None:
            _check_names(spec, route, report)
        for key in (RATE_LIMIT, QUOTA):
            own: Any = route.blocks.get(key)
            node = route.node.child(key)
            if own is None or node is None:
                continue
            limits = _limits_of(own)
            used.update(limit.store for limit in limits)
            _check_captures(limits, node, route, report)
            _check_route(limits, node, route, report)
            if route.name not in known:
                _check_callers(limits, node, f"the route `{route.name}` does not have", report)
            if id(node) not in seen:
                seen.add(id(node))
                _check_block(own, node, report)
                if _is_open(spec, route):
                    _check_evasion(limits, route.blocks.get(RATE_LIMIT), node, report)
    if spec.node.child("service") is None:
        for store in (each for each in spec.stores if each in used):
            message = "has one count for all services that have no name; add a line such as service: orders"
            report.warn(spec.node.nearest("stores", store), message)


def _limits_of(block: Spec | Quotas) -> Limits:
    """Return the limits of a block."""
    return block.limits if isinstance(block, Spec) else block.quotas


def _node_of(node: Node, number: int, *path: str) -> Node:
    """Return the node of a key of a limit, or the last existing node on the way to it."""
    limits = node if isinstance(node.value, list) else node.child("limits") or node.child("quotas") or node
    return limits.nearest(number, *path)


def _check_block(block: Spec | Quotas, node: Node, report: Report) -> None:
    """Warn of keys of limits without effect, of limits that are never reached, and of counts that are lost."""
    for number, limit in enumerate(_limits_of(block)):
        given = _node_of(node, number)
        if given.child("otherwise") is not None and limit.key in (NO_KEY, ADDRESS):
            message = f"has no effect: with the key {limit.key} no request is without a key; leave it out"
            report.warn(_node_of(node, number, "otherwise"), message)
        elif limit.otherwise == limit.key != NO_KEY:
            message = f"has no effect: it is {limit.key} too; write {ADDRESS}, or leave it out"
            report.warn(_node_of(node, number, "otherwise"), message)
        for key in ("key", "otherwise"):
            name = getattr(limit, key).removeprefix(HEADER)
            if name.encode() in TAKEN:
                message = f"counts all requests together: the listener takes {name}, so that no request has it here; "
                report.warn(_node_of(node, number, key), f"{message}write another field, or {ADDRESS}")
        if given.child("ipv6_prefix") is not None and ADDRESS not in (limit.key, limit.otherwise):
            report.warn(_node_of(node, number, "ipv6_prefix"), f"has no effect without the key {ADDRESS}; leave it out")
        if isinstance(limit, LimitSpec) and limit.rate * answer_unit(limit.cost) < SLOWEST and answer_unit(limit.cost):
            size = limit.rate * answer_unit(limit.cost)
            message = f"lets {size:.3g} bytes of answers pass in a second; write a higher rate, or a larger answer_size"
            report.warn(_node_of(node, number, "rate"), message)
        if isinstance(limit, QuotaSpec) and limit.store is None and limit.per != "hour":
            message = f"begins anew whenever the process starts, so a {limit.per} may have several quotas; name a store"
            report.warn(given, message)
    for number, limit in enumerate(block.limits if isinstance(block, Spec) else ()):
        if limit.burst == 0 and limit.delay is None:
            gap = f"{1000 / limit.rate:.3g}ms" if limit.rate >= 1 else f"{1 / limit.rate:.3g}s"
            message = f"refuses the second of two requests that come within {gap}; write such as burst: 10"
            report.warn(_node_of(node, number, "burst"), message)
        if isinstance(block, Spec) and (lower := _lower_limit(block, number)) is not None:
            report.warn(_node_of(node, number, "rate"), NEVER_REACHED.format(lower.name))
    for number in range(0 if isinstance(block, Spec) else len(block.quotas)):
        if isinstance(block, Quotas) and (less := _lower_quota(block, number)) is not None:
            report.warn(_node_of(node, number, "max"), NEVER_REACHED.format(less.name))


def _lower_limit(block: Spec, number: int) -> LimitSpec | None:
    """Return a limit of the block that refuses whatever this one would refuse; None without one."""
    limit = block.limits[number]
    for index, other in enumerate(block.limits):
        is_same = (other.rate, other.capacity, other.key) == (limit.rate, limit.capacity, limit.key)
        if (
            index != number
            and other.mode == "enforce"
            and other.delay is None
            and (other.cost, other.count) == (limit.cost, limit.count)
            and other.rate <= limit.rate
            and other.capacity <= limit.capacity
            and counts_all_of(other, limit)
            and not (is_same and index > number)
        ):
            return other
    return None


def _lower_quota(block: Quotas, number: int) -> QuotaSpec | None:
    """Return a quota of the block that is used up before this one; None without one."""
    quota = block.quotas[number]
    for index, other in enumerate(block.quotas):
        is_same = (other.max, other.per, other.key) == (quota.max, quota.per, quota.key)
        if (
            index != number
            and other.mode == "enforce"
            and other.cost == quota.cost
            and other.max <= quota.max
            and _spans(other, quota)
            and counts_all_of(other, quota)
            and not (is_same and index > number)
        ):
            return other
    return None


def _spans(long: QuotaSpec, short: QuotaSpec) -> bool:
    """True if each window of one quota is within a window of another."""
    if long.per not in SPANNED_BY[short.per] or long.time_zone != short.time_zone:
        return False
    return long.resets.endswith(":00") if short.per == "hour" else long.resets == short.resets


def _check_shared(limits: Limits, node: Node, routes: int, report: Report) -> None:
    """Warn of limits under an upstream of several routes that one client can use up for all others."""
    if routes > 1 and not any(limit.is_keyed for limit in limits):
        message = f"counts all clients of {routes} routes together, so that one can use it up for the others; "
        report.warn(_node_of(node, 0), f"{message}add a limit with a key, such as key: {ADDRESS}")


def _check_evasion(limits: Limits, rates: Any, node: Node, report: Report) -> None:
    """Warn of limits whose key clients choose, if no other limit of the block counts such clients.

    `rates` is the rate limit of the same route or upstream, which bounds a quota too; None without one.
    """
    beside = rates.limits if rates is not None and rates.is_enforced else ()
    for limit in (*limits, *beside):
        if limit.key.partition(".")[0] in (NO_KEY, "client", CALLER) and limit.mode == "enforce":
            return
    for number, limit in enumerate(limits):
        if limit.key.startswith(HEADER):
            field = limit.key.removeprefix(HEADER)
            message = f"is evaded by clients that send another {field} each time; add a limit with key: {ADDRESS}"
            report.warn(_node_of(node, number, "key"), message)


def _check_names(spec: PolicySpec, route: RouteSpec, report: Report) -> None:
    """Warn of a limit whose name another one has that the same responses state."""
    upstream = spec.upstreams.get(route.upstream)
    shared = () if upstream is None else (upstream.rate_limit, upstream.quota)
    blocks: list[tuple[str, Any]] = [("the upstream", block) for block in shared]
    blocks += [(key, route.blocks.get(key)) for key in (RATE_LIMIT, QUOTA)]
    seen: dict[str, str] = {}
    for owner, block in blocks:
        if block is None or not block.is_enforced or block.fields != "structured":
            continue
        node = route.node.child(owner)
        for number, limit in enumerate(_limits_of(block)):
            if limit.mode == "enforce" and limit.name in seen and node is not None:
                message = f"is the name of a limit of {seen[limit.name]} too, so that clients cannot tell them apart"
                report.warn(_node_of(node, number, "name"), f"{message} in RateLimit; rename one")
            elif limit.mode == "enforce":
                seen[limit.name] = f"`{owner}`" if owner == RATE_LIMIT else owner


def _check_callers(limits: Limits, node: Node, who: str, report: Report) -> None:
    """Report each key of authenticated callers where there are none; `who` says what lacks the block."""
    for number, limit in enumerate(limits):
        for key in ("key", "otherwise"):
            given, value = _node_of(node, number, key), getattr(limit, key)
            if value.partition(".")[0] == CALLER and not report.has_error(given):
                message = f"needs the callers of a block `authenticate`, which {who}; add it, or write {ADDRESS}"
                report.error_in(given, message)


def _is_open(spec: PolicySpec, route: RouteSpec) -> bool:
    """True if clients that are not trusted may reach the route."""
    names = spec.listeners if route.listener is None else {route.listener}
    for name in names:
        listener = spec.listeners.get(name)
        if listener is None or (listener.address.is_loopback and name == OUTBOUND):
            continue
        if listener.tls is None or listener.tls.client_ca is None:
            return True
    return False


def _check_route(limits: Limits, node: Node, route: RouteSpec, report: Report) -> None:
    """Warn of limits that other blocks of the route leave without effect."""
    timeout: Any = route.blocks.get("timeout")
    request = getattr(timeout, "request", None)
    authenticate: Any = route.blocks.get(AUTHENTICATE)
    is_optional = authenticate is not None and (authenticate.optional or not authenticate.is_enforced)
    for number, limit in enumerate(limits):
        if is_optional and limit.needs_callers and limit.otherwise == NO_KEY:
            message = f"counts all anonymous requests together; add otherwise: {ADDRESS}"
            report.warn(_node_of(node, number, "key"), message)
        if not isinstance(limit, LimitSpec):
            continue
        if limit.count == "misses" and "cache" not in route.blocks:
            message = f"has no effect: the route `{route.name}` has no cache; leave it out"
            report.warn(_node_of(node, number, "count"), message)
        if limit.delay is not None and isinstance(request, float) and limit.delay.max >= request:
            message = f"is not shorter than timeout.request ({request:g}s) of the route `{route.name}`; make it shorter"
            report.warn(_node_of(node, number, "delay", "max"), message)


def _check_captures(limits: Limits, node: Node, route: RouteSpec, report: Report) -> None:
    """Report each key `path.NAME` that the match of a route does not capture."""
    for number, limit in enumerate(limits):
        for key in ("key", "otherwise"):
            value: str = getattr(limit, key)
            if not value.startswith(PATH):
                continue
            given = _node_of(node, number, key)
            name, known = value.removeprefix(PATH), _captured(route)
            if known is not None and name not in known and not report.has_error(given):
                message = f"names {value}, which the route `{route.name}` does not capture"
                report.error_in(given, f"{message}; {suggest(name, known)}")


def _captured(route: RouteSpec) -> set[str] | None:
    """Return the names that the match of a route captures; None if the match is wrong."""
    try:
        rule = Rule(route.match, None)
    except MatchError:
        return None
    return {name for name, _ in rule.captures} | set(rule.pattern.groupindex if rule.pattern is not None else ())
