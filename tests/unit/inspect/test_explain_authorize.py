"""Tests of what `explain` says on `authorize`: the rule that decides, or what each rule misses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.core.exchange import Caller
from sidecar.inspect.dry import compile_dry
from sidecar.inspect.explain import exchange_of
from sidecar.inspect.explain_authorize import authorization_sentences

POLICY = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:1"]}}
routes:
  - name: r
    upstream: app
    authorize: %s
"""
LIST = """
      - deny: {networks: ["203.0.113.0/24"]}
      - allow: {methods: [GET], headers: {x-tier: gold}}
      - allow: {when: "caller.claims.tenant == 'acme'"}
"""


def sentences(block: str, *, by: Any = None, at: str = "", **fields: str) -> list[str] | None:
    loaded = load([Source("a.yaml", (POLICY % block).encode())], {})
    assert loaded.spec is not None, json.dumps([str(each) for each in loaded.problems])
    snapshot = compile_dry(loaded.spec)
    x = exchange_of("GET", "/x", [(name.replace("_", "-"), value) for name, value in fields.items()])
    x.caller, x.client_address = by, at
    return authorization_sentences(snapshot.routes["r"], x)


def test_the_rule_that_decides() -> None:
    assert sentences(LIST, x_tier="gold", at="192.0.2.1") == [
        "rule 2 (a.yaml:9) allows an anonymous caller at 192.0.2.1"
    ]
    alice = Caller("alice", "ids", {"tenant": "acme"})
    assert sentences(LIST, by=alice, at="192.0.2.1") == ["rule 3 (a.yaml:10) allows the caller alice at 192.0.2.1"]
    assert sentences(LIST, by=alice, at="203.0.113.7") == [
        "rule 1 (a.yaml:8) denies the caller alice at 203.0.113.7 (403)"
    ]


def test_what_each_rule_misses() -> None:
    assert sentences(LIST, at="192.0.2.1") == [
        "no rule allows an anonymous caller at 192.0.2.1 (403)",
        "rule 2 (a.yaml:9) does not allow it: `headers` is not met",
        "rule 3 (a.yaml:10) does not allow it: `when` is not met",
    ]


@pytest.mark.parametrize(
    ("block", "end"),
    [
        ("{mode: observe, networks: [10.0.0.0/8]}", ", but passes: mode is observe"),
        ("{networks: [10.0.0.0/8]}", ""),
    ],
)
def test_short_forms(block: str, end: str) -> None:
    assert sentences(block) == [
        f"no rule allows an anonymous caller at an unknown address (403){end}",
        "rule 1 (a.yaml:7) does not allow it: `networks` is not met",
    ]


def test_a_route_without_the_block_has_nothing_to_say() -> None:
    assert sentences("off") is None
