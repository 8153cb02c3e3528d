"""Check of `authorize`: rules that can never allow, rules without effect, and lists that allow everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.node import Node
from sidecar.config.report import Report, suggest
from sidecar.config.spec import RouteSpec
from sidecar.routing.rule import MatchError, Rule

if TYPE_CHECKING:
    from sidecar.expression.condition import Condition
    from sidecar.stages.authorize.networks import Networks
    from sidecar.stages.authorize.spec import AllowSpec, Spec

AUTHORIZE: Final = "authorize"
AUTHENTICATE: Final = "authenticate"
RULES: Final = "rules"


def check_authorization(route: RouteSpec, report: Report, *, has_callers: bool) -> None:
    """Report captures that do not exist, and warn of rules without a use.

    `has_callers` is True if the requests of the route may have callers.
    """
    block: Spec | None = route.blocks.get(AUTHORIZE)  # type: ignore[assignment]
    if block is None:
        return
    from sidecar.stages.authorize.networks import Networks

    whole = route.node.nearest(AUTHORIZE)
    authenticate: Any = route.blocks.get(AUTHENTICATE)
    denied = Networks(each for rule in block.rules if rule.deny is not None for each in rule.deny.networks)
    has_denied = any(rule.deny is not None for rule in block.rules)
    opened = False
    needs_caller = []
    earlier: list[AllowSpec] = []
    for number, rule in enumerate(block.rules):
        if (allow := rule.allow) is None:
            continue
        node = rule_node(whole, number)
        condition = _condition(allow)
        _captures(route, allow, condition, node, report)
        _names(allow, node, report)
        needs_caller.append(allow.needs_caller or (condition is not None and "caller" in condition.needs))
        if opened:
            report.warn(node, "has no effect: a rule above allows every request; put that one last, or take it out")
        elif needs_caller[-1] and not has_callers:
            report.warn(node, "needs to know the caller, and the route has no authenticate; add it")
        elif any(_allows_all_of(other, allow) for other in earlier):
            report.warn(node, "has no effect: a rule above allows the same requests and maybe more; take one out")
        else:
            for why in _why_never(route, allow, denied):
                report.warn(node, f"never allows a request: {why}")
        earlier.append(allow)
        opened = opened or allow.is_open
    if not needs_caller:
        report.warn(
            whole, "allows nothing, since it has no allow; add a rule such as `- allow: {scopes: [orders:read]}`"
        )
    elif opened and not has_denied:
        report.warn(whole, "allows every request, since a rule has no condition; add one, or take the block out")
    if authenticate is not None and authenticate.optional and block.is_enforced and needs_caller and all(needs_caller):
        message = "has no effect: each rule of authorize needs a caller, so the anonymous are refused; take it out"
        report.warn(route.node.nearest(AUTHENTICATE, "optional"), message)
    is_observed = authenticate is not None and not authenticate.is_enforced
    if needs_caller and all(needs_caller) and is_observed and block.is_enforced:
        message = "refuses callers that authenticate, which only observes, lets pass as anonymous; add mode: observe"
        report.warn(whole, message)


def rule_node(block: Node, number: int) -> Node:
    """Return the node of a rule, whichever form of the block the file has."""
    rules = block.child(RULES) or block
    return rules.child(number) or rules


def _condition(allow: AllowSpec) -> Condition | None:
    if allow.when is None:
        return None
    from sidecar.expression.condition import Condition
    from sidecar.expression.facts import AUTHORIZE as SCOPE

    return Condition(allow.when, SCOPE)


def _captures(route: RouteSpec, allow: AllowSpec, condition: Condition | None, node: Node, report: Report) -> None:
    """Report captures that the route's match does not have."""
    named = [*allow.path, *(() if condition is None else sorted(condition.captures))]
    if not named:
        return
    try:
        rule = Rule(route.match, None)
    except MatchError:
        return  # reported by check_matches
    known = {name for name, _ in rule.captures} | set(rule.pattern.groupindex if rule.pattern is not None else ())
    for name in named:
        if name not in known:
            message = f"names the capture {name}, which the route `{route.name}` does not have; {suggest(name, known)}"
            report.error_in(node, message)


def _allows_all_of(allow: AllowSpec, other: AllowSpec) -> bool:
    """True if a rule certainly allows each request that the other one allows."""
    from sidecar.stages.authorize.networks import Networks

    return (
        set(allow.scopes) <= set(other.scopes)
        and _takes(allow.callers, other.callers)
        and _takes(allow.methods, other.methods)
        and (not allow.networks or (other.networks != () and all(map(Networks(allow.networks).cover, other.networks))))
        and all(_takes(values, other.path.get(name, ())) for name, values in allow.path.items())
        and all(_takes(values, other.headers.get(name, ())) for name, values in allow.headers.items())
        and allow.when in (None, other.when)
    )


def _takes(values: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """True if a list of permitted values has all of another one; an empty list permits everything."""
    return not values or (others != () and set(others) <= set(values))


def _names(allow: AllowSpec, node: Node, report: Report) -> None:
    """Warn of values that a list has twice, and of names of callers that look like patterns."""
    conditions = node.child("allow") or node
    for key in ("scopes", "callers", "methods", "networks"):
        values = getattr(allow, key)
        for value in dict.fromkeys(each for each in values if values.count(each) > 1):
            report.warn(conditions.nearest(key), f"has `{value}` twice; take one out")
    for name in allow.callers:
        if "*" in name:
            report.warn(conditions.nearest("callers"), _no_pattern(name))


def _no_pattern(name: str) -> str:
    """Return the warning of a caller's name with an asterisk."""
    head, _, tail = name.partition("*")
    whom = "caller.id != ''" if name == "*" else f"caller.id.startsWith('{head}')" if head and not tail else ""
    instead = f'for such callers write when: "{whom}"' if whom else "write the whole name of each caller"
    return f"names the caller `{name}`, and `*` stands for nothing else here; {instead}"


def _why_never(route: RouteSpec, allow: AllowSpec, denied: Networks) -> Iterator[str]:
    """Yield the reasons for which a rule can never allow a request."""
    taken = ["POST"] if route.match.grpc is not None else route.match.methods
    if allow.methods and taken is not None and not set(allow.methods) & set(taken):
        yield f"the match of the route takes {', '.join(taken)} only"
    if allow.networks and all(map(denied.cover, allow.networks)):
        yield "all its networks are denied"
