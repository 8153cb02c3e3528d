"""Tests of `sidecar lint` and of the rules in `sidecar check`: texts, documents, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.lint.known import every_rule
from tests.unit.lint.examples import completed

FAILING = (
    "routes: [{name: r, upstream: app, timeout: {request: 9s}, retry: {max_attempts: 8}}, "
    "{name: s, match: {path: /s}, upstream: app}]"
)
NOTED = "routes: [{name: r, upstream: app}]"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "p.yaml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_findings_are_lines_with_a_summary(policy: Path) -> None:
    policy.write_bytes(completed(FAILING).text)
    result = run("lint", str(policy))
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0].startswith(f"{policy}:4:81: routes.r.retry.max_attempts: warning: R024: makes up to 8 calls")
    assert lines[1].startswith(f"{policy}:4:86: routes.s: note: R007: ")
    assert lines[2] == f"{policy}: 1 warning, 1 note"


def test_notes_do_not_fail(policy: Path) -> None:
    policy.write_bytes(completed(NOTED).text)
    assert run("lint", str(policy)).exit_code == 0


def test_check_has_the_warnings_and_never_fails_for_them(policy: Path) -> None:
    policy.write_bytes(completed(FAILING).text)
    result = run("check", str(policy))
    assert result.exit_code == 0
    assert [line.split(": ")[2:4] for line in result.stdout.splitlines()[:-1]] == [["warning", "R024"]]
    problems = json.loads(run("check", "--json", str(policy)).stdout)["problems"]
    assert [(each["severity"], each["rule"]) for each in problems] == [("warning", "R024")]


def test_what_loading_and_a_rule_find_is_printed_once(policy: Path) -> None:
    policy.write_bytes(completed("routes: [{name: r, upstream: app, timeout: {request: 2s, attempt: 3s}}]").text)
    result = run("check", str(policy))
    assert result.stdout.count("has no effect") == 1
    assert "warning: R002: has no effect" in result.stdout


def test_problems_of_loading_come_alone(policy: Path) -> None:
    policy.write_bytes(completed(FAILING.replace("max_attempts", "max_atempts")).text)
    result = run("lint", str(policy))
    assert result.exit_code == 1
    assert "is not a known key" in result.stdout
    assert "R024" not in result.stdout
    assert result.stdout.endswith(f"{policy}: 1 problem\n")
    assert json.loads(run("lint", "--json", str(policy)).stdout)["ok"] is False


def test_document(policy: Path) -> None:
    policy.write_bytes(completed(FAILING + "  # lint: ignore R024: tried").text)
    document = json.loads(run("lint", "--json", str(policy)).stdout)
    assert document["ok"] is True
    assert [(each["rule"], each["severity"], each["suppressed"]) for each in document["findings"]] == [
        ("R007", "note", None), ("R024", "warning", "tried"),
    ]  # fmt: skip
    assert document["findings"][1]["anchor"] == "lint.md#r024"


def test_sarif_log(policy: Path) -> None:
    policy.write_bytes(completed(FAILING + "  # lint: ignore R024: tried").text)
    result = run("lint", "--sarif", str(policy))
    assert result.exit_code == 0
    log: dict[str, Any] = json.loads(result.stdout)
    (only,) = log["runs"]
    rules = only["tool"]["driver"]["rules"]
    assert log["version"] == "2.1.0"
    for each in only["results"]:
        assert rules[each["ruleIndex"]]["id"] == each["ruleId"]
        assert each["level"] in ("error", "warning", "note")
        assert each["locations"][0]["physicalLocation"]["region"]["startLine"] == 4
    by_rule = {each["ruleId"]: each for each in only["results"]}
    assert by_rule["R024"]["suppressions"] == [{"kind": "inSource", "justification": "tried"}]
    assert "suppressions" not in by_rule["R007"]


def test_traffic_file(policy: Path, tmp_path: Path) -> None:
    rule = every_rule()["R040"]
    policy.write_bytes(completed(rule.failing).text)
    traffic = tmp_path / "traffic.yaml"
    traffic.write_text(rule.traffic)
    assert "R040" not in run("lint", str(policy)).stdout
    assert "3/s (stated) is 30 calls in 10s" in run("lint", "--traffic", str(traffic), str(policy)).stdout
    traffic.write_text("routes: {order: {rate: 3}}")
    wrong = run("lint", "--traffic", str(traffic), str(policy))
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith(f"{traffic}:1:24: routes.order.rate: ")


def test_wrong_command_lines(policy: Path) -> None:
    assert run("lint").exit_code == 2
    assert run("lint", "--json", "--sarif", str(policy)).exit_code == 2
    assert run("lint", str(policy)).exit_code == 1  # there is no such file
