"""Policies for the tests of lint: short texts, completed with what each policy file needs."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.lint.rule import Rule
from sidecar.lint.run import Finding, Linted, lint
from sidecar.lint.table import RULES
from sidecar.lint.traffic import load_traffic

HEAD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
"""
UPSTREAM = """\
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
"""
FILE = "p.yaml"


def completed(text: str) -> Source:
    """Return a text as a policy file, with listeners, and the upstream `app` unless it declares upstreams."""
    return Source(FILE, f"{HEAD}{'' if 'upstreams:' in text else UPSTREAM}{text}\n".encode())


def run(text: str, traffic: str = "", rules: Iterable[Rule] = RULES) -> Linted:
    """Return what the rules find in policies, which must be without errors."""
    source = completed(text)
    loaded = load([source], {})
    assert loaded.spec is not None, list(map(str, loaded.problems))
    stated, problems = load_traffic(Source("traffic.yaml", traffic.encode()))
    assert stated is not None, problems
    return lint(loaded, [source], stated, rules)


def found(text: str, traffic: str = "") -> list[Finding]:
    """Return the findings in policies."""
    return run(text, traffic).findings


def names(text: str, traffic: str = "") -> set[str]:
    """Return the rules that find something in policies."""
    return {each.rule for each in found(text, traffic)}
