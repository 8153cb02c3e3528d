"""Tests of the check of routes for calls of gRPC."""

from __future__ import annotations

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load

POLICY = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://app:80"], protocol: PROTOCOL}}
DEFAULTS
routes:
  - name: r
    match: MATCH
    upstream: app
    RETRY
"""
CALL = "{grpc: {service: shop.Orders}}"


def warnings(retry: str, match: str = CALL, protocol: str = "http2", defaults: str = "") -> list[str]:
    text = POLICY.replace("PROTOCOL", protocol).replace("DEFAULTS", defaults)
    loaded = load([Source("a.yaml", text.replace("MATCH", match).replace("RETRY", retry).encode())], {})
    assert loaded.problems == []
    return [str(each) for each in loaded.warnings]


@pytest.mark.parametrize(
    "retry", ["retry: {}", "retry: {on: [5xx, reset]}", "retry: {methods: [GET]}", "retry: {on: [{when: 'true'}]}"]
)
def test_a_retry_that_repeats_no_answer_to_a_call(retry: str) -> None:
    (found,) = [each for each in warnings(retry) if "never repeats a call" in each]
    assert found.startswith("a.yaml:9")
    assert found.endswith("add such as unavailable here, or POST to retry.methods")


@pytest.mark.parametrize(
    "retry", ["", "retry: {on: [unavailable]}", "retry: {methods: [POST]}", "retry: {max_attempts: 1}", "retry: off"]
)
def test_a_retry_that_repeats_calls_or_none(retry: str) -> None:
    assert not any("never repeats a call" in each for each in warnings(retry))


def test_a_retry_for_requests_of_http_or_for_all_routes() -> None:
    assert warnings("retry: {}", match="{path: /a}") == []
    assert warnings("", defaults="defaults: {retry: {on: [503]}}") == []
    layered = warnings("retry: {max_attempts: 2}", defaults="defaults: {retry: {on: [503]}}")
    assert any("never repeats a call" in each for each in layered)


def test_an_upstream_of_calls_that_speaks_http1() -> None:
    (found,) = warnings("", protocol="http1")
    assert "speaks HTTP/1.1; give it protocol: http2" in found
    assert warnings("", protocol="http1", match="{path: /a}") == []
