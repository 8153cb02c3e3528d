from __future__ import annotations

import re
from typing import Any

import pytest

from sidecar.routing.match_spec import MatchSpec
from sidecar.routing.rule import MatchError, Rule, parameter
from tests.support.service import exchange


def rule(**match: Any) -> Rule[str]:
    return Rule(MatchSpec(**match), "route")


@pytest.mark.parametrize(
    ("match", "key", "message"),
    [
        ({"path": "orders"}, "path", "must start with a slash"),
        ({"path": "/a", "path_prefix": "/b"}, "path_prefix", "stands beside `path`"),
        ({"path": "/a{id}"}, "path", "a capture is a whole segment"),
        ({"path": "/{id}/{id}"}, "path", "captures the same name twice"),
        ({"path_prefix": "/{id}"}, "path_prefix", "takes no captures"),
        ({"path_regex": "(a+)+"}, "path_regex", "exponential"),
        ({"methods": ["get"]}, "methods", "write GET"),
        ({"methods": ["G T"]}, "methods", "not a method"),
        ({"headers": {"x tier": "gold"}}, "headers", "not the name of a header"),
        ({"host": "http://a.example"}, "host", "a host name alone"),
        ({"host": "a.example:0"}, "host", "port from 1 to 65535"),
        ({"host": "a.example:http"}, "host", "port from 1 to 65535"),
        ({"host": "*.a.example:80"}, "host", "leave the port out"),
        ({"host": "*"}, "host", "not a host name"),
        ({"host": "a.*.example"}, "host", "not a host name"),
        ({"host": "bücher.example"}, "host", "xn--"),
    ],
)
def test_conditions_that_do_not_compile_say_what_would_be_right(match: Any, key: str, message: str) -> None:
    with pytest.raises(MatchError, match=re.escape(message)) as error:
        rule(**match)
    assert error.value.key == key


def test_how_specific_rules_are() -> None:
    ordered = [
        rule(host="a.example:81"),
        rule(host="a.example", path="/a/b"),
        rule(host="a.example"),
        rule(host="*.a.example"),
        rule(host="*.example", path="/a"),
        rule(path="/a/b", methods=["GET"], headers={"x": "1"}, query={"q": "1"}),
        rule(path="/a/b", methods=["GET"], headers={"x": "1"}),
        rule(path="/a/b", methods=["GET"], query={"q": "1"}),
        rule(path="/a/b", methods=["GET"]),
        rule(path="/a/b", headers={"x": "1", "y": "1"}),
        rule(path="/a/b"),
        rule(path="/{x}/b/{y}/d"),
        rule(path="/a/{x}"),
        rule(path="/{x}/{y}"),
        rule(path_prefix="/a/b"),
        rule(path_prefix="/a"),
        rule(path_regex="/a/.*"),
        rule(),
    ]
    ranks = [each.rank for each in ordered]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == len(ranks)
    assert rule(path_prefix="/").rank == rule().rank


TIES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"path_prefix": "/"}),
    ({"path": "/a"}, {"path": "/%61"}),
    ({"path_prefix": "/a"}, {"path_prefix": "/a/"}),
    ({"path": "/a/{x}"}, {"path": "/{x}/b"}),
    ({"path": "/a/{x}"}, {"path": "/a/{y}"}),
    ({"methods": ["GET", "HEAD"]}, {"methods": ["GET"]}),
    ({"headers": {"x": "1"}}, {"headers": {"y": "1"}}),
    ({"query": {"a": "1", "b": "1"}}, {"query": {"a": "1", "c": "1"}}),
    ({"path_regex": "/a.*"}, {"path_regex": "/.*b"}),
    ({"host": "A.example."}, {"host": "a.example"}),
]
NO_TIES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"methods": ["GET"]}, {"methods": ["POST"]}),
    ({"methods": ["GET"]}, {}),
    ({"headers": {"x": "1"}}, {"headers": {"X": "2"}}),
    ({"headers": {"x": "1"}}, {"headers": {"x": "1", "y": "1"}}),
    ({"query": {"a": "1", "b": "1"}}, {"query": {"a": "2", "c": "1"}}),
    ({"path": "/a/{x}"}, {"path": "/b/{x}"}),
    ({"path": "/a/{x}"}, {"path": "/a/{x}/c"}),
    ({"path": "/a/{x}"}, {"path": "/{x}/{y}"}),
    ({"path": "/a"}, {"path": "/a/"}),
    ({"path": "/a"}, {"path_prefix": "/a"}),
    ({"path_regex": "/a.*"}, {"path_regex": "/b.*"}),
    ({"host": "a.example"}, {"host": "*.example"}),
    ({"host": "a.example"}, {"host": "a.example:81"}),
]


@pytest.mark.parametrize(("one", "two"), TIES)
def test_rules_that_tie(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert rule(**one).can_tie(rule(**two))
    assert rule(**two).can_tie(rule(**one))


@pytest.mark.parametrize(("one", "two"), NO_TIES)
def test_rules_that_do_not_tie(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert not rule(**one).can_tie(rule(**two))
    assert not rule(**two).can_tie(rule(**one))


def test_a_repeated_header_is_compared_as_a_whole() -> None:
    gold = rule(headers={"X-Tier": "gold"})
    assert gold.allows(exchange(headers={"x-tier": "gold"}))
    assert not gold.allows(exchange(headers=[(b"x-tier", b"gold"), (b"x-tier", b"silver")]))
    assert rule(headers={"x-tier": "gold, silver"}).allows(
        exchange(headers=[(b"x-tier", b"gold"), (b"x-tier", b"silver")])
    )


def test_a_query_parameter_counts_once_and_decoded() -> None:
    wanted = rule(query={"q ö": "a b"})
    assert wanted.allows(exchange(query=b"x=1&q%20%C3%B6=a+b&y"))
    assert not wanted.allows(exchange(query=b"q+%C3%B6=a+b&q+%C3%B6=a+b"))
    assert not wanted.allows(exchange(query=None))
    assert parameter(b"a&a=&b=1", b"a") == [b"", b""]


# ----- calls of gRPC

PLACE = {"service": "shop.Orders", "method": "Place"}


def test_a_rule_for_calls_takes_only_calls() -> None:
    from tests.support.grpc import call

    method, service = rule(grpc=PLACE), rule(grpc={"service": "shop.Orders"})
    assert method.match.template == "/shop.Orders/Place"
    assert service.match.template == "/shop.Orders"
    for one in (method, service):
        assert one.methods == {b"POST"}
        assert not one.is_open
        assert one.allows(call())
        assert not one.allows(exchange("POST", "/shop.Orders/Place"))
    assert method.covers(b"/shop.Orders/Place")
    assert not method.covers(b"/shop.Orders/Cancel")
    assert service.covers(b"/shop.Orders/Cancel")
    assert not service.covers(b"/shop.OrdersArchive/Place")


def test_a_method_is_more_specific_than_its_service_and_a_call_than_a_request() -> None:
    ordered = [
        rule(grpc=PLACE),
        rule(path="/shop.Orders/Place", methods=["POST"]),
        rule(grpc={"service": "shop.Orders"}),
        rule(path_prefix="/shop.Orders", methods=["POST"]),
        rule(),
    ]
    assert sorted(ordered, key=lambda each: each.rank, reverse=True) == ordered


@pytest.mark.parametrize(
    ("match", "key", "message"),
    [
        ({"grpc": PLACE, "path": "/a"}, "grpc", "stands beside `path`"),
        ({"grpc": PLACE, "methods": ["POST"]}, "methods", "every call of gRPC is a POST"),
    ],
)
def test_conditions_that_contradict_a_call(match: Any, key: str, message: str) -> None:
    with pytest.raises(MatchError, match=re.escape(message)) as error:
        rule(**match)
    assert error.value.key == key
