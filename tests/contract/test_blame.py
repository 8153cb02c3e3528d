"""Tests of blame: faults of clients are not charged to the upstream; its own are, whatever deadline callers set."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.loop import settle, virtual
from tests.support.proxy import Client, Proxy, Service

LISTENER = 'listeners: {inbound: {address: "127.0.0.1:0", trusted_proxies: ["192.0.2.0/24"]}}\n'
BLOCKS = {
    "route": "circuit_breaker: {consecutive_failures: 5, open_for: 5s, half_open: {verdict_within: 2s}}",
    "upstream": "",
    "endpoint": "",
    "none": "",
}
UPSTREAM = {
    "route": "",
    "upstream": ", circuit_breaker: {consecutive_failures: 5, open_for: 5s}",
    "endpoint": ", circuit_breaker: {per: endpoint, consecutive_failures: 5, open_for: 5s}",
    "none": "",
}
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000
SHORT = {"x-request-timeout-ms": "5"}
TIMEOUT = "timeout: {request: 3s, attempt: 1s}"

each_breaker = pytest.mark.parametrize("place", ["route", "upstream", "endpoint"])


def policies(place: str = "route", blocks: str = TIMEOUT, upstream: str = "", endpoints: str = '"http://a:80"') -> str:
    more = f", {BLOCKS[place]}" if BLOCKS[place] else ""
    return f"""version: 1
{LISTENER}
upstreams: {{u: {{endpoints: [{endpoints}]{UPSTREAM[place]}{upstream}}}}}
routes: [{{name: r, match: {{path_prefix: /}}, upstream: u{", " * bool(blocks)}{blocks}{more}}}]
"""


def states(proxy: Proxy) -> set[str]:
    return set(proxy.breakers().values())


def pool(proxy: Proxy) -> Any:
    """Return the state of the one endpoint's pool."""
    (pools,) = proxy.state("pools").values()
    (described,) = pools["pools"].values()
    return described


def slow_reader(proxy: Proxy) -> Client:
    """Return a client that has sent a request and reads nothing."""
    client = proxy.send()
    client.transport.pause_reading()
    return client


# ----- short deadlines


@each_breaker
@virtual
async def test_short_deadlines_do_not_open_a_breaker(place: str) -> None:
    proxy = Proxy(policies(place), Service(after=0.02))
    for _ in range(50):
        answer = await proxy.get(SHORT)
        assert (answer.status, answer.get("x-sidecar-reason")) == (504, "timeout")
    assert states(proxy) <= {"closed"}
    assert (await proxy.get()).status == 200
    assert proxy.bugs == []


@pytest.mark.parametrize("blocks", ["", "timeout: {request: off}", "timeout: {request: 1s}", "retry: {attempts: 3}"])
@virtual
async def test_nor_without_a_time_for_one_attempt(blocks: str) -> None:
    blocks = blocks.replace("attempts", "max_attempts")
    proxy = Proxy(policies(blocks=blocks), Service(after=0.02))
    for _ in range(20):
        await proxy.get(SHORT)
    assert states(proxy) == {"closed"}


@virtual
async def test_nor_by_another_field_or_grpc() -> None:
    proxy = Proxy(policies(blocks="timeout: {request: 3s, header: x-left}"), Service(after=0.02))
    for fields in ({"x-left": "5"}, {"grpc-timeout": "5m"}, {"x-envoy-expected-rq-timeout-ms": "5"}):
        for _ in range(10):
            assert (await proxy.get(fields)).status == 504
    assert states(proxy) == {"closed"}


@pytest.mark.parametrize(
    ("listener", "is_read"),
    [
        (LISTENER, True),
        (LISTENER.replace("192.0.2.0/24", "10.0.0.0/8"), False),
        (
            LISTENER.replace(
                'trusted_proxies: ["192.0.2.0/24"]',
                "untrusted: {min_deadline: 0s, pass: [x-envoy-upstream-rq-timeout-ms]}",
            ),
            True,
        ),
    ],
    ids=["trusted", "untrusted", "passed"],
)
@virtual
async def test_a_field_for_deadlines_that_is_an_order_to_a_proxy_is_read_from_whom_it_passes(
    listener: str, is_read: bool
) -> None:
    blocks = "timeout: {request: 3s, header: x-envoy-upstream-rq-timeout-ms}"
    proxy = Proxy(policies(blocks=blocks).replace(LISTENER, listener), Service(after=0.02))
    answer = await proxy.get({"x-envoy-upstream-rq-timeout-ms": "5"})
    assert (answer.status == 504) is is_read


@virtual
async def test_nor_all_at_once() -> None:
    proxy = Proxy(policies(), Service(after=0.02))
    clients = [proxy.send(SHORT) for _ in range(100)]
    assert [(await client.answer()).status for client in clients] == [504] * 100
    assert states(proxy) == {"closed"}


@virtual
async def test_short_deadlines_while_connecting_count_as_nothing() -> None:
    service = Service()
    accept = service.accept

    async def slowly(address: object) -> object:
        await asyncio.sleep(0.05)
        return await accept(address)  # type: ignore[arg-type]

    service.accept = slowly  # type: ignore[method-assign,assignment]
    proxy = Proxy(policies(), service)
    clients = [proxy.send(SHORT) for _ in range(20)]
    assert [(await client.answer()).status for client in clients] == [504] * 20
    assert states(proxy) == {"closed"}


@pytest.mark.parametrize("deadline", ["5", "100", "400"])
@pytest.mark.parametrize("is_warm", [True, False])
@each_breaker
@virtual
async def test_a_dead_upstream_opens_its_breaker_though_all_deadlines_are_short(
    place: str, is_warm: bool, deadline: str
) -> None:
    proxy = Proxy(policies(place), service := Service(after=0.02))
    for _ in range(is_warm * 200):
        assert (await proxy.get()).status == 200
    service.is_dead = True
    for _ in range(400):
        await proxy.get({"x-request-timeout-ms": deadline})
    assert states(proxy) == {"open"}


@virtual
async def test_an_unreachable_upstream_opens_its_breaker_though_all_deadlines_are_short() -> None:
    proxy = Proxy(policies(), service := Service())
    service.is_unreachable = True
    for _ in range(400):
        await proxy.get(SHORT)
    assert states(proxy) == {"open"}


@virtual
async def test_a_deadline_longer_than_the_usual_answer_counts_at_once() -> None:
    proxy = Proxy(policies(), service := Service(after=0.02))
    for _ in range(20):
        await proxy.get()
    service.is_dead = True
    for _ in range(5):
        assert (await proxy.get({"x-request-timeout-ms": "100"})).status == 504
    assert states(proxy) == {"open"}


@virtual
async def test_the_policys_own_times_count_always() -> None:
    for blocks in ("timeout: {request: 100ms}", "timeout: {attempt: 100ms}"):
        proxy = Proxy(policies(blocks=blocks), Service(after=0.5))
        for _ in range(5):
            assert (await proxy.get()).status == 504
        assert states(proxy) == {"open"}


@virtual
async def test_a_dead_upstream_that_is_back_closes_its_breaker() -> None:
    """Callers with short deadlines do not use up or fail the probes of the half-open state."""
    proxy = Proxy(policies(), service := Service(after=0.02))
    service.is_dead = True
    for _ in range(5):
        await proxy.get()
    assert states(proxy) == {"open"}
    service.is_dead = False
    await asyncio.sleep(6)
    for _ in range(300):
        await proxy.get(SHORT)
    assert states(proxy) == {"half_open"}
    for _ in range(3):
        assert (await proxy.get()).status == 200
    assert "succeeded" in proxy.state("breaker")["route:r"]["why"]


@virtual
async def test_a_late_answer_is_nobodys() -> None:
    """An attempt that outlasts its caller's deadline is read to its end.

    Neither its interim nor its final response is passed on, and its connection is used again.
    """
    proxy = Proxy(policies(), service := Service(after=0.02))
    service.answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + service.answer
    client = proxy.connect()
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Timeout-Ms: 5\r\n\r\n")
    assert (await client.answer()).status == 504
    service.after = 1.0
    client.write(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0.5)
    service.after = 0.0
    assert b" 103 " not in client.received
    assert (await proxy.get()).status == 200
    assert len(service.connections) == 2
    assert proxy.bugs == []


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", b"HTTP/1.1 204 No Content\r\n\r\n"]
)
@virtual
async def test_a_late_answer_of_any_kind_leaves_nothing_behind(head: bytes) -> None:
    proxy = Proxy(policies(), service := Service(head, after=0.02))
    assert (await proxy.get(SHORT)).status == 504
    await asyncio.sleep(0.1)
    service.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    for _ in range(3):
        assert (await proxy.get()).status == 200
    assert proxy.bugs == []
    assert pool(proxy)["idle"] == pool(proxy)["open"] >= 1


@virtual
async def test_short_deadlines_leave_no_connections_behind_at_a_dead_upstream() -> None:
    proxy = Proxy(policies("none"), service := Service())
    service.is_dead = True
    for _ in range(50):
        await proxy.get(SHORT)
    assert pool(proxy)["open"] <= 1
    await asyncio.sleep(3)
    assert pool(proxy)["open"] == 0


# ----- slow readers


@each_breaker
@virtual
async def test_slow_readers_do_not_open_a_breaker(place: str) -> None:
    proxy = Proxy(policies(place), Service(LARGE))
    clients = [slow_reader(proxy) for _ in range(12)]
    await asyncio.sleep(4)
    assert states(proxy) == {"closed"}
    assert [reason for _, _, reason, _ in proxy.records] == ["client_timeout"] * len(clients)
    for client in clients:
        client.transport.abort()


@pytest.mark.parametrize(
    "blocks",
    ["", TIMEOUT, "cache: {ttl: 1m, max_body: 1MiB}", "transform: {response: {body: {set: {/a: 1}}}}"],
    ids=["plain", "timeout", "cache", "transform"],
)
@pytest.mark.parametrize("status", [200, 500])
@virtual
async def test_the_attempt_for_a_slow_reader_ends_as_its_request_does(blocks: str, status: int) -> None:
    proxy = Proxy(policies(blocks=blocks), Service(LARGE.replace(b"200 OK", b"%d X" % status)))
    client = slow_reader(proxy)
    await asyncio.sleep(120)
    ((x, _, reason, _),) = proxy.records
    (attempt,) = x.attempts
    assert reason == "client_timeout"
    assert attempt.reason == (reason if status == 200 else ""), "an error is one, however its reader takes it"
    client.transport.abort()


@virtual
async def test_readers_that_trickle_do_not_open_a_breaker() -> None:
    proxy = Proxy(policies(), Service(LARGE))

    async def trickle(client: Client) -> None:
        for _ in range(400):
            client.transport.resume_reading()
            await settle(1)
            client.transport.pause_reading()
            await asyncio.sleep(0.01)

    clients = [slow_reader(proxy) for _ in range(12)]
    for client in clients:
        client.transport.peer.split = 1000
    await asyncio.gather(*map(trickle, clients))
    assert states(proxy) == {"closed"}


@virtual
async def test_a_deadline_that_cuts_a_body_on_its_way_counts_as_nothing() -> None:
    piece = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    proxy = Proxy(policies(), service := Service(piece))

    async def go_on() -> None:
        while True:
            for connection in service.connections:
                connection.write(b"x")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(go_on())
    for _ in range(12):
        client = proxy.send({"x-request-timeout-ms": "100"})
        await asyncio.sleep(0.2)
        client.transport.abort()
    assert states(proxy) == {"closed"}
    task.cancel()


@virtual
async def test_a_body_that_stalls_is_the_upstreams() -> None:
    for fields in ({}, {"x-request-timeout-ms": "900"}):
        proxy = Proxy(policies(), service := Service(after=0.02))
        for _ in range(20):
            await proxy.get()
        service.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi"
        for _ in range(5):
            client = proxy.send(fields)
            await asyncio.sleep(1.2)
            client.transport.abort()
        assert states(proxy) == {"open"}


# ----- bodies that do not arrive


REST = b"x" * 99_990
"""Rest of an upload's body; a shorter body would be buffered whole before its route runs."""


def upload(proxy: Proxy, sent: int = 10, size: int = 100_000) -> Client:
    return proxy.send({"content-length": str(size)}, "PUT", b"x" * sent)


@each_breaker
@virtual
async def test_dribbled_bodies_do_not_open_a_breaker(place: str) -> None:
    proxy = Proxy(policies(place), Service(after=0.02))
    clients = [upload(proxy) for _ in range(12)]
    for _ in range(5):
        await asyncio.sleep(0.3)
        for client in clients:
            client.write(b"x")
    assert [(await client.answer()).status for client in clients] == [408] * 12
    assert states(proxy) <= {"closed"}


@each_breaker
@virtual
async def test_bodies_that_arrive_too_late_for_an_answer_do_not_open_a_breaker(place: str) -> None:
    proxy = Proxy(policies(place), Service(after=0.2))
    clients = [upload(proxy) for _ in range(12)]
    await asyncio.sleep(0.9)
    for client in clients:
        client.write(REST)
    assert {(await client.answer()).status for client in clients} <= {408, 200}
    assert states(proxy) == {"closed"}
    assert {reason for _, _, reason, _ in proxy.records} <= {"client_timeout", ""}


@virtual
async def test_an_upstream_that_does_not_answer_an_upload_is_to_blame() -> None:
    proxy = Proxy(policies(), service := Service())
    service.is_dead = True
    for _ in range(5):
        client = upload(proxy)
        await asyncio.sleep(0.01)
        client.write(REST)
        assert (await client.answer()).status == 504
    assert states(proxy) == {"open"}


@virtual
async def test_an_upstream_that_does_not_take_an_upload_is_to_blame() -> None:
    proxy = Proxy(policies(), service := Service())
    service.is_reading = False
    for _ in range(5):
        client = upload(proxy, 1_000_000, 1_000_001)
        await asyncio.sleep(1.2)
        client.transport.abort()
    assert states(proxy) == {"open"}


@pytest.mark.parametrize("is_warm", [True, False])
@each_breaker
@virtual
async def test_an_upstream_that_waits_no_longer_for_the_client_has_not_failed(place: str, is_warm: bool) -> None:
    """Servers have timeouts for slow clients of their own, and close the connection."""
    proxy = Proxy(policies(place, "timeout: {request: off}"), service := Service(after=0.01))
    for client in [proxy.send() for _ in range(12 * is_warm)]:
        assert (await client.answer()).status == 200
    clients = [upload(proxy) for _ in range(12)]
    await asyncio.sleep(3)
    for connection in service.connections:
        connection.transport.abort()
    await settle(20)
    clients += [slow_reader(proxy) for _ in range(12)]
    service.answer = LARGE
    await asyncio.sleep(3)
    for connection in service.connections:
        connection.transport.abort()
    for client in clients:
        client.transport.resume_reading()
    await asyncio.sleep(1)
    assert states(proxy) <= {"closed"}


@each_breaker
@virtual
async def test_one_that_breaks_off_an_upload_has(place: str) -> None:
    proxy = Proxy(policies(place, "timeout: {request: off}"), service := Service())
    clients = [upload(proxy, 70_000, 100_000) for _ in range(12)]
    await asyncio.sleep(0.5)
    for connection in service.connections:
        connection.transport.abort()
    await settle(20)
    assert [(await client.answer()).status for client in clients] == [502] * 12
    assert states(proxy) == {"open"}


@virtual
async def test_slow_uploads_are_not_slow_calls() -> None:
    breaker = "circuit_breaker: {failure_rate: off, min_calls: 5, slow_calls: {longer_than: 300ms, rate: 50%}}"
    blocks = f"{TIMEOUT}, {breaker}"
    for pause, state in ((0.6, "closed"), (0.0, "open")):
        proxy = Proxy(policies("none", blocks), Service(after=0.1 if pause else 0.5))
        for _ in range(6):
            client = upload(proxy)
            await asyncio.sleep(pause)
            client.write(REST)
            assert (await client.answer()).status in (200, 503)
        assert states(proxy) == {state}


@virtual
async def test_a_probe_whose_body_does_not_arrive_is_no_failed_probe() -> None:
    blocks = (
        "timeout: {request: off}, circuit_breaker: {consecutive_failures: 1, open_for: 1s, jitter: 0%, "
        "half_open: {probes: 2, verdict_within: 500ms}}"
    )
    proxy = Proxy(policies("none", blocks), service := Service(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"))
    assert (await proxy.get()).status == 500
    assert states(proxy) == {"open"}
    service.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    await asyncio.sleep(1.1)
    client = upload(proxy)
    await asyncio.sleep(0.7)
    assert (await proxy.get()).status == 200
    assert states(proxy) == {"half_open"}
    client.transport.abort()
    await settle()


# ----- other state that learns from an upstream's failures

MISDEEDS = ["deadlines", "readers", "bodies"]


async def misbehave(proxy: Proxy, how: str) -> None:
    if how == "deadlines":
        for _ in range(30):
            await proxy.get(SHORT)
    else:
        clients = [slow_reader(proxy) if how == "readers" else upload(proxy) for _ in range(30)]
        await asyncio.sleep(4)
        for client in clients:
            client.transport.abort()
    await settle()


@pytest.mark.parametrize("how", MISDEEDS)
@virtual
async def test_no_endpoint_is_ejected(how: str) -> None:
    text = policies("none", upstream=", ejection: {consecutive_failures: 3}", endpoints='"http://a:80", "http://b:80"')
    proxy = Proxy(text, Service(LARGE, after=0.02))
    await misbehave(proxy, how)
    assert proxy.state("ejection")["u"]["ejected"] == 0
    assert all(e["consecutive_failures"] == 0 for e in proxy.state("endpoints")["u"]["endpoints"])


@pytest.mark.parametrize("how", MISDEEDS)
@virtual
async def test_no_adaptive_limit_shrinks(how: str) -> None:
    proxy = Proxy(policies("none", f"{TIMEOUT}, concurrency: {{adaptive: {{max: 100}}}}"), Service(LARGE, after=0.02))
    before = proxy.state("concurrency")["route:r"]["adaptive"]["limit"]
    for _ in range(3):
        await misbehave(proxy, how)
    assert proxy.state("concurrency")["route:r"]["adaptive"]["limit"] >= before


@virtual
async def test_slow_uploads_do_not_look_like_latency() -> None:
    proxy = Proxy(policies("none", f"{TIMEOUT}, concurrency: {{adaptive: {{max: 100}}}}"), Service(after=0.01))
    for _ in range(20):
        client = upload(proxy)
        await asyncio.sleep(0.5)
        client.write(REST)
        assert (await client.answer()).status == 200
    assert proxy.state("concurrency")["route:r"]["adaptive"]["long_run_latency"] < 0.05


@pytest.mark.parametrize("how", MISDEEDS)
@virtual
async def test_no_retry_is_made_or_paid_for(how: str) -> None:
    proxy = Proxy(policies("none", f"{TIMEOUT}, retry: {{max_attempts: 3}}"), Service(LARGE, after=0.02))
    await misbehave(proxy, how)
    assert proxy.state("retry_budget")["u"]["retries"] == 0
    assert {len(x.attempts) for x, *_ in proxy.records} <= {0, 1}


# ----- the sidecar's own stages


@virtual
async def test_an_injected_latency_is_no_failure_to_those_who_do_not_wait() -> None:
    blocks = f"{TIMEOUT}, fault: {{latency: {{fixed: 100ms, share: 100%}}}}"
    for latency, state in (("100ms", "closed"), ("10s", "open")):
        proxy = Proxy(policies("route", blocks.replace("100ms", latency)), Service())
        for _ in range(12):
            assert (await proxy.get(SHORT)).status in (504, 503)
        assert states(proxy) == {state}


@virtual
async def test_a_refresh_in_the_background_has_more_time_than_the_caller_that_caused_it() -> None:
    answer = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1, stale-while-revalidate=60\r\nContent-Length: 2\r\n\r\n%b"
    proxy = Proxy(policies(blocks=f"{TIMEOUT}, cache: {{}}"), service := Service(answer % b"v1", after=0.1))
    assert (await proxy.get()).body == b"v1"
    service.answer = answer % b"v2"
    await asyncio.sleep(2)
    assert (await proxy.get(SHORT)).body == b"v1"
    await asyncio.sleep(0.5)
    assert (await proxy.get(SHORT)).body == b"v2"
    assert states(proxy) == {"closed"}
