"""Tests of the margins of any policies."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos import deep
from chaos.cli import main as chaos
from chaos.deep import alone, margins, values_of, verdicts
from sidecar.commands import main
from sidecar.config.files import Source, read

RECOMMENDED = Path(__file__).parents[3] / "policies" / "recommended.yaml"


def test_a_route_stands_alone_before_the_simulated_service() -> None:
    route = {
        "name": "r",
        "upstream": "app",
        "cache": {},
        "timeout": {"request": "1s"},
        "authenticate": {"any_of": ["a"]},
    }
    document = {
        "upstreams": {"app": {"endpoints": ["http://a:80"], "tls": {}}, "b": {}},
        "routes": [{"name": "q"}, route],
    }
    made = alone(document, "r")
    assert made["routes"] == [
        {"name": "r", "upstream": "app", "timeout": {"request": "1s"}, "listener": "inbound", "match": {"path": "/buy"}}
    ]
    assert made["upstreams"] == {"app": {"endpoints": ["http://${APP}"], "policy": {}}}


def test_a_route_with_a_limit_recovers_at_a_higher_load_than_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "STEPS", 1)
    found = margins(read(str(RECOMMENDED)), {}, ["orders", "payments"])
    assert found["orders"] > found["payments"] > 0


def test_the_command_prints_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "margins", lambda _, __, names: dict.fromkeys(names, 0.5))
    result = CliRunner().invoke(main, ["lint", "--deep", str(RECOMMENDED)])
    assert result.exit_code == 0
    assert result.stderr == "route orders: recovers from an overload at up to 50% of what its service can do\n"


def test_diff_tells_the_change_of_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.9, 0.6, 0.6, 0.9])
    monkeypatch.setattr(deep, "margins", lambda _, __, names: dict.fromkeys(names, next(found)))
    arguments = ["diff", "--deep", str(RECOMMENDED), str(RECOMMENDED)]
    words = "route orders: recovers from an overload at up to"
    worse, better = (CliRunner().invoke(main, arguments) for _ in range(2))
    assert worse.output == f"! {words} 60% of what its service can do (was 90%)\n"
    assert better.output == f"  {words} 90% of what its service can do (was 60%)\n"


# ----- cascades

BARE = b"""
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}, outbound: {address: "127.0.0.1:15001"}}
upstreams:
  app: {endpoints: ["http://127.0.0.1:9000"]}
  payments: {endpoints: ["http://payments:8080"]}
routes:
  - {name: orders, listener: inbound, upstream: app, timeout: {request: 30s}}
  - {name: pay, listener: outbound, upstream: payments, timeout: {request: 30s}, retry: {max_attempts: 5, on: [503]}}
"""


def test_the_values_are_those_of_the_first_route_of_each_direction() -> None:
    document = {
        "policies": {"one": {"timeout": {"request": "1s"}, "cache": {}}},
        "upstreams": {
            "app": {"endpoints": ["http://a:80"], "concurrency": {"max": 9}, "rate_limit": []},
            "other": {"endpoints": ["http://b:80"], "tls": {}, "ejection": {}, "policy": {"fault": {}, "hedge": {}}},
        },
        "routes": [
            {
                "name": "call",
                "listener": "outbound",
                "upstream": "other",
                "match": {"host": "b"},
                "retry": {},
                "quota": [],
            },
            {"name": "serve", "listener": "inbound", "upstream": "app", "use": ["one"], "authenticate": {}},
            {"name": "later", "listener": "inbound", "upstream": "app", "hedge": {}},
        ],
    }
    found = values_of(document)
    assert (found.serve, found.call) == ({"use": ["one"]}, {"retry": {}})
    assert (found.app, found.upstream) == ({"concurrency": {"max": 9}}, {"ejection": {}, "policy": {"hedge": {}}})
    assert found.layers == {"policies": {"one": {"timeout": {"request": "1s"}}}, "defaults": {}}


def test_recommended_values_contain_the_cascades_and_bare_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "CASCADES", ("retry_storm", "slow_dependency"))
    assert [each.missed for each in verdicts(read(str(RECOMMENDED)), {})] == [[], []]
    bare = verdicts([Source("bare.yaml", BARE)], {})
    assert [each.scenario for each in bare if each.missed] == ["retry_storm", "slow_dependency"]
    assert "wanted" in bare[0].missed[0]


def test_values_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "CASCADES", ("retry_storm",))
    text = BARE.replace(b"upstream: payments,", b"upstream: payments, concurrency: {max: 2, queue: 1, by: x},")
    (found,) = verdicts([Source("bare.yaml", text)], {})
    assert len(found.missed) == 1
    assert found.missed[0].startswith("could not be simulated: ")


def test_the_command_prints_verdicts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [deep.Contained("one", "One", []), deep.Contained("two", "Two", ["goodput: 3%, wanted 9%"])]
    monkeypatch.setattr(deep, "verdicts", lambda *_: found)
    result = CliRunner().invoke(chaos, ["verdicts", str(RECOMMENDED)])
    assert result.output.splitlines()[1:] == ["two                  goodput: 3%, wanted 9%", "1 of 2 contained"]
    assert '"missed": []' in CliRunner().invoke(chaos, ["verdicts", "--json", str(RECOMMENDED)]).output
    (tmp_path / "p.yaml").write_text("version: 1\nroutes: [{nam: x}]\n")
    assert "p.yaml:2" in CliRunner().invoke(chaos, ["verdicts", str(tmp_path / "p.yaml")]).output
