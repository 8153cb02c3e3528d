"""Rules of `sidecar lint`: what a rule is, and what it finds.

A rule is one pure function over facts of the policies (`facts.py`), in a table with all that a reader needs to judge
it: severity, source, the reason in one sentence, an example that it finds and one that it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from sidecar.config.node import Node
from sidecar.lint.facts import BreakerFacts, LimitFacts, Policies, RouteFacts, UpstreamFacts

if TYPE_CHECKING:
    from sidecar.lint.chain import Chain

Severity = Literal["error", "warning", "note"]
Scope = Literal["policies", "upstream", "route", "breaker", "limit", "chain"]
PAGE: Final = "lint.md"
"""Page of the documentation that has an anchor for each rule."""


class Hit(NamedTuple):
    """Place where a rule found something."""

    node: Node
    """Node of the value that is wrong, or the nearest one that the files have."""
    message: str
    """Description with the computed numbers, and what would be right."""
    fix: str | None = None
    """Text that replaces the scalar at the node without another effect on requests; None without such a text."""


Check = Callable[[Any], Iterator[Hit]]
"""Function of a rule: facts of its scope to places."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Entry of the table of rules."""

    id: str
    """Identifier, such as `R011`, that never gets another meaning."""
    title: str
    """Noun phrase of the mistake."""
    severity: Severity
    """`error` for what cannot work, `warning` for what fails in an incident, `note` for what deserves a look."""
    scope: Scope
    """Facts that `check` takes."""
    why: str
    """Reason in one or two sentences."""
    source: str
    """Paper, RFC, incident report or documentation that the rule comes from."""
    failing: str
    """Policies that the rule finds; listeners, and the upstream `app`, are added where they are missing."""
    passing: str
    """Policies with the mistake corrected."""
    check: Check
    traffic: str = ""
    """Stated traffic of both examples, as a traffic file has it; empty without one."""
    is_checked_at_load: bool = False
    """True if loading warns of the same places; these warnings are left out beside what the rule finds."""

    @property
    def anchor(self) -> str:
        """Return the anchor of the rule in the documentation."""
        return f"{PAGE}#{self.id.lower()}"


class RuleText(NamedTuple):
    """Texts of a rule, which stand above its function."""

    id: str
    title: str
    severity: Severity
    why: str
    source: str
    failing: str
    passing: str
    traffic: str = ""
    is_checked_at_load: bool = False


def route_rule(text: RuleText) -> Callable[[Callable[[RouteFacts], Iterator[Hit]]], Rule]:
    """Return a decorator that makes a rule of a function over one route."""
    return lambda check: _rule(text, "route", check)


def upstream_rule(text: RuleText) -> Callable[[Callable[[UpstreamFacts], Iterator[Hit]]], Rule]:
    """Return a decorator that makes a rule of a function over one upstream."""
    return lambda check: _rule(text, "upstream", check)


def breaker_rule(text: RuleText) -> Callable[[Callable[[BreakerFacts], Iterator[Hit]]], Rule]:
    """Return a decorator that makes a rule of a function over one breaker, of a route or an upstream."""
    return lambda check: _rule(text, "breaker", check)


def limit_rule(text: RuleText) -> Callable[[Callable[[LimitFacts], Iterator[Hit]]], Rule]:
    """Return a decorator that makes a rule of a function over one limit of concurrency with a queue."""
    return lambda check: _rule(text, "limit", check)


def policies_rule(text: RuleText) -> Callable[[Callable[[Policies], Iterator[Hit]]], Rule]:
    """Return a decorator that makes a rule of a function over the policies as a whole."""
    return lambda check: _rule(text, "policies", check)


def chain_rule(text: RuleText) -> Callable[[Callable[[Chain], Iterator[Hit]]], Rule]:
    """Return a decorator that makes a rule of a function over a chain of services.

    The examples of such a rule have a service in each YAML document.
    """
    return lambda check: _rule(text, "chain", check)


def _rule(text: RuleText, scope: Scope, check: Check) -> Rule:
    return Rule(
        text.id, text.title, text.severity, scope, text.why, text.source, text.failing.strip() + "\n",
        text.passing.strip() + "\n", check, text.traffic, text.is_checked_at_load,
    )  # fmt: skip
