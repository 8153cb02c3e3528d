"""Findings as a SARIF 2.1.0 log (OASIS), which code hosts show beside the lines of a change.

Suppressed findings are part of the log, with the reason as justification, so that a reader can count them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, Final

from sidecar.lint.known import every_rule
from sidecar.lint.rule import Rule
from sidecar.lint.run import Finding

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif_document(findings: Iterable[Finding], suppressed: Iterable[Finding], version: str) -> dict[str, Any]:
    """Return the log of one run, by this version of the sidecar."""
    results = [*findings, *suppressed]
    known = every_rule()
    used = [known[name] for name in sorted({each.rule for each in results}) if name in known]
    index = {rule.id: number for number, rule in enumerate(used)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "sidecar lint",
                        "semanticVersion": version,
                        "rules": [_descriptor(rule) for rule in used],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(each, index) for each in results],
            }
        ],
    }


def _descriptor(rule: Rule) -> dict[str, Any]:
    """Return the reporting descriptor of a rule (SARIF 3.49)."""
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.why} Source: {rule.source}."},
        "help": {"text": f"See docs/{rule.anchor}."},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Finding, index: dict[str, int]) -> dict[str, Any]:
    """Return the result of a finding (SARIF 3.27)."""
    problem = finding.problem
    text = f"{problem.path}: {problem.message}" if problem.path else problem.message
    found: dict[str, Any] = {
        "ruleId": finding.rule,
        "level": finding.severity,
        "message": {"text": text},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": PurePath(problem.file).as_posix()},
                    "region": {"startLine": max(1, problem.line), "startColumn": max(1, problem.column)},
                },
                "logicalLocations": [{"fullyQualifiedName": problem.path or "policies"}],
            }
        ],
    }
    if finding.rule in index:
        found["ruleIndex"] = index[finding.rule]
    if finding.reason:
        found["suppressions"] = [{"kind": "inSource", "justification": finding.reason}]
    return found
