"""Tests of the command line: output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos.cli import main
from chaos.scenario.files import SCENARIOS

ONE = str(SCENARIOS / "hard_down_dependency.yaml")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_the_scenarios_are_listed() -> None:
    code, output = run("list")
    assert code == 0
    assert len(output.splitlines()) == len(list(SCENARIOS.glob("*.yaml")))
    assert "A slow dependency uses up its callers' workers" in output


def test_the_schema_is_printed() -> None:
    code, output = run("schema")
    assert code == 0
    assert json.loads(output)["title"] == "Scenario"


def test_a_simulation_passes_and_writes_its_files(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("out.html", "out.xml", "out.json")]
    code, output = run("simulate", ONE, "--report", names[0], "--junit", names[1], "--json", names[2], "--seed", "3")
    assert code == 0, output
    assert "1 of 1 as expected" in output
    assert "seed 3" in output
    assert all(Path(name).stat().st_size > 500 for name in names)
    code, output = run("replay", names[2])
    assert code == 0
    assert "seed 3" in output


def test_without_the_decisive_policy_the_exit_code_is_1() -> None:
    code, output = run("simulate", ONE, "--arm", "sidecar", "--without-decisive")
    assert code == 1
    assert "FAIL hard_down_dependency" in output
    assert "goodput of product, during: 0.0%, wanted ≥ 99.0%" in output


@pytest.mark.parametrize("arguments", [("simulate", "nowhere.yaml"), ("list", "nowhere.yaml")])
def test_a_file_that_is_not_there_is_named(arguments: tuple[str, ...]) -> None:
    code, output = run(*arguments)
    assert code == 1
    assert "nowhere.yaml" in output


def test_a_file_that_is_not_a_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, what in (
        (b"{}", "is not a recording (KeyError)"),
        (b"[]", "is not a recording (TypeError)"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"results": []}', "has no runs"),
    ):
        path.write_bytes(content)
        assert run("replay", str(path)) == (1, f"{path}: {what}; name a file that was written by --json of a run\n")


def test_paths_without_a_scenario_are_named(tmp_path: Path) -> None:
    empty, directory = tmp_path / "empty.yaml", tmp_path / "directory"
    empty.touch()
    directory.mkdir()
    for path in (empty, directory):
        message = f"{path}: no scenario is there; name a *.yaml file or a directory of them\n"
        assert run("list", str(path)) == (1, message)
    assert run("list", "") == (2, "chaos list: PATHS: is empty; name a file or a directory\n")


def test_a_recording_of_an_unknown_scenario_is_named(tmp_path: Path) -> None:
    own, out = tmp_path / "own.yaml", str(tmp_path / "out.json")
    own.write_text(Path(ONE).read_text().replace("../policies", str(SCENARIOS.parent / "policies")))
    assert run("simulate", str(own), "--arm", "bare", "--json", out)[0] == 0
    code, output = run("replay", out)
    assert code == 1
    assert "has runs of own; add the file of that scenario" in output
    assert run("replay", out, str(own))[0] == 0


def test_a_choice_without_scenarios_is_refused() -> None:
    code, output = run("simulate", str(SCENARIOS / "bad_policy.yaml"), "--arm", "bare")
    assert code == 1
    assert "nothing to run with --arm bare: bad_policy has sidecar" in output
    code, output = run("simulate", str(SCENARIOS / "bad_policy.yaml"), "--without-decisive")
    assert code == 1
    assert "none of these scenarios names `decisive` policy blocks" in output


@pytest.mark.parametrize("option", ["--report", "--junit", "--json"])
def test_a_path_that_cannot_be_written_is_refused_before_the_run(option: str, tmp_path: Path) -> None:
    code, output = run("simulate", ONE, option, str(tmp_path / "nowhere" / "out"))
    assert code == 2
    assert "cannot be written; name a file in a directory that is there" in output
    assert "as expected" not in output


def test_the_margin_of_each_arm_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"bare": 0.0, "sidecar": 1.5}
    monkeypatch.setattr("chaos.margin.margin", lambda loaded, arm, seed: found[arm])
    code, output = run("margin", str(SCENARIOS / "metastable_overload.yaml"))
    assert code == 0
    assert output.splitlines() == [
        "metastable_overload, bare: does not recover",
        "metastable_overload, sidecar: recovers at up to 1.50 times the load",
    ]


def test_what_cannot_be_simulated_is_named() -> None:
    real = str(SCENARIOS / "collector_dead.yaml")
    code, output = run("simulate", ONE, real)
    assert code == 0, output
    assert "left out collector_dead: it needs real processes; use `chaos run " in output
    assert "1 of 1 as expected" in output
    code, output = run("simulate", real)
    assert code == 1
    assert "nothing to simulate" in output


def test_scenarios_without_the_arm_or_without_decisive_blocks_are_named() -> None:
    own = str(SCENARIOS / "bad_policy.yaml")
    assert "left out bad_policy: it has no arm bare, only sidecar" in run("simulate", ONE, own, "--arm", "bare")[1]
    output = run("simulate", ONE, own, "--arm", "sidecar", "--without-decisive")[1]
    assert "left out bad_policy: it names no `decisive` policy blocks" in output


def test_captured_services_are_left_out_where_namespaces_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = str(SCENARIOS / "captured_tcp.yaml")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: name)
    code, output = run("run", captured)
    assert code == 1
    assert "left out captured_tcp: needs root\n" in output
    assert "nothing to run: captured services need root" in output
    monkeypatch.setattr("shutil.which", lambda name: None if name == "nft" else name)
    assert "left out captured_tcp: needs nft\n" in run("run", captured)[1]


def test_envoy_is_not_simulated() -> None:
    code, output = run("simulate", ONE, "--arm", "envoy")
    assert code == 2
    assert "does not run in virtual time" in output
    code, output = run("simulate", ONE, "--arm", "all")
    assert code == 0
    assert "left out the arm envoy" in output


def test_the_result_says_which_line_did_it() -> None:
    assert "policies/hard_down_dependency.yaml:10" in run("simulate", ONE)[1]
