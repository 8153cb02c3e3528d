"""Scenarios in containers of a fake engine: the commands that it gets, and the verdicts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos.battery import run
from chaos.cli import main
from chaos.cluster.containers import IMAGE, Containers
from chaos.scenario.files import SCENARIOS
from tests.e2e.chaos import engine
from tests.e2e.chaos.test_real_runs import shortened


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a `docker` on the PATH whose containers are processes of this machine; return its directory."""
    place = tmp_path / "place"
    place.mkdir()
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{engine.__file__}" "{place}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Containers, "host", lambda *_: "127.0.0.1")
    return place


async def test_a_run_in_containers_passes_and_leaves_nothing(place: Path) -> None:
    result = await run(shortened("hard_down_dependency"), ["bare", "sidecar"], 1, network="shop_default")
    assert result.passed, [(arm.name, [v for v in arm.verdicts if not v.passed]) for arm in result.arms]
    log = [line.split() for line in (place / "log").read_text().splitlines()]
    started = [words[words.index("--name") + 1] for words in log if words[0] == "run"]
    assert all(words[words.index("--network") + 1] == "shop_default" for words in log if words[0] == "run")
    killed = [words[1] for words in log if words[0] == "kill"]
    assert sorted(name.split("-", 2)[2] for name in killed) == ["bare-recommendations", "sidecar-recommendations"]
    assert all(started.count(name) == 2 for name in killed), "what was killed has to come back"
    removed = {name for words in log if words[0] == "rm" for name in words[2:]}
    assert removed == set(started)


def test_image_and_network_are_those_of_the_compose_file() -> None:
    text = (Path(engine.__file__).parents[3] / "docker-compose.yml").read_text()
    assert f"\n  image: {IMAGE}\n" in text
    assert "\nname: shop\n" in text, "the default network of the project `shop` is shop_default"
    assert "\nnetworks:" not in text


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["run", "--network", "shop_default", str(SCENARIOS / "load_spike.yaml")])
    assert result.exit_code == 1
    assert "containers need docker or podman on the PATH" in result.output


def test_scenarios_that_containers_cannot_run_are_named(place: Path) -> None:
    names = str(SCENARIOS / "name_service_down.yaml")
    result = CliRunner().invoke(main, ["run", "--network", "shop_default", names])
    assert "left out name_service_down: in containers the engine resolves names" in result.output
    assert result.exit_code == 1
    result = CliRunner().invoke(
        main, ["run", "--network", "shop_default", "--arm", "envoy", str(SCENARIOS / "load_spike.yaml")]
    )
    assert result.exit_code == 2
    assert "Envoy is not in the image" in result.output
    assert not (place / "log").exists()
