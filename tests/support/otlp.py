"""Collector for tests, on OpenTelemetry's own protocol stubs: gRPC, and HTTP with protobuf or JSON, plain or gzip.

    async with Collector("grpc") as collector:      # or "http"
        ...                                         # collector.endpoint
        await collector.until(lambda: len(collector.spans) == 3)

Received data are plain Python values.  `stalled` makes the collector accept connections and never answer.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # the tests start processes, which need no gRPC

import grpc
import grpc.aio
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import add_MetricsServiceServicer_to_server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import add_TraceServiceServicer_to_server

from chaos.parts.http import Message, response
from chaos.parts.servers import Connection, Server
from tests.support.authority import Authority

PATIENCE = 60.0
"""Seconds after which a test fails rather than hangs."""
REQUESTS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}
ANSWERS = {"/v1/traces": ExportTraceServiceResponse, "/v1/metrics": ExportMetricsServiceResponse}


@dataclass
class Happening:
    """Event of a span."""

    name: str
    time: int
    attributes: dict[str, Any]


@dataclass
class Span:
    """Span as it was received; ids are hex, and a root has an empty `parent_id`."""

    service: str
    name: str
    kind: Literal["server", "client"]
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[Happening]
    links: list[tuple[str, str, dict[str, Any]]]
    """Trace id, span id and attributes."""
    status: int
    """0 unset, 1 ok, 2 error."""
    message: str
    state: str
    resource: dict[str, Any] = field(repr=False)

    def event(self, name: str) -> Happening:
        (found,) = [event for event in self.events if event.name == name]
        return found


class Collector:
    """Receiver with all that it received."""

    def __init__(
        self,
        protocol: Literal["grpc", "http"] = "http",
        *,
        stalled: bool = False,
        authority: Authority | None = None,
        asks: bool = False,
    ) -> None:
        """`authority`: speak TLS; `asks`: demand a certificate that the authority has signed."""
        self.protocol = protocol
        self._authority = authority
        self._asks = asks
        self._identity = None if authority is None else authority.sign("127.0.0.1")
        self.spans: list[Span] = []
        self.metrics: list[dict[str, Any]] = []
        """Exports of metrics: by name, pairs of the attributes as a dict and the protobuf data point."""
        self.raw: list[ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.exports = 0
        self.endpoint = ""
        self.stalled = stalled
        self.failing = 0
        """HTTP status to answer instead; 0 for none."""
        self._news = asyncio.Event()
        self._grpc: grpc.aio.Server | None = None
        tls = None if authority is None or self._identity is None else authority.server(self._identity, asks=asks)
        self._http = Server(self._answer, tls=tls)

    async def __aenter__(self) -> Collector:
        if self.protocol == "http":
            await self._http.__aenter__()
            self.endpoint = self._http.url
            return self
        self._grpc = grpc.aio.server()
        add_TraceServiceServicer_to_server(_Service(self, ExportTraceServiceResponse), self._grpc)
        add_MetricsServiceServicer_to_server(_Service(self, ExportMetricsServiceResponse), self._grpc)
        if self._authority is None or self._identity is None:
            port = self._grpc.add_insecure_port("127.0.0.1:0")
        else:
            key, cert = (Path(self._identity[name]).read_bytes() for name in ("key", "cert"))
            ca = Path(self._authority.ca_file).read_bytes()
            credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=self._asks)
            port = self._grpc.add_secure_port("127.0.0.1:0", credentials)
        await self._grpc.start()
        self.endpoint = f"{'http' if self._authority is None else 'https'}://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grpc is not None:
            await self._grpc.stop(None)
        else:
            await self._http.__aexit__(kind, error, trace)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a condition on what was received holds."""
        async with asyncio.timeout(PATIENCE):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace in the order in which they began."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start)

    # ----- receiving

    def take(self, message: Any, headers: dict[str, str]) -> None:
        self.exports += 1
        self.headers.append(headers)
        if isinstance(message, ExportTraceServiceRequest):
            self.spans += _spans(message)
        else:
            self.raw.append(message)
            self.metrics.append(_metrics(message))
        self._news.set()

    async def _answer(self, connection: Connection, request: Message) -> None:
        if self.stalled:
            await asyncio.Event().wait()
        if self.failing:
            await connection.send(response(self.failing, b""))
            return
        body = gzip.decompress(request.body) if request.get("content-encoding") == "gzip" else request.body
        message = REQUESTS[request.target]()
        is_json = request.get("content-type") == "application/json"
        if is_json:
            json_format.Parse(_base64_ids(body.decode()), message)
        else:
            message.ParseFromString(body)
        self.take(message, {name.lower(): value for name, value in request.fields})
        answer = ANSWERS[request.target]()
        kind = "application/json" if is_json else "application/x-protobuf"
        content = json_format.MessageToJson(answer).encode() if is_json else answer.SerializeToString()
        await connection.send(response(200, content, [("Content-Type", kind)]))


class _Service:
    def __init__(self, collector: Collector, answer: type) -> None:
        self._collector = collector
        self._answer = answer

    async def Export(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if self._collector.stalled:
            await asyncio.Event().wait()
        self._collector.take(request, dict(context.invocation_metadata() or ()))
        return self._answer()


def _base64_ids(text: str) -> str:
    """Return OTLP's JSON with ids in base64, as protobuf's own mapping has them, instead of hex."""

    def encode(match: re.Match[str]) -> str:
        return f'"{match[1]}":"{base64.b64encode(bytes.fromhex(match[2])).decode()}"'

    return re.sub(r'"(traceId|spanId|parentSpanId)"\s*:\s*"([0-9a-fA-F]*)"', encode, text)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _spans(message: ExportTraceServiceRequest) -> list[Span]:
    return [
        _span(span, _attributes(group.resource.attributes))
        for group in message.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        service=str(resource.get("service.name")),
        name=span.name,
        kind={2: "server", 3: "client"}[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=[Happening(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events],
        links=[(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links],
        status=span.status.code,
        message=span.status.message,
        state=span.trace_state,
        resource=resource,
    )


def _metrics(message: ExportMetricsServiceRequest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for group in message.resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                found[metric.name] = [(_attributes(point.attributes), point) for point in data.data_points]
    return found
