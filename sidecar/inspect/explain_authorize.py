"""Text on the rule of `authorize` that decides on one request, and on the conditions that other rules miss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config.checks.authorizations import AUTHORIZE, rule_node
from sidecar.config.checks.identities import AUTHENTICATE
from sidecar.control.route import Route
from sidecar.core.exchange import Exchange

if TYPE_CHECKING:
    from sidecar.stages.authorize.rules import Rules


def authorization_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on the decision about a request by its caller and address; None without `authorize`."""
    link = next((each for each in route.chain if each.policy == AUTHORIZE), None)
    if link is None:
        return None
    rules: Rules = getattr(link.stage, "rules")  # noqa: B009 - the stage is imported on demand
    node = route.spec.node.nearest(AUTHORIZE)

    def place(number: int) -> str:
        mark = rule_node(node, number).mark
        return f"rule {number + 1} ({mark.file}:{mark.line})"

    caller = "an anonymous caller" if x.caller is None else f"the caller {x.caller.id}"
    client = f"at {x.client_address}" if x.client_address else "at an unknown address"
    decision = rules.decide(x)
    if decision.is_allowed:
        return [f"{place(decision.rule)} allows {caller} {client}"]
    missing = [f"{place(number)} does not allow it: `{key}` is not met" for number, key in rules.missing(x).items()]
    if decision.rule >= 0:
        first = f"{place(decision.rule)} denies {caller} {client}"
        missing = []
    else:
        first = f"no rule allows {caller} {client}"
    is_asked = x.caller is None and decision.rule < 0 and AUTHENTICATE in route.policies and rules.wait_for_caller(x)
    status = 401 if is_asked else 403
    would = "" if link.block.is_enforced else ", but passes: mode is observe"
    return [f"{first} ({status}){would}", *missing]
