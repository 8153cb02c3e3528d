"""Tests of `sidecar explain` for the cache."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.inspect.explain import exchange_of
from sidecar.inspect.explain_cache import cache_text
from sidecar.stages.cache.spec import Spec


def told(
    method: str = "GET", url: str = "http://orders/a?b=1", block: dict[str, Any] | None = None, **fields: str
) -> str:
    headers = [(name.replace("_", "-"), value) for name, value in fields.items()]
    return "\n".join(cache_text(Spec.model_validate(block or {}), "r", exchange_of(method, url, headers)))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "is looked up in the cache default as http://orders/a?b=1\n"),
        ({"block": {"key": {"headers": ["x-a"], "ignore_query": ["b"]}}}, "as http://orders/a by x-a\n"),
        ({}, "a response without a lifetime of its own is not fresh"),
        ({"block": {"heuristic": "10%"}}, "of its own is fresh for 10% of its age"),
        ({"block": {"ttl": "30s"}}, "of its own is fresh for 30s (ttl)"),
        ({"block": {"ttl": "30s"}, "cookie": "a=b"}, "the request has a credential"),
        ({"block": {"mode": "observe"}}, "mode is observe"),
        ({}, "a response that sets a cookie is not stored"),
        ({"authorization": "Basic x"}, "only if the response says public, s-maxage or must-revalidate"),
        ({"range": "bytes=0-1"}, "not stored if it comes from the upstream: the request asks for a range"),
        ({"cache_control": "only-if-cached"}, "the upstream is never asked"),
        ({"cache_control": "no-store"}, "bypasses the cache: the request says no-store"),
        (
            {"cache_control": "no-store", "block": {"request_directives": "ignore"}},
            "not stored: the request says no-store",
        ),
        ({"if_match": '"1"'}, "bypasses the cache: If-Match"),
        ({"method": "HEAD"}, "the response to a HEAD is not stored"),
        ({"method": "OPTIONS"}, "bypasses the cache: OPTIONS is neither GET nor HEAD"),
        ({"method": "POST"}, "its success invalidates what is stored for this URL"),
    ],
)
def test_what_is_said(facts: dict[str, Any], said: str) -> None:
    assert said in told(**facts)
