"""Tests of traces as a collector receives them, from real processes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio

from chaos.parts.servers import Server, after, answering, sequence
from tests.support.otlp import Collector, Span
from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


def telemetry(collector: Collector, **more: Any) -> dict[str, Any]:
    return {"endpoint": collector.endpoint, "protocol": collector.protocol, **more}


def sections(
    url: str, collector: Collector, telemetry_more: dict[str, Any] | None = None, **blocks: Any
) -> dict[str, Any]:
    """Return policies with one route to `url`."""
    return policies(
        upstreams={"app": {"endpoints": [url]}},
        routes=[{"name": "app", "match": {"path": "/orders/{id}"}, "upstream": "app", **blocks}],
        telemetry=telemetry(collector, **(telemetry_more or {})),
    )


@contextlib.asynccontextmanager
async def two_in_a_row(
    directory: Path, server: Server, collector: Collector, **blocks: Any
) -> AsyncIterator[tuple[Sidecar, Sidecar]]:
    """Run two sidecars in a row before the server; the first one retries."""
    (directory / "a").mkdir()
    (directory / "b").mkdir()
    second = {**sections(server.url, collector), "service": "second"}
    async with Sidecar(second, directory / "b", FAST) as b:
        first = {**sections(f"http://{b.inbound}", collector, **blocks), "service": "first"}
        async with Sidecar(first, directory / "a", FAST) as a:
            yield a, b


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept() -> AsyncIterator[Collector]:
    """Yield the collector of `traced`."""
    async with Collector() as collector:
        yield collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(kept: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """Yield a process that exports all traces, for tests that share it."""
    policy = policies(telemetry=telemetry(kept))
    async with Sidecar(policy, tmp_path_factory.mktemp("traced"), FAST) as running:
        yield running


@pytest.fixture
def collector(kept: Collector) -> Collector:
    """Return the collector of `traced`, emptied."""
    kept.spans.clear()
    return kept


def only(spans: list[Span], **wanted: Any) -> Span:
    (found,) = [span for span in spans if all(getattr(span, name) == value for name, value in wanted.items())]
    return found


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_trace_through_two_sidecars_and_a_retry(tmp_path: Path, protocol: Literal["grpc", "http"]) -> None:
    flaky = sequence(answering(503), answering(200, b"fine"))
    async with Collector(protocol) as collector, Server(flaky) as server:
        async with two_in_a_row(tmp_path, server, collector, retry={"max_attempts": 3}) as (a, _):
            answer = await a.fetch(
                "GET", "/orders/17?page=2&token=s3cret", traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1",
                user_agent="test/1",
            )  # fmt: skip
            assert answer.status == 200
            await collector.until(lambda: len(collector.trace(TRACE)) == 7)
        spans = collector.trace(TRACE)

        entry = only(spans, service="first", kind="server")
        assert entry.parent_id == PARENT
        assert entry.name == "GET /orders/{id}"
        assert entry.status == 0
        assert entry.state == "vendor=1"
        assert entry.attributes["http.request.method"] == "GET"
        assert entry.attributes["http.route"] == "/orders/{id}"
        assert entry.attributes["http.response.status_code"] == 200
        assert entry.attributes["url.path"] == "/orders/17"
        assert entry.attributes["url.query"] == "page=2&token=REDACTED"
        assert entry.attributes["url.scheme"] == "http"
        assert entry.attributes["user_agent.original"] == "test/1"
        assert entry.attributes["client.address"] == "127.0.0.1"
        assert entry.attributes["sidecar.kept"] == "sampled"
        assert entry.resource["telemetry.distro.name"] == "sidecar"
        assert entry.event("retry.scheduled").attributes["sidecar.reason"] == "503"

        first, second = [span for span in spans if span.service == "first" and span.kind == "client"]
        assert first.parent_id == second.parent_id == entry.span_id
        assert (first.attributes["http.response.status_code"], first.status) == (503, 2)
        assert first.attributes["error.type"] == "503"
        assert "http.request.resend_count" not in first.attributes
        assert second.attributes["http.request.resend_count"] == 1
        assert second.attributes["sidecar.attempt.why"] == "retry:503"
        assert second.attributes["sidecar.retry_budget.tokens"] > 0
        assert second.attributes["server.port"] == int(second.attributes["url.full"].split(":")[2].split("/")[0])
        assert "s3cret" not in repr(spans)

        inner = [span for span in spans if span.service == "second" and span.kind == "server"]
        assert [span.parent_id for span in inner] == [first.span_id, second.span_id]
        leaves = [span for span in spans if span.service == "second" and span.kind == "client"]
        assert [span.parent_id for span in leaves] == [span.span_id for span in inner]
        assert [request.get("traceparent") for request in server.requests] == [
            f"00-{TRACE}-{span.span_id}-01" for span in leaves
        ]
        assert {request.get("tracestate") for request in server.requests} == {"vendor=1"}
        assert len({span.span_id for span in spans}) == 7
        for child in spans:
            for parent in (span for span in spans if span.span_id == child.parent_id):
                assert parent.start <= child.start + 2_000_000
                assert child.end <= parent.end or child.service != parent.service


async def test_an_unsampled_trace_is_passed_on_and_kept_only_where_it_fails(
    traced: Sidecar, collector: Collector
) -> None:
    keep = {"sampling": {"ratio": "0%", "keep": {"slower_than": "1s"}}}
    behaviour = sequence(answering(), answering(500), after(1.1, answering()))
    async with Server(behaviour) as server:
        async with traced.under(sections(server.url, collector, keep)) as sidecar:
            for _ in range(3):
                await sidecar.fetch("GET", "/orders/1")
            await collector.until(lambda: len(collector.spans) == 4)
        kept = {span.attributes["sidecar.kept"]: span for span in collector.spans if span.kind == "server"}
        assert set(kept) == {"error", "slow"}
        assert kept["error"].status == 2
        parents = [request.get("traceparent") for request in server.requests]
        assert [parent[-2:] for parent in parents] == ["02", "02", "02"], "not sampled, with a random id"
        clients = {span.trace_id: span for span in collector.spans if span.kind == "client"}
        assert parents[1] == f"00-{kept['error'].trace_id}-{clients[kept['error'].trace_id].span_id}-02"


async def test_without_telemetry_trace_headers_pass_untouched(tmp_path: Path) -> None:
    async with Server(answering()) as server:
        policy = policies(upstreams={"app": {"endpoints": [server.url]}}, routes=[route("app")])
        async with Sidecar(policy, tmp_path) as sidecar:
            await sidecar.fetch("GET", "/app", traceparent="anything", tracestate="else", baggage="k=v")
        (request,) = server.requests
        assert [request.get(name) for name in ("traceparent", "tracestate", "baggage")] == ["anything", "else", "k=v"]


async def test_the_standard_variables_are_enough(tmp_path: Path) -> None:
    async with Collector("http") as collector, Server(answering()) as server:
        variables = {
            **FAST,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.endpoint}/v1/traces",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{collector.endpoint}/v1/metrics",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=abc%20def,other=1",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_SERVICE_NAME": "named",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=not-this",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "OTEL_PROPAGATORS": "b3,baggage",
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
        }
        policy = policies(upstreams={"app": {"endpoints": [server.url]}}, routes=[route("app")])
        async with Sidecar(policy, tmp_path, variables) as sidecar:
            await sidecar.fetch("GET", "/app", b3=f"{TRACE}-{PARENT}-1", traceparent="untouched")
            await collector.until(lambda: len(collector.spans) == 2 and bool(collector.metrics))
        assert {(span.service, span.trace_id) for span in collector.spans} == {("named", TRACE)}
        assert collector.spans[0].resource["deployment.environment.name"] == "test"
        assert {span.attributes["http.request.method"] for span in collector.spans} == {"GET"}
        assert {span.attributes["sidecar.upstream"] for span in collector.spans} == {"app"}
        assert all(
            len(value) <= 3 for span in collector.spans for value in span.attributes.values() if value == str(value)
        )
        assert collector.headers[0]["x-api-key"] == "abc def"
        assert collector.headers[0]["content-encoding"] == "gzip"
        (request,) = server.requests
        assert request.get("b3").startswith(f"{TRACE}-")
        assert request.get("traceparent") == "untouched"


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_json_over_http(tmp_path: Path, compression: str) -> None:
    async with Collector("http") as collector, Server(answering()) as server:
        variables = {
            **FAST,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
        policy = policies(upstreams={"app": {"endpoints": [server.url]}}, routes=[route("app")])
        async with Sidecar(policy, tmp_path, variables) as sidecar:
            fields = {"traceparent": f"00-{TRACE}-{PARENT}-01", "user-agent": '"traceId": "q83v"'}
            await sidecar.fetch("GET", "/app", **fields)
            await collector.until(lambda: len(collector.spans) == 2)
            await collector.until(lambda: any("http.server.request.duration" in each for each in collector.metrics))
        assert {headers["content-type"] for headers in collector.headers} == {"application/json"}
        assert {headers.get("content-encoding", "none") for headers in collector.headers} == {compression}
        entry, leaf = only(collector.spans, kind="server"), only(collector.spans, kind="client")
        assert (entry.trace_id, entry.parent_id, leaf.parent_id) == (TRACE, PARENT, entry.span_id)
        assert entry.attributes["user_agent.original"] == '"traceId": "q83v"'
        ((_, point),) = next(each for each in collector.metrics if "http.server.request.duration" in each)[
            "http.server.request.duration"
        ]
        assert (point.count, point.exemplars[0].trace_id.hex()) == (1, TRACE)


async def test_a_hedge_links_to_the_try_that_it_ran_beside(traced: Sidecar, collector: Collector) -> None:
    behaviour = sequence(after(2.0, answering()), answering())
    async with Server(behaviour) as server:
        policy = sections(server.url, collector, hedge={"after": "50ms"})
        async with traced.under(policy) as sidecar:
            await sidecar.fetch("GET", "/orders/1")
            await collector.until(lambda: len(collector.spans) == 3)
        entry = only(collector.spans, kind="server")
        assert entry.event("hedge.started").attributes["sidecar.attempt"] == 2
        first, hedge = (span for span in collector.trace(entry.trace_id) if span.kind == "client")
        assert hedge.attributes["sidecar.attempt.why"] == "hedge"
        assert hedge.links == [(entry.trace_id, first.span_id, {"sidecar.link": "hedged"})]


async def test_breakers_queues_and_refusals_are_events(traced: Sidecar, collector: Collector) -> None:
    async with Server(answering(500)) as server:
        policy = sections(server.url, collector, circuit_breaker={"consecutive_failures": 1, "open_for": "60s"})
        async with traced.under(policy) as sidecar:
            await sidecar.fetch("GET", "/orders/1")
            assert (await sidecar.fetch("GET", "/orders/2")).status == 503
            await collector.until(lambda: len(collector.spans) == 3)
        tripped, refused = sorted(
            (span for span in collector.spans if span.kind == "server"), key=lambda span: span.start
        )
        assert tripped.event("breaker.changed").attributes["sidecar.after"] == "open"
        attributes = refused.event("policy.refused").attributes
        assert attributes["sidecar.policy"] == "circuit_breaker"
        assert "policies.yaml:" in attributes["sidecar.where"]
        assert refused.attributes["error.type"] == "breaker_open"
        assert refused.status == 2
