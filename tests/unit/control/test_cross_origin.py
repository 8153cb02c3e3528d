"""CORS with other policies: pages read what a limit tells them, also when it refuses them."""

from __future__ import annotations

from typing import Any

from sidecar.core.promise import Run
from tests.support.service import exchange
from tests.unit.control.test_compiler import compiled

POLICIES = 'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}\n'
ROUTES = """
routes:
  - name: order
    match: {path: /order}
    upstream: app
    cors: {origins: ["https://shop.example"], expose: [ratelimit, retry-after]}
    rate_limit: [{name: one, rate: 1/m, burst: 1}]
"""


def test_rate_limit_fields_can_be_exposed_on_answers_and_refusals() -> None:
    route = compiled(POLICIES, ROUTES).routes["order"]
    seen = set()
    for _ in range(3):
        done: list[Run[Any]] = []
        x = exchange("GET", "/order", {"origin": "https://shop.example"}, deadline=1e9)
        Run(route.pipeline(x), done.append)  # type: ignore[arg-type]
        outcome = done[0].value
        seen.add(outcome.status)
        fields = dict(outcome.headers if outcome.status == 200 else [*outcome.headers, *route.problem_fields(x)])
        assert b"ratelimit" in fields
        assert fields[b"access-control-expose-headers"] == b"ratelimit, retry-after"
    assert seen == {200, 429}
