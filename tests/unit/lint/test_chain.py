"""Tests of chains of services: who calls whom, worst cases along paths, the drawing, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidecar.commands import main
from sidecar.config.files import read
from sidecar.config.load import load
from sidecar.lint.chain import Chain, draw
from sidecar.lint.rules import chains
from sidecar.lint.run import find_in_chain
from tests.support.cases import each
from tests.unit.lint.examples import chain, completed, names

SHOP = Path(__file__).parents[3] / "policies" / "shop"
SERVICES = [str(path) for path in sorted(SHOP.glob("*.yaml")) if not path.name.endswith(".test.yaml")]
CALLER = """\
service: web
listeners: {inbound: {address: "127.0.0.1:1001"}, outbound: {address: "127.0.0.1:2001"}}
upstreams:
  app: {endpoints: ["http://127.0.0.1:9000"]}
  NAME: {endpoints: ["http://HOST:8080"]}
routes:
  - {name: in, listener: inbound, upstream: app, timeout: {request: 3s}}
  - {name: call, listener: outbound, upstream: NAME, timeout: {request: 2s, attempt: 900ms}, retry: {max_attempts: 2}}
"""
STOCK = """\
service: stock
routes: [{name: in, upstream: app, timeout: {request: 800ms}}]
"""


def pair(name: str, host: str, topology: dict[str, dict[str, str]] | None = None) -> Chain:
    """Return a chain of web and stock, by the names of an upstream and its host."""
    texts = CALLER.replace("NAME", name).replace("HOST", host), STOCK
    specs = [load([completed(text)], {}).spec for text in texts]
    return Chain([spec for spec in specs if spec is not None], topology or {})


@each(
    [
        ("stock", "10.0.0.7"),
        ("backend", "stock"),
        ("backend", "stock.prod.svc.cluster.local"),
        ("backend", "stock-1"),
        ("stock-2", "10.0.0.7"),
    ]
)
def test_an_upstream_is_a_service_by_its_name_or_its_host(case: tuple[str, str]) -> None:
    (path,) = pair(*case).paths
    assert path.services == ("web", "stock")


def test_an_upstream_of_another_name_needs_a_topology() -> None:
    assert pair("backend", "10.0.0.7").paths == []
    assert "write a topology file" in draw(pair("backend", "10.0.0.7"))[0]
    (path,) = pair("backend", "10.0.0.7", {"web": {"backend": "stock"}}).paths
    assert path.services == ("web", "stock")


def test_worst_cases_multiply_along_a_path() -> None:
    (path,) = pair("stock", "stock").paths
    assert [hop.name for hop in path.hops] == ["web.in", "web.call", "stock.in"]
    assert (path.seconds, path.factors, path.calls) == (3.0, [1, 2, 1], 2)
    assert path.outage == pytest.approx(1.2)


def test_the_drawing_has_a_line_for_each_route() -> None:
    *lines, end = draw(pair("stock", "stock"))[:5]
    assert lines == [
        "web > stock",
        "    web.in        3s",
        "    └ web.call    2s, 2 tries",
        "      └ stock.in  800ms, called 2 times",
    ]
    assert end.startswith("    the client waits 3s at most; one request makes up to 2 calls of stock; ")
    assert end.endswith("an outage multiplies its load by 1.2 at most")


def test_a_circle_is_said_and_cut() -> None:
    found = chain(next(rule for rule in chains.RULES if rule.id == "R104").failing)
    assert found.cycles == [["web", "stock", "web"]]
    assert draw(found)[-1] == "circle: web > stock > web"
    assert all(len(path.hops) < 10 for path in found.paths)


def test_the_remaining_time_travels_from_sidecar_to_sidecar_unless_its_field_is_off() -> None:
    texts = CALLER.replace("NAME", "stock").replace("HOST", "stock"), STOCK.replace("800ms", "5s")
    assert "R101" not in names("---\n".join(texts))
    without = texts[0].replace("{request: 2s, attempt: 900ms}", '{request: 2s, attempt: 900ms, header: "off"}')
    assert "R101" in names("---\n".join((without, texts[1])))


def test_the_shop_has_its_paths_and_no_findings() -> None:
    specs = [load(read(path), {}).spec for path in SERVICES]
    shop = Chain([spec for spec in specs if spec is not None], {})
    assert {path.services for path in shop.paths} >= {
        ("web", "orders", "inventory"), ("web", "orders", "payments"), ("web", "prices"),
    }  # fmt: skip
    assert list(find_in_chain(shop)) == []
    assert max(path.calls for path in shop.paths) == 8


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, ["lint", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    out = run("--chain", *SERVICES)
    assert "web > orders > inventory\n    web.shop " in out
    paths = json.loads(run("--chain", "--json", *SERVICES))["paths"]
    assert ["web", "prices"] in [each["services"] for each in paths]
    assert json.loads(run("--json", *SERVICES[:1]))["paths"] == []
    assert "has the service `inventory` of" in run("--chain", SERVICES[0], f"{SHOP}/../shop/inventory.yaml", code=1)
    topology = tmp_path / "topology.yaml"
    topology.write_text("calls: {web: {orders: order}}")
    message = run("--chain", "--topology", str(topology), *SERVICES, code=1)
    assert "names the service `order`, which no PATH has; did you mean `orders`?" in message
    topology.write_text("calls: {web: {orderz: orders}}")
    message = run("--chain", "--topology", str(topology), *SERVICES, code=1)
    assert "names the upstream `orderz`, which web does not have; did you mean `orders`?" in message
    assert run("--chain", *SERVICES, *SERVICES, code=0) == run("--chain", *SERVICES, code=0), "each path once"
    topology.write_text("calls: {web: {orders: 3}}")
    assert f"{topology}:1:23: calls.web.orders: " in run("--chain", "--topology", str(topology), *SERVICES, code=1)
    run("--topology", str(topology), *SERVICES, code=2)


def test_comments_suppress_findings_along_a_chain(tmp_path: Path) -> None:
    rule = next(rule for rule in chains.RULES if rule.id == "R101")
    paths = []
    for number, text in enumerate(rule.failing.split("---\n")):
        path = tmp_path / f"{number}.yaml"
        comment = "  # lint: ignore R101: the service passes the time on"
        path.write_bytes(completed(text.replace("request: 5s}}", f"request: 5s}}}}{comment}")).text)
        paths.append(str(path))
    result = CliRunner().invoke(main, ["lint", "--chain", *paths])
    assert (result.exit_code, result.stdout.splitlines()[-1].rpartition(": ")[2]) == (0, "1 suppressed")
    assert CliRunner().invoke(main, ["lint", *paths]).exit_code == 0


def mesh(layers: int, width: int) -> list[str]:
    """Return policies of layers of services, each of which calls all of the next one, and repeats."""
    texts = []
    for layer in range(layers):
        for number in range(width):
            called = [f"s{layer + 1}-{each}" for each in "abcdefgh"[:width]] if layer < layers - 1 else []
            upstreams = "".join(
                f'  {each}: {{endpoints: ["http://{each}:80"], retry_budget: {{ratio: 90%}}}}\n' for each in called
            )
            routes = "".join(
                f"  - {{name: {each}, listener: outbound, match: {{path: /{each}}}, upstream: {each}, "
                "timeout: {request: 2s}, retry: {max_attempts: 3}}\n"
                for each in called
            )
            listeners = 'inbound: {address: "127.0.0.1:1001"}, outbound: {address: "127.0.0.1:2001"}'
            texts.append(
                f"service: s{layer}-{'abcdefgh'[number]}\nlisteners: {{{listeners}}}\n"
                f'upstreams:\n  app: {{endpoints: ["http://127.0.0.1:9000"]}}\n{upstreams}'
                f"routes:\n  - {{name: in, listener: inbound, upstream: app, timeout: {{request: 2s}}}}\n{routes}"
            )
    return texts


def test_a_mesh_has_one_finding_for_each_place_and_service_at_the_end() -> None:
    specs = [load([completed(text)], {}).spec for text in mesh(5, 3)]
    found = Chain([spec for spec in specs if spec is not None], {})
    assert len(found.paths) == 3**5
    assert not found.has_more_paths
    findings = list(find_in_chain(found))
    assert [each.rule for each in findings].count("R102") == 3 * 3 * 3, "first routes that repeat, last services"
    assert [each.rule for each in findings].count("R103") <= 3 * 3 * 3


def test_paths_that_are_not_followed_are_told() -> None:
    specs = [load([completed(text)], {}).spec for text in mesh(7, 3)]
    found = Chain([spec for spec in specs if spec is not None], {})
    assert draw(found)[-1].startswith("only the first 500 paths were followed")
