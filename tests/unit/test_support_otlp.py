"""Tests of the tests' own collector with every form of OTLP over HTTP; `tests/e2e/test_tracing.py` uses gRPC."""

from __future__ import annotations

import gzip
import json

import pytest

from chaos.parts.client import fetch
from tests.support.otlp import Collector

SPAN = {
    "traceId": "0af7651916cd43dd8448eb211c80319c",
    "spanId": "b7ad6b7169203331",
    "name": "GET",
    "kind": 3,
    "attributes": [{"key": "http.response.status_code", "value": {"intValue": "200"}}],
}
SERVICE = {"attributes": [{"key": "service.name", "value": {"stringValue": "orders"}}]}
TRACES = {"resourceSpans": [{"resource": SERVICE, "scopeSpans": [{"spans": [SPAN]}]}]}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_json(packed: bool) -> None:
    body = json.dumps(TRACES).encode()
    fields = {"content_encoding": "gzip"} if packed else {}
    async with Collector("http") as collector:
        address = collector.endpoint.removeprefix("http://")
        body = gzip.compress(body) if packed else body
        answer = await fetch(address, "POST", "/v1/traces", body, content_type="application/json", **fields)
    assert (answer.status, answer.get("content-type"), answer.body) == (200, "application/json", b"{}")
    (span,) = collector.spans
    assert (span.trace_id, span.span_id, span.parent_id) == (SPAN["traceId"], SPAN["spanId"], "")
    assert (span.service, span.kind, span.attributes) == ("orders", "client", {"http.response.status_code": 200})
