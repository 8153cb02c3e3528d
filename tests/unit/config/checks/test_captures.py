from __future__ import annotations

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load

POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://app:80"]}}
defaults:
  transform: {request: {headers: {set: {x-id: "%s"}}}}
routes:
  - {name: order, match: {%s}, upstream: app%s}
"""


def problems(text: str, match: str, more: str = "") -> list[str]:
    return [
        str(problem) for problem in load([Source("p.yaml", (POLICIES % (text, match, more)).encode())], {}).problems
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{path.id}", 'path: "/orders/{id}"'),
        ("{path.id}-{service}", 'path_regex: "/orders/(?P<id>[0-9]+)"'),
        ("{{path.id}}", "path: /orders"),
        ("{query.id}", "path: /orders"),
    ],
)
def test_what_the_match_captures_may_be_named(text: str, match: str) -> None:
    assert problems(text, match) == []


def test_what_it_does_not_capture_may_not() -> None:
    assert problems("{path.ids}", 'path: "/orders/{id}/{item}"') == [
        "p.yaml:5:47: defaults.transform.request.headers.set.x-id: names {path.ids}, which the route `order` does not "
        "capture; did you mean `id`?"
    ]
    (problem,) = problems("{path.id}", "path_prefix: /orders")
    assert "does not capture; there are none" in problem


def test_a_fallback_is_looked_at_too_and_what_is_off_is_not() -> None:
    fallback = ', fallback: [{response: {status: 503, json: {order: ["{path.nope}"]}}}]'
    (problem,) = problems("x", 'path: "/orders/{id}"', fallback)
    assert "names {path.nope}" in problem
    assert problems("{path.nope}", "path: /orders", ", transform: off") == []
