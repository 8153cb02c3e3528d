"""Tests of the check of `cors`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load


def warnings(match: dict[str, Any], **cors: Any) -> list[str]:
    routes = [{"name": "r", "upstream": "app", "match": match, "cors": {"origins": ["https://shop.example"], **cors}}]
    document = {
        "version": 1,
        "listeners": {"inbound": {"address": "127.0.0.1:0"}},
        "upstreams": {"app": {"endpoints": ["http://127.0.0.1:1"]}},
        "routes": routes,
    }
    loaded = load([Source("a.yaml", json.dumps(document).encode())], {})
    assert loaded.problems == []
    return [str(warning) for warning in loaded.warnings]


def test_a_condition_that_no_preflight_meets() -> None:
    (warning,) = warnings({"path": "/x", "headers": {"x-tier": "gold"}})
    assert "routes.r.match.headers" in warning
    assert "asks for x-tier, which no preflight has" in warning
    assert warnings({"path": "/x", "headers": {"Origin": "https://shop.example"}}) == []


@pytest.mark.parametrize(
    ("origin", "credentials", "is_warned"),
    [
        ("http://shop.example", True, True),
        ("http://shop.example", False, False),
        ("http://localhost:5173", True, False),
        ("http://localhost.evil.example", True, True),
    ],
)
def test_credentials_for_a_page_that_anyone_can_change(origin: str, credentials: bool, is_warned: bool) -> None:
    found = warnings({"path": "/x"}, origins=["https://a.example", origin], credentials=credentials)
    assert bool(found) == is_warned
    assert all("routes.r.cors.origins[1]" in each and "write https" in each for each in found)
