"""Tests of the margins of any policies."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos import deep
from chaos.deep import alone, margins
from sidecar.commands import main
from sidecar.config.files import read

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
