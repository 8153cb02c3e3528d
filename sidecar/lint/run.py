"""Run of all rules over one set of policies, with suppressions from the files.

Findings that are equal at one place are one finding: a value that many routes inherit is reported once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sidecar.config.files import Source
from sidecar.config.load import Loaded
from sidecar.config.node import Mark, Node
from sidecar.config.report import visible
from sidecar.config.spec import PolicySpec
from sidecar.core.spec import Problem
from sidecar.lint.chain import Chain
from sidecar.lint.facts import Policies
from sidecar.lint.known import CHECK, COMMENT
from sidecar.lint.rule import Rule, Scope, Severity
from sidecar.lint.suppress import Suppressions
from sidecar.lint.table import RULES
from sidecar.lint.traffic import NO_TRAFFIC, TrafficSpec

RANKS: Final[dict[Severity, int]] = {"error": 0, "warning": 1, "note": 2}
"""Order of severities, the worst first."""


class Fix(NamedTuple):
    """Replacement of one scalar in a file."""

    mark: Mark
    """Place of the scalar."""
    old: str
    """Scalar as it was read."""
    new: str
    """Text that replaces it."""


class Finding(NamedTuple):
    """Mistake that a rule found."""

    rule: str
    """Identifier of the rule."""
    severity: Severity
    problem: Problem
    """Place and message."""
    fix: Fix | None = None
    """Replacement that is safe; None without one."""
    reason: str = ""
    """Reason of the suppression that hides the finding; empty unless it is suppressed."""

    @property
    def text(self) -> str:
        """Return the finding on one line: place, path, severity, identifier and message."""
        problem = self.problem
        return str(problem._replace(message=f"{self.severity}: {self.rule}: {problem.message}"))


class Linted(NamedTuple):
    """Result of a run of the rules."""

    findings: list[Finding]
    """Findings that count, in the order of their places."""
    suppressed: list[Finding]
    """Findings that comments in the files suppress, in the order of their places."""


def lint(
    loaded: Loaded, sources: Sequence[Source], traffic: TrafficSpec = NO_TRAFFIC, rules: Iterable[Rule] = RULES
) -> Linted:
    """Return what the rules find in loaded policies; nothing if these have errors.

    `sources` are the files, whose comments may suppress findings.
    """
    if loaded.spec is None:
        return Linted([], [])
    found = list(find(loaded.spec, traffic, rules))
    checked = {rule.id for rule in rules if rule.is_checked_at_load}
    places = {each.problem[:3] for each in found if each.rule in checked}
    found += [Finding(CHECK, "warning", each) for each in loaded.warnings if each[:3] not in places]
    return judge(found, sources)


def judge(found: Iterable[Finding], sources: Sequence[Source]) -> Linted:
    """Return findings sorted by place, those apart that comments in the files suppress."""
    suppressions = Suppressions(sources)
    linted = _apart(found, suppressions)
    wrong = [Finding(COMMENT, "warning", problem) for problem in suppressions.problems]
    return Linted(sorted(linted.findings + wrong, key=_order), linted.suppressed)


def merge(linted: Linted, found: Iterable[Finding], sources: Sequence[Source]) -> Linted:
    """Return findings with further ones, which comments in the files may suppress too."""
    more = _apart(found, Suppressions(sources))
    return Linted(
        sorted(linted.findings + more.findings, key=_order), sorted(linted.suppressed + more.suppressed, key=_order)
    )


def _order(finding: Finding) -> tuple[tuple[str, int, int], str]:
    return finding.problem[:3], finding.rule


def _apart(found: Iterable[Finding], suppressions: Suppressions) -> Linted:
    """Return findings by their order, suppressed ones apart with their reasons."""
    kept: list[Finding] = []
    hidden: list[Finding] = []
    for each in sorted(found, key=_order):
        reason = suppressions.reason(each.rule, each.problem.file, each.problem.line)
        if reason is None:
            kept.append(each)
        else:
            hidden.append(each._replace(reason=reason))
    return Linted(kept, hidden)


def find(spec: PolicySpec, traffic: TrafficSpec = NO_TRAFFIC, rules: Iterable[Rule] = RULES) -> Iterator[Finding]:
    """Yield what the rules find, each place once for each message."""
    policies = Policies(spec, traffic)
    facts: dict[Scope, Sequence[Any]] = {
        "policies": [policies],
        "upstream": list(policies.upstreams.values()),
        "route": policies.routes,
        "breaker": list(policies.breakers()),
        "limit": list(policies.limits()),
    }
    yield from _find(rules, facts, [spec])


def find_in_chain(chain: Chain) -> Iterator[Finding]:
    """Yield what the rules along a chain find, each place once for each message."""
    from sidecar.lint.rules import chains

    yield from _find(chains.RULES, {"chain": [chain]}, [each.spec for each in chain.services.values()])


def _find(
    rules: Iterable[Rule], facts: Mapping[Scope, Sequence[Any]], specs: Sequence[PolicySpec]
) -> Iterator[Finding]:
    """Yield what rules find; values of environment variables are as the files have them."""
    seen: set[tuple[str, Mark, str]] = set()
    for rule in rules:
        for each in facts[rule.scope]:
            for node, message, fix in rule.check(each):
                key = rule.id, node.place, message
                if key not in seen:
                    seen.add(key)
                    text = message if node.origin is None else node.origin.masked(message, node.value)
                    for spec in specs:
                        text = spec.masks.text(text)
                    problem = Problem(*node.place, visible(node.path), visible(text))
                    yield Finding(rule.id, rule.severity, problem, _fix(node, fix))


def _fix(node: Node, text: str | None) -> Fix | None:
    """Return the replacement of a scalar; None without a text, and for a value from an environment variable."""
    if text is None or node.origin is not None or isinstance(node.value, dict | list) or node.value is None:
        return None
    return Fix(node.mark, str(node.value), text)
