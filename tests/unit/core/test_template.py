"""Tests of templates: names, values, and hostile values."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest

from sidecar.core.outcome import BREAKER_OPEN, Refusal, failed
from sidecar.core.template import Template, compile_tree, header_safe, names, render_tree
from tests.support.service import exchange

CONSTANTS = {"service": "shop", "route": "order", "upstream": "app"}
X = exchange(
    "GET",
    "/orders/7",
    {"x-user": "ann"},
    query=b"a=1%202&b=&a=3",
    captures={"id": "7", "evil": "a/../b\r\nset-cookie: x"},
    client_address="192.0.2.7",
    request_id=b"r-1",
    trace=namedtuple("Trace", "trace_id")(b"4bf9"),
)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("plain", "plain"),
        ("/v2/{path.id}/x", "/v2/7/x"),
        ("{path.missing}", ""),
        ("{query.a}|{query.b}|{query.c}", "1 2||"),
        ("{header.X-User}", "ann"),
        ("{client.address} {request.id} {trace.id}", "192.0.2.7 r-1 4bf9"),
        ("{service}/{route}/{upstream}", "shop/order/app"),
        ("{breaker.retry_after}", ""),
        ("{{route}} is {route}", "{route} is order"),
        ('{"a": {"b": 1}, "c": {}}', '{"a": {"b": 1}, "c": {}}'),
    ],
)
def test_texts(text: str, rendered: str) -> None:
    assert Template(text, CONSTANTS).render(X) == rendered


@pytest.mark.parametrize(("seconds", "rendered"), [(2.1, "3"), (0.0, "1"), (None, "")])
def test_the_time_of_a_refusal_is_rounded_up(seconds: float | None, rendered: str) -> None:
    outcome = failed(BREAKER_OPEN, Refusal(retry_after=seconds))
    assert Template("{breaker.retry_after}", CONSTANTS).render(X, outcome) == rendered


def test_a_value_cannot_end_a_header_field() -> None:
    template = Template("x{path.evil}", CONSTANTS)
    assert template.render(X, None, header_safe) == "xa/../bset-cookie: x"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("{rout}", "did you mean {route}"),
        ("{breaker.retryafter}", "did you mean {breaker.retry_after}"),
        ("{paths.id}", "did you mean {path.id}"),
        ("{path}", "unknown"),
        ("{path.}", "unknown"),
        ("{zzz}", "known are client.address"),
    ],
)
def test_an_unknown_name_is_told_with_a_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Template(text, CONSTANTS)


def test_names_and_constants() -> None:
    assert names("{path.id}{{route}}{route}") == ["path.id", "route"]
    assert Template("{service}", {}).render(X) == ""


def test_a_tree_keeps_its_shape() -> None:
    tree: Any = {"a": ["{path.id}", 1, None, True], "b": {"c": "x{route}"}}
    assert render_tree(compile_tree(tree, CONSTANTS), X) == {"a": ["7", 1, None, True], "b": {"c": "xorder"}}
