"""Tests of the router for CORS preflights."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.routing.match_spec import MatchSpec
from sidecar.routing.preflight import PreflightRouter
from sidecar.routing.rule import Rule
from tests.support.service import exchange

MATCHES: dict[str, dict[str, Any]] = {
    "read": {"path": "/orders/{id}", "methods": ["GET"]},
    "write": {"path": "/orders/{id}", "methods": ["PUT"]},
    "internal": {"path": "/orders/{id}", "methods": ["DELETE"]},
    "below": {"path_prefix": "/"},
    "asked": {"path": "/asked", "methods": ["GET", "OPTIONS"]},
    "own": {"path": "/own", "methods": ["PUT"]},
    "own options": {"path": "/own", "methods": ["OPTIONS"]},
    "call": {"grpc": {"service": "shop.Orders"}},
}
ANSWERING = {"read", "write", "below", "asked", "call"}


def routed(method: str, path: str, announced: str | None = None, origin: str | None = "https://a.example") -> Any:
    router = PreflightRouter([Rule(MatchSpec(**match), name) for name, match in MATCHES.items()], ANSWERING)
    fields = {} if announced is None else {"access-control-request-method": announced}
    x = exchange(method, path, fields | ({} if origin is None else {"origin": origin}))
    found = router.match(x)
    assert (x.method, x.is_grpc) == (method.encode(), False)
    return found


@pytest.mark.parametrize(
    ("path", "announced", "found"),
    [
        ("/orders/7", "GET", "read"),
        ("/orders/7", "PUT", "write"),
        ("/orders/7", "PATCH", "below"),
        ("/orders/7", "DELETE", None),  # `below` must not answer for `internal`
        ("/asked", "GET", "asked"),
        ("/asked/more", "GET", "below"),
        ("/own", "PUT", "own options"),
        ("/shop.Orders/Place", "POST", "call"),
        ("/shop.Orders/Place", "GET", "below"),
    ],
)
def test_a_preflight_belongs_to_the_route_of_the_request_that_it_announces(
    path: str, announced: str, found: str | None
) -> None:
    assert routed("OPTIONS", path, announced) == found


def test_other_requests_are_routed_as_ever() -> None:
    assert routed("OPTIONS", "/orders/7") == "below"
    assert routed("OPTIONS", "/orders/7", "PUT", origin=None) == "below"
    assert routed("GET", "/orders/7", "PUT") == "read"
    assert routed("PUT", "/own", "GET") == "own"
    assert routed("OPTIONS", "/own") == "own options"
    assert routed("POST", "/shop.Orders/Place") == "below"
