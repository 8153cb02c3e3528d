"""Tests of `sidecar routes` and `sidecar explain`, word for word.

`UPDATE_GOLDEN=1 pytest` writes the expected files: read the diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.inspect.dry import compile_dry
from sidecar.inspect.effective import flow
from sidecar.inspect.explain import exchange_of, explain_text, table

GOLDEN = Path(__file__).parent / "golden"
POLICIES = "policies.yaml"
OUT = ("--listener", "outbound")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("routes", ("routes", POLICIES)),
        ("explain-match", ("explain", POLICIES, "GET", "http://orders:8080/orders/a%20b?x=1")),
        ("explain-header", ("explain", POLICIES, "GET", "/orders/17", "-H", "X-Tier: gold")),
        (
            "explain-upstream",
            ("explain", POLICIES, "POST", "http://Payments.prod/v1/./x", "--listener", "outbound"),
        ),
        ("explain-405", ("explain", POLICIES, "DELETE", "http://payments.prod/v2", *OUT)),
        ("explain-404", ("explain", POLICIES, "GET", "http://payments/v1", *OUT)),
        ("explain-readings", ("explain", POLICIES, "GET", "/orders/a%2Fb")),
        ("explain-disguise", ("explain", POLICIES, "GET", "/orders/..%2Fb")),
    ],
)
def test_word_for_word(name: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(result.output)
    assert result.output == golden.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("GET", "orders/17"), "write it such as http://orders/orders/17 or /orders/17"),
        (("GET", "/x", "--listener", "inbond"), "--listener: there is no listener `inbond`; did you mean `inbound`?"),
        (("GET", "/x", "-H", "x-tier"), "--header: `x-tier` has no colon; write -H 'name: value'"),
    ],
)
def test_what_is_asked_wrongly_is_said(arguments: tuple[str, ...], message: str) -> None:
    result = run("explain", str(GOLDEN / POLICIES), *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_policies_with_problems_are_not_explained(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 2")
    for arguments in (("routes",), ("explain", "GET", "/")):
        command, *rest = arguments
        result = run(command, str(tmp_path), *rest)
        assert result.exit_code == 1
        assert "p.yaml:1:10: version" in result.output


def test_values_on_one_line() -> None:
    assert flow({"a": [1, 2.0, None, True], "b": "x y", "c": "a: b", "d": {}, "e": ""}) == (
        '{a: [1, 2, null, true], b: x y, c: "a: b", d: {}, e: ""}'
    )


def test_a_long_value_leaves_other_rows_as_they_are() -> None:
    rows = [("short", "1s", "built-in"), ("long", "x" * 500, "a.yaml:1")]
    assert table(rows) == ["    short  1s  built-in", f"    long   {'x' * 500}  a.yaml:1"]


GRPC = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams:
  orders: {endpoints: ["http://127.0.0.1:9000"], protocol: http2}
  old: {endpoints: ["http://127.0.0.1:9001"]}
routes:
  - {name: place, match: {grpc: {service: shop.Orders, method: Place}}, upstream: orders}
  - {name: orders, match: {grpc: {service: shop.Orders}}, upstream: old}
"""


def test_calls_of_grpc_are_routed_and_explained() -> None:
    loaded = load([Source("p.yaml", GRPC.encode())], {})
    assert [str(problem) for problem in loaded.problems] == []
    (warning,) = map(str, loaded.warnings)
    assert "takes calls of gRPC, but the upstream old speaks HTTP/1.1; give it protocol: http2" in warning
    assert loaded.spec is not None
    snapshot = compile_dry(loaded.spec)
    headers = [("content-type", "application/grpc+proto")]
    text = explain_text(snapshot, "inbound", exchange_of("POST", "/shop.Orders/Place", headers))
    assert "takes the route place (p.yaml:7): gRPC /shop.Orders/Place" in text
    assert "orders  matches too, but is less specific" in text
    text = explain_text(snapshot, "inbound", exchange_of("POST", "/shop.Orders/Place", []))
    assert "takes no route" in text
    assert "place   the header content-type is not given, not application/grpc" in text
    text = explain_text(snapshot, "inbound", exchange_of("POST", "/shop.Orders/Cancel", headers))
    assert "takes the route orders (p.yaml:8): gRPC /shop.Orders/*" in text
    assert "place  the path is not /shop.Orders/Place" in text


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("{service: shop Orders}", "match.grpc.service: is not the name of a service"),
        ("{service: /shop.Orders}", "match.grpc.service: is not the name of a service"),
        ("{service: shop.Orders, method: Place/Now}", "match.grpc.method: is not the name of a method"),
        ("{method: Place}", "is missing; add `service: "),
    ],
)
def test_nonsense_for_a_call_is_an_error(match: str, message: str) -> None:
    text = GRPC.replace("{service: shop.Orders, method: Place}", match)
    loaded = load([Source("p.yaml", text.encode())], {})
    assert any(message in str(problem) for problem in loaded.problems), loaded.problems
