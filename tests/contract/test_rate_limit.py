"""Tests of rate limits and quotas in a whole proxy: the refusal on the wire, its place, no blame for the upstream."""

from __future__ import annotations

import json
from typing import Any

from tests.support.loop import virtual
from tests.support.proxy import Proxy, Service

POLICIES = """version: 1
listeners: {{inbound: {{address: "127.0.0.1:0", trusted_proxies: ["192.0.2.0/24"]}}}}
upstreams: {{u: {{endpoints: ["http://a:80"]{upstream}}}}}
routes:
  - name: r
    match: {{path_prefix: /}}
    upstream: u
    retry: {{max_attempts: 3, on: [429, 503]}}
    circuit_breaker: {{consecutive_failures: 1, failures: [429, 5xx]}}
    fallback: {{on: [429, 5xx, overloaded], steps: [response: {{status: 200}}]}}
    {limits}
"""
LIMITS = """rate_limit:
      - {name: slow, rate: 1/m, burst: 1}
      - {name: fast, rate: 9/s, burst: 99}"""


def proxy(limits: str = LIMITS, upstream: str = "", **service: Any) -> tuple[Proxy, Service]:
    behind = Service(**service)
    return Proxy(POLICIES.format(limits=limits, upstream=upstream), behind), behind


@virtual
async def test_a_refusal_says_where_it_comes_from_and_blames_nobody() -> None:
    tested, behind = proxy()
    assert [(await tested.get()).status for _ in range(2)] == [200, 200]
    refused = await tested.get()
    assert (refused.status, refused.get("x-sidecar-reason")) == (429, "rate_limited")
    assert refused.get("retry-after") == "60"
    assert refused.get("ratelimit") == '"slow";r=0;t=120'
    problem = json.loads(refused.body)
    assert problem["policy"] == "rate_limit"
    assert problem["where"].endswith(":12"), "the line of the limit, not that of the block"
    assert (problem["limit"], problem["value"]) == (2, 3)
    assert problem["detail"].startswith("the limit `slow` is 1 per minute")
    assert set(tested.breakers().values()) <= {"closed"}
    assert behind.requests == 2, "nothing is retried"
    assert tested.bugs == []


@virtual
async def test_a_limit_of_an_upstream_holds_in_addition() -> None:
    tested, behind = proxy("rate_limit: off", ", rate_limit: [{name: all, rate: 1/s, burst: 0}]")
    assert [(await tested.get()).status for _ in range(3)] == [200, 429, 429]
    assert behind.requests == 1
    assert list(tested.state("rate_limit")) == ["upstream:u:all"]


@virtual
async def test_a_quota_says_when_it_ends_and_blames_nobody() -> None:
    tested, behind = proxy("quota: [{name: hour, max: 2, per: hour}]")
    assert [(await tested.get()).status for _ in range(2)] == [200, 200]
    refused = await tested.get()
    assert (refused.status, refused.get("x-sidecar-reason")) == (429, "rate_limited")
    assert 0 < int(refused.get("retry-after") or 0) <= 3600
    assert (refused.get("ratelimit") or "").startswith('"hour";r=0;t=')
    problem = json.loads(refused.body)
    assert (problem["policy"], problem["limit"], problem["value"]) == ("quota", 2, 3)
    assert problem["where"].endswith(":11")
    assert set(tested.breakers().values()) <= {"closed"}
    assert behind.requests == 2
    assert list(tested.state("quota")) == ["route:r:hour:in this process"]


@virtual
async def test_a_rate_limit_that_refuses_uses_up_no_quota() -> None:
    tested, _ = proxy("""rate_limit: [{name: slow, rate: 1/m, burst: 0}]
    quota: [{name: hour, max: 2, per: hour}]""")
    assert [(await tested.get()).status for _ in range(3)] == [200, 429, 429]
    assert (await tested.get()).get("ratelimit") == '"slow";r=0;t=60'
    (facts,) = tested.state("quota").values()
    assert facts["refused"] == 0


@virtual
async def test_a_quota_of_an_upstream_counts_all_its_routes() -> None:
    tested, behind = proxy("rate_limit: off", ", quota: [{name: all, max: 1, per: hour}]")
    assert [(await tested.get()).status for _ in range(2)] == [200, 429]
    assert behind.requests == 1
