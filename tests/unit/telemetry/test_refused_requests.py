"""Tests of refusals, fallbacks and unreachable upstreams: counted, shown, and logged unless policies forbid it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import events
from sidecar.core.metrics import BREAKER_STATE, ENDPOINT_UP, LOG_SUPPRESSED, REFUSALS, WOULD_REFUSE
from sidecar.process.workers.summary import join
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.refusals import MAX_GROUPS, observed
from tests.support.loop import virtual
from tests.support.watched import Watched, policy, respond

BREAKER = {"consecutive_failures": 1, "open_for": "5s", "half_open": {"ramp": "0s", "probes": 1}}
FALLBACK = {"on": ["breaker_open", 503], "steps": [{"response": {"status": 200, "body": "later"}}]}


def gauge(registry: Registry, name: str, **labels: str) -> float:
    return sum(
        series.value
        for metric in registry.collect()
        if metric.name == name
        for series in metric.series
        if labels.items() <= dict(series.labels).items()
    )


async def started(upstream: dict[str, Any] | None = None, telemetry: Any = None, **route: Any) -> Watched:
    seen = Watched()
    whole = policy(upstream, **route)
    await seen.start(whole if telemetry is None else whole | {"telemetry": telemetry})
    return seen


# ----- counted


@virtual
async def test_refusals_of_a_breaker_are_counted() -> None:
    seen = await started(circuit_breaker=BREAKER)
    seen.answer = respond(503)
    for _ in range(4):
        await seen.ask()
    assert seen.counter(REFUSALS, route="r", policy="circuit_breaker", reason="breaker_open") == 3


@virtual
async def test_refusals_that_a_fallback_answers_are_counted_all_the_same() -> None:
    seen = await started(circuit_breaker=BREAKER, fallback=FALLBACK)
    seen.answer = respond(503)
    for _ in range(4):
        assert b"later" in await seen.ask()
    assert seen.counter(REFUSALS, policy="circuit_breaker", reason="breaker_open") == 3
    (group,) = seen.refusals.describe()
    assert (group["reason"], group["count"], group["policy"]) == ("breaker_open", 3, "circuit_breaker")
    assert seen.second()["r"][:2] == [0, 4], "no errors, and four answers of a fallback"
    assert seen.second() == {}


@pytest.mark.parametrize(
    ("target", "route", "labels"),
    [
        ("/", {"timeout": {"request": "1s"}}, {"policy": "timeout", "reason": "timeout"}),
        ("/", {"concurrency": {"max": 1, "queue": 0}}, {"policy": "concurrency", "reason": "overloaded"}),
        ("/", {"match": {"path": "/elsewhere"}}, {"policy": "routes", "reason": "no_route", "route": ""}),
    ],
    ids=["timeout", "concurrency", "no_route"],
)
def test_refusals_of_other_policies_are_counted_too(target: str, route: dict[str, Any], labels: dict[str, str]) -> None:
    @virtual
    async def test() -> None:
        seen = await started(**route)
        if labels.get("policy") == "concurrency":
            seen.answer = lambda transport, data: None
            holder = await seen.connect()
            holder.transport.write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            await seen.sleep(0.1)
        await seen.ask(target, *(["x-request-timeout-ms: 0"] if labels.get("policy") == "timeout" else []))
        assert seen.counter(REFUSALS, **labels) == 1

    test()


# ----- shown


@virtual
async def test_an_open_breaker_without_traffic_pages_nobody_for_ever() -> None:
    seen = await started(circuit_breaker=BREAKER)
    seen.answer = respond(503)
    await seen.ask()
    assert (seen.state("breaker", "route", "r")["state"], gauge(seen.registry, BREAKER_STATE)) == ("open", 2)
    await seen.sleep(10)
    facts = seen.state("breaker", "route", "r")
    assert (facts["state"], gauge(seen.registry, BREAKER_STATE)) == ("half_open", 1)
    assert "waits for traffic" in facts["why"]
    seen.answer = respond()
    await seen.ask()
    assert (seen.state("breaker", "route", "r")["state"], gauge(seen.registry, BREAKER_STATE)) == ("closed", 0)


@pytest.mark.parametrize("ejection", [None, {"consecutive_failures": 9}], ids=["alone", "beside_ejection"])
def test_a_dead_endpoint_is_not_up(ejection: Any) -> None:
    @virtual
    async def test() -> None:
        seen = await started({"ejection": ejection} if ejection else None)
        seen.upstream.close()
        for expected in ("up", "up", "failing"):
            await seen.ask(seconds=1)
            (endpoint,) = seen.state("endpoints", "u")["endpoints"]
            assert endpoint["state"] == expected
        assert gauge(seen.registry, ENDPOINT_UP, state="up") == 0
        assert gauge(seen.registry, ENDPOINT_UP, state="failing") == 1
        seen.upstream = seen.loop.network.listen(seen.upstream.protocol_factory, ("10.0.0.1", 80))
        await seen.ask()
        assert seen.state("endpoints", "u")["endpoints"][0]["state"] == "up"
        assert gauge(seen.registry, ENDPOINT_UP, state="up") == 1

    test()


@virtual
async def test_a_dead_endpoint_that_nobody_asks_is_old_news() -> None:
    seen = await started()
    seen.upstream.close()
    for _ in range(3):
        await seen.ask(seconds=1)
    await seen.sleep(61)
    assert seen.state("endpoints", "u")["endpoints"][0]["state"] == "up"


@virtual
async def test_an_endpoint_that_answers_with_errors_is_not_dead() -> None:
    seen = await started()
    seen.answer = respond(503)
    for _ in range(9):
        await seen.ask()
    assert seen.state("endpoints", "u")["endpoints"][0]["state"] == "up"


# ----- logged


@virtual
async def test_failures_and_refusals_leave_a_line_unasked() -> None:
    seen = await started(circuit_breaker=BREAKER)
    await seen.ask()
    seen.answer = respond(503)
    await seen.ask("/fails")
    await seen.ask("/refused")
    assert [(line["path"], line["status"], line.get("reason")) for line in await lines(seen)] == [
        ("/fails", 503, None),
        ("/refused", 503, "breaker_open"),
    ]
    (_, refused) = seen.lines.entries()
    assert (refused["refused_by"], refused["where"][:7]) == ("circuit_breaker", "p.yaml:")


@virtual
async def test_the_first_success_opens_no_log() -> None:
    seen = await started()
    await seen.ask()
    assert await lines(seen) == []
    assert seen.telemetry._log is None


@virtual
async def test_a_request_that_is_not_http_leaves_a_line() -> None:
    seen = await started()
    peer = await seen.connect()
    peer.transport.write(b"GET / HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n")
    await seen.sleep(0.1)
    (line,) = await lines(seen)
    assert (line["status"], line["reason"]) == (400, "bad_request")


@virtual
async def test_a_client_that_leaves_leaves_no_line() -> None:
    seen = await started()
    seen.answer = lambda transport, data: None
    await seen.ask(seconds=1)
    assert await lines(seen) == []


@virtual
async def test_what_a_fallback_answered_says_instead_of_what() -> None:
    seen = await started(circuit_breaker=BREAKER, fallback=FALLBACK)
    seen.answer = respond(503)
    await seen.ask()
    await seen.ask()
    first, second = await lines(seen)
    assert (first["status"], first["instead_of"]) == (200, "503")
    assert (second["instead_of"], second["refused_by"]) == ("breaker_open", "circuit_breaker")
    assert second["where"].startswith("p.yaml:")


@virtual
async def test_a_storm_leaves_twenty_lines_a_second_and_a_count() -> None:
    seen = await started(match={"path": "/elsewhere"})
    for _ in range(100):
        await seen.ask()
    assert len(await lines(seen)) == 20
    assert seen.counter(LOG_SUPPRESSED) == 80
    await seen.sleep(1)
    await seen.ask()
    assert (await lines(seen))[20]["suppressed"] == 80
    await seen.ask()
    assert "suppressed" not in (await lines(seen))[21]


@pytest.mark.parametrize("telemetry", [{"access_log": "off"}, {"access_log": {"format": "off"}}], ids=str)
def test_it_can_be_switched_off(telemetry: dict[str, Any]) -> None:
    @virtual
    async def test() -> None:
        seen = await started(telemetry=telemetry, match={"path": "/elsewhere"})
        await seen.ask()
        assert await lines(seen) == []

    test()


@virtual
async def test_a_reload_switches_between_all_failures_and_none() -> None:
    seen = await started()
    for telemetry, expected in (({"access_log": {}}, 2), ({"access_log": "off"}, 0), ({}, 1), ({"access_log": {}}, 2)):
        seen.write(policy(match={"path": "/here"}) | {"telemetry": telemetry})
        assert (await seen.control.reload("signal")).result == "applied"
        before = len(await lines(seen))
        await seen.ask("/here")
        await seen.ask("/elsewhere")
        assert len(await lines(seen)) - before == expected, telemetry


@virtual
async def test_sampling_keeps_refusals_whatever_their_status() -> None:
    seen = await started(telemetry={"access_log": {"successes": "0%"}}, match={"path": "/here"})
    await seen.ask("/here")
    await seen.ask("/elsewhere")
    assert [line["status"] for line in await lines(seen)] == [404]


@virtual
async def test_a_connection_for_which_there_is_no_room_is_an_event() -> None:
    seen = Watched()
    await seen.start(policy() | {"limits": {"max_connections": 1}})
    await seen.connect()
    peer = await seen.connect()
    await seen.sleep(0)
    assert peer.received.startswith(b"HTTP/1.1 503 ")
    ((_, facts),) = [each for each in seen.events if each[0] == events.CONNECTION_REFUSED]
    assert facts == {"listener": "inbound", "open": 1, "limit": 1, "cause": "limits.max_connections"}


async def lines(seen: Watched) -> list[dict[str, Any]]:
    """Return the lines of the log once they are flushed."""
    await asyncio.sleep(0.2)
    return seen.lines.entries()


def test_what_observed_policies_would_have_refused_is_listed_by_owner() -> None:
    registry = Registry()
    registry.counter(WOULD_REFUSE, policy="timeout", route="order@candidate").value += 2
    registry.counter(WOULD_REFUSE, policy="ejection", upstream="payments").value += 3
    registry.counter(WOULD_REFUSE, policy="cors", route="order")
    listed = observed(registry)
    assert listed == [
        {"owner": "payments", "policy": "ejection", "count": 3},
        {"owner": "order@candidate", "policy": "timeout", "count": 2},
    ]
    assert join([listed, listed])[1] == {"owner": "order@candidate", "policy": "timeout", "count": 4}, "of two workers"
    for number in range(1000):
        registry.counter(WOULD_REFUSE, policy="timeout", route=f"r{number}").value += 1
    assert len(observed(registry)) == MAX_GROUPS
