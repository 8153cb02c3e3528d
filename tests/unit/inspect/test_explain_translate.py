"""Tests of `sidecar routes` and `sidecar explain` for routes that call gRPC."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidecar.commands import main

POLICIES = str(Path(__file__).parents[3] / "policies" / "transcoding.yaml")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_routes_lists_the_bindings_that_a_route_may_serve() -> None:
    orders, watch, chat = run("routes", POLICIES).split("\n\n")
    assert "    = GET /v1/{name=shops/*/orders/*}          shop.Orders/Get\n" in orders
    assert orders.count("    = ") == 6
    assert watch.endswith("    = GET /v1/{parent=shops/*}/orders:watch  shop.Orders/Watch (stream)")
    assert watch.count("    = ") == 1
    assert chat.endswith("    = WebSocket /v1/{shop=shops/*}/chat  shop.Support/Chat (streams both ways)\n")
    document = json.loads(run("routes", POLICIES, "--json"))
    assert document["routes"][1]["bindings"] == [
        {
            "method": "GET", "path": "/v1/{parent=shops/*}/orders:watch", "calls": "shop.Orders/Watch",
            "is_stream": True, "needs_websocket": False,
        }
    ]  # fmt: skip
    assert document["routes"][2]["bindings"] == [
        {
            "method": "GET", "path": "/v1/{shop=shops/*}/chat", "calls": "shop.Support/Chat",
            "is_stream": True, "needs_websocket": True,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "sentences"),
    [
        (
            "POST",
            "/v1/shops/1/orders/a%20b:cancel",
            [
                "calls shop.Orders/Cancel, by POST /v1/{name=shops/*/orders/*}:cancel",
                "the path sets name to shops/1/orders/a b",
                "the body is the message",
            ],
        ),
        (
            "PATCH",
            "/v1/shops/1/orders/2",
            [
                "calls shop.Orders/Update, by PATCH /v1/{order.name=shops/*/orders/*}",
                "the path sets order.name to shops/1/orders/2",
                "the body is the field order",
                "query parameters set other fields",
            ],
        ),
        (
            "GET",
            "/v1/shops/1/orders:watch",
            [
                "calls shop.Orders/Watch (stream), by GET /v1/{parent=shops/*}/orders:watch",
                "the path sets parent to shops/1",
                "query parameters set other fields",
                "each message of the answer is sent as it comes (ndjson)",
            ],
        ),
        (
            "DELETE",
            "/v1/shops/1/orders/2",
            ["is refused with 405: the path is bound, but only for GET, HEAD, PATCH"],
        ),
        ("GET", "/v1/shops/1", ["is refused with 404: no method of the route's services is bound to the path"]),
    ],
)
def test_explain_tells_the_call(method: str, path: str, sentences: list[str]) -> None:
    text = run("explain", POLICIES, method, path)
    assert "\n".join(["", "translate", *(f"    {each}" for each in sentences), "", ""]) in text
    document = json.loads(run("explain", POLICIES, method, path, "--json"))
    assert document["route"]["translate"] == sentences


def test_explain_tells_of_a_websocket() -> None:
    text = run("explain", POLICIES, "GET", "/v1/shops/1/chat", "-H", "Upgrade: websocket")
    sentences = [
        "calls shop.Support/Chat (streams both ways), by WebSocket /v1/{shop=shops/*}/chat",
        "the path sets shop to shops/1",
        "each frame of the client is the message as JSON",
        "query parameters set other fields",
        "each message of the answer is a frame; a status other than OK is the last one",
    ]
    assert "\n".join(["", "translate", *(f"    {each}" for each in sentences), "", ""]) in text
    text = run("explain", POLICIES, "GET", "/v1/shops/1/chat")
    assert "is refused with 426: shop.Support/Chat (streams both ways) needs a WebSocket" in text
    text = run("explain", POLICIES, "GET", "/v1/shops/1/orders:watch", "-H", "Upgrade: websocket")
    assert "is refused with 404: no stream of the route's services is bound to the path" in text


def test_explain_knows_calls_of_grpc_web(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    text = (Path(POLICIES).parent / "grpc.yaml").read_text()
    text = text.replace("routes:", "routes:\n  - {name: rest, match: {path_prefix: /}, upstream: orders}", 1)
    path.write_text(text.replace("grpc_web: true", "grpc_web: false", 1))
    kind = "content-type: application/grpc-web+proto"
    arguments = ("explain", str(path), "POST", "/shop.Orders/Place", "-H", kind)
    assert "takes the route rest" in run(*arguments)
    path.write_text(text)
    after = run(*arguments)
    assert "is a call of gRPC-Web, which goes on as one of gRPC\n" in after
    assert "takes the route place-order" in after
    assert json.loads(run(*arguments, "--json"))["request"]["is_grpc_web"]
