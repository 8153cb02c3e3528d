"""Policies for the tests of lint: short texts, completed with what each policy file needs."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.lint.chain import Chain
from sidecar.lint.rule import Rule
from sidecar.lint.run import Finding, Linted, find_in_chain, lint
from sidecar.lint.table import RULES
from sidecar.lint.traffic import load_traffic

VERSION = "version: 1\n"
LISTENERS = """\
listeners: {inbound: {address: "127.0.0.1:8080"}}
"""
UPSTREAM = """\
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
"""
FILE = "p.yaml"


def completed(text: str, name: str = FILE) -> Source:
    """Return a text as a policy file, with a listener and the upstream `app` unless it has such sections."""
    head = VERSION + ("" if "listeners:" in text else LISTENERS) + ("" if "upstreams:" in text else UPSTREAM)
    return Source(name, f"{head}{text}\n".encode())


def run(text: str, traffic: str = "", rules: Iterable[Rule] = RULES) -> Linted:
    """Return what the rules find in policies, which must be without errors."""
    source = completed(text)
    loaded = load([source], {})
    assert loaded.spec is not None, list(map(str, loaded.problems))
    stated, problems = load_traffic(Source("traffic.yaml", traffic.encode()))
    assert stated is not None, problems
    return lint(loaded, [source], stated, rules)


def found(text: str, traffic: str = "") -> list[Finding]:
    """Return the findings in policies, or along the chain of several YAML documents."""
    if "---\n" in text:
        return list(find_in_chain(chain(text)))
    return run(text, traffic).findings


def chain(text: str) -> Chain:
    """Return the chain of services in YAML documents."""
    specs = []
    for number, each in enumerate(text.split("---\n")):
        loaded = load([completed(each, f"{number}.yaml")], {})
        assert loaded.spec is not None, list(map(str, loaded.problems))
        specs.append(loaded.spec)
    return Chain(specs, {})


def names(text: str, traffic: str = "") -> set[str]:
    """Return the rules that find something in policies."""
    return {each.rule for each in found(text, traffic)}
