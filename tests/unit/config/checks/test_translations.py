"""Tests of the check of `translate`: descriptor sets, the upstream's protocol, methods that are not served, streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load
from tests.support.protos import compile_proto
from tests.unit.stages.translate.chat import DATA as CHAT
from tests.unit.stages.translate.shop import DATA

HEAD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams:
  orders: {endpoints: ["http://127.0.0.1:9000"], protocol: http2}
routes:
"""
BLOCK = "translate: {grpc: {descriptors: shop.binpb, services: [shop.Orders]}}"
ALL = f"  - {{name: all, match: {{path_prefix: /v1}}, upstream: orders, {BLOCK}}}\n"
BARE = "does not serve shop.Orders/Bare: without a google.api.http rule there is no path"


def messages(folder: Path, routes: str, head: str = HEAD) -> list[str]:
    """Return the errors and warnings of policies, without their files."""
    (folder / "shop.binpb").write_bytes(DATA)
    loaded = load([Source(str(folder / "p.yaml"), (head + routes).encode())], {})
    return [str(each).removeprefix(f"{folder}/") for each in (*loaded.problems, *loaded.warnings)]


def test_methods_without_a_rule_are_told(tmp_path: Path) -> None:
    assert messages(tmp_path, ALL) == [f"p.yaml:6:106: routes.all.translate.grpc.services: {BARE}"]


@pytest.mark.parametrize(
    ("endpoint", "is_wrong"),
    [
        ('endpoints: ["http://127.0.0.1:9000"]', True),
        ('endpoints: ["https://127.0.0.1:9000"]', False),
        ('endpoints: ["https://127.0.0.1:9000"], protocol: http1', True),
        ('endpoints: ["http://127.0.0.1:9000"], protocol: http2', False),
    ],
)
def test_the_upstream_must_speak_http_2(endpoint: str, is_wrong: bool, tmp_path: Path) -> None:
    head = HEAD.replace('endpoints: ["http://127.0.0.1:9000"], protocol: http2', endpoint)
    found = [each for each in messages(tmp_path, ALL, head) if "speaks HTTP/1.1; write `protocol: http2` there" in each]
    assert bool(found) == is_wrong


@pytest.mark.parametrize(
    ("name", "services", "error"),
    [
        ("gone.binpb", "shop.Orders", "cannot be read (No such file or directory)"),
        ("p.txt", "shop.Orders", "is no descriptor set"),
        ("shop.binpb", "shop.Nope", "has no service shop.Nope; its services are shop.Orders"),
    ],
)
def test_a_descriptor_set_must_be_usable(name: str, services: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("syntax")
    routes = ALL.replace("shop.binpb", name).replace("shop.Orders", services)
    (found,) = messages(tmp_path, routes)
    place = "p.yaml:6:94: routes.all.translate.grpc.descriptors"
    assert found.startswith(f"{place}: names the descriptor set {tmp_path}/{name}, which {error}")


@pytest.mark.parametrize(
    ("match", "lost"),
    [
        ("{path_prefix: /}", None),
        ("{path_prefix: /v1/orders}", "GET /v1/pictures/{id} (shop.Orders/Picture)"),
        ("{path: /v1/orders}", "GET /v1/orders/{id} (shop.Orders/Get)"),
        ("{path_prefix: /v1, methods: [GET, PUT]}", "POST /v1/orders (shop.Orders/Create)"),
        ("{path_prefix: /v2}", "GET /v1/orders/{id} (shop.Orders/Get)"),
        ('{path_regex: "/v2/.*"}', None),
    ],
)
def test_a_match_that_keeps_bindings_away_is_told(match: str, lost: str | None, tmp_path: Path) -> None:
    found = [each for each in messages(tmp_path, ALL.replace("{path_prefix: /v1}", match)) if " keeps " in each]
    assert len(found) == (lost is not None)
    if lost is not None:
        assert f"routes.all.match: keeps {lost}" in found[0]
        assert "away from `translate`; widen the match" in found[0]


def test_routes_of_one_service_complete_each_other(tmp_path: Path) -> None:
    one = ALL.replace("all,", "orders,").replace("/v1}", "/v1/orders}")
    two = ALL.replace("all,", "pictures,").replace("/v1}", "/v1/pictures}")
    three = ALL.replace("all,", "films,").replace("/v1}", "/v1/films}")
    assert [each for each in messages(tmp_path, one + two + three) if BARE not in each] == []


def test_a_rewritten_path_may_be_any(tmp_path: Path) -> None:
    block = f"{BLOCK}, transform: {{request: {{path_prefix: {{/shop: /v1}}}}}}"
    routes = ALL.replace("/v1}", "/shop}").replace(BLOCK, block)
    assert [each for each in messages(tmp_path, routes) if BARE not in each] == []


def test_a_limit_on_the_time_of_a_stream_is_told(tmp_path: Path) -> None:
    limited = ALL.replace(BLOCK, f"{BLOCK}, timeout: {{request: 3s}}")
    (found,) = [each for each in messages(tmp_path, limited) if BARE not in each]
    assert found.endswith(
        "routes.all.timeout.request: ends the streams of shop.Orders/Watch, shop.Orders/Film after 3s; "
        "write request: off, or give them a route"
    )
    for name in ("orders/{id}/events", "films/{id}"):
        limited += (
            ALL.replace("all,", f"{name[:5]},")
            .replace("{path_prefix: /v1}", f'{{path: "/v1/{name}"}}')
            .replace(BLOCK, f"{BLOCK}, timeout: {{request: off}}")
        )
    assert [each for each in messages(tmp_path, limited) if BARE not in each] == []


def test_a_service_without_rules_serves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bare.binpb").write_bytes(
        compile_proto('syntax = "proto3"; package a; message M {} service B { rpc C(M) returns (M); }')
    )
    routes = ALL.replace("shop.binpb", "bare.binpb").replace("shop.Orders", "a.B")
    (found,) = messages(tmp_path, routes)
    assert "serves nothing: no method has a google.api.http rule; add them to the proto files" in found


def test_the_time_of_a_request_does_not_limit_a_websocket(tmp_path: Path) -> None:
    (tmp_path / "chat.binpb").write_bytes(CHAT)
    grpc = "{descriptors: chat.binpb, services: [chat.Chat], streams: websocket}"
    match = "{methods: [GET], path_prefix: /chat}"
    route = f"  - {{name: chat, match: {match}, upstream: orders, translate: {{grpc: {grpc}}}}}\n"
    found = messages(tmp_path, route)
    assert not [each for each in found if "ends the streams" in each]
    (lost,) = [each for each in found if "away from `translate`" in each]
    assert "WebSocket /post/{room} (chat.Chat/Post)" in lost
    assert "WebSocket /chat" not in lost
