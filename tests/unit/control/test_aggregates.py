"""Tests of routes with parts in the description of the policies in force."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sidecar.control.reload import Control
from tests.unit.inspect.test_explain_aggregate import snapshot
from tests.unit.stages.aggregate.test_stage import policies


def test_a_route_with_parts_is_described_by_them() -> None:
    control: Any = SimpleNamespace(snapshot=snapshot(policies()))
    found = Control.describe_routes(control)
    assert found["page"]["upstream"] == ""
    assert found["page"]["parts"] == {"user": "page:user", "orders": "orders-of-user", "score": "page:score"}
    assert (found["page:user"]["upstream"], found["page:user"]["parts"]) == ("users", {})
