"""Check of matches: every condition compiles, and no two routes take the same requests."""

from __future__ import annotations

from pydantic import ValidationError

from sidecar.config.node import Node
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.routing.match_spec import MatchSpec
from sidecar.routing.router import ties
from sidecar.routing.rule import MatchError, Rule


def check_matches(spec: PolicySpec, report: Report) -> None:
    """Report conditions that do not compile, and routes of one listener that take the same requests."""
    rules: list[Rule[RouteSpec]] = []
    order: dict[Rule[RouteSpec], int] = {}
    for route in spec.routes:
        try:
            rules.append(rule := Rule(route.match, route))
            order[rule] = len(order)
        except MatchError as error:
            node = route.node.nearest("match")
            report.error_in(node.nearest(error.key), str(error))
            check_match(node, report)
    reported: set[tuple[int, int]] = set()
    each: dict[str | None, list[Rule[RouteSpec]]] = {}
    for rule in rules:
        each.setdefault(rule.target.listener, []).append(rule)
    everywhere = each.get(None, [])
    shared = [everywhere] if len(everywhere) > 1 else []
    for mine in (*shared, *(each[listener] + everywhere for listener in spec.listeners if listener in each)):
        for one, two in ties(sorted(mine, key=order.__getitem__)):
            if (id(one), id(two)) not in reported:
                reported.add((id(one), id(two)))
                _report_tie(one.target, two.target, report)


def check_match(node: Node, report: Report) -> None:
    """Report each wrong condition of a match, one by one: a whole `Rule` stops at the first."""
    for key, member in node.items.items():
        try:
            Rule(MatchSpec.model_validate({key: member.plain()}), None)
        except ValidationError:
            continue  # reported by the validation of the route
        except MatchError as error:
            report.error_in(member, str(error))


def _report_tie(first: RouteSpec, second: RouteSpec, report: Report) -> None:
    """Report two routes that take the same requests, at the second one."""
    where = ":".join(map(str, first.node.nearest("match").place))
    message = f"takes requests that the route `{first.name}` takes too, and neither is more specific: see {where}"
    report.error_in(second.node.nearest("match"), f"{message}; add a condition to one of them")
