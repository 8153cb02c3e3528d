"""Rules of `authorize`, compiled, and the decision on a request.  No I/O.

Scopes are compared as whole words.  They are in the claim `scope`, a text with spaces between them (RFC 8693 4.2,
RFC 9068 2.2.3), or in `scp`, which some issuers write instead; both may also be lists.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.core.exchange import Caller, Exchange
from sidecar.expression.condition import Condition
from sidecar.expression.facts import AUTHORIZE, text
from sidecar.stages.authorize.networks import Networks
from sidecar.stages.authorize.spec import AllowSpec, Spec

SCOPE_CLAIMS: Final = ("scope", "scp")
"""Claims with scopes; the first that a caller has counts."""


def scopes_of(caller: Caller | None) -> frozenset[str]:
    """Return the scopes of a caller; none for an anonymous request, and for a claim of another type."""
    claims: dict[str, Any] = {} if caller is None else caller.claims
    found = next((claims[name] for name in SCOPE_CLAIMS if name in claims), None)
    if isinstance(found, str):
        return frozenset(filter(None, found.split(" ")))
    if isinstance(found, list):
        return frozenset(each for each in found if isinstance(each, str))
    return frozenset()


class Rule:
    """Compiled `allow`."""

    __slots__ = ("_callers", "_headers", "_methods", "_networks", "_path", "_reads_caller", "_scopes", "_when")

    def __init__(self, spec: AllowSpec) -> None:
        self._scopes = frozenset(spec.scopes)
        self._callers = frozenset(spec.callers)
        self._networks = Networks(spec.networks) if spec.networks else None
        self._methods = frozenset(name.encode() for name in spec.methods)
        self._path = tuple((name, frozenset(values)) for name, values in spec.path.items())
        self._headers = tuple((name.lower().encode(), frozenset(values)) for name, values in spec.headers.items())
        self._when = None if spec.when is None else Condition(spec.when, AUTHORIZE)
        self._reads_caller = self._when is not None and any(need.startswith("caller") for need in self._when.needs)

    def missing(self, x: Exchange) -> str:
        """Return the key of the first condition that a request does not meet; empty if it meets all.

        Scopes come last: a caller that lacks nothing else is told to get more of them.
        """
        if self._methods and x.method not in self._methods:
            return "methods"
        if self._callers and (x.caller is None or x.caller.id not in self._callers):
            return "callers"
        if self._networks is not None and not self._networks.find(x.client_address):
            return "networks"
        for capture, values in self._path:
            if x.captures.get(capture) not in values:
                return "path"
        for name, values in self._headers:
            value = x.joined(name)
            if value is None or text(value) not in values:
                return "headers"
        if self._when is not None and not self._when.holds(x):
            return "when"
        return "scopes" if self._scopes and not self._scopes <= scopes_of(x.caller) else ""

    def waits_for_caller(self, x: Exchange) -> bool:
        """True if an anonymous request might meet all conditions if it had a caller."""
        if not (self._callers or self._scopes or self._reads_caller):
            return False
        if self._methods and x.method not in self._methods:
            return False
        if self._networks is not None and not self._networks.find(x.client_address):
            return False
        if any(x.captures.get(capture) not in values for capture, values in self._path):
            return False
        given = [(x.joined(name), values) for name, values in self._headers]
        return all(value is not None and text(value) in values for value, values in given)


class Decision(NamedTuple):
    """Decision on a request."""

    is_allowed: bool
    rule: int
    """Index of the rule that decides, in the list of the policy file; -1 if no rule allows the request."""


class Rules:
    """Compiled rules of one block."""

    __slots__ = ("_allowed", "_denied")

    def __init__(self, spec: Spec) -> None:
        rules = tuple(enumerate(spec.rules))
        self._denied = tuple((index, Networks(rule.deny.networks)) for index, rule in rules if rule.deny is not None)
        self._allowed = tuple((index, Rule(rule.allow)) for index, rule in rules if rule.allow is not None)

    def decide(self, x: Exchange) -> Decision:
        """Return the decision on a request.

        A client whose address is unknown is denied where any network is: it may be in that network.
        """
        for index, networks in self._denied:
            if networks.find(x.client_address) is not False:
                return Decision(False, index)
        for index, rule in self._allowed:
            if not rule.missing(x):
                return Decision(True, index)
        return Decision(False, -1)

    def wait_for_caller(self, x: Exchange) -> bool:
        """True if a rule might allow an anonymous request if it had a caller."""
        return any(rule.waits_for_caller(x) for _, rule in self._allowed)

    def wait_for_scopes(self, x: Exchange) -> bool:
        """True if a rule would allow a request if its caller had more scopes."""
        return any(rule.missing(x) == "scopes" for _, rule in self._allowed)

    def missing(self, x: Exchange) -> dict[int, str]:
        """Return for each `allow` that a request does not meet, by its index, the key of the first such condition."""
        return {index: key for index, rule in self._allowed if (key := rule.missing(x))}
