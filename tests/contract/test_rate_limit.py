"""Tests of rate limits and quotas in a whole proxy: the refusal on the wire, its place, no blame for the upstream."""

from __future__ import annotations

import json
from typing import Any

from sidecar.config.checks.limits import TAKEN
from tests.support.cases import each
from tests.support.loop import run, settle, virtual
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
caches: {{default: {{memory: {{max_size: 1MiB}}}}}}
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
    assert refused.get("ratelimit") == '"slow";r=0;t=60'
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


@each(["rate_limit: [{name: %s, rate: 1/m, burst: %d%s}]", "quota: [{name: %s, max: %d, per: month%s}]"])
def test_what_a_route_refuses_uses_up_nothing_of_its_upstream(block: str) -> None:
    """One client that floods its own limit does not take the limit of all from the others."""

    async def check() -> None:
        own, shared = block % ("each", 1, ", key: client.address"), block % ("all", 5, "")
        tested, behind = proxy(own, f", {shared}")
        flood = [(await tested.get({"x-forwarded-for": "203.0.113.1"})).status for _ in range(20)]
        others = [(await tested.get({"x-forwarded-for": f"203.0.113.{number}"})).status for number in (2, 3)]
        assert (set(flood), others) == ({200, 429}, [200, 200])
        assert behind.requests == flood.count(200) + 2

    run(check())


@virtual
async def test_what_waits_in_the_queue_of_a_route_takes_no_permit_of_its_upstream() -> None:
    routes = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {u: {endpoints: ["http://a:80"], concurrency: {max: 3}}}
routes:
  - {name: slow, match: {path: /slow}, upstream: u, concurrency: {max: 1, queue: 10, queue_timeout: 5s}}
  - {name: fast, match: {path: /fast}, upstream: u}
"""
    tested = Proxy(routes, Service(after=1.0))
    waiting = [tested.send(path="/slow") for _ in range(5)]
    await settle()
    assert (await tested.get(path="/fast")).status == 200
    assert [(await client.answer()).status for client in waiting] == [200] * 5


FRAMING = {b"te", b"transfer-encoding", b"upgrade", b"expect"}
SEEN = ("authorization", "x-request-id", "via", "x-criticality", "x-sidecar-hops", "traceparent")


@each([(name.decode(), [200, 429]) for name in TAKEN - FRAMING] + [(name, [200, 200]) for name in SEEN])
def test_fields_that_listeners_take_are_no_keys(case: tuple[str, list[int]]) -> None:
    """The check warns of these keys, and of no others."""
    name, expected = case

    async def check() -> None:
        tested, _ = proxy(f"rate_limit: [{{name: each, rate: 1/m, burst: 0, key: header.{name}}}]")
        found = []
        for value in ("1", "2"):
            client = tested.connect()
            fields = f"{name}: {value}" if name == "host" else f"host: a\r\n{name}: {value}"
            client.write(f"POST / HTTP/1.1\r\n{fields}\r\n\r\n12".encode())
            found.append((await client.answer()).status)
        assert found == expected

    run(check())


@virtual
async def test_no_stored_answer_states_the_limit_of_what_the_cache_does_not_answer() -> None:
    """A hit would state to one client what another had left, and when."""
    cache = """cache: {ttl: 60s}
    rate_limit: [{name: fills, rate: 1/m, burst: 1, key: client.address, count: misses}]"""
    tested, behind = proxy(cache)
    found = [await tested.get({"x-forwarded-for": f"203.0.113.{number}"}, path="/a") for number in (1, 2, 2)]
    assert [(each.status, each.get("ratelimit")) for each in found] == [(200, "")] * 3
    assert behind.requests == 1
    refused = [await tested.get({"x-forwarded-for": "203.0.113.1"}, path=f"/{path}") for path in "bcd"][-1]
    assert (refused.status, refused.get("retry-after"), refused.get("ratelimit")) == (429, "60", "")
