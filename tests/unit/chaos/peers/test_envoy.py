"""Tests of Envoy's configuration: made from every scenario's policies, and accepted by Envoy if it is installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chaos.peers import envoy
from chaos.scenario.files import SCENARIOS, Loaded, policies
from sidecar.config.files import Source
from sidecar.config.load import load as load_text
from tests.support import scenarios
from tests.unit.chaos.scenario.test_scenarios import Environment

COMPARED = [each for each in scenarios.ALL.values() if "envoy" in each.scenario.arms]


def made(loaded: Loaded, service: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[envoy.Peer, Any]:
    if envoy.find() is None:
        monkeypatch.setattr(envoy, "find", lambda: "envoy")
    for source in policies(loaded, service):
        (directory / Path(source.name).name).write_bytes(source.text)
    peer = envoy.prepare(directory, Environment(loaded))
    return peer, json.loads((directory / "envoy.json").read_text())


@pytest.mark.parametrize("loaded", COMPARED, ids=lambda loaded: loaded.name)
def test_every_scenario_has_a_configuration(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for service in loaded.scenario.policies:
        directory = tmp_path / service
        directory.mkdir()
        peer, document = made(loaded, service, directory, monkeypatch)
        assert peer.addresses.admin
        clusters = {cluster["name"] for cluster in document["static_resources"]["clusters"]}
        text = json.dumps(document)
        assert all(f'"cluster": "{name}"' in text for name in clusters)


def test_a_breaker_becomes_an_ejection_and_the_gap_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (loaded,) = [each for each in COMPARED if each.name == "slow_dependency"]
    peer, document = made(loaded, "shop", tmp_path, monkeypatch)
    (cluster,) = [c for c in document["static_resources"]["clusters"] if c["name"] == "payments:charge"]
    assert cluster["outlier_detection"]["base_ejection_time"] == "0.5s"
    assert cluster["common_lb_config"]["healthy_panic_threshold"]["value"] == 0
    assert any("a breaker is an ejected host" in gap for gap in peer.gaps)


def test_writes_are_retried_only_where_nothing_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (loaded,) = [each for each in COMPARED if each.name == "writes_under_resets"]
    _, document = made(loaded, "till", tmp_path, monkeypatch)
    outbound = next(x for x in document["static_resources"]["listeners"] if x["name"] == "outbound")
    manager = outbound["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    policies_by_guard = [(":method" in json.dumps(r["match"]), r["route"]["retry_policy"]["retry_on"]) for r in routes]
    assert [on for guarded, on in policies_by_guard if not guarded] == ["connect-failure", "connect-failure"]
    assert all("reset" in on for guarded, on in policies_by_guard if guarded)


@pytest.mark.skipif(envoy.find() is None, reason="Envoy is not installed")
def test_envoy_accepts_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (loaded,) = [each for each in COMPARED if each.name == "hard_down_dependency"]
    peer, _ = made(loaded, "shop", tmp_path, monkeypatch)
    done = subprocess.run(
        [*peer.argv[:3], "--mode", "validate"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_answer_of_several_parts_is_a_gap() -> None:
    text = (SCENARIOS.parent / "policies" / "profile.yaml").read_text()
    head = "version: 1\nlisteners: {inbound: {address: '127.0.0.1:0'}}\n"
    environ = {"USERS": "127.0.0.1:1", "OFFERS": "127.0.0.1:2"}
    loaded = load_text([Source("p.yaml", (head + text).encode())], environ)
    assert loaded.spec is not None
    config = envoy.Config(loaded.spec, {"inbound": 1, "admin": 2})
    document = json.dumps(config.document())
    assert config.gaps == ["one answer made of several parts"]
    assert '"direct_response": {"status": 501}' in document
