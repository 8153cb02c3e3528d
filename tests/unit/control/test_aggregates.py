"""Tests of routes with parts in the description of the policies in force."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.resolve import INNER
from sidecar.config.spec import AGGREGATE
from sidecar.control.compiler import compile_policies
from sidecar.control.reload import Control
from sidecar.control.state import StateStore
from sidecar.stages import BY_NAME
from tests.support.clock import make_env
from tests.unit.inspect.test_explain_aggregate import snapshot
from tests.unit.stages.aggregate.test_stage import policies

BESIDE = {
    name: kind.examples for name, kind in BY_NAME.items() if name not in (*INNER, AGGREGATE, "authenticate", "cache")
}
"""Examples of the blocks that a route with parts may have."""


@pytest.mark.parametrize(
    ("name", "example"),
    [(name, each) for name, examples in BESIDE.items() for each in examples if "'store'" not in str(each)],
)
def test_what_check_accepts_beside_parts_can_be_built(name: str, example: Any) -> None:
    block = json.dumps({name: example})[1:-1]
    own = f"    {block}\n".replace('"other"', '"users"')
    text = policies(route=own if name != "timeout" else "")
    loaded = load([Source("policies.yaml", text.encode())], {})
    if loaded.spec is not None:
        lease = StateStore().lease()
        compile_policies(loaded.spec, make_env(), lease)
        lease.abandon()
    else:
        assert "asks the upstream of the route again" in str(loaded.problems)


def test_a_route_with_parts_is_described_by_them() -> None:
    control: Any = SimpleNamespace(snapshot=snapshot(policies()))
    found = Control.describe_routes(control)
    assert found["page"]["upstream"] == ""
    assert found["page"]["parts"] == {"user": "page:user", "orders": "orders-of-user", "score": "page:score"}
    assert (found["page:user"]["upstream"], found["page:user"]["parts"]) == ("users", {})
